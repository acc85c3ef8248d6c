package vram_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/internal/vram"
)

// A model of 40 GiB whose cache takes 320 KiB a token, as a 70B model at four bits.
var large = vram.Shape{
	Architecture: "llama", Bytes: 40 * vram.GiB, KVPerToken: 320 << 10, Graph: 266 << 20, Layers: 80, Heads: 64,
	KVHeads: 8, Embedding: 8192, Context: 131072,
}

// A model of 4 GiB with 128 KiB a token.
var small = vram.Shape{
	Architecture: "llama", Bytes: 4 * vram.GiB, KVPerToken: 128 << 10, Graph: 258 << 20, Layers: 32, Heads: 32, KVHeads: 8,
	Embedding: 4096, Context: 8192,
}

func pool(gib float64, shapes ...vram.Shape) vram.Pool {
	p := vram.Pool{Settings: vram.Settings{GPUs: 1, CacheType: vram.CacheF16}, GiB: gib}
	for i := range shapes {
		name := fmt.Sprintf("m%d", i)
		p.Models = append(p.Models, vram.Model{Name: name, Weights: name, Shape: &shapes[i]})
	}
	return p
}

func fixed(p vram.Pool, context, parallel int) vram.Pool {
	p.Context, p.Parallel = context, parallel
	return p
}

func TestTheMemoryOfAModel(t *testing.T) {
	gib := func(x int64) float64 { return float64(x) / vram.GiB }
	one := func(p vram.Pool) vram.Load {
		plan, _ := vram.Make(p)
		require.Len(t, plan.Loads, 1)
		return plan.Loads[0]
	}
	l := one(fixed(pool(80, large), 8192, 4))
	assert.InDelta(t, 10, gib(l.KV), 0.001, "8192 x 4 x 320 KiB")
	assert.InDelta(t, 0.26+0.023, gib(l.Graph), 0.01, "the graph, and the mask of one request's context")

	assert.InDelta(
		t, 4.25-0.28+50.0/81, gib(l.Reserve), 0.05, "Ollama's own estimate of the graph, 2 KiB x 32768 x 67, and a layer",
	)

	quantized := fixed(pool(80, large), 8192, 4)
	quantized.CacheType = vram.CacheQ8
	assert.InDelta(t, 5.3125, gib(one(quantized).KV), 0.001, "34 bytes for 32 numbers")

	assert.InDelta(
		t, 10*8192.0/8000, gib(one(fixed(pool(80, large), 8000, 4)).KV)*8192/8000, 0.001,
		"each request's context is rounded up to 256 tokens",
	)

	capped := one(fixed(pool(80, small), 32768, 1))
	assert.Equal(t, 8192, capped.Context, "no more context than the model was trained for")
	assert.InDelta(t, 1, gib(capped.KV), 0.001)

	embedder := small
	embedder.EmbeddingOnly = true
	assert.Equal(t, 1, one(fixed(pool(80, embedder), 2048, 4)).Parallel)

	windowed := large
	windowed.KVPerToken, windowed.KVPerWindowToken, windowed.Window = 64<<10, 256<<10, 1024
	windowed.Architecture = "gemma3"
	assert.InDelta(
		t, 2+(256.0/1024/1024)*(4*1024+512), gib(one(fixed(pool(80, windowed), 8192, 4)).KV), 0.001,
		"a window's layers keep the window and a batch",
	)

	two := fixed(pool(80, large), 8192, 4)
	two.GPUs = 2
	spread := one(two)
	assert.InDelta(t, 40*41.0/81, gib(spread.Weights), 0.001, "41 of 80 layers and the output")
	assert.InDelta(t, gib(l.Graph), gib(spread.Graph), 0.001, "each GPU has a graph")

	assert.Equal(
		t, int64(51*vram.GiB),
		one(vram.Pool{Settings: vram.Settings{GPUs: 1}, GiB: 80, Models: []vram.Model{{Name: "m", GiB: 51}}}).Uses(),
		"what the config states is taken as it is",
	)
}

func TestWhatDoesNotFitIsRefusedWithTheArithmeticAndSettingsThatWouldDo(t *testing.T) {
	asked := fixed(pool(48, large), 8192, 4)
	_, problems := vram.Make(asked)
	require.Len(t, problems, 1)
	assert.Equal(t, "gpu.vramGiB", problems[0].Setting)
	assert.Contains(t, problems[0].Text, "weights 40.0 + KV cache 10.0 (8192 tokens x 4 requests)")
	assert.Contains(t, problems[0].Text, "each GPU has 48.0 GiB")

	// What it names does work.
	for _, remedy := range strings.Split(strings.SplitN(problems[0].Text, ": set ", 2)[1], ", or ") {
		changed := asked
		var value int
		switch {
		case scan(remedy, "parallel to %d", &value):
			changed.Parallel = value
		case scan(remedy, "contextLength to %d", &value):
			changed.Context = value
		case scan(remedy, "gpu.count to %d", &value):
			changed.GPUs = value
		case scan(remedy, "gpu.vramGiB to %d", &value):
			changed.GiB = float64(value)
		case strings.HasPrefix(remedy, "kvCacheType to "):
			changed.CacheType = strings.TrimPrefix(remedy, "kvCacheType to ")
		default:
			t.Fatalf("unknown remedy %q", remedy)
		}
		_, problems := vram.Make(changed)
		assert.Empty(t, problems, remedy)
	}
	_, problems = vram.Make(fixed(pool(80, large), 8192, 4))
	assert.Empty(t, problems)
}

func scan(text, form string, value *int) bool {
	n, err := fmt.Sscanf(text, form, value)
	return err == nil && n == 1
}

func TestHowManyModelsStayLoaded(t *testing.T) {
	stated := func(gib float64, sizes ...float64) vram.Pool {
		p := vram.Pool{Settings: vram.Settings{GPUs: 1}, GiB: gib}
		for i, size := range sizes {
			name := fmt.Sprintf("m%d", i)
			p.Models = append(p.Models, vram.Model{Name: name, Weights: name, GiB: size})
		}
		return p
	}
	for name, test := range map[string]struct {
		pool vram.Pool
		want int
	}{
		"a pool of unknown memory keeps one":                {stated(0, 10, 10), 1},
		"two 70B models never share 80 GiB":                 {stated(80, 51, 51), 1},
		"two models whose sum and a quarter of one fit":     {stated(80, 40, 30), 2},
		"the larger may come last, and must fit 80 percent": {stated(80, 60, 16), 1},
		"three small models":                                {stated(80, 10, 10, 10), 3},
		"one alone may fill the GPU":                        {stated(51, 51), 1},
		"a CPU pool without a limit keeps all":              {vram.Pool{Models: stated(0, 10, 20).Models}, 2},
		"two real 70B models on 80 GiB":                     {fixed(pool(80, large, large), 8192, 4), 1},
		"a Modelfile shares the weights of what it is FROM": {sharing(8192), 1},
		"models of unknown memory are not planned, one stays": {vram.Pool{
			Settings: vram.Settings{GPUs: 1}, GiB: 80, Models: []vram.Model{{Name: "a"}, {Name: "b"}},
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			plan, problems := vram.Make(test.pool)
			assert.Empty(t, problems)
			assert.Equal(t, test.want, plan.MaxLoaded)
		})
	}
	asked := stated(80, 51, 51)
	asked.MaxLoaded = 2
	_, problems := vram.Make(asked)
	assert.Equal(t, []vram.Problem{{
		Setting: "maxLoadedModels", Text: "2 models do not fit together, only 1: lower it or leave it out",
	}}, problems)
}

// sharing is a pool of a model and a Modelfile's made of it, with a context of its own.
func sharing(numCtx int) vram.Pool {
	p := fixed(pool(80, large, large), 8192, 4)
	p.Models[1].Weights, p.Models[1].NumCtx = p.Models[0].Weights, numCtx
	return p
}

func TestModelsThatReloadEachOtherAreWarnedOf(t *testing.T) {
	plan, _ := vram.Make(sharing(8192))
	assert.Empty(t, plan.Warnings)
	plan, _ = vram.Make(sharing(4096))
	require.Len(t, plan.Warnings, 1)
	assert.Contains(t, plan.Warnings[0], "m0 (context 8192) and m1 (context 4096) share the weights of m0")
}

func TestUnsetSettingsAreChosenByTheLadder(t *testing.T) {
	for name, test := range map[string]struct {
		pool              vram.Pool
		context, parallel int
	}{
		"a small GPU gives what it can":                       {pool(43, large), 4096, 1},
		"then 8k":                                             {pool(50, large), 8192, 2},
		"a large GPU goes on to 16k":                          {pool(80, large), 16384, 4},
		"no more context than the model knows":                {pool(80, small), 8192, 8},
		"a set context stays":                                 {fixed(pool(80, large), 4096, 0), 4096, 8},
		"a set parallel stays":                                {fixed(pool(80, large), 0, 2), 32768, 2},
		"a Modelfile's num_ctx decides":                       {unset(sharing(4096)), 4096, 8},
		"two models stay loaded rather than a longer context": {pool(80, large, small), 8192, 4},
		"without VRAM the usual":                              {pool(0, large), 8192, 4},
	} {
		t.Run(name, func(t *testing.T) {
			plan, problems := vram.Make(test.pool)
			assert.Empty(t, problems)
			assert.Equal(t, [2]int{test.context, test.parallel}, [2]int{plan.Context, plan.Parallel})
		})
	}
}

func unset(p vram.Pool) vram.Pool { return fixed(p, 0, 0) }

func TestTheMemoryOfAPod(t *testing.T) {
	plan, _ := vram.Make(fixed(pool(80, large), 8192, 4))
	assert.Equal(t, 44, plan.HostGiB(), "the weights pass through memory, and 4 GiB")
	cpu := fixed(pool(0, small), 8192, 4)
	cpu.GPUs = 0
	plan, _ = vram.Make(cpu)
	assert.Equal(t, 9, plan.HostGiB(), "4 of weights, 4 of KV cache, the graph, and half a GiB")
	cpu.GiB = 8
	_, problems := vram.Make(cpu)
	require.Len(t, problems, 1)
	assert.Equal(t, "memory", problems[0].Setting)
	assert.Contains(t, problems[0].Text, "memory to 9Gi")
}

// 10,000 pools of any kind: no panic, an accepted plan holds what it says it holds, and more VRAM never refuses what
// less accepted.
func TestAnyPoolIsPlannedWithinItsMemoryAndMoreMemoryNeverHurts(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	accepted := 0
	for i := range 10_000 {
		p := randomPool(random)
		plan, problems := vram.Make(p)
		if len(problems) > 0 {
			for _, problem := range problems {
				require.Contains(t, []string{"gpu.vramGiB", "maxLoadedModels", "memory"}, problem.Setting)
				require.Contains(t, problem.Text, ": ")
			}
			continue
		}
		accepted++
		require.Positive(t, plan.Context)
		require.Positive(t, plan.Parallel)
		require.Positive(t, plan.MaxLoaded)
		if p.GiB > 0 {
			var held int64
			for _, use := range largest(plan) {
				held += use
			}
			require.LessOrEqual(t, held, int64(p.GiB*vram.GiB), "pool %d: %+v", i, p)
			p.GiB *= 1 + random.Float64()
			_, problems = vram.Make(p)
			require.Empty(t, problems, "pool %d with more memory: %+v", i, p)
		}
	}
	assert.Greater(t, accepted, 2000, "the pools must not all be hopeless")
	assert.Less(t, accepted, 9500, "nor all harmless")
}

// largest are the memories of the largest models that may be loaded together, one for each weights.
func largest(plan vram.Plan) (uses []int64) {
	byWeights := map[string]int64{}
	for _, l := range plan.Loads {
		byWeights[l.Model.Weights] = max(byWeights[l.Model.Weights], l.Uses())
	}
	for range min(plan.MaxLoaded, len(byWeights)) {
		var best string
		for weights, use := range byWeights {
			if best == "" || use > byWeights[best] {
				best = weights
			}
		}
		uses = append(uses, byWeights[best])
		delete(byWeights, best)
	}
	return uses
}

func randomPool(random *rand.Rand) vram.Pool {
	pick := func(values ...int) int { return values[random.IntN(len(values))] }
	p := vram.Pool{
		Settings: vram.Settings{
			Context: pick(0, 0, 512, 4096, 8192, 20000, 131072), Parallel: pick(0, 0, 1, 2, 4, 16),
			CacheType: []string{vram.CacheF16, vram.CacheQ8, vram.CacheQ4}[random.IntN(3)], GPUs: pick(0, 1, 1, 1, 2, 4, 8),
		},
		GiB: float64(pick(0, 8, 16, 24, 40, 48, 80, 141)), MaxLoaded: pick(0, 0, 0, 1, 2, 3),
	}
	for i := range 1 + random.IntN(4) {
		name := fmt.Sprintf("m%d", i)
		m := vram.Model{Name: name, Weights: name}
		switch random.IntN(6) {
		case 0:
			m.GiB = 1 + random.Float64()*40
		case 1:
			if i > 0 { // a Modelfile's
				m.Weights, m.Shape, m.NumCtx = p.Models[i-1].Weights, p.Models[i-1].Shape, pick(0, 2048, 8192)
			}
		default:
			heads := pick(8, 16, 32, 64)
			m.Shape = &vram.Shape{
				Architecture: []string{"llama", "qwen2", "qwen3", "gemma3", "phi3", "bert", "lfm2"}[random.IntN(7)],
				Bytes:        int64(random.Float64() * 60 * vram.GiB), KVPerToken: int64(random.IntN(400 << 10)),
				KVPerWindowToken: int64(random.IntN(2) * random.IntN(200<<10)),
				Window:           pick(0, 512, 4096), Graph: int64(random.IntN(600 << 20)), Layers: pick(1, 12, 32, 80),
				Heads:   heads,
				KVHeads: pick(1, heads/4, heads), Embedding: pick(768, 4096, 8192),
				Context: pick(0, 2048, 8192, 131072), EmbeddingOnly: random.IntN(8) == 0,
			}
		}
		p.Models = append(p.Models, m)
	}
	return p
}
