// Package vram plans the memory of a pool: how much each model takes, how many models stay loaded together, and which
// context and parallelism fit. It does not depend on Pulumi, Kubernetes or files. Sizes are in bytes unless a name says
// GiB.
package vram

import "slices"

// GiB in bytes.
const GiB = 1 << 30

// Model is one model of a pool.
type Model struct {
	Name string
	// Shape of the model, from the lock. Nil: unknown.
	Shape *Shape
	// GiB is the memory of the loaded model according to the config. It overrides Shape. 0: not set.
	GiB float64
	// Weights names the weights. Models with the same weights, such as a Modelfile's model and its FROM, share one runner.
	Weights string
	// NumCtx is the context that a Modelfile sets. 0: the pool's.
	NumCtx int
}

// Shape holds the numbers from which a model's memory is calculated.
type Shape struct {
	Architecture string
	// Bytes of the weights.
	Bytes int64
	// KVPerToken is the f16 cache of one token in the layers that see the whole context. KVPerWindowToken is the same in
	// the layers that see only the last Window tokens.
	KVPerToken, KVPerWindowToken int64
	Window                       int
	// Graph is the memory for evaluating a batch of 512 tokens, without the attention mask.
	Graph                             int64
	Layers, Heads, KVHeads, Embedding int
	// Context is the number of tokens that the model was trained for. Ollama allows no more. 0: no limit.
	Context int
	// EmbeddingOnly models answer one request at a time.
	EmbeddingOnly bool
}

const (
	// overhead is the memory that a GPU runtime takes for each loaded model before the first weight: 457 MiB by Ollama's
	// own estimate.
	overhead = 457 << 20
	// maskPerToken is the attention mask of a batch of 512 tokens for each token of context: 4 bytes each, and 2 for the
	// f16 copy.
	maskPerToken = 512 * (4 + 2)
	batch        = 512
	// cachePadding is the multiple to which llama.cpp rounds up each request's context, in tokens.
	cachePadding = 256
	// secondModelShare is Ollama's rule for loading a model next to others: it must take at most 80 % of the free VRAM by
	// Ollama's prediction. Otherwise Ollama evicts idle models first.
	secondModelShare = 0.8
)

// Types of the KV cache. 32 numbers take 64 bytes in f16, 34 in q8_0 and 18 in q4_0.
const (
	CacheF16 = "f16"
	CacheQ8  = "q8_0"
	CacheQ4  = "q4_0"
)

func cacheShare(cacheType string) (of, in int64) {
	switch cacheType {
	case CacheQ8:
		return 34, 64
	case CacheQ4:
		return 18, 64
	default:
		return 1, 1
	}
}

// ollamaEngine lists the architectures that Ollama 0.17 runs on its own engine, which measures the memory that it needs
// and has one cache for all requests. All others run on llama.cpp.
var ollamaEngine = []string{
	"bert", "deepseek2", "deepseekocr", "gemma3", "gemma3n", "gptoss", "gpt-oss", "llama4", "mistral3", "mllama",
	"nemotron_h", "nemotron_h_moe", "nomic-bert",
	"olmo3", "qwen25vl", "qwen3", "qwen3moe", "qwen35", "qwen35moe", "qwen3next", "qwen3vl", "qwen3vlmoe", "glm4moelite",
	"glmocr", "lfm2", "lfm2moe",
}

// oneAtATime lists the architectures for which Ollama 0.17 ignores OLLAMA_NUM_PARALLEL.
var oneAtATime = []string{
	"mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe", "nemotron_h",
	"nemotron_h_moe",
}

// guessedByHeads lists the architectures for which Ollama, when it places layers on llama.cpp, counts the attention
// matrix of all heads.
var guessedByHeads = []string{"llama", "gemma", "gemma2", "command-r", "qwen2", "phi2", "stablelm"}

// Load is the memory that one model takes on each GPU of a pod, or in the memory of a CPU pod.
type Load struct {
	Model Model
	// Context and Parallel are what Ollama really uses for this model.
	Context, Parallel          int
	Weights, KV, Graph, Device int64
	// Reserve is the memory beyond Uses that must be free before Ollama puts every layer on the GPU.
	Reserve int64
}

// Uses returns the memory of the loaded model.
func (l Load) Uses() int64 { return l.Weights + l.KV + l.Graph + l.Device }

// Needs returns the free memory with which Ollama puts the whole model on the GPU. With less, it leaves layers on the
// CPU.
func (l Load) Needs() int64 { return l.Uses() + l.Reserve }

// Settings determine how a pool loads its models.
type Settings struct {
	Context, Parallel int
	CacheType         string
	// GPUs per pod. 0: a CPU pool.
	GPUs int
}

// load returns the memory of a model with the given settings, or false if it is unknown.
func load(m Model, s Settings) (Load, bool) {
	l := Load{Model: m, Context: s.Context, Parallel: s.Parallel}
	if m.NumCtx > 0 {
		l.Context = m.NumCtx
	}
	gpus := int64(max(s.GPUs, 1))
	if m.GiB > 0 {
		l.Weights = int64(m.GiB*GiB) / gpus
		return l, true
	}
	shape := m.Shape
	if shape == nil {
		return l, false
	}
	if shape.Context > 0 {
		l.Context = min(l.Context, shape.Context)
	}
	if shape.EmbeddingOnly || slices.Contains(oneAtATime, shape.Architecture) {
		l.Parallel = 1
	}
	context := padded(l.Context)
	tokens := context * int64(l.Parallel)
	of, in := cacheShare(s.CacheType)

	var kv int64
	if !shape.encoder() { // an encoder reads its text once and needs no cache
		window := min(padded(shape.Window*l.Parallel+batch), tokens)
		kv = (shape.KVPerToken*tokens + shape.KVPerWindowToken*window) * of / in
	}
	masked := context
	if slices.Contains(ollamaEngine, shape.Architecture) {
		masked = tokens
	}
	l.Weights, l.KV, l.Graph = shape.Bytes, kv, shape.Graph+masked*maskPerToken
	if s.GPUs == 0 {
		return l, true
	}
	l.Device = overhead
	layers := int64(max(shape.Layers, 1)) + 1 // the output layer counts too
	if gpus > 1 {
		// A layer never spans GPUs, so one GPU holds up to a layer more than its share.
		share := (layers + gpus - 1) / gpus
		l.Weights, l.KV = l.Weights*share/layers, l.KV*share/layers
	}
	l.Reserve = max(shape.placementGraph(tokens, kv)-l.Graph, 0)
	if !slices.Contains(ollamaEngine, shape.Architecture) {
		l.Reserve += (shape.Bytes + kv) / layers // plus one layer as a buffer
	}
	return l, true
}

func padded(tokens int) int64 {
	return int64((tokens + cachePadding - 1) / cachePadding * cachePadding)
}

func (s *Shape) encoder() bool { return s.Architecture == "bert" || s.Architecture == "nomic-bert" }

// placementGraph returns the graph that Ollama 0.17 assumes when it decides which layers go to the GPU. Its own engine
// measures the real graph, so the result is 0. For llama.cpp it uses an old estimate without flash attention, which is
// larger than the real graph but still decides the placement.
func (s *Shape) placementGraph(tokens, kv int64) int64 {
	switch {
	case slices.Contains(ollamaEngine, s.Architecture):
		return 0
	case slices.Contains(guessedByHeads, s.Architecture):
		return 4 * batch * (tokens*int64(s.Heads+3) + 4*int64(s.Embedding))
	default:
		return int64(s.Heads) / int64(max(s.KVHeads, 1)) * kv / 6
	}
}
