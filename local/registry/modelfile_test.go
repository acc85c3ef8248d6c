package registry_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ollama/ollama/parser"
)

// The corpus on which the root module's own checks are tested, judged by Ollama.
func TestOllamaJudgesTheModelfileCorpusAsItSays(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "internal", "modelfile", "testdata", "corpus.json"))
	if err != nil {
		t.Fatal(err)
	}
	corpus := decode[[]struct {
		Text string
		Good bool
		From string
	}](t, text)
	if len(corpus) < 30 {
		t.Fatalf("only %d Modelfiles", len(corpus))
	}
	for _, c := range corpus {
		name, _ := json.Marshal(c.Text)
		parsed, err := parser.ParseFile(strings.NewReader(c.Text))
		from := ""
		if err == nil {
			request, failed := parsed.CreateRequest(t.TempDir())
			if err = failed; err == nil {
				from = request.From
			}
		}
		if good := err == nil; good != c.Good || (good && from != c.From) {
			t.Errorf("%s: got FROM %q and error %v, the corpus says good: %v, FROM %q", name, from, err, c.Good, c.From)
		}
	}
}
