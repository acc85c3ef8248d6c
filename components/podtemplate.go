package components

import (
	"strings"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// What node autoscalers read on a pod before they take its node away. Evictions go by the disruption budget and the
// grace period anyway.

const (
	// safeVolumes are the volumes, by commas and without spaces, whose loss is no reason for the Cluster Autoscaler to
	// keep a node.
	safeVolumes = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
	// safeToEvict "false" has it keep the node as long as the pod runs; a pod that is done does not count.
	safeToEvict = "cluster-autoscaler.kubernetes.io/safe-to-evict"
	// doNotDisrupt "true" has Karpenter do the same.
	doNotDisrupt = "karpenter.sh/do-not-disrupt"
)

// podTemplate is a pod that may be moved to another node: what it has on the node's own disk is scratch. Its volumes
// are named one by one, rather than the pod called safe to evict, which would set the autoscaler's other checks aside
// too.
func podTemplate(podLabels pulumi.StringMap, pod *corev1.PodSpecArgs) *corev1.PodTemplateSpecArgs {
	metadata := &metav1.ObjectMetaArgs{Labels: podLabels}
	if volumes := localVolumes(pod); len(volumes) > 0 {
		metadata.Annotations = pulumi.StringMap{safeVolumes: pulumi.String(strings.Join(volumes, ","))}
	}
	return &corev1.PodTemplateSpecArgs{Metadata: metadata, Spec: pod}
}

// lastingPodTemplate is a pod that should be left to finish: moved, it would begin its hours of work anew.
func lastingPodTemplate(podLabels pulumi.StringMap, pod *corev1.PodSpecArgs) *corev1.PodTemplateSpecArgs {
	return &corev1.PodTemplateSpecArgs{Spec: pod, Metadata: &metav1.ObjectMetaArgs{
		Labels:      podLabels,
		Annotations: pulumi.StringMap{safeToEvict: pulumi.String("false"), doNotDisrupt: pulumi.String("true")},
	}}
}

// localVolumes are the names of the pod's volumes on the node's disk.
func localVolumes(pod *corev1.PodSpecArgs) (names []string) {
	volumes, _ := pod.Volumes.(corev1.VolumeArray)
	for _, volume := range volumes {
		if v, ok := volume.(*corev1.VolumeArgs); ok && v.EmptyDir != nil {
			if name, plain := v.Name.(pulumi.String); plain { // it always is but in a store that is not ours
				names = append(names, string(name))
			}
		}
	}
	return names
}
