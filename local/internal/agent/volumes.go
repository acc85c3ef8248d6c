package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// Provisioner is the name by which a StorageClass asks for this agent's volumes.
const Provisioner = "ollama-k8s/local"

// runVolumes creates and deletes volumes until ctx ends.
func runVolumes(ctx context.Context, client kubernetes.Interface, folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("volumes: %w", err)
	}
	c := controller.NewProvisionController(ctx, client, Provisioner, &volumes{folder: folder},
		controller.LeaderElection(false), // there is one agent
		controller.ResyncPeriod(resync),
		// A claim that waits for a volume holds up a whole deployment, and retries cannot make the only possible failure, a
		// full disk, worse.
		controller.RetryIntervalMax(resync))
	c.Run(ctx)
	return nil
}

// volumes makes each volume a folder on the machine. Both nodes see the same file system, so any access mode works.
type volumes struct{ folder string }

// Provision creates the folder. It does not enforce the size: all volumes share the disk.
func (v *volumes) Provision(
	_ context.Context, options controller.ProvisionOptions,
) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	if options.PVC.Spec.Selector != nil {
		return nil, controller.ProvisioningFinished,
			errors.New("a claim with a selector asks for an existing volume: remove the selector")
	}
	path := filepath.Join(v.folder, options.PVName)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, fmt.Errorf("volume %s: %w", options.PVName, err)
	}
	// Kubernetes does not apply fsGroup to hostPath volumes, so a pod that is not root could not write otherwise. MkdirAll
	// is subject to the umask.
	if err := os.Chmod(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, fmt.Errorf("volume %s: %w", options.PVName, err)
	}
	reclaim := corev1.PersistentVolumeReclaimDelete
	if options.StorageClass.ReclaimPolicy != nil {
		reclaim = *options.StorageClass.ReclaimPolicy
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: options.PVName},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: reclaim,
			AccessModes:                   options.PVC.Spec.AccessModes,
			Capacity: corev1.ResourceList{
				corev1.ResourceStorage: options.PVC.Spec.Resources.Requests[corev1.ResourceStorage],
			},
			MountOptions: options.StorageClass.MountOptions,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{
				Path: path,
				// If the folder is gone, the pod must fail and not get a new, empty one.
				Type: ptr.To(corev1.HostPathDirectory),
			}},
		},
	}, controller.ProvisioningFinished, nil
}

// Delete removes the folder with everything in it.
func (v *volumes) Delete(_ context.Context, volume *corev1.PersistentVolume) error {
	path, err := v.owned(volume)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("volume %s: %w", volume.Name, err)
	}
	return nil
}

// owned returns the volume's folder if Provision made it. Somebody may have edited the object, and this process may
// remove any file.
func (v *volumes) owned(volume *corev1.PersistentVolume) (string, error) {
	source := volume.Spec.HostPath
	if source == nil || filepath.Dir(source.Path) != v.folder || filepath.Base(source.Path) != volume.Name {
		reason := fmt.Sprintf("volume %s is not a folder of its name in %s", volume.Name, v.folder)
		return "", &controller.IgnoredError{Reason: reason}
	}
	return source.Path, nil
}
