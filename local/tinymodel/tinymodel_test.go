package tinymodel_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ggufparser "github.com/gpustack/gguf-parser-go"

	"ollama-k8s/local/tinymodel"
)

type generator = func(tinymodel.Options) ([]byte, error)

func generate(t *testing.T, kind generator, options tinymodel.Options) []byte {
	t.Helper()
	data, err := kind(options)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTheSameOptionsGiveTheSameBytesAndOthersGiveOthers(t *testing.T) {
	for name, kind := range map[string]generator{"llama": tinymodel.Llama, "bert": tinymodel.Bert} {
		t.Run(name, func(t *testing.T) {
			first := generate(t, kind, tinymodel.Options{Seed: 1})
			if !bytes.Equal(first, generate(t, kind, tinymodel.Options{Seed: 1})) {
				t.Error("two models of seed 1 differ")
			}
			if bytes.Equal(first, generate(t, kind, tinymodel.Options{Seed: 2})) {
				t.Error("the models of seeds 1 and 2 are the same")
			}
		})
	}
}

func TestTheDefaultModelsAreSmall(t *testing.T) {
	const mega = 1_000_000
	if n := len(generate(t, tinymodel.Llama, tinymodel.Options{})); n > 2*mega {
		t.Errorf("the llama model takes %d bytes", n)
	}
	if n := len(generate(t, tinymodel.Bert, tinymodel.Options{})); n > mega/2 {
		t.Errorf("the bert model takes %d bytes", n)
	}
}

func TestAnotherReaderFindsTheShapeThatWasAskedFor(t *testing.T) {
	tests := map[string]struct {
		kind    generator
		options tinymodel.Options
		want    tinymodel.Options
		family  string
		width   uint64
	}{
		"the default llama shares its keys among heads": {
			tinymodel.Llama, tinymodel.Options{},
			tinymodel.Options{Layers: 2, Heads: 10, KVHeads: 2, FeedForward: 64, Context: 2048}, "llama", 320,
		},
		"a llama of another shape": {
			tinymodel.Llama, tinymodel.Options{Layers: 5, Heads: 8, KVHeads: 4, FeedForward: 96, Context: 8192},
			tinymodel.Options{Layers: 5, Heads: 8, KVHeads: 4, FeedForward: 96, Context: 8192}, "llama", 512,
		},
		"a llama keeps keys for every head when only Heads is set": {
			tinymodel.Llama, tinymodel.Options{Heads: 4},
			tinymodel.Options{Layers: 2, Heads: 4, KVHeads: 4, FeedForward: 64, Context: 2048}, "llama", 384,
		},
		"many heads make a wider llama": {
			tinymodel.Llama, tinymodel.Options{Layers: 1, Heads: 32, KVHeads: 8},
			tinymodel.Options{Layers: 1, Heads: 32, KVHeads: 8, FeedForward: 64, Context: 2048}, "llama", 1024,
		},
		"full precision changes the type only": {
			tinymodel.Llama, tinymodel.Options{Type: tinymodel.F32},
			tinymodel.Options{
				Layers: 2, Heads: 10, KVHeads: 2, FeedForward: 64, Context: 2048, Type: tinymodel.F32,
			}, "llama", 320,
		},
		"the default bert": {
			tinymodel.Bert, tinymodel.Options{},
			tinymodel.Options{Layers: 2, Heads: 4, KVHeads: 4, FeedForward: 64, Context: 512}, "bert", 64,
		},
		"a bert of another shape": {
			tinymodel.Bert, tinymodel.Options{Layers: 3, Heads: 8, FeedForward: 128, Context: 64},
			tinymodel.Options{Layers: 3, Heads: 8, KVHeads: 8, FeedForward: 128, Context: 64}, "bert", 64,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "model.gguf")
			if err := os.WriteFile(path, generate(t, test.kind, test.options), 0o600); err != nil {
				t.Fatal(err)
			}
			file, err := ggufparser.ParseGGUFFile(path)
			if err != nil {
				t.Fatal(err)
			}
			metadata, architecture := file.Metadata(), file.Architecture()
			got := tinymodel.Options{
				Layers:      int(architecture.BlockCount),
				Heads:       int(architecture.AttentionHeadCount),
				KVHeads:     int(architecture.AttentionHeadCountKV),
				FeedForward: int(architecture.FeedForwardLength[0]),
				Context:     int(architecture.MaximumContextLength),
			}
			if metadata.FileType == ggufparser.GGUFFileTypeMostlyF32 {
				got.Type = tinymodel.F32
			}
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			if metadata.Architecture != test.family {
				t.Errorf("got architecture %q, want %q", metadata.Architecture, test.family)
			}
			if architecture.EmbeddingLength != test.width {
				t.Errorf("got width %d, want %d", architecture.EmbeddingLength, test.width)
			}
		})
	}
}

func TestOptionsThatCannotBeAreNamed(t *testing.T) {
	type options = tinymodel.Options
	tests := map[string]struct {
		kind    generator
		options options
		want    []string
	}{
		"every negative number": {
			tinymodel.Llama, options{Layers: -1, Context: -2}, []string{"Layers is -1", "Context is -2"},
		},
		"a number of key heads that does not divide the heads": {
			tinymodel.Llama, options{Heads: 6, KVHeads: 4}, []string{"KVHeads is 4", "divisor of 6"},
		},
		"a width between blocks": {
			tinymodel.Llama, options{FeedForward: 100}, []string{"FeedForward is 100", "multiple of 32"},
		},
		"an unknown type": {tinymodel.Llama, options{Type: 7}, []string{"Type is 7"}},
		"heads that do not divide bert's width": {
			tinymodel.Bert, options{Heads: 6}, []string{"Heads is 6", "divisor of the width, 64"},
		},
		"an embedder that shares its keys": {tinymodel.Bert, options{KVHeads: 2}, []string{"KVHeads is 2", "leave it out"}},
		"an embedder that never ends":      {tinymodel.Bert, options{Endless: true}, []string{"Endless is set"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := test.kind(test.options)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

func TestTheSentenceRepeatsNoWord(t *testing.T) {
	seen := map[string]bool{}
	for word := range strings.FieldsSeq(tinymodel.Sentence) {
		if seen[word] {
			t.Errorf("%q occurs twice", word)
		}
		seen[word] = true
	}
}
