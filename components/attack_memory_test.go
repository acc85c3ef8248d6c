//go:build attack

package components

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// cgroup is a memory cgroup of version 1 below the test's own, by its folder.
type cgroup string

// newCgroup makes one with a limit, until the test ends.
func newCgroup(t *testing.T, limitMiB int) cgroup {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	require.NoError(t, err)
	_, path, found := strings.Cut(string(own), ":memory:")
	require.True(t, found, "no memory cgroup of version 1: %s", own)
	path, _, _ = strings.Cut(path, "\n")
	folder := filepath.Join("/sys/fs/cgroup/memory", path, fmt.Sprintf("attack-%d", os.Getpid()))
	require.NoError(t, os.Mkdir(folder, 0o755), "the test needs root and a writable memory cgroup")
	t.Cleanup(func() { // the kernel takes a moment to let go of a process that was killed
		gone := func() bool { return os.Remove(folder) == nil }
		assert.Eventually(t, gone, 10*time.Second, 100*time.Millisecond, "removing %s", folder)
	})
	c := cgroup(folder)
	c.write(t, "memory.limit_in_bytes", strconv.Itoa(limitMiB<<20))
	return c
}

func (c cgroup) write(t *testing.T, name, value string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(string(c), name), []byte(value), 0o600))
}

// number reads a file of the cgroup, or one "key number" line of it.
func (c cgroup) number(t *testing.T, name, key string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(string(c), name))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), key); found {
			number, err := strconv.Atoi(strings.TrimSpace(value))
			require.NoError(t, err)
			return number
		}
	}
	t.Fatalf("%s has no %q: %s", name, key, text)
	return 0
}

// usage is the memory that the cgroup has, has had at most since the last reset, and how often it has met its limit.
func (c cgroup) usage(t *testing.T) (nowMiB, peakMiB, atLimit int) {
	t.Helper()
	now, peak := c.number(t, "memory.usage_in_bytes", ""), c.number(t, "memory.max_usage_in_bytes", "")
	return now >> 20, peak >> 20, c.number(t, "memory.failcnt", "")
}

func (c cgroup) kills(t *testing.T) int {
	t.Helper()
	return c.number(t, "memory.oom_control", "oom_kill ")
}

// upload is a body as an attacker sends it.
type upload struct {
	ctx   context.Context
	body  []byte
	slow  bool // a KiB a second
	stop  int  // the bytes after which nothing more comes; the attacker stays
	taken int
}

func (u *upload) Read(p []byte) (int, error) {
	switch {
	case u.taken == len(u.body):
		return 0, io.EOF
	case u.taken == u.stop:
		<-u.ctx.Done()
		return 0, u.ctx.Err()
	case u.slow:
		select {
		case <-time.After(time.Second):
		case <-u.ctx.Done():
			return 0, u.ctx.Err()
		}
		p = p[:min(len(p), 1<<10)]
	}
	n := copy(p, u.body[u.taken:u.stop])
	u.taken += n
	return n, nil
}

// way to send a body.
type way struct {
	name   string
	length bool // it says how long the body is
	client func() *http.Client
}

// waysToSend are those of HTTP. Over HTTP/2 the bodies without a length share a few connections.
func waysToSend() []way {
	client := func(http2 bool) *http.Client {
		protocols := &http.Protocols{}
		protocols.SetHTTP1(!http2)
		protocols.SetUnencryptedHTTP2(http2)
		return &http.Client{Transport: &http.Transport{Protocols: protocols}}
	}
	shared := client(true)
	return []way{
		{"HTTP/1 with a length", true, func() *http.Client { return client(false) }},
		{"HTTP/1 chunked", false, func() *http.Client { return client(false) }},
		{"HTTP/2 with a length", true, func() *http.Client { return client(true) }},
		{"HTTP/2 without a length", false, func() *http.Client { return shared }},
	}
}

// flood is many bodies at the same time.
type flood struct {
	name, path string
	body       []byte
	slow       bool
	stop       int // bytes
	lasts      time.Duration
}

const floodBodies = 200

var floodTeams = []string{"a", "b", "c", "d"} // one alone may not take all the room for bodies

// run sends the bodies, and returns when all have ended or the time is over.
func (f flood) run(t *testing.T, r *running) *counts {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), f.lasts)
	defer cancel()
	ends, sending, ways := &counts{}, sync.WaitGroup{}, waysToSend()
	for i := range floodBodies {
		way := ways[i%len(ways)]
		body := &upload{ctx: ctx, body: f.body, slow: f.slow, stop: f.stop}
		asked, err := http.NewRequestWithContext(ctx, "POST", r.api+f.path, body)
		require.NoError(t, err)
		asked.Header.Set("Authorization", "Bearer key-"+floodTeams[i/len(ways)%len(floodTeams)])
		asked.ContentLength = -1
		if way.length {
			asked.ContentLength = int64(len(f.body))
		}
		sending.Go(func() {
			client := way.client()
			ends.add(statusOf(client, asked))
			client.CloseIdleConnections()
		})
	}
	sending.Wait()
	return ends
}

// floods of the largest bodies, in all the ways to hold a front's memory.
func floods(buffer []byte) []flood {
	body := shape{"", `{"model":"tiny","messages":[{"images":["`, "iVBORw0KGgo", `"]}]}`, false}.fill(buffer)
	embed := shape{"", `{"model":"embed:latest","input":"`, "word ", `"}`, false}.fill(make([]byte, len(buffer)))
	query := strings.Repeat("x", 13000) // leaves little of an ordinary buffer
	return []flood{
		{"complete", "/api/chat", body, false, len(body), 90 * time.Second},
		{"complete, behind a long query", "/api/chat?" + query, body, false, len(body), 90 * time.Second},
		{"slow: 1 KiB a second", "/api/chat", body, true, len(body), 40 * time.Second},
		{"unfinished: nothing after 90 %", "/api/chat", body, false, len(body) / 10 * 9, 40 * time.Second},
		{"waiting for a slot", "/api/embed", embed, false, len(embed), 20 * time.Second},
	}
}

// memoryWatch is a front in its cgroup and those who use it meanwhile.
type memoryWatch struct {
	front  *attacked
	group  cgroup
	tokens *streams
	small  []*others
	rows   [][]string
}

// phase runs one attack, and takes down what it took.
func (m *memoryWatch) phase(t *testing.T, name string, attack func() string) {
	t.Helper()
	m.group.write(t, "memory.max_usage_in_bytes", "0")
	began := time.Now()
	answers := attack()
	took := time.Since(began).Seconds()
	time.Sleep(time.Second) // what was held goes back
	now, peak, atLimit := m.group.usage(t)
	m.rows = append(m.rows, row(name, peak, now, atLimit, decimal(took, 0), answers))
	if !m.front.alive() {
		t.Fatalf("HAProxy has ended during %q; killed for memory: %d", name, m.group.kills(t))
	}
}

func TestAttackMemory(t *testing.T) {
	args, teamKeys := attackFront(append([]string{"x", "y"}, floodTeams...)...)
	limit := args.memoryMiB()
	group := newCgroup(t, limit)
	r := launch{
		args: args, keys: teamKeys, at: freePorts(t), server: stub(t, pacedServer), cgroup: string(group),
	}.start(t)
	m := &memoryWatch{
		front: r, group: group, tokens: startStreams(t, 20, r.api, "key-ide"),
		small: []*others{askSmall(t, r.running, "key-x"), askSmall(t, r.running, "key-y")},
		rows:  [][]string{row("phase", "peak MiB", "MiB after", "times at the limit", "took s", "answers")},
	}
	defer func() { table(t, fmt.Sprintf("memory of a front with a limit of %d MiB", limit), m.rows) }()
	for _, flood := range floods(largestBody(args)) {
		release := func() {}
		if flood.path == "/api/embed" {
			release = m.occupy(t, args.Pools[1].slots())
		}
		m.phase(t, flood.name, func() string { return flood.run(t, r.running).String() })
		release()
	}
	m.phase(t, "churn", func() string { return m.churn(t, largestBody(args)) })

	for _, small := range m.small {
		small.stop()
		t.Logf("small requests of another team: %s; slowest %d ms", &small.counts, small.slowest.Load()/1e6)
		assert.True(t, small.counts.only("200"), "small requests of another team: %s", &small.counts)
	}
	assert.Zero(t, group.kills(t), "killed for memory")
	assert.Zero(t, m.tokens.cut.Load(), "streams that were cut")
}

// occupy takes all slots of the model embed until it is released.
func (m *memoryWatch) occupy(t *testing.T, slots int) (release func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var occupying sync.WaitGroup
	for range slots {
		asked := request(t, "POST", m.front.api+"/api/embed", "key-ide", `{"model":"embed","work":600000}`)
		occupying.Go(func() { statusOf(&http.Client{}, asked.WithContext(ctx)) })
	}
	release = func() { cancel(); occupying.Wait() }
	t.Cleanup(release)
	m.awaitSessions(t, slots)
	return release
}

// awaitSessions returns once the model embed has n requests under way.
func (m *memoryWatch) awaitSessions(t *testing.T, n int) {
	t.Helper()
	want := fmt.Sprintf("haproxy_backend_current_sessions{proxy=%q} %d\n", backendName("embed", "embed:latest"), n)
	require.Eventually(t, func() bool {
		_, text := m.front.answer(t, request(t, "GET", m.front.metrics+"/metrics", "", ""))
		return strings.Contains(text, want)
	}, 10*time.Second, 50*time.Millisecond, "%d slots should be taken", n)
}

const (
	churnTime    = 30 * time.Second
	churnHeld    = 300
	churnLargest = 8
)

// churn keeps many requests with bodies of 20 to 200 KiB waiting, always new ones, while bodies of the largest size
// come and go: a buffer that was grown for the largest must not be kept for one of the others.
func (m *memoryWatch) churn(t *testing.T, largest []byte) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), churnTime)
	defer cancel()
	var asking sync.WaitGroup
	ask := func(i int, path string, body string, ends *counts) {
		asking.Go(func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			for ctx.Err() == nil {
				asked, err := http.NewRequestWithContext(ctx, "POST", m.front.api+path, strings.NewReader(body))
				if !assert.NoError(t, err) {
					return
				}
				asked.Header.Set("Authorization", "Bearer key-"+floodTeams[i%len(floodTeams)])
				end := statusOf(client, asked)
				if ctx.Err() == nil {
					ends.add(end)
				}
				if end != "200" { // a client that is refused waits
					select {
					case <-time.After(200 * time.Millisecond):
					case <-ctx.Done():
					}
				}
			}
		})
	}
	held, large := &counts{}, &counts{}
	for i := range churnHeld {
		text := strings.Repeat("word ", (20+180*i/churnHeld)<<10/len("word "))
		ask(i, "/api/embed", `{"model":"embed","work":100,"input":"`+text+`"}`, held)
	}
	whole := string(shape{"", opening + `"`, "x", `"}`, false}.fill(largest))
	for i := range churnLargest {
		ask(i, "/api/chat", whole, large)
	}
	asking.Wait()
	return fmt.Sprintf("held %s; largest %s", held, large)
}
