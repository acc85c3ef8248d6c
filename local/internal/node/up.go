//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	manifests "ollama-k8s/local/internal/cluster"
	"ollama-k8s/local/internal/images"
	"ollama-k8s/local/internal/progress"
	"ollama-k8s/local/internal/toolchain"
)

// cluster is the cluster during one run of this program.
type cluster struct {
	layout      layout
	hierarchies []hierarchy
	holders     map[string]record // by member; filled once the namespaces exist
	watched     watch
}

// open prepares work on the cluster and keeps other runs out until unlock.
func open(ctx context.Context) (c *cluster, unlock func(), err error) {
	root, err := StateDir()
	if err != nil {
		return nil, nil, err
	}
	c = &cluster{layout: layout{root}, holders: map[string]record{}}
	if c.hierarchies, err = hierarchies(); err != nil {
		return nil, nil, err
	}
	if unlock, err = c.layout.lock(ctx); err != nil {
		return nil, nil, err
	}
	if err := c.refuseForeign(); err != nil {
		unlock()
		return nil, nil, err
	}
	return c, unlock, nil
}

// refuseForeign protects a cluster that has its state in another folder: a machine has one address range and one cgroup
// for us, hence one cluster.
func (c *cluster) refuseForeign() error {
	for _, pid := range cgroupProcesses(c.hierarchies) {
		state, ok := environment(pid, stateKey)
		if !ok || state == c.layout.root {
			continue
		}
		if _, err := os.Stat(state); err == nil {
			return fmt.Errorf("another cluster runs on this machine, with its state in %s and not in %s: "+
				"set XDG_STATE_HOME and HOME as when it was started, and take it down first", state, c.layout.root)
		}
	}
	return nil
}

// Check returns every reason why this machine cannot run the cluster, and changes nothing. Up begins with the same
// check. Call Check before long work that precedes Up.
func Check(ctx context.Context) error {
	c, unlock, err := open(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return c.preflight()
}

// Up brings the cluster into its full state and returns when it is usable: the nodes are Ready, DNS and the model
// registry answer, and both nodes have the images. It changes only what is missing, dead or different, and keeps all
// data. If there is nothing to do, it takes about a second.
//
// The images must include pause and coredns. Up deploys the model registry if its image is among them.
func Up(ctx context.Context, log *progress.Log, list []images.Image) (*Node, error) {
	c, unlock, err := open(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := log.Step("check the machine", func(*progress.Step) error { return c.preflight() }); err != nil {
		return nil, err
	}
	if err := toolchain.Ensure(ctx, log, toolchain.Kubernetes, toolchain.Agent); err != nil {
		return nil, err
	}
	var inv inventory
	steps := []struct {
		name string
		run  func(*progress.Step) error
	}{
		{"certificates and configuration", func(*progress.Step) error { return c.configure() }},
		{"namespaces", func(s *progress.Step) error {
			inv, err = c.parts()
			if err != nil {
				return err
			}
			return c.ensureNamespaces(ctx, s, inv)
		}},
		{"control plane and images", func(s *progress.Step) error { return c.ensureControlPlane(ctx, s, inv, list) }},
		{"nodes", func(s *progress.Step) error { return c.ensureNodes(ctx, s, inv) }},
		{"cluster services", func(s *progress.Step) error { return c.ensureServices(ctx, s, list) }},
	}
	for _, step := range steps {
		if err := log.Step(step.name, step.run); err != nil {
			return nil, err
		}
	}
	return &Node{Kubeconfig: c.layout.kubeconfig(), Address: address()}, nil
}

func (c *cluster) configure() error {
	if err := ensurePKI(c.layout.pki(), time.Now()); err != nil {
		return fmt.Errorf("certificates in %s: %w", c.layout.pki(), err)
	}
	if err := c.layout.writeKubeconfigs(); err != nil {
		return err
	}
	return c.layout.writeConfigs()
}

// ensureNamespaces adopts the running holders. If one is missing, it removes what is left of the earlier ones and
// starts new ones. It keeps the data in any case.
func (c *cluster) ensureNamespaces(ctx context.Context, s *progress.Step, inv inventory) error {
	if !c.adoptHolders() {
		s.Detail("clearing what an earlier run left")
		if err := c.clear(ctx); err != nil {
			return err
		}
	}
	if err := makeCgroups(c.hierarchies, inv.groups()); err != nil {
		return err
	}
	network := 0
	for _, m := range members {
		holder, ok := c.holders[m.Name]
		if !ok {
			id, err := c.layout.startHolder(m, network, c.hierarchies)
			if err != nil {
				return err
			}
			holder = record{identity: id}
			c.holders[m.Name] = holder
		}
		if network == 0 {
			network = holder.PID
		}
	}
	return ensureLink(network)
}

// adoptHolders records the holders, and reports whether every member's holder runs.
func (c *cluster) adoptHolders() bool {
	for _, m := range members {
		r, ok := c.layout.running(holderOf(m))
		if !ok {
			clear(c.holders)
			return false
		}
		c.holders[m.Name] = r
	}
	return true
}

// clear ends every process of the cluster and removes all but the data.
func (c *cluster) clear(ctx context.Context) error {
	if err := killCgroup(ctx, c.hierarchies); err != nil {
		return err
	}
	if err := removeLink(); err != nil {
		return err
	}
	if err := removeCgroups(ctx, c.hierarchies); err != nil {
		return err
	}
	return os.RemoveAll(c.layout.path("run"))
}

// ensureControlPlane starts etcd, the control plane and the container runtimes. It imports the images meanwhile.
func (c *cluster) ensureControlPlane(ctx context.Context, s *progress.Step, inv inventory, list []images.Image) error {
	if _, ok := find(list, "localhost/pause"); !ok {
		return errors.New("the image localhost/pause is not among those given: without it no pod can start")
	}
	if err := c.ensureAll(inv, "etcd", containerdOf(members[0]), containerdOf(members[1]), "kube-apiserver"); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		s.Detail("waiting for the API server")
		if err := c.await(ctx, inv, "kube-apiserver"); err != nil {
			return err
		}
		rest := []string{"kube-controller-manager", "kube-scheduler"}
		if err := c.ensureAll(inv, rest...); err != nil {
			return err
		}
		return c.await(ctx, inv, rest...)
	})
	for _, m := range members {
		group.Go(func() error {
			if err := c.await(ctx, inv, containerdOf(m)); err != nil {
				return err
			}
			return c.importImages(ctx, m, list)
		})
	}
	return group.Wait()
}

func (c *cluster) ensureAll(inv inventory, names ...string) error {
	for _, name := range names {
		if err := c.ensure(inv[name]); err != nil {
			return err
		}
	}
	return nil
}

// ensureNodes starts the kubelets, kube-proxy and the agent, and waits until the scheduler can use the nodes.
func (c *cluster) ensureNodes(ctx context.Context, s *progress.Step, inv inventory) error {
	names := []string{"kube-proxy", "agent"}
	for _, m := range members {
		names = append(names, kubeletOf(m))
	}
	if err := c.ensureAll(inv, names...); err != nil {
		return err
	}
	if err := c.await(ctx, inv, names...); err != nil {
		return err
	}
	config, err := c.restConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	for _, m := range members {
		s.Detail("waiting for %s to be Ready", m.Name)
		kubelet, err := c.layout.readRecord(kubeletOf(m))
		if err != nil {
			return err
		}
		ready := func(ctx context.Context) error {
			node, err := client.CoreV1().Nodes().Get(ctx, m.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			return usable(node, m, kubelet.Since)
		}
		if err := c.poll(ctx, ready); err != nil {
			return c.failure(inv[kubeletOf(m)], fmt.Errorf("node %s does not become Ready: %w", m.Name, err))
		}
	}
	return nil
}

// usable returns nil for a node that has its GPUs and has reported Ready after since: an older report came from an
// earlier kubelet.
func usable(node *corev1.Node, m member, since time.Time) error {
	gpus := node.Status.Allocatable["nvidia.com/gpu"]
	if gpus.Value() != int64(m.GPUs) {
		return fmt.Errorf("it offers %d GPUs and not %d yet", gpus.Value(), m.GPUs)
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type != corev1.NodeReady {
			continue
		}
		if condition.Status != corev1.ConditionTrue {
			return fmt.Errorf("%s: %s", condition.Reason, condition.Message)
		}
		if condition.LastHeartbeatTime.Time.Before(since.Truncate(time.Second)) {
			return errors.New("its kubelet has not reported since it started")
		}
		return nil
	}
	return errors.New("it has no condition Ready yet")
}

// ensureServices deploys what every pod depends on: see package cluster.
func (c *cluster) ensureServices(ctx context.Context, s *progress.Step, list []images.Image) error {
	config, err := c.restConfig()
	if err != nil {
		return err
	}
	dns, ok := find(list, "localhost/coredns")
	if !ok {
		return errors.New("the image localhost/coredns is not among those given: the cluster would have no DNS")
	}
	registry, _ := find(list, "localhost/registry")
	return manifests.Ensure(ctx, config, manifests.Values{
		Domain: clusterDomain, DNSAddress: dnsService, DNSImage: dns.Ref, RegistryImage: registry.Ref,
	}, s.Detail)
}

// restConfig is the administrator's access. It ignores proxy variables, because the cluster is on this machine.
func (c *cluster) restConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.layout.kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.layout.kubeconfig(), err)
	}
	config.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	config.QPS, config.Burst = 50, 100
	return config, nil
}

// Kubeconfig returns the path of the running cluster's kubeconfig. If there is no cluster, the error is fs.ErrNotExist.
func Kubeconfig() (string, error) {
	root, err := StateDir()
	if err != nil {
		return "", err
	}
	path := layout{root}.kubeconfig()
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no cluster: %w: run `make up` to start one", err)
	} else if err != nil {
		return "", err
	}
	return path, nil
}
