package toolchain

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

const ownModule = "ollama-k8s/local"

// sourceFolder is the folder of this module, which has the sources of all tools. They are modules of their own, so they
// cannot be embedded.
var sourceFolder = sync.OnceValues(func() (string, error) {
	// The folder where this file was compiled, unless the build trimmed paths or the folder has moved.
	if _, file, _, ok := runtime.Caller(0); ok {
		if dir := filepath.Join(filepath.Dir(file), "..", ".."); isOwnModule(dir) {
			return dir, nil
		}
	}
	work, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the sources of the tools: %w", err)
	}
	for dir := work; ; dir = filepath.Dir(dir) {
		for _, candidate := range []string{dir, filepath.Join(dir, "local")} {
			if isOwnModule(candidate) {
				return candidate, nil
			}
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("finding the sources of the tools: no go.mod of module %s in or above %s: "+
				"run it inside the repository", ownModule, work)
		}
	}
})

func isOwnModule(dir string) bool {
	file, err := os.Open(filepath.Join(dir, "go.mod"))
	if err != nil {
		return false
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if module, ok := strings.CutPrefix(lines.Text(), "module "); ok {
			return strings.TrimSpace(module) == ownModule
		}
	}
	return false
}
