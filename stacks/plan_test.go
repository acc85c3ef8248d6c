package stacks_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/internal/lockfile"
	"ollama-k8s/internal/vram"
	"ollama-k8s/stacks"
)

// shippedLock is the project's own lock, beside Modelfiles that tests name.
func shippedLock(t *testing.T) fstest.MapFS {
	text, err := os.ReadFile("../models.lock.yaml")
	require.NoError(t, err)
	folder := fstest.MapFS{lockfile.Name: {Data: text}, "modelfiles/child": {Data: []byte(
		"FROM llama3:8b\nPARAMETER num_ctx 4096\n",
	)}}
	for name, file := range project {
		folder[name] = file
	}
	return folder
}

// one is a stack of one pool, with one GPU in each pod.
func one(models, pool string) map[string]string {
	return map[string]string{"models": models, "pools": `{"chat":{"gpu":{"count":1,` + pool + `}}`, "teams": `{"dev":{}}`}
}

// What the models take at 8k x 4, and two measurements of a running Ollama (`/api/ps`).
func TestThePlannedMemoryIsWithinTenPercentOfWhatIsKnown(t *testing.T) {
	const gb = 1e9 / vram.GiB
	for _, test := range []struct {
		model             string
		context, parallel int
		gib               float64
	}{
		{"llama3:8b", 8192, 4, 9.8}, {"llama3.3:70b", 8192, 4, 51}, {"qwen2.5-coder:32b", 8192, 4, 28},
		{"gpt-oss:20b", 8192, 4, 15.8},
		{"qwen2.5-coder:32b", 16384, 2, 28.43 * gb}, {"qwen2.5-coder:32b", 32768, 4, 54.24 * gb},
	} {
		config, err := stacks.Load(one(fmt.Sprintf(`[{"name":%q}]`, test.model), fmt.Sprintf(
			`"vramGiB":141},"contextLength":%d,"parallel":%d`, test.context, test.parallel,
		)), shippedLock(t))
		require.NoError(t, err)
		planned := float64(config.Plan("chat").Loads[0].Uses()) / vram.GiB
		t.Logf(
			"%-18s %5d x %d: planned %5.2f GiB, known %5.2f GiB, %+.1f %%", test.model, test.context, test.parallel, planned,
			test.gib, 100*(planned/test.gib-1),
		)
		assert.InEpsilon(t, test.gib, planned, 0.1, test.model)
	}
	config, err := stacks.Load(one(
		`[{"name":"nomic-embed-text"}]`, `"vramGiB":8},"contextLength":8192,"parallel":4`,
	), shippedLock(t))
	require.NoError(t, err)
	load := config.Plan("chat").Loads[0]
	t.Logf("nomic-embed-text: planned %.2f GiB, known: under 1", float64(load.Uses())/vram.GiB)
	assert.Less(t, load.Uses(), int64(vram.GiB))
	assert.Equal(t, 1, load.Parallel)
}

func TestA70BModelIsRefusedOn48GiBAndAcceptedOn80(t *testing.T) {
	asked := func(vramGiB int, more string) map[string]string {
		return one(`[{"name":"llama3.3:70b"}]`, fmt.Sprintf(`"vramGiB":%d},"contextLength":8192%s`, vramGiB, more))
	}
	_, err := stacks.Load(asked(48, `,"parallel":4`), shippedLock(t))
	require.Error(t, err)
	t.Log(err)
	assert.Contains(
		t, err.Error(),
		"pools.chat.gpu.vramGiB: llama3.3:70b needs 54.9 GiB = weights 39.6 + KV cache 10.0 (8192 tokens x 4 requests)",
	)
	suggested := regexp.MustCompile(`set parallel to (\d)`).FindStringSubmatch(err.Error())
	require.NotNil(t, suggested, "a suggestion")
	_, err = stacks.Load(asked(48, `,"parallel":`+suggested[1]), shippedLock(t))
	assert.NoError(t, err, "which works")
	config, err := stacks.Load(asked(80, `,"parallel":4`), shippedLock(t))
	require.NoError(t, err)
	assert.Equal(t, 1, config.Plan("chat").MaxLoaded)

	two := one(
		`[{"name":"llama3.3:70b"},{"name":"another:70b","vramGiB":51}]`, `"vramGiB":80},"contextLength":8192,"parallel":4`,
	)
	config, err = stacks.Load(two, shippedLock(t))
	require.NoError(t, err)
	assert.Equal(t, 1, config.Plan("chat").MaxLoaded, "never two")
	two["pools"] = strings.Replace(two["pools"], `"parallel":4`, `"parallel":4,"maxLoadedModels":2`, 1)
	_, err = stacks.Load(two, shippedLock(t))
	assert.ErrorContains(t, err, "pools.chat.maxLoadedModels: 2 models do not fit together, only 1")
}

func TestAModelfilesModelIsPlannedWithTheWeightsItIsMadeFrom(t *testing.T) {
	config, err := stacks.Load(one(
		`[{"name":"llama3:8b"},{"name":"child","modelfile":"modelfiles/child"}]`, `"vramGiB":24},"contextLength":8192`,
	), shippedLock(t))
	require.NoError(t, err)
	plan := config.Plan("chat")
	require.Len(t, plan.Loads, 2)
	assert.Equal(t, plan.Loads[0].Weights, plan.Loads[1].Weights)
	assert.Equal(t, 4096, plan.Loads[1].Context)
	assert.Len(t, plan.Warnings, 1, "they disagree on the context")
}

func TestAFROMThatOnlyTheLockNamesIsPulledToo(t *testing.T) {
	values := one(`[{"name":"child","modelfile":"modelfiles/child"}]`, `"vramGiB":24}`)
	config, err := stacks.Load(values, shippedLock(t))
	require.NoError(t, err)
	assert.Equal(t, []string{"child"}, config.Pools["chat"].Models, "it is not offered")
	assert.Len(t, config.Plan("chat").Loads, 1)
}

// keyForm is how a problem begins: a key of the config, or a file with its line.
var keyForm = regexp.MustCompile(
	`^(models|pools|teams|store|update|images|front|autoscaling|observability|expose)(\.[a-zA-Z0-9-]+|\[\d+\])*: ` +
		`|^modelfiles/[a-z]+:\d+: `,
)

// 10,000 stack configs, right and wrong: no panic, each refusal names a key, and more VRAM never refuses what less
// accepted.
func TestAnyConfigIsRefusedByKeyOrPlanned(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	folder := shippedLock(t)
	accepted := 0
	tries := configTries(t)
	for range tries {
		vramGiB := 4 + random.IntN(150)
		values := randomConfig(t, random, vramGiB)
		config, err := stacks.Load(values, folder)
		if err != nil {
			lines := strings.Split(err.Error(), "\n")
			require.Greater(t, len(lines), 1)
			for _, line := range lines[1:] {
				require.Regexp(t, keyForm, line, "%v", values)
			}
			continue
		}
		accepted++
		for name, pool := range config.Pools {
			plan := config.Plan(name)
			for _, l := range plan.Loads {
				if pool.GPU.VRAMGiB > 0 {
					require.LessOrEqual(t, l.Needs(), int64(pool.GPU.VRAMGiB*vram.GiB))
				}
			}
		}
		larger := map[string]string{}
		maps.Copy(larger, values)
		larger["pools"] = strings.ReplaceAll(
			values["pools"], fmt.Sprintf(`"count":1,"vramGiB":%d`, vramGiB),
			fmt.Sprintf(`"count":1,"vramGiB":%d`, vramGiB+1+random.IntN(100)),
		)
		_, err = stacks.Load(larger, folder)
		require.NoError(t, err, "%v", larger)
	}
	t.Logf("%d of %d accepted", accepted, tries)
	assert.Greater(t, accepted, tries/10)
	assert.Less(t, accepted, tries*9/10)
}

// configTries is the number of random configs: CONFIG_FUZZ, by default 2,500, which take 5 s.
func configTries(t *testing.T) int {
	text := os.Getenv("CONFIG_FUZZ")
	if text == "" {
		return 2500
	}
	tries, err := strconv.Atoi(text)
	require.NoError(t, err, "CONFIG_FUZZ")
	return tries
}

func randomConfig(t *testing.T, random *rand.Rand, vramGiB int) map[string]string {
	pick := func(values ...any) any { return values[random.IntN(len(values))] }
	models := []any{map[string]any{"name": pick(
		"llama3:8b", "llama3:8b", "llama3.3:70b", "qwen2.5-coder:32b", "gpt-oss:20b", "no-such", "bad name", 7,
	)}}
	for range random.IntN(3) {
		models = append(models, map[string]any{"name": pick("nomic-embed-text", "llama3:8b", "gpt-oss:20b", "mine")})
	}
	if random.IntN(4) == 0 {
		models = append(models, map[string]any{"name": "child", "modelfile": pick(
			"modelfiles/child", "modelfiles/child", "modelfiles/unknown", "modelfiles/none",
		)})
	}
	if random.IntN(6) == 0 {
		models = append(models, map[string]any{"name": "stated", "vramGiB": pick(1, 10, 60, -1)})
	}
	gpu := fmt.Sprintf(`{"count":1,"vramGiB":%d}`, vramGiB)
	pool := map[string]any{"gpu": json.RawMessage(gpu)}
	for key, values := range map[string][]any{
		"contextLength": {2048, 8192, 32768, "8k"}, "parallel": {1, 4, 16, 0}, "kvCacheType": {"f16", "q8_0", "q4_0", "q9"},
		"maxLoadedModels": {1, 2},
		"memory":          {"16Gi", "64Gi", "lots"}, "keepAlive": {"1h", "-1", "soon"},
		"replicas": {map[string]any{"min": 1}, map[string]any{"min": 2}},
	} {
		if random.IntN(6) == 0 {
			pool[key] = values[random.IntN(len(values))]
		}
	}
	if random.IntN(4) == 0 {
		pool["gpu"] = pick(
			map[string]any{}, map[string]any{"count": 2, "mig": "1g.10gb"}, map[string]any{"count": 1, "vendor": "amd"},
			map[string]any{"vramGiB": 3}, map[string]any{"count": 1, "mig": "3g.40gb"},
		)
	}
	values := map[string]any{
		"models": models, "pools": map[string]any{"chat": pool}, "teams": map[string]any{"dev": map[string]any{}},
	}
	if random.IntN(3) > 0 {
		values["store"] = pick(
			map[string]any{"accessMode": "ReadWriteMany"}, map[string]any{"perReplica": true}, map[string]any{"size": "much"},
		)
	}
	encoded := map[string]string{}
	for key, value := range values {
		text, err := json.Marshal(value)
		require.NoError(t, err)
		encoded[key] = string(text)
	}
	return encoded
}
