package components_test

import (
	"testing"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/components"
	"ollama-k8s/internal/render"
)

func TestAServerTakesAReplicaStoreThatIsNotOurs(t *testing.T) {
	resources, err := render.Run("project", "stack", nil, false, func(ctx *pulumi.Context) error {
		_, err := components.NewOllamaServer(ctx, "server", &components.OllamaServerArgs{
			Namespace: pulumi.String("llms"), Image: "ollama/ollama:1", Replicas: components.Replicas{Min: 2},
			Store: components.StoreMount{Shared: true, PerReplica: &components.ReplicaStore{
				Claim: &corev1.PersistentVolumeClaimTypeArgs{
					Metadata: &metav1.ObjectMetaArgs{Name: pulumi.String(components.StoreVolume)},
					Spec:     &corev1.PersistentVolumeClaimSpecArgs{AccessModes: pulumi.ToStringArray([]string{"ReadWriteOnce"})},
				},
				InitContainers: corev1.ContainerArray{&corev1.ContainerArgs{
					Name: pulumi.String("rsync"), Image: pulumi.String("rsync:1"),
					VolumeMounts: corev1.VolumeMountArray{
						&corev1.VolumeMountArgs{Name: pulumi.String(components.StoreVolume), MountPath: pulumi.String("/to")},
						&corev1.VolumeMountArgs{Name: pulumi.String("source"), MountPath: pulumi.String("/source")},
					},
				}},
				Volumes: corev1.VolumeArray{&corev1.VolumeArgs{
					Name: pulumi.String("source"), EmptyDir: &corev1.EmptyDirVolumeSourceArgs{},
				}},
			}},
		})
		return err
	})
	require.NoError(t, err)
	text := ""
	for _, o := range render.Objects(resources) {
		if o.Kind() == "StatefulSet" {
			text = o.Text()
		}
	}
	for _, line := range []string{"name: rsync\n", "mountPath: /source\n", "whenDeleted: Delete\n", "replicas: 2\n",
		"safe-to-evict-local-volumes: tmp,home,source\n",
	} {
		assert.Contains(t, text, line)
	}
}
