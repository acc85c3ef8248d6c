package vram

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Pool is what is asked of one pool.
type Pool struct {
	// Settings; a Context or Parallel of 0 is chosen.
	Settings
	// GiB is the memory of each GPU; of the whole pod in a CPU pool. 0: not known.
	GiB float64
	// MaxLoaded is the number of models that shall stay loaded together. 0: as many as fit.
	MaxLoaded int
	Models    []Model
}

// Plan is how a pool runs.
type Plan struct {
	Settings
	GiB       float64
	MaxLoaded int
	// Loads of the known models, in the pool's order.
	Loads []Load
	// Unknown are the models of which nothing is known: neither the lock nor the config states their memory.
	Unknown []string
	// Warnings are for people; nothing is refused for them.
	Warnings []string
}

// Problem is a reason to refuse a pool. Setting is the key, below the pool's, that the remedy starts from.
type Problem struct{ Setting, Text string }

// Where nothing can be planned.
const (
	DefaultContext  = 8192
	DefaultParallel = 4
)

// ladder is the documented order of choice, from what every pool should have to what a large GPU can spare: first a
// context of 8k, then four requests at a time, then 32k, then eight requests, then 128k.
var ladder = []Settings{
	{Context: 2048, Parallel: 1}, {Context: 4096, Parallel: 1}, {Context: 8192, Parallel: 1}, {Context: 8192, Parallel: 2},
	{Context: 8192, Parallel: 4},
	{Context: 16384, Parallel: 4}, {Context: 32768, Parallel: 4}, {Context: 32768, Parallel: 8},
	{Context: 65536, Parallel: 8}, {Context: 131072, Parallel: 8},
}

// comfortable is the rung from which keeping all models loaded goes before a larger context; below it, a pool that
// swaps serves better.
var comfortable = ladder[4]

// cpuBase is for Ollama itself: its server and a runner take about 200 MiB before the first weight.
const cpuBase = 512 << 20

// Make plans a pool, or says why it cannot be.
func Make(p Pool) (Plan, []Problem) {
	plan := p.choose()
	models := max(len(plan.runners()), 1)
	var problems []Problem
	switch {
	case p.GiB == 0 && p.GPUs == 0 && len(plan.Unknown) == 0:
		plan.MaxLoaded = models // the pod's memory follows
	case p.GiB == 0 || len(plan.Unknown) > 0:
		plan.MaxLoaded = 1
	default:
		plan.MaxLoaded = plan.together()
	}
	if p.GiB > 0 && !plan.fitsAlone() {
		return plan, []Problem{p.misfit(plan)}
	}
	if p.MaxLoaded > 0 {
		if fit := plan.together(); p.GiB > 0 && min(p.MaxLoaded, models) > max(fit, 1) {
			problems = append(problems, Problem{"maxLoadedModels", fmt.Sprintf(
				"%d do not fit together, %d would: lower it or leave it out", p.MaxLoaded, fit,
			)})
		}
		plan.MaxLoaded = p.MaxLoaded
	}
	plan.Warnings = plan.thrash()
	return plan, problems
}

// choose climbs the ladder: to the highest rung, from a comfortable one up, on which all models stay loaded together;
// else to the highest on which each fits alone; else it stays on the lowest.
func (p Pool) choose() Plan {
	rungs := p.rungs()
	lowest := p.at(rungs[0])
	if p.GiB == 0 || len(lowest.Unknown) > 0 {
		return p.at(p.usual())
	}
	wanted := len(lowest.runners())
	if p.MaxLoaded > 0 {
		wanted = min(wanted, p.MaxLoaded)
	}
	for _, alone := range []bool{false, true} {
		for i := len(rungs) - 1; i >= 0; i-- {
			plan := p.at(rungs[i])
			small := plan.Context < comfortable.Context || plan.Parallel < comfortable.Parallel
			switch {
			case !plan.fitsAlone():
			case plan.together() >= wanted && (alone || !small || p.MaxLoaded > 0):
				return plan
			case alone && (p.MaxLoaded == 0 || i == 0):
				return plan
			}
		}
	}
	return lowest
}

// rungs are the ladder's with what the config fixes in place, no context above what any of the models was trained for,
// each once.
func (p Pool) rungs() (rungs []Settings) {
	for _, rung := range ladder {
		if s := p.fill(rung); !slices.Contains(rungs, s) {
			rungs = append(rungs, s)
		}
	}
	return rungs
}

// usual are the settings of a pool that cannot be planned.
func (p Pool) usual() Settings {
	return p.fill(Settings{Context: DefaultContext, Parallel: DefaultParallel})
}

func (p Pool) fill(s Settings) Settings {
	s.CacheType, s.GPUs = p.CacheType, p.GPUs
	trained, fixed, known := 0, 0, true
	for _, m := range p.Models {
		fixed = max(fixed, m.NumCtx)
		if m.Shape == nil || m.Shape.Context == 0 {
			known = false
			continue
		}
		trained = max(trained, m.Shape.Context)
	}
	if known && trained > 0 {
		s.Context = min(s.Context, trained)
	}
	if fixed > 0 { // another context than a Modelfile's would load the same weights twice in turn
		s.Context = fixed
	}
	if p.Context > 0 {
		s.Context = p.Context
	}
	if p.Parallel > 0 {
		s.Parallel = p.Parallel
	}
	return s
}

// at is the pool under settings.
func (p Pool) at(s Settings) Plan {
	plan := Plan{Settings: s, GiB: p.GiB}
	for _, m := range p.Models {
		if l, known := load(m, s); known {
			plan.Loads = append(plan.Loads, l)
		} else {
			plan.Unknown = append(plan.Unknown, m.Name)
		}
	}
	return plan
}

// capacity is the memory of one GPU, or of a CPU pod's models.
func (p Plan) capacity() int64 {
	capacity := int64(p.GiB * GiB)
	if p.GPUs == 0 {
		capacity -= cpuBase
	}
	return capacity
}

// runners are the loads that can be in memory together, largest first: of models that share weights, the larger.
func (p Plan) runners() []Load {
	byWeights := map[string]Load{}
	for _, l := range p.Loads {
		key := cmp.Or(l.Model.Weights, l.Model.Name)
		if known, ok := byWeights[key]; !ok || l.Needs() > known.Needs() {
			byWeights[key] = l
		}
	}
	runners := make([]Load, 0, len(byWeights))
	for _, l := range byWeights {
		runners = append(runners, l)
	}
	slices.SortFunc(runners, func(a, b Load) int {
		return cmp.Or(cmp.Compare(b.Uses(), a.Uses()), cmp.Compare(a.Model.Name, b.Model.Name))
	})
	return runners
}

func (p Plan) fitsAlone() bool { return len(p.tooLarge()) == 0 }

func (p Plan) tooLarge() (large []Load) {
	for _, l := range p.Loads {
		if l.Needs() > p.capacity() {
			large = append(large, l)
		}
	}
	return large
}

// together is how many models stay loaded whichever they are and in whatever order they come. The last one to come must
// find what it needs beside the others, and on a GPU 80 % of what they leave must hold it: the largest, x, then takes
// at most 0.8 (VRAM - sum + x), which is sum + x/4 <= VRAM.
func (p Plan) together() int {
	runners := p.runners()
	var sum, reserve int64
	for i, l := range runners {
		sum += l.Uses()
		reserve = max(reserve, l.Reserve)
		took := sum + reserve
		if i > 0 && p.GPUs > 0 {
			took = max(took, sum+int64(float64(runners[0].Uses())*(1/secondModelShare-1)))
		}
		if took > p.capacity() {
			return i
		}
	}
	return len(runners)
}

// thrash warns of models that share weights and disagree on the context: Ollama keeps one of them and reloads for the
// other.
func (p Plan) thrash() (warnings []string) {
	first := map[string]Load{}
	for _, l := range p.Loads {
		other, ok := first[l.Model.Weights]
		if !ok || l.Model.Weights == "" {
			first[l.Model.Weights] = l
			continue
		}
		if other.Context != l.Context {
			warnings = append(warnings, fmt.Sprintf("%s (context %d) and %s (context %d) share the weights of %s: each "+
				"request for the other one loads them anew; set PARAMETER num_ctx %d in the Modelfile, or one contextLength for "+
				"both",
				other.Model.Name, other.Context, l.Model.Name, l.Context, l.Model.Weights, other.Context))
		}
	}
	return warnings
}

// HostGiB is the memory, in whole GiB, that a pod should have: in a CPU pool the models themselves; beside a GPU the
// largest model's weights, which pass through memory when they are loaded, and 4 GiB for Ollama, the token embeddings
// and pinned buffers.
func (p Plan) HostGiB() int {
	var need int64
	if p.GPUs > 0 {
		need = 4 * GiB
		for _, l := range p.Loads {
			need = max(need, 4*GiB+l.Weights*int64(p.GPUs))
		}
	} else {
		if p.GiB > 0 {
			return int(p.GiB + 0.5)
		}
		need = cpuBase
		for i, l := range p.runners() {
			if i < p.MaxLoaded {
				need += l.Uses()
			}
		}
	}
	return int((need + GiB - 1) / GiB)
}

// ContextOf is the number of tokens that a request for a model may use.
func (p Plan) ContextOf(model string) int {
	for _, l := range p.Loads {
		if l.Model.Name == model {
			return l.Context
		}
	}
	return p.Context
}

// Slots is the number of requests that a pod answers at a time for a model.
func (p Plan) Slots(model string) int {
	for _, l := range p.Loads {
		if l.Model.Name == model {
			return l.Parallel
		}
	}
	return p.Parallel
}

// misfit says why the models do not fit, with the arithmetic, and which settings would do.
func (p Pool) misfit(plan Plan) Problem {
	var parts []string
	for _, l := range plan.tooLarge() {
		parts = append(parts, l.arithmetic(plan))
	}
	setting, has := "gpu.vramGiB", fmt.Sprintf("each GPU has %.1f GiB", p.GiB)
	if p.GPUs == 0 {
		setting, has = "memory", fmt.Sprintf("the pod has %.1f GiB, %.1f of them for Ollama itself", p.GiB, gib(cpuBase))
	}
	return Problem{setting, fmt.Sprintf(
		"%s; %s: set %s", strings.Join(parts, "; "), has, strings.Join(p.remedies(plan), ", or "),
	)}
}

func (l Load) arithmetic(plan Plan) string {
	if l.Model.GiB > 0 {
		return fmt.Sprintf("%s needs the %.1f GiB that its vramGiB states", l.Model.Name, l.Model.GiB)
	}
	text := fmt.Sprintf("%s needs %.1f GiB = weights %.1f + KV cache %.1f (%d tokens x %d requests) + graph %.1f",
		l.Model.Name, gib(l.Needs()), gib(l.Weights), gib(l.KV), l.Context, l.Parallel, gib(l.Graph))
	if plan.GPUs > 0 {
		text += fmt.Sprintf(" + GPU runtime %.1f + what Ollama reserves to place it %.1f", gib(l.Device), gib(l.Reserve))
	}
	if plan.GPUs > 1 {
		text += fmt.Sprintf(" on each of %d GPUs", plan.GPUs)
	}
	return text
}

// remedies are changes of one setting each that make the pool fit, the least first; every one is planned before it is
// named.
func (p Pool) remedies(plan Plan) (remedies []string) {
	try := func(change func(*Pool)) bool {
		changed := p
		changed.Context, changed.Parallel = plan.Context, plan.Parallel
		change(&changed)
		return changed.at(changed.usual()).fitsAlone()
	}
	for parallel := plan.Parallel - 1; parallel >= 1; parallel-- {
		if try(func(p *Pool) { p.Parallel = parallel }) {
			remedies = append(remedies, fmt.Sprintf("parallel to %d", parallel))
			break
		}
	}
	for context := plan.Context / 2; context >= 1024; context /= 2 {
		if try(func(p *Pool) { p.Context = context }) {
			remedies = append(remedies, fmt.Sprintf("contextLength to %d", context))
			break
		}
	}
	for _, cacheType := range []string{CacheQ8, CacheQ4} {
		if plan.CacheType != CacheQ4 && plan.CacheType != cacheType && try(func(p *Pool) { p.CacheType = cacheType }) {
			remedies = append(remedies, "kvCacheType to "+cacheType)
			break
		}
	}
	if p.GPUs == 0 {
		for _, l := range plan.tooLarge() {
			plan.GiB = max(plan.GiB, gib(l.Needs()+cpuBase))
		}
		return append(remedies, fmt.Sprintf("memory to %dGi", int(plan.GiB)+1))
	}
	for gpus := p.GPUs + 1; gpus <= 8; gpus++ {
		if try(func(p *Pool) { p.GPUs = gpus }) {
			remedies = append(remedies, fmt.Sprintf("gpu.count to %d", gpus))
			break
		}
	}
	for _, l := range plan.tooLarge() {
		plan.GiB = max(plan.GiB, gib(l.Needs()))
	}
	return append(remedies, fmt.Sprintf("gpu.vramGiB to %d with GPUs that have as much", int(plan.GiB)+1))
}

func gib(bytes int64) float64 { return float64(bytes) / GiB }
