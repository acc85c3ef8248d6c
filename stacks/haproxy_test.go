package stacks_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"ollama-k8s/internal/testcert"
)

// Every golden's front has a configuration that HAProxy itself takes, without a warning.
func TestHAProxyTakesTheConfigurationOfEveryGolden(t *testing.T) {
	haproxy := os.Getenv("HAPROXY")
	require.NotEmpty(t, haproxy, "HAPROXY is not set: run the tests with `make test`, which provides it")
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
			require.NotEmpty(t, data, "the golden has no front")
			dir := t.TempDir()
			paths := strings.NewReplacer(
				"/etc/haproxy-keys/", dir+"/", "/etc/haproxy-own-keys/", dir+"/", "/etc/haproxy-tls", dir, "/etc/haproxy/", dir+"/",
			)
			data["keys.map"] = "hash team\n"
			data["tls.crt"], data["tls.key"] = testcert.New(t)
			for name, text := range data {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(paths.Replace(text)), 0o600))
			}
			out, err := exec.Command(haproxy, "-c", "-f", filepath.Join(dir, "haproxy.cfg")).CombinedOutput()
			require.NoError(t, err, string(out))
			assert.NotContains(t, string(out), "WARNING")
		})
	}
}
