package toolchain

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"ollama-k8s/local/internal/toolchain/sharedlibs"
)

// debianTool comes from Debian packages of a newer suite than the machine's. They are not installed: their programs and
// libraries, the C library included, are unpacked into a folder root, which is also the root of an image.
type debianTool struct {
	packages []string          // the version of the first one is the tool's version
	series   string            // wanted versions, as in apt_preferences
	programs map[string]string // name of a wrapper → program in root
}

//go:embed debian
var debianFiles embed.FS

// debianTemplates are the debianFiles that take values.
var debianTemplates = template.Must(template.ParseFS(debianFiles, "debian/*.tmpl"))

// key does not cover the version: only a request tells which one Debian has, and a version that is already unpacked is
// good enough.
func (d debianTool) key() string {
	key := newDigest(d)
	entries, err := fs.Glob(debianFiles, "debian/*.tmpl")
	for _, name := range entries {
		var text []byte
		if text, err = debianFiles.ReadFile(name); err != nil {
			break
		}
		key.add(name, string(text))
	}
	if err != nil {
		panic(fmt.Sprintf("reading an embedded file: %v", err))
	}
	return key.String()
}

// find returns the newest folder that has been unpacked.
func (d debianTool) find(t tool) (string, error) {
	pattern, err := t.folder("*", d.key())
	if err != nil {
		return "", err
	}
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		return "", err
	}
	return slices.MaxFunc(found, func(a, b string) int {
		infoA, errA := os.Stat(a)
		infoB, errB := os.Stat(b)
		if errA != nil || errB != nil {
			return 0
		}
		return infoA.ModTime().Compare(infoB.ModTime())
	}), nil
}

func (d debianTool) make(j job, dir string) (string, error) {
	archives, err := os.MkdirTemp(dir, "archives-*")
	if err != nil {
		return "", fmt.Errorf("making a folder for packages: %w", err)
	}
	defer os.RemoveAll(archives)
	unpacked, err := os.MkdirTemp(dir, "unpacked-*")
	if err != nil {
		return "", fmt.Errorf("making a folder for unpacked packages: %w", err)
	}
	defer os.RemoveAll(unpacked)

	if err := d.download(j, archives); err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(archives, "*.deb"))
	if err != nil {
		return "", fmt.Errorf("listing downloaded packages: %w", err)
	}
	version := ""
	for i, file := range files {
		j.step.Detail("unpacking package %d of %d", i+1, len(files))
		extract := exec.CommandContext(j.ctx, "dpkg-deb", "--extract", file, unpacked)
		if out, err := extract.CombinedOutput(); err != nil {
			return "", fmt.Errorf("unpacking %s: %w: %s", filepath.Base(file), err, out)
		}
		if strings.HasPrefix(filepath.Base(file), d.packages[0]+"_") {
			out, err := exec.CommandContext(j.ctx, "dpkg-deb", "--field", file, "Version").Output()
			if err != nil {
				return "", fmt.Errorf("reading the version of %s: %w", filepath.Base(file), err)
			}
			version = strings.TrimSpace(string(out))
		}
	}
	if version == "" {
		return "", fmt.Errorf("apt-get downloaded no package %s", d.packages[0])
	}
	version = version[strings.Index(version, ":")+1:] // without an epoch
	for name, program := range d.programs {
		if err := assemble(unpacked, dir, name, program); err != nil {
			return "", fmt.Errorf("assembling %s: %w", name, err)
		}
	}
	return j.tool.folder(version, d.key())
}

// assemble copies a program and its libraries from unpacked to dir/root, and writes the wrapper dir/name that starts
// it.
func assemble(unpacked, dir, name, program string) error {
	// glibc loads libgcc_s when a thread ends itself, and aborts if it is missing.
	needs, err := sharedlibs.Of(unpacked, program, "libgcc_s.so.1")
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "root")
	for _, path := range append([]string{program}, needs.Libraries...) {
		if err := copyFile(filepath.Join(unpacked, path), filepath.Join(root, path)); err != nil {
			return err
		}
	}
	if needs.Loader == "" || len(needs.Libraries) == 0 {
		return errors.New("it is a static program: it needs no wrapper")
	}
	// Debian unpacks /lib64 to /usr/lib64, and another package has the link.
	loader := filepath.Join(unpacked, needs.Loader)
	if _, err := os.Stat(loader); err != nil {
		loader = filepath.Join(unpacked, "usr", needs.Loader)
	}
	if err := copyFile(loader, filepath.Join(root, needs.Loader)); err != nil {
		return err
	}
	wrapper, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return fmt.Errorf("writing the wrapper: %w", err)
	}
	values := struct{ Program, Loader, Libraries string }{
		program, needs.Loader, filepath.Dir(needs.Libraries[0]),
	}
	err = debianTemplates.ExecuteTemplate(wrapper, "wrapper.sh.tmpl", values)
	if err := errors.Join(err, wrapper.Close()); err != nil {
		return fmt.Errorf("writing the wrapper: %w", err)
	}
	return nil
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("copying a file: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("copying %s: %w", from, err)
	}
	if err := os.WriteFile(to, content, 0o755); err != nil {
		return fmt.Errorf("copying %s: %w", from, err)
	}
	return nil
}
