package stacks

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"sigs.k8s.io/yaml"
)

// Project is the project's name, the prefix of its config keys.
const Project = "ollama-k8s"

// ReadFile reads the config of a stack file, Pulumi.<stack>.yaml, in the form in which the engine passes it to the
// program: keys without the project's prefix, objects as JSON. It skips keys of other namespaces (pulumi:,
// kubernetes:).
func ReadFile(path, project string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	// A map accepts the CLI's other keys, such as encryptionsalt. Strict mode rejects duplicate keys.
	stack := map[string]any{}
	if err := yaml.UnmarshalStrict(text, &stack); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	config, ok := stack["config"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf(
			"%s: config is missing: add the key config with %s:models, %s:pools and %s:teams below it", path, project,
			project, project,
		)
	}
	values := map[string]string{}
	for key, value := range config {
		name, ours := strings.CutPrefix(key, project+":")
		if !ours {
			continue
		}
		if object, ok := value.(map[string]any); ok && len(object) == 1 && object["secure"] != nil {
			return nil, fmt.Errorf(
				"%s: %s is encrypted, but no key of this program is secret: set it without --secret", path, key,
			)
		}
		if text, ok := value.(string); ok {
			values[name] = text
			continue
		}
		encoded, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, key, err)
		}
		values[name] = string(encoded)
	}
	return values, nil
}
