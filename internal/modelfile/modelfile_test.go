package modelfile_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/internal/modelfile"
)

func TestAGoodModelfileIsRead(t *testing.T) {
	file, problems := modelfile.Parse("m", []byte("\ufeff# A comment.\r\n\r\nfrom llama3:8b\r\nSYSTEM \"\"\"\r\nFROM nothing\r\n# no comment\r\n\"\"\"\r\nPARAMETER stop \"a b\"\r\nPARAMETER stop c\r\nparameter num_ctx 4096\r\nMESSAGE user \"\"\"two\r\nlines\"\"\"\r\nTEMPLATE {{ .Prompt }}"))
	require.Empty(t, problems)
	assert.Equal(t, "llama3:8b", file.From)
	assert.Equal(t, 3, file.FromLine)
	assert.Equal(t, []modelfile.Value{{Text: "a b", Line: 8}, {Text: "c", Line: 9}}, file.Parameters["stop"])
	value, line, ok := file.NumCtx()
	assert.True(t, ok)
	assert.Equal(t, [2]int{4096, 10}, [2]int{value, line})
	file, _ = modelfile.Parse("m", []byte("FROM a"))
	_, _, ok = file.NumCtx()
	assert.False(t, ok)
}

func TestEveryProblemNamesItsLineAndARemedy(t *testing.T) {
	for text, want := range map[string]string{
		"": "m:1: has no FROM: begin with FROM",
		"FROM a\nPARAMETER temperature 0.1 # low": `m:2: PARAMETER temperature: the value is "0.1 # low", the comment included: put the comment on a line of its own and leave "0.1"`,
		"FROM a\nPARAMETER temperature hot":       `m:2: PARAMETER temperature: "hot" is not allowed: give it a number`,
		"FROM a\nPARAMETER num_ctx 0.5":           `m:2: PARAMETER num_ctx: "0.5" is not allowed: give it a whole number`,
		"FROM a\nPARAMETER num_ctx 0":             "m:2: PARAMETER num_ctx: 0 is not allowed",
		"FROM a\nPARAMETER use_mmap maybe":        `m:2: PARAMETER use_mmap: "maybe" is not allowed: give it true or false`,
		"FROM a\nPARAMETER temprature 1":          "m:2: PARAMETER temprature: unknown parameter: use one of frequency_penalty",
		"FROM a\nPARAMETER temperature":           "m:2: PARAMETER temperature: has no value",
		"FROM a\nPARAMETER  temperature 1":        "m:2: PARAMETER is followed by two spaces",
		"FROM a\nSYSTM x":                         `m:2: "SYSTM" is no instruction: use one of FROM`,
		"FROM a\nSYSTEM":                          `m:2: "SYSTEM" has no value`,
		"FROM a\nMESSAGE robot hello":             "m:2: MESSAGE robot: the role is not allowed",
		"FROM a\n\nSYSTEM \"\"\"\nunclosed":       "m:3: SYSTEM has a value that begins with a quote and never ends",
		"FROM ./weights.gguf":                     "m:1: FROM ./weights.gguf is a file",
		"FROM a\nADAPTER ./lora":                  "m:2: ADAPTER ./lora is a file",
		"FROM a\xff":                              "m:1: is not UTF-8",
	} {
		_, problems := modelfile.Parse("m", []byte(text))
		if assert.Len(t, problems, 1, text) {
			assert.Contains(t, problems[0], want)
		}
	}
	_, problems := modelfile.Parse("m", []byte("WHAT 1\nPARAMETER a b\nFROM x\nMESSAGE you hi\n"))
	assert.Len(t, problems, 3, "all of them at once")
}

// The corpus is also given to Ollama's own parser, in local/registry.
func TestTheCorpusIsJudgedAsOllamaJudgesIt(t *testing.T) {
	text, err := os.ReadFile("testdata/corpus.json")
	require.NoError(t, err)
	var corpus []struct {
		Text string
		Good bool
		From string
	}
	require.NoError(t, json.Unmarshal(text, &corpus))
	require.Greater(t, len(corpus), 30)
	for _, c := range corpus {
		file, problems := modelfile.Parse("m", []byte(c.Text))
		assert.Equal(t, c.Good, len(problems) == 0, "%q: %v", c.Text, problems)
		if c.Good && file != nil {
			assert.Equal(t, c.From, file.From, c.Text)
		}
	}
}
