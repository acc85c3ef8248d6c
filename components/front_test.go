package components

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/internal/testcert"
)

// The front for real: our haproxy.cfg in a real HAProxy on loopback, before a stub server.

func front() *AuthFrontArgs {
	return &AuthFrontArgs{
		ClusterDomain: "cluster.local", Replicas: 1, QueueLength: 3, BodyMiB: 32, MaxSeconds: 3600,
		Teams: []Team{
			{Name: "ide"},
			{Name: "batch", Models: []string{"tiny"}, Priority: PriorityBackground},
			{Name: "slow", RequestsPerMinute: 3},
			{Name: "narrow", ConcurrentRequests: 1},
		},
		Pools: []Pool{
			{Name: "chat", Replicas: Replicas{Min: 1, Max: 4}, Models: []Model{
				{Name: "tiny", Slots: 2, Context: 8192, OutputTokens: OutputTokens{Most: 8192}},
				{Name: "org/big:70b", Slots: 2},
				{Name: "tiny-reviewer", Slots: 2, Queue: "tiny", OutputTokens: OutputTokens{Most: 8192, Silent: 256}},
			}},
			{Name: "embed", Replicas: Replicas{Min: 1, Max: 1}, Models: []Model{{Name: "embed:latest", Slots: 1}}},
		},
	}
}

// setSlots gives every model of a pool as many slots.
func setSlots(pool *Pool, slots int) {
	for i := range pool.Models {
		pool.Models[i].Slots = slots
	}
}

// tool is a program that `make test` provides; a test that cannot have it fails, since a check that is skipped proves
// nothing.
func tool(t *testing.T, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	require.NotEmpty(t, path, "%s is not set: run the tests with `make test`, which provides it", variable)
	return path
}

// ports that a front listens on, on loopback.
type ports struct{ api, metrics, queue, signedIn, oauth2Proxy int }

func freePorts(t *testing.T) ports {
	t.Helper()
	return ports{freePort(t), freePort(t), freePort(t), freePort(t), freePort(t)}
}

// writeFront writes the configuration as the front's pod sees it, but on loopback and with the given servers in place
// of DNS.
func writeFront(
	t *testing.T, a *AuthFrontArgs, keys map[string]string, at ports, server string, fronts ...ports,
) string {
	t.Helper()
	hosts := make([]string, len(a.Pools))
	for i, pool := range a.Pools {
		hosts[i] = "ollama-" + pool.Name + "-pods.ollama.svc"
	}
	config, err := a.haproxyConfig(hosts, "front-pods.ollama.svc")
	require.NoError(t, err)
	dir := t.TempDir()
	local := func(port int) string { return fmt.Sprintf(`"127.0.0.1:%d"`, port) }
	any := func(port int) string { return fmt.Sprintf(`"${ANY}:%d"`, port) }
	here := strings.NewReplacer(
		"/etc/haproxy-keys/", dir+"/", "/etc/haproxy-own-keys/keys.map", dir+"/own-keys.map", "/etc/haproxy-tls", dir,
		"/etc/haproxy/", dir+"/",
		"/run/haproxy/", dir+"/",
		any(portAPI), local(at.api), any(portMetrics), local(at.metrics), any(portQueue), local(at.queue),
		fmt.Sprintf("self 127.0.0.1:%d", portQueue), fmt.Sprintf("self 127.0.0.1:%d check port %d", at.queue, at.metrics),
		fmt.Sprintf("127.0.0.1:%d", portSignedIn), fmt.Sprintf("127.0.0.1:%d", at.signedIn),
		fmt.Sprintf("dst_port %d", portSignedIn), fmt.Sprintf("dst_port %d", at.signedIn),
		fmt.Sprintf("127.0.0.1:%d", portOAuth2Proxy), fmt.Sprintf("127.0.0.1:%d", at.oauth2Proxy),
	)
	config = here.Replace(config)
	if server != "" {
		config = regexp.MustCompile(`server-template pod \d+ \S+`).ReplaceAllString(config, "server pod1 "+server)
	}
	if len(fronts) > 0 {
		servers := ""
		for i, front := range fronts {
			servers += fmt.Sprintf("    server front%d 127.0.0.1:%d check port %d hash-key addr-port\n",
				i, front.queue, front.metrics)
		}
		config = regexp.MustCompile(`(?m)^ *server-template front .*\n`).ReplaceAllString(config, servers)
	}
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write("haproxy.cfg", config)
	write("keys.map", hashedKeys(keys))
	write("own-keys.map", hashedKeys(map[string]string{"batch": "key-managed-elsewhere"}))
	for name, text := range a.staticFiles() {
		write(name, here.Replace(text))
	}
	if a.TLSSecret != "" {
		certificate, key := testcert.New(t)
		write("tls.crt", certificate)
		write("tls.key", key)
	}
	return filepath.Join(dir, "haproxy.cfg")
}

func TestHAProxyAcceptsItsConfigurationWithoutAWarning(t *testing.T) {
	for name, change := range map[string]func(*AuthFrontArgs){
		"one front":      func(*AuthFrontArgs) {},
		"several fronts": func(a *AuthFrontArgs) { a.Replicas = 3 },
		"TLS":            func(a *AuthFrontArgs) { a.TLSSecret = "certificate" },
		"several with TLS, keys from elsewhere and OIDC": func(a *AuthFrontArgs) {
			a.Replicas, a.TLSSecret, a.KeysSecret, a.OIDC = 2, "certificate", "keys", &OIDC{
				ClientSecret: "c", Groups: map[string]string{"/ml": "ide", "role:a b": "batch"},
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			args := front()
			change(args)
			config := writeFront(t, args, map[string]string{"ide": "k"}, freePorts(t), "")
			out, err := exec.Command(tool(t, "HAPROXY"), "-c", "-f", config).CombinedOutput()
			require.NoError(t, err, string(out))
			assert.NotContains(t, string(out), "WARNING")
		})
	}
}

// nextPort counts below the range from which the kernel assigns ports, so that no server of another test takes one in
// between.
var nextPort atomic.Int32

func freePort(t *testing.T) int {
	t.Helper()
	for range 1000 {
		port := 20000 + (os.Getpid()*50+int(nextPort.Add(1)))%12000
		if listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			listener.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

type seen struct {
	header http.Header
	body   []byte
}

// running is a front in a real HAProxy, before a stub server.
type running struct {
	api, metrics string
	client       *http.Client
	log          *output
	stop         func()
}

// output of a program that is still running.
type output struct {
	sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.Lock()
	defer o.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.Lock()
	defer o.Unlock()
	return o.text.String()
}

// keys of the teams; ide's is being rotated.
var keys = map[string]string{
	"ide/1": "key-ide", "ide/2": "key-ide-2", "batch/1": "key-batch", "slow/1": "key-slow", "narrow/1": "key-narrow",
}

// start runs a front before a server, until the test ends or it is stopped.
func start(t *testing.T, server http.HandlerFunc) *running {
	t.Helper()
	return startAs(t, front(), freePorts(t), stub(t, server))
}

// stub is the address of a server.
func stub(t *testing.T, server http.HandlerFunc) string {
	t.Helper()
	running := httptest.NewServer(server)
	t.Cleanup(running.Close)
	return strings.TrimPrefix(running.URL, "http://")
}

// startAs runs the front that the args describe.
func startAs(t *testing.T, args *AuthFrontArgs, at ports, server string, fronts ...ports) *running {
	t.Helper()
	return startFile(t, args, at, writeFront(t, args, keys, at, server, fronts...))
}

// startFile runs the front that the file config describes.
func startFile(t *testing.T, args *AuthFrontArgs, at ports, config string) *running {
	t.Helper()
	haproxy := exec.Command(tool(t, "HAPROXY"), "-db", "-f", config)
	r := &running{
		api: fmt.Sprintf("http://127.0.0.1:%d", at.api), metrics: fmt.Sprintf("http://127.0.0.1:%d", at.metrics),
		client: client, log: &output{},
	}
	if args.TLSSecret != "" {
		certificate, err := os.ReadFile(filepath.Join(filepath.Dir(config), "tls.crt"))
		require.NoError(t, err)
		trusted := x509.NewCertPool()
		require.True(t, trusted.AppendCertsFromPEM(certificate))
		r.api = strings.Replace(r.api, "http:", "https:", 1)
		r.client = &http.Client{
			Timeout: client.Timeout, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}},
		}
	}
	haproxy.Stdout, haproxy.Stderr = r.log, r.log
	require.NoError(t, haproxy.Start())
	r.stop = sync.OnceFunc(func() {
		_ = haproxy.Process.Kill()
		_ = haproxy.Wait() // killed on purpose
	})
	t.Cleanup(func() {
		r.stop()
		for _, key := range keys {
			assert.NotContains(t, r.log.String(), key, "a key in the log")
		}
		if t.Failed() {
			t.Log(r.log.String())
		}
	})
	require.Eventually(t, func() bool {
		// Ready when the first health check has found the server.
		response, err := r.client.Do(request(t, "GET", r.api+"/api/version", "key-ide", ""))
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == 200
	}, 10*time.Second, 50*time.Millisecond, "the front did not answer")
	return r
}

// startFront runs a front whose server answers at once; what it was asked arrives on the channel.
func startFront(t *testing.T) (r *running, requests chan seen) {
	t.Helper()
	requests = make(chan seen, 200)
	return start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/version" {
			body, err := io.ReadAll(r.Body)
			assert.NoError(t, err)
			requests <- seen{r.Header.Clone(), body}
		}
		fmt.Fprint(w, `{"from":"stub"}`)
	}), requests
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
	running, requests := startFront(t)
	api, metrics := running.api, running.metrics
	large := strings.Repeat("x", 3<<20)
	for name, test := range map[string]struct {
		method, path, key, body string
		status                  int
		code                    string // of the error
	}{
		"no key": {
			"POST", "/v1/chat/completions", "", `{"model":"tiny"}`, 401, "invalid_api_key",
		},
		"a wrong key": {
			"POST", "/v1/chat/completions", "wrong", `{"model":"tiny"}`, 401, "invalid_api_key",
		},
		"a key's hash is no key": {
			"GET", "/v1/models", strings.Fields(hashedKeys(map[string]string{"ide": "key-ide"}))[0], "", 401, "invalid_api_key",
		},
		"a good key": {
			"POST", "/v1/chat/completions", "key-ide", `{"model":"tiny"}`, 200, "",
		},
		"the model by its full name": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny:latest"}`, 200, "",
		},
		"a latest model by its short name": {"POST", "/api/embed", "key-ide", `{"model":"embed"}`, 200, ""},
		"a model with a slash": {
			"POST", "/api/generate", "key-ide", `{"model":"org/big:70b"}`, 200, "",
		},
		"the model behind megabytes of messages": {
			"POST", "/v1/chat/completions", "key-ide", `{"messages":[{"content":"` + large + `"}],"model":"tiny"}`, 200, "",
		},
		"a body that is too large": {
			"POST", "/v1/chat/completions", "key-ide", `{"messages":"` + strings.Repeat(large, 11) + `","model":"tiny"}`, 413,
			"request_too_large",
		},
		"an unknown model": {
			"POST", "/v1/chat/completions", "key-ide", `{"model":"gpt-4\"o"}`, 404, "model_not_found",
		},
		"no model": {
			"POST", "/v1/chat/completions", "key-ide", `{"messages":[]}`, 400, "missing_model",
		},
		"no JSON": {
			"POST", "/v1/chat/completions", "key-ide", `model=tiny`, 400, "invalid_body",
		},
		"a model that the team may use": {"POST", "/api/chat", "key-batch", `{"model":"tiny"}`, 200, ""},
		"a model that the team may not use": {
			"POST", "/api/chat", "key-batch", `{"model":"org/big:70b"}`, 403, "model_not_allowed",
		},
		"the list of models": {"GET", "/v1/models", "key-batch", "", 200, ""},
		"asking by GET": {
			"GET", "/v1/chat/completions", "key-ide", "", 403, "path_not_allowed",
		},
		"looking by POST": {"POST", "/api/tags", "key-ide", "{}", 403, "path_not_allowed"},
		"pull": {
			"POST", "/api/pull", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"push": {
			"POST", "/api/push", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"create": {
			"POST", "/api/create", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"delete": {
			"DELETE", "/api/delete", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"copy": {"POST", "/api/copy", "key-ide", `{}`, 403, "path_not_allowed"},
		"show": {
			"POST", "/api/show", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"blobs": {"HEAD", "/api/blobs/sha256:0", "key-ide", "", 403, ""},
		"a closed path spelt with two slashes": {
			"POST", "//api/pull", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"a closed path behind an open one": {
			"POST", "/api/chat/../pull", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"a closed path with an escaped slash": {
			"POST", "/api%2Fpull", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"an open path in capitals": {
			"POST", "/API/CHAT", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"the other key of a team that rotates": {"POST", "/api/chat", "key-ide-2", `{"model":"tiny"}`, 200, ""},
		"OpenAI's completions": {
			"POST", "/v1/completions", "key-ide", `{"model":"tiny"}`, 200, "",
		},
		"OpenAI's embeddings": {
			"POST", "/v1/embeddings", "key-ide", `{"model":"embed:latest"}`, 200, "",
		},
		"OpenAI's responses":   {"POST", "/v1/responses", "key-ide", `{"model":"tiny"}`, 200, ""},
		"Anthropic's messages": {"POST", "/v1/messages", "key-ide", `{"model":"tiny"}`, 200, ""},
		"Ollama's former embeddings": {
			"POST", "/api/embeddings", "key-ide", `{"model":"embed"}`, 200, "",
		},
		"Ollama's list of models": {"GET", "/api/tags", "key-ide", "", 200, ""},
		"what is loaded":          {"GET", "/api/ps", "key-ide", "", 200, ""},
		"the version":             {"GET", "/api/version", "key-ide", "", 200, ""},
		"a query does not matter": {"GET", "/v1/models?a=/api/pull", "key-ide", "", 200, ""},
		"the model first": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","messages":[{"role":"user","content":"hi"}]}`, 200, "",
		},
		"the model last": {
			"POST", "/api/chat", "key-ide", `{"messages":[{"role":"user","content":"hi"}],"stream":false,"model":"tiny"}`, 200,
			"",
		},
		"the model in a message is not the model": {
			"POST", "/api/chat", "key-ide", `{"messages":[{"model":"org/big:70b"}]}`, 400, "missing_model",
		},
		"a model in a string is not the model": {
			"POST", "/api/chat", "key-ide", `{"messages":"\"model\":\"tiny\""}`, 400, "missing_model",
		},
		"an image of 20 MiB": {
			"POST", "/api/generate", "key-ide", `{"images":["` + strings.Repeat("A", 20<<20) + `"],"model":"tiny"}`, 200, "",
		},
		"a model that is a number": {
			"POST", "/api/chat", "key-ide", `{"model":7}`, 400, "invalid_body",
		},
		"a model that is a list": {
			"POST", "/api/chat", "key-ide", `{"model":["tiny"]}`, 400, "invalid_body",
		},
		"an empty model": {
			"POST", "/api/chat", "key-ide", `{"model":""}`, 404, "model_not_found",
		},
		"the model in capitals": {
			"POST", "/api/chat", "key-ide", `{"model":"TINY"}`, 404, "model_not_found",
		},
		"a backend's name is no model": {
			"POST", "/api/chat", "key-ide", `{"model":"model:chat:tiny"}`, 404, "model_not_found",
		},
		"an empty body": {"POST", "/api/chat", "key-ide", "", 400, "invalid_body"},
		"a JSON list": {
			"POST", "/api/chat", "key-ide", `[{"model":"tiny"}]`, 400, "invalid_body",
		},
		"an open path with a slash behind it": {
			"POST", "/api/chat/", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"an open path spelt with a dot": {
			"POST", "/api/./chat", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"an open path with an escape": {
			"POST", "/api/%63hat", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"a closed path behind a semicolon": {
			"POST", "/api/chat;/api/pull", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"a path with a null": {
			"POST", "/api/chat%00", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"asking by PUT": {
			"PUT", "/api/chat", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"asking by PATCH": {
			"PATCH", "/api/chat", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"options":          {"OPTIONS", "/api/chat", "key-ide", "", 403, "path_not_allowed"},
		"one model's card": {"GET", "/v1/models/tiny", "key-ide", "", 403, "path_not_allowed"},
		"signing in":       {"POST", "/api/me", "key-ide", "{}", 403, "path_not_allowed"},
		"the root":         {"GET", "/", "key-ide", "", 403, "path_not_allowed"},
		"a request that would unload the model": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","keep_alive":0}`, 400, "option_not_allowed",
		},
		"a request for another context": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","options":{"num_ctx":4096}}`, 400, "option_not_allowed",
		},
		"a request for the context that is there": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","options":{"num_ctx":8192}}`, 200, "",
		},
		"a request for a context where none is known": {
			"POST", "/api/chat", "key-ide", `{"model":"org/big:70b","options":{"num_ctx":8192}}`, 400, "option_not_allowed",
		},
		"a request for fewer layers on the GPU": {
			"POST", "/api/generate", "key-ide", `{"model":"tiny","options":{"num_gpu":0}}`, 400, "option_not_allowed",
		},
		"a request for more threads": {
			"POST", "/api/generate", "key-ide", `{"model":"tiny","options":{"temperature":1,"num_thread":64}}`, 400,
			"option_not_allowed",
		},
		"a temperature is anybody's choice": {
			"POST", "/api/generate", "key-ide", `{"model":"tiny","options":{"temperature":1}}`, 200, "",
		},
		"words about options are words": {
			"POST", "/api/chat", "key-ide",
			`{"model":"tiny","messages":[{"role":"user","content":"keep_alive: 0, num_ctx, num_gpu"}]}`, 200, "",
		},
		"OpenAI's API ignores them": {
			"POST", "/v1/chat/completions", "key-ide", `{"model":"tiny","keep_alive":0,"options":{"num_ctx":1}}`, 200, "",
		},
		"two models": {
			"POST", "/api/chat", "key-batch", `{"model":"tiny","model":"org/big:70b"}`, 400, "ambiguous_body",
		},
		"the same model twice": {
			"POST", "/api/chat", "key-batch", `{"model":"tiny","model":"tiny"}`, 400, "ambiguous_body",
		},
		"a model in capitals behind it": {
			"POST", "/api/chat", "key-batch", `{"model":"tiny","MODEL":"org/big:70b"}`, 400, "ambiguous_body",
		},
		"a model in capitals alone": {
			"POST", "/api/chat", "key-batch", `{"Model":"tiny"}`, 400, "ambiguous_body",
		},
		"a model in escapes behind it": {
			"POST", "/api/chat", "key-batch", `{"model":"tiny","mod\u0065l":"org/big:70b"}`, 400, "ambiguous_body",
		},
		"a model in escapes alone": {
			"POST", "/api/chat", "key-batch", `{"\u006dodel":"tiny"}`, 200, "",
		},
		"a forbidden model in escapes": {
			"POST", "/api/chat", "key-batch", `{"\u006d\u006f\u0064\u0065\u006c":"org/big:70b"}`, 403, "model_not_allowed",
		},
		"a model whose name is in escapes": {
			"POST", "/api/chat", "key-batch", `{"model":"t\u0069ny"}`, 200, "",
		},
		"a name with an escaped slash": {
			"POST", "/api/chat", "key-ide", `{"model":"org\/big:70b"}`, 200, "",
		},
		"options twice": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","options":{},"options":{"num_gpu":0}}`, 400, "ambiguous_body",
		},
		"Options in another case": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","Options":{"num_gpu":0}}`, 400, "ambiguous_body",
		},
		"options with a long s": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","optionſ":{"num_gpu":0}}`, 400, "ambiguous_body",
		},
		"keep_alive with a Kelvin sign": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","Keep_alive":0}`, 400, "ambiguous_body",
		},
		"Keep_Alive in another case": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","Keep_Alive":0}`, 400, "ambiguous_body",
		},
		"num_ctx twice": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","options":{"num_ctx":8192,"num_ctx":1}}`, 400, "ambiguous_body",
		},
		"a second object": {
			"POST", "/api/chat", "key-batch", `{"model":"tiny"}{"model":"org/big:70b"}`, 400, "ambiguous_body",
		},
		"a comma and more behind the object": {
			"POST", "/api/chat", "key-batch", `{"model":"tiny"}{,"model":"org/big:70b"}`, 400, "ambiguous_body",
		},
		"a word behind the object": {
			"POST", "/api/chat", "key-batch", `{"model":"tiny"} x`, 400, "ambiguous_body",
		},
		"max_tokens twice": {
			"POST", "/v1/chat/completions", "key-ide", `{"model":"tiny","max_tokens":1,"max_tokens":9}`, 400, "ambiguous_body",
		},
		"stream in another case": {
			"POST", "/v1/chat/completions", "key-ide", `{"model":"tiny","Stream":true}`, 400, "ambiguous_body",
		},
		"an object that does not end": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny"`, 400, "invalid_body",
		},
		"a string that does not end": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny`, 400, "invalid_body",
		},
		"an object without quotes": {
			"POST", "/api/chat", "key-ide", `{model:"tiny"}`, 400, "invalid_body",
		},
		"a trailing comma": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny",}`, 400, "invalid_body",
		},
		"a string for a body":  {"POST", "/api/chat", "key-ide", `"tiny"`, 400, "invalid_body"},
		"null for a body":      {"POST", "/api/chat", "key-ide", `null`, 400, "invalid_body"},
		"an object of nothing": {"POST", "/api/chat", "key-ide", `{}`, 400, "missing_model"},
		"a model that is null": {
			"POST", "/api/chat", "key-ide", `{"model":null}`, 400, "invalid_body",
		},
		"a model that is an object": {
			"POST", "/api/chat", "key-ide", `{"model":{"name":"tiny"}}`, 400, "invalid_body",
		},
		"a model that is true": {
			"POST", "/api/chat", "key-ide", `{"model":true}`, 400, "invalid_body",
		},
		"a model without a name": {
			"POST", "/api/chat", "key-ide", `{"model":""}`, 404, "model_not_found",
		},
		"a model with a null in its name": {
			"POST", "/api/chat", "key-batch", `{"model":"tiny\u0000x"}`, 400, "invalid_body",
		},
		"a model with a line end in its name": {
			"POST", "/api/chat", "key-batch", `{"model":"tiny\n"}`, 400, "invalid_body",
		},
		"a model with a space in its name": {
			"POST", "/api/chat", "key-batch", `{"model":"tiny "}`, 404, "model_not_found",
		},
		"options that are a list": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","options":[]}`, 400, "invalid_body",
		},
		"options that are null": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","options":null}`, 200, "",
		},
		"an escape that is none": {
			"POST", "/api/chat", "key-ide", `{"model":"\tiny\q"}`, 400, "invalid_body",
		},
		"half an escape": {
			"POST", "/api/chat", "key-ide", `{"model":"\u00"}`, 400, "invalid_body",
		},
		"a number with a letter": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","seed":12x}`, 400, "invalid_body",
		},
		"a body of gzip": {"POST", "/api/chat", "key-ide", "\x1f\x8b", 400, "invalid_body"},
		"a byte order mark": {
			"POST", "/api/chat", "key-ide", "\ufeff" + `{"model":"tiny"}`, 400, "invalid_body",
		},
		"white space around everything": {
			"POST", "/api/chat", "key-ide", " \r\n\t{ \"model\" :\n\"tiny\" } \n", 200, "",
		},
		"much white space at the end": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny"}` + strings.Repeat(" ", 5000), 400, "invalid_body",
		},
		"a hundred brackets": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "}",
			200, "",
		},
		"too many brackets": {
			"POST", "/api/chat", "key-ide",
			`{"model":"tiny","x":` + strings.Repeat("[", 10001) + strings.Repeat("]", 10001) + "}", 400, "invalid_body",
		},
		"too many members": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny"` + strings.Repeat(`,"x":1`, 5000) + "}", 400, "invalid_body",
		},
		"tools with properties of our names": {
			"POST", "/v1/chat/completions", "key-ide",
			`{"model":"tiny","tools":[{"type":"function","function":{"name":"f",` +
				`"parameters":{"properties":{"model":{"type":"string"},"options":{"type":"object"},"keep_alive":{}}}}}]}`,
			200, "",
		},
		"quotes and backslashes in a message": {
			"POST", "/api/chat", "key-ide", `{"messages":[{"content":"\\\"model\\\":\"x\\"}],"model":"tiny"}`, 200, "",
		},
		"a request that sets num_batch": {
			"POST", "/api/generate", "key-ide", `{"model":"tiny","options":{"num_batch":1}}`, 400, "option_not_allowed",
		},
		"a request that sets main_gpu": {
			"POST", "/api/generate", "key-ide", `{"model":"tiny","options":{"main_gpu":1}}`, 400, "option_not_allowed",
		},
		"a request that sets use_mmap": {
			"POST", "/api/generate", "key-ide", `{"model":"tiny","options":{"use_mmap":1}}`, 400, "option_not_allowed",
		},
		"a request that sets draft_num_predict": {
			"POST", "/api/generate", "key-ide", `{"model":"tiny","options":{"draft_num_predict":1}}`, 400, "option_not_allowed",
		},
		"a request that sets num_thread": {
			"POST", "/api/generate", "key-ide", `{"model":"tiny","options":{"num_thread":1}}`, 400, "option_not_allowed",
		},
		"an option that is null": {
			"POST", "/api/generate", "key-ide", `{"model":"tiny","options":{"num_gpu":null}}`, 200, "",
		},
		"shift": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","shift":false}`, 400, "option_not_allowed",
		},
		"keep_alive that is null": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","keep_alive":null}`, 200, "",
		},
		"keep_alive with embeddings": {
			"POST", "/api/embed", "key-ide", `{"model":"embed","keep_alive":"1h"}`, 400, "option_not_allowed",
		},
		"a context that is a string": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","options":{"num_ctx":"8192"}}`, 400, "option_not_allowed",
		},
		"an option in an escape": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","options":{"num\u005fgpu":0}}`, 400, "option_not_allowed",
		},
		"an answer without end": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","options":{"num_predict":0}}`, 400, "option_not_allowed",
		},
		"a negative limit counts as none": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","options":{"num_predict":-1}}`, 200, "",
		},
		"as many tokens as the context": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","options":{"num_predict":8192}}`, 200, "",
		},
		"more tokens than the context": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","options":{"num_predict":8193}}`, 400, "max_tokens_too_large",
		},
		"a limit that is no number": {
			"POST", "/api/chat", "key-ide", `{"model":"tiny","options":{"num_predict":"8"}}`, 400, "option_not_allowed",
		},
		"a limit with a fraction": {
			"POST", "/v1/chat/completions", "key-ide", `{"model":"tiny","max_tokens":1.5}`, 400, "option_not_allowed",
		},
		"no tokens": {
			"POST", "/v1/chat/completions", "key-ide", `{"model":"tiny","max_tokens":0}`, 400, "option_not_allowed",
		},
		"a null limit": {
			"POST", "/v1/chat/completions", "key-ide", `{"model":"tiny","max_tokens":null}`, 200, "",
		},
		"too many tokens": {
			"POST", "/v1/chat/completions", "key-ide", `{"model":"tiny","max_tokens":100000}`, 400, "max_tokens_too_large",
		},
		"too many tokens by the newer name": {
			"POST", "/v1/chat/completions", "key-ide", `{"model":"tiny","max_completion_tokens":100000}`, 400,
			"max_tokens_too_large",
		},
		"the smaller of two limits": {
			"POST", "/v1/chat/completions", "key-ide", `{"model":"tiny","max_completion_tokens":10,"max_tokens":100000}`, 200,
			"",
		},
		"too many tokens of completions": {
			"POST", "/v1/completions", "key-ide", `{"model":"tiny","max_tokens":8193}`, 400, "max_tokens_too_large",
		},
		"too many tokens of a response": {
			"POST", "/v1/responses", "key-ide", `{"model":"tiny","max_output_tokens":8193}`, 400, "max_tokens_too_large",
		},
		"too many tokens of a message": {
			"POST", "/v1/messages", "key-ide", `{"model":"tiny","max_tokens":8193}`, 400, "max_tokens_too_large",
		},
		"another API's limit is ignored": {
			"POST", "/v1/messages", "key-ide", `{"model":"tiny","max_output_tokens":8193}`, 200, "",
		},
		"a model whose context is not known has no limit": {
			"POST", "/v1/chat/completions", "key-ide", `{"model":"org/big:70b","max_tokens":100000}`, 200, "",
		},
		"an empty key": {"GET", "/v1/models", "", ``, 401, "invalid_api_key"},
		"audio": {
			"POST", "/v1/audio/transcriptions", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"a web search": {
			"POST", "/api/experimental/web_search", "key-ide", `{}`, 403, "path_not_allowed",
		},
		"compaction": {
			"POST", "/v1/responses/compact", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"an open path with a slash behind": {
			"POST", "/api/chat/", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"an open path with two slashes": {
			"POST", "/api//chat", "key-ide", `{"model":"tiny"}`, 403, "path_not_allowed",
		},
		"tracing":                                    {"TRACE", "/api/chat", "key-ide", ``, 403, "path_not_allowed"},
		"readiness is not on the users port":         {"GET", "/readyz", "key-ide", ``, 403, "path_not_allowed"},
		"metrics of teams are not on the users port": {"GET", "/metrics/teams", "key-ide", ``, 403, "path_not_allowed"},
		"health needs no key":                        {"GET", "/healthz", "", "", 200, ""},
		"metrics are not on the users' port":         {"GET", "/metrics", "key-ide", "", 403, "path_not_allowed"},
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
		r, err := http.NewRequest("POST", api+"/api/chat", io.MultiReader(
			strings.NewReader(`{"model":"tiny","x":"`), strings.NewReader(strings.Repeat(large, 11)), strings.NewReader(`"}`),
		))
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer key-ide")
		r.Close = true
		response, err := client.Do(r)
		require.NoError(t, err)
		response.Body.Close()
		assert.Equal(t, 413, response.StatusCode)
	})
	for name, test := range map[string]struct {
		raw    string
		status int // 0: the connection is closed without an answer
	}{
		"two lengths": {
			"POST /api/chat HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer key-ide\r\nContent-Length: 16\r\nContent-Length: " +
				"17\r\n\r\n",
			0,
		},
		"a length and chunks": {
			"POST /api/chat HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer key-ide\r\nContent-Length: 4\r\nTransfer-Encoding: " +
				"chunked\r\n\r\n10\r\n{\"model\":\"tiny\"}\r\n0\r\n\r\n",
			200,
		},
		"chunks spelt otherwise": {
			"POST /api/chat HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer key-ide\r\nTransfer-Encoding: " +
				"xchunked\r\n\r\n0\r\n\r\n",
			400,
		},
		"a negative length": {
			"POST /api/chat HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer key-ide\r\nContent-Length: -1\r\n\r\n", 400,
		},
		"a space before a colon": {
			"POST /api/chat HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer key-ide\r\nContent-Length: 0\r\n\r\n", 400,
		},
		"no host": {"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer key-ide\r\n\r\n", 200},
		"the absolute form": {
			"GET http://a/v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer key-ide\r\n\r\n", 200,
		},
		"the absolute form of a closed path": {
			"POST http://a/api/pull HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer key-ide\r\nContent-Length: 0\r\n\r\n", 403,
		},
		"headers of 20 KB": {
			"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " +
				"key-ide\r\nX: " + strings.Repeat("x", 20000) + "\r\n\r\n",
			431,
		},
		"headers of 14 KB": {
			"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " +
				"key-ide\r\nX: " + strings.Repeat("x", 14000) + "\r\n\r\n",
			200,
		},
		"no HTTP": {"hello\r\n\r\n", 400},
	} {
		t.Run("on the wire: "+name, func(t *testing.T) {
			connection, err := net.Dial("tcp", strings.TrimPrefix(api, "http://"))
			require.NoError(t, err)
			defer connection.Close()
			require.NoError(t, connection.SetDeadline(time.Now().Add(20*time.Second)))
			_, err = io.WriteString(connection, test.raw)
			require.NoError(t, err)
			response, err := http.ReadResponse(bufio.NewReader(connection), nil)
			if test.status == 0 {
				assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
				return
			}
			require.NoError(t, err)
			response.Body.Close()
			assert.Equal(t, test.status, response.StatusCode)
		})
	}
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
		assert.Equal(t, `{"model":"tiny","model":"tiny","options":{"num_predict":8192}}`, string(got.body))
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
		assert.Equal(t, []int{200, 200, 200, 429, 429}, []int{
			status("key-slow"), status("key-slow"), status("key-slow"), status("key-slow"), status("key-slow"),
		})
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

// busyServer answers a chat only when it is told to; the prompts that reach it arrive on a channel.
func busyServer() (handler http.HandlerFunc, busy chan string, release chan struct{}) {
	release, busy = make(chan struct{}), make(chan string, 20)
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/chat" {
			var body struct{ Prompt string }
			_ = json.NewDecoder(r.Body).Decode(&body) // one without is as good
			busy <- body.Prompt
			select {
			case <-release:
			case <-r.Context().Done(): // the front has ended, so the test has
			}
		}
		fmt.Fprint(w, "{}")
	}, busy, release
}

// ask sends a chat in the background; its status, and the code of its error, arrive on the channel.
func ask(t *testing.T, r *running, key, prompt string, answers chan<- string) {
	go func() {
		response, err := r.client.Do(request(
			t, "POST", r.api+"/api/chat", key, fmt.Sprintf(`{"model":"tiny","prompt":%q}`, prompt),
		))
		if err != nil {
			answers <- err.Error()
			return
		}
		defer response.Body.Close()
		var failure struct{ Error struct{ Code string } }
		_ = json.NewDecoder(response.Body).Decode(&failure) // a good answer has none
		answers <- strings.TrimSpace(fmt.Sprint(response.StatusCode, " ", failure.Error.Code))
	}()
}

// metric of the model tiny's backend.
func (r *running) metric(t *testing.T, name string) string {
	t.Helper()
	response, err := http.Get(r.metrics + "/metrics")
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	found := regexp.MustCompile(`(?m)^` + name + `\{proxy="model:chat:tiny"\} (\d+)`).FindStringSubmatch(string(text))
	require.NotNil(t, found, name)
	return found[1]
}

// awaitQueue returns once n requests wait.
func (r *running) awaitQueue(t *testing.T, n string) {
	t.Helper()
	require.Eventually(
		t, func() bool { return r.metric(t, "haproxy_backend_current_queue") == n }, 5*time.Second, 20*time.Millisecond,
		"%s requests should wait", n,
	)
}

func TestTheQueueHoldsWhatHasNoSlotAndIsBounded(t *testing.T) {
	server, busy, release := busyServer()
	r := start(t, server)
	answers := make(chan string, 10)
	for _, key := range []string{"key-ide", "key-ide", "key-ide", "key-ide", "key-slow"} { // two slots, three wait
		ask(t, r, key, "", answers)
	}
	r.awaitQueue(t, "3")
	assert.Equal(t, "5", r.metric(t, "haproxy_backend_current_sessions"))
	assert.Len(t, busy, 2, "the server must not see more than its slots")
	for _, key := range []string{"key-ide", "key-slow"} {
		ask(t, r, key, "", answers)
		assert.Equal(t, "503 queue_full", <-answers, "a fourth may not wait")
	}
	close(release)
	for range 5 {
		assert.Equal(t, "200", <-answers)
	}
}

func TestAClientThatGoesAwayFreesItsSlot(t *testing.T) {
	gone := make(chan struct{}, 20)
	busy := make(chan struct{}, 20)
	r := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/chat" { // whole answers: nothing is written, so nobody would notice by writing
			_, err := io.ReadAll(r.Body)
			assert.NoError(t, err)
			busy <- struct{}{}
			<-r.Context().Done()
			gone <- struct{}{}
			return
		}
		fmt.Fprint(w, "{}")
	})
	leave := []context.CancelFunc{}
	send := func() {
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		leave = append(leave, cancel)
		go func() {
			response, err := client.Do(request(t, "POST", r.api+"/api/chat", "key-ide", `{"model":"tiny"}`).WithContext(ctx))
			if err == nil {
				response.Body.Close()
			}
		}()
	}
	send()
	send()
	<-busy
	<-busy
	send()
	r.awaitQueue(t, "1")
	leave[2]() // one that waits
	r.awaitQueue(t, "0")
	send()
	r.awaitQueue(t, "1")
	leave[0]() // one that is served
	for _, of := range []struct {
		what string
		came chan struct{}
	}{{
		"the server should be told that nobody waits for the answer", gone,
	}, {"the next in the queue should have the slot", busy}} {
		select {
		case <-of.came:
		case <-time.After(5 * time.Second):
			t.Fatal(of.what)
		}
	}
}

func TestATeamHasNoMoreRequestsUnderWayThanItMay(t *testing.T) {
	server, busy, release := busyServer()
	r := start(t, server)
	answers := make(chan string, 10)
	ask(t, r, "key-narrow", "", answers)
	<-busy
	ask(t, r, "key-narrow", "", answers)
	assert.Equal(t, "429 concurrency_limit_exceeded", <-answers)
	ask(t, r, "key-ide", "", answers)
	<-busy // another team's is let in
	close(release)
	assert.Equal(t, []string{"200", "200"}, []string{<-answers, <-answers})
	require.Eventually(t, func() bool { // a client has its answer a little before the front has counted its end
		ask(t, r, "key-narrow", "", answers)
		return <-answers == "200"
	}, 5*time.Second, 20*time.Millisecond, "its place is free again")
}

func TestInteractiveRequestsOvertakeBackgroundOnes(t *testing.T) {
	server, busy, release := busyServer()
	r := start(t, server)
	answers := make(chan string, 10)
	for range 2 { // both slots
		ask(t, r, "key-ide", "", answers)
		<-busy
	}
	ask(t, r, "key-batch", "background", answers)
	r.awaitQueue(t, "1")
	ask(t, r, "key-ide", "interactive", answers)
	r.awaitQueue(t, "2")
	release <- struct{}{} // a slot becomes free
	assert.Equal(t, "interactive", <-busy, "it came later and is first")
	release <- struct{}{}
	assert.Equal(t, "background", <-busy)
	close(release)
	for range 4 {
		assert.Equal(t, "200", <-answers)
	}
}

func TestEachRequestIsALineOfJSONWithoutKeysOrPrompts(t *testing.T) {
	r, _ := startFront(t)
	for _, body := range []string{
		`{"model":"tiny","prompt":"my secret plan"}`, `{"model":"gpt-4\"o","prompt":"my secret plan"}`,
	} {
		response, err := client.Do(request(t, "POST", r.api+"/api/generate?token=query-secret", "key-ide", body))
		require.NoError(t, err)
		response.Body.Close()
	}
	// A request is logged when it is over, which may be after the next one's answer.
	find := func(model string) (entry map[string]any) {
		require.Eventually(t, func() bool {
			for _, line := range strings.Split(r.log.String(), "\n") {
				entry = map[string]any{}
				if json.Unmarshal([]byte(line), &entry) == nil && entry["model"] == model {
					return true
				}
			}
			return false
		}, 5*time.Second, 20*time.Millisecond, "no line for %s in %s", model, r.log)
		return entry
	}
	good, unknown := find("tiny"), find(`gpt-4"o`)
	assert.NotContains(t, r.log.String(), "secret")
	t.Log(good)
	for key, want := range map[string]any{
		"team": "ide", "backend": "model:chat:tiny", "model": "tiny", "server": "pod1", "method": "POST",
		"path": "/api/generate", "status": 200.0,
	} {
		assert.Equal(t, want, good[key], key)
	}
	for _, key := range []string{"queue_ms", "first_byte_ms", "total_ms", "bytes"} {
		assert.IsType(t, 0.0, good[key], key)
	}
	assert.Equal(t, 404.0, unknown["status"])
}
