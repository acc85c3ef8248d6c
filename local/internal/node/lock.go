//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lock lets one run at a time change the cluster. It locks the folder above the state, so no lock file is left behind.
// The kernel releases the lock of a run that dies.
func (l layout) lock(ctx context.Context) (unlock func(), err error) {
	folder := filepath.Dir(l.root)
	for {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, fmt.Errorf("the state folder: %w: set XDG_STATE_HOME to a writable place", err)
		}
		file, err := os.Open(folder)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && sameFile(file, folder) {
			return func() { file.Close() }, nil
		}
		file.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", folder, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("another run is changing the cluster in %s: %w", l.root, ctx.Err())
		case <-time.After(pollInterval):
		}
	}
}

// sameFile reports whether the locked folder still has its path: a Down may have removed it, and another run made it
// anew.
func sameFile(file *os.File, path string) bool {
	locked, err1 := file.Stat()
	named, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(locked, named)
}
