package components

import (
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// User IDs. All pods that touch the store have the same one, so that servers can read what the writer creates on any
// volume, even one that ignores fsGroup, as NFS and hostPath do.
const (
	uidOllama     = 10001
	uidHAProxy    = 99    // the haproxy user of the upstream image, whose USER is a name, which runAsNonRoot rejects
	uidPrometheus = 65534 // nobody, as in the upstream image
)

// restrictedPod returns the pod part of Pod Security's "restricted" profile.
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

// restrictedContainer returns the container part, with a read-only root file system in addition.
func restrictedContainer() *corev1.SecurityContextArgs {
	return &corev1.SecurityContextArgs{
		AllowPrivilegeEscalation: pulumi.Bool(false),
		ReadOnlyRootFilesystem:   pulumi.Bool(true),
		Capabilities:             &corev1.CapabilitiesArgs{Drop: pulumi.StringArray{pulumi.String("ALL")}},
	}
}
