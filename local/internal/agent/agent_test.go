package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

func TestGPUsComeBackWhenAKubeletDropsThem(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	node := func(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	client := fake.NewClientset(node("gpu1"), node("node1"))
	factory := informers.NewSharedInformerFactory(client, 0)
	cards, err := newGPUs(client, factory.Core().V1().Nodes(), map[string]int64{"gpu1": 4})
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	go cards.run(ctx)

	awaitGPUs(ctx, t, client, "gpu1", 4)
	dropped, err := client.CoreV1().Nodes().Get(ctx, "gpu1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dropped.Status.Capacity[resourceGPU] = resource.MustParse("0")
	dropped.Status.Allocatable[resourceGPU] = resource.MustParse("0")
	if _, err := client.CoreV1().Nodes().UpdateStatus(ctx, dropped, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitGPUs(ctx, t, client, "gpu1", 4)
	awaitGPUs(ctx, t, client, "node1", 0)
}

func awaitGPUs(ctx context.Context, t *testing.T, client *fake.Clientset, name string, want int64) {
	t.Helper()
	for ctx.Err() == nil {
		node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		capacity, allocatable := node.Status.Capacity[resourceGPU], node.Status.Allocatable[resourceGPU]
		if capacity.Value() == want && allocatable.Value() == want {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s never offers %d GPUs", name, want)
}

func TestARefusalIsWrittenOnTheServiceAndTakenBack(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client := fake.NewClientset(service("old", 2, nil, 80), service("young", 1, nil, 80))
	factory := informers.NewSharedInformerFactory(client, 0)
	b, err := newLoadBalancer(client, factory.Core().V1().Services(), record.NewFakeRecorder(100), lbAddress)
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	go b.run(ctx)

	awaitService(ctx, t, client, "old", func(s *corev1.Service) bool {
		return len(s.Status.LoadBalancer.Ingress) == 1
	})
	awaitService(ctx, t, client, "young", func(s *corev1.Service) bool {
		return len(s.Status.LoadBalancer.Ingress) == 0 &&
			meta.IsStatusConditionFalse(s.Status.Conditions, conditionAddress)
	})
	if err := client.CoreV1().Services("n").Delete(ctx, "old", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitService(ctx, t, client, "young", func(s *corev1.Service) bool {
		return len(s.Status.LoadBalancer.Ingress) == 1 && len(s.Status.Conditions) == 0
	})
}

func awaitService(
	ctx context.Context, t *testing.T, client *fake.Clientset, name string, good func(*corev1.Service) bool,
) {
	t.Helper()
	var last *corev1.Service
	for ctx.Err() == nil {
		s, err := client.CoreV1().Services("n").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if last = s; good(s) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s stays with the status %+v", name, last.Status)
}

func TestAVolumeIsAFolderForEveryUser(t *testing.T) {
	v := &volumes{folder: t.TempDir()}
	volume, _, err := v.Provision(context.Background(), controller.ProvisionOptions{
		PVName:       "pvc-1",
		StorageClass: &storagev1.StorageClass{},
		PVC: &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	path := volume.Spec.HostPath.Path
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("%v, %v", info, err)
	}
	if err := v.Delete(context.Background(), volume); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Delete: %v", err)
	}
}

func TestNothingButAVolumesOwnFolderIsDeleted(t *testing.T) {
	root := t.TempDir()
	v := &volumes{folder: filepath.Join(root, "volumes")}
	precious := filepath.Join(root, "precious")
	if err := os.MkdirAll(precious, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"pvc-1": precious, "..": root, "../precious": precious} {
		volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
		volume.Spec.HostPath = &corev1.HostPathVolumeSource{Path: path}
		var ignored *controller.IgnoredError
		if err := v.Delete(context.Background(), volume); !errors.As(err, &ignored) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}
