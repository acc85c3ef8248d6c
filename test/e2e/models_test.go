//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/internal/vram"
	"ollama-k8s/stacks"
)

const chatBody = `{"model":"tiny","messages":[{"role":"user","content":"Hello"}]}`

// withLock replaces a text in the lock for one test.
func withLock(t *testing.T, old, new string) {
	t.Helper()
	path := filepath.Join(project, "models.lock.yaml")
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(before), old)
	t.Cleanup(func() { require.NoError(t, os.WriteFile(path, before, 0o644)) })
	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(before), old, new, 1)), 0o644))
}

// asking sends one request after another until it is stopped. It then returns the number of requests, and the failures.
func asking(t *testing.T, key string) (stop func() (requests int, failures []string)) {
	t.Helper()
	endpoint, done := assignments(t, "outputs")["ENDPOINT"], make(chan struct{})
	var requests int
	var failures []string
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			status, answer := askAt(t, endpoint, "POST", "/v1/chat/completions", key, chatBody)
			requests++
			if status != 200 || !strings.Contains(answer, sentence) {
				failures = append(failures, fmt.Sprintf("%d %.200s", status, answer))
			}
		}
	})
	return func() (int, []string) {
		close(done)
		running.Wait()
		return requests, failures
	}
}

// wrong is a digest that no model has.
var wrong = "sha256:" + strings.Repeat("0", 64)

// lockedTiny is the digest of tiny in the lock.
func lockedTiny(t *testing.T) string {
	t.Helper()
	lock, err := os.ReadFile(filepath.Join(project, "models.lock.yaml"))
	require.NoError(t, err)
	found := regexp.MustCompile(`(?s)\n  tiny:latest:.*?digest: (sha256:[0-9a-f]{64})`).FindSubmatch(lock)
	require.NotNil(t, found, "the lock has no digest of tiny")
	return string(found[1])
}

func lockAgainstRegistry(t *testing.T) {
	address := kubectl(t, "get", "service", "-n", "registry", "registry", "-o", "jsonpath={.spec.clusterIP}")
	check := func() (string, error) {
		command := exec.Command("make", "--no-print-directory", "lock", "STACK=local", "CHECK=1",
			"REGISTRY=http://"+address+":5000/library")
		command.Dir = project
		out, err := command.CombinedOutput()
		t.Logf("%s", out)
		return string(out), err
	}
	out, err := check()
	assert.NoError(t, err)
	assert.Equal(t, 2, strings.Count(out, "unchanged"), "both pulled models")
	right := lockedTiny(t)
	withLock(t, right, wrong)
	out, err = check()
	assert.Error(t, err, "drift")
	assert.Regexp(t, "tiny:latest: models.lock.yaml has "+wrong+", .*"+right, out)
}

func wrongDigest(t *testing.T) {
	withLock(t, lockedTiny(t), wrong)

	stop := asking(t, assignments(t, "outputs")["KEY_IDE"])
	_, progress, err := local(t, "up")
	requests, failures := stop()
	assert.Error(t, err)
	assert.Contains(t, progress, "model tiny")
	assert.Contains(t, progress, "models.lock.yaml says "+wrong)
	assert.Greater(t, requests, 10)
	assert.Empty(t, failures, "of %d requests while the writer failed", requests)
	t.Logf("%d requests while the writer ran and failed, %d failures", requests, len(failures))
}

func registryAway(t *testing.T) {
	// The registry does not exist. As the source changes, a new writer starts, which must do without it.
	file := stackFile(t, "registry.registry.svc", "nowhere.registry.svc")
	began := time.Now()
	_, progress, err := local(t, "up", "--config", file)
	require.NoError(t, err, progress)
	logs := kubectl(t, "logs", "-n", "ollama", "-l", "app.kubernetes.io/component=model-writer", "--tail=-1")
	assert.Contains(t, logs, "model tiny: is in place")
	assert.Contains(t, logs, "model tiny-embed: is in place")
	t.Logf("up took %.0f s; the writer's log:\n%s", time.Since(began).Seconds(), logs)
	mustUp(t)
}

func scheduledCheck(t *testing.T) {
	kubectl(t, "create", "job", "-n", "ollama", "check-now", "--from=cronjob/models-writer-check")
	kubectl(t, "wait", "-n", "ollama", "job/check-now", "--for=condition=complete", "--timeout=90s")
	logs := kubectl(t, "logs", "-n", "ollama", "job/check-now", "--tail=-1")
	assert.Regexp(t, "all models .*models.lock.yaml", logs)
	kubectl(t, "delete", "job", "-n", "ollama", "check-now")
}

func perReplica(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(project, "Pulumi.local.yaml"))
	require.NoError(t, err)
	stack := strings.NewReplacer("accessMode: ReadWriteMany", "perReplica: true",
		"{gpu: {count: 1}, models", "{gpu: {count: 1}, replicas: {min: 2}, models",
		`  ollama-k8s:update: {schedule: "0 3 * * 0"}`+"\n", "").Replace(string(text))
	file := filepath.Join(t.TempDir(), "Pulumi.local.yaml")
	require.NoError(t, os.WriteFile(file, []byte(stack), 0o600))
	mustUp(t, "--config", file)
	claims := kubectl(t, "get", "persistentvolumeclaims", "-n", "ollama", "-o", "name")
	assert.ElementsMatch(t, []string{
		"persistentvolumeclaim/models-ollama-chat-0", "persistentvolumeclaim/models-ollama-chat-1",
		"persistentvolumeclaim/models-ollama-embed-0",
	}, strings.Fields(claims))
	stop := asking(t, assignments(t, "outputs")["KEY_IDE"])
	kubectl(t, "rollout", "restart", "-n", "ollama", "statefulset/ollama-chat")
	kubectl(t, "rollout", "status", "-n", "ollama", "statefulset/ollama-chat", "--timeout=180s")
	requests, failures := stop()
	assert.Empty(t, failures, "of %d requests while each pod was replaced", requests)
	t.Logf("%d requests while each pod was replaced, %d failures", requests, len(failures))
	mustUp(t)
	claims = kubectl(t, "get", "persistentvolumeclaims", "-n", "ollama", "-o", "name")
	assert.Equal(t, "persistentvolumeclaim/models", strings.TrimSpace(claims), "the claims go with their pool")
}

// planAgrees compares the plan's figures with the logs of the runners, for models of three shapes.
func planAgrees(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(project, "Pulumi.local.yaml"))
	require.NoError(t, err)
	const embed, teams = "    - {name: tiny-embed}\n", "  ollama-k8s:teams:\n"
	const models = `    - {name: "tiny:wide"}
    - {name: "tiny:long"}
    - {name: "tiny:deep"}
`
	const pools = `    wide: {models: ["tiny:wide"], contextLength: 8192, parallel: 4, cpu: 50m}
    long: {models: ["tiny:long"], contextLength: 8192, parallel: 4, kvCacheType: q8_0, cpu: 50m}
    deep: {models: ["tiny:deep"], contextLength: 2048, parallel: 2, cpu: 50m}
`
	stack := strings.Replace(string(text), embed, embed+models, 1)
	stack = strings.Replace(stack, teams, pools+teams, 1)
	file := filepath.Join(t.TempDir(), "Pulumi.local.yaml")
	require.NoError(t, os.WriteFile(file, []byte(stack), 0o600))
	mustUp(t, "--config", file)

	values, err := stacks.ReadFile(file, stacks.Project)
	require.NoError(t, err)
	config, err := stacks.Load(values, os.DirFS(project))
	require.NoError(t, err)
	key := assignments(t, "outputs")["KEY_IDE"]
	var table strings.Builder
	fmt.Fprintf(&table, "%-10s %-12s %22s %22s %22s %26s\n", "model", "context", "weights plan/runner",
		"KV plan/runner", "graph plan/runner", "total plan/runner")
	for _, pool := range []string{"wide", "long", "deep"} {
		load := config.Plan(pool).Loads[0]
		var status int
		var answer string
		require.Eventually(t, func() bool { // the new front's backends are ready within seconds
			body := strings.Replace(chatBody, "tiny", load.Model.Name, 1)
			status, answer = ask(t, "POST", "/v1/chat/completions", key, body)
			return status == 200
		}, time.Minute, time.Second, "%s: %d %s", pool, status, answer)
		log := kubectl(t, "logs", "-n", "ollama", "-l", "app.kubernetes.io/instance=ollama-"+pool, "--tail=-1")
		weights := mebibytes(t, log, `CPU(?:_Mapped)? model buffer size = +([0-9.]+) MiB`)
		kv := mebibytes(t, log, `llama_kv_cache: size = +([0-9.]+) MiB`)
		graph := mebibytes(t, log, `CPU compute buffer size = +([0-9.]+) MiB`) +
			mebibytes(t, log, `CPU +output buffer size = +([0-9.]+) MiB`)
		total := weights + kv + graph
		fmt.Fprintf(&table, "%-10s %5d x %-4d", load.Model.Name, load.Context, load.Parallel)
		for _, figures := range [][2]float64{
			{mib(load.Weights), weights}, {mib(load.KV), kv}, {mib(load.Graph), graph}, {mib(load.Uses()), total},
		} {
			fmt.Fprintf(&table, " %10.2f /%10.2f", figures[0], figures[1])
		}
		fmt.Fprintf(&table, " %+.1f%%\n", 100*(mib(load.Uses())/total-1))
		assert.InDelta(t, weights, mib(load.Weights), 0.01, "weights of %s", pool)
		assert.InDelta(t, kv, mib(load.KV), 0.005, "KV cache of %s", pool)
		assert.InEpsilon(t, total, mib(load.Uses()), 0.1, "total of %s", pool)
	}
	t.Log("in MiB:\n" + table.String())
	mustUp(t)
}

func mib(bytes int64) float64 { return float64(bytes) * 1024 / vram.GiB }

func mebibytes(t *testing.T, log, pattern string) float64 {
	t.Helper()
	match := regexp.MustCompile(pattern).FindStringSubmatch(log)
	require.NotNil(t, match, "%s is not in %s", pattern, log)
	value, err := strconv.ParseFloat(match[1], 64)
	require.NoError(t, err)
	return value
}
