//go:build linux

package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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
	files      []string // that the daemon reads only when it starts
	member     *member  // in whose mount namespace it runs; nil for the machine's own
	healthy    func(context.Context) error
	grace      time.Duration // from SIGTERM to SIGKILL
}

// inventory is every daemon, by name.
type inventory map[string]part

// parts lists the cluster's daemons. All of them run in the cluster's network namespace.
func (c *cluster) parts() (inventory, error) {
	containerd, err := exec.LookPath("containerd")
	if err != nil {
		return nil, fmt.Errorf("%w: install Debian's package containerd", err)
	}
	kubernetes := toolchain.Path(toolchain.Kubernetes)
	list := inventory{}
	add := func(component string, m member, p part) {
		args, argsErr := c.layout.arguments(component, m)
		if p.executable == "" {
			p.executable, args = kubernetes, append([]string{component}, args...)
		}
		p.args, p.grace = args, max(p.grace, 5*time.Second)
		list[p.name] = p
		err = errors.Join(err, argsErr)
	}
	for _, p := range c.controlPlane() {
		add(p.name, members[0], p)
	}
	for i := range members {
		add("containerd", members[i], c.containerd(&members[i], containerd))
		add("kubelet", members[i], c.kubelet(&members[i]))
	}
	return list, err
}

// controlPlane lists the daemons that the cluster has once. Each is named by its component.
func (c *cluster) controlPlane() []part {
	first := &members[0]
	return []part{
		{name: "etcd", healthy: nothingToAsk},
		{
			name: "kube-apiserver",
			files: c.pkiFiles("ca.crt", "apiserver.crt", "sa.pub",
				"front-proxy-ca.crt", "front-proxy-client.crt", "apiserver-kubelet-client.crt"),
			healthy: c.probe("https", address(), 6443, "/readyz"),
		},
		{
			name:    "kube-controller-manager",
			files:   append(c.pkiFiles("ca.crt", "sa.key"), c.layout.component("kube-controller-manager")),
			healthy: c.probe("https", address(), 10257, "/healthz"),
		},
		{
			name:    "kube-scheduler",
			files:   []string{c.layout.component("kube-scheduler")},
			healthy: c.probe("https", address(), 10259, "/healthz"),
		},
		{
			name:       "agent",
			executable: toolchain.Path(toolchain.Agent),
			files:      []string{c.layout.component("agent")},
			healthy:    c.probe("http", address(), 10260, "/healthz"),
		},
		{
			name:    "kube-proxy",
			member:  first,
			files:   []string{c.layout.component("kube-proxy"), c.layout.config(*first, "kube-proxy.yaml")},
			healthy: c.probe("http", address(), 10256, "/healthz"),
		},
	}
}

func (c *cluster) containerd(m *member, executable string) part {
	return part{
		name:       containerdOf(*m),
		executable: executable,
		member:     m,
		files:      []string{c.layout.config(*m, "containerd.toml"), c.layout.config(*m, "cni/10-pods.conflist")},
		healthy:    func(ctx context.Context) error { return c.runtimeReady(ctx, *m) },
	}
}

func (c *cluster) kubelet(m *member) part {
	return part{
		name:   kubeletOf(*m),
		member: m,
		files: append(c.pkiFiles("ca.crt", m.Name+".crt"), c.layout.component(m.Name),
			c.layout.config(*m, "kubelet.yaml"), c.layout.config(*m, "resolv.conf")),
		healthy: c.probe("http", m.Address, 10248, "/healthz"),
	}
}

func (c *cluster) pkiFiles(names ...string) (files []string) {
	for _, name := range names {
		files = append(files, filepath.Join(c.layout.pki(), name))
	}
	return files
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

// ensure starts the daemon, unless it already runs with this very configuration.
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

// killUnrecorded ends a daemon that an interrupted run started but could not record. It leaves other processes in the
// cgroup alone: a container's shim must survive its containerd.
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

// entering returns a function that moves a thread into the cluster's network namespace and, for a member, into its
// mount namespace.
func (c *cluster) entering(m *member) func() error {
	if m == nil {
		return func() error { return enterNamespaces(c.holders[members[0].Name].PID, "net") }
	}
	return func() error { return enterNamespaces(c.holders[m.Name].PID, "net", "mnt") }
}

// openLog starts a new log and keeps the previous one: if a part has died, that log has the reason.
func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Rename(path, path+".1"); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
}

// watch is the set of processes that this run has started or found running. None of them may end while the run waits
// for the others.
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

// dead returns the name of a process that has ended, if there is one.
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
