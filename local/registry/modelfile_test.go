package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/parser"
	"github.com/ollama/ollama/types/model"

	"ollama-k8s/internal/modelfile"
)

// verdict is what a parser reads in a Modelfile: the base model, and the parameters' texts in order.
type verdict struct {
	From       string
	Parameters map[string][]string
}

func (v verdict) equal(other verdict) bool {
	return v.From == other.From && maps.EqualFunc(v.Parameters, other.Parameters, slices.Equal)
}

// Ollama and the root module's own checks judge the corpus that tests those checks.
func TestOllamaJudgesTheModelfileCorpusAsItSays(t *testing.T) {
	for _, c := range modelfileCorpus(t) {
		want := verdict{c.From, c.Parameters}
		ours, problems := ourVerdict(c.Text)
		if c.Good != (len(problems) == 0) || c.Good && !ours.equal(want) {
			t.Errorf("%q: we read %v and %q, the corpus says otherwise", c.Text, ours, problems)
		}
		theirs, err := ollamasVerdict(c.Text, t.TempDir())
		if good := err == nil; good != (c.Good || c.Stricter) {
			t.Errorf("%q: Ollama says %v, the corpus says good: %v, stricter: %v", c.Text, err, c.Good, c.Stricter)
		}
		if c.Good && !theirs.equal(want) {
			t.Errorf("%q: Ollama reads %v, the corpus says %v", c.Text, theirs, want)
		}
	}
}

// This test fails when a later Ollama has another option, or another type for an option.
func TestEachOptionOfOllamasTakesTheSameValues(t *testing.T) {
	for _, field := range reflect.VisibleFields(reflect.TypeFor[api.Options]()) {
		option, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if option == "" {
			continue
		}
		for _, value := range []string{"1", "0.5", "true", "text"} {
			_, err := api.FormatParams(map[string][]string{option: {value}})
			_, problems := ourVerdict("FROM a\nPARAMETER " + option + " " + value)
			if (err == nil) != (len(problems) == 0) {
				t.Errorf("%s %s: Ollama says %v, we say %q", option, value, err, problems)
			}
		}
	}
}

// The texts are those of the corpus, joined and damaged at random, but the same in each run.
func TestDamagedModelfilesAreJudgedAsOllamaJudgesThem(t *testing.T) {
	corpus := slices.DeleteFunc(modelfileCorpus(t), func(c modelfileCase) bool { return c.Stricter })
	folder, random := t.TempDir(), rand.New(rand.NewPCG(1, 2))
	pieces := []string{
		" ", "  ", "\t", "\n", "\r\n", "\r", `"`, `"""`, "#", " # c", "\u200b", "\u00a0",
		"{{", "}}", "{{ json .Tools }}", "{{ nothing }}", "é", ":", "/", ".",
		"FROM ", "from\t", "PARAMETER ", "parameter\tstop\t", "num_ctx", "num_ctx 12", "temperature", "nan", "inf",
		"1e39", "9223372036854775808", "+1", "mirostat", "SYSTEM ", "SYSTEM", "TEMPLATE ", "MESSAGE ",
		"user", "User", "user ", "REQUIRES ", "v1", "1.2", "01", "1.2.3-rc.1", "ADAPTER x",
	}
	taken, refused := 0, 0
	for range 40000 {
		text := ""
		for range 1 + random.IntN(3) {
			text += corpus[random.IntN(len(corpus))].Text + "\n"
		}
		for range random.IntN(4) {
			at := random.IntN(len(text) + 1)
			end := min(len(text), at+random.IntN(4))
			text = strings.ToValidUTF8(text[:at], "") + pieces[random.IntN(len(pieces))] +
				strings.ToValidUTF8(text[end:], "")
		}
		theirs, err := ollamasVerdict(text, folder)
		ours, problems := ourVerdict(text)
		switch {
		case err != nil:
			refused++
			if len(problems) == 0 {
				t.Errorf("%q: we accept it, but Ollama says: %v", text, err)
			}
		case len(problems) > 0:
			if !slices.ContainsFunc(problems, stricter) {
				t.Errorf("%q: Ollama accepts it, but we say %q", text, problems)
			}
		default:
			taken++
			if !ours.equal(theirs) {
				t.Errorf("%q: we read %v, Ollama reads %v", text, ours, theirs)
			}
		}
	}
	if taken < 1000 || refused < 1000 {
		t.Errorf("%d accepted and %d refused: the test needs many of both", taken, refused)
	}
}

// stricter reports problems that Ollama ignores: it would accept something that makes no sense on a server, or is a
// slip.
func stricter(problem string) bool {
	// Ollama does not mind a nan that a later value replaces.
	ignored := []string{"tokens above 0", "stop: has no value", "is a file", `"\u`, `"nan" is`, `"inf" is`}
	return slices.ContainsFunc(ignored, func(phrase string) bool {
		return strings.Contains(strings.ToLower(problem), phrase)
	})
}

func ourVerdict(text string) (verdict, []string) {
	file, problems := modelfile.Parse("m", []byte(text))
	if len(problems) > 0 {
		return verdict{}, problems
	}
	v := verdict{file.From, map[string][]string{}}
	for name, values := range file.Parameters {
		for _, value := range values {
			v.Parameters[name] = append(v.Parameters[name], value.Text)
		}
	}
	return v, nil
}

// ollamasFunctions are the functions of Ollama's template package. Importing it would bring in modules that nothing
// else here needs.
var ollamasFunctions = template.FuncMap{
	"json": fmt.Sprint, "currentDate": fmt.Sprint, "yesterdayDate": fmt.Sprint, "toTypeScriptType": fmt.Sprint,
}

// ollamasVerdict does what `ollama create` does: it runs the client's parser and request, then the server's checks. It
// checks each FROM and TEMPLATE, although only the last one counts.
func ollamasVerdict(text, folder string) (verdict, error) {
	parsed, err := parser.ParseFile(strings.NewReader(text))
	if err != nil {
		return verdict{}, err
	}
	request, err := parsed.CreateRequest(folder)
	if err != nil {
		return verdict{}, err
	}
	if _, err := json.Marshal(request); err != nil {
		return verdict{}, err
	}
	if request.Adapters != nil || request.Files != nil {
		return verdict{}, errors.New("needs files")
	}
	v := verdict{request.From, map[string][]string{}}
	for _, command := range parsed.Commands {
		switch command.Name {
		case "model":
			if !model.ParseName(command.Args).IsValid() {
				return verdict{}, fmt.Errorf("FROM %q", command.Args)
			}
		case "template":
			if _, err := template.New("").Funcs(ollamasFunctions).Parse(command.Args); err != nil {
				return verdict{}, err
			}
		case "license", "system", "renderer", "parser", "requires", "message":
		default:
			v.Parameters[command.Name] = append(v.Parameters[command.Name], command.Args)
		}
	}
	return v, nil
}

type modelfileCase struct {
	Text string
	// Good: both accept it. Stricter: Ollama accepts it, our check does not.
	Good, Stricter bool
	From           string
	Parameters     map[string][]string
}

func modelfileCorpus(t *testing.T) []modelfileCase {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "internal", "modelfile", "testdata", "corpus.json"))
	if err != nil {
		t.Fatal(err)
	}
	corpus := decode[[]modelfileCase](t, text)
	if len(corpus) < 40 {
		t.Fatalf("only %d Modelfiles", len(corpus))
	}
	return corpus
}
