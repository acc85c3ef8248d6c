package stacks

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"ollama-k8s/components"
)

// onKarpenter tells whether Karpenter makes the pool's nodes: it knows whole GPUs.
func (c *Config) onKarpenter(name string) bool {
	gpu := c.Pools[name].GPU
	return c.Autoscaling.Karpenter != nil && gpu.Count > 0 && gpu.MIG == ""
}

// nodes is nil where there is nothing to make.
func (c *Config) nodes(namespace pulumi.StringInput, pools []components.Pool) *components.NodesArgs {
	args := &components.NodesArgs{Namespace: namespace, Pools: pools}
	if karpenter := c.Autoscaling.Karpenter; karpenter != nil {
		args.NodeClass = karpenter.NodeClass
	}
	if kueue := c.Autoscaling.Kueue; kueue != nil {
		args.ClusterQueue = kueue.ClusterQueue
	}
	if !slices.ContainsFunc(pools, func(pool components.Pool) bool {
		return pool.Karpenter != nil || args.ClusterQueue != "" && pool.Queue != ""
	}) {
		return nil
	}
	return args
}

// queue is nil for a pool that waits in none.
func queue(pool components.Pool, nodes *components.Nodes) pulumi.StringInput {
	if made, ok := nodes.Queues[pool.Queue]; ok {
		return made
	}
	if pool.Queue == "" {
		return nil
	}
	return pulumi.String(pool.Queue)
}

// checkNodes finds what neither Karpenter nor Kueue could do.
func (c *Config) checkNodes() (problems []string) {
	queued, wanted := false, false // by a pool that says so
	for _, name := range c.poolNames() {
		pool := c.Pools[name]
		queued = queued || pool.Queue != ""
		wanted = wanted || pool.Karpenter != nil || c.onKarpenter(name)
		problems = append(problems, c.checkKarpenter(name)...)
		if pool.Queue != "" && c.Store.PerReplica && pool.Replicas.Max > max(pool.Replicas.Min, 1) {
			problems = append(problems, fmt.Sprintf(
				"pools.%s.queue: %q lets no StatefulSet grow, which store.perReplica makes the pool: leave queue out, or "+
					"replicas.max",
				name, pool.Queue,
			))
		}
	}
	if kueue := c.Autoscaling.Kueue; kueue != nil && !queued {
		problems = append(problems, fmt.Sprintf(
			"autoscaling.kueue.clusterQueue: %q is for the queues that pools name, and none names one: set queue of a pool, "+
				"or leave kueue out",
			kueue.ClusterQueue,
		))
	}
	if c.Autoscaling.Karpenter != nil && !wanted {
		problems = append(
			problems,
			"autoscaling.karpenter: makes nodes for pools with whole GPUs, and there is none: set gpu.count of a pool "+
				"(without gpu.mig), or leave karpenter out",
		)
	}
	return problems
}

func (c *Config) checkKarpenter(name string) (problems []string) {
	pool, key := c.Pools[name], "pools."+name
	if !c.onKarpenter(name) {
		return c.checkNoKarpenter(name)
	}
	class := c.Autoscaling.Karpenter.NodeClass
	if nodePool := components.NodePoolName(c.Namespace.Name, name); len(nodePool) > 63 {
		problems = append(problems, fmt.Sprintf(
			"namespace.name: %q makes the NodePool's name %s of %d characters, and nodes can be labelled with 63: shorten "+
				"it, or the pool's name",
			c.Namespace.Name, nodePool, len(nodePool),
		))
	}
	for _, label := range sortedKeys(pool.NodeSelector) {
		problems = append(problems, karpentersOwn(key+".nodeSelector", label)...)
	}
	asked := c.pool(name)
	for i, r := range asked.Karpenter.Requirements {
		at := fmt.Sprintf("%s.karpenter.requirements[%d]", key, i)
		problems = append(problems, karpentersOwn(at+".key", r.Key)...)
		if want := wrongValues(r); want != "" {
			problems = append(problems, fmt.Sprintf(
				"%s.values: %s is not what operator %s takes: give it %s", at, encode(r.Values), r.Operator, want,
			))
		}
	}
	if class.Group != "" && !asked.Decided(class) {
		gpus := "the pool's GPUs"
		if pool.GPU.Product != "" {
			gpus = pool.GPU.Product // no instance is labelled with it before it runs
		}
		problems = append(problems, fmt.Sprintf(
			"%s.karpenter.requirements: name no instances, and Karpenter cannot tell which have %s: add {key: "+
				"node.kubernetes.io/instance-type, operator: In, values: […]}, or a label %s/…",
			key, gpus, class.Group,
		))
	}
	for _, resource := range sortedKeys(asked.Karpenter.Limits) {
		if limit := asked.Karpenter.Limits[resource]; resource == asked.GPU.Resource() && limit < pool.GPU.Count {
			problems = append(problems, fmt.Sprintf(
				"%s.karpenter.limits: %s %d is below gpu.count %d, so no pod could start: raise it", key, resource, limit,
				pool.GPU.Count,
			))
		}
	}
	return problems
}

// checkNoKarpenter finds settings of a NodePool on a pool that gets none.
func (c *Config) checkNoKarpenter(name string) (problems []string) {
	pool, key := c.Pools[name], "pools."+name
	switch {
	case pool.Karpenter == nil:
	case c.Autoscaling.Karpenter == nil:
		problems = append(
			problems,
			key+".karpenter: is set but autoscaling.karpenter is not, so no NodePool is made: set "+
				"autoscaling.karpenter.nodeClass, or leave it out",
		)
	case pool.GPU.MIG != "":
		problems = append(problems, fmt.Sprintf(
			"%s.karpenter: is set but gpu.mig is %s, and Karpenter knows whole GPUs only: leave it out, or gpu.mig", key,
			pool.GPU.MIG,
		))
	default:
		problems = append(
			problems,
			key+".karpenter: is set but gpu.count is 0, and NodePools are made for GPUs only: leave it out, or set gpu.count",
		)
	}
	return problems
}

// karpentersOwn are labels that Karpenter or the node itself decides.
func karpentersOwn(key, label string) []string {
	if label != "karpenter.sh/nodepool" && label != "kubernetes.io/hostname" {
		return nil
	}
	return []string{fmt.Sprintf("%s: %s is decided when the node is made: leave it out", key, label)}
}

// wrongValues says what values a requirement should have; empty where it has such.
func wrongValues(r components.NodeRequirement) string {
	switch r.Operator {
	case "In", "NotIn":
		if len(r.Values) == 0 {
			return "at least one value"
		}
	case "Exists", "DoesNotExist":
		if len(r.Values) > 0 {
			return "none"
		}
	case "Gt", "Lt", "Gte", "Lte":
		if len(r.Values) == 1 {
			if number, err := strconv.Atoi(r.Values[0]); err == nil && number >= 0 {
				return ""
			}
		}
		return "one whole number, in quotes"
	}
	return "" // an operator that is none has been named already
}
