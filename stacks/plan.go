package stacks

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"ollama-k8s/internal/modelref"
	"ollama-k8s/internal/vram"
)

// Plans the memory of the pools from the lock, the Modelfiles and the config.

// defaultMemory is the memory of a pod whose models' memory is unknown.
const defaultMemory = "16Gi"

func (c *Config) plan() (problems []string) {
	c.plans = map[string]vram.Plan{}
	for _, name := range c.poolNames() {
		key := "pools." + name
		asked := c.vramPool(name)
		for _, model := range asked.Models {
			_, numCtx, place := c.origin(model.Name)
			if fixed := c.Pools[name].ContextLength; fixed > 0 && numCtx > fixed {
				problems = append(problems, fmt.Sprintf(
					"%s: num_ctx %d is above %s.contextLength %d: lower it, or raise contextLength", place, numCtx, key, fixed,
				))
			}
		}
		plan, wrong := vram.Make(asked)
		for _, problem := range wrong {
			problems = append(problems, fmt.Sprintf("%s.%s: %s", key, problem.Setting, problem.Text))
		}
		c.plans[name] = plan
	}
	return problems
}

// vramPool converts a pool to the planner's type.
func (c *Config) vramPool(name string) vram.Pool {
	pool := c.Pools[name]
	asked := vram.Pool{
		Settings: vram.Settings{
			Context: pool.ContextLength, Parallel: pool.Parallel, CacheType: pool.KVCacheType, GPUs: pool.GPU.Count,
		},
		GiB:       pool.vramGiB(),
		MaxLoaded: pool.MaxLoadedModels,
	}
	if pool.GPU.Count == 0 && pool.Memory != "" {
		asked.GiB = gib(pool.Memory)
	}
	for _, model := range pool.Models {
		root, numCtx, _ := c.origin(model)
		m := vram.Model{Name: model, NumCtx: numCtx, Weights: modelref.Normal(root.Name), GiB: c.statedGiB(model)}
		if figures := root.locked; figures.Bytes > 0 {
			m.Shape = &vram.Shape{
				Architecture: figures.Architecture, Bytes: figures.Bytes, KVPerToken: figures.KVPerToken,
				KVPerWindowToken: figures.KVPerWindowToken, Window: figures.Window,
				Graph: figures.Graph, Layers: figures.Layers, Heads: figures.Heads, KVHeads: figures.KVHeads,
				Embedding: figures.Embedding, Context: figures.Context,
				EmbeddingOnly: !slices.Contains(figures.Capabilities, "completion"),
			}
		}
		asked.Models = append(asked.Models, m)
	}
	return asked
}

// statedGiB returns the model's vramGiB from the config, or 0.
func (c *Config) statedGiB(name string) float64 {
	for _, m := range c.Models {
		if m.Name == name {
			return m.VRAMGiB
		}
	}
	return 0
}

// vramGiB returns the GPU memory from the config, or else that of the MIG slice. A slice has about 5 % less than its
// name says: an A100's 1g.10gb has 9,728 MiB.
func (p Pool) vramGiB() float64 {
	if p.GPU.VRAMGiB > 0 || p.GPU.MIG == "" {
		return p.GPU.VRAMGiB
	}
	var slices, gb float64
	if _, err := fmt.Sscanf(p.GPU.MIG, "%fg.%fgb", &slices, &gb); err != nil {
		return 0
	}
	return gb * 0.95
}

// gib converts a quantity in Mi or Gi, the only two units that the schema allows, to GiB.
func gib(quantity string) float64 {
	var number float64
	var unit string
	if _, err := fmt.Sscanf(quantity, "%f%s", &number, &unit); err != nil {
		return 0 // the schema has reported it
	}
	if unit == "Mi" {
		return number / 1024
	}
	return number
}

// memory returns the memory of a pod: from the config, or else from the plan.
func (c *Config) memory(name string) string {
	plan := c.plans[name]
	switch {
	case c.Pools[name].Memory != "":
		return c.Pools[name].Memory
	case len(plan.Unknown) > 0:
		return defaultMemory
	}
	return fmt.Sprintf("%dGi", plan.HostGiB())
}

// Plan returns the memory plan of a pool.
func (c *Config) Plan(pool string) vram.Plan { return c.plans[pool] }

// PrintPlan writes the plan of every pool as a table.
func (c *Config) PrintPlan(out io.Writer) error {
	for _, name := range c.poolNames() {
		if err := c.plans[name].Table(out, name, c.memory(name)); err != nil {
			return err
		}
	}
	return nil
}

// explain logs the plan, so that the preview shows it.
func (c *Config) explain(ctx *pulumi.Context) error {
	var table strings.Builder
	if err := c.PrintPlan(&table); err != nil {
		return err
	}
	if err := ctx.Log.Info("memory plan of the pools, in GiB:\n"+table.String(), nil); err != nil {
		return err
	}
	for _, name := range c.poolNames() {
		for _, warning := range c.plans[name].Warnings {
			if err := ctx.Log.Warn("pools."+name+": "+warning, nil); err != nil {
				return err
			}
		}
	}
	return nil
}
