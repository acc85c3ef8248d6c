package images

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"ollama-k8s/local/internal/toolchain/sharedlibs"
)

// rootfs is the content of an image: entries by path, without the leading slash.
type rootfs map[string]entry

// entry is a folder, a symbolic link, a file of this machine, or a small file given by its content. All belong to root
// and have no time.
type entry struct {
	mode    fs.FileMode
	link    string // target of a symbolic link
	from    string // path on this machine
	content []byte
}

func (r rootfs) folder(to string, mode fs.FileMode) {
	r[clean(to)] = entry{mode: fs.ModeDir | mode}
}

func (r rootfs) link(target, to string) {
	r[clean(to)] = entry{mode: fs.ModeSymlink | 0o777, link: target}
}

func (r rootfs) file(from, to string, mode fs.FileMode) {
	r[clean(to)] = entry{mode: mode, from: from}
}

func (r rootfs) text(content []byte, to string) {
	r[clean(to)] = entry{mode: 0o644, content: content}
}

// program adds an executable of this machine, with its shared libraries and its loader at the paths where it looks for
// them.
func (r rootfs) program(from, to string) error {
	needs, err := sharedlibs.Of("/", from)
	if err != nil {
		return err
	}
	r.file(from, to, 0o755)
	for _, library := range needs.Libraries {
		r.file(library, library, 0o755)
	}
	if needs.Loader != "" {
		r.file(needs.Loader, needs.Loader, 0o755)
	}
	return nil
}

// tree adds all files in a folder of this machine.
func (r rootfs) tree(from string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("reading %s: %w", from, err)
		}
		to, err := filepath.Rel(from, p)
		if err != nil {
			return fmt.Errorf("reading %s: %w", from, err)
		}
		if d.Type().IsRegular() {
			r.file(p, to, 0o755)
		}
		return nil
	})
}

func clean(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

// key identifies an image without reading large files: a file of this machine counts by its path, size and time. Each
// tool is in a folder that is named by the tool's own key.
func (r rootfs) key(values ...any) (string, error) {
	hash := sha256.New()
	if err := json.NewEncoder(hash).Encode(values); err != nil {
		return "", fmt.Errorf("identifying the image: %w", err)
	}
	for _, to := range slices.Sorted(maps.Keys(r)) {
		e := r[to]
		_, _ = fmt.Fprintf(hash, "%q %v %q %q\n", to, e.mode, e.link, e.content)
		if e.from == "" {
			continue
		}
		info, err := os.Stat(e.from)
		if err != nil {
			return "", fmt.Errorf("looking at a file of the image: %w", err)
		}
		_, _ = fmt.Fprintf(hash, "%q %d %d\n", e.from, info.Size(), info.ModTime().UnixNano())
	}
	return hex.EncodeToString(hash.Sum(nil)[:6]), nil
}

// write writes the entries and their folders as a tar file, sorted.
func (r rootfs) write(w io.Writer) error {
	all := maps.Clone(r)
	for to := range r {
		for dir := path.Dir(to); dir != "."; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all.folder(dir, 0o755)
			}
		}
	}
	archive := tar.NewWriter(w)
	for _, to := range slices.Sorted(maps.Keys(all)) {
		if err := all[to].write(archive, to); err != nil {
			return fmt.Errorf("adding /%s: %w", to, err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("writing the layer: %w", err)
	}
	return nil
}

func (e entry) write(archive *tar.Writer, to string) error {
	header := &tar.Header{Name: to, Mode: int64(e.mode.Perm())}
	if e.mode&fs.ModeSticky != 0 {
		header.Mode |= 0o1000
	}
	switch {
	case e.mode.IsDir():
		header.Typeflag, header.Name = tar.TypeDir, to+"/"
		return archive.WriteHeader(header)
	case e.link != "":
		header.Typeflag, header.Linkname = tar.TypeSymlink, e.link
		return archive.WriteHeader(header)
	case e.from == "":
		header.Typeflag, header.Size = tar.TypeReg, int64(len(e.content))
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		_, err := archive.Write(e.content)
		return err
	}
	file, err := os.Open(e.from)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	header.Typeflag, header.Size = tar.TypeReg, info.Size()
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, file)
	return err
}
