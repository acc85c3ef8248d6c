package toolchain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// goTool is built from the Go module local/tools/NAME, which pins its dependencies. Each tool has a module of its own,
// because some need versions that others reject.
type goTool struct {
	source     string   // package to build; default the module's own main package
	executable string   // its file name; default the tool's name
	links      []string // more names under which a multi-call binary is started
	ldflags    string   // in addition to -s -w
	cgo        bool
	needs      []string          // Debian packages that the build needs
	headers    map[string]string // folder on the include path → module that has those headers
	embeds     embeds
}

// embeds are files of a dependency that the main package embeds: name in the main package → path in the module.
// Embedding cannot reach into another module, and a repository should not have copies of megabytes that must fit a
// version. So the build overlays them.
type embeds struct {
	module string
	files  map[string]string
}

func (g goTool) executableOf(t tool) string {
	if g.executable != "" {
		return g.executable
	}
	return string(t.name)
}

func (g goTool) find(t tool) (string, error) {
	final, err := g.folderOf(t)
	if err != nil || !present(final) {
		return "", err
	}
	return final, nil
}

func (g goTool) folderOf(t tool) (string, error) {
	module, err := moduleFolder(t)
	if err != nil {
		return "", err
	}
	key, err := g.key(t, module)
	if err != nil {
		return "", err
	}
	return t.folder(t.version, key)
}

// key covers the module's files, except its tests, and the whole recipe.
func (g goTool) key(t tool, module string) (string, error) {
	key := newDigest(runtime.Version(), compilerFlags, t.version, g)
	if err := addFolder(key, module, module); err != nil {
		return "", err
	}
	return key.String(), nil
}

func moduleFolder(t tool) (string, error) {
	sources, err := sourceFolder()
	module := t.name
	if other, ok := moduleOf[t.name]; ok {
		module = other
	}
	return filepath.Join(sources, "tools", string(module)), err
}

// Sources returns the folder in Go's module cache with the sources of a module that a tool is built from, for files
// other than code. It downloads them if necessary.
func Sources(ctx context.Context, n Name, module string) (string, error) {
	t, err := find(n)
	if err != nil {
		return "", err
	}
	folder, err := moduleFolder(t)
	if err != nil {
		return "", err
	}
	return dependencyFolder(ctx, folder, module)
}

func (g goTool) make(j job, dir string) (string, error) {
	// Compute the key before the build, so that a source that changes meanwhile is built again.
	final, err := g.folderOf(j.tool)
	if err != nil {
		return "", err
	}
	if err := ensurePackages(j.ctx, j.step, g.needs); err != nil {
		return "", err
	}
	module, err := moduleFolder(j.tool)
	if err != nil {
		return "", err
	}
	build := goBuild{
		folder:  module,
		source:  g.source,
		output:  filepath.Join(dir, g.executableOf(j.tool)),
		ldflags: g.ldflags,
		cgo:     g.cgo,
	}
	if build.include, err = g.includeFolder(j, module); err != nil {
		return "", err
	}
	if build.overlay, err = g.overlay(j, module); err != nil {
		return "", err
	}
	if build.overlay != "" {
		defer os.Remove(build.overlay)
	}
	if err := build.run(j); err != nil {
		return "", err
	}
	for _, link := range g.links {
		if err := os.Symlink(filepath.Base(build.output), filepath.Join(dir, link)); err != nil {
			return "", fmt.Errorf("naming %s: %w", link, err)
		}
	}
	return final, nil
}

// includeFolder returns a folder with the headers that the tool needs, or "". Its path is on the compilers' command
// lines, and so in the keys of Go's build cache. It is the same for every checkout: otherwise each would compile
// everything again.
func (g goTool) includeFolder(j job, module string) (string, error) {
	if len(g.headers) == 0 {
		return "", nil
	}
	cache, err := CacheFolder()
	if err != nil {
		return "", err
	}
	include := filepath.Join(cache, "headers", string(j.tool.name))
	if err := os.MkdirAll(include, 0o755); err != nil {
		return "", fmt.Errorf("making the folder of headers: %w", err)
	}
	for folder, path := range g.headers {
		found, err := dependencyFolder(j.ctx, module, path)
		if err != nil {
			return "", err
		}
		link := filepath.Join(include, folder)
		if err := os.Remove(link); err != nil && !os.IsNotExist(err) {
			return "", fmt.Errorf("replacing an include folder: %w", err)
		}
		if err := os.Symlink(found, link); err != nil {
			return "", fmt.Errorf("making an include folder: %w", err)
		}
	}
	return include, nil
}

// overlay writes a file for go build -overlay if the tool embeds files, and returns its path or "".
func (g goTool) overlay(j job, module string) (string, error) {
	if len(g.embeds.files) == 0 {
		return "", nil
	}
	from, err := dependencyFolder(j.ctx, module, g.embeds.module)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for name, path := range g.embeds.files {
		replace[filepath.Join(module, name)] = filepath.Join(from, path)
	}
	file, err := os.CreateTemp("", "overlay-*.json")
	if err != nil {
		return "", fmt.Errorf("writing the build overlay: %w", err)
	}
	err = json.NewEncoder(file).Encode(map[string]any{"Replace": replace})
	if err := errors.Join(err, file.Close()); err != nil {
		return "", fmt.Errorf("writing the build overlay %s: %w", file.Name(), err)
	}
	return file.Name(), nil
}
