package ggufread

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gguf "github.com/gpustack/gguf-parser-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/internal/ggufread/gguftest"
	"ollama-k8s/internal/lockfile"
)

func open(t *testing.T, file []byte) *gguf.GGUFFile {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.gguf")
	require.NoError(t, os.WriteFile(path, file, 0o600))
	header, err := Open(path)
	require.NoError(t, err)
	return header
}

func TestTheFiguresAreThoseOfTheHeader(t *testing.T) {
	figures, err := Figures(open(t, gguftest.Llama(nil)))
	require.NoError(t, err)
	block := 64 + 64*64 + 2*64*32 + 64*64 + 64 + 3*64*128
	assert.Equal(t, lockfile.Model{
		Bytes: int64(4 * (2*block + 2*3*64 + 64)), Quantization: "F32", Architecture: "llama", Layers: 2, Heads: 4,
		KVHeads: 2, HeadDim: 16,
		Embedding: 64, Context: 2048, KVPerToken: 2 * 2 * (16 + 16) * 2, Graph: figures.Graph,
	}, figures)
	assert.GreaterOrEqual(t, figures.Graph, int64(4*512*(64+3)), "room for the logits of a batch")
	assert.Less(t, figures.Graph, int64(8<<20))
}

// window is a model whose layers see the last 512 tokens, but for every third one.
func window(layers int) []byte {
	values := gguftest.Values{
		"general.architecture": "gemma3", "general.file_type": uint32(15), "gemma3.context_length": uint32(32768),
		"gemma3.embedding_length": uint32(64),
		"gemma3.block_count":      uint32(layers), "gemma3.feed_forward_length": uint32(128),
		"gemma3.attention.head_count":    uint32(4),
		"gemma3.attention.head_count_kv": uint32(2), "gemma3.attention.key_length": uint32(32),
		"gemma3.attention.value_length":   uint32(48),
		"gemma3.attention.sliding_window": uint32(512), "gemma3.attention.sliding_window_pattern": uint32(3),
		"gemma3.vision.block_count": uint32(4),
		"tokenizer.ggml.model":      "llama", "tokenizer.ggml.tokens": []string{"a", "b", "c"},
	}
	return gguftest.File(values, gguftest.Blocks(64, 128, layers))
}

func TestLayersWithAWindowAreCountedApart(t *testing.T) {
	header := open(t, window(7))
	figures, err := Figures(header)
	require.NoError(t, err)
	layer := int64(2 * (32 + 48) * 2)
	assert.Equal(t, 2*layer, figures.KVPerToken)
	assert.Equal(t, 5*layer, figures.KVPerWindowToken)
	assert.Equal(t, 512, figures.Window)
	assert.Equal(t, "Q4_K_M", figures.Quantization)
	assert.Equal(t, []string{"completion", "vision"}, Capabilities(header, Package{}))
}

func TestTheCacheIsTheSameAsTheParsersEstimate(t *testing.T) {
	for name, file := range map[string][]byte{
		"llama":          gguftest.Llama(nil),
		"heads by layer": gguftest.Llama(gguftest.Values{"llama.attention.head_count_kv": []uint32{4, 1}}),
		"window":         window(7),
	} {
		header := open(t, file)
		figures, err := Figures(header)
		require.NoError(t, err, name)
		at := func(context int32) int64 {
			run := header.EstimateLLaMACppRun(
				gguf.WithLLaMACppContextSize(context), gguf.WithParallelSize(1), gguf.WithLLaMACppFullSizeSWACache(),
			)
			return int64(
				run.Devices[1].KVCache.Key + run.Devices[1].KVCache.Value + run.Devices[0].KVCache.Key +
					run.Devices[0].KVCache.Value,
			)
		}
		assert.Equal(t, (at(2048)-at(1024))/1024, figures.KVPerToken+figures.KVPerWindowToken, name)
	}
}

func TestHeadsThatVaryAreCountedByTheirMost(t *testing.T) {
	figures, err := Figures(open(t, gguftest.Llama(gguftest.Values{
		"llama.attention.head_count": []uint32{2, 4}, "llama.attention.head_count_kv": []uint32{0, 2},
		"llama.attention.key_length": uint32(16), "llama.attention.value_length": uint32(16),
	})))
	require.NoError(t, err)
	assert.Equal(t, 4, figures.Heads)
	assert.Equal(t, 2, figures.KVHeads)
	assert.Equal(t, int64(2*(16+16)*2), figures.KVPerToken, "a layer with no such heads keeps nothing")
}

func TestAnEmbeddingModelsGraphGrowsWithItsContext(t *testing.T) {
	graph := func(context uint32) int64 {
		header := open(t, gguftest.Llama(gguftest.Values{"llama.pooling_type": uint32(1), "llama.context_length": context}))
		assert.Equal(t, []string{"embedding"}, Capabilities(header, Package{}))
		figures, err := Figures(header)
		require.NoError(t, err)
		return figures.Graph
	}
	assert.GreaterOrEqual(t, graph(2048), int64(2048*2048*4*4), "the attention matrix of all heads")
	assert.GreaterOrEqual(t, graph(4096), 3*graph(2048))
	assert.Equal(t, graph(8192), graph(32768))
}

func TestOllamasNumberForMXFP4IsKnown(t *testing.T) {
	figures, err := Figures(open(t, gguftest.Llama(gguftest.Values{"general.file_type": uint32(4)})))
	require.NoError(t, err)
	assert.Equal(t, "MXFP4", figures.Quantization)
}

func TestCapabilitiesAreReadAsOllamaDoes(t *testing.T) {
	header := open(t, gguftest.Llama(nil))
	for _, c := range []struct {
		with Package
		want string
	}{
		{Package{}, "completion"},
		{Package{Template: "{{ .Prompt }} the .Tools of a smith"}, "completion"},
		{Package{Template: "{{- if or .System .Tools }}x{{ end }}"}, "completion tools"},
		{Package{Template: "{{ range .Messages }}{{ .ToolCalls }}{{ end }}"}, "completion"},
		{Package{Template: "{{ if .Suffix }}<fim>{{ end }}"}, "completion insert"},
		{Package{Projector: true}, "completion vision"},
		{Package{Template: "{{ range .Messages }}<think>{{ .Thinking }}</think>{{ end }}"}, "completion thinking"},
		{Package{Parser: "harmony"}, "completion tools thinking"},
		{Package{Parser: "qwen3-coder"}, "completion tools"},
	} {
		assert.Equal(t, c.want, strings.Join(Capabilities(header, c.with), " "), "%+v", c.with)
	}
}

func TestWhatAHeaderLacksIsNamedAllAtOnce(t *testing.T) {
	_, err := Figures(open(t, gguftest.Llama(gguftest.Values{"llama.context_length": nil, "llama.block_count": nil})))
	require.ErrorContains(t, err, "no context_length")
	require.ErrorContains(t, err, "no block_count")
	require.ErrorContains(t, err, "models[].vramGiB")
}

func TestAFileThatIsNoModelIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "broken.gguf")
	for _, wrong := range [][]byte{nil, []byte("GG"), []byte("<html>not found</html>"), gguftest.Llama(nil)[:200]} {
		require.NoError(t, os.WriteFile(path, wrong, 0o600))
		_, err := Open(path)
		require.ErrorContains(t, err, "broken.gguf")
	}
}

func TestALongHeaderIsFetchedPieceByPieceAndNoFurther(t *testing.T) {
	words := make([]string, 10)
	for i := range words {
		words[i] = strings.Repeat("x", 1<<20)
	}
	file := gguftest.Llama(gguftest.Values{"tokenizer.ggml.tokens": words})
	size := int64(len(file)) + 100<<20 // weights, which nobody may ask for
	var asked int64
	header, err := Fetch(size, func(from, to int64) ([]byte, error) {
		require.Equal(t, asked, from, "each byte once")
		asked = to
		part := make([]byte, to-from)
		copy(part, file[min(from, int64(len(file))):])
		return part, nil
	})
	require.NoError(t, err)
	assert.Equal(t, int64(16<<20), asked)
	whole, err := Figures(open(t, file))
	require.NoError(t, err)
	fetched, err := Figures(header)
	require.NoError(t, err)
	assert.Equal(t, whole, fetched)
}

func TestAHeaderThatEndsBehindTheFirstReadIsNotTakenForWhole(t *testing.T) {
	withWord := func(length int) (file []byte, end int) {
		file = gguftest.Llama(gguftest.Values{"tokenizer.ggml.tokens": []string{strings.Repeat("x", length)}})
		last := "token_embd.weight" // then the number of dimensions, two of them, the type and the offset
		return file, bytes.LastIndex(file, []byte(last)) + len(last) + 4 + 2*8 + 4 + 8
	}
	_, end := withWord(0)
	// The second dimension of the last tensor is not within the first read, and what is not there reads as 0.
	file, end := withWord(firstRead + 20 - end)
	require.Equal(t, firstRead+20, end)
	header, err := Fetch(int64(len(file)), func(from, to int64) ([]byte, error) { return file[from:to], nil })
	require.NoError(t, err)
	assert.Equal(t, open(t, file).TensorInfos, header.TensorInfos)
}

func TestAFetchThatFailsLeavesNothingBehind(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	refused := errors.New("refused")
	_, err := Fetch(1<<30, func(_, _ int64) ([]byte, error) { return nil, refused })
	require.ErrorIs(t, err, refused)
	_, err = Fetch(1<<30, func(from, to int64) ([]byte, error) { return bytes.Repeat([]byte("?"), int(to-from)), nil })
	require.ErrorContains(t, err, "not a readable GGUF file")
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	require.NoError(t, err)
	assert.Empty(t, left)
}
