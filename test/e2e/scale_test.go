//go:build e2e

package e2e

import (
	"encoding/csv"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// These steps test scaling, from a request to a new pod and back: KEDA, or prometheus-adapter, with the stack's own
// Prometheus and real servers.

// extra builds the extras of a trial, and returns the folder of each part.
func extra(t *testing.T, names ...string) map[string]string {
	t.Helper()
	out, _, err := local(t, append([]string{"extra"}, names...)...)
	require.NoError(t, err)
	folders := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		name, folder, _ := strings.Cut(line, " ")
		folders[name] = folder
	}
	return folders
}

func kedaUp(t *testing.T) {
	folders := extra(t, "keda")
	kubectl(t, "apply", "--server-side", "-k", folders["keda-crds"])
	kubectl(t, "apply", "-f", filepath.Join(project, "test/e2e/testdata/keda.yaml"))
	kubectl(t, "wait", "-n", "keda", "--for=condition=Available", "deployment", "--all", "--timeout=180s")
	kubectl(t, "wait", "--for=condition=Available", "apiservice/v1beta1.external.metrics.k8s.io", "--timeout=120s")
}

// scaledPool is the stack with a pool that an autoscaler controls. The quiet times are short, so that a test sees their
// end. Prometheus keeps its data when its pod goes.
func scaledPool(t *testing.T, engine, replicas string) string {
	const update = "  ollama-k8s:update:"
	settings := "  ollama-k8s:autoscaling: {engine: " + engine + ", quietSeconds: 30}\n" +
		"  ollama-k8s:observability: {storage: 1Gi}\n"
	pool := threeModels(2, "replicas: "+replicas+", maxLoadedModels: 1, contextLength: 1024")
	return withChatPool(t, pool, update, settings+update)
}

func replicas(t *testing.T) int {
	t.Helper()
	out := kubectl(t, "get", "deployment", "-n", "ollama", "ollama-chat", "-o", "jsonpath={.spec.replicas}")
	count, err := strconv.Atoi(out)
	require.NoError(t, err)
	return count
}

func awaitReplicas(t *testing.T, want int, within time.Duration) {
	t.Helper()
	began := time.Now()
	require.Eventually(t, func() bool { return replicas(t) == want }, within, time.Second, "%d replicas", want)
	t.Logf("%d replicas after %.0f s", want, time.Since(began).Seconds())
}

// crowd is a number of clients, each of which sends one request after another.
type crowd struct {
	t        *testing.T
	endpoint string
	key      string
	lock     sync.Mutex
	wanted   int
	clients  sync.WaitGroup
	requests int
	failures []string
	history  [][]string // time, series, value
}

func newCrowd(t *testing.T) *crowd {
	outputs := assignments(t, "outputs")
	return &crowd{t: t, endpoint: outputs["ENDPOINT"], key: outputs["KEY_IDE"]}
}

// become changes the number of clients.
func (c *crowd) become(clients int) {
	c.lock.Lock()
	defer c.lock.Unlock()
	now := time.Now().UTC()
	// Record both ends of the step, because a chart draws lines from point to point.
	c.record(now, c.wanted)
	c.record(now.Add(time.Millisecond), clients)
	for i := c.wanted; i < clients; i++ {
		c.clients.Go(func() {
			for {
				c.lock.Lock()
				enough := i >= c.wanted
				c.lock.Unlock()
				if enough {
					return
				}
				_, _, err := talk(c.endpoint, c.key, 60)
				c.lock.Lock()
				c.requests++
				if err != nil {
					c.failures = append(c.failures, time.Now().Format("15:04:05 ")+err.Error())
				}
				c.lock.Unlock()
			}
		})
	}
	c.wanted = clients
}

func (c *crowd) record(at time.Time, clients int) {
	c.history = append(c.history, []string{at.Format(time.RFC3339Nano), "clients", strconv.Itoa(clients)})
}

// leave ends all clients, and reports their requests.
func (c *crowd) leave() {
	c.become(0)
	c.clients.Wait()
	c.t.Logf("%d requests, %d failed", c.requests, len(c.failures))
	assert.Empty(c.t, c.failures)
}

// shares returns the number of answers of each of the pool's servers, by the front's name for its slot.
func shares(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	const answers = `haproxy_server_http_responses_total{proxy="model:chat:tiny-endless",code="2xx"}`
	for _, s := range query(t, "sum by (server) ("+answers+") > 0") {
		found[s.Metric["server"]] = fmt.Sprint(s.Value[1])
	}
	return found
}

// draw draws a chart of the time since began into the folder CHARTS, if that is set.
func (c *crowd) draw(chart string, began time.Time) {
	folder := os.Getenv("CHARTS")
	if folder == "" {
		return
	}
	now := time.Now().UTC()
	c.record(now, c.wanted)
	data := filepath.Join(c.t.TempDir(), "clients.csv")
	file, err := os.Create(data)
	require.NoError(c.t, err)
	require.NoError(c.t, csv.NewWriter(file).WriteAll(append([][]string{{"time", "series", "value"}}, c.history...)))
	require.NoError(c.t, file.Close())
	testdata, dashboard := filepath.Join(project, "test/e2e/testdata"), "components/files/dashboard.json"
	for _, args := range [][]string{
		{"-chart", filepath.Join(testdata, chart+".json"), "-data", data, "-out", filepath.Join(folder, chart+".svg")},
		{"-dashboard", filepath.Join(project, dashboard), "-out", filepath.Join(folder, "dashboard.svg")},
	} {
		args = append([]string{"-C", filepath.Join(project, "test/charts"), "run", ".", "-prometheus",
			prometheusAt(c.t), "-from", began.UTC().Format(time.RFC3339), "-to", now.Format(time.RFC3339)}, args...)
		command := exec.Command("go", args...)
		out, err := command.CombinedOutput()
		require.NoError(c.t, err, string(out))
	}
}

// awaitQuery waits until Prometheus has one series for an expression.
func awaitQuery(t *testing.T, expression string, within time.Duration, what string) {
	t.Helper()
	has := func() bool { return len(query(t, expression)) == 1 }
	require.Eventually(t, has, within, time.Second, what)
}

// scaleUpAndDown tests the whole chain: load, a queue, a new pod, its work, the end of the load, and the way back. The
// thorough run takes six minutes more: Prometheus is away in the middle, and the pool grows to its maximum.
func scaleUpAndDown(thorough bool) func(*testing.T) {
	return func(t *testing.T) {
		mustUp(t, "--config", scaledPool(t, "keda", "{min: 1, max: 3}"))
		kubectl(t, "wait", "-n", "ollama", "--for=condition=Ready", "scaledobject/autoscaling-chat", "--timeout=60s")
		awaitReplicas(t, 1, 3*time.Minute)
		require.Eventually(t, func() bool { return len(loaded(t)) == 1 }, time.Minute, time.Second)
		awaitServers(t, 1)
		before := loaded(t)
		began := time.Now()
		clients := newCrowd(t)

		clients.become(1)
		require.Eventually(t, func() bool {
			return len(query(t, `ollama_requests_inflight{pool="chat",model="tiny-endless"} == 1`)) == 1
		}, time.Minute, time.Second)
		clients.become(6)
		queued := time.Now()
		awaitQuery(t, `ollama_queue_depth{pool="chat",model="tiny-endless"} > 0`, time.Minute, "a queue")
		awaitReplicas(t, 2, 2*time.Minute)
		awaitServers(t, 2)
		t.Logf("from the first queued request until the front uses the new pod: %.0f s", time.Since(queued).Seconds())
		pods := 2
		if thorough {
			withoutPrometheus(t)
			growsToItsMaximum(t)
			pods = 3
		}
		at := shares(t)
		require.Eventually(t, func() bool { // each server has had requests since it started
			return len(shares(t)) == pods
		}, time.Minute, time.Second, "%v", at)
		t.Logf("answers by server: %v", shares(t))
		clients.leave()
		awaitReplicas(t, 1, 3*time.Minute)
		awaitServers(t, 1)
		clients.draw("scaling", began)
		t.Logf("servers before: %v, after: %v", before, loaded(t))
	}
}

// withoutPrometheus stops Prometheus while the load needs three pods. If a missing number counted as 0, the pool would
// get one.
func withoutPrometheus(t *testing.T) {
	kubectl(t, "scale", "-n", "ollama", "deployment/observability-prometheus", "--replicas=0")
	const prometheus = "app.kubernetes.io/component=prometheus"
	kubectl(t, "wait", "-n", "ollama", "--for=delete", "pod", "-l", prometheus, "--timeout=60s")
	const reason = `jsonpath={.status.conditions[?(@.type=="ScalingActive")].reason}`
	require.Eventually(t, func() bool {
		require.Equal(t, 2, replicas(t), "without numbers the replicas stay")
		out := kubectl(t, "get", "hpa", "-n", "ollama", "keda-hpa-autoscaling-chat", "-o", reason)
		return strings.Contains(out, "FailedGetExternalMetric")
	}, 2*time.Minute, time.Second, "the HPA should miss its metric")
	// Two rounds of the HPA's 15 s, and more than the 30 quiet seconds.
	for ends := time.Now().Add(40 * time.Second); time.Now().Before(ends); time.Sleep(2 * time.Second) {
		require.Equal(t, 2, replicas(t), "without numbers the replicas stay")
	}
	t.Log("Prometheus away: 2 replicas held")
	kubectl(t, "scale", "-n", "ollama", "deployment/observability-prometheus", "--replicas=1")
}

// growsToItsMaximum waits for the third pod, and updates the stack during the load.
func growsToItsMaximum(t *testing.T) {
	awaitReplicas(t, 3, 4*time.Minute)
	awaitServers(t, 3)
	noQueue := `ollama_queue_depth{pool="chat",model="tiny-endless"} == 0`
	awaitQuery(t, noQueue, time.Minute, "six slots for six clients")
	out, _ := mustUp(t, "--config", scaledPool(t, "keda", "{min: 1, max: 3}"))
	assert.Regexp(t, `changes: +\d+ same\n`, out)
	preview, _, err := local(t, "preview", "--config", scaledPool(t, "keda", "{min: 1, max: 3}"))
	require.NoError(t, err)
	assert.Regexp(t, `changes: +\d+ same\n`, preview)
	assert.Equal(t, 3, replicas(t))
}

// idleToZero lets an idle pool go to zero, and wakes it with a request.
func idleToZero(t *testing.T) {
	pod := func() string {
		return kubectl(t, "get", "pods", "-n", "ollama", "-l", "app.kubernetes.io/component=prometheus",
			"-o", "jsonpath={.items[*].metadata.uid}")
	}
	prometheus := pod()
	mustUp(t, "--config", scaledPool(t, "keda", "{min: 0, max: 1}"))
	endpoint, key := assignments(t, "outputs")["ENDPOINT"], assignments(t, "outputs")["KEY_IDE"]
	awaitReplicas(t, 0, 5*time.Minute)
	awaitServers(t, 0)
	awaitQuery(t, `ollama_pool_replicas_min{pool="chat"} == 0`, 3*time.Minute, "Prometheus reads the new config")
	assert.Equal(t, prometheus, pod(), "and keeps its data")
	// An update while the pool sleeps changes nothing. --ask=false, because a request for tokens would wake the pool.
	out, _ := mustUp(t, "--ask=false", "--config", scaledPool(t, "keda", "{min: 0, max: 1}"))
	assert.Regexp(t, `changes: +\d+ same\n`, out)
	require.Equal(t, 0, replicas(t))
	total, first, err := talk(endpoint, key, 20)
	require.NoError(t, err, "the front holds the first request until a server is ready")
	t.Logf("woken: first byte after %.1f s, whole answer after %.1f s", first.Seconds(), total.Seconds())
	assert.Equal(t, 1, replicas(t))
}

// kedaDown removes KEDA after its ScaledObjects: only KEDA can finalize them.
func kedaDown(t *testing.T) {
	mustUp(t)
	kubectl(t, "delete", "-f", filepath.Join(project, "test/e2e/testdata/keda.yaml"))
}

// scaleByAdapter scales up and down with a plain HorizontalPodAutoscaler.
func scaleByAdapter(t *testing.T) {
	extra(t, "prometheus-adapter")
	rules, err := os.ReadFile(filepath.Join(project, "docs/prometheus-adapter.yaml"))
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(file, rules, 0o600))
	kubectl(t, "apply", "-f", filepath.Join(project, "test/e2e/testdata/prometheus-adapter.yaml"))
	kubectl(t, "create", "configmap", "-n", "prometheus-adapter", "prometheus-adapter-rules",
		"--from-file=config.yaml="+file)
	mustUp(t, "--config", scaledPool(t, "hpa", "{min: 1, max: 3}"))
	kubectl(t, "wait", "-n", "prometheus-adapter", "--for=condition=Available", "deployment", "--all", "--timeout=120s")
	const active = `jsonpath={.status.conditions[?(@.type=="ScalingActive")].status}`
	require.Eventually(t, func() bool {
		return kubectl(t, "get", "hpa", "-n", "ollama", "autoscaling-chat", "-o", active) == "True"
	}, 3*time.Minute, 2*time.Second, "the HPA should have its metric")
	t.Log(kubectl(t, "get", "--raw", "/apis/external.metrics.k8s.io/v1beta1/namespaces/ollama/"+
		"ollama_requests_inflight?labelSelector=pool%3Dchat"))
	awaitReplicas(t, 1, 3*time.Minute)
	clients := newCrowd(t)
	clients.become(6)
	awaitReplicas(t, 2, 2*time.Minute)
	awaitReplicas(t, 3, 4*time.Minute)
	awaitServers(t, 3)
	allWork := func() bool { return len(shares(t)) == 3 }
	require.Eventually(t, allWork, time.Minute, time.Second, "each server gets requests")
	t.Logf("answers by server: %v", shares(t))
	clients.leave()
	awaitReplicas(t, 1, 3*time.Minute)
	kubectl(t, "delete", "-f", filepath.Join(project, "test/e2e/testdata/prometheus-adapter.yaml"))
}
