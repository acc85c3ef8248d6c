//go:build linux

package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// launch says in which cgroup and namespaces a process starts.
type launch struct {
	group       string // the part whose cgroup it joins
	hierarchies []hierarchy
	// enter moves the calling thread into the namespaces of the process, after the thread has joined the cgroup. With nil
	// the process stays in the machine's own namespaces.
	enter func() error
}

// onThread runs f on a thread of its own, which f may move to other namespaces and cgroups: these belong to threads,
// not to processes.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Not unlocked: the thread is changed for good, and the runtime ends it together with this goroutine.
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// on runs f on a thread in the cgroup and the namespaces. A child inherits them from its parent thread, so it starts in
// its place: there is no helper program and no moment in which it could get lost.
func (l launch) on(f func(cgroupFD int) error) error {
	return onThread(func() error {
		fd, err := joinThread(l.hierarchies, l.group)
		if fd >= 0 {
			defer unix.Close(fd)
		}
		if err != nil {
			return err
		}
		if l.enter != nil {
			if err := l.enter(); err != nil {
				return err
			}
		}
		return f(fd)
	})
}

// start starts the command as a daemon, in a session of its own, so that it outlives the terminal.
func (l launch) start(cmd *exec.Cmd) (identity, error) {
	var id identity
	err := l.on(func(cgroupFD int) error {
		attachCgroup(cmd, cgroupFD)
		cmd.SysProcAttr.Setsid = true
		if err := cmd.Start(); err != nil {
			return err
		}
		var err error
		if id, err = identify(cmd.Process.Pid); err != nil {
			return errors.Join(fmt.Errorf("%s ended at once", cmd.Path), err)
		}
		return nil
	})
	if cmd.Process != nil {
		// This program is the parent while it runs, and must reap the child: a zombie would keep its cgroup busy.
		go cmd.Wait()
	}
	return id, err
}

// output runs the command to its end and returns what it printed.
func (l launch) output(cmd *exec.Cmd) ([]byte, error) {
	var out []byte
	err := l.on(func(cgroupFD int) error {
		attachCgroup(cmd, cgroupFD)
		var err error
		if out, err = cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", cmd, err, out)
		}
		return nil
	})
	return out, err
}

func attachCgroup(cmd *exec.Cmd, fd int) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD = fd >= 0
	cmd.SysProcAttr.CgroupFD = max(fd, 0)
}

// enterNamespaces moves the calling thread into another process's namespaces. kinds are names under /proc/PID/ns.
func enterNamespaces(pid int, kinds ...string) error {
	// Open all of them first: in another mount namespace, /proc may be another one.
	var files []*os.File
	for _, kind := range kinds {
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			return err
		}
		defer file.Close()
		files = append(files, file)
	}
	// A thread that shares its root and working directory with others cannot enter a mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the working directory: %w", err)
	}
	for i, file := range files {
		if err := unix.Setns(int(file.Fd()), 0); err != nil {
			return fmt.Errorf("enter the %s namespace of process %d: %w", kinds[i], pid, err)
		}
	}
	return nil
}
