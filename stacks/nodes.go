package stacks

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"ollama-k8s/components"
)

// onKarpenter reports whether Karpenter creates the pool's nodes. It supports only whole GPUs.
func (c *Config) onKarpenter(name string) bool {
	gpu := c.Pools[name].GPU
	return c.Autoscaling.Karpenter != nil && gpu.Count > 0 && gpu.MIG == ""
}

// nodes returns the args of Nodes, or nil if there is nothing to create.
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

// queue returns the name of the pool's LocalQueue, or nil if it has none.
func queue(pool components.Pool, nodes *components.Nodes) pulumi.StringInput {
	if made, ok := nodes.Queues[pool.Queue]; ok {
		return made
	}
	if pool.Queue == "" {
		return nil
	}
	return pulumi.String(pool.Queue)
}

// checkNodes reports settings that Karpenter or Kueue cannot fulfill.
func (c *Config) checkNodes() (problems []string) {
	queued, wanted := false, false // by any pool
	for _, name := range c.poolNames() {
		pool := c.Pools[name]
		queued = queued || pool.Queue != ""
		wanted = wanted || pool.Karpenter != nil || c.onKarpenter(name)
		problems = append(problems, c.checkKarpenter(name)...)
		if pool.Queue != "" && c.Store.PerReplica && pool.Replicas.Max > max(pool.Replicas.Min, 1) {
			problems = append(problems, fmt.Sprintf(
				"pools.%s.queue: %q cannot be combined with store.perReplica and replicas.max, because Kueue does not let a "+
					"StatefulSet grow: leave queue or replicas.max out",
				name, pool.Queue,
			))
		}
	}
	if kueue := c.Autoscaling.Kueue; kueue != nil && !queued {
		problems = append(problems, fmt.Sprintf(
			"autoscaling.kueue.clusterQueue: %q is set but no pool has a queue: set queue on a pool, or leave kueue out",
			kueue.ClusterQueue,
		))
	}
	if c.Autoscaling.Karpenter != nil && !wanted {
		problems = append(
			problems,
			"autoscaling.karpenter: is set but no pool has whole GPUs: set gpu.count on a pool (without gpu.mig), or leave "+
				"karpenter out",
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
			"namespace.name: %q makes the NodePool's name %s %d characters long, but a node label allows 63: shorten it, or "+
				"the pool's name",
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
				"%s.values: %s does not fit operator %s: use %s", at, encode(r.Values), r.Operator, want,
			))
		}
	}
	if class.Group != "" && !asked.Decided(class) {
		gpus := "the pool's GPUs"
		if pool.GPU.Product != "" {
			gpus = pool.GPU.Product // instances get this label only when they run
		}
		problems = append(problems, fmt.Sprintf(
			"%s.karpenter.requirements: none selects instances, and Karpenter cannot tell which have %s: add {key: "+
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

// checkNoKarpenter reports NodePool settings on a pool without a NodePool.
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
			"%s.karpenter: is set but gpu.mig is %s, and Karpenter supports only whole GPUs: leave it or gpu.mig out", key,
			pool.GPU.MIG,
		))
	default:
		problems = append(
			problems,
			key+".karpenter: is set but gpu.count is 0, and NodePools are only for GPUs: leave it out, or set gpu.count",
		)
	}
	return problems
}

// karpentersOwn reports labels that Karpenter or the node itself sets.
func karpentersOwn(key, label string) []string {
	if label != "karpenter.sh/nodepool" && label != "kubernetes.io/hostname" {
		return nil
	}
	return []string{fmt.Sprintf("%s: %s is set when the node is created: leave it out", key, label)}
}

// wrongValues returns which values a requirement should have, or "" if its values are valid.
func wrongValues(r components.NodeRequirement) string {
	switch r.Operator {
	case "In", "NotIn":
		if len(r.Values) == 0 {
			return "at least one value"
		}
	case "Exists", "DoesNotExist":
		if len(r.Values) > 0 {
			return "no values"
		}
	case "Gt", "Lt", "Gte", "Lte":
		if len(r.Values) == 1 {
			if number, err := strconv.Atoi(r.Values[0]); err == nil && number >= 0 {
				return ""
			}
		}
		return "one whole number, in quotes"
	}
	return "" // the schema has reported an unknown operator
}
