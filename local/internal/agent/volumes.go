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

// runVolumes makes and removes volumes until ctx ends.
func runVolumes(ctx context.Context, client kubernetes.Interface, folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("volumes: %w", err)
	}
	c := controller.NewProvisionController(ctx, client, Provisioner, &volumes{folder: folder},
		controller.LeaderElection(false), // there is one agent
		controller.ResyncPeriod(resync),
		// A claim that waits for a volume holds up a whole deployment, and the
		// only failure there is, a full disk, is not made worse by trying.
		controller.RetryIntervalMax(resync))
	c.Run(ctx)
	return nil
}

// volumes makes each volume a folder of the machine. Both nodes see the same
// file system, so any access mode holds.
type volumes struct{ folder string }

// Provision makes the folder. Its size is not enforced: it shares the disk.
func (v *volumes) Provision(_ context.Context, options controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	if selector := options.PVC.Spec.Selector; selector != nil {
		return nil, controller.ProvisioningFinished, errors.New("a claim with a selector asks for a volume that exists already: leave the selector out")
	}
	path := filepath.Join(v.folder, options.PVName)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, fmt.Errorf("volume %s: %w", options.PVName, err)
	}
	// Kubernetes applies fsGroup to no hostPath volume, so a pod that is not
	// root could not write otherwise. MkdirAll is subject to the umask.
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
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: options.PVC.Spec.Resources.Requests[corev1.ResourceStorage]},
			MountOptions:                  options.StorageClass.MountOptions,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{
				Path: path,
				// A folder that has gone is an error for the pod, not a new and
				// empty one.
				Type: ptr.To(corev1.HostPathDirectory),
			}},
		},
	}, controller.ProvisioningFinished, nil
}

// Delete removes the folder with all that is in it.
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

// owned returns the volume's folder, if it is one that Provision makes: the
// object may have been edited, and this process may remove any file.
func (v *volumes) owned(volume *corev1.PersistentVolume) (string, error) {
	source := volume.Spec.HostPath
	if source == nil || filepath.Dir(source.Path) != v.folder || filepath.Base(source.Path) != volume.Name {
		return "", &controller.IgnoredError{Reason: fmt.Sprintf("volume %s is not a folder of its name in %s", volume.Name, v.folder)}
	}
	return source.Path, nil
}
