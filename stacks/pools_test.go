package stacks_test

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/internal/render"
)

var knownPods = regexp.MustCompile(`server-template pod (\d+) ollama-chat-pods`)

// While an update goes on there are more pods than replicas.max. A pod that the front does not know answers nobody.
func TestTheFrontKnowsAsManyPodsAsAnUpdateMayStart(t *testing.T) {
	for name, test := range map[string]struct {
		store, gpu string
		pods       int
	}{
		"a GPU to spare and a shared volume":     {`{"accessMode":"ReadWriteMany"}`, `{"count":1,"spare":true}`, 4},
		"no GPU to spare":                        {`{"accessMode":"ReadWriteMany"}`, `{"count":1}`, 3},
		"a volume for each pod of a StatefulSet": {`{"perReplica":true}`, `{"count":1,"spare":true}`, 3},
	} {
		t.Run(name, func(t *testing.T) {
			values := stackFile(t, "dev")
			values["store"], values["autoscaling"] = test.store, `{"engine":"keda"}`
			values["pools"] = `{"chat":{"gpu":` + test.gpu + `,"replicas":{"min":1,"max":3}}}`
			resources := run(t, "dev", values, false)
			found := 0
			for _, o := range render.Objects(resources) {
				for _, known := range knownPods.FindAllStringSubmatch(o.Text(), -1) {
					found++
					assert.Equal(t, fmt.Sprint(test.pods), known[1], o.Name())
				}
			}
			require.Equal(t, 2, found, "one for the list of models, one for the model")
			if test.pods > 3 {
				assert.Contains(t, object(t, resources, "Deployment", "ollama-chat").Text(), "maxSurge: 1\n")
			}
		})
	}
}
