package stacks_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/internal/render"
	"ollama-k8s/stacks"
)

const (
	onAWS   = `{"engine":"hpa","karpenter":{"nodeClass":{"group":"karpenter.k8s.aws","kind":"EC2NodeClass","name":"gpu"}}}`
	onAzure = `{"karpenter":{"nodeClass":{"group":"karpenter.azure.com","kind":"AKSNodeClass","name":"gpu"}}}`
)

func TestWhatNeitherKarpenterNorKueueCanDoIsRefused(t *testing.T) {
	requirement := func(text string) map[string]string {
		return map[string]string{
			"autoscaling": onAWS, "pools": `{"chat":{"gpu":{"count":1},"karpenter":{"requirements":[` + text + `]}}}`,
		}
	}
	for name, test := range map[string]struct {
		change map[string]string
		want   string
	}{
		"a NodePool for a CPU pool": {map[string]string{
			"autoscaling": onAWS, "pools": `{"chat":{"karpenter":{"limits":{"cpu":8}}}}`,
		}, `pools.chat.karpenter: is set but gpu.count is 0`},
		"a NodePool for a slice": {map[string]string{
			"autoscaling": onAWS, "pools": `{"chat":{"gpu":{"count":1,"mig":"3g.40gb"},"karpenter":{"limits":{"cpu":8}}}}`,
		}, `pools.chat.karpenter: is set but gpu.mig is 3g.40gb`},
		"a NodePool without a node class": {map[string]string{
			"pools": `{"chat":{"gpu":{"count":1},"karpenter":{"limits":{"cpu":8}}}}`,
		}, `pools.chat.karpenter: is set but autoscaling.karpenter is not`},
		"Karpenter without a GPU": {map[string]string{"autoscaling": onAWS}, `autoscaling.karpenter: is set ` +
			`but no pool has whole GPUs`},
		"a node class by halves": {map[string]string{
			"autoscaling": `{"karpenter":{"nodeClass":{"kind":"EC2NodeClass","name":"gpu"}}}`,
			"pools":       `{"chat":{"gpu":{"count":1}}}`,
		}, `autoscaling.karpenter.nodeClass.group: is missing`},
		"GPUs that Azure has no label for": {map[string]string{
			"autoscaling": onAzure, "pools": `{"chat":{"gpu":{"count":1,"vramGiB":79.6}}}`,
		}, `pools.chat.karpenter.requirements: none selects instances, and Karpenter cannot tell which have the pool's ` +
			`GPUs: add {key: node.kubernetes.io/instance-type, operator: In, values: […]}, or a label ` +
			`karpenter.azure.com/…`},
		"a product that AWS has no label for": {map[string]string{
			"autoscaling": onAWS, "pools": `{"chat":{"gpu":{"count":1,"product":"NVIDIA-L4"}}}`,
		}, `Karpenter cannot tell which have NVIDIA-L4`},
		"a label that Karpenter decides": {requirement(
			`{"key":"karpenter.sh/nodepool","operator":"In","values":["a"]}`,
		), `pools.chat.karpenter.requirements[0].key: karpenter.sh/nodepool is set when the node is created`},
		"a selector that Karpenter decides": {map[string]string{
			"autoscaling": onAWS, "pools": `{"chat":{"gpu":{"count":1},"nodeSelector":{"kubernetes.io/hostname":"a"}}}`,
		}, `pools.chat.nodeSelector: kubernetes.io/hostname is set when the node is created`},
		"an operator that Karpenter has not": {requirement(
			`{"key":"a","operator":"Equal","values":["a"]}`,
		), `pools.chat.karpenter.requirements[0].operator: "Equal" is not one of`},
		"In nothing": {requirement(
			`{"key":"a","operator":"In","values":[]}`,
		), `pools.chat.karpenter.requirements[0].values: [] does not fit operator In: use at least one value`},
		"Exists with a value": {requirement(
			`{"key":"a","operator":"Exists","values":["b"]}`,
		), `pools.chat.karpenter.requirements[0].values: ["b"] does not fit operator Exists: use no values`},
		"Gt of no number": {requirement(
			`{"key":"a","operator":"Gt","values":["4x"]}`,
		), `values: ["4x"] does not fit operator Gt: use one whole number`},
		"a limit below one pod": {map[string]string{
			"autoscaling": onAWS, "pools": `{"chat":{"gpu":{"count":2},"karpenter":{"limits":{"nvidia.com/gpu":1}}}}`,
		}, `pools.chat.karpenter.limits: nvidia.com/gpu 1 is below gpu.count 2`},
		"a name that no node can be told by": {map[string]string{
			"autoscaling": onAWS, "pools": `{"chat":{"gpu":{"count":1}}}`,
			"namespace": `{"name":"` + strings.Repeat("n", 60) + `"}`,
		}, ` 65 characters long`},
		"a quota that no pool uses": {map[string]string{
			"autoscaling": `{"kueue":{"clusterQueue":"gpus"}}`,
		}, `autoscaling.kueue.clusterQueue: "gpus" is set but no pool has a queue`},
		"a queue for a StatefulSet that scales": {map[string]string{
			"store": `{"perReplica":true}`, "autoscaling": `{"engine":"hpa"}`,
			"pools": `{"chat":{"queue":"serving","replicas":{"max":2}}}`,
		}, `pools.chat.queue: "serving" cannot be combined with store.perReplica and replicas.max`},
		"a queue's name that no object can get": {
			map[string]string{"pools": `{"chat":{"queue":"Serving"}}`}, `pools.chat.queue: "Serving" is not allowed`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			values := minimal()
			for key, value := range test.change {
				values[key] = value
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

func TestARequirementsFormsAreAccepted(t *testing.T) {
	values := minimal()
	values["autoscaling"] = onAWS
	values["pools"] = `{"chat":{"gpu":{"count":1},"karpenter":{"requirements":[{"key":"a","operator":"Exists"},` +
		`{"key":"b","operator":"DoesNotExist"},{"key":"c","operator":"Lte","values":["4"]},{"key":"d","operator":"NotIn",` +
		`"values":["4x"]}]}}}`
	_, err := stacks.Load(values, project)
	assert.NoError(t, err)
}

// object is the one of a kind and name.
func object(t *testing.T, resources []render.Resource, kind, name string) render.Object {
	t.Helper()
	for _, o := range render.Objects(resources) {
		if o.Kind() == kind && o.Name() == name {
			return o
		}
	}
	t.Fatalf("there is no %s %s", kind, name)
	return nil
}

func count(resources []render.Resource, kind string) (n int) {
	for _, o := range render.Objects(resources) {
		if o.Kind() == kind {
			n++
		}
	}
	return n
}

func TestANodePoolMayHaveAsManyGPUsAsItsPodsTake(t *testing.T) {
	for pool, limit := range map[string]int{
		`{"gpu":{"count":2},"replicas":{"min":1,"max":3}}`:                                         6,
		`{"gpu":{"count":2,"spare":true},"replicas":{"min":1,"max":3}}`:                            8,
		`{"gpu":{"count":1},"karpenter":{"limits":{"nvidia.com/gpu":8}}}`:                          8,
		`{"gpu":{"count":1},"replicas":{"min":2},"karpenter":{"limits":{"memory":1099511627776}}}`: 2,
	} {
		t.Run(pool, func(t *testing.T) {
			values := stackFile(t, "dev")
			values["store"], values["autoscaling"] = `{"accessMode":"ReadWriteMany"}`, onAWS
			values["pools"] = `{"chat":` + pool + `}`
			text := object(t, run(t, "dev", values, false), "NodePool", "ollama-chat").Text()
			assert.Contains(t, text, fmt.Sprintf("nvidia.com/gpu: %d\n", limit))
		})
	}
}

func TestOnlyPoolsWithWholeGPUsGetANodePool(t *testing.T) {
	values, err := stacks.ReadFile("testdata/stacks/nodes.yaml", stacks.Project)
	require.NoError(t, err)
	resources := run(t, "nodes", values, false)
	assert.Equal(t, 2, count(resources, "NodePool"))
	for pool, on := range map[string]bool{"large": true, "small": true, "sliced": false, "embed": false} {
		text := object(t, resources, "Deployment", "ollama-"+pool).Text()
		assert.Equal(t, on, strings.Contains(text, "karpenter.sh/nodepool: ollama-"+pool+"\n"), pool)
	}
}

func TestTheWriterOfOneVolumeRunsOnItsPoolsNodes(t *testing.T) {
	text := ""
	for _, o := range render.Objects(run(t, "test", variants(t)["nodes of Karpenter beside one volume"], false)) {
		if o.Kind() == "Job" {
			text = o.Text()
		}
	}
	assert.Contains(t, text, "karpenter.sh/nodepool: ollama-chat\n")
}

func TestAQueueStandsOnTheWorkloadAndIsMadeOnceWhereAClusterQueueIsNamed(t *testing.T) {
	values, err := stacks.ReadFile("testdata/stacks/nodes.yaml", stacks.Project)
	require.NoError(t, err)
	resources := run(t, "nodes", values, false)
	assert.Equal(t, 1, count(resources, "LocalQueue"), "of two pools")

	values = variants(t)["a queue that is there already"]
	resources = run(t, "nodes", values, false)
	assert.Zero(t, count(resources, "LocalQueue"))
	assert.Equal(t, 1, strings.Count(
		object(t, resources, "StatefulSet", "ollama-chat").Text(), "kueue.x-k8s.io/queue-name: serving\n",
	), "Kueue reads it there, and hands it on to the pods by itself")
}
