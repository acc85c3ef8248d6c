//go:build e2e

// Package e2e drives the whole product on the embedded cluster, as a newcomer would: bin/local up, curl, edit the stack
// file, up again, down. It uses the real engine, real pods and a real Ollama. The tests run in order and build on each
// other; `make e2e` runs them.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// project is the folder of the repository.
var project = func() string {
	folder, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return folder
}()

// local runs bin/local in the project's folder and returns its output: the result on standard output, the progress on
// standard error.
func local(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	command := exec.Command(filepath.Join(project, "bin", "local"), args...)
	command.Dir = project
	var out, progress bytes.Buffer
	command.Stdout = &out
	command.Stderr = io.MultiWriter(&progress, os.Stderr)
	err = command.Run()
	return out.String(), progress.String(), err
}

// mustUp brings the stack up and returns the output, and how long it took.
func mustUp(t *testing.T, args ...string) (string, time.Duration) {
	t.Helper()
	began := time.Now()
	out, _, err := local(t, append([]string{"up"}, args...)...)
	require.NoError(t, err, out)
	t.Logf("up %s took %.0f s\n%s", strings.Join(args, " "), time.Since(began).Seconds(), out)
	return out, time.Since(began)
}

// assignments reads the shell assignments that bin/local prints.
func assignments(t *testing.T, command string) map[string]string {
	t.Helper()
	out, _, err := local(t, command)
	require.NoError(t, err)
	line := regexp.MustCompile(`(?m)^(?:export )?(\w+)='?(.*?)'?(?::\$PATH)?$`)
	values := map[string]string{}
	for _, m := range line.FindAllStringSubmatch(out, -1) {
		values[m[1]] = strings.ReplaceAll(m[2], `'\''`, `'`)
	}
	return values
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	environment := assignments(t, "env")
	command := exec.Command(filepath.Join(environment["PATH"], "kubectl"), args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+environment["KUBECONFIG"])
	out, err := command.CombinedOutput()
	require.NoError(t, err, "kubectl %s: %s", strings.Join(args, " "), out)
	return string(out)
}

// ask sends a request to the endpoint.
func ask(t *testing.T, method, path, key, body string) (status int, answer string) {
	t.Helper()
	return askAt(t, assignments(t, "outputs")["ENDPOINT"], method, path, key, body)
}

func askAt(t *testing.T, endpoint, method, path, key, body string) (status int, answer string) {
	t.Helper()
	request, err := http.NewRequest(method, endpoint+path, strings.NewReader(body))
	require.NoError(t, err)
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	request.Close = true // each request may reach another front
	response, err := http.DefaultClient.Do(request.WithContext(ctx))
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(text)
}

// stackFile returns a changed copy of Pulumi.local.yaml.
func stackFile(t *testing.T, old, new string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(project, "Pulumi.local.yaml"))
	require.NoError(t, err)
	require.Contains(t, string(text), old)
	file := filepath.Join(t.TempDir(), "Pulumi.local.yaml")
	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(string(text), old, new, 1)), 0o600))
	return file
}

// sentence is the beginning of what the tiny model recites.
const sentence = "Hello! I am a tiny model made for tests"

func TestTheWholeStack(t *testing.T) {
	_, _, err := local(t, "down")
	require.NoError(t, err)

	step := func(name string, f func(*testing.T)) {
		if !t.Failed() { // each step depends on the ones before it
			t.Run(name, f)
		}
	}
	step("up from nothing gives tokens within 150 s", func(t *testing.T) {
		// Tools and images first: a machine builds them once, so their time does not count.
		_, _, err := local(t, "tools")
		require.NoError(t, err)
		out, took := mustUp(t)
		assert.Contains(t, out, sentence)
		assert.Less(t, took, 150*time.Second)
	})
	step("the printed curl prints an answer", func(t *testing.T) {
		out, err := exec.Command("sh", "-c", assignments(t, "outputs")["CURL"]).Output()
		require.NoError(t, err)
		assert.Contains(t, string(out), sentence)
		t.Log(string(out))
	})
	step("the API answers as it should", theAPI)
	step("OpenAI's and Ollama's own clients are served", otherClients)
	step("real pods run under Pod Security restricted", realPods)
	step("the metrics arrive in Prometheus", metricsArrive)
	step("the keys are nowhere else", keysAreNowhereElse)
	step("a second up changes nothing, within 60 s", func(t *testing.T) {
		out, took := mustUp(t)
		assert.Regexp(t, `changes: +\d+ same\n`, out)
		assert.Less(t, took, time.Minute)
	})
	step("a wrong config is refused with all its mistakes and changes nothing", wrongConfig)
	step("an added team changes its key and the front only", addedTeam)
	step("a key is rotated while both keys work and nobody else notices", rotatedKey)
	step("an added model starts a new writer and leaves the servers alone", addedModel)
	step("a model that cannot be pulled fails the update by its name", badModel)
	step("the lock is checked against the cluster's registry", lockAgainstRegistry)
	step("a wrong digest in the lock fails by name and interrupts nobody", wrongDigest)
	step("the store needs no registry for models that it has", registryAway)
	step("the scheduled check finds the models as in the lock", scheduledCheck)
	step("each replica fills its own claim", perReplica)
	step("the plan agrees with the runners' logs", planAgrees)
	step("the one queue follows the priorities, and no slot is used twice", oneQueue)
	step("two fronts, OIDC and twenty slots come up", streamsUp)
	step("a deleted pod, rollouts or a rotated key cut no stream", uncutStreams)
	step("a killed server cuts only its own streams", killedOllama)
	step("no request fails while DNS is away", withoutDNS(45*time.Second))
	step("people sign in with their identity provider", signedIn)
	step("a renewed certificate and externally managed keys cut no stream and restart nothing", renewed)
	step("rules, dashboard and scalers read metrics that exist", metricsContract)
	step("KEDA is installed", kedaUp)
	step("a pool grows and shrinks with its load", scaleUpAndDown(false))
	step("an idle pool goes to zero, and a request wakes it", idleToZero)
	step("KEDA is removed", kedaDown)
	step("the next up restarts a killed part", killedParts)
	step("down leaves nothing", func(t *testing.T) {
		_, _, err := local(t, "down")
		require.NoError(t, err)
		out, _, err := local(t, "leftovers")
		require.NoError(t, err, out)
	})
	step("up works again after down", func(t *testing.T) {
		out, _ := mustUp(t)
		assert.Contains(t, out, sentence)
	})
	_, _, err = local(t, "down")
	assert.NoError(t, err)
}

func theAPI(t *testing.T) {
	const chats, embeddings = "/v1/chat/completions", "/v1/embeddings"
	outputs := assignments(t, "outputs")
	key := outputs["KEY_IDE"]
	require.NotEmpty(t, key)
	chat := `{"model":"tiny","messages":[{"role":"user","content":"Hello"}]}`
	reviewer := strings.Replace(chat, "tiny", "code-reviewer", 1)
	whole := strings.Replace(chat, `{`, `{"stream":false,`, 1)
	for _, test := range []struct {
		name, method, path, key, body string
		status                        int
		want                          string
	}{
		{"no key", "POST", chats, "", chat, 401, `"code":"invalid_api_key"`},
		{"a wrong key", "POST", chats, "wrong", chat, 401, `"code":"invalid_api_key"`},
		{"pull", "POST", "/api/pull", key, `{"model":"tiny"}`, 403, `"code":"path_not_allowed"`},
		{"an unknown model", "POST", chats, key, `{"model":"gpt-4o"}`, 404, `"code":"model_not_found"`},
		{"chat", "POST", chats, key, chat, 200, sentence},
		{"Ollama's own chat", "POST", "/api/chat", key, whole, 200, sentence},
		{"the model of a Modelfile", "POST", chats, key, reviewer, 200, sentence},
		{"embeddings from the other pool", "POST", embeddings, key, `{"model":"tiny-embed","input":"a cat"}`, 200,
			`"embedding":[`},
		{"the list of models", "GET", "/v1/models", key, "", 200, `"id":"tiny:latest"`},
		{"a model of other teams", "POST", "/api/chat", outputs["KEY_BATCH"], reviewer, 403, `"code":"model_not_allowed"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, answer := askAt(t, outputs["ENDPOINT"], test.method, test.path, test.key, test.body)
			t.Logf("%d %.300s", status, answer)
			assert.Equal(t, test.status, status)
			assert.Contains(t, answer, test.want)
		})
	}
	t.Run("chat as a stream", func(t *testing.T) {
		status, answer := askAt(t, outputs["ENDPOINT"], "POST", chats, key, strings.Replace(chat, `{`, `{"stream":true,`, 1))
		assert.Equal(t, 200, status)
		assert.Greater(t, strings.Count(answer, "data: "), 10, "one piece for each word")
		assert.Contains(t, answer, "data: [DONE]")
	})
}

func realPods(t *testing.T) {
	t.Log("\n" + kubectl(t, "get", "pods", "-A", "-o", "wide"))
	var pods struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct{ Phase string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(kubectl(t, "get", "pods", "-n", "ollama", "-o", "json")), &pods))
	phases := map[string]int{}
	for _, pod := range pods.Items {
		phases[pod.Status.Phase]++
	}
	assert.Equal(t, map[string]int{"Running": 4, "Succeeded": 1}, phases, "front, Prometheus, two pools; the writer")
	label := `jsonpath={.metadata.labels.pod-security\.kubernetes\.io/enforce}`
	assert.Equal(t, "restricted", kubectl(t, "get", "namespace", "ollama", "-o", label))
	gpus := `jsonpath={.items[0].spec.containers[0].resources.limits.nvidia\.com/gpu}`
	pool := "app.kubernetes.io/instance=ollama-chat"
	assert.Equal(t, "1", kubectl(t, "get", "pods", "-n", "ollama", "-l", pool, "-o", gpus))

	environment := assignments(t, "env")
	command := exec.Command(filepath.Join(environment["PATH"], "kubectl"), "run", "-n", "ollama", "privileged",
		"--image=localhost/toolbox:1", "--privileged", "--dry-run=server")
	command.Env = append(os.Environ(), "KUBECONFIG="+environment["KUBECONFIG"])
	out, err := command.CombinedOutput()
	assert.Error(t, err, "the cluster must refuse a privileged pod")
	assert.Contains(t, string(out), "violates PodSecurity")
}

func metricsArrive(t *testing.T) {
	query := func(expression string) string {
		const api = "/api/v1/namespaces/ollama/services/observability-prometheus:http/proxy/api/v1/query?query="
		return kubectl(t, "get", "--raw", api+expression)
	}
	for _, series := range []string{
		"ollama_queue_depth", "ollama_requests_inflight", "ollama_responses_total",
		"ollama_request_duration_seconds_sum", "ollama_request_duration_seconds_bucket", "ollama_servers_up",
		"ollama_team_requests_total", "ollama_team_first_byte_seconds_total",
	} {
		var answer string
		assert.Eventually(t, func() bool {
			answer = query(series)
			return strings.Contains(answer, `"pool":"chat"`) && strings.Contains(answer, `"model":"tiny"`)
		}, 90*time.Second, 2*time.Second, "%s: %s", series, answer)
	}
}

func keysAreNowhereElse(t *testing.T) {
	outputs := assignments(t, "outputs")
	keys := []string{outputs["KEY_IDE"], outputs["KEY_BATCH"]}
	places := map[string]string{}
	for _, kind := range []string{"configmaps", "pods", "deployments", "jobs", "events", "services", "secrets"} {
		places[kind] = kubectl(t, "get", kind, "-A", "-o", "yaml")
	}
	for _, pod := range strings.Fields(kubectl(t, "get", "pods", "-n", "ollama", "-o", "name")) {
		places["log of "+pod] = kubectl(t, "logs", "-n", "ollama", pod)
	}
	state := filepath.Join(filepath.Dir(assignments(t, "env")["KUBECONFIG"]), "pulumi")
	require.NoError(t, filepath.WalkDir(state, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		places[path] = string(text)
		return err
	}))
	logs, err := filepath.Glob(filepath.Join(filepath.Dir(state), "logs", "*"))
	require.NoError(t, err)
	for _, path := range logs {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		places[path] = string(text)
	}
	require.Greater(t, len(places), 15)
	for place, text := range places {
		for _, key := range keys {
			require.NotEmpty(t, key)
			if strings.Contains(text, key) {
				t.Errorf("%s contains a key", place)
			}
		}
	}
	t.Logf("searched %d places for %d keys", len(places), len(keys))
}

func wrongConfig(t *testing.T) {
	wrong := filepath.Join(project, "stacks/testdata/wrong.yaml")
	before := everything(t)
	mistakes := []string{
		`pools.chat.models[1]: "llama4:8b"`, `pools.chat.parallel: "four"`, "pools.chat.replicas.max: 4",
		"storge: unknown key", `teams.dev.priority: "urgent"`,
	}

	_, preview, err := local(t, "preview", "--config", wrong)
	assert.Error(t, err, "the engine's preview")
	render := exec.Command("make", "--no-print-directory", "render", "STACK=local", "CONFIG="+wrong)
	render.Dir = project
	var stderr bytes.Buffer
	render.Stderr = &stderr
	objects, err := render.Output()
	assert.Error(t, err, "make render")
	assert.Empty(t, objects)
	for _, mistake := range mistakes {
		assert.Contains(t, preview, mistake)
		assert.Contains(t, stderr.String(), mistake)
	}
	assert.Equal(t, before, everything(t))
}

// everything lists each object of the namespace with its version, which any change raises.
func everything(t *testing.T) string {
	const kinds = "all,configmaps,secrets,persistentvolumeclaims,networkpolicies,poddisruptionbudgets"
	return kubectl(t, "get", kinds, "-n", "ollama", "-o", "jsonpath={range .items[*]}"+
		`{.kind}/{.metadata.name} {.metadata.uid} {.metadata.generation}{"\n"}{end}`)
}

// engineDid returns the operations in the engine's log, each with its resource.
func engineDid(progress string) (did []string) {
	line := regexp.MustCompile(
		`(?m)  (create|update|replace|create-replacement|delete-replaced|delete) (\S+ \S+)$`)
	for _, m := range line.FindAllStringSubmatch(progress, -1) {
		// A component is not an object in the cluster. Its inputs show what its children are made from.
		if !strings.HasPrefix(m[2], "ollama-k8s:index:") && !slices.Contains(did, m[2]) {
			did = append(did, m[2])
		}
	}
	return did
}

func addedTeam(t *testing.T) {
	before := assignments(t, "outputs")
	_, progress, err := local(t, "up", "--config", stackFile(t, "    ide: {}\n", "    ide: {}\n    research: {}\n"))
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{
		"random:index/randomPassword:RandomPassword front-key-research", "kubernetes:core/v1:Secret front-keys",
		"kubernetes:core/v1:ConfigMap front", "kubernetes:apps/v1:Deployment front",
	}, engineDid(progress))
	after := assignments(t, "outputs")
	assert.Equal(t, before["KEY_IDE"], after["KEY_IDE"])
	assert.Equal(t, before["KEY_BATCH"], after["KEY_BATCH"])
	// The previous front ends its connections within seconds of the rollout. Until then a request may still reach it.
	assert.Eventually(t, func() bool {
		status, _ := ask(t, "GET", "/v1/models", after["KEY_RESEARCH"], "")
		return status == 200
	}, 30*time.Second, time.Second, "the new team's key")
}

func rotatedKey(t *testing.T) {
	mustUp(t) // without the added team
	before := assignments(t, "outputs")
	try := func(key string) int {
		status, _ := ask(t, "GET", "/v1/models", key, "")
		return status
	}
	stop := asking(t, before["KEY_BATCH"])
	mustUp(t, "--config", stackFile(t, "    ide: {}\n", "    ide: {keys: [1, 2]}\n"))
	during := assignments(t, "outputs")
	assert.NotEqual(t, before["KEY_IDE"], during["KEY_IDE"])
	// The previous front ends its connections within seconds of the rollout. Until then a request may still reach it.
	assert.Eventually(t, func() bool { return try(during["KEY_IDE"]) == 200 }, 30*time.Second, time.Second, "the new key")
	assert.Equal(t, 200, try(before["KEY_IDE"]), "the old key during the overlap")
	mustUp(t, "--config", stackFile(t, "    ide: {}\n", "    ide: {keys: [2]}\n"))
	dropped := func() bool { return try(before["KEY_IDE"]) == 401 }
	assert.Eventually(t, dropped, 30*time.Second, time.Second, "the old key after it was dropped")
	assert.Equal(t, 200, try(during["KEY_IDE"]))
	requests, failures := stop()
	assert.Empty(t, failures, "of %d requests of another team meanwhile", requests)
	t.Logf("%d requests of another team meanwhile, %d failures", requests, len(failures))
}

func addedModel(t *testing.T) {
	mustUp(t) // without the added team
	servers := func() string {
		return kubectl(t, "get", "pods", "-n", "ollama", "-l", "app.kubernetes.io/component=ollama-server", "-o",
			"jsonpath={range .items[*]}"+`{.metadata.uid} {.status.containerStatuses[0].restartCount}{"\n"}{end}`)
	}
	before := servers()
	const embed = "    - {name: tiny-embed}\n"
	file := stackFile(t, embed, embed+"    - {name: tiny-endless}\n")
	_, progress, err := local(t, "up", "--config", file)
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{
		"kubernetes:core/v1:ConfigMap models-writer", "kubernetes:batch/v1:Job models-writer",
		"kubernetes:batch/v1:CronJob models-writer-check",
	}, engineDid(progress))
	assert.Equal(t, before, servers())
	_, models := ask(t, "GET", "/v1/models", assignments(t, "outputs")["KEY_IDE"], "")
	assert.Contains(t, models, "tiny-endless", "the running servers see the new model")
}

func badModel(t *testing.T) {
	const embed = "    - {name: tiny-embed}\n"
	file := stackFile(t, embed, embed+"    - {name: no-such-model}\n")
	_, progress, err := local(t, "up", "--config", file)
	assert.Error(t, err)
	assert.Contains(t, progress, "no-such-model")
	status, _ := ask(t, "POST", "/v1/chat/completions", assignments(t, "outputs")["KEY_IDE"], chatBody)
	assert.Equal(t, 200, status, "the running servers continue")
	mustUp(t)
}

func killedParts(t *testing.T) {
	out, _, err := local(t, "status")
	require.NoError(t, err, out)
	lines := regexp.MustCompile(`(?m)^(\S+) +pid (\d+) `).FindAllStringSubmatch(out, -1)
	require.NotEmpty(t, lines)
	for _, part := range lines {
		t.Run(part[1], func(t *testing.T) {
			now, _, err := local(t, "status")
			require.NoError(t, err, now)
			pid := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(part[1]) + ` +pid (\d+) `).FindStringSubmatch(now)
			require.NotNil(t, pid, now)
			require.NoError(t, exec.Command("kill", "-9", pid[1]).Run())
			out, took := mustUp(t)
			assert.Contains(t, out, sentence)
			fmt.Printf("kill -9 of %s: up again in %.0f s\n", part[1], took.Seconds())
		})
	}
}
