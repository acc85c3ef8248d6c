package stacks_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"ollama-k8s/internal/testhaproxy"
)

// Every golden's front has a configuration that HAProxy itself takes, without a warning.
func TestHAProxyTakesTheConfigurationOfEveryGolden(t *testing.T) {
	for stack := range goldens(t) {
		t.Run(stack, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(projectFolder, "stacks/testdata/golden", stack+".yaml"))
			require.NoError(t, err)
			var data map[string]string
			for _, document := range strings.Split(string(text), "\n---\n") {
				var object struct {
					Kind string
					Data map[string]string
				}
				require.NoError(t, yaml.Unmarshal([]byte(document), &object))
				if object.Kind == "ConfigMap" && object.Data["haproxy.cfg"] != "" {
					data = object.Data
				}
			}
			testhaproxy.Check(t, data)
		})
	}
}
