package stacks_test

import (
	"strings"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/internal/render"
)

func TestWhatKeepsPodsFromTheirNodesIsNoticed(t *testing.T) {
	good := run(t, "nodes", goldens(t)["nodes"], false)
	require.Empty(t, render.Violations(good))

	for name, test := range map[string]struct {
		resource, path string
		value          any // nil removes it
		want           string
	}{
		"a volume that keeps its node": {"Deployment::ollama-large", `spec.template.metadata.annotations`, map[string]any{
			"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": "tmp, home",
		},
			"Deployment/ollama-large: volume home keeps the Cluster Autoscaler from removing its node"},
		"a NodePool that is not there": {"NodePool::nodes-small", "metadata.name", "other", "Deployment/ollama-small: " +
			"selects NodePool ollama-small, which does not exist"},
		"a taint that nobody tolerates": {
			"NodePool::nodes-small", "spec.template.spec.taints[0].key", "dedicated",
			"Deployment/ollama-small: does not tolerate NodePool ollama-small's taint dedicated",
		},
		"a label that no new node has": {
			"NodePool::nodes-large", "spec.template.spec.requirements[0]", nil,
			"Deployment/ollama-large: selects topology.kubernetes.io/zone=eu-central-1a, which NodePool ollama-large does " +
				"not require",
		},
		"a GPU that no new node has": {
			"NodePool::nodes-large", "spec.template.spec.requirements[1].values[0]", "another",
			"Deployment/ollama-large: no new node of NodePool ollama-large meets its node affinity",
		},
		"a limit below one pod": {
			"NodePool::nodes-large", `spec.limits["nvidia.com/gpu"]`, 1,
			"Deployment/ollama-large: requests 2 of nvidia.com/gpu, but NodePool ollama-large has at most 1",
		},
		"a queue that is not there": {
			"LocalQueue::nodes-queue-serving", "metadata.name", "other",
			"Deployment/ollama-small: waits in LocalQueue serving, which does not exist",
		},
	} {
		t.Run(name, func(t *testing.T) {
			broken := append([]render.Resource(nil), good...)
			changed := false
			for i := range broken {
				if !strings.HasSuffix(broken[i].URN, test.resource) {
					continue
				}
				deep := resource.NewPropertyValue(resource.NewObjectProperty(broken[i].Inputs.Copy()).Mappable())
				path, err := resource.ParsePropertyPath(test.path)
				require.NoError(t, err)
				if test.value == nil {
					changed = path.Delete(deep)
				} else {
					_, changed = path.Add(deep, resource.NewPropertyValue(test.value))
				}
				broken[i].Inputs = deep.ObjectValue()
			}
			require.True(t, changed)
			assert.Contains(t, strings.Join(render.Violations(broken), "\n"), test.want)
		})
	}
}
