//go:build linux

package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// identity identifies one process for certain. The kernel reuses pids, but never the same pid with the same start time
// within one boot.
type identity struct {
	PID     int    `json:"pid"`
	Started uint64 `json:"started"` // clock ticks since boot
	Boot    string `json:"boot"`    // the kernel's random id of this boot
}

// identify returns the identity of the process that has this pid now. For a process that has ended, or is a zombie, the
// error is fs.ErrNotExist.
func identify(pid int) (identity, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, unix.ESRCH) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return identity{}, err
	}
	state, started, err := parseStat(string(stat))
	if err != nil {
		return identity{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	if state == "Z" || state == "X" {
		return identity{}, fmt.Errorf("process %d is dead: %w", pid, fs.ErrNotExist)
	}
	boot, err := bootID()
	if err != nil {
		return identity{}, err
	}
	return identity{PID: pid, Started: started, Boot: boot}, nil
}

// parseStat reads a process's state and start time (fields 3 and 22, see proc(5)) from its stat line. The second field,
// the command's name in parentheses, may itself contain blanks and parentheses.
func parseStat(line string) (state string, started uint64, err error) {
	end := strings.LastIndexByte(line, ')')
	if end < 0 {
		return "", 0, fmt.Errorf("no command name in %q", line)
	}
	fields := strings.Fields(line[end+1:])
	if len(fields) < 20 {
		return "", 0, fmt.Errorf("only %d fields after the command name in %q", len(fields), line)
	}
	started, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0], started, err
}

func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data)), err
}

// alive reports whether this very process still runs.
func (id identity) alive() bool {
	if id.PID <= 0 {
		return false
	}
	now, err := identify(id.PID)
	return err == nil && now == id
}

// signal sends sig to this very process, never to a later owner of its pid: it opens the pidfd before it checks the
// identity. A process that has ended is not an error.
func (id identity) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", id.PID, err)
	}
	defer unix.Close(fd)
	if !id.alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %v to process %d: %w", sig, id.PID, err)
	}
	return nil
}

// stop asks the process to end, kills it after the grace period, and returns once the process has ended.
func (id identity) stop(grace time.Duration) error {
	if err := id.signal(unix.SIGTERM); err != nil {
		return err
	}
	if id.waitGone(grace) {
		return nil
	}
	if err := id.signal(unix.SIGKILL); err != nil {
		return err
	}
	if !id.waitGone(10 * time.Second) {
		return fmt.Errorf("process %d does not end even after SIGKILL: the kernel holds it in a system call", id.PID)
	}
	return nil
}

// waitGone reports whether the process ended within the limit.
func (id identity) waitGone(limit time.Duration) bool {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if err != nil || !id.alive() {
		if err == nil {
			unix.Close(fd)
		}
		return !id.alive()
	}
	defer unix.Close(fd)
	for deadline := time.Now().Add(limit); ; {
		left := time.Until(deadline)
		if left < 0 {
			left = 0
		}
		// A pidfd becomes readable when its process ends.
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if !id.alive() {
			return true
		}
		if left == 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
			return false
		}
	}
}

// record is the entry in the state folder for a process that Up started.
type record struct {
	identity
	// Digest covers the command line and the configuration files. If it changes, the process must restart.
	Digest string    `json:"digest"`
	Since  time.Time `json:"since"`
}

func (l layout) readRecord(name string) (record, error) {
	var r record
	data, err := os.ReadFile(l.record(name))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, fmt.Errorf("%s: %w", l.record(name), err)
	}
	return r, nil
}

func (l layout) writeRecord(name string, r record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeFile(l.record(name), data, 0o644)
}

// running returns the record of a process that is alive, or false. A damaged record counts as none: the cgroup still
// has the process.
func (l layout) running(name string) (record, bool) {
	r, err := l.readRecord(name)
	return r, err == nil && r.alive()
}

// environment returns a variable of another process's initial environment.
func environment(pid int, key string) (string, bool) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return "", false
	}
	for entry := range bytes.SplitSeq(data, []byte{0}) {
		if name, value, ok := strings.Cut(string(entry), "="); ok && name == key {
			return value, true
		}
	}
	return "", false
}
