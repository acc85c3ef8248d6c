package components

import (
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// User ids. Every pod that touches the store has the same one, so that what the writer creates the servers can read on
// any volume, whether or not it honours fsGroup (NFS and hostPath do not).
const (
	uidOllama     = 10001
	uidHAProxy    = 99    // the haproxy user of the upstream image, whose USER is a name and so fails runAsNonRoot
	uidPrometheus = 65534 // nobody, as in the upstream image
)

// restrictedPod is the pod half of Pod Security's "restricted" profile.
func restrictedPod(uid int) *corev1.PodSecurityContextArgs {
	return &corev1.PodSecurityContextArgs{
		RunAsNonRoot:        pulumi.Bool(true),
		RunAsUser:           pulumi.Int(uid),
		RunAsGroup:          pulumi.Int(uid),
		FsGroup:             pulumi.Int(uid),
		FsGroupChangePolicy: pulumi.String("OnRootMismatch"), // hundreds of GB of models must not be chowned at each start
		SeccompProfile:      &corev1.SeccompProfileArgs{Type: pulumi.String("RuntimeDefault")},
	}
}

// restrictedContainer is the container half, with a read-only root file system on top.
func restrictedContainer() *corev1.SecurityContextArgs {
	return &corev1.SecurityContextArgs{
		AllowPrivilegeEscalation: pulumi.Bool(false),
		ReadOnlyRootFilesystem:   pulumi.Bool(true),
		Capabilities:             &corev1.CapabilitiesArgs{Drop: pulumi.StringArray{pulumi.String("ALL")}},
	}
}
