package toolchain

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/gofrs/flock"
)

// CacheFolder holds everything that can be built again: the tools and, in its folder images, the images. It is
// $XDG_CACHE_HOME/ollama-k8s, by default ~/.cache/ollama-k8s.
func CacheFolder() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding a folder for the caches: %w: set XDG_CACHE_HOME", err)
	}
	return filepath.Join(cache, "ollama-k8s"), nil
}

// folder is the folder of a tool with that version and key, finished or not.
func (t tool) folder(version, key string) (string, error) {
	cache, err := CacheFolder()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "tools", fmt.Sprintf("%s-%s-%s", t.name, version, key)), nil
}

// present reports whether there is a finished folder at dir: only complete folders get their name.
func present(dir string) bool {
	_, err := os.Stat(dir)
	return err == nil
}

// fill runs f on an empty folder. If f succeeds, fill renames the folder in one step to the name that f returned. The
// caller holds the lock of n.
func fill(n Name, f func(dir string) (final string, err error)) error {
	cache, err := CacheFolder()
	if err != nil {
		return err
	}
	shelf := filepath.Join(cache, "tools")
	if err := os.MkdirAll(shelf, 0o755); err != nil {
		return fmt.Errorf("making the cache of tools: %w", err)
	}
	dir := filepath.Join(shelf, ".unfinished-"+string(n))
	if err := os.RemoveAll(dir); err != nil { // from a run that was killed
		return fmt.Errorf("removing an unfinished %s: %w", n, err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("making a folder for %s: %w", n, err)
	}
	defer os.RemoveAll(dir) // already gone after a success
	final, err := f(dir)
	if err != nil {
		return err
	}
	if present(final) {
		return nil // Debian has nothing newer
	}
	if err := os.Rename(dir, final); err != nil {
		return fmt.Errorf("finishing %s: %w", n, err)
	}
	return nil
}

// Lock keeps two runs from building the same thing at the same time. It waits until the other run, which usually leaves
// nothing to do, has ended or ctx ends.
func Lock(ctx context.Context, name string) (unlock func(), err error) {
	cache, err := CacheFolder()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(cache, "locks"), 0o755); err != nil {
		return nil, fmt.Errorf("making the folder of locks: %w", err)
	}
	l := flock.New(filepath.Join(cache, "locks", name))
	if _, err := l.TryLockContext(ctx, 200*time.Millisecond); err != nil {
		return nil, fmt.Errorf("waiting for another run that makes %s (lock %s): %w", name, l.Path(), err)
	}
	return func() { _ = l.Unlock() }, nil // the lock also ends with the process
}

// digest is a key over values and the contents of files, in order. The operating system and the architecture always
// count.
type digest struct{ text []byte }

func newDigest(values ...any) *digest {
	d := &digest{}
	d.add(runtime.GOOS, runtime.GOARCH)
	d.add(values...)
	return d
}

func (d *digest) add(values ...any) {
	for _, v := range values {
		d.text = fmt.Appendf(d.text, "%#v\n", v) // maps print with sorted keys
	}
}

func (d *digest) addFile(name, path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading a source file: %w", err)
	}
	d.add(name, sha256.Sum256(content))
	return nil
}

// String returns 12 hex digits: enough to distinguish a few hundred builds, and short enough to read.
func (d *digest) String() string {
	sum := sha256.Sum256(d.text)
	return hex.EncodeToString(sum[:6])
}
