//go:build linux

package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"ollama-k8s/local/internal/toolchain"
)

// part is one of the cluster's daemons.
type part struct {
	name       string
	executable string
	args       []string
	files      []string // whose content the daemon reads only when it starts
	member     *member  // in whose mount namespace it runs; nil for the machine's own
	healthy    func(context.Context) error
	grace      time.Duration // from SIGTERM to SIGKILL
}

// inventory is every daemon, by name.
type inventory map[string]part

// parts lists the cluster's daemons. All of them run in the cluster's network
// namespace.
func (c *cluster) parts() (inventory, error) {
	kubernetes := toolchain.Path(toolchain.Kubernetes)
	first := members[0]
	list := inventory{}
	var failed error
	add := func(name, component string, m member, p part) {
		args, err := c.layout.arguments(component, m)
		if err != nil {
			failed = err
			return
		}
		p.name, p.args = name, args
		if p.executable == "" {
			p.executable, p.args = kubernetes, append([]string{component}, args...)
		}
		p.grace = max(p.grace, 5*time.Second)
		list[name] = p
	}
	pki := func(names ...string) (files []string) {
		for _, name := range names {
			files = append(files, filepath.Join(c.layout.pki(), name))
		}
		return files
	}
	add("etcd", "etcd", first, part{healthy: nothingToAsk})
	add("kube-apiserver", "kube-apiserver", first, part{
		files:   pki("ca.crt", "apiserver.crt", "sa.pub", "front-proxy-ca.crt", "front-proxy-client.crt", "apiserver-kubelet-client.crt"),
		healthy: c.probe("https", address(), 6443, "/readyz"),
	})
	add("kube-controller-manager", "kube-controller-manager", first, part{
		files:   append(pki("ca.crt", "sa.key"), c.layout.component("kube-controller-manager")),
		healthy: c.probe("https", address(), 10257, "/healthz"),
	})
	add("kube-scheduler", "kube-scheduler", first, part{
		files:   []string{c.layout.component("kube-scheduler")},
		healthy: c.probe("https", address(), 10259, "/healthz"),
	})
	add("agent", "agent", first, part{
		executable: toolchain.Path(toolchain.Agent),
		files:      []string{c.layout.component("agent")},
		healthy:    c.probe("http", address(), 10260, "/healthz"),
	})
	add("kube-proxy", "kube-proxy", first, part{
		member:  &members[0],
		files:   []string{c.layout.component("kube-proxy"), c.layout.config(first, "kube-proxy.yaml")},
		healthy: c.probe("http", address(), 10256, "/healthz"),
	})
	containerd, err := exec.LookPath("containerd")
	if err != nil {
		return nil, fmt.Errorf("%w: install Debian's package containerd", err)
	}
	for i, m := range members {
		add(containerdOf(m), "containerd", m, part{
			executable: containerd,
			member:     &members[i],
			files:      []string{c.layout.config(m, "containerd.toml"), c.layout.config(m, "cni/10-pods.conflist")},
			healthy:    func(ctx context.Context) error { return c.runtimeReady(ctx, m) },
		})
		add(kubeletOf(m), "kubelet", m, part{
			member: &members[i],
			files: append(pki("ca.crt", m.Name+".crt"), c.layout.component(m.Name),
				c.layout.config(m, "kubelet.yaml"), c.layout.config(m, "resolv.conf")),
			healthy: c.probe("http", m.Address, 10248, "/healthz"),
		})
	}
	return list, failed
}

func containerdOf(m member) string { return "containerd-" + m.Name }
func kubeletOf(m member) string    { return "kubelet-" + m.Name }

// groups lists the names that need a cgroup of their own.
func (inv inventory) groups() []string {
	var names []string
	for name := range inv {
		names = append(names, name)
	}
	for _, m := range members {
		names = append(names, holderOf(m))
	}
	return names
}

// digest covers all that a daemon reads when it starts.
func (p part) digest() (string, error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q\n", append([]string{p.executable}, p.args...))
	for _, file := range p.files {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Fprintf(sum, "%s %x\n", file, sha256.Sum256(data))
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// ensure starts the daemon unless this very configuration of it runs.
func (c *cluster) ensure(p part) error {
	digest, err := p.digest()
	if err != nil {
		return err
	}
	if r, ok := c.layout.running(p.name); ok {
		if r.Digest == digest {
			c.watched.add(p.name, r.identity)
			return nil
		}
		if err := r.stop(p.grace); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	if err := c.killUnrecorded(p); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return c.start(p, digest)
}

// killUnrecorded ends what a run that was cut short started but could not
// record. Others in the same cgroup are left alone: a container's shim must
// survive its containerd.
func (c *cluster) killUnrecorded(p part) error {
	wanted, err := filepath.EvalSymlinks(p.executable)
	if err != nil {
		return err
	}
	for _, id := range living(cgroupProcesses(c.hierarchies, partGroup(p.name))) {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", id.PID)); err == nil && exe == wanted {
			if err := id.stop(p.grace); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *cluster) start(p part, digest string) error {
	log, err := openLog(c.layout.log(p.name))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.executable, p.args...)
	cmd.Dir = "/"
	cmd.Env = c.layout.environment(p.name)
	cmd.Stdout, cmd.Stderr = log, log
	id, err := launch{group: p.name, hierarchies: c.hierarchies, enter: c.entering(p.member)}.start(cmd)
	if err != nil {
		return c.failure(p, err)
	}
	c.watched.add(p.name, id)
	return c.layout.writeRecord(p.name, record{identity: id, Digest: digest, Since: time.Now()})
}

// entering returns what moves a thread into the cluster's network namespace
// and, for a member, into its mount namespace.
func (c *cluster) entering(m *member) func() error {
	if m == nil {
		return func() error { return enterNamespaces(c.holders[members[0].Name].PID, "net") }
	}
	return func() error { return enterNamespaces(c.holders[m.Name].PID, "net", "mnt") }
}

// openLog starts a new log and keeps the one before: when a part has died, the
// reason is in there.
func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Rename(path, path+".1"); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
}

// watch is the set of processes that this run has started or found running:
// none of them may end while it waits for the others.
type watch struct {
	mu   sync.Mutex
	seen map[string]identity
}

func (w *watch) add(name string, id identity) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen == nil {
		w.seen = map[string]identity{}
	}
	w.seen[name] = id
}

// dead returns one that has ended, if there is one.
func (w *watch) dead() (name string, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, id := range w.seen {
		if !id.alive() {
			return name, true
		}
	}
	return "", false
}
