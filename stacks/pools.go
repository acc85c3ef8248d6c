package stacks

import (
	"strings"

	"ollama-k8s/components"
	"ollama-k8s/internal/modelref"
)

// Makes the pools for the components from the config and the plan. Deploy adds what only components know: the pods'
// host, and the NodePool.

// pools returns the pools sorted by name.
func (c *Config) pools() []components.Pool {
	var pools []components.Pool
	for _, name := range c.poolNames() {
		pool := c.pool(name)
		pool.Models = c.poolModels(name)
		pools = append(pools, pool)
	}
	return pools
}

// pool returns the pool without its models, which need the plan.
func (c *Config) pool(name string) components.Pool {
	config := c.Pools[name]
	pool := components.Pool{Name: name, Replicas: config.Replicas, Placement: config.placement(), Queue: config.Queue}
	if c.onKarpenter(name) {
		pool.Karpenter = &components.NodeRequests{}
		if config.Karpenter != nil {
			pool.Karpenter = config.Karpenter
		}
	}
	return pool
}

// surge returns how many pods an update starts before it stops others: 1 with a spare GPU and a volume that both pods
// can mount, or else 0. A StatefulSet does not surge.
func (c *Config) surge(pool Pool) int {
	if pool.GPU.Spare && !c.Store.PerReplica && c.Store.shared() {
		return 1
	}
	return 0
}

func (p Pool) placement() components.Placement {
	gpu := components.GPU{Count: p.GPU.Count, Vendor: p.GPU.Vendor, MIG: p.GPU.MIG, Product: p.GPU.Product}
	if p.GPU.MIG == "" {
		gpu.MinMiB = int(p.GPU.VRAMGiB * 1024 * 0.99) // vramGiB may be rounded up
	}
	return components.Placement{
		GPU: gpu, NodeSelector: p.NodeSelector, Tolerations: p.Tolerations,
		RuntimeClassName: p.RuntimeClassName, PriorityClassName: p.PriorityClassName,
	}
}

// poolModels returns the pool's models. Models with the same weights share the queue of the first one, because Ollama
// loads the weights once.
func (c *Config) poolModels(name string) []components.Model {
	var models []components.Model
	plan, first := c.plans[name], map[string]string{}
	for _, model := range c.Pools[name].Models {
		root, _, _ := c.origin(model)
		weights := modelref.Normal(root.Name)
		if _, loaded := first[weights]; !loaded {
			first[weights] = model
		}
		context := plan.ContextOf(model)
		models = append(models, components.Model{
			Name: model, Digest: c.lockedDigest(model), Slots: plan.Slots(model), Context: context, Queue: first[weights],
			OutputTokens: c.outputTokens(name, model, context),
		})
	}
	return models
}

// lockedDigest returns the digest of a stored model in models.lock.yaml, or "".
func (c *Config) lockedDigest(name string) string {
	for _, m := range c.stored {
		if m.Name == name {
			return m.locked.Digest
		}
	}
	return ""
}

// outputTokens returns the limits for a model's answers: the pool's maxOutputTokens, or else the context, which no
// answer exceeds. A Modelfile's num_predict applies to requests that set no limit.
func (c *Config) outputTokens(pool, model string, context int) components.OutputTokens {
	limit := components.OutputTokens{Most: context}
	if most := c.Pools[pool].MaxOutputTokens; most > 0 && (context == 0 || most < context) {
		limit.Most = most
	}
	if own := c.numPredict(model); own > 0 && (limit.Most == 0 || own < limit.Most) {
		limit.Silent = own
	}
	return limit
}

// rocmImage returns Ollama's image for AMD GPUs, or "" if images.ollama has no tag from which to derive it.
func (c *Config) rocmImage() string {
	if c.Images.OllamaROCm != "" || strings.Contains(c.Images.Ollama, "@") {
		return c.Images.OllamaROCm
	}
	return c.Images.Ollama + "-rocm"
}
