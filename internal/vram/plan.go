package vram

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Pool is the request for a plan of one pool.
type Pool struct {
	// Settings of the pool. Make chooses a Context or Parallel of 0.
	Settings
	// GiB is the memory of each GPU, or of the whole pod in a CPU pool. 0: unknown.
	GiB float64
	// MaxLoaded is the number of models to keep loaded together. 0: as many as fit.
	MaxLoaded int
	Models    []Model
}

// Plan says how a pool runs.
type Plan struct {
	Settings
	GiB       float64
	MaxLoaded int
	// Loads of the known models, in the pool's order.
	Loads []Load
	// Unknown lists the models whose memory neither the lock nor the config states.
	Unknown []string
	// Warnings inform the user. They do not stop a deployment.
	Warnings []string
}

// Problem is a reason to reject a pool. Setting is the key to change first, relative to the pool's key.
type Problem struct{ Setting, Text string }

// Defaults for a pool whose memory is unknown.
const (
	DefaultContext  = 8192
	DefaultParallel = 4
)

// ladder lists the settings to choose from, in the documented order, from what every pool should have to what only a
// large GPU can spare: first a context of 8k, then four requests at a time, then 32k, then eight requests, then 128k.
var ladder = []Settings{
	{Context: 2048, Parallel: 1}, {Context: 4096, Parallel: 1}, {Context: 8192, Parallel: 1}, {Context: 8192, Parallel: 2},
	{Context: 8192, Parallel: 4},
	{Context: 16384, Parallel: 4}, {Context: 32768, Parallel: 4}, {Context: 32768, Parallel: 8},
	{Context: 65536, Parallel: 8}, {Context: 131072, Parallel: 8},
}

// comfortable is the lowest rung on which keeping all models loaded matters more than a larger context. Below it,
// swapping models serves a pool better.
var comfortable = ladder[4]

// cpuBase is the memory for Ollama itself: its server and a runner take about 200 MiB before the first weight.
const cpuBase = 512 << 20

// Make plans a pool. The problems say why it cannot run as requested.
func Make(p Pool) (Plan, []Problem) {
	plan := p.choose()
	models := max(len(plan.runners()), 1)
	var problems []Problem
	switch {
	case p.GiB == 0 && p.GPUs == 0 && len(plan.Unknown) == 0:
		plan.MaxLoaded = models // the pod gets the memory for all of them
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
				"%d models do not fit together, only %d: lower it or leave it out", p.MaxLoaded, fit,
			)})
		}
		plan.MaxLoaded = p.MaxLoaded
	}
	plan.Warnings = plan.thrash()
	return plan, problems
}

// choose returns the highest rung, from comfortable up, on which all models stay loaded together; or else the highest
// on which each fits alone; or else the lowest.
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

// rungs returns the rungs of the ladder with the config's fixed values filled in and the context capped at the longest
// that any model was trained for, without duplicates.
func (p Pool) rungs() (rungs []Settings) {
	for _, rung := range ladder {
		if s := p.fill(rung); !slices.Contains(rungs, s) {
			rungs = append(rungs, s)
		}
	}
	return rungs
}

// usual returns the settings of a pool that cannot be planned.
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
	if fixed > 0 { // with any other context, Ollama would reload the same weights in turn
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

// at plans the pool with the given settings.
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

// capacity returns the memory of one GPU, or the memory that a CPU pod has for models.
func (p Plan) capacity() int64 {
	capacity := int64(p.GiB * GiB)
	if p.GPUs == 0 {
		capacity -= cpuBase
	}
	return capacity
}

// runners returns the loads that can be in memory together, largest first. Of models that share weights it returns the
// larger load.
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

// together returns how many models stay loaded, whichever they are and in whatever order they are loaded. The last one
// must fit next to the others, and on a GPU into 80 % of what they leave free. The largest, x, then takes at most 0.8
// (VRAM - sum + x), which is sum + x/4 <= VRAM.
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

// thrash warns about models that share weights but differ in the context: Ollama keeps one of them loaded and reloads
// for the other.
func (p Plan) thrash() (warnings []string) {
	first := map[string]Load{}
	for _, l := range p.Loads {
		other, ok := first[l.Model.Weights]
		if !ok || l.Model.Weights == "" {
			first[l.Model.Weights] = l
			continue
		}
		if other.Context != l.Context {
			warnings = append(warnings, fmt.Sprintf("%s (context %d) and %s (context %d) share the weights of %s, so "+
				"Ollama reloads them when requests switch between the two: set PARAMETER num_ctx %d in the Modelfile, or one "+
				"contextLength for both",
				other.Model.Name, other.Context, l.Model.Name, l.Context, l.Model.Weights, other.Context))
		}
	}
	return warnings
}

// HostGiB returns the memory that a pod should have, in whole GiB. A CPU pod holds the models themselves. A GPU pod
// needs the weights of its largest model, which pass through memory while they load, and 4 GiB for Ollama, the token
// embeddings and pinned buffers.
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

// ContextOf returns the number of tokens that a request for a model may use.
func (p Plan) ContextOf(model string) int {
	for _, l := range p.Loads {
		if l.Model.Name == model {
			return l.Context
		}
	}
	return p.Context
}

// Slots returns the number of requests for a model that a pod answers at a time.
func (p Plan) Slots(model string) int {
	for _, l := range p.Loads {
		if l.Model.Name == model {
			return l.Parallel
		}
	}
	return p.Parallel
}

// misfit explains with the arithmetic why the models do not fit, and names settings with which they would.
func (p Pool) misfit(plan Plan) Problem {
	var parts []string
	for _, l := range plan.tooLarge() {
		parts = append(parts, l.arithmetic(plan))
	}
	setting, has := "gpu.vramGiB", fmt.Sprintf("each GPU has %.1f GiB", p.GiB)
	if p.GPUs == 0 {
		setting, has = "memory", fmt.Sprintf("the pod has %.1f GiB, of which Ollama itself takes %.1f", p.GiB, gib(cpuBase))
	}
	return Problem{setting, fmt.Sprintf(
		"%s; %s: set %s", strings.Join(parts, "; "), has, strings.Join(p.remedies(plan), ", or "),
	)}
}

func (l Load) arithmetic(plan Plan) string {
	if l.Model.GiB > 0 {
		return fmt.Sprintf("%s needs %.1f GiB, as its vramGiB says", l.Model.Name, l.Model.GiB)
	}
	text := fmt.Sprintf("%s needs %.1f GiB = weights %.1f + KV cache %.1f (%d tokens x %d requests) + graph %.1f",
		l.Model.Name, gib(l.Needs()), gib(l.Weights), gib(l.KV), l.Context, l.Parallel, gib(l.Graph))
	if plan.GPUs > 0 {
		text += fmt.Sprintf(" + GPU runtime %.1f + reserve for placement %.1f", gib(l.Device), gib(l.Reserve))
	}
	if plan.GPUs > 1 {
		text += fmt.Sprintf(" on each of %d GPUs", plan.GPUs)
	}
	return text
}

// remedies returns changes of one setting each that make the pool fit, smallest change first. It plans every change
// before it names it.
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
	return append(remedies, fmt.Sprintf("gpu.vramGiB to %d and use GPUs with that much memory", int(plan.GiB)+1))
}

func gib(bytes int64) float64 { return float64(bytes) / GiB }
