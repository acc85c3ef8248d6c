package components

import (
	"strings"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Annotations that node autoscalers read before they remove a pod's node. Evictions respect the disruption budget and
// the grace period in any case.

const (
	// safeVolumes lists the volumes that do not keep the Cluster Autoscaler from removing the node, separated by commas
	// without spaces.
	safeVolumes = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
	// safeToEvict "false" makes the Cluster Autoscaler keep the node while the pod runs. A completed pod does not count.
	safeToEvict = "cluster-autoscaler.kubernetes.io/safe-to-evict"
	// doNotDisrupt "true" makes Karpenter do the same.
	doNotDisrupt = "karpenter.sh/do-not-disrupt"
)

// podTemplate returns a pod that may move to another node, because its data on the node's disk is scratch. It names the
// volumes one by one, because calling the pod safe to evict would also disable the autoscaler's other checks.
func podTemplate(podLabels pulumi.StringMap, pod *corev1.PodSpecArgs) *corev1.PodTemplateSpecArgs {
	metadata := &metav1.ObjectMetaArgs{Labels: podLabels}
	if volumes := localVolumes(pod); len(volumes) > 0 {
		metadata.Annotations = pulumi.StringMap{safeVolumes: pulumi.String(strings.Join(volumes, ","))}
	}
	return &corev1.PodTemplateSpecArgs{Metadata: metadata, Spec: pod}
}

// lastingPodTemplate returns a pod that should run to completion. If it moved, its hours of work would start over.
func lastingPodTemplate(podLabels pulumi.StringMap, pod *corev1.PodSpecArgs) *corev1.PodTemplateSpecArgs {
	return &corev1.PodTemplateSpecArgs{Spec: pod, Metadata: &metav1.ObjectMetaArgs{
		Labels:      podLabels,
		Annotations: pulumi.StringMap{safeToEvict: pulumi.String("false"), doNotDisrupt: pulumi.String("true")},
	}}
}

// localVolumes returns the names of the pod's volumes on the node's disk.
func localVolumes(pod *corev1.PodSpecArgs) (names []string) {
	volumes, _ := pod.Volumes.(corev1.VolumeArray)
	for _, volume := range volumes {
		if v, ok := volume.(*corev1.VolumeArgs); ok && v.EmptyDir != nil {
			if name, plain := v.Name.(pulumi.String); plain { // only a custom store can have other names
				names = append(names, string(name))
			}
		}
	}
	return names
}
