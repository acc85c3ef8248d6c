package components

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// schema is the part of the config's JSON schema that has defaults.
type schema struct {
	Default              any
	Properties           map[string]*schema
	AdditionalProperties json.RawMessage
	Items                *schema
}

// defaults are those of the schema, by key: pools.*.cpu.
func (s *schema) defaults(t *testing.T, prefix string, found map[string]any) {
	t.Helper()
	for key, child := range s.Properties {
		if child.Default != nil {
			found[prefix+key] = child.Default
		}
		child.defaults(t, prefix+key+".", found)
	}
	if strings.HasPrefix(string(s.AdditionalProperties), "{") {
		other := &schema{}
		require.NoError(t, json.Unmarshal(s.AdditionalProperties, other))
		other.defaults(t, prefix+"*.", found)
	}
	if s.Items != nil {
		s.Items.defaults(t, prefix+"[].", found)
	}
}

// Who uses a component alone gets what a stack's config gets.
func TestTheConfigsDefaultsAreTheComponents(t *testing.T) {
	text, err := os.ReadFile("../stacks/config.schema.json")
	require.NoError(t, err)
	root, config := &schema{}, map[string]any{}
	require.NoError(t, json.Unmarshal(text, root))
	root.defaults(t, "", config)

	store, server := ModelStoreArgs{}.withDefaults(), OllamaServerArgs{}.withDefaults()
	front, observability := AuthFrontArgs{}.withDefaults(), ObservabilityArgs{}.withDefaults()
	components := map[string]any{
		"cluster.domain":              front.ClusterDomain,
		"store.size":                  store.Size,
		"store.accessMode":            store.AccessMode,
		"store.protect":               store.Protect,
		"store.insecure":              store.Insecure,
		"store.prune":                 store.Prune,
		"store.perReplica":            store.PerReplica,
		"pools.*.gpu.count":           server.Placement.GPU.Count,
		"pools.*.gpu.vendor":          server.Placement.GPU.vendor(),
		"pools.*.gpu.spare":           server.Replicas.Surge > 0,
		"pools.*.replicas.min":        server.Replicas.Min,
		"pools.*.kvCacheType":         server.KVCacheType,
		"pools.*.keepAlive":           server.KeepAlive,
		"pools.*.cpu":                 server.CPU,
		"teams.*.concurrentRequests":  Team{}.concurrent(),
		"teams.*.priority":            Team{}.priority(),
		"front.replicas":              front.Replicas,
		"front.queueLength":           front.QueueLength,
		"front.maxBodyMiB":            front.BodyMiB,
		"front.maxSeconds":            front.MaxSeconds,
		"observability.prometheus":    observability.Mode,
		"observability.retentionDays": observability.RetentionDays,
		"observability.dcgm":          observability.DCGM,
		"observability.dcgmNamespace": observability.DCGMNamespace,
		"autoscaling.quietSeconds":    AutoscalingArgs{}.withDefaults().QuietSeconds,
	}
	for key, value := range config {
		switch {
		case strings.HasPrefix(key, "images."): // the stack pins them, a component takes any
		case key == "namespace.name": // a component makes none
		case key == "autoscaling.engine": // "none": no Autoscaling is made
		default:
			require.Contains(t, components, key, "a new default: compare it here")
			assert.Equal(t, encoded(t, value), encoded(t, components[key]), key)
		}
	}
	for key := range components {
		assert.Contains(t, config, key, "the schema has no such default")
	}
	assert.Equal(t, store.ClusterDomain, front.ClusterDomain)
	assert.Equal(t, server.DrainSeconds, front.MaxSeconds, "a pod may finish the answers that the front waits for")
}

func encoded(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	require.NoError(t, err)
	return string(text)
}
