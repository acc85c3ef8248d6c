// Package lockfile reads and writes models.lock.yaml, which pins each model by its digest and holds the figures from
// which its memory is planned.
package lockfile

import (
	"errors"
	"io/fs"

	"ollama-k8s/internal/modelref"
)

// Name of the lock file in the project's folder.
const Name = "models.lock.yaml"

// Lock is the content of models.lock.yaml.
type Lock struct {
	// Models by name, always with the tag: llama3:8b, tiny:latest. The name leaves out the registry, because a mirror has
	// the same bytes.
	Models map[string]Model `json:"models"`
}

// Model describes one model, as read from a registry or a GGUF file.
type Model struct {
	// Digest of the manifest as Ollama stores it, sha256:…: the ID that `ollama list` shows. Empty: unknown, and nothing
	// verifies it.
	Digest string `json:"digest,omitempty"`
	// Bytes of the weights, projectors included.
	Bytes int64 `json:"bytes"`
	// Quantization as the GGUF names it, for instance Q4_K_M.
	Quantization string `json:"quantization,omitempty"`
	// Architecture as the GGUF names it, for instance llama.
	Architecture string `json:"architecture"`
	// Layers, attention heads, KV heads, and the width of a head.
	Layers  int `json:"layers"`
	Heads   int `json:"heads"`
	KVHeads int `json:"kvHeads"`
	HeadDim int `json:"headDim"`
	// Embedding is the width of a token's vector.
	Embedding int `json:"embedding"`
	// Context is the number of tokens that the model was trained for. Ollama allows no more.
	Context int `json:"context"`
	// KVPerToken is the f16 KV cache of one token, in bytes, in the layers that see the whole context.
	KVPerToken int64 `json:"kvPerToken"`
	// KVPerWindowToken is the same in the layers that see only the last Window tokens. 0: the model has none.
	KVPerWindowToken int64 `json:"kvPerWindowToken,omitempty"`
	Window           int   `json:"window,omitempty"`
	// Graph is the memory in bytes for evaluating a batch of 512 tokens, without the attention mask, which grows with the
	// context.
	Graph int64 `json:"graph"`
	// Capabilities in Ollama's words: completion, embedding, tools, vision, insert, thinking.
	Capabilities []string `json:"capabilities"`
	// Source of the figures if they are not from the registry.
	Source string `json:"source,omitempty"`
}

// Read reads the lock of a project. A project without the file has an empty lock. The error lists every invalid entry.
func Read(project fs.FS) (*Lock, error) {
	text, err := fs.ReadFile(project, Name)
	if errors.Is(err, fs.ErrNotExist) {
		return &Lock{Models: map[string]Model{}}, nil
	}
	if err != nil {
		return nil, err
	}
	return Parse(text)
}

// Get returns the entry of a model. It normalizes the name: tiny and tiny:latest are the same model.
func (l *Lock) Get(name string) (Model, bool) {
	entry, ok := l.Models[modelref.Normal(name)]
	return entry, ok
}
