package components

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The scripts for real, in the shell of the Ollama image (dash), with a stub `ollama`.

// writeModels runs write-models.sh with the stub of testdata and returns its output, what it reported to the kubelet, and whether it succeeded.
func writeModels(t *testing.T, plan string, environment ...string) (output, report string, ok bool) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plan"), []byte(plan), 0o600))
	stub, err := filepath.Abs("testdata/stub")
	require.NoError(t, err)
	command := exec.Command("dash", "files/write-models.sh", filepath.Join(dir, "plan"))
	command.Env = append([]string{
		"PATH=" + stub + ":" + os.Getenv("PATH"), "STUB_DIR=" + dir, "OLLAMA_MODELS=" + filepath.Join(dir, "models"),
		"TERMINATION_LOG=" + filepath.Join(dir, "termination-log"), "BACKOFF=0",
	}, environment...)
	out, err := command.CombinedOutput()
	told, readErr := os.ReadFile(filepath.Join(dir, "termination-log"))
	if readErr != nil {
		require.ErrorIs(t, readErr, os.ErrNotExist)
	}
	if _, err := os.Stat(filepath.Join(dir, "serving")); err == nil {
		t.Error("the local server was left running")
	}
	assert.DirExists(t, filepath.Join(dir, "models", "blobs"))
	assert.DirExists(t, filepath.Join(dir, "models", "manifests"))
	return string(out), string(told), err == nil
}

func TestTheWriterPullsCopiesAndCreates(t *testing.T) {
	out, report, ok := writeModels(t, "pull tiny host:5000/library/tiny --insecure\npull llama3:8b llama3:8b\ncreate reviewer /files/reviewer\n")
	require.True(t, ok, out)
	assert.Empty(t, report)
	assert.Contains(t, out, "all 3 models are in place")
	assert.Equal(t, []string{
		"pull --insecure host:5000/library/tiny", "cp host:5000/library/tiny tiny", "rm host:5000/library/tiny", "pull llama3:8b", "create reviewer -f /files/reviewer",
	}, calls(out))
}

func TestTheWriterNamesTheModelThatFailsAndStillTriesTheOthers(t *testing.T) {
	out, report, ok := writeModels(t, "pull good good\npull bad bad\npull last last\n", "STUB_FAIL=bad", "TRIES=2")
	require.False(t, ok, out)
	assert.Contains(t, report, `model bad: "ollama pull bad" failed 2 times, at last with: Error: pull model manifest: file does not exist`)
	assert.Contains(t, report, "failed models: bad\n")
	assert.Equal(t, []string{"pull good", "pull bad", "pull bad", "pull last"}, calls(out))
}

func TestTheWriterWaitsForAServerThatStartsSlowly(t *testing.T) {
	start := time.Now()
	out, _, ok := writeModels(t, "pull good good\n", "STUB_START=2")
	require.True(t, ok, out)
	assert.GreaterOrEqual(t, time.Since(start), 2*time.Second)
	assert.Equal(t, []string{"pull good"}, calls(out))
}

func TestTheWriterGivesUpOnAServerThatEndsOrNeverAnswers(t *testing.T) {
	_, report, ok := writeModels(t, "pull good good\n", "STUB_START=never", "START_LIMIT=1")
	assert.False(t, ok)
	assert.Contains(t, report, "did not answer within 1 s")
	_, report, ok = writeModels(t, "pull good good\n", "STUB_START=die")
	assert.False(t, ok)
	assert.Contains(t, report, "ended before it answered")
}

// calls are the pull, cp and create commands that the stub was given.
func calls(output string) (found []string) {
	for _, line := range strings.Split(output, "\n") {
		if call, ok := strings.CutPrefix(line, "stub: "); ok {
			found = append(found, call)
		}
	}
	return found
}

const (
	established = "   1: 0100007F:2CAA 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000 0 1 1 0\n"
	listening   = "   0: 00000000:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 1 1 0\n"
	otherPort   = "   2: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000 0 1 1 0\n"
	header      = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
)

func drain(t *testing.T, table, limit string) (string, time.Duration, error) {
	t.Helper()
	start := time.Now()
	out, err := exec.Command("dash", "files/drain.sh", "11434", limit, table).CombinedOutput()
	return string(out), time.Since(start), err
}

func TestTheDrainEndsOnceNobodyIsConnected(t *testing.T) {
	t.Parallel()
	table := filepath.Join(t.TempDir(), "tcp")
	require.NoError(t, os.WriteFile(table, []byte(header+listening+established+otherPort), 0o600))
	gone := make(chan error, 1)
	time.AfterFunc(9*time.Second, func() { gone <- os.WriteFile(table, []byte(header+listening+otherPort), 0o600) })
	out, took, err := drain(t, table, "60")
	require.NoError(t, err)
	require.NoError(t, <-gone)
	assert.Empty(t, out)
	assert.Greater(t, took, 10*time.Second, "it must wait for the connection and then for three quiet seconds")
	assert.Less(t, took, 20*time.Second)
}

func TestTheDrainGivesUpAtItsLimit(t *testing.T) {
	t.Parallel()
	table := filepath.Join(t.TempDir(), "tcp")
	require.NoError(t, os.WriteFile(table, []byte(header+listening+established), 0o600))
	out, took, err := drain(t, table, "2")
	require.NoError(t, err)
	assert.Contains(t, out, "connections to port 11434 are still open after 2 s")
	assert.Less(t, took, 6*time.Second)
}

func TestRulesAreValid(t *testing.T) {
	out, err := exec.Command(tool(t, "PROMTOOL"), "check", "rules", "files/rules.yml").CombinedOutput()
	require.NoError(t, err, string(out))
	out, err = exec.Command(tool(t, "PROMTOOL"), "test", "rules", "testdata/rules_test.yml").CombinedOutput()
	require.NoError(t, err, string(out))
}

func TestTheBundledPrometheusConfigurationIsValid(t *testing.T) {
	config, err := render("prometheus.yml.tmpl", map[string]any{"Host": "front-metrics.ollama.svc", "Port": portMetrics})
	require.NoError(t, err)
	dir := t.TempDir()
	config = strings.ReplaceAll(config, "/etc/prometheus/", dir+"/")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "rules.yml"), []byte(file("rules.yml")), 0o600))
	out, err := exec.Command(tool(t, "PROMTOOL"), "check", "config", filepath.Join(dir, "prometheus.yml")).CombinedOutput()
	require.NoError(t, err, string(out))
}
