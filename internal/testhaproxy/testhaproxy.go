// Package testhaproxy has HAProxy itself check the configuration of a front's ConfigMap.
package testhaproxy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ollama-k8s/internal/testcert"
)

// Check fails the test unless HAProxy accepts the files of the front's ConfigMap without a warning. The environment
// variable HAPROXY names the program.
func Check(t *testing.T, data map[string]string) {
	t.Helper()
	haproxy := os.Getenv("HAPROXY")
	if haproxy == "" {
		t.Fatal("HAPROXY is not set: run the tests with `make test`, which provides it")
	}
	if data["haproxy.cfg"] == "" {
		t.Fatal("the ConfigMap has no haproxy.cfg")
	}
	dir := t.TempDir()
	paths := strings.NewReplacer(
		"/etc/haproxy-keys/", dir+"/", "/etc/haproxy-own-keys/", dir+"/", "/etc/haproxy-tls", dir, "/etc/haproxy/", dir+"/",
	)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(paths.Replace(text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range data {
		write(name, text)
	}
	certificate, key := testcert.New(t)
	write("keys.map", "hash team\n")
	write("tls.crt", certificate)
	write("tls.key", key)
	out, err := exec.Command(haproxy, "-c", "-f", filepath.Join(dir, "haproxy.cfg")).CombinedOutput()
	if err != nil || strings.Contains(string(out), "WARNING") {
		t.Errorf("HAProxy: %v\n%s", err, out)
	}
}
