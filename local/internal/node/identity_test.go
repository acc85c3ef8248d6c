//go:build linux

package node

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestStatLines(t *testing.T) {
	const tail = " S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9 9"
	tests := []struct {
		name    string
		line    string
		started uint64
		fails   bool
	}{
		{name: "a plain name", line: "1 (sleep)" + tail, started: 4711},
		{name: "a name with blanks and parentheses", line: "1 (a) b (c)" + tail, started: 4711},
		{name: "a line that is cut off", line: "1 (sleep) S 1 1", fails: true},
		{name: "no name", line: "1 sleep", fails: true},
		{name: "an empty line", line: "", fails: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			state, started, err := parseStat(test.line)
			if (err != nil) != test.fails {
				t.Fatalf("error %v", err)
			}
			if !test.fails && (state != "S" || started != test.started) {
				t.Errorf("state %q, started %d", state, started)
			}
		})
	}
}

func TestAReusedPidIsNeitherTrustedNorKilled(t *testing.T) {
	id := startSleep(t)
	for name, other := range map[string]identity{
		"another start time": {PID: id.PID, Started: id.Started + 1, Boot: id.Boot},
		"another boot":       {PID: id.PID, Started: id.Started, Boot: "00000000-0000-0000-0000-000000000000"},
		"no pid at all":      {},
	} {
		t.Run(name, func(t *testing.T) {
			if other.alive() {
				t.Error("it counts as alive")
			}
			if other.PID != 0 {
				if err := other.stop(time.Second); err != nil {
					t.Error(err)
				}
			}
			if !id.alive() {
				t.Fatal("the process that has the pid now was killed")
			}
		})
	}
}

func TestStopEndsEvenAProcessThatIgnoresSIGTERM(t *testing.T) {
	for name, script := range map[string]string{
		"obedient":  "exec sleep 1000",
		"defiant":   "trap '' TERM; echo ready; while :; do sleep 0.05; done",
		"suspended": "kill -STOP $$",
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("/bin/sh", "-c", script)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			go cmd.Wait()
			id, err := identify(cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			if err := id.stop(200 * time.Millisecond); err != nil {
				t.Fatal(err)
			}
			if id.alive() {
				t.Error("it is still alive")
			}
		})
	}
}

func TestAZombieIsDead(t *testing.T) {
	cmd := exec.Command("/bin/true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var info unix.Siginfo
	// Wait for its end, but do not reap it.
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := identify(cmd.Process.Pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedRecordIsNoRecord(t *testing.T) {
	l := layout{t.TempDir()}
	id := startSleep(t)
	if err := l.writeRecord("etcd", record{identity: id, Digest: "d"}); err != nil {
		t.Fatal(err)
	}
	if r, ok := l.running("etcd"); !ok || r.Digest != "d" || r.identity != id {
		t.Errorf("read back %+v, %v", r, ok)
	}
	if err := os.WriteFile(l.record("etcd"), []byte(`{"pid":`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, ok := l.running("etcd"); ok {
		t.Error("a truncated record counts as a record")
	}
}

func startSleep(t *testing.T) identity {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	id, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
