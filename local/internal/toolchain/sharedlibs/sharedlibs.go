// Package sharedlibs finds the shared libraries that a program needs, so that a folder or an image contains only these.
package sharedlibs

import (
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Program lists the files that a dynamically linked program needs besides itself.
type Program struct {
	// Loader is the path of the program's dynamic loader, in the root and as the program names it, such as
	// /lib64/ld-linux-x86-64.so.2. It is empty for a static program, which needs nothing.
	Loader string
	// Libraries are the paths of all libraries, in the root, sorted.
	Libraries []string
}

// folders are the folders that Debian's dynamic loader searches, for any architecture.
var folders = []string{"usr/lib/*-linux-gnu", "lib/*-linux-gnu", "usr/lib64", "lib64", "usr/lib", "lib"}

// Of finds what the program at path needs. path is in root, and so are the results; symbolic links resolve against the
// machine's own root. Of also adds the libraries named in also, with theirs, if root has them: a program may load them
// while it runs.
func Of(root, path string, also ...string) (Program, error) {
	file, err := elf.Open(filepath.Join(root, path))
	if err != nil {
		return Program{}, fmt.Errorf("reading program %s: %w", path, err)
	}
	defer file.Close()
	program := Program{Loader: loader(file)}
	if program.Loader == "" {
		return program, nil
	}
	needed, err := file.ImportedLibraries()
	if err != nil {
		return Program{}, fmt.Errorf("reading the libraries of %s: %w", path, err)
	}
	for _, name := range also {
		if find(root, name) != "" {
			needed = append(needed, name)
		}
	}
	seen := map[string]bool{filepath.Base(program.Loader): true}
	for len(needed) > 0 {
		name := needed[0]
		needed = needed[1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		library := find(root, name)
		if library == "" {
			return Program{}, fmt.Errorf("%s needs library %s, and none of %s in %s has it",
				path, name, strings.Join(folders, ", "), root)
		}
		program.Libraries = append(program.Libraries, library)
		more, err := imported(filepath.Join(root, library))
		if err != nil {
			return Program{}, err
		}
		needed = append(needed, more...)
	}
	slices.Sort(program.Libraries)
	return program, nil
}

func loader(file *elf.File) string {
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP {
			path, err := io.ReadAll(segment.Open())
			if err != nil {
				return ""
			}
			return strings.TrimRight(string(path), "\x00")
		}
	}
	return ""
}

func imported(path string) ([]string, error) {
	file, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading library %s: %w", path, err)
	}
	defer file.Close()
	names, err := file.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("reading the libraries of %s: %w", path, err)
	}
	return names, nil
}

// find returns the path of a library in root, or "".
func find(root, name string) string {
	for _, folder := range folders {
		found, err := filepath.Glob(filepath.Join(root, folder, name))
		if err != nil || len(found) == 0 {
			continue
		}
		if info, err := os.Stat(found[0]); err == nil && info.Mode().IsRegular() {
			return strings.TrimPrefix(found[0], strings.TrimSuffix(root, "/"))
		}
	}
	return ""
}
