package toolchain

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// ownCommand is built from this module's cmd/NAME. Its key covers only the packages that it consists of, so that work
// on other parts does not rebuild it.
type ownCommand struct{}

func (o ownCommand) find(t tool) (string, error) {
	final, err := o.folderOf(t)
	if err != nil || !present(final) {
		return "", err
	}
	return final, nil
}

func (ownCommand) folderOf(t tool) (string, error) {
	key, err := ownKey(t.name)
	if err != nil {
		return "", err
	}
	return t.folder(t.version, key)
}

func (o ownCommand) make(j job, dir string) (string, error) {
	final, err := o.folderOf(j.tool)
	if err != nil {
		return "", err
	}
	sources, err := sourceFolder()
	if err != nil {
		return "", err
	}
	return final, goBuild{
		folder: sources,
		source: "./cmd/" + string(j.tool.name),
		output: filepath.Join(dir, string(j.tool.name)),
	}.run(j)
}

// ownKeys caches the keys of this run: computing one takes a second.
var ownKeys sync.Map

func ownKey(n Name) (string, error) {
	once, _ := ownKeys.LoadOrStore(n, sync.OnceValues(func() (string, error) { return workOutOwnKey(n) }))
	return once.(func() (string, error))()
}

func workOutOwnKey(n Name) (string, error) {
	sources, err := sourceFolder()
	if err != nil {
		return "", err
	}
	// The folders of this module's packages, and the versions of the other modules.
	const format = `{{if not .Standard}}{{if .Module.Main}}{{.Dir}}{{else}}` +
		`{{.Module.Path}}@{{.Module.Version}}{{end}}{{end}}`
	cmd := goCommand(context.Background(), sources, "list", "-deps", "-f", format, "./cmd/"+string(n))
	cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("listing what cmd/%s is made of: %w: %s", n, err, &problems)
	}
	parts := strings.Fields(string(out))
	slices.Sort(parts)
	key := newDigest(runtime.Version(), compilerFlags, n)
	for _, part := range slices.Compact(parts) {
		if !filepath.IsAbs(part) {
			key.add(part)
			continue
		}
		if err := addFolder(key, sources, part); err != nil {
			return "", err
		}
	}
	return key.String(), nil
}

// addFolder adds the files in a package's folder and below, because packages embed files, except tests and notes.
func addFolder(key *digest, sources, folder string) error {
	return filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("reading the sources in %s: %w", folder, err)
		}
		if entry.IsDir() {
			if entry.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() || strings.HasSuffix(path, "_test.go") || filepath.Ext(path) == ".md" {
			return nil
		}
		name, err := filepath.Rel(sources, path)
		if err != nil {
			return fmt.Errorf("naming a source file: %w", err)
		}
		return key.addFile(name, path)
	})
}
