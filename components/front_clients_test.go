package components

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// clientBody is a request as a client writes it: its body is text, so that the order of the members and the escapes are
// those of the client's serialiser.
type clientBody struct{ Client, Path, Body string }

// clientBodies are those of testdata/clients, a file for each family.
func clientBodies(t *testing.T) (all []clientBody) {
	t.Helper()
	files, err := filepath.Glob("testdata/clients/*.jsonl")
	require.NoError(t, err)
	for _, name := range files {
		file, err := os.Open(name)
		require.NoError(t, err)
		defer file.Close()
		lines := bufio.NewScanner(file)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var one clientBody
			require.NoError(t, json.Unmarshal(lines.Bytes(), &one), name)
			all = append(all, one)
		}
		require.NoError(t, lines.Err())
	}
	return all
}

// The strict reader must not be stricter than the clients: whatever they send is served.
func TestRealClientsAreServed(t *testing.T) {
	t.Parallel()
	bodies := clientBodies(t)
	require.GreaterOrEqual(t, len(bodies), 150)
	args := fuzzFront()
	for i := range args.Pools[0].Models {
		args.Pools[0].Models[i].OutputTokens = OutputTokens{Most: 64000} // as the largest model of the clients' own
	}
	server := startDecoder(t)
	r := startFuzzed(t, args, nil, server.address)
	sender := newSender(r.api)
	defer sender.close()

	requests := map[string]fuzzRequest{}
	for _, body := range bodies {
		var asked struct{ Model string }
		require.NoError(t, json.Unmarshal([]byte(body.Body), &asked), body.Client)
		for _, transport := range []string{"h1", "h1 chunked", "h2", "h2 without length"} {
			request := fuzzRequest{
				number: len(requests), team: "ide", path: body.Path, transport: transport, chunk: 2000,
				body: []byte(body.Body), model: asked.Model,
			}
			requests[request.id()] = request
			assert.Equal(t, "200", sender.send(request), "%s, %s", body.Client, transport)
		}
	}
	read := server.stop()
	for id, request := range requests {
		if assert.Len(t, read[id], 1, string(request.body)) {
			assert.Empty(t, read[id][0].Error)
			assert.Equal(t, request.model, read[id][0].Model)
			assert.True(t, sameModel(request.model, read[id][0].Judged))
		}
	}
	t.Logf("%d bodies of %d requests", len(bodies), len(requests))
	assert.Zero(t, strings.Count(r.log.String(), "runtime error"), "errors in Lua")
}
