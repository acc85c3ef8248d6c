package components

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The front for real: our haproxy.cfg in a real HAProxy on loopback, before a stub server.

func front() *AuthFrontArgs {
	return &AuthFrontArgs{
		ClusterDomain: "cluster.local", Replicas: 1,
		Teams: []Team{
			{Name: "ide"},
			{Name: "batch", Models: []string{"tiny"}, Background: true},
			{Name: "slow", RequestsPerMinute: 3},
		},
		Routes: []Route{
			{Pool: "chat", Models: []string{"tiny", "org/big:70b"}, MaxPods: 4, Slots: 2},
			{Pool: "embed", Models: []string{"embed:latest"}, MaxPods: 1, Slots: 1},
		},
	}
}

// tool is a program that `make test` provides; a test that cannot have it fails, since a check that is skipped proves nothing.
func tool(t *testing.T, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	require.NotEmpty(t, path, "%s is not set: run the tests with `make test`, which provides it", variable)
	return path
}

// writeFront writes the configuration as the front's pod sees it, but on loopback and with the given servers in place of DNS.
func writeFront(t *testing.T, a *AuthFrontArgs, keys map[string]string, apiPort, metricsPort int, server string) string {
	t.Helper()
	hosts := make([]string, len(a.Routes))
	for i, route := range a.Routes {
		hosts[i] = "ollama-" + route.Pool + "-pods.ollama.svc"
	}
	config, err := a.haproxyConfig(hosts)
	require.NoError(t, err)
	dir := t.TempDir()
	config = strings.NewReplacer(
		"/etc/haproxy-keys/", dir+"/", "/etc/haproxy/", dir+"/",
		fmt.Sprintf("bind :%d", portAPI), fmt.Sprintf("bind 127.0.0.1:%d", apiPort),
		fmt.Sprintf("bind :%d", portMetrics), fmt.Sprintf("bind 127.0.0.1:%d", metricsPort),
	).Replace(config)
	if server != "" {
		config = regexp.MustCompile(`server-template pod \d+ \S+`).ReplaceAllString(config, "server pod1 "+server)
	}
	for name, text := range map[string]string{
		"haproxy.cfg": config, "keys.map": hashedKeys(keys), "models.map": a.modelsMap(), "grants.map": a.grantsMap(),
		"limits.map":     a.teamsMap(func(t Team) int { return divide(t.RequestsPerMinute, a.Replicas) }),
		"priorities.map": a.teamsMap(Team.priorityClass),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return filepath.Join(dir, "haproxy.cfg")
}

func TestHAProxyAcceptsItsConfigurationWithoutAWarning(t *testing.T) {
	config := writeFront(t, front(), map[string]string{"ide": "k"}, 1, 2, "")
	out, err := exec.Command(tool(t, "HAPROXY"), "-c", "-f", config).CombinedOutput()
	require.NoError(t, err, string(out))
	assert.NotContains(t, string(out), "WARNING")
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

type seen struct {
	header http.Header
	body   []byte
}

// startFront runs HAProxy until the test ends; what the stub server was asked arrives on the channel.
func startFront(t *testing.T) (api, metrics string, requests chan seen) {
	t.Helper()
	requests = make(chan seen, 100)
	stub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/version" {
			body, err := io.ReadAll(r.Body)
			assert.NoError(t, err)
			requests <- seen{r.Header.Clone(), body}
		}
		fmt.Fprint(w, `{"from":"stub"}`)
	}))
	t.Cleanup(stub.Close)

	apiPort, metricsPort := freePort(t), freePort(t)
	config := writeFront(t, front(), map[string]string{"ide": "key-ide", "batch": "key-batch", "slow": "key-slow"}, apiPort, metricsPort, strings.TrimPrefix(stub.URL, "http://"))
	ctx, cancel := context.WithCancel(context.Background())
	haproxy := exec.CommandContext(ctx, tool(t, "HAPROXY"), "-db", "-f", config)
	var log bytes.Buffer
	haproxy.Stdout, haproxy.Stderr = &log, &log
	require.NoError(t, haproxy.Start())
	t.Cleanup(func() {
		cancel()
		_ = haproxy.Wait() // killed on purpose
		assert.NotContains(t, log.String(), "key-ide", "a key in the log")
		if t.Failed() {
			t.Log(log.String())
		}
	})
	api, metrics = fmt.Sprintf("http://127.0.0.1:%d", apiPort), fmt.Sprintf("http://127.0.0.1:%d", metricsPort)
	require.Eventually(t, func() bool {
		// Ready when the first health check has found the server.
		response, err := client.Do(request(t, "GET", api+"/api/version", "key-ide", ""))
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == 200
	}, 10*time.Second, 50*time.Millisecond, "the front did not answer")
	return api, metrics, requests
}

func request(t *testing.T, method, url, key, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	require.NoError(t, err)
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	// A refused body is not read to its end, so the connection is of no use afterwards: each request has its own.
	r.Close = true
	return r
}

// client gives up in time to say which request it was.
var client = &http.Client{Timeout: 45 * time.Second}

func TestTheFrontAnswersEachRequestAsItShould(t *testing.T) {
	api, metrics, requests := startFront(t)
	large := strings.Repeat("x", 3<<20)
	for name, test := range map[string]struct {
		method, path, key, body string
		status                  int
		code                    string // of the error
	}{
		"no key":                                 {"POST", "/v1/chat/completions", "", `{"model":"tiny"}`, 401, "invalid_api_key"},
		"a wrong key":                            {"POST", "/v1/chat/completions", "wrong", `{"model":"tiny"}`, 401, "invalid_api_key"},
		"a key's hash is no key":                 {"GET", "/v1/models", strings.Fields(hashedKeys(map[string]string{"ide": "key-ide"}))[0], "", 401, "invalid_api_key"},
		"a good key":                             {"POST", "/v1/chat/completions", "key-ide", `{"model":"tiny"}`, 200, ""},
		"the model by its full name":             {"POST", "/api/chat", "key-ide", `{"model":"tiny:latest"}`, 200, ""},
		"a latest model by its short name":       {"POST", "/api/embed", "key-ide", `{"model":"embed"}`, 200, ""},
		"a model with a slash":                   {"POST", "/api/generate", "key-ide", `{"model":"org/big:70b"}`, 200, ""},
		"the model behind megabytes of messages": {"POST", "/v1/chat/completions", "key-ide", `{"messages":[{"content":"` + large + `"}],"model":"tiny"}`, 200, ""},
		"a body that is too large":               {"POST", "/v1/chat/completions", "key-ide", `{"messages":"` + strings.Repeat(large, 11) + `","model":"tiny"}`, 413, "request_too_large"},
		"an unknown model":                       {"POST", "/v1/chat/completions", "key-ide", `{"model":"gpt-4\"o"}`, 404, "model_not_found"},
		"no model":                               {"POST", "/v1/chat/completions", "key-ide", `{"messages":[]}`, 400, "missing_model"},
		"no JSON":                                {"POST", "/v1/chat/completions", "key-ide", `model=tiny`, 400, "missing_model"},
		"a model that the team may use":          {"POST", "/api/chat", "key-batch", `{"model":"tiny"}`, 200, ""},
		"a model that the team may not use":      {"POST", "/api/chat", "key-batch", `{"model":"org/big:70b"}`, 403, "model_not_allowed"},
		"the list of models":                     {"GET", "/v1/models", "key-batch", "", 200, ""},
		"asking by GET":                          {"GET", "/v1/chat/completions", "key-ide", "", 403, "path_not_allowed"},
		"looking by POST":                        {"POST", "/api/tags", "key-ide", "{}", 403, "path_not_allowed"},
		"pull":                                   {"POST", "/api/pull", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed"},
		"push":                                   {"POST", "/api/push", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed"},
		"create":                                 {"POST", "/api/create", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed"},
		"delete":                                 {"DELETE", "/api/delete", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed"},
		"copy":                                   {"POST", "/api/copy", "key-ide", `{}`, 403, "path_not_allowed"},
		"show":                                   {"POST", "/api/show", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed"},
		"blobs":                                  {"HEAD", "/api/blobs/sha256:0", "key-ide", "", 403, ""},
		"a closed path spelt with two slashes":   {"POST", "//api/pull", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed"},
		"a closed path behind an open one":       {"POST", "/api/chat/../pull", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed"},
		"a closed path with an escaped slash":    {"POST", "/api%2Fpull", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed"},
		"an open path in capitals":               {"POST", "/API/CHAT", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed"},
		"health needs no key":                    {"GET", "/healthz", "", "", 200, ""},
		"metrics are not on the users' port":     {"GET", "/metrics", "key-ide", "", 403, "path_not_allowed"},
		"a path that does not exist needs a key too": {"GET", "/nothing", "", "", 401, "invalid_api_key"},
	} {
		t.Run(name, func(t *testing.T) {
			response, err := client.Do(request(t, test.method, api+test.path, test.key, test.body))
			require.NoError(t, err)
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			assert.Equal(t, test.status, response.StatusCode, string(body))
			if test.code == "" {
				return
			}
			var failure struct {
				Error struct{ Message, Type, Code string }
			}
			require.NoError(t, json.Unmarshal(body, &failure), string(body))
			assert.Equal(t, test.code, failure.Error.Code)
			assert.NotEmpty(t, failure.Error.Message)
			assert.NotEmpty(t, failure.Error.Type)
		})
	}

	t.Run("a chunked body that is too large is refused, whatever model it ends with", func(t *testing.T) {
		r, err := http.NewRequest("POST", api+"/api/chat", io.MultiReader(strings.NewReader(`{"model":"tiny","x":"`), strings.NewReader(strings.Repeat(large, 11)), strings.NewReader(`"}`)))
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer key-ide")
		r.Close = true
		response, err := client.Do(r)
		require.NoError(t, err)
		response.Body.Close()
		assert.Equal(t, 413, response.StatusCode)
	})
	t.Run("the x-api-key header does as well, and no key reaches the server", func(t *testing.T) {
		for len(requests) > 0 {
			<-requests
		}
		r := request(t, "POST", api+"/api/chat", "", `{"model":"tiny"}`)
		r.Header.Set("x-api-key", "key-ide")
		r.Header.Set("Origin", "https://example.com")
		response, err := client.Do(r)
		require.NoError(t, err)
		response.Body.Close()
		require.Equal(t, 200, response.StatusCode)
		got := <-requests
		assert.JSONEq(t, `{"model":"tiny"}`, string(got.body))
		assert.Empty(t, got.header.Values("X-Api-Key"))
		assert.Empty(t, got.header.Values("Authorization"))
		assert.Empty(t, got.header.Values("Origin"))
	})
	t.Run("a team over its limit waits, the others do not", func(t *testing.T) {
		status := func(key string) int {
			response, err := client.Do(request(t, "POST", api+"/api/chat", key, `{"model":"tiny"}`))
			require.NoError(t, err)
			response.Body.Close()
			if response.StatusCode == 429 {
				assert.NotEmpty(t, response.Header.Get("Retry-After"))
			}
			return response.StatusCode
		}
		assert.Equal(t, []int{200, 200, 200, 429, 429}, []int{status("key-slow"), status("key-slow"), status("key-slow"), status("key-slow"), status("key-slow")})
		assert.Equal(t, 200, status("key-ide"))
	})
	t.Run("every series that a rule reads is exported", func(t *testing.T) {
		response, err := http.Get(metrics + "/metrics")
		require.NoError(t, err)
		defer response.Body.Close()
		exported, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		names := regexp.MustCompile(`haproxy_\w+`).FindAllString(file("rules.yml"), -1)
		require.NotEmpty(t, names)
		for _, name := range names {
			assert.Regexp(t, `(?m)^`+name+`\{[^}]*proxy="model:chat:tiny"`, string(exported))
		}
	})
}

func TestTheQueueHoldsWhatHasNoSlot(t *testing.T) {
	release := make(chan struct{})
	var busy = make(chan struct{}, 10)
	stub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/chat" {
			busy <- struct{}{}
			<-release
		}
		fmt.Fprint(w, "{}")
	}))
	defer stub.Close()
	apiPort, metricsPort := freePort(t), freePort(t)
	config := writeFront(t, front(), map[string]string{"ide": "key-ide"}, apiPort, metricsPort, strings.TrimPrefix(stub.URL, "http://"))
	haproxy := exec.Command(tool(t, "HAPROXY"), "-db", "-f", config)
	require.NoError(t, haproxy.Start())
	defer func() {
		_ = haproxy.Process.Kill()
		_ = haproxy.Wait() // killed on purpose
	}()
	api := fmt.Sprintf("http://127.0.0.1:%d", apiPort)
	require.Eventually(t, func() bool {
		response, err := client.Do(request(t, "GET", api+"/api/version", "key-ide", ""))
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == 200
	}, 10*time.Second, 50*time.Millisecond)

	answers := make(chan int, 5)
	for range 5 { // two slots
		go func() {
			response, err := client.Do(request(t, "POST", api+"/api/chat", "key-ide", `{"model":"tiny"}`))
			if err != nil {
				answers <- 0
				return
			}
			response.Body.Close()
			answers <- response.StatusCode
		}()
	}
	metric := func(name string) string {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", metricsPort))
		require.NoError(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		found := regexp.MustCompile(`(?m)^` + name + `\{proxy="model:chat:tiny"\} (\d+)`).FindStringSubmatch(string(text))
		require.NotNil(t, found, name)
		return found[1]
	}
	require.Eventually(t, func() bool { return metric("haproxy_backend_current_queue") == "3" }, 5*time.Second, 20*time.Millisecond, "three requests should wait")
	assert.Equal(t, "5", metric("haproxy_backend_current_sessions"))
	assert.Len(t, busy, 2, "the server must not see more than its slots")
	close(release)
	for range 5 {
		assert.Equal(t, 200, <-answers)
	}
}
