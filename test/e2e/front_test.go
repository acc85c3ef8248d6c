//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// These steps test the front with real servers behind it: its queue, its streams, its cost, and who has access.

// chatPool is the line of Pulumi.local.yaml that these steps change.
const chatPool = "    chat: {gpu: {count: 1}, models: [tiny, code-reviewer], maxLoadedModels: 2, " +
	"contextLength: 1024, parallel: 2, cpu: 250m, memory: 1Gi}\n"

// withChatPool returns a copy of Pulumi.local.yaml with another pool chat, a model that talks for as long as it is
// asked to, and the given changes.
func withChatPool(t *testing.T, pool string, changes ...string) string {
	t.Helper()
	file := stackFile(t, chatPool, "    chat: {gpu: {count: 1}, "+pool+"}\n")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	const embed = "    - {name: tiny-embed}\n"
	changes = append(changes, "batch: {models: [tiny]", "batch: {models: [tiny, tiny-endless]",
		embed, embed+"    - {name: tiny-endless}\n")
	for i := 0; i < len(changes); i += 2 {
		require.Contains(t, string(text), changes[i])
	}
	changed := strings.NewReplacer(changes...).Replace(string(text))
	require.NoError(t, os.WriteFile(file, []byte(changed), 0o600))
	return file
}

// talk asks tiny-endless for the given number of tokens. It returns how long the whole answer and its first byte took.
// An incomplete answer is an error.
func talk(endpoint, key string, tokens int) (total, first time.Duration, err error) {
	return talkTo(endpoint, key, "tiny-endless", tokens)
}

func talkTo(endpoint, key, model string, tokens int) (total, first time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	return talkUntil(ctx, endpoint, key, model, tokens)
}

func talkUntil(
	ctx context.Context, endpoint, key, model string, tokens int,
) (total, first time.Duration, err error) {
	body := fmt.Sprintf(`{"model":%q,"stream":true,"max_tokens":%d,`+
		`"messages":[{"role":"user","content":"Hello"}]}`, model, tokens)
	request, err := http.NewRequestWithContext(ctx, "POST", endpoint+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return 0, 0, err
	}
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	request.Close = true
	began := time.Now()
	response, err := clientFor(endpoint).Do(request)
	if err != nil {
		return 0, 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 200)) // the status is enough
		return 0, 0, fmt.Errorf("status %d: %s", response.StatusCode, text)
	}
	lines, pieces := bufio.NewScanner(response.Body), 0
	for lines.Scan() {
		if pieces == 0 {
			first = time.Since(began)
		}
		if strings.HasPrefix(lines.Text(), "data: {") {
			pieces++
		}
		if lines.Text() == "data: [DONE]" {
			return time.Since(began), first, nil
		}
	}
	return 0, 0, fmt.Errorf("the stream was cut after %d pieces: %v", pieces, lines.Err())
}

// server returns the address of the pool's plain Service, as if there were no front.
func server(t *testing.T) string {
	ip := kubectl(t, "get", "service", "-n", "ollama", "ollama-chat", "-o", "jsonpath={.spec.clusterIP}")
	return "http://" + ip + ":11434"
}

// running maps the names to the addresses of the running pods with a label, without those that are being deleted.
func running(t *testing.T, label string) map[string]string {
	t.Helper()
	found := map[string]string{}
	out := kubectl(t, "get", "pods", "-n", "ollama", "-l", label, "-o",
		`jsonpath={range .items[?(@.status.phase=="Running")]}`+
			`{.metadata.name} {.status.podIP} {.metadata.deletionTimestamp}{"\n"}{end}`)
	for _, line := range strings.Split(out, "\n") {
		if fields := strings.Fields(line); len(fields) == 2 {
			found[fields[0]] = fields[1]
		}
	}
	return found
}

func addresses(t *testing.T, label string) []string {
	t.Helper()
	return slices.Sorted(maps.Values(running(t, label)))
}

// loaded returns the pods of the pool, after a request to each has loaded the model: so no measurement includes the
// loading.
func loaded(t *testing.T) []string {
	t.Helper()
	pods := running(t, "app.kubernetes.io/instance=ollama-chat")
	for _, address := range pods {
		_, _, err := talk("http://"+address+":11434", "", 2)
		require.NoError(t, err)
	}
	return slices.Sorted(maps.Keys(pods))
}

func percentile(all []time.Duration, p float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, int(float64(len(sorted))*p))]
}

func otherClients(t *testing.T) {
	outputs := assignments(t, "outputs")
	command := exec.Command("go", "-C", filepath.Join(project, "test/clients"), "test", "-count=1", "-v", ".")
	command.Env = append(os.Environ(), "ENDPOINT="+outputs["ENDPOINT"], "KEY="+outputs["KEY_IDE"])
	out, err := command.CombinedOutput()
	require.NoError(t, err, string(out))
	t.Log(string(out))
}

// threeModels is the pool chat with all three models, by its parallel slots and the rest of its settings.
func threeModels(parallel int, rest string) string {
	const pool = "models: [tiny, tiny-endless, code-reviewer], parallel: %d, cpu: 100m, memory: 1Gi, %s"
	return fmt.Sprintf(pool, parallel, rest)
}

// oneQueue tests the queue in front of four pods. Measured, it also sends 4,800 requests through the front and through
// a plain Service.
func oneQueue(t *testing.T) { queueOfFour(t, false) }

func oneQueueMeasured(t *testing.T) { queueOfFour(t, true) }

func queueOfFour(t *testing.T, measured bool) {
	pool := threeModels(1, "replicas: {min: 4}, maxLoadedModels: 3, contextLength: 2048")
	mustUp(t, "--config", withChatPool(t, pool))
	outputs := assignments(t, "outputs")
	front, plain := outputs["ENDPOINT"], server(t)
	pods := loaded(t)
	require.Len(t, pods, 4)
	awaitServers(t, 4)

	t.Run("no slot is used twice", func(t *testing.T) {
		watched := watchConnections(t, pods)
		var running sync.WaitGroup
		for range 8 {
			running.Go(func() {
				for range 2 {
					_, _, err := talk(front, outputs["KEY_IDE"], 1000)
					assert.NoError(t, err)
				}
			})
		}
		running.Wait()
		watched.check(t)
	})
	defer paced(t, 4, 1, 5*time.Millisecond)()
	t.Run("interactive requests overtake background ones", func(t *testing.T) {
		var lock sync.Mutex
		var order []string
		var running sync.WaitGroup
		send := func(who, key string, tokens int) {
			running.Go(func() {
				_, _, err := talk(front, key, tokens)
				assert.NoError(t, err)
				lock.Lock()
				defer lock.Unlock()
				order = append(order, who)
			})
		}
		ctx, hangUp := context.WithTimeout(t.Context(), 4*time.Minute)
		defer hangUp()
		for range 4 { // these take every slot until all the others wait
			running.Go(func() {
				_, _, err := talkUntil(ctx, front, outputs["KEY_IDE"], "tiny-endless", 2000)
				assert.ErrorContains(t, err, "context canceled")
			})
		}
		awaitMetric(t, "haproxy_backend_current_sessions", 4)
		for range 6 {
			send("background", outputs["KEY_BATCH"], 100)
		}
		awaitMetric(t, "haproxy_backend_current_queue", 6)
		for range 6 {
			send("interactive", outputs["KEY_IDE"], 100)
		}
		awaitMetric(t, "haproxy_backend_current_queue", 12)
		hangUp()
		running.Wait()
		t.Log(order)
		var last, sum = 0, map[string]int{}
		for i, who := range order {
			if who == "interactive" {
				last = i
			}
			sum[who]++
		}
		before := 0
		for _, who := range order[:last] {
			if who == "background" {
				before++
			}
		}
		// The requests end in the order in which they start, except for the four that run at the same time.
		assert.LessOrEqual(t, before, 3, "background requests, all older, that ended before the last interactive one")
		assert.Equal(t, map[string]int{"background": 6, "interactive": 6}, sum)
	})
	if !measured {
		return
	}
	t.Run("no slot is idle while a request waits", func(t *testing.T) {
		workConserving(t, front, plain, outputs["KEY_IDE"])
	})
}

// paced replaces the servers of the pool chat with servers that answer at a fixed pace, as each real one has its own
// GPU. Real models would share this machine's two cores with each other and with the front, and the test would measure
// that.
func paced(t *testing.T, servers, slots int, pace time.Duration) (stop func()) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(project, "test/e2e/testdata/pacer.yaml"))
	require.NoError(t, err)
	// Not the test's own folder: its name may contain a comma, which kubectl takes for the end of a file name.
	file := filepath.Join(os.TempDir(), "ollama-k8s-pacer.yaml")
	t.Cleanup(func() { _ = os.Remove(file) })
	changed := strings.NewReplacer("replicas: 4", fmt.Sprintf("replicas: %d", servers),
		"[-slots=1]", fmt.Sprintf("[-slots=%d, -pace=%v]", slots, pace)).Replace(string(text))
	require.NoError(t, os.WriteFile(file, []byte(changed), 0o600))
	before := kubectl(t, "get", "-n", "ollama", "deployment/ollama-chat", "-o", "jsonpath={.spec.replicas}")
	kubectl(t, "scale", "-n", "ollama", "deployment/ollama-chat", "--replicas=0")
	const pods = "app.kubernetes.io/instance=ollama-chat"
	kubectl(t, "wait", "-n", "ollama", "--for=delete", "pod", "-l", pods, "--timeout=120s")
	awaitServers(t, 0) // otherwise the test would count the old servers as new ones
	kubectl(t, "apply", "-f", file)
	kubectl(t, "rollout", "status", "-n", "ollama", "deployment/pacer", "--timeout=60s")
	awaitServers(t, servers)
	plain := server(t)
	require.Eventually(t, func() bool { // until the Service has them too
		_, _, err := talk(plain, "", 1)
		return err == nil
	}, 30*time.Second, 100*time.Millisecond)
	return func() {
		kubectl(t, "delete", "-f", file, "--wait")
		kubectl(t, "wait", "-n", "ollama", "--for=delete", "pod", "-l", "app=pacer", "--timeout=60s")
		awaitServers(t, 0)
		kubectl(t, "scale", "-n", "ollama", "deployment/ollama-chat", "--replicas="+before)
		kubectl(t, "rollout", "status", "-n", "ollama", "deployment/ollama-chat", "--timeout=180s")
		if restored, err := strconv.Atoi(before); assert.NoError(t, err) {
			awaitServers(t, restored)
		}
	}
}

// workConserving compares the front with the plain Service, with the servers of paced.
func workConserving(t *testing.T, front, plain, key string) {
	pacers := addresses(t, "app=pacer")
	most := func() (all []string) {
		for _, address := range pacers {
			_, answer := askAt(t, "http://"+address+":11434", "GET", "/most", "", "")
			all = append(all, answer)
		}
		return all
	}
	// One request in ten is ten times as long: 15 ms and 150 ms. They arrive at random, at a rate that keeps the servers
	// busy for 75 % of the time. The plain Service picks at random too, so its 99th percentile depends on luck: with a
	// third of the requests the ratio was 0.37 one day and 0.56 another.
	const requests, meanMS, load = 4800, 0.9*15 + 0.1*150, 0.75
	times := map[string][]time.Duration{}
	seen := map[string][]string{}
	for _, way := range []string{front, plain} {
		most()
		random := rand.New(rand.NewPCG(5, 2)) // the same for both
		var lock sync.Mutex
		var running sync.WaitGroup
		next := time.Now()
		for range requests {
			next = next.Add(time.Duration(random.ExpFloat64() * meanMS / 4 / load * float64(time.Millisecond)))
			tokens := 3 // at 5 ms
			if random.IntN(10) == 0 {
				tokens = 30
			}
			time.Sleep(time.Until(next)) // as the load's schedule says
			running.Go(func() {
				took, _, err := talk(way, key, tokens)
				lock.Lock()
				defer lock.Unlock()
				if assert.NoError(t, err) {
					times[way] = append(times[way], took)
				}
			})
		}
		running.Wait()
		seen[way] = most()
	}
	f, p := percentile(times[front], 0.99), percentile(times[plain], 0.99)
	t.Logf("4 servers x 1 slot, %d requests, lengths 10:1, load %.0f %%: p50 %.0f / %.0f ms, p99 %.0f / %.0f ms "+
		"(front / plain Service): %.2f; most at a time at each server %v / %v", requests, load*100,
		ms(percentile(times[front], 0.5)), ms(percentile(times[plain], 0.5)), ms(f), ms(p), float64(f)/float64(p),
		seen[front], seen[plain])
	assert.Less(t, float64(f), 0.5*float64(p))
	assert.Equal(t, []string{"1", "1", "1", "1"}, seen[front], "used slots, as the servers counted them")
}

// activeFront returns the address of the front that queues: the one that has had requests for the model.
func activeFront(t *testing.T) (active string) {
	t.Helper()
	most := 0
	for _, address := range addresses(t, "app.kubernetes.io/component=auth-front") {
		_, text := askAt(t, "http://"+address+":8404", "GET", "/metrics", "", "")
		for _, line := range strings.Split(text, "\n") {
			const requestsTotal = `haproxy_backend_http_requests_total{proxy="model:chat:tiny-endless"} `
			if value, ok := strings.CutPrefix(line, requestsTotal); ok {
				if requests, err := strconv.Atoi(value); err == nil && requests > most {
					most, active = requests, address
				}
			}
		}
	}
	require.NotEmpty(t, active)
	return active
}

// awaitServers waits until every front has the wanted number of servers for the model tiny-endless.
func awaitServers(t *testing.T, want int) {
	t.Helper()
	says := fmt.Sprintf(`haproxy_backend_active_servers{proxy="model:chat:tiny-endless"} %d`+"\n", want)
	require.Eventually(t, func() bool {
		fronts := addresses(t, "app.kubernetes.io/component=auth-front")
		for _, address := range fronts {
			_, text := askAt(t, "http://"+address+":8404", "GET", "/metrics", "", "")
			if !strings.Contains(text, says) {
				return false
			}
		}
		return len(fronts) > 0
	}, time.Minute, 100*time.Millisecond, "%d servers", want)
}

// awaitMetric waits until the active front reports the wanted value for the model tiny-endless.
func awaitMetric(t *testing.T, name string, want int) {
	t.Helper()
	// Look the addresses up only once: the value may last for seconds only.
	fronts := addresses(t, "app.kubernetes.io/component=auth-front")
	last := ""
	defer func() {
		if t.Failed() {
			t.Logf("%s should be %d, was %s at last", name, want, last)
		}
	}()
	require.Eventually(t, func() bool {
		for _, address := range fronts {
			status, text := askAt(t, "http://"+address+":8404", "GET", "/metrics", "", "")
			require.Equal(t, 200, status)
			for _, line := range strings.Split(text, "\n") {
				if value, ok := strings.CutPrefix(line, name+`{proxy="model:chat:tiny-endless"} `); ok {
					last = value
					if value == fmt.Sprint(want) {
						return true
					}
				}
			}
		}
		return false
	}, time.Minute, 50*time.Millisecond, "%s should be %d", name, want)
}

// connections counts the connections to each server, as the server's own kernel reports them.
type connections struct {
	sync.Mutex
	most map[string]int
}

// check asserts that no server used more than its one slot.
func (c *connections) check(t *testing.T) {
	c.Lock()
	defer c.Unlock()
	t.Logf("most requests at a time, as each server counted them: %v", c.most)
	assert.Len(t, c.most, 4, "every server got requests")
	for pod, most := range c.most {
		assert.Equal(t, 1, most, pod)
	}
}

// watchConnections reads the pods' tables of connections until the test ends. A connection that lasts for 1.5 s counts
// as a request: the requests take longer, and health checks are faster, even if four servers share two cores.
func watchConnections(t *testing.T, pods []string) *connections {
	t.Helper()
	watched := &connections{most: map[string]int{}}
	environment := assignments(t, "env")
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	for _, pod := range pods {
		command := exec.CommandContext(ctx, filepath.Join(environment["PATH"], "kubectl"),
			"exec", "-n", "ollama", pod, "--", "sh", "-c",
			"while cat /proc/uptime /proc/net/tcp /proc/net/tcp6; do echo; usleep 50000; done")
		command.Env = append(os.Environ(), "KUBECONFIG="+environment["KUBECONFIG"])
		out, err := command.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, command.Start())
		running.Go(func() {
			defer func() { _ = command.Wait() }() // the test ends it
			since, now := map[string]float64{}, map[string]float64{}
			clock := 0.0 // seconds on the server's clock
			for lines := bufio.NewScanner(out); lines.Scan(); {
				switch fields := strings.Fields(lines.Text()); {
				case len(fields) == 2:
					clock, _ = strconv.ParseFloat(fields[0], 64) // the kernel wrote it
				case len(fields) == 0: // the end of one reading
					requests := 0
					for _, first := range now {
						if clock-first >= 1.5 {
							requests++
						}
					}
					watched.Lock()
					watched.most[pod] = max(watched.most[pod], requests)
					watched.Unlock()
					since, now = now, map[string]float64{}
				case strings.HasSuffix(fields[1], ":2CAA") && fields[3] == "01":
					now[fields[2]] = clock
					if first, ok := since[fields[2]]; ok {
						now[fields[2]] = first
					}
				}
			}
		})
	}
	return watched
}

// manyStreams is the stack for the steps about streams, cost and signing in: two servers with ten slots each, two
// fronts, OIDC.
func manyStreams(t *testing.T, ide string) string {
	const prometheus, update = "    prometheus: localhost/prometheus:3\n", "  ollama-k8s:update:"
	const oidc = `  ollama-k8s:oidc: {issuerURL: "http://issuer.oidc.svc.cluster.local:8080/oidc", ` +
		"groups: {/ml: ide, /ops: batch}, clientSecret: oidc-client, scope: openid email groups}\n"
	return withChatPool(t, threeModels(10, "replicas: {min: 2}, maxLoadedModels: 3, contextLength: 1024"),
		prometheus, prometheus+"    oauth2Proxy: localhost/oauth2-proxy:7.15.6\n",
		"    ide: {}\n", "    ide: "+ide+"\n    noisy: {requestsPerMinute: 30, priority: background}\n",
		"{replicas: 1}", "{replicas: 2}",
		update, oidc+update)
}

func streamsUp(t *testing.T) {
	kubectl(t, "apply", "-f", filepath.Join(project, "test/e2e/testdata/issuer.yaml"))
	kubectl(t, "apply", "-f", filepath.Join(project, "test/e2e/testdata/oidc-client.yaml"))
	kubectl(t, "wait", "-n", "oidc", "--for=condition=Ready", "pod/issuer", "--timeout=60s")
	mustUp(t, "--config", manyStreams(t, "{}"))
	require.Eventually(t, func() bool { return len(loaded(t)) == 2 }, 2*time.Minute, time.Second)
	awaitServers(t, 2)
}

// frontCosts compares requests through the front with direct ones. It returns the ratio of their throughput, the time
// that the front adds to a request, and the time that it adds to the first byte.
func frontCosts(t *testing.T) (throughput map[string]float64, added, later map[string]time.Duration) {
	outputs := assignments(t, "outputs")
	front, plain, key := outputs["ENDPOINT"], server(t), outputs["KEY_IDE"]
	throughput = map[string]float64{}
	for _, answers := range []struct {
		what string
		ask  func(endpoint string) error
	}{
		{"whole answers", func(endpoint string) error {
			body := `{"model":"tiny-endless","max_tokens":60,"messages":[{"role":"user","content":"Hello"}]}`
			status, answer := askAt(t, endpoint, "POST", "/v1/chat/completions", key, body)
			if status != http.StatusOK {
				return fmt.Errorf("%d %s", status, answer)
			}
			return nil
		}},
		{"streams", func(endpoint string) error {
			_, _, err := talk(endpoint, key, 60)
			return err
		}},
	} {
		// The two ways take turns, and the median of the ratios counts.
		const clients, each, rounds = 16, 6, 3
		var ratios []float64
		for range rounds {
			rate := map[string]float64{}
			for _, way := range []string{front, plain} {
				began := time.Now()
				var running sync.WaitGroup
				for range clients {
					running.Go(func() {
						for range each {
							assert.NoError(t, answers.ask(way))
						}
					})
				}
				running.Wait()
				rate[way] = clients * each / time.Since(began).Seconds()
			}
			ratios = append(ratios, rate[front]/rate[plain])
		}
		slices.Sort(ratios)
		throughput[answers.what] = ratios[rounds/2]
		t.Logf("%s: %d clients, front / direct %.3f, of %.3f", answers.what, clients, ratios[rounds/2], ratios)
	}
	// "two fronts" may reach either front, which forwards to the one that queues. "one front" goes straight to that one,
	// as in a stack with a single front.
	ways := map[string]string{"one front": "http://" + activeFront(t) + ":8082", "two fronts": front, "": plain}
	// The times over those of the direct request.
	totals, firsts := map[string][]time.Duration{}, map[string][]time.Duration{}
	for range 300 {
		total, first := map[string]time.Duration{}, map[string]time.Duration{}
		for name, way := range ways {
			var err error
			total[name], first[name], err = talk(way, key, 2)
			require.NoError(t, err)
		}
		for name := range ways {
			totals[name] = append(totals[name], total[name]-total[""])
			firsts[name] = append(firsts[name], first[name]-first[""])
		}
	}
	added, later = map[string]time.Duration{}, map[string]time.Duration{}
	for _, name := range []string{"one front", "two fronts"} {
		added[name], later[name] = percentile(totals[name], 0.5), percentile(firsts[name], 0.5)
		t.Logf("%s: adds %.2f ms, and %.2f ms to the first byte (medians of 300)", name, ms(added[name]), ms(later[name]))
	}
	return throughput, added, later
}

// overhead measures the cost of the front in front of servers with a pace of their own, like GPUs.
func overhead(t *testing.T) {
	defer paced(t, 2, 16, 10*time.Millisecond)() // 16 slots, because the plain Service may send all to one server
	throughput, added, later := frontCosts(t)
	for what, ratio := range throughput {
		assert.GreaterOrEqual(t, ratio, 0.95, what)
	}
	for name, time := range later {
		assert.Less(t, ms(time), 5.0, "milliseconds until the first byte, %s", name)
	}
	assert.Less(t, ms(added["one front"]), 1.0, "milliseconds added")
}

// overheadBeforeModels measures the same with real models, whose tokens compete with the front for the two cores. The
// ratio says as much about the models as about the front, so only the first byte has a limit.
func overheadBeforeModels(t *testing.T) {
	_, _, later := frontCosts(t)
	for name, time := range later {
		assert.Less(t, ms(time), 5.0, "milliseconds until the first byte, %s", name)
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func noisyNeighbour(t *testing.T) {
	defer paced(t, 2, 10, 10*time.Millisecond)()
	outputs := assignments(t, "outputs")
	front := outputs["ENDPOINT"]
	measure := func() (times []time.Duration) {
		for range 400 {
			took, _, err := talk(front, outputs["KEY_IDE"], 3)
			require.NoError(t, err)
			times = append(times, took)
		}
		return times
	}
	statuses := map[int]int{}
	flood := func() (stop func()) {
		done := make(chan struct{})
		var running sync.WaitGroup
		running.Go(func() {
			ticker := time.NewTicker(200 * time.Millisecond) // 300 a minute, ten times its limit
			defer ticker.Stop()
			for {
				select {
				case <-done:
					return
				case <-ticker.C:
					body := `{"model":"tiny-endless","max_tokens":8,"messages":[{"role":"user","content":"Hello"}]}`
					status, _ := askAt(t, front, "POST", "/v1/chat/completions", outputs["KEY_NOISY"], body)
					statuses[status]++
				}
			}
		})
		return func() { close(done); running.Wait() }
	}
	// In turns, because the speed of the machine varies. The median of the ratios counts.
	var ratios []float64
	for range 3 {
		quiet := measure()
		stop := flood()
		noisy := measure()
		stop()
		q, n := percentile(quiet, 0.99), percentile(noisy, 0.99)
		ratio := float64(n) / float64(q)
		ratios = append(ratios, ratio)
		t.Logf("p50 %.1f ms quiet, %.1f ms during the flood; p99 %.1f ms quiet, %.1f ms: %.2f; the flood: %v",
			ms(percentile(quiet, 0.5)), ms(percentile(noisy, 0.5)), ms(q), ms(n), ratio, statuses)
	}
	slices.Sort(ratios)
	assert.Less(t, ratios[1], 1.5)
	assert.NotZero(t, statuses[429], "the flood should exceed its limit")
}

// streaming keeps 20 clients busy with long streams until it is stopped.
func streaming(t *testing.T, endpoint, key string) (stop func() (streams int, failures []string)) {
	t.Helper()
	done := make(chan struct{})
	var lock sync.Mutex
	var streams int
	var failures []string
	var running sync.WaitGroup
	for range 20 {
		running.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				_, _, err := talk(endpoint, key, 400)
				lock.Lock()
				streams++
				if err != nil {
					failures = append(failures, time.Now().Format("15:04:05 ")+err.Error())
				}
				lock.Unlock()
			}
		})
	}
	return func() (int, []string) {
		close(done)
		running.Wait()
		return streams, failures
	}
}

func uncutStreams(t *testing.T) {
	outputs := assignments(t, "outputs")
	require.Eventually(t, func() bool { return len(loaded(t)) == 2 }, 2*time.Minute, time.Second)
	awaitServers(t, 2) // a pod is deleted first: the front must know the other one
	// The key of batch stays the same while the key of ide is rotated.
	stop := streaming(t, outputs["ENDPOINT"], outputs["KEY_BATCH"])
	timed := func(what string, args ...string) {
		began := time.Now()
		kubectl(t, args...)
		t.Logf("%s: %.0f s", what, time.Since(began).Seconds())
	}
	pod := loaded(t)[0]
	timed("pod deleted", "delete", "pod", "-n", "ollama", pod)
	timed("its successor ready", "rollout", "status", "-n", "ollama", "deployment/ollama-chat", "--timeout=180s")
	kubectl(t, "rollout", "restart", "-n", "ollama", "deployment/ollama-chat")
	timed("servers rolled", "rollout", "status", "-n", "ollama", "deployment/ollama-chat", "--timeout=300s")
	kubectl(t, "rollout", "restart", "-n", "ollama", "deployment/front")
	timed("fronts rolled", "rollout", "status", "-n", "ollama", "deployment/front", "--timeout=300s")
	mustUp(t, "--config", manyStreams(t, "{keys: [1, 2]}"))
	streams, failures := stop()
	t.Logf("%d streams, %d cut or failed", streams, len(failures))
	assert.Greater(t, streams, 60)
	assert.Empty(t, failures)
}

func killedOllama(t *testing.T) {
	outputs := assignments(t, "outputs")
	require.Eventually(t, func() bool { return len(loaded(t)) == 2 }, 2*time.Minute, time.Second)
	awaitServers(t, 2)
	stop := streaming(t, outputs["ENDPOINT"], outputs["KEY_BATCH"])
	awaitMetric(t, "haproxy_backend_current_sessions", 20)
	pod := loaded(t)[0]
	killed := 0
	for _, environ := range must(filepath.Glob("/proc/[0-9]*/environ")) {
		variables, err := os.ReadFile(environ)
		if err != nil || !strings.Contains(string(variables), "HOSTNAME="+pod+"\x00") {
			continue // gone, or of another pod
		}
		line, err := os.ReadFile(filepath.Join(filepath.Dir(environ), "cmdline"))
		if err == nil && strings.HasSuffix(string(line), "serve\x00") {
			require.NoError(t, exec.Command("kill", "-9", filepath.Base(filepath.Dir(environ))).Run())
			killed++
		}
	}
	require.Equal(t, 1, killed, "ollama serve of %s", pod)
	require.Eventually(t, func() bool {
		const state = "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}"
		return kubectl(t, "get", "pod", "-n", "ollama", pod, "-o", state) == "1 true"
	}, 2*time.Minute, time.Second)
	streams, failures := stop()
	t.Logf("%d streams; %d failed: %v", streams, len(failures), failures)
	assert.LessOrEqual(t, len(failures), 10, "only the requests in the slots of the killed server")
	for _, failure := range failures {
		assert.Contains(t, failure, "the stream was cut after", "the front retries a request without an answer yet")
		assert.NotContains(t, failure, "after 0 pieces")
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func signedIn(t *testing.T) {
	endpoint := assignments(t, "outputs")["ENDPOINT"]
	issuer := kubectl(t, "get", "service", "-n", "oidc", "issuer", "-o", "jsonpath={.spec.clusterIP}") + ":8080"
	token := func(t *testing.T, query string, change map[string]any) string {
		claims := map[string]any{
			"iss": "http://issuer.oidc.svc.cluster.local:8080/oidc", "aud": "ollama",
			"sub": "somebody", "email": "somebody@example.com", "groups": []string{"/others", "/ml"},
			"exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(),
		}
		for claim, value := range change {
			claims[claim] = value
		}
		body, err := json.Marshal(claims)
		require.NoError(t, err)
		status, signed := askAt(t, "http://"+issuer, "POST", "/sign"+query, "", string(body))
		require.Equal(t, 200, status, signed)
		return signed
	}
	body := `{"model":"code-reviewer","messages":[{"role":"user","content":"Hello"}]}`
	// The fronts' sidecars may still be waiting for the provider's keys.
	require.Eventually(t, func() bool {
		status, _ := askAt(t, endpoint, "POST", "/v1/chat/completions", token(t, "", nil), body)
		return status == 200
	}, time.Minute, time.Second)
	groups := func(names ...string) map[string]any { return map[string]any{"groups": names} }
	for _, test := range []struct {
		name, query string
		change      map[string]any
		status      int
		code        string
	}{
		{"a token of the right group", "", nil, 200, ""},
		{"a token of another team's group", "", groups("/ops"), 403, "model_not_allowed"},
		{"a token of a group without a team", "", groups("/others"), 403, "group_not_allowed"},
		{"a token of no group", "", map[string]any{"groups": nil}, 403, "group_not_allowed"},
		{"a token of a group with a comma in its name", "", groups("a,/ml", "/others"), 403, "group_not_allowed"},
		{"a token of a group with a comma at its end", "", groups("/ml,"), 403, "group_not_allowed"},
		{"an expired token", "", map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}, 401, "invalid_token"},
		{"a token for another client", "", map[string]any{"aud": "another"}, 401, "invalid_token"},
		{"a token of another issuer", "", map[string]any{"iss": "http://elsewhere/oidc"}, 401, "invalid_token"},
		{"a token with a wrong signature", "?key=other", nil, 401, "invalid_token"},
	} {
		t.Run(test.name, func(t *testing.T) {
			signed := token(t, test.query, test.change)
			status, answer := askAt(t, endpoint, "POST", "/v1/chat/completions", signed, body)
			t.Logf("%d %.150s", status, answer)
			assert.Equal(t, test.status, status)
			if test.code != "" {
				assert.Contains(t, answer, `"code":"`+test.code+`"`)
			}
		})
	}
	t.Run("a token streams like a key", func(t *testing.T) {
		total, first, err := talk(endpoint, token(t, "", nil), 200)
		require.NoError(t, err)
		t.Logf("first byte after %.0f ms of %.0f ms", ms(first), ms(total))
		assert.Less(t, first, total/2)
	})
	t.Run("a browser", func(t *testing.T) { browser(t, endpoint, issuer) })
	t.Run("the inner address is closed to other pods", func(t *testing.T) {
		for _, address := range addresses(t, "app.kubernetes.io/component=auth-front") {
			for _, port := range []string{"8081", "4180"} {
				out := kubectl(t, "run", "probe-"+port, "-n", "default", "--image=localhost/toolbox:1",
					"--restart=Never", "--rm", "-i", "--quiet", "--command", "--", "sh", "-c",
					"wget -O- --header 'X-Forwarded-Groups: /ml' http://"+address+":"+port+"/v1/models 2>&1; echo rc=$?")
				t.Logf("%s:%s %s", address, port, out)
				assert.Contains(t, out, "Connection refused")
				assert.Contains(t, out, "rc=1")
			}
			request := must(http.NewRequest("GET", "http://"+address+":8080/v1/models", nil))
			request.Header.Set("X-Forwarded-Groups", "/ml")
			response, err := http.DefaultClient.Do(request)
			require.NoError(t, err)
			response.Body.Close()
			assert.Equal(t, 401, response.StatusCode, "a client must not choose its groups by a header")
		}
	})
}
