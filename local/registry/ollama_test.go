package registry_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ollama-k8s/local/tinymodel"
)

// ollamaVariable is the variable with the path of a real ollama. Without it, the tests that need one are skipped.
const ollamaVariable = "OLLAMA_BIN"

// ollama is a running server with folders of its own.
type ollama struct {
	binary string
	url    string
	env    []string
}

func startOllama(t *testing.T) *ollama {
	t.Helper()
	binary := os.Getenv(ollamaVariable)
	if binary == "" {
		t.Skipf("%s is not set: set it to the path of an ollama binary", ollamaVariable)
	}
	home, address := t.TempDir(), freeAddress(t)
	o := &ollama{
		binary: binary,
		url:    "http://" + address,
		env: append(os.Environ(), "HOME="+home, "OLLAMA_MODELS="+filepath.Join(home, "models"),
			"OLLAMA_HOST="+address, "OLLAMA_CONTEXT_LENGTH=512"),
	}
	var log bytes.Buffer
	server := exec.Command(binary, "serve")
	server.Env, server.Stdout, server.Stderr = o.env, &log, &log
	if err := server.Start(); err != nil {
		t.Fatalf("%s=%s: %v", ollamaVariable, binary, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- server.Wait() }()
	t.Cleanup(func() {
		if err := server.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("stopping ollama: %v", err)
		}
		if err := <-exited; err != nil {
			t.Errorf("ollama serve ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the log of ollama serve:\n%s", log.String())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		response, err := http.Get(o.url + "/api/version")
		if err == nil {
			response.Body.Close()
			return o
		}
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("ollama serve ended at once: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("ollama did not answer within a minute: %v", err)
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// run runs a command of the client and returns what it printed.
func (o *ollama) run(t *testing.T, arguments ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), o.binary, arguments...)
	command.Env = o.env
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("ollama %s: %v\n%s", strings.Join(arguments, " "), err, output)
	}
	return string(output)
}

// post sends JSON and returns the body of a successful answer.
func (o *ollama) post(t *testing.T, path string, body map[string]any) []byte {
	t.Helper()
	sent, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, o.url+path, bytes.NewReader(sent))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	received, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		t.Fatalf("POST %s with %s: %s: %s", path, sent, response.Status, received)
	}
	return received
}

func decode[T any](t *testing.T, data []byte) T {
	t.Helper()
	var value T
	if err := json.Unmarshal(data, &value); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return value
}

type generated struct {
	Response   string `json:"response"`
	DoneReason string `json:"done_reason"`
	EvalCount  int    `json:"eval_count"`
}

func TestARealOllamaPullsAndRunsTheModels(t *testing.T) {
	o := startOllama(t)
	generate := func(t *testing.T, body map[string]any) generated {
		body["stream"] = false
		return decode[generated](t, o.post(t, "/api/generate", body))
	}
	server, models := start(t, "", t.Output())
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	// Not 127.0.0.1, on which the registry listens, so that a blob is a redirect away.
	site := "localhost:" + address.Port() + "/"
	for _, name := range models.Names() {
		o.run(t, "pull", "--insecure", site+name)
	}
	tiny, embedder := site+"library/tiny", site+"library/tiny-embed"

	for _, tag := range []string{"latest", "twin", "deep", "wide", "long"} {
		t.Run("tiny:"+tag+" says its sentence and ends", func(t *testing.T) {
			got := generate(t, map[string]any{"model": tiny + ":" + tag, "prompt": "Who are you?"})
			if got.Response != tinymodel.Sentence || got.DoneReason != "stop" {
				t.Errorf("got %q, ended by %s", got.Response, got.DoneReason)
			}
		})
	}

	t.Run("a chat streams the sentence word by word", func(t *testing.T) {
		body := o.post(t, "/api/chat", map[string]any{
			"model": tiny, "messages": []map[string]string{{"role": "user", "content": "Hi."}},
		})
		var words int
		var said strings.Builder
		for lines := bufio.NewScanner(bytes.NewReader(body)); lines.Scan(); words++ {
			piece := decode[struct{ Message struct{ Content string } }](t, lines.Bytes())
			said.WriteString(piece.Message.Content)
		}
		if want := len(strings.Fields(tinymodel.Sentence)); said.String() != tinymodel.Sentence || words < want {
			t.Errorf("got %q in %d parts, want at least %d", said.String(), words, want)
		}
	})

	t.Run("the endless model continues until it is stopped", func(t *testing.T) {
		got := generate(t, map[string]any{
			"model": site + "library/tiny-endless", "prompt": "Go.", "options": map[string]any{"num_predict": 300},
		})
		if got.DoneReason != "length" || got.EvalCount != 300 || strings.Count(got.Response, "Goodbye.") < 2 {
			t.Errorf("got %d tokens, ended by %s: %q", got.EvalCount, got.DoneReason, got.Response)
		}
	})

	t.Run("a schema gives valid JSON", func(t *testing.T) {
		schema := json.RawMessage(`{
			"type": "object",
			"properties": {
				"summary": {"type": "string"}, "severity": {"enum": ["low", "high"]},
				"line": {"type": "integer"}, "sure": {"type": "boolean"},
				"files": {"type": "array", "items": {"type": "string"}}
			},
			"required": ["summary", "severity", "line", "sure", "files"]
		}`)
		got := generate(t, map[string]any{"model": tiny, "prompt": "Review this.", "format": schema})
		answer := decode[struct {
			Summary, Severity string
			Line              int
			Sure              bool
			Files             []string
		}](t, []byte(got.Response))
		if answer.Summary != "ok" || answer.Line != 42 || !answer.Sure || len(answer.Files) == 0 ||
			(answer.Severity != "low" && answer.Severity != "high") {
			t.Errorf("got %s", got.Response)
		}
	})

	t.Run("OpenAI's chat completions answer", func(t *testing.T) {
		got := decode[struct {
			Choices []struct {
				Message      struct{ Content string }
				FinishReason string `json:"finish_reason"`
			}
		}](t, o.post(t, "/v1/chat/completions", map[string]any{
			"model": tiny, "messages": []map[string]string{{"role": "user", "content": "Hi."}},
		}))
		if len(got.Choices) != 1 || got.Choices[0].Message.Content != tinymodel.Sentence ||
			got.Choices[0].FinishReason != "stop" {
			t.Errorf("got %+v", got)
		}
	})

	t.Run("texts that share words have closer embeddings", func(t *testing.T) {
		vectors := decode[struct{ Embeddings [][]float64 }](t, o.post(t, "/api/embed", map[string]any{
			"model": embedder, "input": []string{"the server queue", "the proxy queue", "a cat", "the server queue"},
		})).Embeddings
		if len(vectors) != 4 || len(vectors[0]) != 64 {
			t.Fatalf("got %d vectors", len(vectors))
		}
		same, near, far := dot(vectors[0], vectors[3]), dot(vectors[0], vectors[1]), dot(vectors[0], vectors[2])
		if math.Abs(same-1) > 1e-4 || near <= far {
			t.Errorf("the same text is at %.4f, a near one at %.4f, a far one at %.4f", same, near, far)
		}
	})

	t.Run("a Modelfile builds on a pulled model", func(t *testing.T) {
		modelfile := filepath.Join(t.TempDir(), "Modelfile")
		const rest = "\nSYSTEM You review code.\nPARAMETER num_predict 3\n"
		if err := os.WriteFile(modelfile, []byte("FROM "+tiny+rest), 0o600); err != nil {
			t.Fatal(err)
		}
		o.run(t, "create", "reviewer", "-f", modelfile)
		got := generate(t, map[string]any{"model": "reviewer", "prompt": "Hi."})
		if got.Response != "Hello! I am" || got.DoneReason != "length" {
			t.Errorf("got %q, ended by %s", got.Response, got.DoneReason)
		}
		if system := o.run(t, "show", "--system", "reviewer"); !strings.Contains(system, "You review code.") {
			t.Errorf("got system prompt %q", system)
		}
	})
}

func dot(a, b []float64) (sum float64) {
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}
