package toolchain

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// installedRandomPlugin returns Pulumi's own random plugin if the machine has it, on PATH or among Pulumi's plugins, or
// "". The stand-in in our cache does not count, although it is on the engine's PATH.
func installedRandomPlugin() string {
	const executable = "pulumi-resource-random"
	ours, _ := CacheFolder()
	isReal := func(path string) bool {
		info, err := os.Stat(path)
		return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 &&
			(ours == "" || !strings.HasPrefix(path, ours+string(filepath.Separator)))
	}
	if path, err := exec.LookPath(executable); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil && isReal(path) {
			return path
		}
	}
	home := os.Getenv("PULUMI_HOME")
	if home == "" {
		user, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		home = filepath.Join(user, ".pulumi")
	}
	found, err := filepath.Glob(filepath.Join(home, "plugins", "resource-random-v*", executable))
	if err != nil {
		return ""
	}
	// Any of several will do: each serves everything that the program asks for.
	if i := slices.IndexFunc(found, isReal); i >= 0 {
		return found[i]
	}
	return ""
}
