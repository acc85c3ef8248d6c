package components

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The front's judgement of a body against what Ollama decodes from the body that HAProxy sends on. Whoever finds a body
// that HAProxy reads in one way and Ollama in another has every model: the two must agree, or the front must refuse.
//
// Behind the front stands test/decoder: the pinned Ollama's own middlewares, types and decoder.

// decoded is what Ollama read in a request: a line of the decoder's output.
type decoded struct {
	ID         string
	Path       string
	Judged     string // the model that HAProxy judged
	Error      string // Ollama would refuse the body
	Model      string
	KeepAlive  bool `json:"keep_alive"`
	Shift      bool
	Reloads    map[string]any
	NumPredict int `json:"num_predict"`
}

// decoder is a decoder that runs.
type decoder struct {
	address string
	// stop ends it and returns what it read, by request.
	stop func() map[string][]decoded
}

func startDecoder(t *testing.T, args ...string) *decoder {
	t.Helper()
	command := exec.Command(tool(t, "OLLAMA_DECODER"), args...)
	command.Stderr = os.Stderr
	output, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	lines := bufio.NewReader(output)
	address, err := lines.ReadString('\n')
	require.NoError(t, err)

	all, ended := map[string][]decoded{}, make(chan error, 1)
	go func() {
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				ended <- command.Wait()
				return
			}
			var one decoded
			if err := json.Unmarshal(line, &one); err != nil {
				panic(err) // the decoder's own encoding
			}
			all[one.ID] = append(all[one.ID], one)
		}
	}()
	stop := sync.OnceValue(func() map[string][]decoded {
		_ = command.Process.Signal(syscall.SIGTERM)
		<-ended
		return all
	})
	t.Cleanup(func() { stop() })
	return &decoder{strings.TrimSpace(address), stop}
}

const (
	fuzzBodyMiB = 4
	fuzzTokens  = 4000 // the most of an answer, in the pool chat
)

// fuzzFront has room for whatever the fuzz sends.
func fuzzFront() *AuthFrontArgs {
	args := front()
	args.Teams = []Team{{Name: "ide"}, {Name: "batch", Models: []string{"tiny"}}}
	args.QueueLength, args.BodyMiB, args.MaxSeconds = 1000, fuzzBodyMiB, 600
	chat := args.Pools[0].Models
	for i := range chat {
		chat[i].OutputTokens = OutputTokens{Most: fuzzTokens}
		if chat[i].Name == "tiny" {
			chat[i].OutputTokens.Silent = fuzzTokens / 2
		}
	}
	for i := range args.Pools {
		setSlots(&args.Pools[i], 100)
	}
	return args
}

// mutation is a change of a file in the front's folder: old stands there exactly once.
type mutation struct{ file, old, new string }

const (
	sealLine   = "    filter lua.seal\n"
	readerLine = "    http-request lua.read if ask\n"
)

var (
	withoutSeal   = mutation{"haproxy.cfg", sealLine, ""}
	withoutReader = mutation{
		"haproxy.cfg", readerLine,
		"    http-request set-var(txn.model) req.body,json_query('$.model') if ask\n" +
			"    http-request set-var(txn.body_read) bool(true) if ask\n",
	}
)

// fuzz is one run.
type fuzz struct {
	seed      uint64
	requests  int
	only      []func(*fuzzer, *fuzzBody)
	mutations []mutation
	// What judges: the reader; the seal, which writes the judged model and the limit of tokens into the body.
	reader, seal bool
	// drop makes the server close the connection of every n-th request, so that HAProxy tries again.
	drop int
}

// fuzzResult is how a run went.
type fuzzResult struct {
	misread  []string // Ollama read what the front did not judge
	failed   []string // the front gave no proper answer, or none to an honest body
	outcomes map[string]int
	took     time.Duration
	log      string // of HAProxy
}

func (f *fuzz) request(number int) fuzzRequest {
	bodies := fuzzer{Rand: rand.New(rand.NewPCG(f.seed, uint64(number))), only: f.only}
	return bodies.request(number)
}

// startFuzzed runs a changed front before a decoder. The backends tell the decoder which model HAProxy judged.
func startFuzzed(t *testing.T, args *AuthFrontArgs, mutations []mutation, server string) *running {
	t.Helper()
	at := freePorts(t)
	config := writeFront(t, args, keys, at, server)
	for _, m := range mutations {
		path := filepath.Join(filepath.Dir(config), m.file)
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, 1, strings.Count(string(text), m.old), "%s should have once: %s", m.file, m.old)
		require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o600))
	}
	text, err := os.ReadFile(config)
	require.NoError(t, err)
	backend := regexp.MustCompile(`(?ms)^(backend model:\S+\n.*?)(^    option httpchk)`)
	require.NotEmpty(t, backend.FindAllString(string(text), -1))
	tell := "    http-request set-header x-judged-model %[var(txn.model),url_enc]\n"
	changed := backend.ReplaceAllString(string(text), "${1}"+tell+"${2}")
	require.Equal(t, 1, strings.Count(changed, "\nfrontend api\n"))
	changed = strings.Replace(changed, "\nfrontend api\n", "\nfrontend api\n    http-request set-log-level silent\n", 1)
	require.NoError(t, os.WriteFile(config, []byte(changed), 0o600))
	return startFile(t, args, at, config)
}

// run sends the requests, and compares.
func (f *fuzz) run(t *testing.T) *fuzzResult {
	t.Helper()
	args := fuzzFront()
	server := startDecoder(t, "-drop", strconv.Itoa(f.drop))
	r := startFuzzed(t, args, f.mutations, server.address)

	answers := make([]string, f.requests)
	var next atomic.Int64
	var workers sync.WaitGroup
	began := time.Now()
	for range 6 {
		workers.Go(func() {
			sender := newSender(r.api)
			defer sender.close()
			for i := int(next.Add(1)) - 1; i < f.requests; i = int(next.Add(1)) - 1 {
				answers[i] = sender.send(f.request(i))
			}
		})
	}
	workers.Wait()
	result := &fuzzResult{outcomes: map[string]int{}, took: time.Since(began)}
	r.stop()
	result.log = r.log.String()
	seen := server.stop()
	for i, answer := range answers {
		request := f.request(i)
		reached := seen[request.id()]
		for _, one := range reached {
			if wrong := f.misread(args, &request, one); wrong != "" {
				result.misread = append(result.misread, f.describe(&request, wrong, answer, reached))
			}
		}
		if wrong := f.failure(&request, answer, reached); wrong != "" {
			result.failed = append(result.failed, f.describe(&request, wrong, answer, reached))
		}
		outcome := answer
		if request.honest {
			outcome = "honest " + answer
		}
		result.outcomes[outcome]++
	}
	t.Logf("%d requests in %s, %.0f a second: %v", f.requests, result.took.Round(time.Millisecond),
		float64(f.requests)/result.took.Seconds(), sortedCounts(result.outcomes))
	return result
}

func sortedCounts(of map[string]int) (lines []string) {
	for _, key := range slices.Sorted(maps.Keys(of)) {
		lines = append(lines, fmt.Sprintf("%s: %d", key, of[key]))
	}
	return lines
}

// sameModel tells whether two names are one model to Ollama, among those that the front knows.
func sameModel(a, b string) bool { return latest(a) == latest(b) }

func latest(model string) string {
	if !strings.Contains(model[strings.LastIndex(model, "/")+1:], ":") {
		return model + ":latest"
	}
	return model
}

// refusals are the codes of what the front refuses for the body.
var refusals = strings.Fields(`ambiguous_body invalid_body missing_model model_not_found model_not_allowed
	option_not_allowed max_tokens_too_large request_too_large`)

// failure says what is wrong with the answer of a request; nothing if nothing is.
func (f *fuzz) failure(request *fuzzRequest, answer string, reached []decoded) string {
	status, code, _ := strings.Cut(answer, " ")
	last := decoded{Error: "it did not arrive"}
	if len(reached) > 0 {
		last = reached[len(reached)-1]
	}
	switch {
	case f.drop > 0 && code == "bad_gateway" && len(request.body) > 12<<10:
		return "" // it does not fit into a buffer, to be sent again
	case request.honest && f.reader && (status != "200" || last.Error != "" || !sameModel(last.Model, request.model)):
		return "an honest body was not served"
	case status == "200" && last.Error != "":
		return "it was answered without a server"
	case status == "200" || status == "400" && code == "" && len(reached) > 0:
		return "" // served, or refused by Ollama
	case code == "bad_gateway" && len(reached) > 0 && last.Error != "":
		return "" // refused by Ollama, which closes without reading the rest of a large body
	case !f.reader: // the seal ends a request as it can
		return ""
	case !slices.Contains(refusals, code) || status[0] != '4':
		return "the front failed"
	case len(reached) > 0:
		return "it was refused, but reached the server"
	}
	return ""
}

// misread says what Ollama would do that the front did not judge.
func (f *fuzz) misread(args *AuthFrontArgs, request *fuzzRequest, one decoded) string {
	var model *Model
	for _, pool := range args.Pools {
		for i := range pool.Models {
			if sameModel(pool.Models[i].Name, one.Model) {
				model = &pool.Models[i]
			}
		}
	}
	granted := func(model string) bool { return request.team == "ide" || sameModel(model, "tiny") }
	native := strings.HasPrefix(request.path, "/api/")
	switch {
	case one.Error != "":
		return "" // Ollama refuses it
	case one.Path != request.path:
		return "another path"
	case model == nil:
		return "a model that the front does not know"
	case !granted(one.Model):
		return "a model that the team may not use"
	case !sameModel(one.Model, one.Judged):
		return "another model than the judged one"
	}
	most := model.OutputTokens.Most
	if slices.Contains(generatingPaths, request.path) && most > 0 {
		// Of two limits the reader judges the smaller, and leaves it to the seal to write it over the one that Ollama knows.
		two := bytes.Contains(request.body, []byte("max_completion_tokens"))
		asked := one.NumPredict == 0 || one.NumPredict > most
		if asked && (f.seal || !two) || f.seal && one.NumPredict < 0 {
			return "more tokens than an answer may have"
		}
	}
	if !f.reader || !native {
		return ""
	}
	if one.KeepAlive || one.Shift {
		return "keep_alive or shift"
	}
	for option, value := range one.Reloads {
		if option != "num_ctx" || model.Context == 0 || value != float64(model.Context) {
			return "options." + option
		}
	}
	return ""
}

func (f *fuzz) describe(request *fuzzRequest, what, answer string, reached []decoded) string {
	body := fmt.Sprintf("%q", request.body)
	if len(body) > 1200 {
		body = body[:800] + " … " + body[len(body)-400:]
	}
	return fmt.Sprintf("%s (FRONT_FUZZ_SEED=%d, number %d): team %s, %s, %s, %d bytes: %s\n  answer: %s\n  Ollama: %+v",
		what, f.seed, request.number, request.team, request.path, request.transport, len(request.body), body, answer, reached)
}

// sender sends requests, by one connection of each protocol.
type sender struct {
	url     string
	clients map[string]*http.Client
}

func newSender(url string) *sender {
	two := &http.Protocols{}
	two.SetUnencryptedHTTP2(true)
	return &sender{url, map[string]*http.Client{
		"h1": {Timeout: time.Minute, Transport: &http.Transport{DisableCompression: true}},
		"h2": {Timeout: time.Minute, Transport: &http.Transport{DisableCompression: true, Protocols: two}},
	}}
}

func (s *sender) close() {
	for _, client := range s.clients {
		client.CloseIdleConnections()
	}
}

func (r *fuzzRequest) id() string { return fmt.Sprintf("fuzz-%d", r.number) }

// send returns the status, and the code of an error. Where the connection breaks, or large bodies have no room, it
// tries again.
func (s *sender) send(r fuzzRequest) (answer string) {
	for range 3 {
		if answer = s.try(&r); answer != "closed" && !strings.HasSuffix(answer, "too_many_large_bodies") {
			return answer
		}
		time.Sleep(50 * time.Millisecond)
	}
	return answer
}

func (s *sender) try(r *fuzzRequest) string {
	protocol, _, _ := strings.Cut(r.transport, " ")
	var body io.Reader = bytes.NewReader(r.body)
	if r.transport != protocol {
		pieces := rand.New(rand.NewPCG(uint64(r.number), 0))
		body = &inPieces{rest: r.body, most: max(r.chunk, len(r.body)/100), Rand: pieces}
	}
	request, err := http.NewRequest("POST", s.url+r.path, body)
	if err != nil {
		return err.Error()
	}
	request.Header.Set("Authorization", "Bearer key-"+r.team)
	request.Header.Set("X-Request-Id", r.id())
	if r.number%10 == 0 { // a body without a length may have trailers, and a client may wait for leave to send it
		request.Trailer = http.Header{"X-Checksum": {strings.Repeat("x", 20)}}
		request.Header.Set("Expect", "100-continue")
	}
	if r.contentEncoding != "" {
		request.Header.Set("Content-Encoding", r.contentEncoding)
	}
	response, err := s.clients[protocol].Do(request)
	if err != nil {
		return "closed"
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "closed"
	}
	var failure struct{ Error struct{ Code string } }
	_ = json.Unmarshal(text, &failure) // the decoder's answers have no code
	return strings.TrimSpace(fmt.Sprint(response.StatusCode, " ", failure.Error.Code))
}

// inPieces is a body that is sent in pieces of random sizes.
type inPieces struct {
	*rand.Rand
	rest []byte
	most int
}

func (p *inPieces) Read(into []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(into[:min(len(into), 1+p.IntN(p.most))], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// fuzzSeed is FRONT_FUZZ_SEED, or a new one.
func fuzzSeed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64() >> 32
	if set := os.Getenv("FRONT_FUZZ_SEED"); set != "" {
		var err error
		seed, err = strconv.ParseUint(set, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("FRONT_FUZZ_SEED=%d", seed)
	return seed
}

func TestTheFrontJudgesWhatTheServerReads(t *testing.T) {
	t.Parallel()
	requests := 5000
	if set := os.Getenv("FRONT_FUZZ"); set != "" {
		var err error
		requests, err = strconv.Atoi(set)
		require.NoError(t, err)
	}
	seed := fuzzSeed(t)
	for name, f := range map[string]fuzz{
		"the reader and the seal": {requests: requests / 2, reader: true, seal: true},
		"the reader alone":        {requests: requests / 4, reader: true, mutations: []mutation{withoutSeal}},
		"the seal alone":          {requests: requests / 4, seal: true, mutations: []mutation{withoutReader}},
		"a server that is asked again": {
			requests: requests / 20, reader: true, seal: true, drop: 7,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f.seed = seed
			result := f.run(t)
			for i, one := range slices.Concat(result.misread, result.failed) {
				if i < 10 {
					t.Error(one)
				}
			}
			assert.Zero(t, len(result.misread), "bodies that Ollama reads in another way")
			assert.Zero(t, len(result.failed), "requests without a proper answer")
			if f.reader {
				assert.Zero(t, strings.Count(result.log, "runtime error"), "errors in Lua")
			}
		})
	}
}

func TestTheDecoderIsOfTheOllamaThatIsDeployed(t *testing.T) {
	version := func(file string) string {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		found := regexp.MustCompile(`github.com/ollama/ollama (v\S+)`).FindSubmatch(text)
		require.NotNil(t, found, file)
		return string(found[1])
	}
	assert.Equal(t, version("../local/tools/ollama/go.mod"), version("../test/decoder/go.mod"))
}

// Without these the fuzz proves nothing: it must find each of these mistakes, in the reader and in the seal.
func TestABrokenReaderIsFound(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]fuzz{
		"names are compared in their exact case": {
			reader: true, only: []func(*fuzzer, *fuzzBody){(*fuzzer).second, (*fuzzer).badOption},
			mutations: []mutation{withoutSeal, {"reader.lua", "elseif known[fold(name)] then", "elseif false then"}},
		},
		"the first of two names wins": {
			reader: true, only: []func(*fuzzer, *fuzzBody){(*fuzzer).second},
			mutations: []mutation{withoutSeal, {
				"reader.lua", `        if seen[name] then
          return fail(r, "duplicate")
        end
        seen[name] = true
`, `        if seen[name] then
          name = nil
        else
          seen[name] = true
        end
`,
			}},
		},
		"the Kelvin sign and the long s are no letters": {
			reader: true, only: []func(*fuzzer, *fuzzBody){(*fuzzer).folded},
			mutations: []mutation{withoutSeal, {"reader.lua", `if find(name, "[\xe2\xc5]") then`, "if false then"}},
		},
		"escapes in names are not decoded": {
			reader: true, only: []func(*fuzzer, *fuzzBody){(*fuzzer).second, (*fuzzer).badOption},
			mutations: []mutation{withoutSeal, {"reader.lua", `  if not find(raw, "\\", 1, true) then
    return raw
`, `  if true then
    return raw
`}},
		},
		"no limit of tokens is written": {
			reader: true, seal: true, only: []func(*fuzzer, *fuzzBody){(*fuzzer).tokenLimit},
			mutations: []mutation{{"seal.lua", "if limit and tokens and tokens > 0 then", "if false then"}},
		},
		"a limit of 0 is as good as none": {
			reader: true, only: []func(*fuzzer, *fuzzBody){(*fuzzer).tokenLimit},
			mutations: []mutation{withoutSeal, {"reader.lua", "if not tokens or tokens == 0 then", "if not tokens then"}},
		},
		"the model is written before the last brace, not that of the first value": {
			seal: true, only: []func(*fuzzer, *fuzzBody){(*fuzzer).second, (*fuzzer).behind},
			mutations: []mutation{withoutReader, {
				"seal.lua", "local close = self.begun and self:close(piece)", `local close = piece:match("^.*()}")`,
			}},
		},
		"the model is written first": {
			seal: true, only: []func(*fuzzer, *fuzzBody){(*fuzzer).second},
			mutations: []mutation{withoutReader, {
				"seal.lua", "  if message:insert(self.members, close - 1) ~= #self.members then",
				"  self.members = self.members:sub(2) .. \",\"\n" +
					"  if message:insert(self.members, (find(message:body(0, 4096), \"{\", 1, true))) ~= #self.members then",
			}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f.seed, f.requests = 1, 300
			result := f.run(t)
			require.NotEmpty(t, result.misread, "the fuzz must find it")
			t.Log(len(result.misread), "found, like", result.misread[0])
		})
	}
}
