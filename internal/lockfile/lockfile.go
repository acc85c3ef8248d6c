// Package lockfile reads and writes models.lock.yaml: what each model is, byte for byte, and the figures that its
// memory is planned from.
package lockfile

import (
	"errors"
	"io/fs"

	"ollama-k8s/internal/modelref"
)

// Name of the file, in the project's folder.
const Name = "models.lock.yaml"

// Lock is the whole file.
type Lock struct {
	// Models by name, always with the tag: llama3:8b, tiny:latest. The registry is not part of the name: a mirror has the
	// same bytes.
	Models map[string]Model `json:"models"`
}

// Model is what a registry, or a GGUF file, says of one model.
type Model struct {
	// Digest of the manifest as Ollama stores it, sha256:…, the ID that `ollama list` shows. Empty: not known, so it is
	// not verified.
	Digest string `json:"digest,omitempty"`
	// Bytes of the weights, projectors included.
	Bytes int64 `json:"bytes"`
	// Quantization as the GGUF names it, for instance Q4_K_M.
	Quantization string `json:"quantization,omitempty"`
	// Architecture as the GGUF names it, for instance llama.
	Architecture string `json:"architecture"`
	// Layers, attention heads, heads that keep keys and values, and the width of a head.
	Layers  int `json:"layers"`
	Heads   int `json:"heads"`
	KVHeads int `json:"kvHeads"`
	HeadDim int `json:"headDim"`
	// Embedding is the width of a token's vector.
	Embedding int `json:"embedding"`
	// Context is the number of tokens that the model was trained for; Ollama gives it no more.
	Context int `json:"context"`
	// KVPerToken is the KV cache of one token in bytes, f16, in the layers that see the whole context.
	KVPerToken int64 `json:"kvPerToken"`
	// KVPerWindowToken is the same in the layers that see the last Window tokens only. 0: there are none.
	KVPerWindowToken int64 `json:"kvPerWindowToken,omitempty"`
	Window           int   `json:"window,omitempty"`
	// Graph is the memory in bytes of a batch of 512 tokens under way, but for its attention mask, which grows with the
	// context.
	Graph int64 `json:"graph"`
	// Capabilities in Ollama's words: completion, embedding, tools, vision, insert, thinking.
	Capabilities []string `json:"capabilities"`
	// Source of the figures where it is not the registry.
	Source string `json:"source,omitempty"`
}

// Read reads the lock of a project; a project without one has an empty lock. The error names every entry that cannot
// be.
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

// Get is the entry of a model, whichever way its name is written: tiny and tiny:latest are one.
func (l *Lock) Get(name string) (Model, bool) {
	entry, ok := l.Models[modelref.Normal(name)]
	return entry, ok
}
