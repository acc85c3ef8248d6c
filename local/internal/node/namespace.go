//go:build linux

package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// holderOf is the name of the process that sleeps in a member's namespaces, to keep them alive while other processes
// restart.
func holderOf(m member) string { return "holder-" + m.Name }

// startHolder makes a member's namespaces and their holder. The first member makes the network namespace; the others
// join it by the pid of its holder.
func (l layout) startHolder(m member, network int, hs []hierarchy) (identity, error) {
	if err := l.prepareMountpoints(m); err != nil {
		return identity{}, err
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		return identity{}, err
	}
	cmd := exec.Command(sleep, "infinity")
	cmd.Dir = "/"
	cmd.Env = l.environment(holderOf(m))
	enter := func() error {
		if network == 0 {
			if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("new mount and network namespace: %w", err)
			}
		} else {
			if err := enterNamespaces(network, "net"); err != nil {
				return err
			}
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("new mount namespace: %w", err)
			}
		}
		return l.mountAll(m)
	}
	id, err := launch{group: holderOf(m), hierarchies: hs, enter: enter}.start(cmd)
	if err != nil {
		return id, fmt.Errorf("the namespaces of %s: %w", m.Name, err)
	}
	return id, l.writeRecord(holderOf(m), record{identity: id, Since: time.Now()})
}

// environment is the whole environment of a process of the cluster. It inherits nothing: a proxy variable, for example,
// would send the cluster's traffic away.
func (l layout) environment(part string) []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
		stateKey + "=" + l.root,
		"OLLAMA_K8S_PART=" + part,
	}
}

// bind is a folder of the state that a member sees under a path that its kubelet or the readers of logs have built in.
type bind struct{ source, target string }

func (l layout) binds(m member) []bind {
	return []bind{
		{l.node(m, "kubelet"), "/var/lib/kubelet"},
		{l.node(m, "pod-logs"), "/var/log/pods"},
		{l.node(m, "container-logs"), "/var/log/containers"},
		{l.node(m, "cni"), "/var/lib/cni"},
	}
}

// privateSysctls are machine-wide settings that the kubelet insists on. A private file covers each, and takes the
// writes.
var privateSysctls = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

func (l layout) sysctlFile(m member, name string) string {
	return l.node(m, "sysctl", strings.ReplaceAll(name, "/", "."))
}

// prepareMountpoints makes the folders and files for the bind mounts, and their mount points on the machine. It records
// which mount points it made, for Down.
func (l layout) prepareMountpoints(m member) error {
	made, err := l.readMountpoints()
	if err != nil {
		return err
	}
	for _, b := range l.binds(m) {
		if err := os.MkdirAll(b.source, 0o755); err != nil {
			return err
		}
		fresh, err := makeFolders(b.target)
		made = append(made, fresh...)
		if err != nil {
			return err
		}
	}
	// The pods' addresses and the cached results are void in a new network namespace.
	if err := os.RemoveAll(l.node(m, "cni")); err != nil {
		return err
	}
	if err := os.MkdirAll(l.node(m, "cni"), 0o755); err != nil {
		return err
	}
	for name, value := range privateSysctls {
		if err := writeFile(l.sysctlFile(m, name), []byte(value+"\n"), 0o644); err != nil {
			return err
		}
	}
	data, err := json.Marshal(made)
	if err != nil {
		return err
	}
	return writeFile(l.mountpoints(), data, 0o644)
}

// makeFolders is os.MkdirAll that also returns the folders that it made.
func makeFolders(path string) (made []string, err error) {
	for missing := path; ; missing = filepath.Dir(missing) {
		if _, err := os.Stat(missing); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		made = append(made, missing)
	}
	slices.Reverse(made)
	return made, os.MkdirAll(path, 0o755)
}

func (l layout) readMountpoints() ([]string, error) {
	data, err := os.ReadFile(l.mountpoints())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var made []string
	if err := json.Unmarshal(data, &made); err != nil {
		return nil, fmt.Errorf("%s: %w", l.mountpoints(), err)
	}
	return made, nil
}

// removeMountpoints removes the folders that prepareMountpoints made, and returns those that are not empty.
func (l layout) removeMountpoints() (left []string, err error) {
	made, err := l.readMountpoints()
	if err != nil {
		return nil, err
	}
	for _, folder := range slices.Backward(made) {
		err := unix.Rmdir(folder)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			left = append(left, folder)
		}
	}
	return left, nil
}

// mountAll sets up the calling thread's new mount namespace for a member.
func (l layout) mountAll(m member) error {
	// Private first, so that no mount reaches the machine; then shared among our own processes, so that volumes that a pod
	// mounts reach the kubelet.
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return err
	}
	// A /run of its own: containerd's sockets and state, the pods' network namespaces and the lock of iptables must not
	// outlive the cluster.
	if err := mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return err
	}
	for _, folder := range []string{"/run/containerd", "/run/netns", "/run/lock"} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	for _, b := range l.binds(m) {
		if err := mount(b.source, b.target, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		// A peer group of its own: otherwise each mount below would appear a second time in the state folder's file system.
		for _, how := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
			if err := mount("", b.target, "", how, ""); err != nil {
				return err
			}
		}
	}
	for name := range privateSysctls {
		if err := mount(l.sysctlFile(m, name), "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}
