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
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hierarchy is a mounted cgroup hierarchy: one per controller with cgroup v1, a single one with v2. A hybrid machine
// has both kinds.
type hierarchy struct {
	path    string // where it is mounted
	unified bool   // cgroup v2
}

// neededControllers are the controllers without which the kubelet does not start.
var neededControllers = []string{"cpu", "cpuset", "memory", "pids"}

// hierarchies lists the mounted cgroup hierarchies.
func hierarchies() ([]hierarchy, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return parseHierarchies(bufio.NewScanner(file))
}

func parseHierarchies(lines *bufio.Scanner) ([]hierarchy, error) {
	var found []hierarchy
	for lines.Scan() {
		// "36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw", see proc(5).
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		kind, _, _ := strings.Cut(after, " ")
		if !ok || len(fields) < 5 || (kind != "cgroup" && kind != "cgroup2") {
			continue
		}
		h := hierarchy{path: fields[4], unified: kind == "cgroup2"}
		if !slices.Contains(found, h) {
			found = append(found, h)
		}
	}
	return found, lines.Err()
}

// onlyUnified reports whether the machine uses cgroup v2 for its controllers, by the same test as the kubelet and runc.
func onlyUnified() bool {
	var fs unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// makeCgroups makes our subtree in every hierarchy: a group for each part, and one for each member's pods.
func makeCgroups(hs []hierarchy, parts []string) error {
	for _, h := range hs {
		root := filepath.Join(h.path, cgroupName)
		if err := makeCgroup(h, root); err != nil {
			return err
		}
		if h.unified && onlyUnified() {
			// With v2 a group has only the controllers that its parent delegates.
			for _, parent := range []string{h.path, root} {
				if err := delegate(parent); err != nil {
					return err
				}
			}
		}
		for _, m := range members {
			if err := makeCgroup(h, filepath.Join(root, m.Name)); err != nil {
				return err
			}
		}
		for _, part := range parts {
			if err := makeCgroup(h, filepath.Join(root, partGroup(part))); err != nil {
				return err
			}
		}
	}
	return nil
}

// partGroup is the name of a part's group, beside the members' groups.
func partGroup(part string) string { return "part-" + part }

func makeCgroup(h hierarchy, path string) error {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cgroup: %w", err)
	}
	// A new v1 cpuset has no CPUs and no memory, so no process can join it.
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		inherited, err := os.ReadFile(filepath.Join(filepath.Dir(path), file))
		if h.unified || err != nil {
			continue
		}
		target := filepath.Join(path, file)
		if have, err := os.ReadFile(target); err == nil && strings.TrimSpace(string(have)) != "" {
			continue
		}
		if err := os.WriteFile(target, inherited, 0o644); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	return nil
}

// delegate enables the group's controllers in the groups inside it. It fails only for a controller that the kubelet
// needs: a kernel may keep others to itself.
func delegate(group string) error {
	controllers, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	for _, controller := range strings.Fields(string(controllers)) {
		err := os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
		if err != nil && slices.Contains(neededControllers, controller) {
			return fmt.Errorf("cgroup: cannot delegate the controller %s from %s: %w", controller, group, err)
		}
	}
	return nil
}

// joinThread moves the calling thread into the part's v1 groups, where its children then start. A v2 group takes whole
// processes only, so a child joins it at birth, by the descriptor that joinThread returns (-1 for none).
func joinThread(hs []hierarchy, part string) (unified int, err error) {
	unified = -1
	for _, h := range hs {
		group := filepath.Join(h.path, cgroupName, partGroup(part))
		if h.unified {
			if unified, err = unix.Open(group, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
				return -1, fmt.Errorf("cgroup %s: %w", group, err)
			}
			continue
		}
		// 0 stands for the thread that writes.
		if err := os.WriteFile(filepath.Join(group, "tasks"), []byte("0"), 0); err != nil {
			return unified, fmt.Errorf("cgroup %s: %w", group, err)
		}
	}
	return unified, nil
}

// cgroupProcesses returns the pids in our subtree, or in a part of it, over all hierarchies. All of them are ours: a
// child starts in its parent's group, and only a pod's runtime moves it, within the subtree.
func cgroupProcesses(hs []hierarchy, elem ...string) []int {
	var pids []int
	for _, h := range hs {
		root := filepath.Join(append([]string{h.path, cgroupName}, elem...)...)
		filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // the group may have gone
			}
			data, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			for _, field := range strings.Fields(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
			return nil
		})
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// killCgroup kills the processes in our subtree until none is left. New children start in the subtree too.
func killCgroup(ctx context.Context, hs []hierarchy) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		pids := living(cgroupProcesses(hs))
		if len(pids) == 0 {
			return nil
		}
		for _, id := range pids {
			if err := id.signal(unix.SIGKILL); err != nil {
				return err
			}
		}
		for _, id := range pids {
			id.waitGone(100 * time.Millisecond)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%d processes in the cgroup %s survive SIGKILL, the first is %d: %w",
				len(pids), cgroupName, pids[0].PID, ctx.Err())
		}
	}
}

// living returns the processes that are not zombies: no signal reaches a zombie, and only its parent can reap it.
func living(pids []int) []identity {
	var ids []identity
	for _, pid := range pids {
		if id, err := identify(pid); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// cgroupFolders lists the folders of our subtree, the deepest first.
func cgroupFolders(hs []hierarchy) []string {
	var found []string
	for _, h := range hs {
		filepath.WalkDir(filepath.Join(h.path, cgroupName), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				found = append(found, path)
			}
			return nil
		})
	}
	slices.Reverse(found)
	return found
}

// removeCgroups removes our subtree. It retries for a while, because the kernel refuses until a dying process is gone.
func removeCgroups(ctx context.Context, hs []hierarchy) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		var last error
		for _, folder := range cgroupFolders(hs) {
			if err := unix.Rmdir(folder); err != nil && !errors.Is(err, unix.ENOENT) {
				last = fmt.Errorf("cgroup %s: %w", folder, err)
			}
		}
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(20 * time.Millisecond):
		}
	}
}
