package components

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/internal/testcert"
)

// What a client can make grow, and what may not reach the server or the log. `make attack` does the same at full size.

// teamMetric is a value of /metrics/teams.
func (r *running) teamMetric(t *testing.T, series string) string {
	t.Helper()
	_, text := r.answer(t, request(t, "GET", r.metrics+"/metrics/teams", "", ""))
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(text)
	require.NotNil(t, found, "%s in %s", series, text)
	return found[1]
}

// chat of about so many bytes.
func chat(size int) string {
	return `{"model":"tiny","messages":[{"role":"user","content":"` + strings.Repeat("a", size) + `"}]}`
}

// smallBodies is a front whose largest body is 1 MiB, so that 16 MiB of bodies are all that it holds.
func smallBodies() *AuthFrontArgs {
	args := front()
	args.BodyMiB, args.QueueLength = 1, 100
	return args
}

func TestAllBodiesTogetherAreBoundedAndOneTeamHasHalf(t *testing.T) {
	t.Parallel()
	server, _, release := busyServer()
	r := startAs(t, smallBodies(), freePorts(t), stub(t, server))
	answers := make(chan string, 40)
	send := func(key string) {
		go func() {
			status, body := r.answer(t, request(t, "POST", r.api+"/api/chat", key, chat(1<<20-100)))
			var failure struct{ Error struct{ Code string } }
			_ = json.Unmarshal([]byte(body), &failure) // a good answer has none
			answers <- strings.TrimSpace(fmt.Sprint(status, " ", failure.Error.Code))
		}()
	}
	held := func(want int) {
		require.Eventually(t, func() bool {
			var size int
			_, err := fmt.Sscan(r.teamMetric(t, "ollama_front_body_bytes"), &size)
			require.NoError(t, err)
			return (size+1<<19)>>20 == want
		}, 10*time.Second, 20*time.Millisecond, "%d bodies of 1 MiB", want)
	}
	for range 8 {
		send("key-ide")
	}
	held(8)
	send("key-ide")
	assert.Equal(t, "503 too_many_large_bodies", <-answers, "half of the room is one team's")
	for range 8 {
		send("key-batch")
	}
	held(16)
	send("key-narrow")
	assert.Equal(t, "503 too_many_large_bodies", <-answers, "there is no more room")
	status, _ := r.answer(t, request(t, "GET", r.api+"/v1/models", "key-narrow", ""))
	assert.Equal(t, 200, status, "what has no body needs none")
	close(release)
	for range 16 {
		assert.Equal(t, "200", <-answers)
	}
	held(0)
}

func TestABodyGivesItsRoomBackHoweverItsRequestEnds(t *testing.T) {
	t.Parallel()
	server, busy, release := busyServer()
	r := startAs(t, smallBodies(), freePorts(t), stub(t, server))
	for name, body := range map[string]string{
		"refused":           `{"MODEL":"tiny","x":"` + strings.Repeat("a", 1<<19) + `"}`,
		"no JSON":           strings.Repeat("[", 1<<19),
		"of no known model": strings.Replace(chat(1<<19), "tiny", "none", 1),
	} {
		status, _ := r.answer(t, request(t, "POST", r.api+"/api/chat", "key-ide", body))
		assert.GreaterOrEqual(t, status, 400, name)
	}
	var served sync.WaitGroup
	for range 2 { // both slots
		served.Go(func() { r.answer(t, request(t, "POST", r.api+"/api/chat", "key-batch", chat(1))) })
		<-busy
	}
	leave := func(send func(ctx context.Context)) {
		ctx, cancel := context.WithCancel(t.Context())
		go send(ctx)
		require.Eventually(
			t, func() bool { return r.teamMetric(t, "ollama_front_body_bytes") != "0" }, 5*time.Second, 10*time.Millisecond,
		)
		cancel()
		require.Eventually(
			t, func() bool { return r.teamMetric(t, "ollama_front_body_bytes") == "0" }, 5*time.Second, 10*time.Millisecond,
		)
	}
	leave(func(ctx context.Context) { // one that waits
		_, err := r.client.Do(request(t, "POST", r.api+"/api/chat", "key-ide", chat(1<<19)).WithContext(ctx))
		assert.ErrorIs(t, err, context.Canceled)
	})
	unfinished := func(header string) func(ctx context.Context) {
		return func(ctx context.Context) {
			connection, err := net.Dial("tcp", strings.TrimPrefix(r.api, "http://"))
			if !assert.NoError(t, err) {
				return
			}
			defer connection.Close()
			_, err = fmt.Fprintf(connection, "POST /api/chat HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer key-ide\r\n%s", header)
			assert.NoError(t, err)
			<-ctx.Done()
		}
	}
	leave(unfinished("Content-Length: 500000\r\n\r\n{"))
	leave(unfinished("Transfer-Encoding: chunked\r\n\r\n5000\r\n" + strings.Repeat("a", 0x5000) + "\r\n"))
	close(release)
	served.Wait()
}

func TestARequestEndsWithAnErrorWhenItLastsTooLong(t *testing.T) {
	t.Parallel()
	args := front()
	args.MaxSeconds = 2
	gone := make(chan string, 10)
	r := startAs(t, args, freePorts(t), stub(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "POST" {
			return
		}
		for r.Context().Err() == nil { // a stream without end
			fmt.Fprint(w, "data: {}\n\n")
			w.(http.Flusher).Flush()
			time.Sleep(50 * time.Millisecond) // the pace of its tokens
		}
		gone <- r.URL.Path
	}))
	for path, want := range map[string]string{
		"/v1/chat/completions": "data: {\"error\":{\"message\":\"The answer took longer than a request may last." +
			"\",\"type\":\"server_error\"," +
			"\"param\":null,\"code\":\"request_too_long\"}}\n\ndata: [DONE]\n\n",
		"/api/generate": "{\"error\":\"The answer took longer than a request may last.\"}\n",
		"/v1/messages": "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"timeout_error\"," +
			"\"message\":\"The answer took longer than a request may last.\"}}\n\n",
		"/v1/responses": "event: error\ndata: {\"type\":\"error\",\"code\":\"request_too_long\"," +
			"\"message\":\"The answer took longer than a request may last.\",\"param\":null}\n\n",
	} {
		began := time.Now()
		response, err := r.client.Do(request(t, "POST", r.api+path, "key-ide", `{"model":"tiny","stream":true}`))
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		assert.ErrorIs(t, err, io.ErrUnexpectedEOF, "the transport's own error comes after it")
		assert.True(t, strings.HasSuffix(string(body), "data: {}\n\n"+want), "%s: %q", path, string(body))
		assert.InDelta(t, 2, time.Since(began).Seconds(), 1.5)
		select {
		case of := <-gone:
			assert.Equal(t, path, of)
		case <-time.After(5 * time.Second):
			t.Fatal("the server should be told")
		}
	}
}

func TestUnknownKeysAreCountedAndLimitedBySource(t *testing.T) {
	t.Parallel()
	r, _ := startFront(t)
	statuses := map[int]int{}
	for range 30 {
		status, _ := r.answer(t, request(t, "GET", r.api+"/v1/models", "guess", ""))
		statuses[status]++
	}
	assert.Equal(t, map[int]int{401: 20, 429: 10}, statuses)
	status, _ := r.answer(t, request(t, "GET", r.api+"/v1/models", "key-ide", ""))
	assert.Equal(t, 200, status, "others may share the address")
	assert.Equal(t, "30", r.teamMetric(t, "ollama_front_failed_authentications_total"))
	assert.Equal(t, 20, strings.Count(r.log.String(), `"status": 401`), "lines in the log")
	assert.Zero(t, strings.Count(r.log.String(), `"status": 429`), "lines in the log")
}

func TestTheServerSeesNoHeaderThatItDoesNotNeed(t *testing.T) {
	t.Parallel()
	r, requests := startFront(t)
	asked := request(t, "POST", r.api+"/api/chat", "key-ide", `{"model":"tiny"}`)
	for _, name := range []string{
		"X-Api-Key", "Api-Key", "Proxy-Authorization", "Forwarded", "X-Forwarded-For", "X-Real-Ip", "Referer", "Origin",
		"Cookie", "User-Agent",
		"X-Forwarded-Groups", "X-Front-Source", "Via", "X-Anything", "Accept-Encoding", "Content-Encoding", "Upgrade", "Te",
	} {
		asked.Header.Set(name, "key-ide")
	}
	asked.Header.Set("Content-Type", "application/json")
	asked.Header.Set("Accept", "text/event-stream")
	asked.Header.Set("X-Request-Id", "my-id.1")
	asked.Host = "llm.example.com"
	response, err := r.client.Do(asked)
	require.NoError(t, err)
	response.Body.Close()
	require.Equal(t, 200, response.StatusCode)
	assert.Equal(t, "my-id.1", response.Header.Get("X-Request-Id"))
	var names []string
	for name := range (<-requests).header {
		names = append(names, name)
	}
	slices.Sort(names)
	assert.Equal(t, []string{"Accept", "Connection", "Content-Length", "Content-Type", "X-Request-Id"}, names)

	asked = request(t, "GET", r.api+"/v1/models", "key-ide", "")
	asked.Header.Set("X-Request-Id", "quotes\" and\tmore")
	response, err = r.client.Do(asked)
	require.NoError(t, err)
	response.Body.Close()
	assert.Regexp(t, `^[0-9a-f-]{36}$`, response.Header.Get("X-Request-Id"), "one that the log cannot take is replaced")
}

func TestTheLogIsJSONWhateverAClientSends(t *testing.T) {
	t.Parallel()
	r, _ := startFront(t)
	wild := "\"\\\t\x01\x7f\xff\xc3('$(id)%[src]"
	address := strings.TrimPrefix(r.api, "http://")
	bodies := []string{
		`{"model":["a-list"]}`, `{"model":"` + strings.Repeat(`\"`, 250) + `"}`,
		`{"model":"` + strings.Repeat("é", 250) + `"}`,
		`{"model":"` + strings.Repeat("x", 5000) + `"}`, "{\"model\":\"a\xff\"}", `{"model":"a\u0000b"}`,
		`{"model":"\ud83d\ude00\ud83d"}`,
		`{"model":"</script>"}`, `{"model":"tiny","prompt":"key-secret"}`,
	}
	for _, body := range bodies {
		r.answer(t, request(t, "POST", r.api+"/api/chat?api_key=key-secret", "key-ide", body))
	}
	r.answer(t, request(t, "POST", r.api+"/key-secret/v1", "key-ide", "{}"))
	for _, raw := range []string{
		"GET /" + strings.Repeat("key-secret", 900) + " HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer key-ide\r\n\r\n",
		strings.Repeat("M", 9000) + " /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer key-ide\r\n\r\n",
		"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " +
			"key-ide\r\nX-Request-Id: " + wild + "\r\nX-Forwarded-For: " + wild + "\r\n\r\n",
		"GET /" + wild + " HTTP/1.1\r\nHost: a\r\n\r\n",
		"\x16\x03\x01 no HTTP\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + wild,
	} {
		connection, err := net.Dial("tcp", address)
		require.NoError(t, err)
		require.NoError(t, connection.SetDeadline(time.Now().Add(5*time.Second)))
		_, err = io.WriteString(connection, raw)
		require.NoError(t, err)
		_, _ = bufio.NewReader(connection).ReadByte() // an answer or the end
		connection.Close()
	}
	last := request(t, "GET", r.api+"/v1/models", "key-ide", "")
	last.Header.Set("X-Request-Id", "the-last-one")
	r.answer(t, last)
	require.Eventually(
		t, func() bool { return strings.Contains(r.log.String(), "the-last-one") }, 5*time.Second, 20*time.Millisecond,
	)
	lines := 0
	for _, line := range strings.Split(r.log.String(), "\n") {
		if !strings.HasPrefix(line, "{") { // HAProxy's own messages
			continue
		}
		lines++
		assert.True(t, json.Valid([]byte(line)), "%s", line)
	}
	assert.Greater(t, lines, len(bodies)+4)
	assert.NotContains(t, r.log.String(), "key-secret")
	assert.NotContains(t, r.log.String(), "a-list")
}

func TestTeamsTakeTurnsInAQueue(t *testing.T) {
	t.Parallel()
	args := front()
	args.QueueLength = 100
	server, busy, release := busyServer()
	r := startAs(t, args, freePorts(t), stub(t, server))
	answers := make(chan string, 20)
	for range 2 { // both slots
		ask(t, r, "key-slow", "", answers)
		<-busy
	}
	waiting := 0
	wait := func(key, prompt string) {
		ask(t, r, key, prompt, answers)
		waiting++
		r.awaitQueue(t, fmt.Sprint(waiting))
	}
	for i := range 4 {
		wait("key-ide", fmt.Sprint("ide ", i))
	}
	wait("key-slow", "slow 0")
	var order []string
	for range waiting {
		release <- struct{}{}
		order = append(order, <-busy)
	}
	// The first of both teams have the same turn.
	assert.LessOrEqual(t, slices.Index(order, "slow 0"), 1, "%v", order)
	order = slices.DeleteFunc(order, func(prompt string) bool { return prompt == "slow 0" })
	assert.Equal(t, []string{"ide 0", "ide 1", "ide 2", "ide 3"}, order)
	close(release)
	for range waiting + 2 {
		assert.Equal(t, "200", <-answers)
	}
}

func TestABackgroundTeamCannotFillTheQueue(t *testing.T) {
	t.Parallel()
	args := front()
	args.QueueLength = 6
	server, busy, release := busyServer()
	r := startAs(t, args, freePorts(t), stub(t, server))
	answers := make(chan string, 20)
	for range 2 {
		ask(t, r, "key-ide", "", answers)
		<-busy
	}
	for i := range 3 {
		ask(t, r, "key-batch", "", answers)
		r.awaitQueue(t, fmt.Sprint(i+1))
	}
	ask(t, r, "key-batch", "", answers)
	assert.Equal(t, "503 queue_full", <-answers, "half of the queue is not for the background")
	ask(t, r, "key-ide", "", answers)
	r.awaitQueue(t, "4")
	close(release)
	for range 6 {
		assert.Equal(t, "200", <-answers)
	}
}

func TestKeysFromElsewhereAreReadAgainAndWrongLinesLeftOut(t *testing.T) {
	t.Parallel()
	args, own := front(), freePorts(t)
	args.KeysSecret = "team-keys"
	config := writeFront(t, args, keys, own, stub(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }))
	file := filepath.Join(filepath.Dir(config), "own-keys.map")
	write := func(text string) {
		// As the kubelet does it: another file in its place at once.
		require.NoError(t, os.WriteFile(file+".new", []byte(text), 0o600))
		require.NoError(t, os.Rename(file+".new", file))
	}
	empty := hashedKeys(map[string]string{"ide": ""})
	write("no line at all\n" + hashedKeys(map[string]string{
		"nobody": "key-of-no-team",
	}) + empty + hashedKeys(map[string]string{"batch": "key-first"}))
	r := startFile(t, args, own, config)
	status := func(key string) int {
		asked := request(t, "GET", r.api+"/v1/models", key, "")
		if key == "" {
			asked.Header.Set("X-Api-Key", "")
		}
		status, _ := r.answer(t, asked)
		return status
	}
	assert.Equal(t, 200, status("key-first"))
	assert.Equal(t, 401, status("key-of-no-team"), "it would have no limits")
	assert.Equal(t, 401, status(""), "an empty key is none")
	write(hashedKeys(map[string]string{"batch": "key-second"}))
	require.Eventually(t, func() bool { return status("key-second") == 200 }, 15*time.Second, 200*time.Millisecond)
	assert.Contains(t, []int{401, 429}, status("key-first"))
	assert.Equal(t, 200, status("key-ide"), "ours go on")
	assert.Contains(t, r.log.String(), `{"event":"front.keysSecret was read","keys":2,"wrong_lines":2}`)
}

func TestARenewedCertificateIsTakenOver(t *testing.T) {
	t.Parallel()
	args, own := front(), freePorts(t)
	args.TLSSecret = "certificate"
	config := writeFront(t, args, keys, own, stub(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }))
	r := startFile(t, args, own, config)
	certificateNow := func() []byte {
		// nolint:gosec // it is looked at only
		connection, err := tls.Dial("tcp", strings.TrimPrefix(r.api, "https://"), &tls.Config{InsecureSkipVerify: true})
		require.NoError(t, err)
		defer connection.Close()
		return connection.ConnectionState().PeerCertificates[0].Raw
	}
	before := certificateNow()
	certificate, key := testcert.New(t)
	folder := filepath.Dir(config)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "tls.crt"), []byte(certificate), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "tls.key"), []byte(key), 0o600))
	require.Eventually(
		t, func() bool { return !bytes.Equal(certificateNow(), before) }, 20*time.Second, 200*time.Millisecond, "%s", r.log,
	)
}
