//go:build attack

package components

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// shape is a body that is hard to read: one piece over and over between a beginning and an end.
type shape struct {
	name, begin, piece, end string
	// numbered puts a number into each piece, at its first seven zeros, so that no two keys are the same.
	numbered bool
}

const (
	opening    = `{"model":"tiny","note":"num_ctx keep_alive num_gpu","messages":`
	deepEnough = 15 << 20
)

// shapes at the largest size: most are expensive to read as JSON, the last ones are honest or hide something.
func shapes() []shape {
	return []shape{
		{"numbers", opening + "[", "1,", "1]}", false},
		{"numbers with exponents", opening + "[", "-1.5e-3,", "1]}", false},
		{"true, null", opening + "[", "true,null,", "1]}", false},
		{"empty arrays", opening + "[", "[],", "[]]}", false},
		{"empty objects", opening + "[", "{},", "{}]}", false},
		{"empty strings", opening + "[", `"",`, `""]}`, false},
		{"escaped quotes", opening + `"`, `\"`, `"}`, false},
		{"backslashes", opening + `"`, `\\`, `"}`, false},
		{"unicode escapes", opening + `"`, `\u0041`, `"}`, false},
		{"deep arrays", opening, "[", "", false},
		{"deep arrays that close", opening + strings.Repeat("[", deepEnough), "]", "}", false},
		{"deep objects", opening, `{"a":`, "", false},
		{"members at the top", opening + "[]", `,"k0000000":0`, "}", true},
		{"members in options", opening + `[],"options":{"a":0`, `,"k0000000":0`, "}}", true},
		{"members in messages", opening + `[{"a":0`, `,"k0000000":0`, "}]}", true},
		{"a long key", opening + `[],"`, "k", `":0}`, false},
		{"white space, then a brace", "", " \n\t\r", "{", false},
		{"white space between tokens", opening + "[", "1 \n\t\r, ", "1]}", false},
		{"a long number", opening + `[],"seed":1`, "0", "}", false},
		{"strings with braces", opening + "[", `"{\"model\":[{}]}",`, `""]}`, false},
		{"a string without an end", opening + `"`, "x", "", false},
		{"bytes that are no UTF-8", opening + `"`, "\xff\xc0", `"}`, false},
		{"an honest image", opening + `[{"role":"user","content":"?","images":["`, "iVBORw0KGgo", `"]}]}`, false},
		{"honest short messages", opening + "[", `{"role":"user","content":"Is it so?\nYes."},`, `{}]}`, false},
		{"another model at the end", opening + `"`, "x", `","model":"org/big:70b","options":{"num_ctx":1}}`, false},
		{"another value at the end", opening + `"`, "x", `"}{"model":"org/big:70b"}`, false},
	}
}

// fill makes the body in a buffer of the largest size. A new buffer for each would be work for the garbage collector.
func (s shape) fill(buffer []byte) []byte {
	pieces := (len(buffer) - len(s.begin) - len(s.end)) / len(s.piece)
	at := copy(buffer, s.begin)
	body := buffer[:at+pieces*len(s.piece)+len(s.end)]
	filled := copy(body[at:], s.piece)
	for filled < pieces*len(s.piece) {
		filled += copy(body[at+filled:at+pieces*len(s.piece)], body[at:at+filled])
	}
	copy(body[at+filled:], s.end)
	if s.numbered {
		digits := strings.Index(s.piece, "0000000")
		for i := range pieces {
			for place, n := at+i*len(s.piece)+digits+6, i; n > 0; place, n = place-1, n/10 {
				body[place] = byte('0' + n%10)
			}
		}
	}
	return body
}

// largestBody is a buffer as large as the front takes; the envelope of HTTP does not count.
func largestBody(args *AuthFrontArgs) []byte { return make([]byte, args.BodyMiB<<20-64<<10) }

// hostile is one request that was sent, and how it ended.
type hostile struct {
	status string
	late   time.Duration // from the last byte that the front took to the end
}

// sendHostile sends a body and reads whatever comes back. The front may answer, or close, before it has read the body.
func sendHostile(address, key string, body []byte) hostile {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return hostile{status: ending(err)}
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(time.Minute)) // a TCP connection takes one
	sent := make(chan time.Time, 1)
	go func() {
		fmt.Fprintf(connection, "POST /api/chat HTTP/1.1\r\nHost: a\r\nConnection: close\r\n")
		if key != "" {
			fmt.Fprintf(connection, "Authorization: Bearer %s\r\n", key)
		}
		fmt.Fprintf(connection, "Content-Length: %d\r\n\r\n", len(body))
		_, _ = connection.Write(body) // what the front does not take is the front's right
		sent <- time.Now()
	}()
	status := readStatus(connection)
	ended := time.Now()
	connection.Close() // a writer that still writes stops
	if last := <-sent; last.Before(ended) {
		return hostile{status, ended.Sub(last)}
	}
	return hostile{status, 0}
}

// readStatus is the status of the answer on a connection, with the code of its error, or how there was none.
func readStatus(connection net.Conn) string {
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		return "closed: " + ending(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body) // a reset after the answer does not matter
	if code := errorCode.FindSubmatch(body); code != nil {
		return fmt.Sprintf("%d %s", response.StatusCode, code[1])
	}
	return fmt.Sprint(response.StatusCode)
}

// bodies is an attack with every shape, so many at a time, and what came of it, by shape.
type bodies struct {
	address string
	keys    []string // taken in turn
	each    int      // how often each shape is sent in a round
	buffers [][]byte // as many as bodies are sent at a time

	sync.Mutex
	statuses map[string]*counts
	late     map[string]time.Duration
}

// run sends every shape, until all requests have ended.
func (b *bodies) run() {
	next := make(chan shape)
	var sending sync.WaitGroup
	for i, buffer := range b.buffers {
		sending.Go(func() {
			for shape := range next {
				b.add(shape, sendHostile(b.address, b.keys[i%len(b.keys)], shape.fill(buffer)))
			}
		})
	}
	for _, shape := range shapes() {
		for range b.each {
			next <- shape
		}
	}
	close(next)
	sending.Wait()
}

func (b *bodies) add(shape shape, end hostile) {
	b.Lock()
	defer b.Unlock()
	if b.statuses[shape.name] == nil {
		b.statuses[shape.name] = &counts{}
	}
	b.statuses[shape.name].add(end.status)
	b.late[shape.name] = max(b.late[shape.name], end.late)
}

const (
	hostileRounds = 5
	addedGapLimit = 400 * time.Millisecond
	hostileLimit  = 15 * time.Second
	quietTime     = 5 * time.Second
)

func TestAttackHostileBodies(t *testing.T) {
	args, teamKeys := attackFront("a", "b")
	server := stub(t, pacedServer)
	r := launch{
		args: args, keys: teamKeys, at: freePorts(t), server: server, global: "    warn-blocked-traffic-after 25ms\n",
	}.start(t)
	s := startStreams(t, 20, r.api, "key-ide")
	direct := startStreams(t, 4, "http://"+server, "") // what they feel is not the front's doing
	var buffers [][]byte
	for range 10 {
		buffers = append(buffers, largestBody(args))
	}

	for _, attack := range []struct {
		name         string
		rounds, each int
		buffers      [][]byte
		keys         []string
	}{
		{"one at a time", hostileRounds, 1, buffers[:1], []string{"key-a"}},
		{"ten at a time", hostileRounds, 2, buffers, []string{"key-a", "key-b"}},
		{"ten at a time without a key", 1, 2, buffers, []string{""}},
	} {
		b := &bodies{
			address: strings.TrimPrefix(r.api, "http://"),
			keys:    attack.keys, buffers: attack.buffers, each: attack.each,
			statuses: map[string]*counts{}, late: map[string]time.Duration{},
		}
		rows := [][]string{row("round", "quiet gap ms", "gap ms", "added ms", "direct gap ms", "took s")}
		var added []time.Duration
		blockedBefore := len(r.blocked())
		for round := range attack.rounds {
			quiet := s.gapDuring(t, func() { time.Sleep(quietTime) })
			var during time.Duration
			began := time.Now()
			noise := direct.gapDuring(t, func() { during = s.gapDuring(t, b.run) })
			added = append(added, during-quiet)
			took := decimal(time.Since(began).Seconds(), 1)
			rows = append(rows, row(round+1, quiet, during, during-quiet, noise, took))
			require.True(t, r.alive(), "HAProxy has ended")
		}
		table(t, attack.name+": gaps between two tokens of 20 streams", rows)
		b.report(t, attack.name)
		reportBlocked(t, r.blocked()[blockedBefore:])
		assert.LessOrEqual(t, quantile(added, 0.5), addedGapLimit, "%s: the median of the added gaps", attack.name)
		assert.Zero(t, s.cut.Load(), "%s: streams that were cut", attack.name)
	}
}

// report logs how the requests of each shape ended, and holds them to the limit.
func (b *bodies) report(t *testing.T, attack string) {
	t.Helper()
	rows := [][]string{row("shape", "longest ms after the last byte", "answers")}
	for _, shape := range shapes() {
		rows = append(rows, row(shape.name, b.late[shape.name], b.statuses[shape.name]))
		assert.LessOrEqual(t, b.late[shape.name], hostileLimit, "%s: %s", attack, shape.name)
	}
	table(t, attack+": how the hostile requests ended", rows)
}

// reportBlocked logs how often and how long HAProxy says that a thread handled nothing else.
func reportBlocked(t *testing.T, times []int) {
	t.Helper()
	if len(times) == 0 {
		t.Log("HAProxy warned of no thread that was blocked for 25 ms")
		return
	}
	slices.Sort(times)
	median, longest := times[len(times)/2], times[len(times)-1]
	t.Logf("HAProxy warned %d times of a blocked thread: median %d ms, longest %d ms", len(times), median, longest)
}
