// Package vram plans the memory of a pool: what each model takes, how many stay loaded together, and the context and
// parallelism that fit. It knows nothing of Pulumi, Kubernetes or files. Sizes are bytes unless a name says GiB.
package vram

import "slices"

// GiB in bytes.
const GiB = 1 << 30

// Model is one model of a pool.
type Model struct {
	Name string
	// Shape of the model, from the lock. Nil: not known.
	Shape *Shape
	// GiB is the memory that the config states for the model when it is loaded; it stands above what Shape says. 0: not
	// stated.
	GiB float64
	// Weights names the weights. Models of the same weights share one runner, a Modelfile's and its FROM say.
	Weights string
	// NumCtx is the context that a Modelfile fixes. 0: the pool's.
	NumCtx int
}

// Shape is what a model's memory follows from.
type Shape struct {
	Architecture string
	// Bytes of the weights.
	Bytes int64
	// KVPerToken is the f16 cache of one token in the layers that see the whole context, KVPerWindowToken in those that
	// see the last Window tokens.
	KVPerToken, KVPerWindowToken int64
	Window                       int
	// Graph of a batch of 512 tokens, without its attention mask.
	Graph                             int64
	Layers, Heads, KVHeads, Embedding int
	// Context is the number of tokens that the model was trained for: Ollama gives no more. 0: no limit.
	Context int
	// EmbeddingOnly models answer one request at a time.
	EmbeddingOnly bool
}

const (
	// overhead is what a GPU runtime takes for each loaded model before the first weight: 457 MiB in Ollama's own
	// reckoning.
	overhead = 457 << 20
	// maskPerToken is the attention mask of a batch of 512 tokens for each token of context: four bytes, and two of its
	// f16 copy.
	maskPerToken = 512 * (4 + 2)
	batch        = 512
	// cachePadding: llama.cpp rounds each request's context up to 256 tokens.
	cachePadding = 256
	// secondModelShare is Ollama's own rule: while a model is loaded, another one joins it only if it is predicted to take
	// at most 80 % of the free VRAM; otherwise idle models are evicted for it.
	secondModelShare = 0.8
)

// Cache types, and the bytes that they take of an f16 cache's two: q8_0 stores 32 numbers in 34 bytes, q4_0 in 18.
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

// ollamaEngine are the architectures that Ollama 0.17 runs on its own engine, which measures the memory that it needs,
// and whose cache is one for all requests. The rest runs on llama.cpp.
var ollamaEngine = []string{
	"bert", "deepseek2", "deepseekocr", "gemma3", "gemma3n", "gptoss", "gpt-oss", "llama4", "mistral3", "mllama",
	"nemotron_h", "nemotron_h_moe", "nomic-bert",
	"olmo3", "qwen25vl", "qwen3", "qwen3moe", "qwen35", "qwen35moe", "qwen3next", "qwen3vl", "qwen3vlmoe", "glm4moelite",
	"glmocr", "lfm2", "lfm2moe",
}

// oneAtATime are the architectures for which Ollama 0.17 ignores OLLAMA_NUM_PARALLEL.
var oneAtATime = []string{
	"mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe", "nemotron_h",
	"nemotron_h_moe",
}

// guessedByHeads are the architectures for which Ollama's placement on llama.cpp reckons with the attention matrix of
// all heads.
var guessedByHeads = []string{"llama", "gemma", "gemma2", "command-r", "qwen2", "phi2", "stablelm"}

// Load is what one model takes on each GPU of a pod, or in the pod's memory where there is none.
type Load struct {
	Model Model
	// Context and Parallel as Ollama will really use them for this model.
	Context, Parallel          int
	Weights, KV, Graph, Device int64
	// Reserve is what Ollama wants to see free, beyond Uses, before it puts every layer on the GPU.
	Reserve int64
}

// Uses is the memory of the loaded model.
func (l Load) Uses() int64 { return l.Weights + l.KV + l.Graph + l.Device }

// Needs is the free memory in which Ollama puts the whole model on the GPU; with less it leaves layers on the CPU.
func (l Load) Needs() int64 { return l.Uses() + l.Reserve }

// Settings are a pool's knobs.
type Settings struct {
	Context, Parallel int
	CacheType         string
	// GPUs of a pod; 0 is a CPU pool.
	GPUs int
}

// load is the memory of a model under settings; false where nothing is known of it.
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
	if !shape.encoder() { // an encoder reads its text once and keeps nothing
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
	layers := int64(max(shape.Layers, 1)) + 1 // the output counts as one
	if gpus > 1 {
		// Layers go whole to a GPU: one of them holds up to a layer more than its share.
		share := (layers + gpus - 1) / gpus
		l.Weights, l.KV = l.Weights*share/layers, l.KV*share/layers
	}
	l.Reserve = max(shape.placementGraph(tokens, kv)-l.Graph, 0)
	if !slices.Contains(ollamaEngine, shape.Architecture) {
		l.Reserve += (shape.Bytes + kv) / layers // and a layer's worth, as a buffer
	}
	return l, true
}

func padded(tokens int) int64 {
	return int64((tokens + cachePadding - 1) / cachePadding * cachePadding)
}

func (s *Shape) encoder() bool { return s.Architecture == "bert" || s.Architecture == "nomic-bert" }

// placementGraph is the graph that Ollama 0.17 reckons with when it decides which layers go to the GPU. On its own
// engine that is what it measures. On llama.cpp it is an old estimate that knows no flash attention: larger than what
// is used later, but the decision stands.
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
