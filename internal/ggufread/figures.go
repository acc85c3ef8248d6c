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
	// batch of tokens that Ollama evaluates at a time.
	batch = 512
	// graphContext is the context at which the graph is estimated; but for the mask it does not depend on it.
	graphContext = 4096
	// maskPerToken of a batch for each token of context: four bytes, and two of its f16 copy.
	maskPerToken = batch * (4 + 2)
	// embeddingContext: an embedding model takes its whole context as one batch, without flash attention, so its graph
	// grows with the square of the context. It is estimated at what it was trained for, but at no more than this, the
	// context of a pool that states none.
	embeddingContext = 8192
	// f16 is the size of a number in the KV cache.
	f16 = 2
	// fileTypeMXFP4 is Ollama's number for it, which other readers know as an old variant of Q4_1.
	fileTypeMXFP4 = 4
)

// Figures are what a model's memory follows from. The digest and the capabilities are left empty. The error says what
// the header lacks.
func Figures(file *gguf.GGUFFile) (m lockfile.Model, err error) {
	defer func() {
		if broken := recover(); broken != nil {
			err = fmt.Errorf("the header is broken: %v", broken)
		}
	}()
	a := file.Architecture()
	if a.Type != "model" {
		return m, fmt.Errorf("the file holds a %s, not a model: name the file of the model's weights", a.Type)
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
				"the GGUF header of architecture %q has no %s: its memory cannot be planned; state models[].vramGiB",
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

// heads are the attention heads of the layer that has most: hybrid models have layers without any.
func heads(file *gguf.GGUFFile, a gguf.GGUFArchitecture) int {
	value, ok := file.Header.MetadataKV.Get(a.Architecture + ".attention.head_count")
	if ok && value.ValueType == gguf.GGUFMetadataValueTypeArray {
		return int(slices.Max(gguf.ValuesNumeric[uint64](value.ValueArray())))
	}
	return int(a.AttentionHeadCount)
}

// cacheOfLayer is the KV cache of a token in one layer, in bytes, and whether the layer sees a window only.
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

// graph is the memory of a batch under way on one GPU that holds all layers. A model that answers has its mask left
// out, see lockfile.Model; an embedding model's is within, as its batch is not one of 512.
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
	// The logits of a whole batch are not in the estimate, and Ollama reserves them.
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
