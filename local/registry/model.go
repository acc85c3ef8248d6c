package registry

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/ollama/ollama/format"
	"github.com/ollama/ollama/fs/ggml"
	"github.com/ollama/ollama/types/model"
)

// Model is what a Modelfile says: weights and how to use them. All but the weights may be empty.
type Model struct {
	Weights    []byte         // a GGUF file
	Template   string         // Ollama's template of a prompt
	System     string         // the system prompt
	Parameters map[string]any // as after PARAMETER, with typed values
	License    string
}

type part struct {
	mediaType string
	data      []byte
}

// parts are the layers, in the order in which Ollama writes them.
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

// config is the manifest's config: what /api/tags shows as the details of the model, read from the weights as
// `ollama create` does.
func (m Model) config(layerDigests []string) ([]byte, error) {
	weights, err := ggml.Decode(bytes.NewReader(m.Weights), 0)
	if err != nil {
		return nil, fmt.Errorf("weights are no GGUF: %w", err)
	}
	metadata := weights.KV()
	return json.Marshal(model.ConfigV2{
		ModelFormat:   "gguf",
		ModelFamily:   metadata.Architecture(),
		ModelFamilies: []string{metadata.Architecture()},
		ModelType:     format.HumanNumber(metadata.ParameterCount()),
		FileType:      metadata.FileType().String(),
		Architecture:  "amd64", // the OCI format asks for a machine; Ollama writes this one on all of them
		OS:            "linux",
		RootFS:        model.RootFS{Type: "layers", DiffIDs: layerDigests},
	})
}
