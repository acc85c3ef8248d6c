package registry

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/ollama/ollama/format"
	"github.com/ollama/ollama/fs/ggml"
	"github.com/ollama/ollama/types/model"
)

// Model is what a Modelfile describes: weights and how to use them. Only the weights are required.
type Model struct {
	Weights    []byte         // a GGUF file
	Template   string         // the prompt template, in Ollama's syntax
	System     string         // the system prompt
	Parameters map[string]any // as in PARAMETER lines, with typed values
	License    string
}

type part struct {
	mediaType string
	data      []byte
}

// parts returns the layers in the order in which Ollama writes them.
func (m Model) parts() ([]part, error) {
	parts := []part{{mediaTypeWeights, m.Weights}}
	for _, text := range []struct{ mediaType, value string }{
		{mediaTypeTemplate, m.Template},
		{mediaTypeSystem, m.System},
		{mediaTypeLicense, m.License},
	} {
		if text.value != "" {
			parts = append(parts, part{text.mediaType, []byte(text.value)})
		}
	}
	if len(m.Parameters) > 0 {
		parameters, err := json.Marshal(m.Parameters) // sorts the keys
		if err != nil {
			return nil, fmt.Errorf("parameters: %w", err)
		}
		parts = append(parts, part{mediaTypeParams, parameters})
	}
	return parts, nil
}

// config returns the manifest's config, which /api/tags shows as the details of the model. It reads them from the
// weights, as `ollama create` does.
func (m Model) config(layerDigests []string) ([]byte, error) {
	weights, err := ggml.Decode(bytes.NewReader(m.Weights), 0)
	if err != nil {
		return nil, fmt.Errorf("the weights are not a GGUF file: %w", err)
	}
	metadata := weights.KV()
	return json.Marshal(model.ConfigV2{
		ModelFormat:   "gguf",
		ModelFamily:   metadata.Architecture(),
		ModelFamilies: []string{metadata.Architecture()},
		ModelType:     format.HumanNumber(metadata.ParameterCount()),
		FileType:      metadata.FileType().String(),
		Architecture:  "amd64", // the OCI format requires one; Ollama writes this one on every machine
		OS:            "linux",
		RootFS:        model.RootFS{Type: "layers", DiffIDs: layerDigests},
	})
}
