package toolchain

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// keyring verifies all of Debian's suites. Every Debian machine has it.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// download downloads the packages and all their dependencies into archives, with an apt configuration of our own: see
// debian/apt.conf.tmpl.
func (d debianTool) download(j job, archives string) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("downloading Debian packages %s: %w: the embedded cluster needs a Debian machine",
			strings.Join(d.packages, ", "), err)
	}
	mirror, err := mirror(j)
	if err != nil {
		return err
	}
	cache, err := CacheFolder()
	if err != nil {
		return err
	}
	// The package lists stay for the next tool, so only one run at a time may use them.
	unlock, err := Lock(j.ctx, "apt")
	if err != nil {
		return err
	}
	defer unlock()
	folder := filepath.Join(cache, "apt")
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(folder, sub), 0o755); err != nil {
			return fmt.Errorf("making a folder for apt: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Join(archives, "partial"), 0o755); err != nil {
		return fmt.Errorf("making a folder for packages: %w", err)
	}
	values := map[string]any{
		"Folder": folder, "Mirror": mirror, "Keyring": keyring, "Packages": d.packages, "Series": d.series,
	}
	for _, name := range []string{"apt.conf", "debian.sources", "preferences"} {
		if err := writeTemplate(filepath.Join(folder, name), name+".tmpl", values); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "status"), nil, 0o644); err != nil {
		return fmt.Errorf("writing an empty package status: %w", err)
	}
	environment := []string{"APT_CONFIG=" + filepath.Join(folder, "apt.conf")}
	j.step.Detail("updating the lists of packages")
	if err := aptGet(j.ctx, environment, "update"); err != nil {
		return err
	}
	j.step.Detail("downloading packages")
	args := []string{"--option=Dir::Cache::Archives=" + archives, "install", "--yes", "--download-only"}
	return aptGet(j.ctx, environment, append(args, d.packages...)...)
}

// mirror returns the source of the machine's own packages: it has the newer suites as well.
func mirror(j job) (string, error) {
	uri, err := knownMirror(j)
	if err != nil || uri != "" {
		return uri, err
	}
	// Only the package lists tell apt which packages a mirror has, and minimal machines come without any.
	j.step.Detail("updating the machine's lists of packages")
	if err := aptGet(j.ctx, nil, "update"); err != nil {
		return "", err
	}
	if uri, err = knownMirror(j); err != nil || uri != "" {
		return uri, err
	}
	return "", errors.New("apt knows no mirror of Debian's packages: add one to the machine's apt sources")
}

// knownMirror returns the mirror in apt's current package lists, or "".
func knownMirror(j job) (string, error) {
	// This prints one line for each package list that the machine's apt uses.
	cmd := exec.CommandContext(j.ctx, "apt-get", "indextargets",
		"--format", "$(ORIGIN) $(RELEASE) $(REPO_URI)", "Created-By: Packages")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("asking apt for the machine's mirror: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] != "Debian" {
			continue // from another publisher, or never downloaded
		}
		if suite := fields[1]; !strings.Contains(suite, "-") { // neither updates nor security
			return fields[2], nil
		}
	}
	return "", nil
}

func writeTemplate(path, name string, values any) error {
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	err = debianTemplates.ExecuteTemplate(file, name, values)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
