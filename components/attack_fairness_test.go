//go:build attack

package components

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	fairTeams  = 10
	fairSlots  = 4
	usualLoad  = 4 // clients of a team
	greedyLoad = 40
	fairTime   = 7 * time.Second
)

// team is the i-th of the teams that share a model; the first may be greedy.
func team(i int) string { return fmt.Sprintf("team-%d", i) }

// load are the clients of one team: each asks again as soon as it is answered.
type load struct {
	team    string
	clients int
	work    []int // milliseconds that the server takes for a request, in turn
}

// share is what a team got.
type share struct {
	served int
	waited time.Duration // in all: beyond what the server took
	counts counts
}

func (s *share) meanWait() time.Duration { return s.waited / time.Duration(max(s.served, 1)) }

// measure runs loads, and counts what is served from the end of the warm-up on.
func measure(t *testing.T, r *running, warmUp, lasts time.Duration, loads []load) []*share {
	t.Helper()
	shares := make([]*share, len(loads))
	ctx, cancel := context.WithTimeout(context.Background(), warmUp+lasts)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 200}}
	defer client.CloseIdleConnections()
	counted := time.Now().Add(warmUp)
	var mutex sync.Mutex // of all shares
	var asking sync.WaitGroup
	for i, load := range loads {
		shares[i] = &share{}
		for number := range load.clients {
			asking.Go(func() {
				for turn := number; ctx.Err() == nil; turn++ {
					work := load.work[turn%len(load.work)]
					began := time.Now()
					end := askWork(ctx, t, client, r.api, load.team, work)
					took := time.Since(began) - time.Duration(work)*time.Millisecond
					if ctx.Err() != nil || time.Now().Before(counted) {
						continue
					}
					shares[i].counts.add(end)
					mutex.Lock()
					shares[i].served++
					shares[i].waited += took
					mutex.Unlock()
				}
			})
		}
	}
	asking.Wait()
	for i, load := range loads {
		assert.True(t, shares[i].counts.only("200"), "%s: answers: %s", load.team, &shares[i].counts)
	}
	return shares
}

// askWork sends one request for which the server takes so many milliseconds.
func askWork(ctx context.Context, t *testing.T, client *http.Client, api, team string, work int) string {
	body := fmt.Sprintf(`{"model":"tiny","work":%d,"messages":[]}`, work)
	asked := request(t, "POST", api+"/api/chat", "key-"+team, body)
	asked.Close = false
	return statusOf(client, asked.WithContext(ctx))
}

// startFair runs a front with ten teams and a team of the background, on one model with four slots.
func startFair(t *testing.T) *running {
	t.Helper()
	names := []string{"bulk"}
	for i := range fairTeams {
		names = append(names, team(i))
	}
	args, teamKeys := attackFront(names...)
	args.Teams[1].Priority = PriorityBackground // bulk, behind ide
	setSlots(&args.Pools[0], fairSlots)
	args.QueueLength = 100
	return launch{args: args, keys: teamKeys, at: freePorts(t), server: stub(t, pacedServer)}.start(t).running
}

// loadsOf are ten teams, the first with so many clients.
func loadsOf(first int, work []int) (loads []load) {
	for i := range fairTeams {
		loads = append(loads, load{team(i), usualLoad, work})
	}
	loads[0].clients = first
	return loads
}

// jain is Jain's index: 1 when all have the same, 1/n when one has all.
func jain(shares []*share) float64 {
	sum, squares := 0.0, 0.0
	for _, s := range shares {
		sum += float64(s.served)
		squares += float64(s.served) * float64(s.served)
	}
	return sum * sum / (float64(len(shares)) * max(squares, 1))
}

// totals are the requests of all shares, and their mean wait.
func totals(shares []*share) (served int, wait time.Duration) {
	for _, s := range shares {
		served += s.served
		wait += s.waited
	}
	return served, wait / time.Duration(max(served, 1))
}

func TestAttackFairness(t *testing.T) {
	r := startFair(t)
	rows := [][]string{row("server ms", "Jain, equal", "Jain, one greedy", "others wait ms: equal", "beside greedy",
		"ratio", "greedy served", "fair share", "greedy waits ms")}
	for _, mix := range []struct {
		name string
		work []int
	}{
		{"10", []int{10}},
		{"40", []int{40}},
		{"200", []int{200}},
		{"20 or 200", []int{20, 200}},
	} {
		longest := time.Duration(mix.work[len(mix.work)-1]) * time.Millisecond
		warmUp := time.Second + fairTeams*longest // all have been served
		r.awaitQueue(t, "0")                      // the clients of the last measurement have left
		equal := measure(t, r, warmUp, fairTime, loadsOf(usualLoad, mix.work))
		r.awaitQueue(t, "0")
		uneven := measure(t, r, warmUp, fairTime, loadsOf(greedyLoad, mix.work))
		_, before := totals(equal[1:])
		_, beside := totals(uneven[1:])
		served, _ := totals(uneven)
		fair, greedy := float64(served)/fairTeams, uneven[0]
		ratio := float64(beside) / float64(before)
		rows = append(rows, row(mix.name, decimal(jain(equal), 3), decimal(jain(uneven), 3), before, beside,
			decimal(ratio, 2), greedy.served, decimal(fair, 0), greedy.meanWait()))
		assert.GreaterOrEqual(t, jain(uneven), 0.99, "%s ms: Jain's index", mix.name)
		assert.LessOrEqual(t, ratio, 1.2, "%s ms: the others' wait, to that beside an equal team", mix.name)
		assert.GreaterOrEqual(t, float64(greedy.served), 0.7*fair, "%s ms: the greedy team", mix.name)
	}
	table(t, "ten teams on four slots, one of them with ten times the load", rows)
}

// A team owes nothing for requests that its clients have given up before a server saw them.
func TestAttackFairnessATeamWhoseClientsGaveUpIsNotBehind(t *testing.T) {
	work := []int{200}
	r := startFair(t)
	patience, giveUp := context.WithTimeout(context.Background(), time.Second)
	defer giveUp()
	var leaving, beside sync.WaitGroup
	for range greedyLoad {
		leaving.Go(func() { askWork(patience, t, http.DefaultClient, r.api, team(0), work[0]) })
	}
	loads := loadsOf(usualLoad, work)
	var others []*share
	beside.Go(func() { others = measure(t, r, 3*time.Second, fairTime, loads[1:]) }) // so that the queue is never empty
	leaving.Wait()
	shares := measure(t, r, 2*time.Second, fairTime, loads[:1])
	beside.Wait()
	shares = append(shares, others...)
	t.Logf("the team was served %d times, another one %d times", shares[0].served, shares[1].served)
	assert.GreaterOrEqual(t, jain(shares), 0.99)
}

func TestAttackFairnessInteractiveRequestsComeFirst(t *testing.T) {
	const work = 40
	shares := measure(t, startFair(t), time.Second, fairTime, []load{
		{"bulk", greedyLoad, []int{work}}, {team(1), 2, []int{work}},
	})
	rows := [][]string{row("team", "clients", "served", "mean wait ms")}
	rows = append(rows, row("background", greedyLoad, shares[0].served, shares[0].meanWait()))
	rows = append(rows, row("interactive", 2, shares[1].served, shares[1].meanWait()))
	table(t, fmt.Sprintf("a background team floods a model that takes %d ms", work), rows)
	// The next of four slots is free after a quarter of the work, on average.
	assert.LessOrEqual(t, shares[1].meanWait(), work*time.Millisecond, "the interactive team's wait")
	assert.Positive(t, shares[0].served)
}

func TestAttackFairnessAnInteractiveRequestEntersAQueueFullOfBackgroundOnes(t *testing.T) {
	server, busy, release := busyServer()
	args, teamKeys := attackFront("bulk", "x")
	args.Teams[1].Priority = PriorityBackground
	setSlots(&args.Pools[0], fairSlots)
	args.QueueLength = 100
	r := launch{args: args, keys: teamKeys, at: freePorts(t), server: stub(t, server)}.start(t)

	const flood = 150
	answers, first := make(chan string, flood), make(chan string, 1)
	for range flood {
		ask(t, r.running, "key-bulk", "background", answers)
	}
	for range fairSlots {
		require.Equal(t, "background", <-busy)
	}
	refused := 0
	require.Eventually(t, func() bool { // each one waits, is served, or was refused
		refused += len(takeAll(answers))
		return r.metric(t, "haproxy_backend_current_sessions") == fmt.Sprint(flood-refused)
	}, 10*time.Second, 20*time.Millisecond)
	waiting := r.queued(t)
	ask(t, r.running, "key-x", "interactive", first)
	entered := func() bool { return len(first) > 0 || r.queued(t) > waiting }
	require.Eventually(t, entered, 5*time.Second, 20*time.Millisecond)
	t.Logf("%d background requests wait, %d of %d were refused", waiting, refused, flood)
	if len(first) > 0 {
		t.Fatalf("the interactive request is answered %q, and should wait", <-first)
	}
	release <- struct{}{} // a slot becomes free
	assert.Equal(t, "interactive", <-busy, "the next that is served")
	close(release)
	assert.Equal(t, "200", <-first)
}

// queued is how many requests wait for the model tiny.
func (r *running) queued(t *testing.T) int {
	t.Helper()
	queue, err := strconv.Atoi(r.metric(t, "haproxy_backend_current_queue"))
	require.NoError(t, err)
	return queue
}

// takeAll takes what a channel holds.
func takeAll(channel <-chan string) (all []string) {
	for len(channel) > 0 {
		all = append(all, <-channel)
	}
	return all
}
