//go:build linux && e2e

package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ollama-k8s/local/internal/images"
	"ollama-k8s/local/internal/progress"
	"ollama-k8s/local/internal/toolchain"
)

// patience is how long a workload may take to reach its expected state.
const patience = 90 * time.Second

// e2e is the cluster under test.
type e2e struct {
	layout layout
	log    *progress.Log
	images []images.Image
}

func newE2E(t *testing.T) *e2e {
	t.Helper()
	root, err := StateDir()
	if err != nil {
		t.Fatal(err)
	}
	e := &e2e{layout: layout{root}, log: progress.New(os.Stderr)}
	if e.images, err = images.Ensure(t.Context(), e.log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("E2E_KEEP") != "" {
			return
		}
		if err := Down(context.Background(), e.log); err != nil {
			t.Errorf("the last Down: %v", err)
		}
	})
	return e
}

func (e *e2e) up(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	if _, err := Up(t.Context(), e.log, e.images); err != nil {
		t.Fatal(err)
	}
	return time.Since(began).Round(time.Millisecond)
}

// pids returns the process of every part and holder.
func (e *e2e) pids(t *testing.T) map[string]int {
	t.Helper()
	files, err := filepath.Glob(e.layout.record("*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no records: %v", err)
	}
	pids := map[string]int{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		r, ok := e.layout.running(name)
		if !ok {
			t.Fatalf("%s does not run", name)
		}
		pids[name] = r.PID
	}
	return pids
}

// shim returns the process of a shim between a member's containerd and a pod.
func (e *e2e) shim(t *testing.T, m member) int {
	t.Helper()
	hs, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range cgroupProcesses(hs, partGroup(containerdOf(m))) {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && strings.Contains(exe, "shim") {
			return pid
		}
	}
	t.Fatalf("no shim on %s", m.Name)
	return 0
}

// reuseEveryPid points all records to a process that is not ours, as if the kernel had reused the pids.
func (e *e2e) reuseEveryPid(t *testing.T) identity {
	t.Helper()
	innocent := startSleep(t)
	files, err := filepath.Glob(e.layout.record("*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		r, err := e.layout.readRecord(name)
		if err != nil {
			t.Fatal(err)
		}
		r.PID = innocent.PID
		if err := e.layout.writeRecord(name, r); err != nil {
			t.Fatal(err)
		}
	}
	return innocent
}

// tryKubectl runs kubectl and returns what it prints.
func (e *e2e) tryKubectl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, toolchain.Path(toolchain.Kubectl), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+e.layout.kubeconfig(), "NO_PROXY=*", "no_proxy=*")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (e *e2e) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := e.tryKubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// checkWorkloads checks everything that the workloads of the test show.
func (e *e2e) checkWorkloads(t *testing.T) {
	checks := []struct {
		name  string
		check func(ctx context.Context) error
	}{
		{"the Deployment is available", func(ctx context.Context) error {
			_, err := e.tryKubectl(ctx, "-n", "e2e", "rollout", "status", "deploy/web", "--timeout=5s")
			return err
		}},
		{"a pod on the other node runs a command and resolves a Service's short name", func(ctx context.Context) error {
			return e.inPod(ctx, "hello", "pod/guest", "wget", "-qO-", "http://web:8088/")
		}},
		{"DNS answers that foreign names do not exist", func(ctx context.Context) error {
			return e.inPod(ctx, "NXDOMAIN", "pod/guest", "sh", "-c", "nslookup no.such.name. 2>&1 || true")
		}},
		{"a pod reaches itself through its Service", func(ctx context.Context) error {
			return e.inPod(ctx, "hello", "deploy/web", "sh", "-c",
				"for i in 1 2 3 4 5 6; do wget -qO- http://web:8088/ || exit 1; done")
		}},
		{"the machine reaches a cluster IP", func(ctx context.Context) error {
			ip, err := e.field(ctx, "service/web", "{.spec.clusterIP}")
			if err != nil {
				return err
			}
			return get(ctx, "http://"+net.JoinHostPort(ip, "8088")+"/", "hello")
		}},
		{"the machine reaches the load balancer's address", func(ctx context.Context) error {
			return get(ctx, "http://"+net.JoinHostPort(address(), "8088")+"/", "hello")
		}},
		{"of two Services with the same port one has the address and the other a reason", e.oneOfTwo},
		{"a Job writes to a dynamic volume, and five replicas of another user on four GPUs read it", func(
			ctx context.Context,
		) error {
			return e.fieldIs(ctx, "deployment/gpu", "{.status.readyReplicas}/{.status.unavailableReplicas}", "4/1")
		}},
		{"GPU pods are on the GPU node only", func(ctx context.Context) error {
			const path = `{.items[?(@.metadata.labels.app=="gpu")].spec.nodeName}`
			nodes, err := e.field(ctx, "pods", path, "--field-selector=status.phase=Running")
			if err != nil {
				return err
			}
			if list := strings.Fields(nodes); !slices.Equal(slices.Compact(list), []string{"gpu1"}) {
				return fmt.Errorf("they are on %v", list)
			}
			return nil
		}},
		{"plain pods are not on the GPU node", func(ctx context.Context) error {
			return e.fieldIs(ctx, "pods", `{.items[?(@.metadata.labels.app=="web")].spec.nodeName}`, "node1 node1")
		}},
		{"a GPU pod without the toleration waits", func(ctx context.Context) error {
			return e.fieldIs(ctx, "pod/intolerant", "{.status.phase}", "Pending")
		}},
		{"logs are served", func(ctx context.Context) error {
			_, err := e.tryKubectl(ctx, "-n", "e2e", "logs", "deploy/gpu")
			return err
		}},
		{"the model registry serves a manifest", func(ctx context.Context) error {
			const manifest = "http://registry.registry.svc.cluster.local:5000/v2/library/tiny/manifests/latest"
			return e.inPod(ctx, "schemaVersion", "pod/guest", "wget", "-qO-", manifest)
		}},
	}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			eventually(t, func() error {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				return c.check(ctx)
			})
		})
	}
}

func (e *e2e) inPod(ctx context.Context, want, pod string, command ...string) error {
	out, err := e.tryKubectl(ctx, append([]string{"-n", "e2e", "exec", pod, "--"}, command...)...)
	if err != nil {
		return err
	}
	if !strings.Contains(out, want) {
		return fmt.Errorf("%v printed %q, want %q in it", command, out, want)
	}
	return nil
}

func (e *e2e) field(ctx context.Context, object, path string, more ...string) (string, error) {
	return e.tryKubectl(ctx, append([]string{"-n", "e2e", "get", object, "-o", "jsonpath=" + path}, more...)...)
}

func (e *e2e) fieldIs(ctx context.Context, object, path, want string) error {
	have, err := e.field(ctx, object, path)
	if err != nil {
		return err
	}
	if have != want {
		return fmt.Errorf("%s: %s is %q and not %q", object, path, have, want)
	}
	return nil
}

func (e *e2e) oneOfTwo(ctx context.Context) error {
	out, err := e.tryKubectl(ctx, "-n", "e2e", "get", "service/web", "service/late", "-o", "json")
	if err != nil {
		return err
	}
	var list struct {
		Items []struct {
			Status struct {
				LoadBalancer struct{ Ingress []struct{ IP string } }
				Conditions   []struct{ Type, Status, Message string }
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return err
	}
	granted, refused := 0, 0
	for _, item := range list.Items {
		if in := item.Status.LoadBalancer.Ingress; len(in) == 1 && in[0].IP == address() {
			granted++
		}
		if c := item.Status.Conditions; len(c) == 1 && strings.Contains(c[0].Message, "8088/TCP") {
			refused++
		}
	}
	if granted != 1 || refused != 1 {
		return fmt.Errorf("%d have the address and %d a reason: %s", granted, refused, out)
	}
	return nil
}

func get(ctx context.Context, url, want string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if !strings.Contains(string(body), want) {
		return fmt.Errorf("%s answers %s: %q", url, response.Status, body)
	}
	return nil
}

// eventually repeats check until it succeeds, and fails when patience ends.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(pollInterval) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	id, err := identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := id.signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !id.waitGone(5 * time.Second) {
		t.Fatalf("process %d does not end", pid)
	}
}

func spoil(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("spoilt"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// hostFolders are folders that Kubernetes creates on a machine unless somebody prevents it.
var hostFolders = []string{
	"/var/lib/kubelet", "/var/lib/cni", "/var/lib/containerd", "/var/lib/dockershim",
	"/var/log/pods", "/var/log/containers", "/run/containerd", "/run/netns", "/run/xtables.lock",
	"/opt/cni", "/opt/containerd", "/etc/cni/net.d", "/usr/libexec/kubernetes",
}

func existing(folders []string) []string {
	return slices.DeleteFunc(slices.Clone(folders), func(folder string) bool { return !exists(folder) })
}
