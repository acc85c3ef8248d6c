//go:build linux

package node

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	_ "embed"
)

const (
	// minMemory is enough for the cluster (about 1.5 GiB) and a few pods.
	minMemory = 3 << 30
	// minDisk is twice the size of two copies of the images, with room for volumes.
	minDisk = 8 << 30
)

//go:embed configs/trial.nft
var trialRules string

// preflight checks that the machine has what the cluster needs, and reports all problems at once. While the cluster
// runs, it skips what matters only before the start.
func (c *cluster) preflight() error {
	var problems []error
	check := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	if os.Geteuid() != 0 {
		// Without root most other checks mean nothing.
		return refuse(errors.New("this user is not root, and only root can make namespaces, mounts and network links: " +
			"run it with sudo"))
	}
	check(checkState(c.layout.root))
	check(checkCgroups(c.hierarchies))
	for _, tool := range []struct{ file, source string }{
		{"containerd", "containerd"}, {"containerd-shim-runc-v2", "containerd"}, {"ctr", "containerd"},
		{"runc", "runc"}, {"nft", "nftables"}, {"iptables", "iptables"}, {"mount", "mount"}, {"sleep", "coreutils"},
		{"/usr/lib/cni/bridge", "containernetworking-plugins"},
	} {
		if _, err := exec.LookPath(tool.file); err != nil {
			check(fmt.Errorf("%s is missing: apt-get install %s", tool.file, tool.source))
		}
	}
	if !c.adoptHolders() {
		check(checkAddresses())
		check(checkMemory())
		check(checkDisk(c.layout.root))
		if len(problems) == 0 {
			check(c.tryKernel())
		}
	}
	return refuse(problems...)
}

// refuse joins the problems into one error, which ends with the alternative that always works.
func refuse(problems ...error) error {
	if len(problems) == 0 {
		return nil
	}
	var text strings.Builder
	for _, problem := range problems {
		fmt.Fprintf(&text, "\n  - %v", problem)
	}
	return fmt.Errorf("this machine cannot run the embedded cluster:%s\n"+
		"fix this, or run `pulumi up -s dev` against a cluster of your own", text.String())
}

// checkState refuses a state folder that the nodes' own mounts would hide.
func checkState(root string) error {
	for _, hidden := range []string{
		"/run", "/var/run", "/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers",
	} {
		if root == hidden || strings.HasPrefix(root, hidden+"/") {
			return fmt.Errorf("the state folder %s lies under %s, which each node replaces with its own: "+
				"set XDG_STATE_HOME to another place", root, hidden)
		}
	}
	return nil
}

func checkCgroups(hs []hierarchy) error {
	if onlyUnified() {
		data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		if err != nil {
			return fmt.Errorf("cgroup v2: %w", err)
		}
		return missing(strings.Fields(string(data)), func(name string) error {
			return fmt.Errorf("cgroup v2 has no controller %s: boot a kernel with it enabled, "+
				"or give this container its own cgroup namespace", name)
		})
	}
	var names []string
	for _, h := range hs {
		names = append(names, strings.Split(filepath.Base(h.path), ",")...)
	}
	return missing(names, func(name string) error {
		return fmt.Errorf("no cgroup hierarchy %[1]s under /sys/fs/cgroup: "+
			"mount it with `mount -t cgroup -o %[1]s cgroup /sys/fs/cgroup/%[1]s`", name)
	})
}

// missing calls f for each controller that the kubelet needs and have lacks.
func missing(have []string, f func(string) error) error {
	var problems []error
	for _, needed := range neededControllers {
		if !slices.Contains(have, needed) {
			problems = append(problems, f(needed))
		}
	}
	return errors.Join(problems...)
}

// checkAddresses looks for other uses of the cluster's address ranges.
func checkAddresses() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list the network links: %w", err)
	}
	names := map[int]string{}
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list the routes: %w", err)
	}
	var problems []error
	for _, route := range routes {
		if route.Dst == nil || route.Dst.IP.IsUnspecified() || names[route.LinkIndex] == hostLink {
			continue
		}
		for _, ours := range []string{clusterRange, podRange, serviceRange} {
			if overlap(route.Dst, mustCIDR(ours)) {
				problems = append(problems, fmt.Errorf("the address range %s is in use by the route %s on %s: "+
					"remove that route while the cluster runs", ours, route.Dst, names[route.LinkIndex]))
			}
		}
	}
	return errors.Join(problems...)
}

func overlap(a, b *net.IPNet) bool { return a.Contains(b.IP) || b.Contains(a.IP) }

func checkMemory() error {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); err == nil {
			if kib<<10 < minMemory {
				return fmt.Errorf("%.1f GiB of memory are available, %d are needed: end other programs",
					float64(kib)/(1<<20), minMemory>>30)
			}
			return nil
		}
	}
	return errors.New("/proc/meminfo does not say how much memory is available")
}

func checkDisk(root string) error {
	existing := root
	for !exists(existing) {
		existing = filepath.Dir(existing)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(existing, &fs); err != nil {
		return fmt.Errorf("the free space at %s: %w", existing, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < minDisk {
		return fmt.Errorf("%.1f GiB are free at %s, %d are needed: make room, or set XDG_STATE_HOME to a larger disk",
			float64(free)/(1<<30), existing, minDisk>>30)
	}
	return nil
}

// tryKernel tries, in temporary namespaces, what no file in /proc tells for certain: new namespaces, overlayfs on the
// state's file system, a bridge, a veth pair, and the rules that kube-proxy and the pod network use.
func (c *cluster) tryKernel() error {
	loadModules()
	if err := os.MkdirAll(c.layout.root, 0o755); err != nil {
		return err
	}
	folder, err := os.MkdirTemp(c.layout.root, "trial-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("no new mount and network namespace: %w: a container needs --privileged", err)
		}
		if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		return errors.Join(tryOverlay(folder), tryLinks(), tryRules(), tryBridgeFilter())
	})
}

// loadModules loads kernel modules, because the kernel does not load them by itself in a new network namespace. It
// ignores failures: a kernel that has them built in has no such modules, so only the trial tells.
func loadModules() {
	modprobe, err := exec.LookPath("modprobe")
	if err != nil {
		return
	}
	for _, module := range []string{
		"overlay", "bridge", "br_netfilter", "veth", "nf_tables", "nft_masq", "nft_fib_inet", "nft_numgen",
	} {
		exec.Command(modprobe, "-q", module).Run()
	}
}

func tryOverlay(folder string) error {
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(folder, name), 0o755); err != nil {
			return err
		}
	}
	at := func(name string) string { return filepath.Join(folder, name) }
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", at("lower"), at("upper"), at("work"))
	if err := mount("overlay", at("merged"), "overlay", 0, options); err != nil {
		return fmt.Errorf("overlayfs does not work on the file system of %s: %w: "+
			"set XDG_STATE_HOME to a local ext4 or xfs disk", filepath.Dir(folder), err)
	}
	return unix.Unmount(at("merged"), 0)
}

func tryLinks() error {
	for _, link := range []netlink.Link{
		&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "trial-br"}},
		&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "trial-a"}, PeerName: "trial-b"},
	} {
		if err := netlink.LinkAdd(link); err != nil {
			return fmt.Errorf("the kernel cannot make a %s link: %w: load the module %s", link.Type(), err, link.Type())
		}
	}
	return nil
}

func tryRules() error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(trialRules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("the kernel refuses the netfilter rules that Services need: %w: %s: "+
			"load the module nf_tables and its parts", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// tryBridgeFilter checks that bridged traffic passes netfilter. Otherwise a pod gets no answer from a Service whose pod
// is on the same bridge.
func tryBridgeFilter() error {
	data, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-iptables")
	if err != nil {
		return fmt.Errorf("bridged traffic does not pass netfilter: %w: load the module br_netfilter", err)
	}
	if strings.TrimSpace(string(data)) != "1" {
		return errors.New("bridged traffic does not pass netfilter: " +
			"set the sysctl net.bridge.bridge-nf-call-iptables to 1")
	}
	return nil
}
