package lockfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const text = header + `models:
  gemma3:27b:
    digest: sha256:a418f5838eaf7fe2cfe0a3046c8384b68ba43a4435542c942f9db00a5f342203
    bytes: 17396936934
    quantization: Q4_K_M
    architecture: gemma3
    layers: 62
    heads: 32
    kvHeads: 16
    headDim: 128
    embedding: 5376
    context: 131072
    kvPerToken: 81920
    kvPerWindowToken: 425984
    window: 1024
    graph: 547618816
    capabilities: [completion, vision]
  llama3:8b:
    bytes: 4661224676
    quantization: Q4_0
    architecture: llama
    layers: 32
    heads: 32
    kvHeads: 8
    headDim: 128
    embedding: 4096
    context: 8192
    kvPerToken: 131072
    graph: 271056896
    capabilities: [completion]
    source: size and shape as published with the model; half of it is not counted on, digest not taken yet
`

func TestALockReadsAndWritesBackTheSame(t *testing.T) {
	lock, err := Parse([]byte(text))
	require.NoError(t, err)
	again, err := lock.Marshal()
	require.NoError(t, err)
	assert.Equal(t, text, string(again))
}

func TestTextsThatYAMLWouldReadOtherwiseAreQuoted(t *testing.T) {
	for _, source := range []string{
		"a: b", "a #b", "true", "12", "- a", `"`, "a\nb", " a", "a:", "é", "[a", "null", "a ", "@a", "it's",
	} {
		lock, err := Parse([]byte(text))
		require.NoError(t, err)
		entry := lock.Models["llama3:8b"]
		entry.Source = source
		lock.Models["llama3:8b"] = entry
		written, err := lock.Marshal()
		require.NoError(t, err, source)
		again, err := Parse(written)
		require.NoError(t, err, source)
		assert.Equal(t, lock, again, source)
	}
}

func TestAnEmptyLockReadsAndWrites(t *testing.T) {
	for _, empty := range []string{"", "# nothing yet\n", "models: {}\n", "models:\n"} {
		lock, err := Parse([]byte(empty))
		require.NoError(t, err, empty)
		written, err := lock.Marshal()
		require.NoError(t, err)
		assert.Equal(t, header+"models: {}\n", string(written))
	}
}

func TestAProjectWithoutALockHasAnEmptyOne(t *testing.T) {
	lock, err := Read(fstest.MapFS{})
	require.NoError(t, err)
	assert.Empty(t, lock.Models)
}

func TestTheProjectsOwnLockCanBeRead(t *testing.T) {
	_, err := Read(os.DirFS("../.."))
	require.NoError(t, err)
}

func TestEveryProblemIsNamedWithItsKeyValueAndRemedy(t *testing.T) {
	wrong := text
	for _, change := range [][2]string{
		{"    layers: 32\n", ""},
		{"    heads: 32\n    kvHeads: 8", "    heads: many\n    kvHeads: -8"},
		{"kvPerToken: 131072", "kvPerToken: 0"},
		{"window: 1024", "window: 0"},
		{"sha256:a418", "sha256:A418"},
		{"  llama3:8b:", "  library/llama3:8b:"},
		{"[completion, vision]", "[completion, sight]"},
		{"context: 8192", "context: 8192\n    contxt: 1"},
	} {
		require.Contains(t, wrong, change[0])
		wrong = strings.Replace(wrong, change[0], change[1], 1)
	}
	// The first "heads" in the text is gemma3's, so are the other figures that both have.
	_, err := Parse([]byte(wrong))
	require.Error(t, err)
	for _, line := range []string{
		"models.gemma3:27b.digest: value sha256:A418f5838eaf7fe2cfe0a3046c8384b68ba43a4435542c942f9db00a5f342203: use " +
			"sha256: and 64 digits of 0-9a-f, or leave it out",
		"models.gemma3:27b.window: value 0: kvPerWindowToken needs a window: use a number of tokens above 0",
		"models.gemma3:27b.capabilities: value sight: use one or more of completion, embedding, tools, vision, insert, " +
			"thinking",
		"models.library/llama3:8b: the lock uses short names with a tag: rename the entry to llama3:8b",
		"models.library/llama3:8b.layers: value 0: use a number above 0, or run `make lock`",
		`models.library/llama3:8b.heads: value "many": use a whole number`,
		"models.library/llama3:8b.kvHeads: value -8: use a number above 0, or run `make lock`",
		"models.library/llama3:8b.kvPerToken: value 0: use a number above 0, or run `make lock`",
		"models.library/llama3:8b.contxt: value 1: unknown field: remove it",
	} {
		assert.Contains(t, strings.Split(err.Error(), "\n"), Name+": "+line)
	}
	assert.Len(t, strings.Split(err.Error(), "\n"), 9, "each problem is said once:\n%v", err)
}

func TestWhatIsNoLockIsRefused(t *testing.T) {
	for wrong, part := range map[string]string{
		"modles: {}\n":                  "modles",
		"models: [a]\n":                 "models",
		text + "  llama3:8b: {}\n":      "llama3:8b",
		"models: {}\nmodels: {}\n":      "models",
		"models: {\"a b:c\": {}}\n":     `"a b"`,
		"models: {tiny:latest: null}\n": "tiny:latest",
	} {
		_, err := Parse([]byte(wrong))
		require.Error(t, err, wrong)
		assert.Contains(t, err.Error(), Name)
		assert.Contains(t, err.Error(), part)
	}
}

func TestANameIsFoundWhicheverWayItIsWritten(t *testing.T) {
	lock := &Lock{Models: map[string]Model{"tiny:latest": {Bytes: 1}}}
	for _, name := range []string{"tiny", "tiny:latest", "library/tiny", "registry.ollama.ai/library/tiny:latest"} {
		_, ok := lock.Get(name)
		assert.True(t, ok, name)
	}
	_, ok := lock.Get("tiny:twin")
	assert.False(t, ok)
}

func TestAFileOfTheSameContentIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), Name)
	lock, err := Parse([]byte(text))
	require.NoError(t, err)
	changed, err := lock.Write(path)
	require.NoError(t, err)
	assert.True(t, changed)
	before, err := os.Stat(path)
	require.NoError(t, err)
	changed, err = lock.Write(path)
	require.NoError(t, err)
	assert.False(t, changed)
	after, err := os.Stat(path)
	require.NoError(t, err)
	assert.True(t, os.SameFile(before, after))
	assert.Equal(t, before.ModTime(), after.ModTime())
}

func TestALockThatCouldNotBeReadAgainIsNotWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), Name)
	_, err := (&Lock{Models: map[string]Model{"tiny:latest": {}}}).Write(path)
	require.ErrorContains(t, err, "models.tiny:latest.bytes")
	assert.NoFileExists(t, path)
}
