//go:build linux && e2e

// The end-to-end test starts a cluster on this machine, uses it, breaks it in every way that we know, and takes it
// down. It needs root and the whole machine: `go test -tags e2e -timeout 30m ./internal/node`.
package node

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTheWholeLifeOfACluster(t *testing.T) {
	ctx := t.Context()
	if left, err := Leftovers(ctx); err != nil || len(left) > 0 {
		t.Fatalf("this machine already has a cluster, take it down first: %v, %v", left, err)
	}
	foreign := existing(hostFolders)
	e := newE2E(t)

	t.Logf("Up from nothing: %s", e.up(t))
	before := e.pids(t)
	t.Logf("Up with nothing to do: %s", e.up(t))
	if after := e.pids(t); !maps.Equal(before, after) {
		t.Errorf("an Up with nothing to do changed processes: %v, %v", before, after)
	}
	e.kubectl(t, "apply", "-f", "testdata/workloads.yaml")
	if !t.Run("runs workloads", e.checkWorkloads) {
		t.FailNow()
	}

	for _, name := range slices.Sorted(maps.Keys(before)) {
		t.Run("survives the death of "+name, func(t *testing.T) {
			before := e.pids(t)
			kill(t, before[name])
			t.Logf("Up: %s", e.up(t))
			e.checkWorkloads(t)
			for other, pid := range e.pids(t) {
				// When a holder dies, Up rebuilds its namespaces with everything in them.
				restarted := other == name || strings.HasPrefix(name, "holder-")
				if (pid != before[other]) != restarted {
					t.Errorf("%s: its process was %d and is %d", other, before[other], pid)
				}
			}
		})
	}
	t.Run("survives the death of several parts at once", func(t *testing.T) {
		before := e.pids(t)
		for _, name := range []string{"kubelet-gpu1", "containerd-gpu1", "etcd", "kube-apiserver", "kube-proxy"} {
			kill(t, before[name])
		}
		t.Logf("Up: %s", e.up(t))
		e.checkWorkloads(t)
	})
	t.Run("survives the death of a pod's shim", func(t *testing.T) {
		kill(t, e.shim(t, members[1]))
		t.Logf("Up: %s", e.up(t))
		e.checkWorkloads(t)
	})
	t.Run("survives the death of everything at once, with its pids given to others", func(t *testing.T) {
		hs, err := hierarchies()
		if err != nil {
			t.Fatal(err)
		}
		if err := killCgroup(ctx, hs); err != nil {
			t.Fatal(err)
		}
		innocent := e.reuseEveryPid(t)
		t.Logf("Up: %s", e.up(t))
		e.checkWorkloads(t)
		if !innocent.alive() {
			t.Error("Up killed a process that only had a recorded pid")
		}
	})
	t.Run("survives the loss of its link", func(t *testing.T) {
		if err := removeLink(); err != nil {
			t.Fatal(err)
		}
		t.Logf("Up: %s", e.up(t))
		e.checkWorkloads(t)
	})
	t.Run("restarts only what a changed configuration concerns", func(t *testing.T) {
		before := e.pids(t)
		spoil(t, e.layout.component("kube-scheduler"))
		remove(t, e.layout.pki(), "kube-scheduler.key")
		e.up(t)
		for name, pid := range e.pids(t) {
			if changed := pid != before[name]; changed != (name == "kube-scheduler") {
				t.Errorf("%s: restarted is %v", name, changed)
			}
		}
	})
	t.Run("shows the log of a part that cannot start", func(t *testing.T) {
		kill(t, e.pids(t)["etcd"])
		spoil(t, e.layout.path("etcd", "member", "snap", "db"))
		_, err := Up(ctx, e.log, e.images)
		if err == nil || !strings.Contains(err.Error(), "etcd: ") || !strings.Contains(err.Error(), e.layout.log("etcd")) {
			t.Errorf("Up: %v", err)
		}
		if err := Down(ctx, e.log); err != nil {
			t.Errorf("Down from there: %v", err)
		}
		e.up(t)
		e.kubectl(t, "apply", "-f", "testdata/workloads.yaml")
		e.checkWorkloads(t)
	})
	t.Run("is left alone by a run with its state elsewhere", func(t *testing.T) {
		t.Setenv("XDG_STATE_HOME", t.TempDir())
		if _, err := Up(ctx, e.log, e.images); err == nil || !strings.Contains(err.Error(), e.layout.root) {
			t.Errorf("Up: %v", err)
		}
		if err := Down(ctx, e.log); err == nil || !strings.Contains(err.Error(), e.layout.root) {
			t.Errorf("Down: %v", err)
		}
	})
	t.Run("removes the volume of a deleted claim", func(t *testing.T) {
		e.kubectl(t, "-n", "e2e", "delete", "deploy/gpu", "job/writer", "pvc/shared", "--timeout=60s")
		eventually(t, func() error {
			if entries, err := os.ReadDir(e.layout.path("volumes")); err != nil || len(entries) > 0 {
				return fmt.Errorf("%v, %w", entries, err)
			}
			return nil
		})
	})

	began := time.Now()
	if err := Down(ctx, e.log); err != nil {
		t.Fatal(err)
	}
	t.Logf("Down: %s", time.Since(began))
	if left, err := Leftovers(ctx); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	if now := existing(hostFolders); !slices.Equal(now, foreign) {
		t.Errorf("Kubernetes' folders on the machine were %v, and are %v", foreign, now)
	}
	if err := Down(context.Background(), e.log); err != nil {
		t.Errorf("Down with nothing to do: %v", err)
	}
}
