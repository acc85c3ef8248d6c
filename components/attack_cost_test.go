//go:build attack

package components

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pair of times for the same request: to the server directly, and through the front.
type pair struct{ direct, front time.Duration }

// cost is one kind of request, and what the front may add to it.
type cost struct {
	name    string
	path    string
	body    string
	clients int
	pairs   int // of each client
	limit   time.Duration
	// whole is false where the time until the first byte counts.
	whole bool
}

// time sends a request, and returns what it took.
func (c cost) time(ctx context.Context, t *testing.T, client *http.Client, base string) time.Duration {
	asked, err := http.NewRequestWithContext(ctx, "POST", base+c.path, strings.NewReader(c.body))
	require.NoError(t, err)
	asked.Header.Set("Authorization", "Bearer key-ide")
	began := time.Now()
	response, err := client.Do(asked)
	if !assert.NoError(t, err) {
		return 0
	}
	defer response.Body.Close()
	_, err = io.ReadFull(response.Body, make([]byte, 1))
	assert.NoError(t, err)
	took := time.Since(began)
	_, err = io.Copy(io.Discard, response.Body) // so that the connection is used again
	assert.NoError(t, err)
	assert.Equal(t, 200, response.StatusCode)
	if c.whole {
		took = time.Since(began)
	}
	return took
}

// measure asks directly and through the front in turn, so that whatever else the machine does meets both.
func (c cost) measure(t *testing.T, direct, front string) (pairs []pair) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: c.clients}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	var mutex sync.Mutex
	var asking sync.WaitGroup
	for number := range c.clients {
		asking.Go(func() {
			for i := range c.pairs + 2 {
				if c.clients > 1 {
					time.Sleep(rand.N(25 * time.Millisecond)) // clients do not ask in step
				}
				var p pair
				if (i+number)%2 == 0 { // neither is always first
					p.direct = c.time(t.Context(), t, client, direct)
					p.front = c.time(t.Context(), t, client, front)
				} else {
					p.front = c.time(t.Context(), t, client, front)
					p.direct = c.time(t.Context(), t, client, direct)
				}
				if i < 2 {
					continue // the connections are new
				}
				mutex.Lock()
				pairs = append(pairs, p)
				mutex.Unlock()
			}
		})
	}
	asking.Wait()
	return pairs
}

// Messages consist of prose, and of code, in which every 23rd byte is an escaped quote. Each of these costs the reader
// and the seal about 0.2 µs, so that 1 MiB of code is over the 10 ms that a body may cost.
const (
	prose = `The front reads each body once, before it decides anything.\n\nIt looks at the members of the top ` +
		`level and at nothing else, so a message may say what it likes: even \"model\". Then the request waits for ` +
		`a slot, and the server answers. `
	code = `Look at line 17:\n\tif name == \"front\" {\n\t\treturn nil // \"as before\"\n\t}\nand say why. `
)

// textOf is a chat of about a size: messages of one to four KB of lines.
func textOf(size int, line string) string {
	var body strings.Builder
	body.WriteString(`{"model":"tiny","work":5,"messages":[{"role":"system","content":"Answer shortly."}`)
	for i := 0; body.Len() < size; i++ {
		role := []string{"user", "assistant"}[i%2]
		fmt.Fprintf(&body, `,{"role":%q,"content":"%s"}`, role, strings.Repeat(line, (1+i%4)<<10/len(line)+1))
	}
	return body.String() + `]}`
}

// imageOf is a chat with an image of a size.
func imageOf(size int) string {
	pixels := strings.Repeat("iVBORw0KGgo/", size/len("iVBORw0KGgo/"))
	return `{"model":"tiny","work":5,"messages":[{"role":"user","content":"What is it?","images":["` + pixels + `"]}]}`
}

func TestAttackCost(t *testing.T) {
	args, teamKeys := attackFront()
	server := stub(t, pacedServer)
	r := launch{args: args, keys: teamKeys, at: freePorts(t), server: server, logged: true}.start(t)
	small := `{"model":"tiny","work":25,"messages":[{"role":"user","content":"hi"}]}`
	stream := `{"model":"tiny","work":25,"stream":true,"tokens":2,"messages":[{"role":"user","content":"hi"}]}`
	rows := [][]string{row("request", "clients", "pairs", "direct ms", "front ms", "adds", "limit", "front p99")}
	for _, c := range []cost{
		{"a small one, a server of 25 ms", "/api/chat", small, 16, 60, time.Millisecond, true},
		{"the first token of a stream", "/v1/chat/completions", stream, 16, 25, time.Millisecond, false},
		{"a chat of 1 MiB, prose", "/api/chat", textOf(1<<20, prose), 1, 300, 10 * time.Millisecond, true},
		{"a chat of 1 MiB, code", "/api/chat", textOf(1<<20, code), 1, 300, 30 * time.Millisecond, true},
		{"an image of 1 MiB", "/api/chat", imageOf(1 << 20), 1, 300, 10 * time.Millisecond, true},
	} {
		pairs := c.measure(t, "http://"+server, r.api)
		var direct, front []time.Duration
		for _, p := range pairs {
			direct, front = append(direct, p.direct), append(front, p.front)
		}
		added := quantile(front, 0.5) - quantile(direct, 0.5)
		rows = append(rows, row(c.name, c.clients, len(pairs), quantile(direct, 0.5), quantile(front, 0.5),
			decimal(added.Seconds()*1000, 2), c.limit, quantile(front, 0.99)))
		assert.LessOrEqual(t, added, c.limit, "%s: the median that the front adds", c.name)
	}
	table(t, "what a front adds", rows)
}
