package registry

import (
	_ "embed"
	"fmt"
	"strings"

	"ollama-k8s/local/tinymodel"
)

//go:embed models/chat.tmpl
var chatTemplate string

//go:embed models/system.txt
var chatSystem string

//go:embed models/license.txt
var license string

// TinyModels returns a catalogue of generated models:
//
//	library/tiny:latest          says tinymodel.Sentence; 512 bytes of KV cache per token of context
//	library/tiny:twin            the same with other weights, so Ollama loads both side by side
//	library/tiny:deep            more layers, keys for every head: 10 KiB of KV cache per token, and slower
//	library/tiny:wide            four of 32 heads share each key: 2 KiB per token, trained for 32,768 tokens
//	library/tiny:long            six layers, keys for every head: 12 KiB per token, trained for 16,384 tokens
//	library/tiny-endless:latest  never ends by itself, for long streams
//	library/tiny-embed:latest    embeddings of 64 numbers
func TinyModels() (*Catalogue, error) {
	c := &Catalogue{}
	for _, m := range []struct {
		name     string
		generate func(tinymodel.Options) ([]byte, error)
		options  tinymodel.Options
		dress    func(weights []byte) Model
	}{
		{"library/tiny:latest", tinymodel.Llama, tinymodel.Options{Seed: 1, Type: tinymodel.F32}, chatModel},
		{"library/tiny:twin", tinymodel.Llama, tinymodel.Options{Seed: 2, Type: tinymodel.F32}, chatModel},
		{"library/tiny:deep", tinymodel.Llama, tinymodel.Options{Seed: 3, Layers: 8, Heads: 10}, chatModel},
		{"library/tiny:wide", tinymodel.Llama, tinymodel.Options{Seed: 6, Heads: 32, KVHeads: 8, Context: 32768}, chatModel},
		{"library/tiny:long", tinymodel.Llama, tinymodel.Options{
			Seed: 7, Layers: 6, Heads: 8, KVHeads: 8, FeedForward: 128, Context: 16384,
		}, chatModel},
		{"library/tiny-endless:latest", tinymodel.Llama, tinymodel.Options{
			Seed: 4, Type: tinymodel.F32, Endless: true,
		}, chatModel},
		{"library/tiny-embed:latest", tinymodel.Bert, tinymodel.Options{Seed: 5}, embeddingModel},
	} {
		weights, err := m.generate(m.options)
		if err != nil {
			return nil, fmt.Errorf("generating %s: %w", m.name, err)
		}
		if err := c.Add(m.name, m.dress(weights)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// chatModel sets no num_ctx, like the models of the public library: it would override OLLAMA_CONTEXT_LENGTH.
func chatModel(weights []byte) Model {
	return Model{
		Weights:  weights,
		Template: chatTemplate,
		System:   strings.TrimSpace(chatSystem),
		License:  license,
		Parameters: map[string]any{
			"temperature": 0,
			// On two busy cores, two threads that wait for each other take 5 s for what one does in 0.13 s.
			"num_thread": 1,
		},
	}
}

func embeddingModel(weights []byte) Model {
	return Model{Weights: weights, License: license, Parameters: map[string]any{"num_thread": 1}}
}
