package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The model store's writer, components/files/write-models.sh, with a real Ollama and a registry that changes and goes away.

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
	command := exec.CommandContext(t.Context(), "sh", filepath.Join("..", "..", "components", "files", "write-models.sh"), planFile)
	command.Env = append(os.Environ(), "HOME="+home, "PATH="+filepath.Dir(w.binary)+":"+os.Getenv("PATH"), "OLLAMA_MODELS="+w.store,
		"OLLAMA_HOST="+freeAddress(t), "OLLAMA_NOPRUNE=1", "TERMINATION_LOG="+filepath.Join(home, "log"), "TRIES=1")
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
		if want := "model tiny: the registry has " + right + ", models.lock.yaml says " + wrong; code != 1 || !strings.Contains(out, want) {
			t.Errorf("exit code %d, want %q in:\n%s", code, want, out)
		}
		if !bytes.Equal(before, w.manifest(t, tinyManifest)) {
			t.Error("the manifest that serves was changed")
		}
	})

	// What shells, templates and editors trip over, with the line ends of another system.
	system := "Costs $5 or ${HOME}: `rm -rf /` \\n \\\\ 'single' \"double\" {{ .Prompt }} %s é 日本\r\nsecond line\r\n# no comment"
	modelfile := filepath.Join(t.TempDir(), "Modelfile")
	if err := os.WriteFile(modelfile, []byte("FROM tiny\r\nSYSTEM \"\"\""+system+"\"\"\"\r\nPARAMETER stop \"# stop\"\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const odd = "registry.ollama.ai/library/odd/latest"
	w.must(t, pull(right)+"create odd "+modelfile+" "+odd+"\n")

	t.Run("a changed tag is drift to the scheduled check and changes nothing that serves", func(t *testing.T) {
		out, code := w.run(t, pull(right), "MODE=check")
		if code != 0 {
			t.Fatalf("exit code %d without drift:\n%s", code, out)
		}
		other, _ := models.Digest("library/tiny:twin")
		drifted := strings.Replace(pull(right), site+"/tiny "+site+"/tiny/latest", site+"/tiny:twin "+site+"/tiny/twin", 1)
		out, code = w.run(t, drifted, "MODE=check")
		if want := "drift: tiny is " + other + " in the registry, " + right + " here"; code != 3 || !strings.Contains(out, want) {
			t.Errorf("exit code %d, want %q in:\n%s", code, want, out)
		}
		if !bytes.Equal(before, w.manifest(t, tinyManifest)) {
			t.Error("the manifest that serves was changed")
		}
	})

	server.Close()
	t.Run("what is in place needs no registry", func(t *testing.T) {
		if out := w.must(t, pull(right)+"create odd "+modelfile+" "+odd+"\n"); !strings.Contains(out, "model tiny: is in place") {
			t.Errorf("got:\n%s", out)
		}
		if out, code := w.run(t, pull("sha256:"+strings.Repeat("1", 64))); code != 1 || !strings.Contains(out, "failed models: tiny") {
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
			t.Errorf("no blob of %d holds the system prompt as it was written: %q", len(blobs), system)
		}
	})

	t.Run("pruning leaves what was created", func(t *testing.T) {
		w.must(t, "create odd "+modelfile+" "+odd+"\nprune\n")
		if len(w.manifest(t, tinyManifest)) > 0 {
			t.Error("tiny, which the plan has no more, is still there")
		}
		if len(w.manifest(t, odd)) == 0 {
			t.Error("odd, which was created, is gone")
		}
	})
}
