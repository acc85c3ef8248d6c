package components

import (
	"testing"
	"time"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestANodeOutlivesTheDrainOfItsPods(t *testing.T) {
	idle, err := time.ParseDuration(nodeIdle)
	require.NoError(t, err)
	assert.Greater(t, idle, (answerSeconds+30+60)*time.Second, "a whole answer, and a minute for the next pod to be bound")
}

func TestOnlyVolumesOnTheNodesDiskAreNamed(t *testing.T) {
	for name, test := range map[string]struct {
		volumes corev1.VolumeArray
		want    pulumi.StringMapInput
	}{
		"two": {corev1.VolumeArray{
			scratch("tmp"), claimVolume("models", pulumi.String("models"), true), scratch("home"),
		}, pulumi.StringMap{
			"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": pulumi.String("tmp,home"),
		}},
		"none": {corev1.VolumeArray{configVolume("config", pulumi.StringPtr("config"), 0o444)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			template := podTemplate(pulumi.StringMap{}, &corev1.PodSpecArgs{Volumes: test.volumes})
			assert.Equal(t, test.want, annotationsOf(template))
		})
	}
}

func TestAWritersNodeStaysUntilItIsDone(t *testing.T) {
	template := lastingPodTemplate(pulumi.StringMap{}, &corev1.PodSpecArgs{Volumes: corev1.VolumeArray{scratch("home")}})
	assert.Equal(t, pulumi.StringMap{
		"cluster-autoscaler.kubernetes.io/safe-to-evict": pulumi.String("false"),
		"karpenter.sh/do-not-disrupt":                    pulumi.String("true"),
	}, annotationsOf(template))
}

func annotationsOf(template *corev1.PodTemplateSpecArgs) pulumi.StringMapInput {
	return template.Metadata.(*metav1.ObjectMetaArgs).Annotations
}

var aws = NodeClass{"karpenter.k8s.aws", "EC2NodeClass", "default"}

func TestRequirementsFollowFromThePool(t *testing.T) {
	noSpot := NodeRequirement{"karpenter.sh/capacity-type", "NotIn", []string{"spot"}}
	g6 := NodeRequirement{"node.kubernetes.io/instance-type", "In", []string{"g6.xlarge"}}
	for name, test := range map[string]struct {
		class NodeClass
		pool  Pool
		want  []NodeRequirement
	}{
		"AWS' own labels where nothing names instances": {aws, Pool{Placement: Placement{
			GPU: GPU{Count: 2, MinMiB: 22809},
		}}, []NodeRequirement{
			{"karpenter.k8s.aws/instance-gpu-manufacturer", "In", []string{"nvidia"}},
			{"karpenter.k8s.aws/instance-gpu-count", "Gt", []string{"1"}},
			{"karpenter.k8s.aws/instance-gpu-memory", "Gt", []string{"22808"}},
			noSpot,
		}},
		"AMD's GPUs, of any memory": {aws, Pool{Placement: Placement{GPU: GPU{Count: 1, Vendor: AMD}}}, []NodeRequirement{
			{"karpenter.k8s.aws/instance-gpu-manufacturer", "In", []string{"amd"}},
			{"karpenter.k8s.aws/instance-gpu-count", "Gt", []string{"0"}},
			noSpot,
		}},
		"named instances, which nothing is added to": {aws, Pool{
			Placement: Placement{GPU: GPU{Count: 1, MinMiB: 22809}},
			Karpenter: &NodeRequests{Requirements: []NodeRequirement{g6}},
		}, []NodeRequirement{g6, noSpot}},
		"the selector, in order, and the GPU's product": {NodeClass{Group: "karpenter.azure.com"}, Pool{Placement: Placement{
			GPU:          GPU{Count: 1, Product: "A100"},
			NodeSelector: map[string]string{"karpenter.azure.com/sku-gpu-name": "A100", "a": "b"},
		}}, []NodeRequirement{
			{"a", "In", []string{"b"}}, {"karpenter.azure.com/sku-gpu-name", "In", []string{"A100"}},
			{"nvidia.com/gpu.product", "In", []string{"A100"}}, noSpot,
		}},
		"spot for who asks for it": {aws, Pool{Placement: Placement{
			GPU: GPU{Count: 1}, NodeSelector: map[string]string{"karpenter.sh/capacity-type": "spot"},
		}, Karpenter: &NodeRequests{Requirements: []NodeRequirement{g6}}}, []NodeRequirement{
			{"karpenter.sh/capacity-type", "In", []string{"spot"}}, g6,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			require.True(t, test.pool.Decided(test.class))
			assert.Equal(t, test.want, test.pool.requirements(test.class))
		})
	}
}

func TestKarpenterMustBeAbleToFindTheGPUs(t *testing.T) {
	whole := Placement{GPU: GPU{Count: 1, MinMiB: 1}}
	product := Placement{GPU: GPU{Count: 1, Product: "NVIDIA-L4"}}
	zone := []NodeRequirement{{"topology.kubernetes.io/zone", "In", []string{"a"}}}
	for name, test := range map[string]struct {
		group string
		pool  Pool
		want  bool
	}{
		"AWS labels memory": {aws.Group, Pool{Placement: whole}, true},
		"others do not":     {"karpenter.azure.com", Pool{Placement: whole}, false},
		"a zone is no instance": {"karpenter.azure.com", Pool{
			Placement: whole, Karpenter: &NodeRequests{Requirements: zone},
		}, false},
		"no cloud has the node labeller's name": {aws.Group, Pool{Placement: product}, false},
		"a label of another cloud says nothing": {"karpenter.azure.com", Pool{
			Placement: whole,
			Karpenter: &NodeRequests{Requirements: []NodeRequirement{{
				"karpenter.k8s.aws/instance-gpu-name", "In", []string{"l4"},
			}}},
		}, false},
		"one of its own does": {aws.Group, Pool{
			Placement: product,
			Karpenter: &NodeRequests{Requirements: []NodeRequirement{{
				"karpenter.k8s.aws/instance-gpu-name", "In", []string{"l4"},
			}}},
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, test.want, test.pool.Decided(NodeClass{Group: test.group}))
		})
	}
}

func TestAffinityIsMetByANodeThatNoLabellerHasSeen(t *testing.T) {
	for name, gpu := range map[string]GPU{
		"by memory": {Count: 1, MinMiB: 100}, "by product and memory": {Count: 1, MinMiB: 100, Product: "NVIDIA-L4"},
	} {
		t.Run(name, func(t *testing.T) {
			selector := gpu.nodeAffinity().RequiredDuringSchedulingIgnoredDuringExecution.(*corev1.NodeSelectorArgs)
			terms := selector.NodeSelectorTerms.(corev1.NodeSelectorTermArray)
			require.Len(t, terms, 2)
			last := terms[1].(*corev1.NodeSelectorTermArgs).MatchExpressions.(corev1.NodeSelectorRequirementArray)
			memory := last[len(last)-1].(*corev1.NodeSelectorRequirementArgs)
			assert.Equal(t, pulumi.String("nvidia.com/gpu.memory"), memory.Key)
			assert.Equal(t, pulumi.String("DoesNotExist"), memory.Operator)
		})
	}
}
