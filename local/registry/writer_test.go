package registry_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"ollama-k8s/local/registry"
)

// These tests run the model store's writer, components/files/write-models.sh, with a real Ollama and a registry that
// changes and goes away.

const tinyManifest = "registry.ollama.ai/library/tiny/latest"

type writer struct {
	store, binary string
}

// run runs the script on a plan and returns its output and exit code.
func (w writer) run(t *testing.T, plan string, environment ...string) (output string, code int) {
	t.Helper()
	home := t.TempDir()
	planFile := filepath.Join(home, "plan")
	if err := os.WriteFile(planFile, []byte(plan), 0o600); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join("..", "..", "components", "files", "write-models.sh")
	command := exec.CommandContext(t.Context(), "sh", script, planFile)
	command.Env = append(os.Environ(), "HOME="+home, "PATH="+filepath.Dir(w.binary)+":"+os.Getenv("PATH"),
		"OLLAMA_MODELS="+w.store, "OLLAMA_HOST="+freeAddress(t), "OLLAMA_NOPRUNE=1",
		"TERMINATION_LOG="+filepath.Join(home, "log"), "TRIES=1")
	command.Env = append(command.Env, environment...)
	out, err := command.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), command.ProcessState.ExitCode()
}

func (w writer) must(t *testing.T, plan string, environment ...string) string {
	t.Helper()
	out, code := w.run(t, plan, environment...)
	if code != 0 {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	return out
}

func (w writer) manifest(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.store, "manifests", path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return text
}

func TestTheWriterWithARealOllama(t *testing.T) {
	o := startOllama(t) // for its binary and, at the end, to read what was written
	w := writer{store: t.TempDir(), binary: o.binary}
	server, models := start(t, "", t.Output())
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	site := "localhost:" + address.Port() + "/library"
	right, _ := models.Digest("library/tiny:latest")
	pull := func(digest string) string {
		return fmt.Sprintf("pull tiny %[1]s/tiny %[1]s/tiny/latest %[2]s %[3]s --insecure\n", site, tinyManifest, digest)
	}

	out := w.must(t, pull(right)+"prune\n")
	before := w.manifest(t, tinyManifest)
	if len(before) == 0 {
		t.Fatalf("tiny is not in the store:\n%s", out)
	}

	t.Run("another digest than the lock's is refused and changes nothing", func(t *testing.T) {
		wrong := "sha256:" + strings.Repeat("0", 64)
		out, code := w.run(t, pull(wrong))
		for _, want := range []string{"model tiny: the registry has " + right, "models.lock.yaml says " + wrong} {
			if code != 1 || !strings.Contains(out, want) {
				t.Errorf("exit code %d, want %q in:\n%s", code, want, out)
			}
		}
		if !bytes.Equal(before, w.manifest(t, tinyManifest)) {
			t.Error("the manifest that serves was changed")
		}
	})

	// The system prompt has what breaks shells, templates and editors, and the line ends of another system.
	system := "Costs $5 or ${HOME}: `rm -rf /` \\n \\\\ 'single' \"double\" {{ .Prompt }} %s é 日本\r\n" +
		"second line\r\n# no comment"
	modelfile := filepath.Join(t.TempDir(), "Modelfile")
	text := "FROM tiny\r\nSYSTEM \"\"\"" + system + "\"\"\"\r\nPARAMETER stop \"# stop\"\r\n"
	if err := os.WriteFile(modelfile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	const odd = "registry.ollama.ai/library/odd/latest"
	w.must(t, pull(right)+"create odd "+modelfile+" "+odd+"\n")

	t.Run("the scheduled check reports a changed tag and changes nothing that serves", func(t *testing.T) {
		out, code := w.run(t, pull(right), "MODE=check")
		if code != 0 {
			t.Fatalf("exit code %d without drift:\n%s", code, out)
		}
		other, _ := models.Digest("library/tiny:twin")
		drifted := strings.Replace(pull(right), site+"/tiny "+site+"/tiny/latest",
			site+"/tiny:twin "+site+"/tiny/twin", 1)
		out, code = w.run(t, drifted, "MODE=check")
		want := "drift: tiny is " + other + " in the registry, " + right + " here"
		if code != 3 || !strings.Contains(out, want) {
			t.Errorf("exit code %d, want %q in:\n%s", code, want, out)
		}
		if !bytes.Equal(before, w.manifest(t, tinyManifest)) {
			t.Error("the manifest that serves was changed")
		}
		weights := strings.Replace(weightsOf(t, server, "tiny", "twin").Digest, ":", "-", 1)
		if _, err := os.Stat(filepath.Join(w.store, "blobs", weights)); err != nil {
			t.Errorf("the newer weights are not there for the update that takes them: %v", err)
		}
	})

	t.Run("a Modelfile is not built on an unverified model", func(t *testing.T) {
		var asked atomic.Int32
		library := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.WriteHeader(http.StatusNotFound)
		}))
		defer library.Close()
		environment := []string{"HTTPS_PROXY=" + library.URL, "NO_PROXY=localhost,127.0.0.1"}
		fresh := writer{store: t.TempDir(), binary: o.binary}
		wrong := "sha256:" + strings.Repeat("0", 64)
		create := "create odd " + modelfile + " " + odd + "\n"
		out, code := fresh.run(t, pull(wrong)+create, environment...)
		if code != 1 || !strings.Contains(out, "failed models: tiny odd") || asked.Load() > 0 {
			t.Errorf("exit code %d, Ollama's own library asked %d times:\n%s", code, asked.Load(), out)
		}

		// FROM looks under the name by which the model is pulled, where the unverified manifest would be.
		self := filepath.Join(t.TempDir(), "Modelfile")
		if err := os.WriteFile(self, []byte("FROM "+site+"/tiny\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		name := site + "/tiny"
		plan := fmt.Sprintf("pull %[1]s %[1]s %[1]s/latest %[1]s/latest %[2]s --insecure\ncreate odd %[3]s %[4]s\n",
			name, wrong, self, odd)
		out, code = fresh.run(t, plan, environment...)
		if code != 1 || len(fresh.manifest(t, odd)) > 0 {
			t.Errorf("exit code %d, a manifest of %d bytes for odd:\n%s", code, len(fresh.manifest(t, odd)), out)
		}
	})

	server.Close()
	t.Run("a model that is in place needs no registry", func(t *testing.T) {
		out := w.must(t, pull(right)+"create odd "+modelfile+" "+odd+"\n")
		if !strings.Contains(out, "model tiny: is in place") {
			t.Errorf("got:\n%s", out)
		}
		out, code := w.run(t, pull("sha256:"+strings.Repeat("1", 64)))
		if code != 1 || !strings.Contains(out, "failed models: tiny") {
			t.Errorf("a model that is not in place: exit code %d:\n%s", code, out)
		}
	})

	t.Run("a Modelfile's bytes arrive as they are", func(t *testing.T) {
		found := false
		blobs, err := filepath.Glob(filepath.Join(w.store, "blobs", "sha256-*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, blob := range blobs {
			text, err := os.ReadFile(blob)
			if err != nil {
				t.Fatal(err)
			}
			found = found || string(text) == system
		}
		if !found {
			t.Errorf("none of %d blobs has the exact system prompt: %q", len(blobs), system)
		}
	})

	t.Run("pruning leaves what was created", func(t *testing.T) {
		w.must(t, "create odd "+modelfile+" "+odd+"\nprune\n")
		if len(w.manifest(t, tinyManifest)) > 0 {
			t.Error("tiny is still there, although it is no longer in the plan")
		}
		if len(w.manifest(t, odd)) == 0 {
			t.Error("odd, which was created, is gone")
		}
	})
}

func TestTheWriterReachesARegistryBehindTheCompanysAuthorityOrProxy(t *testing.T) {
	binary := os.Getenv(ollamaVariable)
	if binary == "" {
		t.Skipf("%s is not set: set it to the path of an ollama binary", ollamaVariable)
	}
	models, err := registry.TinyModels()
	if err != nil {
		t.Fatal(err)
	}
	right, _ := models.Digest("library/tiny:latest")
	log := slog.New(slog.DiscardHandler)
	plan := func(host, options string) string {
		return fmt.Sprintf("pull tiny %[1]s/library/tiny %[1]s/library/tiny/latest %[2]s %[3]s%[4]s\n",
			host, tinyManifest, right, options)
	}

	t.Run("a certificate of its own", func(t *testing.T) {
		blobs := httptest.NewServer(registry.Handler(models, "", log))
		defer blobs.Close()
		_, port, _ := strings.Cut(strings.TrimPrefix(blobs.URL, "http://"), ":")
		server := httptest.NewTLSServer(registry.Handler(models, "localhost:"+port, log))
		defer server.Close()
		// The test expects the refused handshake.
		server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		folder := t.TempDir()
		certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
		if err := os.WriteFile(filepath.Join(folder, "company.pem"), certificate, 0o600); err != nil {
			t.Fatal(err)
		}
		w := writer{store: t.TempDir(), binary: binary}
		host := strings.TrimPrefix(server.URL, "https://")
		if out, code := w.run(t, plan(host, "")); code != 1 || !strings.Contains(out, "certificate") {
			t.Errorf("without the bundle: exit code %d:\n%s", code, out)
		}
		w.must(t, plan(host, ""), "SSL_CERT_DIR="+folder)
	})

	t.Run("a proxy", func(t *testing.T) {
		// Only the proxy knows these hosts.
		proxy := httptest.NewServer(registry.Handler(models, "blobs.example.test", log))
		defer proxy.Close()
		w := writer{store: t.TempDir(), binary: binary}
		if out, code := w.run(t, plan("models.example.test", " --insecure")); code != 1 {
			t.Errorf("without the proxy: exit code %d:\n%s", code, out)
		}
		w.must(t, plan("models.example.test", " --insecure"), "HTTP_PROXY="+proxy.URL, "HTTPS_PROXY="+proxy.URL,
			"NO_PROXY=localhost,127.0.0.1,.svc,.cluster.local")
	})
}
