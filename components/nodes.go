package components

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes"
	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/apiextensions"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// NodeClass names the object of Karpenter's cloud provider that configures nodes, e.g. karpenter.k8s.aws, EC2NodeClass,
// default.
type NodeClass struct{ Group, Kind, Name string }

// NodeRequirement is a condition on a node's label, as in Karpenter's API.
type NodeRequirement struct {
	Key, Operator string
	Values        []string
}

// NodeRequests configures Karpenter for a pool's nodes, in addition to the pool itself.
type NodeRequests struct {
	// Requirements besides those that follow from the pool's Placement.
	Requirements []NodeRequirement
	// Limits of the resources of all nodes together. Default: the GPUs of the largest possible number of pods.
	Limits map[string]int
}

// NodesArgs configures the nodes and the quota that pools use.
type NodesArgs struct {
	Namespace pulumi.StringInput
	// Pools of the namespace. Each pool with Karpenter set gets a NodePool.
	Pools []Pool
	// NodeClass of the nodes that Karpenter creates.
	NodeClass NodeClass
	// ClusterQueue is the Kueue ClusterQueue that provides the quota of the pools' queues. Each queue gets a LocalQueue.
	// Default: the LocalQueues already exist.
	ClusterQueue string
}

// Nodes holds Karpenter's NodePools and Kueue's LocalQueues.
type Nodes struct {
	pulumi.ResourceState

	// NodePools holds the names of the NodePools by pool.
	NodePools map[string]pulumi.StringOutput `pulumi:"nodePools"`
	// Queues holds the names of the LocalQueues by name. An object that uses one of these waits for the LocalQueue.
	Queues map[string]pulumi.StringOutput `pulumi:"queues"`
}

const (
	// nodePoolLabel is on every node that Karpenter creates.
	nodePoolLabel = "karpenter.sh/nodepool"
	// queueLabel is set on the Deployment or StatefulSet. Kueue copies it to the pods.
	queueLabel = "kueue.x-k8s.io/queue-name"
	// instanceType is on the nodes of every cloud.
	instanceType = "node.kubernetes.io/instance-type"
	// capacityType is spot, on-demand or reserved.
	capacityType = "karpenter.sh/capacity-type"
	// nodeIdle is how long a node may stay without pods. Terminating pods do not count as pods, so a shorter time would
	// remove a node that a pool's next pod is waiting for. Most drains end within minutes; a longer one costs a new node,
	// not an answer. The time also saves a pool that soon grows again the start of a node and the pull of the image.
	nodeIdle = "20m"
)

// ChoosesInstances reports whether a label selects instances of the cloud: the instance type, or a label of the cloud
// provider, such as karpenter.k8s.aws/instance-gpu-name.
func (c NodeClass) ChoosesInstances(label string) bool {
	domain, _, _ := strings.Cut(label, "/")
	return label == instanceType || domain == c.Group
}

// describesGPUs reports whether the cloud provider labels instances with the vendor, number and memory of their GPUs,
// as AWS does.
func (c NodeClass) describesGPUs() bool { return c.Group == "karpenter.k8s.aws" }

// Decided reports whether Karpenter can find out which instances have the pool's GPUs. It knows only the cloud
// provider's labels. A GPU labeller adds its labels only when the node is running and billed.
func (p Pool) Decided(class NodeClass) bool {
	for _, r := range p.stated() {
		if class.ChoosesInstances(r.Key) {
			return true
		}
	}
	return class.describesGPUs() && p.GPU.Product == ""
}

// NewNodes creates the NodePools and LocalQueues.
func NewNodes(ctx *pulumi.Context, name string, args *NodesArgs, opts ...pulumi.ResourceOption) (*Nodes, error) {
	a := *args
	for _, pool := range a.Pools {
		if pool.Karpenter == nil {
			continue
		}
		if pool.GPU.Count == 0 || pool.GPU.MIG != "" {
			return nil, fmt.Errorf("Nodes %s: pool %s has no whole GPUs: set GPU.Count without GPU.MIG", name, pool.Name)
		}
		if !pool.Decided(a.NodeClass) {
			return nil, fmt.Errorf(
				"Nodes %s: pool %s: no requirement selects instances: add one on %s", name, pool.Name, instanceType,
			)
		}
	}

	nodes := &Nodes{NodePools: map[string]pulumi.StringOutput{}, Queues: map[string]pulumi.StringOutput{}}
	if err := ctx.RegisterComponentResourceV2("ollama-k8s:index:Nodes", name, pulumi.Map{
		"namespace": a.Namespace, "queues": pulumi.ToStringArray(a.queues()),
	}, nodes, opts...); err != nil {
		return nil, err
	}
	parent := pulumi.Parent(nodes)
	nodePools, queues := pulumi.StringMap{}, pulumi.StringMap{}
	for _, pool := range a.Pools {
		if pool.Karpenter == nil {
			continue
		}
		made, err := a.nodePool(ctx, name, pool, parent)
		if err != nil {
			return nil, fmt.Errorf("creating the NodePool of %s: %w", pool.Name, err)
		}
		nodes.NodePools[pool.Name], nodePools[pool.Name] = made, made
	}
	for _, queue := range a.queues() {
		made, err := a.localQueue(ctx, name, queue, parent)
		if err != nil {
			return nil, fmt.Errorf("creating the LocalQueue %s: %w", queue, err)
		}
		nodes.Queues[queue], queues[queue] = made, made
	}
	return nodes, ctx.RegisterResourceOutputs(nodes, pulumi.Map{"nodePools": nodePools, "queues": queues})
}

// queues returns the names of the LocalQueues to create.
func (a *NodesArgs) queues() (names []string) {
	for _, pool := range a.Pools {
		if a.ClusterQueue != "" && pool.Queue != "" && !slices.Contains(names, pool.Queue) {
			names = append(names, pool.Queue)
		}
	}
	return names
}

// NodePoolName is the name of a pool's NodePool. NodePools are cluster-wide, and a cluster may have several stacks.
func NodePoolName(namespace, pool string) string { return namespace + "-" + pool }

func (a *NodesArgs) nodePool(
	ctx *pulumi.Context, name string, pool Pool, opts ...pulumi.ResourceOption,
) (pulumi.StringOutput, error) {
	limits := pulumi.Map{pool.GPU.Resource(): pulumi.Int(pool.GPU.Count * pool.Replicas.Most())}
	for resource, limit := range pool.Karpenter.Limits {
		limits[resource] = pulumi.Int(limit)
	}
	requirements := pulumi.Array{}
	for _, r := range pool.requirements(a.NodeClass) {
		requirement := pulumi.Map{"key": pulumi.String(r.Key), "operator": pulumi.String(r.Operator)}
		if len(r.Values) > 0 {
			requirement["values"] = pulumi.ToStringArray(r.Values)
		}
		requirements = append(requirements, requirement)
	}
	nodePoolName := a.Namespace.ToStringOutput().ApplyT(func(namespace string) string {
		return NodePoolName(namespace, pool.Name)
	}).(pulumi.StringOutput)
	made, err := apiextensions.NewCustomResource(ctx, name+"-"+pool.Name, &apiextensions.CustomResourceArgs{
		ApiVersion: pulumi.String("karpenter.sh/v1"), Kind: pulumi.String("NodePool"),
		Metadata: &metav1.ObjectMetaArgs{
			Name:   nodePoolName,
			Labels: labels(roleServer, name),
		},
		OtherFields: kubernetes.UntypedArgs{"spec": pulumi.Map{
			"template": pulumi.Map{"spec": pulumi.Map{
				"nodeClassRef": pulumi.Map{
					"group": pulumi.String(a.NodeClass.Group), "kind": pulumi.String(a.NodeClass.Kind),
					"name": pulumi.String(a.NodeClass.Name),
				},
				"requirements": requirements,
				// The taint keeps other pods away. The pool's pods tolerate it and select the NodePool by its label.
				"taints": pulumi.Array{pulumi.Map{"key": pulumi.String(pool.GPU.taint()), "effect": pulumi.String("NoSchedule")}},
				// Expiry ends a node before its replacement is ready. A new image of the node class replaces nodes too, but after
				// their replacements are ready.
				"expireAfter": pulumi.String("Never"),
			}},
			"disruption": pulumi.Map{
				// A server that moves drains for minutes and reloads its models, so only empty nodes are removed.
				"consolidationPolicy": pulumi.String("WhenEmpty"),
				"consolidateAfter":    pulumi.String(nodeIdle),
			},
			"limits": limits,
		}},
		// its nodes drain and terminate first
	}, append([]pulumi.ResourceOption{pulumi.Timeouts(&pulumi.CustomTimeouts{
		Delete: seconds(2 * startSeconds),
	})}, opts...)...)
	if err != nil {
		return pulumi.StringOutput{}, err
	}
	return made.Metadata.Name().Elem(), nil
}

// stated returns the requirements from the config: the pool's node selector and GPU, and those for Karpenter. Karpenter
// sets labels that it does not know on the nodes, so that the pods' selectors match before any labeller has run.
func (p Pool) stated() (all []NodeRequirement) {
	for label, value := range p.NodeSelector {
		all = append(all, NodeRequirement{label, "In", []string{value}})
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Key < all[j].Key })
	if gpu := p.GPU; gpu.Product != "" {
		all = append(all, NodeRequirement{gpu.productLabel(), "In", []string{gpu.Product}})
	}
	if p.Karpenter != nil {
		all = append(all, p.Karpenter.Requirements...)
	}
	return all
}

// requirements returns the stated requirements, and those that follow if they say nothing.
func (p Pool) requirements(class NodeClass) []NodeRequirement {
	all := p.stated()
	instances, capacity := false, false
	for _, r := range all {
		instances = instances || class.ChoosesInstances(r.Key)
		capacity = capacity || r.Key == capacityType
	}
	if gpu := p.GPU; !instances && class.describesGPUs() {
		label := class.Group + "/instance-gpu-"
		all = append(all, NodeRequirement{label + "manufacturer", "In", []string{string(gpu.vendor())}},
			// the writer may be the first pod on the node, and requests no GPU
			NodeRequirement{label + "count", "Gt", []string{strconv.Itoa(gpu.Count - 1)}})
		if gpu.MinMiB > 0 {
			all = append(all, NodeRequirement{label + "memory", "Gt", []string{strconv.Itoa(gpu.MinMiB - 1)}})
		}
	}
	if !capacity {
		// Karpenter prefers spot, which ends within minutes; a long answer does not
		all = append(all, NodeRequirement{capacityType, "NotIn", []string{"spot"}})
	}
	return all
}

func (a *NodesArgs) localQueue(
	ctx *pulumi.Context, name, queue string, opts ...pulumi.ResourceOption,
) (pulumi.StringOutput, error) {
	made, err := apiextensions.NewCustomResource(ctx, name+"-queue-"+queue, &apiextensions.CustomResourceArgs{
		ApiVersion: pulumi.String("kueue.x-k8s.io/v1beta2"), Kind: pulumi.String("LocalQueue"),
		Metadata:    named(a.Namespace, roleServer, name, queue),
		OtherFields: kubernetes.UntypedArgs{"spec": pulumi.Map{"clusterQueue": pulumi.String(a.ClusterQueue)}},
	}, append([]pulumi.ResourceOption{
		// Kueue does not allow changing it
		pulumi.ReplaceOnChanges([]string{"spec.clusterQueue"}), pulumi.DeleteBeforeReplace(true),
	}, opts...)...)
	if err != nil {
		return pulumi.StringOutput{}, err
	}
	return made.Metadata.Name().Elem(), nil
}
