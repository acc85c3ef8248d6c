package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// resourceGPU is the resource that pods ask for.
const resourceGPU corev1.ResourceName = "nvidia.com/gpu"

// gpus advertises GPUs that do not exist, as an extended resource in the node's status, so that the scheduler counts
// them. It watches the nodes, because a kubelet sets the resource to zero when it restarts.
type gpus struct {
	*loop
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	counts map[string]int64
}

func newGPUs(client kubernetes.Interface, nodes coreinformers.NodeInformer, counts map[string]int64) (*gpus, error) {
	g := &gpus{client: client, nodes: nodes.Lister(), counts: counts}
	var err error
	g.loop, err = newLoop("GPUs", nodes.Informer(), g.reconcile)
	return g, err
}

func (g *gpus) reconcile(ctx context.Context) error {
	nodes, err := g.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	var failed []error
	for _, node := range nodes {
		count, ok := g.counts[node.Name]
		if !ok || offers(node.Status.Capacity, count) && offers(node.Status.Allocatable, count) {
			continue
		}
		patch, err := gpuPatch(count)
		if err != nil {
			return err
		}
		_, err = g.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil {
			failed = append(failed, fmt.Errorf("GPUs of node %s: %w", node.Name, err))
		}
	}
	return errors.Join(failed...)
}

func offers(list corev1.ResourceList, count int64) bool {
	quantity, ok := list[resourceGPU]
	return ok && quantity.Value() == count
}

func gpuPatch(count int64) ([]byte, error) {
	resources := map[corev1.ResourceName]string{resourceGPU: strconv.FormatInt(count, 10)}
	return json.Marshal(map[string]any{
		"status": map[string]any{"capacity": resources, "allocatable": resources},
	})
}
