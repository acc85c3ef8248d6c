//go:build attack

package components

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	idleConnections = 8000
	dialsPerSecond  = 2000
	idleHeld        = 15 * time.Second // a connection that is closed meanwhile is opened again
	idleLimit       = 30 * time.Second // until the front has closed each
	redialAfter     = 5 * time.Second
	probeLimit      = 2 * time.Second
	p99Floor        = 5 * time.Millisecond // twice less than this is no harm
)

const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" // and empty SETTINGS

// idleKind is a way to hold a connection without a key.
type idleKind struct {
	name, opening string
	// again is sent each second.
	again string
}

var idleKinds = []idleKind{
	{"sends nothing", "", ""},
	{"half a request line", "POST /v1/chat/comp", ""},
	{"headers, no body, no key", "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n", ""},
	{"HTTP/2 preface", http2Preface, ""},
	{"HTTP/2 with PINGs", http2Preface, "\x00\x00\x08\x06\x00\x00\x00\x00\x00pingping"},
	{"a whole request without a key", "GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", ""},
	{"a question for health", "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", ""},
}

// idle is what became of the connections of one kind.
type idle struct {
	sync.Mutex
	lasted  []time.Duration // from the opening to the end
	refused int             // that did not open, or were closed at once
}

// hold opens one connection, and returns when the front has closed it.
func (i *idle) hold(kind idleKind, dialer *net.Dialer, address string) {
	began := time.Now()
	connection, err := dialer.Dial("tcp", address)
	if err == nil {
		_ = connection.SetDeadline(began.Add(3 * idleLimit)) // a TCP connection takes one
		_, _ = io.WriteString(connection, kind.opening)      // the end is seen by reading
		stop := make(chan struct{})
		if kind.again != "" {
			go sendAgain(connection, kind.again, stop)
		}
		_, _ = io.Copy(io.Discard, connection) // until the front closes it, however it does
		close(stop)
		connection.Close()
	}
	i.Lock()
	defer i.Unlock()
	if took := time.Since(began); err != nil || took < 100*time.Millisecond {
		i.refused++
	} else {
		i.lasted = append(i.lasted, took)
	}
}

func sendAgain(connection net.Conn, text string, stop <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if _, err := io.WriteString(connection, text); err != nil {
				return
			}
		case <-stop:
			return
		}
	}
}

// sources are the addresses that the attack comes from.
type sources struct {
	name string
	of   func(i int) net.IP
}

var bothSources = []sources{
	{"one source", func(int) net.IP { return net.IPv4(127, 0, 0, 1) }},
	{"many sources", func(i int) net.IP { return net.IPv4(127, 1, byte(i%2000/200), byte(1+i%200)) }},
}

// holdIdle holds as many connections as the attack has for a while, then waits until the front has closed them all.
func holdIdle(address string, from sources) map[string]*idle {
	all := map[string]*idle{}
	for _, kind := range idleKinds {
		all[kind.name] = &idle{}
	}
	var holding sync.WaitGroup
	pace := time.NewTicker(time.Second / dialsPerSecond)
	defer pace.Stop()
	over := time.Now().Add(idleHeld)
	for i := range idleConnections {
		<-pace.C
		kind := idleKinds[i%len(idleKinds)]
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: from.of(i)}, Timeout: idleLimit}
		holding.Go(func() {
			for {
				began := time.Now()
				all[kind.name].hold(kind, dialer, address)
				time.Sleep(time.Until(began.Add(redialAfter)))
				if time.Now().After(over) {
					return
				}
			}
		})
	}
	holding.Wait()
	return all
}

// keyed is a client with a key, at an address of its own, that asks twenty times a second.
type keyed struct {
	sync.Mutex
	took   []time.Duration
	counts counts
	stop   func()
}

func startKeyed(t *testing.T, r *running) *keyed {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	k, asking := &keyed{}, sync.WaitGroup{}
	k.stop = sync.OnceFunc(func() { cancel(); asking.Wait() })
	t.Cleanup(k.stop)
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	client := &http.Client{
		Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true},
		Timeout:   idleLimit,
	}
	asking.Go(func() {
		tick := time.NewTicker(time.Second / 20)
		defer tick.Stop()
		for ctx.Err() == nil {
			asked := request(t, "POST", r.api+"/api/chat", "key-ide", `{"model":"tiny","messages":[]}`)
			asking.Go(func() {
				began := time.Now()
				k.counts.add(statusOf(client, asked))
				k.Lock()
				defer k.Unlock()
				k.took = append(k.took, time.Since(began))
			})
			<-tick.C
		}
	})
	return k
}

// p99During is the 99th percentile of what requests take while something goes on.
func (k *keyed) p99During(what func()) time.Duration {
	k.Lock()
	k.took = nil
	k.Unlock()
	what()
	k.Lock()
	defer k.Unlock()
	return quantile(k.took, 0.99)
}

// probes are those of the kubelet and of Prometheus.
type probes struct {
	counts  counts
	slowest atomic.Int64 // in nanoseconds
}

// startProbes asks for health, readiness and metrics five times a second, until the test ends or it is stopped.
func startProbes(t *testing.T, fronts []*attacked) (p *probes, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p = &probes{}
	var asking sync.WaitGroup
	stop = sync.OnceFunc(func() { cancel(); asking.Wait() })
	t.Cleanup(stop)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: probeLimit}
	for _, r := range fronts {
		for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
			asking.Go(func() {
				tick := time.NewTicker(200 * time.Millisecond)
				defer tick.Stop()
				for ctx.Err() == nil {
					began := time.Now()
					p.counts.add(path + " " + statusOf(client, request(t, "GET", r.metrics+path, "", "")))
					if took := int64(time.Since(began)); took > p.slowest.Load() {
						p.slowest.Store(took)
					}
					<-tick.C
				}
			})
		}
	}
	return p, stop
}

// good tells whether every probe was answered with 200.
func (p *probes) good() bool {
	p.counts.Lock()
	defer p.counts.Unlock()
	for what := range p.counts.of {
		if !strings.HasSuffix(what, " 200") {
			return false
		}
	}
	return len(p.counts.of) == 3
}

// startFronts runs so many fronts, and returns once each knows all.
func startFronts(t *testing.T, replicas int) (fronts []*attacked) {
	t.Helper()
	args, teamKeys := attackFront()
	args.Replicas = replicas
	server, at := stub(t, pacedServer), []ports(nil)
	for range replicas {
		at = append(at, freePorts(t))
	}
	for _, own := range at {
		l := launch{args: args, keys: teamKeys, at: own, server: server}
		if replicas > 1 {
			l.fronts = at
		}
		fronts = append(fronts, l.start(t))
	}
	if replicas == 1 {
		return fronts
	}
	want := fmt.Sprintf("haproxy_backend_active_servers{proxy=\"active\"} %d\n", replicas)
	for _, r := range fronts {
		require.Eventually(t, func() bool {
			_, text := r.answer(t, request(t, "GET", r.metrics+"/metrics", "", ""))
			return strings.Contains(text, want)
		}, 10*time.Second, 50*time.Millisecond, "the fronts do not find each other")
	}
	return fronts
}

func TestAttackConnections(t *testing.T) {
	raiseFileLimit(t)
	for _, replicas := range []int{1, 2} {
		for _, from := range bothSources {
			t.Run(fmt.Sprintf("%d fronts and %s", replicas, from.name), func(t *testing.T) {
				fronts := startFronts(t, replicas)
				address := strings.TrimPrefix(fronts[0].api, "http://")
				client := startKeyed(t, fronts[0].running)
				probes, stopProbes := startProbes(t, fronts)
				client.p99During(func() { time.Sleep(time.Second) }) // the first requests find nothing warm
				quiet := client.p99During(func() { time.Sleep(10 * time.Second) })
				var held map[string]*idle
				during := client.p99During(func() { held = holdIdle(address, from) })
				client.stop()
				stopProbes()

				reportIdle(t, held)
				slowest := time.Duration(probes.slowest.Load())
				table(t, "those who use the front", [][]string{
					row("who", "ms", "answers"),
					row("a client with a key, p99, quiet", quiet, ""),
					row("a client with a key, p99, during", during, &client.counts),
					row("probes, slowest", slowest, &probes.counts),
				})
				assert.LessOrEqual(t, during, 2*max(quiet, p99Floor), "p99 of a client with a key")
				assert.True(t, client.counts.only("200"), "answers to a client with a key: %s", &client.counts)
				assert.True(t, probes.good(), "probes: %s", &probes.counts)
				for _, r := range fronts {
					assert.True(t, r.alive(), "HAProxy has ended")
				}
			})
		}
	}
}

// reportIdle logs how long the connections of each kind lasted, and holds them to the limit.
func reportIdle(t *testing.T, held map[string]*idle) {
	t.Helper()
	rows := [][]string{row("kind", "held", "refused at once", "closed after s: median", "longest")}
	for _, kind := range idleKinds {
		i := held[kind.name]
		median, longest := quantile(i.lasted, 0.5).Seconds(), quantile(i.lasted, 1).Seconds()
		rows = append(rows, row(kind.name, len(i.lasted), i.refused, decimal(median, 1), decimal(longest, 1)))
		assert.LessOrEqual(t, longest, idleLimit.Seconds(), "%s: seconds until the front closes it", kind.name)
	}
	table(t, fmt.Sprintf("%d idle connections", idleConnections), rows)
}

// raiseFileLimit lets the test, and so HAProxy, open as many files as it may.
func raiseFileLimit(t *testing.T) {
	t.Helper()
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	require.GreaterOrEqual(t, limit.Max, uint64(2*idleConnections), "open files")
	limit.Cur = limit.Max
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
}
