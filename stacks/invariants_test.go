package stacks_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/internal/render"
)

// Each invariant is shown to notice its violation: a check that cannot fail proves nothing.
func TestEachInvariantNoticesItsViolation(t *testing.T) {
	good := run(t, "prod", stackFile(t, "prod"), false)
	require.Empty(t, render.Violations(good))

	for name, test := range map[string]struct {
		resource string // suffix of the URN
		path     string // of the property; "" for the resource itself
		value    any    // nil removes it
		want     string
	}{
		"a Service that selects " +
			"nothing": {"core/v1:Service::front", "spec.selector", map[string]any{"a": "b"}, "Service/front: " +
			"selects no pod"},
		"a Service port that no container " +
			"has": {"core/v1:Service::front", "spec.ports[0].targetPort", "nowhere", "targets nowhere"},
		"a volume of a missing " +
			"ConfigMap": {
			"apps/v1:Deployment::front", "spec.template.spec.volumes[0].configMap.name", "gone", "refers to ConfigMap/gone",
		},
		"a volume of a missing Secret": {
			"apps/v1:Deployment::front", "spec.template.spec.volumes[1].secret.secretName", "gone", "refers to Secret/gone",
		},
		"a volume of a missing claim": {
			"apps/v1:Deployment::ollama-chat", "spec.template.spec.volumes[2].persistentVolumeClaim.claimName", "gone",
			"refers to PersistentVolumeClaim/gone",
		},
		"a mount of no volume": {
			"apps/v1:Deployment::front", "spec.template.spec.containers[0].volumeMounts[0].name", "gone", "mounts gone",
		},
		"a pod that runs as root": {
			"apps/v1:Deployment::front", "spec.template.spec.securityContext.runAsNonRoot", nil, "runAsNonRoot",
		},
		"a container that may " +
			"escalate": {
			"apps/v1:Deployment::front", "spec.template.spec.containers[0].securityContext.allowPrivilegeEscalation", true,
			"allowPrivilegeEscalation",
		},
		"a container without memory " +
			"limit": {
			"batch/v1:Job::models-writer", "spec.template.spec.containers[0].resources.limits", nil, "resources.limits.memory",
		},
		"a container without probe": {
			"apps/v1:Deployment::ollama-embed", "spec.template.spec.containers[0].readinessProbe", nil, "has no readinessProbe",
		},
		"an image that is latest": {
			"apps/v1:Deployment::front", "spec.template.spec.containers[0].image", "haproxy:latest", "is not pinned",
		},
		"a pod that no policy covers": {
			"networking.k8s.io/v1:NetworkPolicy::front", "spec.podSelector.matchLabels", map[string]any{"a": "b"},
			"Deployment/front: no NetworkPolicy",
		},
		"replicas under an autoscaler": {"apps/v1:Deployment::ollama-chat", "spec.replicas", 2, "sets replicas " +
			"2 under an autoscaler"},
		"a Deployment that nobody " +
			"sizes": {"apps/v1:Deployment::front", "spec.replicas", nil, "neither replicas nor an autoscaler"},
		"an autoscaler of nothing": {
			"keda.sh/v1alpha1:ScaledObject::autoscaling-chat", "spec.scaleTargetRef.name", "gone", "targets Deployment/gone",
		},
		"an Ingress that leads " +
			"nowhere": {
			"networking.k8s.io/v1:Ingress::front", "spec.rules[0].http.paths[0].backend.service.name", "gone",
			"routes to Service/gone",
		},
		"a CronJob without memory " +
			"limit": {
			"batch/v1:CronJob::models-writer-check", "spec.jobTemplate.spec.template.spec.containers[0].resources.limits", nil,
			"resources.limits.memory",
		},
		"a resource outside any component": {"apps/v1:Deployment::front", "", "orphan", "descends from no component"},
		"a resource of another " +
			"provider": {"apps/v1:Deployment::front", "", "provider", "does not use the stack's own provider"},
		"a disruption budget that covers nothing": {
			"policy/v1:PodDisruptionBudget::front", "spec.selector.matchLabels", map[string]any{"a": "b"},
			"PodDisruptionBudget/front: selects no pod",
		},
	} {
		t.Run(name, func(t *testing.T) {
			broken := append([]render.Resource(nil), good...)
			changed := false
			for i := range broken {
				if !strings.HasSuffix(broken[i].URN, test.resource) {
					continue
				}
				changed = true
				switch {
				case test.value == "orphan":
					broken[i].Parent = "urn:pulumi:prod::ollama-k8s::pulumi:pulumi:Stack::ollama-k8s-prod"
				case test.value == "provider":
					broken[i].Provider = ""
				default:
					inputs := resource.NewObjectProperty(broken[i].Inputs.Copy())
					path, err := resource.ParsePropertyPath(test.path)
					require.NoError(t, err)
					deep := resource.NewPropertyValue(inputs.Mappable()) // a copy that shares nothing with the good stack
					if test.value == nil {
						require.True(t, path.Delete(deep))
					} else {
						_, ok := path.Add(deep, resource.NewPropertyValue(test.value))
						require.True(t, ok)
					}
					broken[i].Inputs = deep.ObjectValue()
				}
			}
			require.True(t, changed, "no resource ends in %s", test.resource)
			assert.Contains(t, strings.Join(render.Violations(broken), "\n"), test.want)
		})
	}
}

func TestAConfigWhoseChangeNobodySeesIsNoticed(t *testing.T) {
	resources := run(t, "dev", stackFile(t, "dev"), false)
	require.Empty(t, render.Violations(resources))
	for i, r := range resources {
		if strings.HasSuffix(r.URN, "apps/v1:Deployment::observability-prometheus") {
			path, err := resource.ParsePropertyPath("spec.template.spec.containers[0].command")
			require.NoError(t, err)
			deep := resource.NewPropertyValue(resource.NewObjectProperty(r.Inputs.Copy()).Mappable())
			_, ok := path.Add(deep, resource.NewPropertyValue([]any{"prometheus"})) // does not read its config anew
			require.True(t, ok)
			resources[i].Inputs = deep.ObjectValue()
		}
	}
	assert.Contains(
		t, strings.Join(render.Violations(resources), "\n"),
		"Deployment/observability-prometheus: would not notice a change of ConfigMap observability-prometheus",
	)
}

func TestARouteThatLeadsNowhereIsNoticed(t *testing.T) {
	values := stackFile(t, "prod")
	values["expose"] = `{"gateway":{"host":"llm.example.com","name":"public"}}`
	resources := run(t, "prod", values, false)
	require.Empty(t, render.Violations(resources))
	without := slices.DeleteFunc(
		resources, func(r render.Resource) bool { return strings.HasSuffix(r.URN, "core/v1:Service::front") },
	)
	assert.Contains(
		t, strings.Join(render.Violations(without), "\n"), "HTTPRoute/front: routes to Service/front, which does not exist",
	)
}
