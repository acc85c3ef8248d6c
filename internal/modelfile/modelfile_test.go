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
	file, problems := modelfile.Parse("m", []byte(
		"\ufeff# A comment.\r\n\r\nfrom llama3:8b\r\nSYSTEM \"\"\"\r\nFROM nothing\r\n# no comment\r\n\"\"\"\r\nPARAMETER "+
			"stop \"a b\"\r\nPARAMETER stop c\r\nparameter num_ctx 4096\r\nMESSAGE user \"\"\"two\r\nlines\"\"\"\r\nTEMPLATE "+
			"{{ .Prompt }}",
	))
	require.Empty(t, problems)
	assert.Equal(t, "llama3:8b", file.From)
	assert.Equal(t, 3, file.FromLine)
	assert.Equal(t, []modelfile.Value{{Text: "a b", Line: 8}, {Text: "c", Line: 9}}, file.Parameters["stop"])
	value, line, ok := file.NumCtx()
	assert.True(t, ok)
	assert.Equal(t, [2]int{4096, 10}, [2]int{value, line})
}

func TestTheLastContextCountsAndNoneIsSaidToBeNone(t *testing.T) {
	file, problems := modelfile.Parse("m", []byte("FROM a\nPARAMETER num_ctx 1024\nPARAMETER\tnum_ctx\t\"2048\""))
	require.Empty(t, problems)
	value, line, ok := file.NumCtx()
	assert.True(t, ok)
	assert.Equal(t, [2]int{2048, 3}, [2]int{value, line})
	file, problems = modelfile.Parse("m", []byte("FROM a"))
	require.Empty(t, problems)
	_, _, ok = file.NumCtx()
	assert.False(t, ok)
}

func TestEveryProblemNamesItsLineAndARemedy(t *testing.T) {
	for text, want := range map[string]string{
		"": "m:1: FROM is missing: begin with FROM",
		"FROM a\nPARAMETER temperature 0.1 # " +
			"low": `m:2: PARAMETER temperature: "0.1 # low" is not allowed: use a number, and put comments on ` +
			`their own line`,
		"FROM a\nPARAMETER temperature hot": `m:2: PARAMETER temperature: "hot" is not allowed: use a number`,
		"FROM a\nPARAMETER temperature nan": `m:2: PARAMETER temperature: "nan" is not allowed: use a number`,
		"FROM a\nPARAMETER num_ctx " +
			"0.5": `m:2: PARAMETER num_ctx: "0.5" is not allowed: use a whole number`,
		"FROM a\nPARAMETER num_ctx 0": "m:2: PARAMETER num_ctx: 0 is not allowed: use a number of " +
			"tokens above 0",
		"FROM a\nPARAMETER use_mmap " +
			"maybe": `m:2: PARAMETER use_mmap: "maybe" is not allowed: use true or false`,
		"FROM a\nPARAMETER temprature " +
			"1": "m:2: PARAMETER temprature: unknown parameter: did you mean temperature?",
		"FROM a\nPARAMETER NUM_CTX 1": "m:2: PARAMETER NUM_CTX: unknown parameter: did you mean num_ctx?",
		"FROM a\nPARAMETER x 1": "m:2: PARAMETER x: unknown parameter: use one of " +
			"frequency_penalty, main_gpu",
		"FROM a\nPARAMETER " +
			"temperature": "m:2: PARAMETER temperature: has no value: add a number on the same line",
		"FROM a\nPARAMETER mirostat":       "m:2: PARAMETER mirostat: has no value: add any value",
		"FROM a\nPARAMETER stop \"\"":      "m:2: PARAMETER stop: has no value",
		"FROM a\nPARAMETER  temperature 1": "m:2: PARAMETER is followed by two spaces",
		"FROM a\nSYSTM x":                  `m:2: unknown instruction "SYSTM": did you mean SYSTEM?`,
		"FORM a":                           `m:1: unknown instruction "FORM": did you mean FROM?`,
		"FROM a\nSYSTEM You " +
			"are\nhelpful": `m:3: unknown instruction "helpful": use one of FROM, PARAMETER, TEMPLATE, SYSTEM, ` +
			`MESSAGE, LICENSE, RENDERER, PARSER, REQUIRES (put a text of several lines between """ and """)`,
		"FROM a\n\u00a0SYSTEM x": `m:2: unknown instruction "\u00a0SYSTEM": did you mean SYSTEM?`,
		"FROM a\nSYSTEM":         "m:2: SYSTEM has no value: start it after the instruction",
		"FROM a\nMESSAGE robot hello": `m:2: MESSAGE: the role "robot" is not allowed: write MESSAGE, ` +
			`one space, the role (system, user or assistant)`,
		"FROM a\nMESSAGE user": "m:2: MESSAGE user has no value: write it after the role",
		"FROM a\n\nSYSTEM " +
			"\"\"\"\nunclosed": `m:3: SYSTEM: the quoted value never ends: close it with """`,
		"FROM a\nSYSTEM \"hi\" # why": `m:2: SYSTEM: the quoted value never ends: ` +
			`close it with ", and put comments on their own line`,
		"FROM ": "m:1: FROM has no value: name a model",
		"FROM a # the base": `m:1: FROM "a # the base": Ollama reads the comment as part of the ` +
			`name: put comments on their own line`,
		"FROM a b": `m:1: FROM: model name "a b": the model "a b" is not allowed: use ` +
			`[[host/]namespace/]model[:tag]`,
		"FROM ./weights.gguf": "m:1: FROM ./weights.gguf is a file, and the writer has only the " +
			"Modelfile: push the model to a registry and name it here",
		"FROM C:\\weights.gguf": "m:1: FROM C:\\weights.gguf is a file",
		"FROM a\nADAPTER ./lora": "m:2: ADAPTER ./lora is a file, and the writer has only the " +
			"Modelfile: push",
		"FROM a\nREQUIRES new": `m:2: REQUIRES "new" is not a version: use the oldest Ollama ` +
			`that works`,
		"FROM a\nTEMPLATE \"\"\"\n\n{{ jsn . " +
			"}}\"\"\"": `m:4: function "jsn" not defined in TEMPLATE: write it as a Go template`,
		"FROM a\r\n\r\nSYSTEM \xff": "m:3: the byte 0xff is not UTF-8: save the file as UTF-8",
	} {
		file, problems := modelfile.Parse("m", []byte(text))
		assert.Nil(t, file, text)
		if assert.Len(t, problems, 1, text) {
			assert.Contains(t, problems[0], want)
		}
	}
}

func TestAllProblemsAreFoundAtOnceAndInTheirOrder(t *testing.T) {
	_, problems := modelfile.Parse("modelfiles/x.Modelfile", []byte(
		"WHAT 1\r\nPARAMETER a b\nMESSAGE you hi\nSYSTEM \"\"\"\nWHAT\n\"\"\"\nADAPTER x\nPARAMETER seed 1.5",
	))
	require.Len(t, problems, 6)
	for i, place := range []string{":1: ", ":2: ", ":3: ", ":7: ", ":8: ", ":1: FROM is missing"} {
		assert.Contains(t, problems[i], "modelfiles/x.Modelfile"+place)
	}
}

// The corpus is also given to Ollama's own parser, in local/registry.
func TestTheCorpusIsJudgedAsItSays(t *testing.T) {
	text, err := os.ReadFile("testdata/corpus.json")
	require.NoError(t, err)
	var corpus []struct {
		Text, From string
		Good       bool
		Parameters map[string][]string
	}
	require.NoError(t, json.Unmarshal(text, &corpus))
	require.Greater(t, len(corpus), 100)
	for _, c := range corpus {
		file, problems := modelfile.Parse("m", []byte(c.Text))
		assert.Equal(t, c.Good, len(problems) == 0, "%q: %v", c.Text, problems)
		if file == nil {
			continue
		}
		assert.Equal(t, c.From, file.From, c.Text)
		assert.Len(t, file.Parameters, len(c.Parameters), c.Text)
		for name, texts := range c.Parameters {
			var got []string
			for _, value := range file.Parameters[name] {
				got = append(got, value.Text)
			}
			assert.Equal(t, texts, got, c.Text)
		}
	}
}
