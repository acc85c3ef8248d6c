package components

import (
	"context"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheFirstRequestOfASleepingPoolIsHeldUntilAServerIsThere(t *testing.T) {
	t.Parallel()
	var asleep atomic.Bool
	server := stub(t, func(w http.ResponseWriter, _ *http.Request) {
		if asleep.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	args := front()
	args.Pools[0].Replicas = Replicas{Min: 0, Max: 1}
	own := freePorts(t)
	config := writeFront(t, args, keys, own, server)
	text, err := os.ReadFile(config)
	require.NoError(t, err)
	// As in the front, but that it is held for 3 s at most.
	require.NoError(t, os.WriteFile(config, []byte(strings.ReplaceAll(string(text), "retries 120", "retries 3")), 0o600))
	r := startFile(t, args, own, config)
	says := func(line string) func() bool {
		return func() bool {
			_, text := r.answer(t, request(t, "GET", r.metrics+"/metrics", "", ""))
			return strings.Contains(text, line+"\n")
		}
	}
	asleep.Store(true)
	for _, proxy := range []string{"model:chat:tiny", "model:embed:embed"} {
		require.Eventually(
			t, says(`haproxy_backend_active_servers{proxy="`+proxy+`"} 0`), 20*time.Second, 50*time.Millisecond, "%s", proxy,
		)
	}
	ask := func(model string) (status int, code string) {
		status, body := r.answer(t, request(t, "POST", r.api+"/api/chat", "key-ide", `{"model":"`+model+`"}`))
		return status, body
	}

	began := time.Now()
	status, body := ask("tiny")
	assert.Equal(t, 503, status)
	assert.Contains(t, body, `"code":"overloaded"`)
	assert.GreaterOrEqual(t, time.Since(began), 2*time.Second, "held until the time is over")
	began = time.Now()
	status, _ = ask("embed")
	assert.Equal(t, 503, status)
	assert.Less(
		t, time.Since(began), time.Second, "a pool that does not sleep has no server for another reason: nobody is held",
	)

	answers := make(chan int, 10)
	for range 6 { // as many as the pod's slots, as one team may have in the queue, and two that are over it
		go func() {
			status, _ := ask("tiny")
			answers <- status
		}()
	}
	require.Eventually(
		t, says(`haproxy_backend_current_sessions{proxy="model:chat:tiny"} 4`), 2*time.Second, 20*time.Millisecond,
		"those who are held are what wakes the pool",
	)
	asleep.Store(false)
	got := map[int]int{}
	for range 6 {
		got[<-answers]++
	}
	assert.Equal(t, map[int]int{200: 4, 503: 2}, got, "as many are held as have a slot or may queue")
}

func TestAClientThatLeavesASleepingPoolWakesItNoLonger(t *testing.T) {
	t.Parallel()
	var asleep atomic.Bool
	args := front()
	args.Pools[0].Replicas = Replicas{Min: 0, Max: 1}
	r := startAs(t, args, freePorts(t), stub(t, func(w http.ResponseWriter, _ *http.Request) {
		if asleep.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	asleep.Store(true)
	says := func(line string) func() bool {
		return func() bool {
			_, text := r.answer(t, request(t, "GET", r.metrics+"/metrics", "", ""))
			return strings.Contains(text, line+"\n")
		}
	}
	require.Eventually(t, says(
		`haproxy_backend_active_servers{proxy="model:chat:tiny"} 0`,
	), 20*time.Second, 50*time.Millisecond)
	for _, body := range []string{`{"model":"tiny"}`, `{"model":"tiny","images":["` + strings.Repeat("A", 3<<20) + `"]}`} {
		ctx, leave := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := r.client.Do(request(t, "POST", r.api+"/api/generate", "key-ide", body).WithContext(ctx))
			ended <- err
		}()
		require.Eventually(t, says(
			`haproxy_backend_current_sessions{proxy="model:chat:tiny"} 1`,
		), 5*time.Second, 20*time.Millisecond)
		leave()
		require.ErrorIs(t, <-ended, context.Canceled)
		require.Eventually(t, says(
			`haproxy_backend_current_sessions{proxy="model:chat:tiny"} 0`,
		), 5*time.Second, 20*time.Millisecond,
			"nobody waits any more")
	}
}

func TestTheCatalogComesFromAPoolThatIsAlwaysThere(t *testing.T) {
	args := front()
	args.Pools[0].Replicas.Min = 0
	hosts := []string{"ollama-chat-pods.ollama.svc", "ollama-embed-pods.ollama.svc"}
	config, err := args.haproxyConfig(hosts, "")
	require.NoError(t, err)
	catalog := config[strings.Index(config, "\nbackend catalog"):]
	assert.Contains(t, catalog[:strings.Index(catalog, "# One queue")], "ollama-embed-pods.ollama.svc.cluster.local")
	args.Pools[1].Replicas.Min = 0 // then there is none
	_, err = args.haproxyConfig(hosts, "")
	require.NoError(t, err)
}
