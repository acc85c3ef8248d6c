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

// The front with real servers behind it: its queue, its streams, its cost, and who may ask.

// chatPool is the line of Pulumi.local.yaml that the steps below change.
const chatPool = "    chat: {gpu: {count: 1}, models: [tiny, code-reviewer], maxLoadedModels: 2, contextLength: 1024, parallel: 2, cpu: 250m, memory: 1Gi}\n"

// withChatPool is Pulumi.local.yaml with another pool chat, a model that talks for as long as it is asked to, and further changes.
func withChatPool(t *testing.T, pool string, changes ...string) string {
	t.Helper()
	file := stackFile(t, chatPool, "    chat: {"+pool+"}\n")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	changes = append(changes, "batch: {models: [tiny]", "batch: {models: [tiny, tiny-endless]", "    - {name: tiny-embed}\n", "    - {name: tiny-embed}\n    - {name: tiny-endless}\n")
	for i := 0; i < len(changes); i += 2 {
		require.Contains(t, string(text), changes[i])
	}
	require.NoError(t, os.WriteFile(file, []byte(strings.NewReplacer(changes...).Replace(string(text))), 0o600))
	return file
}

// talk asks tiny-endless for so many tokens and returns how long the answer took, and its first byte. An answer that does not end as it should
// is an error.
func talk(endpoint, key string, tokens int) (total, first time.Duration, err error) {
	return talkTo(endpoint, key, "tiny-endless", tokens)
}

func talkTo(endpoint, key, model string, tokens int) (total, first time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	return talkUntil(ctx, endpoint, key, model, tokens)
}

func talkUntil(ctx context.Context, endpoint, key, model string, tokens int) (total, first time.Duration, err error) {
	body := fmt.Sprintf(`{"model":%q,"stream":true,"max_tokens":%d,"messages":[{"role":"user","content":"Hello"}]}`, model, tokens)
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
		text, _ := io.ReadAll(io.LimitReader(response.Body, 200)) // the status says it
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

// server is the address of the pool's plain Service, as if there were no front.
func server(t *testing.T) string {
	return "http://" + kubectl(t, "get", "service", "-n", "ollama", "ollama-chat", "-o", "jsonpath={.spec.clusterIP}") + ":11434"
}

// running are the addresses, by name, of the pods with a label that run and are not going.
func running(t *testing.T, label string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, line := range strings.Split(kubectl(t, "get", "pods", "-n", "ollama", "-l", label, "-o",
		`jsonpath={range .items[?(@.status.phase=="Running")]}{.metadata.name} {.status.podIP} {.metadata.deletionTimestamp}{"\n"}{end}`), "\n") {
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

// loaded are the pods of the pool, each of which has been asked until it had the model in memory: no measurement pays for loading it.
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

func oneQueue(t *testing.T) {
	mustUp(t, "--config", withChatPool(t, "gpu: {count: 1}, replicas: {min: 4}, models: [tiny, tiny-endless, code-reviewer], maxLoadedModels: 3, contextLength: 2048, parallel: 1, cpu: 100m, memory: 1Gi"))
	outputs := assignments(t, "outputs")
	front, plain := outputs["ENDPOINT"], server(t)
	pods := loaded(t)
	require.Len(t, pods, 4)
	awaitServers(t, 4)

	t.Run("no slot is taken twice", func(t *testing.T) {
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
		for range 4 { // every slot, until all the others wait
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
		// The order of ends is that of starts but for the four that run side by side.
		assert.LessOrEqual(t, before, 3, "of the 6 background requests, which all came earlier, before the last interactive one")
		assert.Equal(t, map[string]int{"background": 6, "interactive": 6}, sum)
	})
	t.Run("no slot is idle while a request waits", func(t *testing.T) { workConserving(t, front, plain, outputs["KEY_IDE"]) })
}

// paced puts servers that answer at a pace in the place of the pool chat's: each has its own pace, as each real one has its own GPU. Real models
// share this machine's two cores with each other and with the front, and what is then measured is how they share.
func paced(t *testing.T, servers, slots int, pace time.Duration) (stop func()) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(project, "test/e2e/testdata/pacer.yaml"))
	require.NoError(t, err)
	file := filepath.Join(os.TempDir(), "ollama-k8s-pacer.yaml") // the test's own folder may have a comma in its name, which kubectl takes for two files
	t.Cleanup(func() { _ = os.Remove(file) })
	changed := strings.NewReplacer("replicas: 4", fmt.Sprintf("replicas: %d", servers), "[-slots=1]", fmt.Sprintf("[-slots=%d, -pace=%v]", slots, pace)).Replace(string(text))
	require.NoError(t, os.WriteFile(file, []byte(changed), 0o600))
	before := kubectl(t, "get", "-n", "ollama", "deployment/ollama-chat", "-o", "jsonpath={.spec.replicas}")
	kubectl(t, "scale", "-n", "ollama", "deployment/ollama-chat", "--replicas=0")
	kubectl(t, "wait", "-n", "ollama", "--for=delete", "pod", "-l", "app.kubernetes.io/instance=ollama-chat", "--timeout=120s")
	awaitServers(t, 0) // or those that are gone would be taken for the new ones
	kubectl(t, "apply", "-f", file)
	kubectl(t, "rollout", "status", "-n", "ollama", "deployment/pacer", "--timeout=60s")
	awaitServers(t, servers)
	plain := server(t)
	require.Eventually(t, func() bool { // the Service knows them too
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

// workConserving compares the front with the plain Service, before the servers of paced.
func workConserving(t *testing.T, front, plain, key string) {
	pacers := addresses(t, "app=pacer")
	most := func() (all []string) {
		for _, address := range pacers {
			_, answer := askAt(t, "http://"+address+":11434", "GET", "/most", "", "")
			all = append(all, answer)
		}
		return all
	}
	// One in ten is ten times as long: 15 ms and 150 ms. They come at random, as many as keep the servers busy for 75 % of the time. The plain
	// Service picks at random too, and its 99th percentile depends on luck: with a third of the requests the ratio was 0.37 one day and 0.56 another.
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
			time.Sleep(time.Until(next)) // the load's own clock
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
	t.Logf("4 servers x 1 slot, %d requests, lengths 10:1, load %.0f %%: p50 %.0f / %.0f ms, p99 %.0f / %.0f ms (front / plain Service): %.2f; most at a time at each server %v / %v", requests, load*100,
		ms(percentile(times[front], 0.5)), ms(percentile(times[plain], 0.5)), ms(f), ms(p), float64(f)/float64(p), seen[front], seen[plain])
	assert.Less(t, float64(f), 0.5*float64(p))
	assert.Equal(t, []string{"1", "1", "1", "1"}, seen[front], "slots, as the servers counted")
}

// activeFront is the address of the front that queues: the one that has had requests of the model.
func activeFront(t *testing.T) (active string) {
	t.Helper()
	most := 0
	for _, address := range addresses(t, "app.kubernetes.io/component=auth-front") {
		_, text := askAt(t, "http://"+address+":8404", "GET", "/metrics", "", "")
		for _, line := range strings.Split(text, "\n") {
			if value, ok := strings.CutPrefix(line, `haproxy_backend_http_requests_total{proxy="model:chat:tiny-endless"} `); ok {
				if requests, err := strconv.Atoi(value); err == nil && requests > most {
					most, active = requests, address
				}
			}
		}
	}
	require.NotEmpty(t, active)
	return active
}

// awaitServers waits until every front has so many servers of the model tiny-endless.
func awaitServers(t *testing.T, want int) {
	t.Helper()
	says := fmt.Sprintf(`haproxy_backend_active_servers{proxy="model:chat:tiny-endless"} %d`+"\n", want)
	require.Eventually(t, func() bool {
		fronts := addresses(t, "app.kubernetes.io/component=auth-front")
		for _, address := range fronts {
			if _, text := askAt(t, "http://"+address+":8404", "GET", "/metrics", "", ""); !strings.Contains(text, says) {
				return false
			}
		}
		return len(fronts) > 0
	}, time.Minute, 100*time.Millisecond, "%d servers", want)
}

// awaitMetric waits until the active front says the number of the model tiny-endless.
func awaitMetric(t *testing.T, name string, want int) {
	t.Helper()
	fronts := addresses(t, "app.kubernetes.io/component=auth-front") // asked for once: what is waited for may be there for seconds only
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

// connections watches who is connected to each server, as the server's own kernel says it.
type connections struct {
	sync.Mutex
	most map[string]int
}

// check that no server had more than its one slot taken.
func (c *connections) check(t *testing.T) {
	c.Lock()
	defer c.Unlock()
	t.Logf("most requests at a time, as each server saw it: %v", c.most)
	assert.Len(t, c.most, 4, "every server had work")
	for pod, most := range c.most {
		assert.Equal(t, 1, most, pod)
	}
}

// watchConnections reads the pods' tables of connections until the test ends. One counts as a request's when it lasts for half a second:
// health checks are over before, even of servers that share two cores.
func watchConnections(t *testing.T, pods []string) *connections {
	t.Helper()
	watched := &connections{most: map[string]int{}}
	environment := assignments(t, "env")
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	for _, pod := range pods {
		command := exec.CommandContext(ctx, filepath.Join(environment["PATH"], "kubectl"), "exec", "-n", "ollama", pod, "--", "sh", "-c",
			"while cat /proc/uptime /proc/net/tcp /proc/net/tcp6; do echo; usleep 50000; done")
		command.Env = append(os.Environ(), "KUBECONFIG="+environment["KUBECONFIG"])
		out, err := command.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, command.Start())
		running.Go(func() {
			defer func() { _ = command.Wait() }() // ended on purpose
			since, now := map[string]float64{}, map[string]float64{}
			clock := 0.0 // seconds, the server's
			for lines := bufio.NewScanner(out); lines.Scan(); {
				switch fields := strings.Fields(lines.Text()); {
				case len(fields) == 2:
					clock, _ = strconv.ParseFloat(fields[0], 64) // the kernel wrote it
				case len(fields) == 0: // the end of one reading
					requests := 0
					for _, first := range now {
						if clock-first >= 0.5 {
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

// manyStreams is the stack of the steps about streams, cost and signing in: two servers with ten slots, two fronts, OIDC.
func manyStreams(t *testing.T, ide string) string {
	return withChatPool(t, "gpu: {count: 1}, replicas: {min: 2}, models: [tiny, tiny-endless, code-reviewer], maxLoadedModels: 3, contextLength: 1024, parallel: 10, cpu: 100m, memory: 1Gi",
		"    prometheus: localhost/prometheus:3\n", "    prometheus: localhost/prometheus:3\n    oauth2Proxy: localhost/oauth2-proxy:7.15.6\n",
		"    ide: {}\n", "    ide: "+ide+"\n    noisy: {requestsPerMinute: 30, priority: background}\n",
		"{replicas: 1}", "{replicas: 2}",
		"  ollama-k8s:update:", `  ollama-k8s:oidc: {issuerURL: "http://issuer.oidc.svc.cluster.local:8080/oidc", groups: {/ml: ide, /ops: batch}, clientSecret: oidc-client, scope: openid email groups}`+"\n  ollama-k8s:update:")
}

func streamsUp(t *testing.T) {
	kubectl(t, "apply", "-f", filepath.Join(project, "test/e2e/testdata/issuer.yaml"))
	kubectl(t, "apply", "-f", filepath.Join(project, "test/e2e/testdata/oidc-client.yaml"))
	kubectl(t, "wait", "-n", "oidc", "--for=condition=Ready", "pod/issuer", "--timeout=60s")
	mustUp(t, "--config", manyStreams(t, "{}"))
	require.Eventually(t, func() bool { return len(loaded(t)) == 2 }, 2*time.Minute, time.Second)
	awaitServers(t, 2)
}

// frontCosts compares the way through the front with the direct one: throughput as a ratio, what a request takes longer, and its first byte.
func frontCosts(t *testing.T) (throughput map[string]float64, added, later map[string]time.Duration) {
	outputs := assignments(t, "outputs")
	front, plain, key := outputs["ENDPOINT"], server(t), outputs["KEY_IDE"]
	throughput = map[string]float64{}
	for _, answers := range []struct {
		what string
		ask  func(endpoint string) error
	}{
		{"whole answers", func(endpoint string) error {
			status, answer := askAt(t, endpoint, "POST", "/v1/chat/completions", key, `{"model":"tiny-endless","max_tokens":60,"messages":[{"role":"user","content":"Hello"}]}`)
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
		// The two ways take turns; what counts is the median of the ratios.
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
	// By way of any front, which hands on to the one that queues, and straight to that one, as where there is only one.
	ways := map[string]string{"one front": "http://" + activeFront(t) + ":8082", "two fronts": front, "": plain}
	totals, firsts := map[string][]time.Duration{}, map[string][]time.Duration{} // over the direct request beside it
	for range 300 {
		total, first := map[string]time.Duration{}, map[string]time.Duration{}
		for name, way := range ways {
			var err error
			total[name], first[name], err = talk(way, key, 2)
			require.NoError(t, err)
		}
		for name := range ways {
			totals[name], firsts[name] = append(totals[name], total[name]-total[""]), append(firsts[name], first[name]-first[""])
		}
	}
	added, later = map[string]time.Duration{}, map[string]time.Duration{}
	for _, name := range []string{"one front", "two fronts"} {
		added[name], later[name] = percentile(totals[name], 0.5), percentile(firsts[name], 0.5)
		t.Logf("%s: %.2f ms added, first byte %.2f ms later (medians of 300)", name, ms(added[name]), ms(later[name]))
	}
	return throughput, added, later
}

// overhead is what the front costs before servers with a pace of their own, as GPUs have.
func overhead(t *testing.T) {
	defer paced(t, 2, 16, 10*time.Millisecond)() // the plain Service may send all to one of them
	throughput, added, later := frontCosts(t)
	for what, ratio := range throughput {
		assert.GreaterOrEqual(t, ratio, 0.95, what)
	}
	for name, time := range later {
		assert.Less(t, ms(time), 5.0, "milliseconds until the first byte, %s", name)
	}
	assert.Less(t, ms(added["one front"]), 1.0, "milliseconds added")
}

// overheadBeforeModels is the same before real models, whose tokens take their time from the two cores that also forward them: the ratio tells as
// much about these as about the front, so only the first byte is held to anything.
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
					status, _ := askAt(t, front, "POST", "/v1/chat/completions", outputs["KEY_NOISY"], `{"model":"tiny-endless","max_tokens":8,"messages":[{"role":"user","content":"Hello"}]}`)
					statuses[status]++
				}
			}
		})
		return func() { close(done); running.Wait() }
	}
	// In turns, for the machine has moods of its own; what counts is the median of the ratios.
	var ratios []float64
	for range 3 {
		quiet := measure()
		stop := flood()
		noisy := measure()
		stop()
		q, n := percentile(quiet, 0.99), percentile(noisy, 0.99)
		ratios = append(ratios, float64(n)/float64(q))
		t.Logf("p50 %.1f ms quiet, %.1f ms beside the flood; p99 %.1f ms quiet, %.1f ms: %.2f; the flood: %v", ms(percentile(quiet, 0.5)), ms(percentile(noisy, 0.5)), ms(q), ms(n), ratios[len(ratios)-1], statuses)
	}
	slices.Sort(ratios)
	assert.Less(t, ratios[1], 1.5)
	assert.NotZero(t, statuses[429], "the flood should be over its limit")
}

// streaming keeps 20 clients at long streams until it is stopped.
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
	// batch's key stays as it is while ide's is rotated.
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
			continue // gone, or another's
		}
		line, err := os.ReadFile(filepath.Join(filepath.Dir(environ), "cmdline"))
		if err == nil && strings.HasSuffix(string(line), "serve\x00") {
			require.NoError(t, exec.Command("kill", "-9", filepath.Base(filepath.Dir(environ))).Run())
			killed++
		}
	}
	require.Equal(t, 1, killed, "ollama serve of %s", pod)
	require.Eventually(t, func() bool {
		return kubectl(t, "get", "pod", "-n", "ollama", pod, "-o", "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}") == "1 true"
	}, 2*time.Minute, time.Second)
	streams, failures := stop()
	t.Logf("%d streams; %d failed: %v", streams, len(failures), failures)
	assert.LessOrEqual(t, len(failures), 10, "only the requests on the one server's slots")
	for _, failure := range failures {
		assert.Contains(t, failure, "the stream was cut after", "what had no answer yet is asked of the other server")
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
			"iss": "http://issuer.oidc.svc.cluster.local:8080/oidc", "aud": "ollama", "sub": "somebody", "email": "somebody@example.com",
			"exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(), "groups": []string{"/others", "/ml"},
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
	// The fronts' sidecars may still be asking the provider for its keys.
	require.Eventually(t, func() bool {
		status, _ := askAt(t, endpoint, "POST", "/v1/chat/completions", token(t, "", nil), body)
		return status == 200
	}, time.Minute, time.Second)
	for _, test := range []struct {
		name, query string
		change      map[string]any
		status      int
		code        string
	}{
		{"a token of the right group", "", nil, 200, ""},
		{"a token of another team's group", "", map[string]any{"groups": []string{"/ops"}}, 403, "model_not_allowed"},
		{"a token of a group that is no team", "", map[string]any{"groups": []string{"/others"}}, 403, "group_not_allowed"},
		{"a token of no group", "", map[string]any{"groups": nil}, 403, "group_not_allowed"},
		{"a token of a group with a comma in its name", "", map[string]any{"groups": []string{"a,/ml", "/others"}}, 403, "group_not_allowed"},
		{"a token of a group with a comma at its end", "", map[string]any{"groups": []string{"/ml,"}}, 403, "group_not_allowed"},
		{"an expired token", "", map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}, 401, "invalid_token"},
		{"a token for another client", "", map[string]any{"aud": "another"}, 401, "invalid_token"},
		{"a token of another issuer", "", map[string]any{"iss": "http://elsewhere/oidc"}, 401, "invalid_token"},
		{"a token with a wrong signature", "?key=other", nil, 401, "invalid_token"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, answer := askAt(t, endpoint, "POST", "/v1/chat/completions", token(t, test.query, test.change), body)
			t.Logf("%d %.150s", status, answer)
			assert.Equal(t, test.status, status)
			if test.code != "" {
				assert.Contains(t, answer, `"code":"`+test.code+`"`)
			}
		})
	}
	t.Run("a token streams as a key does", func(t *testing.T) {
		total, first, err := talk(endpoint, token(t, "", nil), 200)
		require.NoError(t, err)
		t.Logf("first byte after %.0f ms of %.0f ms", ms(first), ms(total))
		assert.Less(t, first, total/2)
	})
	t.Run("a browser", func(t *testing.T) { browser(t, endpoint, issuer) })
	t.Run("the inner address is closed to other pods", func(t *testing.T) {
		for _, address := range addresses(t, "app.kubernetes.io/component=auth-front") {
			for _, port := range []string{"8081", "4180"} {
				out := kubectl(t, "run", "probe-"+port, "-n", "default", "--image=localhost/toolbox:1", "--restart=Never", "--rm", "-i", "--quiet", "--command", "--",
					"sh", "-c", "wget -O- --header 'X-Forwarded-Groups: /ml' http://"+address+":"+port+"/v1/models 2>&1; echo rc=$?")
				t.Logf("%s:%s %s", address, port, out)
				assert.Contains(t, out, "Connection refused")
				assert.Contains(t, out, "rc=1")
			}
			request := must(http.NewRequest("GET", "http://"+address+":8080/v1/models", nil))
			request.Header.Set("X-Forwarded-Groups", "/ml")
			response, err := http.DefaultClient.Do(request)
			require.NoError(t, err)
			response.Body.Close()
			assert.Equal(t, 401, response.StatusCode, "who says so by a header is nobody")
		}
	})
}
