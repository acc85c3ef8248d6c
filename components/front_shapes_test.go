package components

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The front in its other shapes: several of them, HTTPS, keys from elsewhere, OIDC, models that share a runner.

// answer of one request: its status, and its body.
func (r *running) answer(t *testing.T, request *http.Request) (int, string) {
	t.Helper()
	response, err := r.client.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body)
}

func TestSeveralFrontsHaveOneQueueAndStandInForEachOther(t *testing.T) {
	server, busy, release := busyServer()
	args, address := front(), stub(t, server)
	args.Replicas = 3
	at := []ports{freePorts(t), freePorts(t), freePorts(t)}
	var fronts []*running
	for _, own := range at {
		fronts = append(fronts, startAs(t, args, own, address, at...))
	}
	for _, r := range fronts { // which of them queues is reckoned from those that are up
		require.Eventually(t, func() bool {
			_, text := r.answer(t, request(t, "GET", r.metrics+"/metrics", "", ""))
			return strings.Contains(text, "haproxy_backend_active_servers{proxy=\"active\"} 3\n")
		}, 10*time.Second, 50*time.Millisecond)
	}
	answers := make(chan string, 20)
	for i := range 5 { // two slots, and three that wait, whichever front they come by
		ask(t, fronts[i%3], []string{"key-ide", "key-ide", "key-ide", "key-ide", "key-slow"}[i], "", answers)
	}
	queues := func() (all []string) {
		for _, r := range fronts {
			all = append(all, r.metric(t, "haproxy_backend_current_queue"))
		}
		return all
	}
	var active int
	require.Eventually(t, func() bool {
		for i, queue := range queues() {
			if queue == "3" {
				active = i
				return true
			}
		}
		return false
	}, 10*time.Second, 50*time.Millisecond, "one front should queue three: %v", queues())
	assert.Equal(t, 2, strings.Count(strings.Join(queues(), ""), "0"), "the other two queue nothing")
	assert.Len(t, busy, 2, "the server must not see more than its slots")
	ask(t, fronts[(active+1)%3], "key-ide", "", answers)
	assert.Equal(t, "503 queue_full", <-answers, "the bound is one too")
	close(release)
	for range 5 {
		assert.Equal(t, "200", <-answers)
	}

	fronts[active].stop()
	for i, r := range fronts {
		if i != active {
			assert.Eventually(t, func() bool {
				status, _ := r.answer(t, request(t, "POST", r.api+"/api/chat", "key-ide", `{"model":"tiny"}`))
				return status == 200
			}, 10*time.Second, 100*time.Millisecond, "front %d without the one that queued", i)
		}
	}
}

func TestModelsOfOneRunnerShareItsSlots(t *testing.T) {
	server, busy, release := busyServer()
	r := start(t, server)
	answers := make(chan string, 10)
	ask(t, r, "key-ide", "", answers)
	ask(t, r, "key-ide", "", answers)
	<-busy
	<-busy
	go func() {
		status, _ := r.answer(t, request(t, "POST", r.api+"/api/chat", "key-ide", `{"model":"tiny-reviewer"}`))
		answers <- fmt.Sprint(status)
	}()
	r.awaitQueue(t, "1")
	assert.Empty(t, busy, "the reviewer has no slot of its own")
	close(release)
	for range 3 {
		assert.Equal(t, "200", <-answers)
	}
	status, _ := r.answer(t, request(t, "POST", r.api+"/api/chat", "key-batch", `{"model":"tiny-reviewer"}`))
	assert.Equal(t, 403, status, "who may use the one may not use the other for that")
}

func TestAFrontListensOnIPv6WhereItsPodHasAnAddressOfIt(t *testing.T) {
	ipv6 := true
	if probe, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		probe.Close()
	} else {
		ipv6 = false // then a pod has no such address, either
	}
	for addresses, want := range map[string]bool{
		"10.0.0.1": false, "": false, "fd00::1": true, "10.0.0.1,fd00::1": true, "fd00::1,10.0.0.1": true,
	} {
		if want && !ipv6 {
			continue
		}
		args, own := front(), freePorts(t)
		config := writeFront(t, args, keys, own, stub(
			t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") },
		))
		text, err := os.ReadFile(config)
		require.NoError(t, err)
		bound := strings.Replace(string(text), fmt.Sprintf(`"127.0.0.1:%d"`, own.api), fmt.Sprintf(`"${ANY}:%d"`, own.api), 1)
		require.NotEqual(t, string(text), bound)
		require.NoError(t, os.WriteFile(config, []byte(bound), 0o600))
		t.Setenv("POD_IPS", addresses)
		r := startFile(t, args, own, config) // asks by IPv4
		connection, err := net.Dial("tcp6", fmt.Sprintf("[::1]:%d", own.api))
		assert.Equal(t, want, err == nil, "%q", addresses)
		if err == nil {
			connection.Close()
		}
		r.stop()
	}
}

func TestHTTPSEndsAtTheFront(t *testing.T) {
	for _, replicas := range []int{1, 2} {
		args, own := front(), freePorts(t)
		args.Replicas, args.TLSSecret = replicas, "certificate"
		r := startAs(t, args, own, stub(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }), own)
		status, _ := r.answer(t, request(t, "POST", r.api+"/api/chat", "key-ide", `{"model":"tiny"}`))
		assert.Equal(t, 200, status)
		_, err := client.Do(request(t, "GET", strings.Replace(r.api, "https:", "http:", 1)+"/healthz", "", ""))
		assert.Error(t, err, "plain HTTP on the port of HTTPS")
	}
}

func TestKeysFromElsewhereWorkBesideOurOwn(t *testing.T) {
	args := front()
	args.KeysSecret = "team-keys"
	r := startAs(t, args, freePorts(t), stub(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }))
	for key, want := range map[string]int{"key-managed-elsewhere": 200, "key-batch": 200, "wrong": 401} {
		status, _ := r.answer(t, request(t, "POST", r.api+"/api/chat", key, `{"model":"tiny"}`))
		assert.Equal(t, want, status, key)
	}
	status, _ := r.answer(t, request(t, "POST", r.api+"/api/chat", "key-managed-elsewhere", `{"model":"org/big:70b"}`))
	assert.Equal(t, 403, status, "it is batch's key")
}

// The real oauth2-proxy is in oidc_test.go; this stub knows a few tokens.
func TestWhoSignedInIsOfTheTeamOfTheirGroup(t *testing.T) {
	args, own := front(), freePorts(t)
	args.OIDC = &OIDC{ClientSecret: "client", Groups: map[string]string{"/ml": "ide", "/ops": "batch"}}
	own.oauth2Proxy = portOf(t, stub(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ping" || strings.HasPrefix(r.URL.Path, "/oauth2/") {
			fmt.Fprint(w, "oauth2-proxy")
			return
		}
		groups, known := map[string][]string{
			"Bearer good.to-ken.x": {"/others", "/ml"}, "Bearer both.to-ken.x": {"/ops", "/ml"}, "Bearer ops.to-ken.x": {"/ops"},
			"Bearer stranger.to-ken.x": {"/others"}, "Bearer comma.to-ken.x": {"a,/ml", "/ml,"}, "Bearer nobody.to-ken.x": nil,
		}[r.Header.Get("Authorization")]
		if !known {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		if got := r.Header.Get("X-Forwarded-Groups") + r.Header.Get("X-Forwarded-Subject"); got != "" {
			http.Error(w, "from outside: "+got, http.StatusTeapot)
			return
		}
		for i, group := range groups {
			groups[i] = oidcGroup{Group: group}.Token()
		}
		if len(groups) > 0 {
			r.Header.Set("X-Forwarded-Groups", strings.Join(groups, ","))
		}
		r.Header.Set("X-Forwarded-Subject", "4711")
		r.Header.Del("Authorization")
		r.Header.Del("Cookie")
		httputil.NewSingleHostReverseProxy(&url.URL{
			Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", own.signedIn),
		}).ServeHTTP(w, r)
	}))
	requests := make(chan http.Header, 20)
	r := startAs(t, args, own, stub(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/chat" {
			requests <- r.Header.Clone()
		}
		fmt.Fprint(w, "{}")
	}))
	for name, test := range map[string]struct {
		key, model string
		status     int
		code       string
	}{
		"a token of a group":               {"good.to-ken.x", "org/big:70b", 200, ""},
		"a token of another team":          {"ops.to-ken.x", "org/big:70b", 403, "model_not_allowed"},
		"a token of two teams' groups":     {"both.to-ken.x", "org/big:70b", 200, ""},
		"a token of a group of no team":    {"stranger.to-ken.x", "tiny", 403, "group_not_allowed"},
		"a token of no group":              {"nobody.to-ken.x", "tiny", 403, "group_not_allowed"},
		"a group with a comma in its name": {"comma.to-ken.x", "tiny", 403, "group_not_allowed"},
		"a token that is not valid":        {"bad.to-ken.x", "tiny", 401, "invalid_token"},
		"a key still works":                {"key-batch", "tiny", 200, ""},
		"a wrong key is no token":          {"wrong", "tiny", 401, "invalid_api_key"},
		"a key with a dot is no token yet": {"a.b", "tiny", 401, "invalid_api_key"},
	} {
		t.Run(name, func(t *testing.T) {
			asked := request(t, "POST", r.api+"/api/chat", test.key, fmt.Sprintf(`{"model":%q}`, test.model))
			asked.Header.Set("X-Forwarded-Groups", oidcGroup{Group: "/ml"}.Token()) // any client can send it
			asked.Header.Set("X-Forwarded-Subject", "forged")
			asked.Header.Set("Cookie", "other=1")
			status, body := r.answer(t, asked)
			require.Equal(t, test.status, status, body)
			if test.code != "" {
				assert.Contains(t, body, `"code":"`+test.code+`"`)
				return
			}
			header := <-requests
			for _, name := range []string{"Authorization", "X-Forwarded-Groups", "X-Forwarded-Subject", "Cookie"} {
				assert.Empty(t, header.Values(name), name)
			}
		})
	}
	t.Run("a browser", func(t *testing.T) {
		browser := *r.client
		browser.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		response, err := browser.Do(request(t, "GET", r.api+"/", "", ""))
		require.NoError(t, err)
		response.Body.Close()
		assert.Equal(t, "/oauth2/start?rd=/v1/models", response.Header.Get("Location"))
		_, body := r.answer(t, request(t, "GET", r.api+"/oauth2/start", "", ""))
		assert.Equal(t, "oauth2-proxy", body)
		session := request(t, "GET", r.api+"/v1/models", "", "")
		session.Header.Set("Cookie", "ollama_session=old")
		status, body := r.answer(t, session)
		assert.Equal(t, 401, status)
		assert.Contains(t, body, "invalid_token", "the session was asked for")
	})
	t.Run("the log has each request once, with its team", func(t *testing.T) {
		assert.Eventually(t, func() bool {
			return strings.Count(r.log.String(), `"path": "/api/chat"`) == 10
		}, 5*time.Second, 50*time.Millisecond, "%s", r.log)
		assert.NotContains(t, r.log.String(), "to-ken")
		assert.NotContains(t, r.log.String(), "forged")
	})
}

func portOf(t *testing.T, address string) (port int) {
	t.Helper()
	_, err := fmt.Sscanf(address, "127.0.0.1:%d", &port)
	require.NoError(t, err)
	return port
}

func TestTheUseOfEachTeamIsCounted(t *testing.T) {
	r, _ := startFront(t)
	for range 3 {
		status, _ := r.answer(t, request(t, "POST", r.api+"/api/chat", "key-ide", `{"model":"org/big:70b"}`))
		require.Equal(t, 200, status)
	}
	for range 5 { // three a minute
		r.answer(t, request(t, "POST", r.api+"/api/chat", "key-slow", `{"model":"tiny:latest"}`))
	}
	for i := range 50 { // what clients make up makes no series
		r.answer(t, request(t, "POST", r.api+"/api/chat", fmt.Sprintf("key%d", i), `{"model":"tiny"}`))
		r.answer(t, request(t, "POST", r.api+"/api/chat", "key-batch", fmt.Sprintf(`{"model":"m%d"}`, i)))
	}
	_, text := r.answer(t, request(t, "GET", r.metrics+"/metrics/teams", "", ""))
	t.Log(text)
	for _, line := range []string{
		`ollama_team_requests_total{team="ide",pool="chat",model="org/big:70b"} 3`,
		`ollama_team_requests_total{team="slow",pool="chat",model="tiny"} 3`,
		`ollama_team_errors_total{team="ide",pool="chat",model="org/big:70b"} 0`,
		`ollama_team_refused_total{team="slow"} 2`,
		`ollama_team_requests_inflight{team="ide"} 0`,
		`ollama_team_requests_per_minute_limit{team="slow"} 3`,
		`ollama_team_requests_per_minute_limit{team="ide"} 0`,
		`ollama_request_duration_seconds_count{pool="chat",model="org/big:70b"} 3`,
		`ollama_request_duration_seconds_bucket{pool="chat",model="tiny",le="5"} 3`,
		`ollama_request_duration_seconds_bucket{pool="chat",model="tiny",le="+Inf"} 3`,
	} {
		assert.Contains(t, text, line+"\n")
	}
	assert.Equal(t, 2, strings.Count(text, "\nollama_team_requests_total{"))
	assert.Equal(t, 2, strings.Count(text, "\nollama_request_duration_seconds_sum{"))
	assert.Equal(t, 3, strings.Count(text, "\nollama_team_refused_total{"), "ide, slow, batch")
}

func TestALargeCompanysConfigurationIsSmallAndStartsFast(t *testing.T) {
	args := front()
	args.Teams, args.Pools, args.Replicas = nil, nil, 2
	for i := range 50 {
		args.Teams = append(args.Teams, Team{Name: fmt.Sprintf("team-%d", i), RequestsPerMinute: 100})
	}
	keys := map[string]string{"team-0/1": "key-ide"} // the one that startAs asks with
	for i := range 50 {
		keys[fmt.Sprintf("team-%d/2", i)] = fmt.Sprintf("key-%d", i)
	}
	for pool := range 5 {
		large := Pool{Name: fmt.Sprintf("pool-%d", pool), Replicas: Replicas{Min: 1, Max: 8}}
		for model := range 20 {
			name := fmt.Sprintf("hf.co/organisation/a-model-with-a-long-name-%d-%d:Q4_K_M", pool, model)
			large.Models = append(large.Models, Model{Name: name, Slots: 4, Context: 32768})
		}
		args.Pools = append(args.Pools, large)
	}
	own := freePorts(t)
	config := writeFront(t, args, keys, own, "", own)
	size := 0
	entries, err := os.ReadDir(filepath.Dir(config))
	require.NoError(t, err)
	for _, entry := range entries {
		info, err := entry.Info()
		require.NoError(t, err)
		size += int(info.Size())
	}
	assert.Less(t, size, 1<<20, "a ConfigMap holds no more than 1 MiB")

	haproxy, told := exec.Command(tool(t, "HAPROXY"), "-db", "-f", config), &output{}
	haproxy.Stdout, haproxy.Stderr = told, told
	began := time.Now()
	require.NoError(t, haproxy.Start())
	defer func() {
		_ = haproxy.Process.Kill()
		_ = haproxy.Wait() // killed on purpose
	}()
	require.Eventually(t, func() bool {
		response, err := client.Do(request(t, "GET", fmt.Sprintf("http://127.0.0.1:%d/healthz", own.api), "", ""))
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == 200
	}, 20*time.Second, 10*time.Millisecond, "%s", told)
	took := time.Since(began)
	t.Logf("50 teams x 20 models x 5 pools: %d KiB, up after %d ms", size>>10, took.Milliseconds())
	assert.Less(t, took, 2*time.Second)
}

func TestTheDurationOfARequestIsThatOfItsWholeAnswer(t *testing.T) {
	r := start(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "{}")
		if r.URL.Path == "/api/chat" {
			w.(http.Flusher).Flush()
			select {
			case <-time.After(700 * time.Millisecond): // a stream
			case <-r.Context().Done():
			}
		}
	})
	status, _ := r.answer(t, request(t, "POST", r.api+"/api/chat", "key-ide", `{"model":"tiny"}`))
	require.Equal(t, 200, status)
	var text string
	require.Eventually(t, func() bool { // the front is done a little after the client is
		_, text = r.answer(t, request(t, "GET", r.metrics+"/metrics/teams", "", ""))
		return strings.Contains(text, `ollama_request_duration_seconds_count{pool="chat",model="tiny"} 1`)
	}, 5*time.Second, 20*time.Millisecond, "%s", text)
	assert.Contains(t, text, `ollama_request_duration_seconds_bucket{pool="chat",model="tiny",le="0.5"} 0`)
	assert.Contains(t, text, `ollama_request_duration_seconds_bucket{pool="chat",model="tiny",le="2.5"} 1`)
}

func TestAFrontIsReadyOnceItHasFoundAServerForEachModelOrHasLookedForLong(t *testing.T) {
	t.Parallel()
	var up atomic.Bool
	server := stub(t, func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	readyz := func(own ports) (int, error) {
		response, err := client.Do(request(t, "GET", fmt.Sprintf("http://127.0.0.1:%d/readyz", own.metrics), "", ""))
		if err != nil {
			return 0, err
		}
		response.Body.Close()
		return response.StatusCode, nil
	}
	for _, found := range []bool{true, false} {
		own := freePorts(t)
		haproxy := exec.Command(tool(t, "HAPROXY"), "-db", "-f", writeFront(t, front(), keys, own, server))
		require.NoError(t, haproxy.Start())
		defer func() {
			_ = haproxy.Process.Kill()
			_ = haproxy.Wait() // killed on purpose
		}()
		began := time.Now()
		require.Eventually(
			t, func() bool { status, err := readyz(own); return err == nil && status == 503 }, 10*time.Second,
			10*time.Millisecond,
		)
		up.Store(found)
		require.Eventually(
			t, func() bool { status, err := readyz(own); return err == nil && status == 200 }, 40*time.Second,
			50*time.Millisecond,
		)
		if found {
			assert.Less(t, time.Since(began), 10*time.Second)
		} else {
			assert.GreaterOrEqual(t, time.Since(began), (lookSeconds-1)*time.Second)
		}
		up.Store(false)
	}
}

func TestATokenGoesOnAtOnce(t *testing.T) {
	t.Parallel()
	// between tokens; the kernel would hold a small packet for up to 200 ms to join it to the next
	const pause = 150 * time.Millisecond
	r := start(t, func(w http.ResponseWriter, r *http.Request) {
		for i := 0; r.URL.Path != "/api/version" && i < 3; i++ {
			fmt.Fprint(w, "data: {}\n\n")
			w.(http.Flusher).Flush()
			time.Sleep(pause) // the model's own pace
		}
	})
	var late []time.Duration
	for range 5 {
		began := time.Now()
		response, err := r.client.Do(request(
			t, "POST", r.api+"/v1/chat/completions", "key-ide", `{"model":"tiny","stream":true}`,
		))
		require.NoError(t, err)
		_, err = response.Body.Read(make([]byte, 1))
		require.NoError(t, err)
		late = append(late, time.Since(began))
		response.Body.Close()
	}
	slices.Sort(late)
	assert.Less(t, late[2], pause/2, "the first token, of %v", late)
}
