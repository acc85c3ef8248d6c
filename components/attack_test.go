//go:build attack

package components

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"
)

// The front under attack: `make attack` measures what its clients feel meanwhile, and holds it to limits. All load
// stays on loopback.

// attacked is a front whose process can be watched.
type attacked struct {
	*running
	pid int
}

// attackFront describes a front with room for many streams, and its keys: that of a team is "key-" and its name.
func attackFront(teams ...string) (args *AuthFrontArgs, teamKeys map[string]string) {
	args, teamKeys = front(), map[string]string{"ide/1": "key-ide"} // startFile asks with this one until it is answered
	args.Teams, args.QueueLength = []Team{{Name: "ide", ConcurrentRequests: 1000}}, 400
	for _, team := range teams {
		args.Teams = append(args.Teams, Team{Name: team, ConcurrentRequests: 1000})
		teamKeys[team+"/1"] = "key-" + team
	}
	args.Pools[0].Replicas.Max, args.Pools[1].Replicas.Max = 1, 1
	setSlots(&args.Pools[0], 400)
	setSlots(&args.Pools[1], 10)
	return args, teamKeys
}

// launch is how a front under attack is started.
type launch struct {
	args   *AuthFrontArgs
	keys   map[string]string
	at     ports
	server string
	fronts []ports
	// global are lines for the global section of haproxy.cfg.
	global string
	// logged keeps the line for each request in the log, which would bury what a failing test has to say.
	logged bool
	// cgroup is the folder of the memory cgroup that the front runs in. Default: the test's own.
	cgroup string
}

// start runs the front.
func (l launch) start(t *testing.T) *attacked {
	t.Helper()
	config := writeFront(t, l.args, l.keys, l.at, l.server, l.fronts...)
	text, err := os.ReadFile(config)
	require.NoError(t, err)
	edited := strings.Replace(string(text), "\nglobal\n", "\nglobal\n"+l.global, 1)
	if !l.logged {
		edited = strings.ReplaceAll(edited, "format raw local0 info", "format raw local0 err")
	}
	require.NoError(t, os.WriteFile(config, []byte(edited), 0o600))

	dir, haproxy := t.TempDir(), tool(t, "HAPROXY")
	pidFile, wrapper := filepath.Join(dir, "pid"), filepath.Join(dir, "haproxy")
	script := fmt.Sprintf("#!/bin/sh\necho $$ > %s\n", pidFile)
	if l.cgroup != "" {
		script += fmt.Sprintf("echo $$ > %s/cgroup.procs\n", l.cgroup)
	}
	require.NoError(t, os.WriteFile(wrapper, []byte(script+fmt.Sprintf("exec %s \"$@\"\n", haproxy)), 0o700))
	t.Setenv("HAPROXY", wrapper)
	r := startFile(t, l.args, l.at, config)
	t.Setenv("HAPROXY", haproxy)
	written, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(written)))
	require.NoError(t, err)
	return &attacked{r, pid}
}

// alive tells whether the process is there and no zombie.
func (a *attacked) alive() bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.pid))
	return err == nil && !strings.Contains(string(status), "State:\tZ")
}

var blockedFor = regexp.MustCompile(`for (\d+) milliseconds`)

// blocked are the times in milliseconds for which HAProxy says that a thread of its stood still.
func (a *attacked) blocked() (times []int) {
	for _, found := range blockedFor.FindAllStringSubmatch(a.log.String(), -1) {
		ms, _ := strconv.Atoi(found[1]) // digits
		times = append(times, ms)
	}
	return times
}

var wanted = regexp.MustCompile(`"(work|tokens)":(\d+)`)

// pacedServer answers as the first KiB of the body asks: after "work" milliseconds, and with "stream" a token each
// 20 ms, of which there are "tokens", or as many as the client stays for.
func pacedServer(w http.ResponseWriter, r *http.Request) {
	body := &head{}
	_, _ = io.Copy(body, r.Body) // the answer comes anyway
	asked := map[string]int{"tokens": math.MaxInt}
	for _, found := range wanted.FindAllSubmatch(body.bytes, -1) {
		asked[string(found[1])], _ = strconv.Atoi(string(found[2])) // digits
	}
	if ms := asked["work"]; ms > 0 {
		select {
		case <-time.After(time.Duration(ms) * time.Millisecond):
		case <-r.Context().Done():
			return
		}
	}
	if !strings.Contains(string(body.bytes), `"stream":true`) {
		fmt.Fprint(w, `{"done":true}`)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	tick := time.NewTicker(tokenPace)
	defer tick.Stop()
	for range asked["tokens"] {
		fmt.Fprint(w, `data: {"choices":[{"index":0,"delta":{"content":"token "},"finish_reason":null}]}`+"\n\n")
		w.(http.Flusher).Flush()
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
	fmt.Fprint(w, "data: [DONE]\n\n")
}

// tokenPace is the time between two tokens of a stream: 50 a second, as a small model on a GPU.
const tokenPace = 20 * time.Millisecond

// head keeps the first bytes of what is written to it.
type head struct{ bytes []byte }

func (h *head) Write(p []byte) (int, error) {
	h.bytes = append(h.bytes, p[:min(len(p), 1<<10-len(h.bytes))]...)
	return len(p), nil
}

// streams are answers that arrive token by token, all at the same time.
type streams struct {
	longest atomic.Int64 // between two tokens of one stream, in nanoseconds
	tokens  []atomic.Int64
	cut     atomic.Int64 // that ended before they were stopped
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// startStreams asks for n streams and returns once each has brought a token.
func startStreams(t *testing.T, n int, url, key string) *streams {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &streams{tokens: make([]atomic.Int64, n), cancel: cancel}
	t.Cleanup(s.stop)
	for i := range n {
		asked := request(t, "POST", url+"/v1/chat/completions", key, `{"model":"tiny","stream":true,"messages":[]}`)
		s.running.Go(func() {
			s.read(asked.WithContext(ctx), &s.tokens[i])
			if ctx.Err() == nil {
				s.cut.Add(1)
			}
		})
	}
	s.awaitTokens(t)
	return s
}

// read takes the tokens of one stream until it ends.
func (s *streams) read(asked *http.Request, tokens *atomic.Int64) {
	response, err := (&http.Client{}).Do(asked) // without a time limit
	if err != nil {
		return
	}
	defer response.Body.Close()
	last := time.Now()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if !strings.HasPrefix(lines.Text(), "data: {") {
			continue
		}
		now := time.Now()
		if gap := int64(now.Sub(last)); gap > s.longest.Load() {
			s.longest.Store(gap) // two streams may race here for nearly the same gap
		}
		last = now
		tokens.Add(1)
	}
}

// awaitTokens returns once each stream has brought one more token, or has long brought none.
func (s *streams) awaitTokens(t *testing.T) {
	t.Helper()
	before := make([]int64, len(s.tokens))
	for i := range s.tokens {
		before[i] = s.tokens[i].Load()
	}
	require.Eventually(t, func() bool {
		for i := range s.tokens {
			if s.tokens[i].Load() == before[i] {
				return false
			}
		}
		return true
	}, 20*time.Second, 5*time.Millisecond, "a stream stands still; %d were cut", s.cut.Load())
}

// gapDuring is the longest gap between two tokens while something goes on.
func (s *streams) gapDuring(t *testing.T, what func()) time.Duration {
	t.Helper()
	s.awaitTokens(t)
	s.longest.Store(0)
	what()
	s.awaitTokens(t) // a gap that is not over counts too
	return time.Duration(s.longest.Load())
}

func (s *streams) stop() {
	s.cancel()
	s.running.Wait()
}

// counts of answers, by status or by how they ended.
type counts struct {
	sync.Mutex
	of map[string]int
}

func (c *counts) add(what string) {
	c.Lock()
	defer c.Unlock()
	if c.of == nil {
		c.of = map[string]int{}
	}
	c.of[what]++
}

func (c *counts) String() string {
	c.Lock()
	defer c.Unlock()
	var parts []string
	for what, n := range c.of {
		parts = append(parts, fmt.Sprintf("%s: %d", what, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// only tells whether every answer was of one sort, and there was one.
func (c *counts) only(what string) bool {
	c.Lock()
	defer c.Unlock()
	return len(c.of) == 1 && c.of[what] > 0
}

// others are small requests of teams that attack nobody.
type others struct {
	counts  counts
	slowest atomic.Int64 // in nanoseconds
	stop    func()
}

// askSmall asks ten times a second until it is stopped, each time on a connection of its own.
func askSmall(t *testing.T, r *running, key string) *others {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	o, asking := &others{}, sync.WaitGroup{}
	o.stop = sync.OnceFunc(func() { cancel(); asking.Wait() })
	t.Cleanup(o.stop)
	asking.Go(func() {
		for tick := time.NewTicker(100 * time.Millisecond); ctx.Err() == nil; {
			asked := request(t, "POST", r.api+"/api/chat", key, `{"model":"tiny","messages":[]}`)
			asking.Go(func() {
				began := time.Now()
				o.counts.add(statusOf(r.client, asked))
				if took := int64(time.Since(began)); took > o.slowest.Load() {
					o.slowest.Store(took)
				}
			})
			select {
			case <-tick.C:
			case <-ctx.Done():
				tick.Stop()
			}
		}
	})
	return o
}

var errorCode = regexp.MustCompile(`"code":"(\w+)"`)

// statusOf is the status of an answer, and the code of its error, or how there was none.
func statusOf(client *http.Client, asked *http.Request) string {
	response, err := client.Do(asked)
	if err != nil {
		return ending(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Sprintf("%d cut", response.StatusCode)
	}
	if code := errorCode.FindSubmatch(body); code != nil && response.StatusCode != 200 {
		return fmt.Sprintf("%d %s", response.StatusCode, code[1])
	}
	return strconv.Itoa(response.StatusCode)
}

// ending says in a word how a request without an answer ended.
func ending(err error) string {
	words := []string{"timeout", "deadline", "canceled", "reset", "broken pipe", "refused", "GOAWAY", "EOF"}
	for _, word := range words {
		if strings.Contains(err.Error(), word) {
			return word
		}
	}
	return err.Error()
}

// table logs rows of cells, the first of them the head.
func table(t *testing.T, title string, rows [][]string) {
	t.Helper()
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	require.NoError(t, w.Flush())
	t.Logf("%s\n%s", title, text.String())
}

// row makes cells of values; times are in milliseconds.
func row(cells ...any) (texts []string) {
	for _, cell := range cells {
		if took, ok := cell.(time.Duration); ok {
			cell = decimal(took.Seconds()*1000, 1)
		}
		texts = append(texts, fmt.Sprint(cell))
	}
	return texts
}

// decimal makes a cell of a number with so many decimals.
func decimal(number float64, decimals int) string {
	return strconv.FormatFloat(number, 'f', decimals, 64)
}

// quantile of times, which it sorts; 0.5 is the median.
func quantile(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[min(len(times)-1, int(q*float64(len(times))))]
}
