package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"sigs.k8s.io/yaml"
)

// workFolder is the project folder for the CLI, with copies of Pulumi.yaml and of the stack file. The CLI writes the
// salt of the stack's passphrase into the stack file, which must not change the user's repository.
func (e *Engine) workFolder() (string, error) {
	work := filepath.Join(e.State, "work")
	if err := os.MkdirAll(work, 0o700); err != nil {
		return "", err
	}
	project, err := os.ReadFile(filepath.Join(e.Folder, "Pulumi.yaml"))
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(work, "Pulumi.yaml"), project, 0o600); err != nil {
		return "", err
	}

	wanted, err := readYAML(e.StackFile)
	if err != nil {
		return "", err
	}
	file := filepath.Join(work, "Pulumi."+e.Stack+".yaml")
	if former, err := readYAML(file); err == nil {
		for key, value := range former {
			if key != "config" { // encryptionsalt and the like
				wanted[key] = value
			}
		}
	} else if !os.IsNotExist(err) {
		return "", err
	}
	text, err := yaml.Marshal(wanted)
	if err != nil {
		return "", err
	}
	return work, os.WriteFile(file, text, 0o600)
}

func readYAML(path string) (map[string]any, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(text, &values); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return values, nil
}

var colour = regexp.MustCompile(`<\{%[a-z0-9 ]*%\}>|\x1b\[[0-9;]*m`)

// plainText removes the engine's colour marks from a message.
func plainText(message string) string { return colour.ReplaceAllString(message, "") }
