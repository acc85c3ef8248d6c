//go:build linux

package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ollama-k8s/local/internal/progress"
)

// Down ends the cluster and removes all of it, data included, except the caches of tools and images. It works from any
// partial state and is silent if there is nothing to do. Its error lists what it could not remove.
func Down(ctx context.Context, log *progress.Log) error {
	root, err := StateDir()
	if err != nil {
		return err
	}
	if left, err := leftovers(layout{root}); err != nil || len(left) == 0 {
		return err
	}
	c, unlock, err := open(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return log.Step("take the cluster down", func(s *progress.Step) error {
		s.Detail("ending its processes")
		if err := c.clear(ctx); err != nil {
			return err
		}
		s.Detail("removing its state")
		kept, err := c.layout.removeMountpoints()
		if err != nil {
			return err
		}
		if err := c.layout.remove(); err != nil {
			return err
		}
		left, err := leftovers(c.layout)
		if err != nil {
			return err
		}
		for _, folder := range kept {
			left = append(left, "folder "+folder+", which now holds files of something else")
		}
		if len(left) > 0 {
			return fmt.Errorf("left over: %s", strings.Join(left, "; "))
		}
		return nil
	})
}

// remove removes the state folder, and its parent if that is empty.
func (l layout) remove() error {
	// With a mount inside, the removal would reach into another file system.
	mounts, err := mountsBelow(l.root)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("%s is a mount point: unmount it first", mounts[0])
	}
	if err := os.RemoveAll(l.root); err != nil {
		return fmt.Errorf("the state folder: %w", err)
	}
	parent := filepath.Dir(l.root)
	if err := unix.Rmdir(parent); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%s: %w", parent, err)
	}
	return nil
}

// Leftovers describes what exists of the cluster on this machine: its processes, cgroups, link, routes, mounts and
// state. After Down it returns nothing.
func Leftovers(context.Context) ([]string, error) {
	root, err := StateDir()
	if err != nil {
		return nil, err
	}
	return leftovers(layout{root})
}

func leftovers(l layout) ([]string, error) {
	var left []string
	hs, err := hierarchies()
	if err != nil {
		return nil, err
	}
	pids, err := ourProcesses(hs)
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		left = append(left, fmt.Sprintf("process %d (%s)", pid, commandName(pid)))
	}
	for _, h := range hs {
		if path := filepath.Join(h.path, cgroupName); exists(path) {
			left = append(left, "cgroup "+path)
		}
	}
	link, err := findLink(nil, hostLink)
	if err != nil {
		return nil, err
	}
	if link != nil {
		left = append(left, "link "+hostLink)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list the routes: %w", err)
	}
	for _, route := range routes {
		for _, ours := range []string{clusterRange, podRange, serviceRange} {
			if route.Dst != nil && route.Dst.String() == ours {
				left = append(left, "route to "+ours)
			}
		}
	}
	mounts, err := mountsBelow(l.root)
	if err != nil {
		return nil, err
	}
	for _, path := range mounts {
		left = append(left, "mount on "+path)
	}
	if exists(l.root) {
		left = append(left, "state in "+l.root)
	}
	return left, nil
}

// ourProcesses lists the processes in the cgroup, and those with our mark in their environment, in case one has left
// the cgroup.
func ourProcesses(hs []hierarchy) ([]int, error) {
	seen := map[int]bool{}
	var pids []int
	add := func(pid int) {
		if _, err := identify(pid); err == nil && !seen[pid] {
			seen[pid] = true
			pids = append(pids, pid)
		}
	}
	for _, pid := range cgroupProcesses(hs) {
		add(pid)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			if _, ok := environment(pid, stateKey); ok {
				add(pid)
			}
		}
	}
	return pids, nil
}

func commandName(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "has ended"
	}
	return strings.TrimSpace(string(data))
}

// mountsBelow lists the machine's mount points at or under a folder.
func mountsBelow(folder string) ([]string, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 {
			if path := fields[4]; path == folder || strings.HasPrefix(path, folder+"/") {
				found = append(found, path)
			}
		}
	}
	return found, lines.Err()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
