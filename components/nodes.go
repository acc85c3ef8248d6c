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

// NodeClass is the object of Karpenter's cloud provider that says how nodes are set up, e.g. karpenter.k8s.aws,
// EC2NodeClass, default.
type NodeClass struct{ Group, Kind, Name string }

// NodeRequirement is what a node's label must be, in Karpenter's words.
type NodeRequirement struct {
	Key, Operator string
	Values        []string
}

// NodeRequests are what Karpenter must know of a pool's nodes besides the pool itself.
type NodeRequests struct {
	// Requirements besides those that follow from the pool's Placement.
	Requirements []NodeRequirement
	// Limits of the nodes' resources together. Default: the GPUs of as many pods as there can be at a time.
	Limits map[string]int
}

// NodesArgs says on whose nodes, and from whose quota, pools run.
type NodesArgs struct {
	Namespace pulumi.StringInput
	// Pools of the namespace. Each that says what Karpenter must know gets a NodePool.
	Pools []Pool
	// NodeClass of the nodes that Karpenter makes.
	NodeClass NodeClass
	// ClusterQueue of Kueue, whose quota the pools' queues use: each of them gets a LocalQueue. Default: the queues are
	// there already.
	ClusterQueue string
}

// Nodes are Karpenter's NodePools and Kueue's LocalQueues.
type Nodes struct {
	pulumi.ResourceState

	// NodePools are the NodePools' names, by pool.
	NodePools map[string]pulumi.StringOutput `pulumi:"nodePools"`
	// Queues are the LocalQueues' names, by name: who uses these waits for the objects.
	Queues map[string]pulumi.StringOutput `pulumi:"queues"`
}

const (
	// nodePoolLabel is on every node that Karpenter makes.
	nodePoolLabel = "karpenter.sh/nodepool"
	// queueLabel is read on the Deployment or StatefulSet itself; Kueue hands it on to the pods.
	queueLabel = "kueue.x-k8s.io/queue-name"
	// instanceType is on every cloud's nodes.
	instanceType = "node.kubernetes.io/instance-type"
	// capacityType is spot, on-demand or reserved.
	capacityType = "karpenter.sh/capacity-type"
	// nodeIdle is how long a node stays without pods. Pods that end do not count as such: a shorter time would take the
	// node away that a pool's next pod is waiting for. Most drains end within minutes; one that lasts longer costs a new
	// node, not an answer. The time also spares a pool that grows again soon the start of a node and the pull of the
	// image.
	nodeIdle = "20m"
)

// ChoosesInstances tells whether a label chooses among the cloud's instances: their type, or a label of the cloud
// provider's own, such as karpenter.k8s.aws/instance-gpu-name.
func (c NodeClass) ChoosesInstances(label string) bool {
	domain, _, _ := strings.Cut(label, "/")
	return label == instanceType || domain == c.Group
}

// describesGPUs tells whether the cloud provider labels instances with their GPUs' vendor, number and memory, as AWS'
// does.
func (c NodeClass) describesGPUs() bool { return c.Group == "karpenter.k8s.aws" }

// Decided tells whether Karpenter can find out which instances have the pool's GPUs. It knows instances by the cloud
// provider's labels only; those of a GPU's own labeller come when the node is there and paid for.
func (p Pool) Decided(class NodeClass) bool {
	for _, r := range p.stated() {
		if class.ChoosesInstances(r.Key) {
			return true
		}
	}
	return class.describesGPUs() && p.GPU.Product == ""
}

// NewNodes makes the NodePools and LocalQueues.
func NewNodes(ctx *pulumi.Context, name string, args *NodesArgs, opts ...pulumi.ResourceOption) (*Nodes, error) {
	a := *args
	for _, pool := range a.Pools {
		if pool.Karpenter == nil {
			continue
		}
		if pool.GPU.Count == 0 || pool.GPU.MIG != "" {
			return nil, fmt.Errorf("Nodes %s: pool %s has no whole GPUs: Karpenter knows no others", name, pool.Name)
		}
		if !pool.Decided(a.NodeClass) {
			return nil, fmt.Errorf(
				"Nodes %s: pool %s: no requirement names instances: add one on %s", name, pool.Name, instanceType,
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

// queues are the names of the LocalQueues to make.
func (a *NodesArgs) queues() (names []string) {
	for _, pool := range a.Pools {
		if a.ClusterQueue != "" && pool.Queue != "" && !slices.Contains(names, pool.Queue) {
			names = append(names, pool.Queue)
		}
	}
	return names
}

// NodePoolName is the name of the NodePool of a pool. A NodePool is of the whole cluster, which may have several stacks.
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
				// Keeps other pods off; the pool's own tolerate it, and choose the NodePool by its label.
				"taints": pulumi.Array{pulumi.Map{"key": pulumi.String(pool.GPU.taint()), "effect": pulumi.String("NoSchedule")}},
				// Expiry ends a node before another is there. A new image of the node class replaces nodes as well, each after its
				// replacement.
				"expireAfter": pulumi.String("Never"),
			}},
			"disruption": pulumi.Map{
				// A server that is moved drains for minutes and loads its models anew: only nodes without any go.
				"consolidationPolicy": pulumi.String("WhenEmpty"),
				"consolidateAfter":    pulumi.String(nodeIdle),
			},
			"limits": limits,
		}},
		// its nodes drain and go first
	}, append([]pulumi.ResourceOption{pulumi.Timeouts(&pulumi.CustomTimeouts{
		Delete: seconds(2 * startSeconds),
	})}, opts...)...)
	if err != nil {
		return pulumi.StringOutput{}, err
	}
	return made.Metadata.Name().Elem(), nil
}

// stated are the requirements that people made: of the pool's nodes, by selector and GPU, and of Karpenter. Karpenter
// puts labels that it does not know on the nodes, so that the pods' own selectors find them before any labeller has
// run.
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

// requirements are the stated ones, and what follows where they say nothing.
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
			// the writer may come first, and asks for none
			NodeRequirement{label + "count", "Gt", []string{strconv.Itoa(gpu.Count - 1)}})
		if gpu.MinMiB > 0 {
			all = append(all, NodeRequirement{label + "memory", "Gt", []string{strconv.Itoa(gpu.MinMiB - 1)}})
		}
	}
	if !capacity {
		// Karpenter prefers it; it ends within minutes, a long answer does not
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
		// Kueue lets nobody change it
		pulumi.ReplaceOnChanges([]string{"spec.clusterQueue"}), pulumi.DeleteBeforeReplace(true),
	}, opts...)...)
	if err != nil {
		return pulumi.StringOutput{}, err
	}
	return made.Metadata.Name().Elem(), nil
}
