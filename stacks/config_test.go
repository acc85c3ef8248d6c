package stacks_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/components"
	"ollama-k8s/stacks"
)

var project = fstest.MapFS{
	"modelfiles/reviewer": {Data: []byte("FROM llama3:8b\n")},
	"modelfiles/unknown":  {Data: []byte("FROM gpt-4\n")},
	"modelfiles/loop":     {Data: []byte("FROM loop\n")},
	"modelfiles/long":     {Data: []byte("FROM llama3:8b\nPARAMETER num_ctx 8192\n")},
}

// minimal is the smallest config.
func minimal() map[string]string {
	return map[string]string{"models": `[{"name":"llama3:8b"}]`, "pools": `{"chat":{}}`, "teams": `{"dev":{}}`}
}

func TestAMinimalConfigGetsItsDefaults(t *testing.T) {
	config, err := stacks.Load(minimal(), project)
	require.NoError(t, err)
	assert.Equal(t, "ollama", config.Namespace.Name)
	assert.Equal(t, components.ReadWriteOnce, config.Store.AccessMode)
	assert.Equal(t, "100Gi", config.Store.Size)
	assert.Equal(t, []string{"llama3:8b"}, config.Pools["chat"].Models)
	assert.Equal(t, 1, config.Pools["chat"].Replicas.Max)
	assert.Zero(t, config.Pools["chat"].ContextLength, "the plan chooses")
	assert.Equal(t, components.PriorityInteractive, config.Teams["dev"].Priority)
	assert.Equal(t, 2, config.Front.Replicas)
	assert.EqualValues(t, "none", config.Autoscaling.Engine)
	assert.Nil(t, config.Expose.Ingress)
	assert.Nil(t, config.OIDC)

	values := minimal()
	values["oidc"] = `{}` // Pulumi.yaml's default
	config, err = stacks.Load(values, project)
	require.NoError(t, err)
	assert.Nil(t, config.OIDC)
	assert.Nil(t, config.Expose.LoadBalancer)
}

func TestEveryProblemNamesItsKeyItsValueAndARemedy(t *testing.T) {
	for name, test := range map[string]struct {
		change map[string]string
		want   string
	}{
		"an unknown key": {map[string]string{"storage": `{}`}, `storage: unknown key: did you ` +
			`mean store?`},
		"an unknown key far from any": {map[string]string{"q": `{}`}, `q: unknown key: use one of ` +
			`autoscaling, cluster`},
		"an unknown key inside": {map[string]string{
			"pools": `{"chat":{"replcas":{"min":1}}}`,
		}, `pools.chat.replcas: unknown key: did you mean replicas?`},
		"a wrong type": {map[string]string{
			"pools": `{"chat":{"parallel":"four"}}`,
		}, `pools.chat.parallel: "four" is of type string: use integer (Requests that one pod answers`},
		"text where a list must be": {map[string]string{"models": `llama3:8b`}, `models: "llama3:8b" is of ` +
			`type string: use array`},
		"a value out of a set": {map[string]string{
			"store": `{"accessMode":"RWX"}`,
		}, `store.accessMode: "RWX" is not one of ["ReadWriteOnce","ReadWriteMany"]`},
		"a value out of range": {map[string]string{
			"pools": `{"chat":{"parallel":0}}`,
		}, `pools.chat.parallel: 0 is not allowed`},
		"a malformed value": {map[string]string{
			"store": `{"size":"100"}`,
		}, `store.size: "100" is not allowed`},
		"an image that is not pinned": {map[string]string{
			"images": `{"ollama":"ollama/ollama:latest"}`,
		}, `images.ollama: "ollama/ollama:latest" is not pinned`},
		"a pool name that no object may have": {map[string]string{
			"pools": `{"Chat_1":{}}`,
		}, `pools.Chat_1: the name is not allowed`},
		"two ways of exposure": {map[string]string{
			"expose": `{"loadBalancer":{},"ingress":{"host":"a"}}`,
		}, `expose: has 2 keys: use at most 1`},
		"an issuer without a Secret": {map[string]string{
			"expose": `{"ingress":{"host":"a","clusterIssuer":"b"}}`,
		}, `expose.ingress.tlsSecret: is missing: name the Secret in which b`},
		"a gateway without its name": {map[string]string{
			"expose": `{"gateway":{"host":"a"}}`,
		}, `expose.gateway.name: is missing`},
		"an ingress without its host": {map[string]string{
			"expose": `{"ingress":{}}`,
		}, `expose.ingress.host: is missing: set it (Host name of the endpoint)`},
		"a model twice": {map[string]string{
			"models": `[{"name":"llama3:8b"},{"name":"llama3:8b"}]`,
		}, `models[1].name: "llama3:8b" is the same model as models[0]`},
		"two models of one name in metrics": {
			map[string]string{"models": `[{"name":"a/b:x"},{"name":"a_b:x"}]`},
			`models[1].name: "a_b:x" has the same name in metrics as models[0], a/b:x: use only one of them`,
		},
		"a Modelfile that is not there": {map[string]string{
			"models": `[{"name":"llama3:8b"},{"name":"a","modelfile":"modelfiles/none"}]`,
		}, `models[1].modelfile: "modelfiles/none" cannot be read`},
		"a Modelfile outside the project": {map[string]string{
			"models": `[{"name":"llama3:8b"},{"name":"a","modelfile":"../x"}]`,
		}, `models[1].modelfile: "../x" cannot be read`},
		"a pool's model that is not listed": {map[string]string{
			"pools": `{"chat":{"models":["gpt"]}}`,
		}, `pools.chat.models[0]: "gpt" is not in models`},
		"a model in two pools": {map[string]string{
			"store": `{"accessMode":"ReadWriteMany"}`, "pools": `{"a":{"models":["llama3:8b"]},"b":{"models":["llama3:8b"]}}`,
		}, `pools.b.models[0]: "llama3:8b" is already in pools.a`},
		"several pools that do not say": {map[string]string{
			"store": `{"accessMode":"ReadWriteMany"}`, "pools": `{"a":{},"b":{"models":["llama3:8b"]}}`,
		}, `pools.a.models: is missing`},
		"max below min": {map[string]string{
			"store": `{"accessMode":"ReadWriteMany"}`, "pools": `{"chat":{"replicas":{"min":3,"max":2}}}`,
		}, `pools.chat.replicas.max: 2 is below replicas.min 3`},
		"max above min without an engine": {map[string]string{
			"store": `{"accessMode":"ReadWriteMany"}`, "pools": `{"chat":{"replicas":{"max":2}}}`,
		}, `pools.chat.replicas.max: 2 is above min 1 but autoscaling.engine is none`},
		"ReadWriteOnce for several pods": {map[string]string{
			"pools": `{"chat":{"replicas":{"min":2}}}`,
		}, `pools.chat.replicas.max: 2 pods cannot share a volume with store.accessMode ReadWriteOnce`},
		"ReadWriteOnce for several pools": {map[string]string{
			"models": `[{"name":"llama3:8b"},{"name":"b"}]`, "pools": `{"a":{"models":["llama3:8b"]},"b":{"models":["b"]}}`,
		}, `store.accessMode: ReadWriteOnce mounts on only one node`},
		"VRAM without a GPU": {map[string]string{
			"pools": `{"chat":{"gpu":{"vramGiB":24}}}`,
		}, `pools.chat.gpu.vramGiB: 24 is set but gpu.count is 0`},
		"a model that does not fit": {map[string]string{
			"models": `[{"name":"llama3:8b","vramGiB":30}]`, "pools": `{"chat":{"gpu":{"count":1,"vramGiB":24}}}`,
		}, `pools.chat.gpu.vramGiB: llama3:8b needs 30.0 GiB, as its vramGiB says; each GPU has 24.0 GiB: set ` +
			`gpu.count to 2`},
		"more loaded models than fit": {map[string]string{
			"models": `[{"name":"llama3:8b","vramGiB":20},{"name":"b","vramGiB":20}]`,
			"pools":  `{"chat":{"gpu":{"count":1,"vramGiB":24},"maxLoadedModels":2}}`,
		}, `pools.chat.maxLoadedModels: 2 models do not fit together, only 1`},
		"a MIG slice of an AMD GPU": {map[string]string{
			"pools": `{"chat":{"gpu":{"count":1,"vendor":"amd","mig":"1g.10gb"}}}`,
		}, `pools.chat.gpu.mig: "1g.10gb" is set but gpu.vendor is amd`},
		"two MIG slices": {map[string]string{
			"pools": `{"chat":{"gpu":{"count":2,"mig":"1g.10gb"}}}`,
		}, `pools.chat.gpu.count: 2 slices of 1g.10gb`},
		"a product without a GPU": {map[string]string{
			"pools": `{"chat":{"gpu":{"product":"A100"}}}`,
		}, `pools.chat.gpu.product: A100 is set but gpu.count is 0`},
		"an AMD pool and an image by digest": {map[string]string{
			"images": `{"ollama":"ollama/ollama@sha256:` + strings.Repeat("0", 64) + `"}`,
			"pools":  `{"chat":{"gpu":{"count":1,"vendor":"amd"}}}`,
		}, `images.ollamaROCm: is missing`},
		"a claim for all and one for each": {map[string]string{
			"store": `{"existingClaim":"a","perReplica":true}`,
		}, `store.existingClaim: "a" is set but store.perReplica`},
		"a check of claims that are not shared": {map[string]string{
			"store": `{"perReplica":true}`, "update": `{"schedule":"0 3 * * 0"}`,
		}, `update.schedule: "0 3 * * 0" needs a store that all pods share`},
		"a schedule that is none": {map[string]string{
			"update": `{"schedule":"weekly"}`,
		}, `update.schedule: "weekly" is not allowed`},
		"a cache type that is none": {map[string]string{
			"pools": `{"chat":{"kvCacheType":"q5_1"}}`,
		}, `pools.chat.kvCacheType: "q5_1" is not one of`},
		"a FROM that nobody knows": {map[string]string{
			"models": `[{"name":"llama3:8b"},{"name":"a","modelfile":"modelfiles/unknown"}]`,
		}, `modelfiles/unknown:1: FROM gpt-4 is neither in models nor in models.lock.yaml`},
		"a FROM that leads back": {map[string]string{
			"models": `[{"name":"llama3:8b"},{"name":"loop","modelfile":"modelfiles/loop"}]`,
		}, `modelfiles/loop:1: FROM loop leads back to this model`},
		"a Modelfile's context above the pool's": {map[string]string{
			"models": `[{"name":"llama3:8b"},{"name":"a","modelfile":"modelfiles/long"}]`,
			"pools":  `{"chat":{"contextLength":4096}}`,
		}, `modelfiles/long:2: num_ctx 8192 is above pools.chat.contextLength 4096`},
		"a pool name that collides": {map[string]string{
			"pools": `{"chat-pods":{}}`,
		}, `pools.chat-pods: a name that ends in -pods can collide`},
		"a team's model that no pool has": {map[string]string{
			"teams": `{"dev":{"models":["gpt"]}}`,
		}, `teams.dev.models[0]: "gpt" is in no pool`},
		"a pool that sleeps without KEDA": {map[string]string{
			"autoscaling": `{"engine":"hpa"}`, "pools": `{"chat":{"replicas":{"min":0,"max":1}}}`,
		}, `pools.chat.replicas.min: 0 scales the pool to zero when it is idle, but autoscaling.engine is hpa`},
		"a pool of nothing": {map[string]string{
			"autoscaling": `{"engine":"keda"}`, "pools": `{"chat":{"replicas":{"min":0}}}`,
		}, `pools.chat.replicas.max: is missing: with min 0`},
		"a volume for an operator's Prometheus": {map[string]string{
			"observability": `{"prometheus":"operator","storage":"1Gi"}`,
		}, `observability.storage: 1Gi is for the bundled Prometheus`},
		"a class of no volume": {map[string]string{
			"observability": `{"storageClass":"fast"}`,
		}, `observability.storageClass: "fast" is set but there is no volume`},
		"existing exporters for an operator": {map[string]string{
			"observability": `{"prometheus":"operator","dcgm":"existing"}`,
		}, `observability.dcgm: existing is for the bundled Prometheus`},
		"exporters for nobody": {map[string]string{
			"observability": `{"prometheus":"none","dcgm":"deploy"}`,
		}, `observability.dcgm: deploy is set but observability.prometheus is none`},
		"an autoscaler without metrics": {map[string]string{
			"observability": `{"prometheus":"none"}`, "autoscaling": `{"engine":"keda"}`,
		}, `autoscaling.engine: keda scales by Prometheus metrics, but observability.prometheus is none`},
		"KEDA without the operator's address": {map[string]string{
			"observability": `{"prometheus":"operator"}`, "autoscaling": `{"engine":"keda"}`,
		}, `observability.serverURL: is missing`},
		"a key that is missing": {map[string]string{"teams": ""}, `teams: is missing: set it (Teams, by ` +
			`name.`},
		"no team at all": {map[string]string{"teams": `{}`}, `teams: {} is not allowed`},
		"no valid key at all": {map[string]string{
			"teams": `{"dev":{"keys":[]}}`,
		}, `teams.dev.keys: is empty, so the team has no way to sign in`},
		"HTTPS twice": {map[string]string{
			"front": `{"tlsSecret":"cert"}`, "expose": `{"ingress":{"host":"a"}}`,
		}, `front.tlsSecret: "cert" makes the front serve HTTPS, but an ingress or a gateway speaks plain HTTP to it`},
		"a group of no team": {map[string]string{
			"oidc": `{"issuerURL":"https://id","groups":{"/ml":"deev"}}`,
		}, `oidc.groups./ml: "deev" is not a team`},
		"a group that no header can carry": {map[string]string{
			"oidc": `{"issuerURL":"https://id","groups":{"a\nb":"dev"}}`,
		}, `oidc.groups: "a\nb" is not a valid group name`},
		"OIDC without an issuer": {map[string]string{
			"oidc": `{"groups":{"/ml":"dev"}}`,
		}, `oidc.issuerURL: is missing`},
		"an issuer that is no address": {map[string]string{
			"oidc": `{"issuerURL":"id.example.com","groups":{"/ml":"dev"}}`,
		}, `oidc.issuerURL: "id.example.com" is not allowed`},
		"a key twice": {map[string]string{
			"teams": `{"dev":{"keys":[2,2]}}`,
		}, `teams.dev.keys: [2,2] is not allowed`},
		"a negative limit": {map[string]string{
			"teams": `{"dev":{"requestsPerMinute":-1}}`,
		}, `teams.dev.requestsPerMinute: -1 is not allowed`},
		"a registry without a path for models": {map[string]string{
			"store": `{"registry":"https://host"}`,
		}, `store.registry: "https://host" is not allowed`},
	} {
		t.Run(name, func(t *testing.T) {
			values := minimal()
			for key, value := range test.change {
				if values[key] = value; value == "" {
					delete(values, key)
				}
			}
			_, err := stacks.Load(values, project)
			require.Error(t, err)
			assert.Contains(t, err.Error(), test.want)
			assert.Contains(
				t, err.Error(), "the stack config has 1 problem, nothing was changed", "one mistake must read as one problem",
			)
		})
	}
}

func TestFiveMistakesAreNamedAtOnce(t *testing.T) {
	values, err := stacks.ReadFile("testdata/wrong.yaml", stacks.Project)
	require.NoError(t, err)
	_, err = stacks.Load(values, project)
	require.Error(t, err)
	lines := strings.Split(err.Error(), "\n")
	assert.Equal(t, "the stack config has 5 problems, nothing was changed:", lines[0])
	for i, key := range []string{
		"pools.chat.models[1]", "pools.chat.parallel", "pools.chat.replicas.max", "storge", "teams.dev.priority",
	} {
		assert.Truef(t, strings.HasPrefix(lines[i+1], key+": "), "line %d is %q, want %s", i+1, lines[i+1], key)
	}
}

func TestTheMinimalStackStaysUnderTenLines(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(projectFolder, "Pulumi.dev.yaml"))
	require.NoError(t, err)
	assert.Less(t, strings.Count(string(text), "\n"), 10)
}

func TestEveryKeyIsDeclaredInThePulumiProject(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(projectFolder, "Pulumi.yaml"))
	require.NoError(t, err)
	for _, key := range stacks.Keys() {
		assert.Contains(t, string(text), "\n  "+stacks.Project+":"+key+":\n")
	}
}

func TestAStackFileWithAKeyTwiceIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "Pulumi.x.yaml")
	require.NoError(t, os.WriteFile(path, []byte(
		"config:\n  ollama-k8s:teams: {a: {}}\n  ollama-k8s:teams: {b: {}}\n",
	), 0o600))
	_, err := stacks.ReadFile(path, stacks.Project)
	assert.ErrorContains(t, err, "already set in map")
}
