package ggufread

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	gguf "github.com/gpustack/gguf-parser-go"

	"ollama-k8s/internal/lockfile"
)

const (
	// batch is the number of tokens that Ollama evaluates at a time.
	batch = 512
	// graphContext is the context for which the graph is estimated. Only the attention mask depends on it.
	graphContext = 4096
	// maskPerToken is the size in bytes of a batch's attention mask, for each token of context: 4 for each token of the
	// batch, and 2 for its f16 copy.
	maskPerToken = batch * (4 + 2)
	// embeddingContext caps the context for which the graph of an embedding model is estimated, at the context of a pool
	// that sets none. Such a model evaluates its whole context as one batch, without flash attention, so its graph grows
	// with the square of the context.
	embeddingContext = 8192
	// f16 is the size in bytes of a number in the KV cache.
	f16 = 2
	// fileTypeMXFP4 is Ollama's file type for MXFP4. Other readers take this number for an old variant of Q4_1.
	fileTypeMXFP4 = 4
)

// Figures returns the numbers from which a model's memory is calculated. It leaves the digest and the capabilities
// empty. The error lists what the header lacks.
func Figures(file *gguf.GGUFFile) (m lockfile.Model, err error) {
	defer func() {
		if broken := recover(); broken != nil {
			err = fmt.Errorf("the header is broken: %v", broken)
		}
	}()
	a := file.Architecture()
	if a.Type != "model" {
		return m, fmt.Errorf("the file holds a %s, not a model: pass the file with the model's weights", a.Type)
	}
	m = lockfile.Model{
		Bytes:        int64(file.TensorInfos.Bytes()),
		Quantization: quantization(file),
		Architecture: a.Architecture,
		Layers:       int(a.BlockCount),
		Heads:        heads(file, a),
		KVHeads:      int(a.AttentionHeadCountKV),
		HeadDim:      int(a.AttentionKeyLength),
		Embedding:    int(a.EmbeddingLength),
		Context:      int(a.MaximumContextLength),
	}
	for i := range m.Layers {
		bytes, window := cacheOfLayer(a, i)
		if window {
			m.KVPerWindowToken += bytes
			m.Window = int(a.AttentionSlidingWindow)
		} else {
			m.KVPerToken += bytes
		}
	}
	var lacks []error
	for _, figure := range []struct {
		key   string
		value int64
	}{
		{"tensors", m.Bytes}, {"block_count", int64(m.Layers)}, {"attention.head_count", int64(m.Heads)},
		{"attention.head_count_kv", int64(m.KVHeads)},
		{"attention.key_length", int64(m.HeadDim)}, {"embedding_length", int64(m.Embedding)},
		{"context_length", int64(m.Context)},
		{"layers with a KV cache", m.KVPerToken + m.KVPerWindowToken},
	} {
		if figure.value <= 0 {
			lacks = append(lacks, fmt.Errorf(
				"the GGUF header of architecture %q has no %s, so the model's memory cannot be planned: set models[].vramGiB",
				a.Architecture, figure.key,
			))
		}
	}
	if len(lacks) > 0 {
		return m, errors.Join(lacks...)
	}
	m.Graph = graph(file, a, m)
	return m, nil
}

// heads returns the largest number of attention heads of any layer: hybrid models have layers without attention.
func heads(file *gguf.GGUFFile, a gguf.GGUFArchitecture) int {
	value, ok := file.Header.MetadataKV.Get(a.Architecture + ".attention.head_count")
	if ok && value.ValueType == gguf.GGUFMetadataValueTypeArray {
		return int(slices.Max(gguf.ValuesNumeric[uint64](value.ValueArray())))
	}
	return int(a.AttentionHeadCount)
}

// cacheOfLayer returns the KV cache of one token in one layer, in bytes, and whether the layer sees only a window.
func cacheOfLayer(a gguf.GGUFArchitecture, i int) (bytes int64, window bool) {
	switch {
	case a.AttentionKVFromStartLayerCount > 0 && i >= int(a.AttentionKVFromStartLayerCount):
		return 0, false // it reuses the cache of an earlier layer
	case a.AttentionHybrid && a.FullAttentionInterval > 1 && (i+1)%int(a.FullAttentionInterval) != 0:
		return 0, false // it keeps a state of a fixed size
	case a.AttentionRecurrent && !a.AttentionHybrid:
		return 0, false
	}
	heads, key, value := a.AttentionHeadCountKV, a.AttentionKeyLength, a.AttentionValueLength
	if i < len(a.AttentionHeadCountKVs) {
		heads = a.AttentionHeadCountKVs[i]
	}
	window = a.AttentionSlidingWindow > 0 && i < len(a.AttentionSlidingWindowLayers) && a.AttentionSlidingWindowLayers[i]
	if window && a.AttentionKeyLengthSWA > 0 {
		key = a.AttentionKeyLengthSWA
	}
	if window && a.AttentionValueLengthSWA > 0 {
		value = a.AttentionValueLengthSWA
	}
	return int64(heads) * int64(key+value) * f16, window
}

// graph returns the memory for evaluating a batch on one GPU that holds all layers. For a chat model it leaves out the
// attention mask, see lockfile.Model. For an embedding model, whose batch is not 512 tokens, it includes the mask.
func graph(file *gguf.GGUFFile, a gguf.GGUFArchitecture, m lockfile.Model) int64 {
	estimate := func(context, batch int, options ...gguf.GGUFRunEstimateOption) int64 {
		run := file.EstimateLLaMACppRun(append(options,
			gguf.WithLLaMACppContextSize(int32(context)), gguf.WithParallelSize(1),
			gguf.WithLLaMACppLogicalBatchSize(int32(max(batch, 32))), gguf.WithLLaMACppPhysicalBatchSize(int32(batch)))...)
		gpu := run.Devices[1].Computation
		return int64(gpu.Input + gpu.Compute + gpu.Output)
	}
	if embeds(file) {
		context := min(m.Context, embeddingContext)
		return estimate(context, context)
	}
	// Ollama reserves the logits of a whole batch, which the estimate leaves out.
	return max(
		estimate(graphContext, batch, gguf.WithFlashAttention())-graphContext*maskPerToken,
		4*batch*int64(a.EmbeddingLength+a.VocabularyLength),
	)
}

func quantization(file *gguf.GGUFFile) string {
	if value, ok := file.Header.MetadataKV.Get("general.file_type"); ok &&
		gguf.ValueNumeric[uint32](value) == fileTypeMXFP4 {
		return "MXFP4"
	}
	name := file.Metadata().FileType.String()
	if name == "Unknown" {
		return ""
	}
	return strings.TrimPrefix(name, "MOSTLY_")
}
