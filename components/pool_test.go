package components

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheFrontKnowsThePodsThatAnUpdateStartsFirst(t *testing.T) {
	args := front()
	args.Pools[0].Replicas.Surge = 1
	config, err := args.haproxyConfig([]string{"ollama-chat-pods.ollama.svc", "ollama-embed-pods.ollama.svc"}, "")
	require.NoError(t, err)
	assert.Contains(
		t, config, "server-template pod 5 ollama-chat-pods.ollama.svc", "4 and one that comes before another goes",
	)
	assert.NotContains(t, config, "server-template pod 4 ")
	assert.Contains(t, config, "server-template pod 1 ollama-embed-pods.ollama.svc")
}

func TestReplicasAreOnePodUnlessSomethingElseIsSaid(t *testing.T) {
	for given, want := range map[Replicas]Replicas{
		{}:               {Min: 1, Max: 1},
		{Min: 2}:         {Min: 2, Max: 2},
		{Surge: 1}:       {Min: 1, Max: 1, Surge: 1},
		{Max: 1}:         {Max: 1},
		{Min: 1, Max: 3}: {Min: 1, Max: 3},
	} {
		assert.Equal(t, want, given.withDefaults())
	}
}
