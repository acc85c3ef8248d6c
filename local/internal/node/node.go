package node

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// The network of the cluster.
const (
	hostAddress   = "10.199.0.1" // the machine's end of the veth pair
	clusterPrefix = 29           // room for the machine's end and five nodes
	clusterRange  = "10.199.0.0/29"
	podRange      = "10.88.0.0/16"
	podGateway    = "10.88.0.1"
	serviceRange  = "10.96.0.0/16"
	firstService  = "10.96.0.1" // the Service "kubernetes", by convention the range's first address
	dnsService    = "10.96.0.10"
	clusterDomain = "cluster.local"
)

// Machine-wide names, which mark what belongs to the cluster.
const (
	cgroupName = "ollama-k8s"  // the root of our subtree in each cgroup hierarchy
	hostLink   = "ollama-k8s0" // the machine's end of the veth pair
	nodeLink   = "ollama-k8s1" // the cluster's end
	stateKey   = "OLLAMA_K8S_STATE"
)

// member is one node of the cluster.
type member struct {
	Name     string
	Address  string
	PodFirst string // the node's share of the pod range
	PodLast  string
	GPUs     int
}

// members are the cluster's nodes. The first one owns the network namespace and runs kube-proxy for both.
var members = []member{
	{Name: "node1", Address: "10.199.0.2", PodFirst: "10.88.0.2", PodLast: "10.88.0.254"},
	{Name: "gpu1", Address: "10.199.0.3", PodFirst: "10.88.1.1", PodLast: "10.88.1.254", GPUs: 4},
}

// address is the address of the control plane and of the load balancer.
func address() string { return members[0].Address }

// Node is the running cluster, as its users see it.
type Node struct {
	// Kubeconfig is the path of a kubeconfig with all rights.
	Kubeconfig string
	// Address is the IP address of NodePorts and of Services of type LoadBalancer. Only this machine reaches it.
	Address string
}

// layout returns the paths under the state folder.
type layout struct{ root string }

// StateDir is the folder that holds the whole state of the cluster: $XDG_STATE_HOME/ollama-k8s/cluster, by default
// under ~/.local/state.
func StateDir() (string, error) {
	base := os.Getenv("XDG_STATE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("no place for the cluster's state: %w: set XDG_STATE_HOME or HOME", err)
		}
		base = filepath.Join(home, ".local", "state")
	}
	if !filepath.IsAbs(base) {
		return "", fmt.Errorf("XDG_STATE_HOME=%q is not an absolute path", base)
	}
	return filepath.Join(base, "ollama-k8s", "cluster"), nil
}

func (l layout) path(elem ...string) string {
	return filepath.Join(append([]string{l.root}, elem...)...)
}

func (l layout) kubeconfig() string               { return l.path("kubeconfig") }
func (l layout) pki() string                      { return l.path("pki") }
func (l layout) log(part string) string           { return l.path("logs", part+".log") }
func (l layout) record(process string) string     { return l.path("run", process+".json") }
func (l layout) mountpoints() string              { return l.path("mountpoints.json") }
func (l layout) component(name string) string     { return l.path("kubeconfigs", name) }
func (l layout) config(m member, f string) string { return l.path("config", m.Name, f) }
func (l layout) node(m member, elem ...string) string {
	return l.path(append([]string{"nodes", m.Name}, elem...)...)
}

// PartStatus is the state of one of the cluster's daemons.
type PartStatus struct {
	Name    string
	PID     int       // 0 when it does not run
	Since   time.Time // when it started
	Log     string    // the path of its log
	Problem error     // nil when it is healthy
}
