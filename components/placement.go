package components

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// GPUVendor is the vendor of the GPUs.
type GPUVendor string

// GPU vendors.
const (
	NVIDIA GPUVendor = "nvidia"
	AMD    GPUVendor = "amd"
)

// GPU says which GPUs a pod gets.
type GPU struct {
	// Count is the number of GPUs per pod. Default: 0, a CPU pod.
	Count int
	// Vendor is NVIDIA or AMD. Default: NVIDIA.
	Vendor GPUVendor
	// MIG is a profile such as 1g.10gb. The pod gets a slice of this profile instead of a whole GPU. Default: none.
	MIG string
	// Product is the GPU's name from the vendor's node labeller, such as NVIDIA-H100-80GB-HBM3. The pod runs only on nodes
	// with this label. Default: any.
	Product string
	// MinMiB is the least memory of a GPU, by NVIDIA's node label. A node without the label is assumed to have enough.
	// Default: any.
	MinMiB int
}

// Toleration of a node's taint, as in the Kubernetes API.
type Toleration struct{ Key, Operator, Value, Effect string }

// Placement says on which nodes pods may run.
type Placement struct {
	GPU          GPU
	NodeSelector map[string]string
	// Tolerations besides the one for the taint of GPU nodes.
	Tolerations []Toleration
	// RuntimeClassName and PriorityClassName of the pods. Default: the cluster's.
	RuntimeClassName, PriorityClassName string
	// NodePool is the only Karpenter NodePool on whose nodes the pods may run. Default: any node.
	NodePool pulumi.StringInput
}

// vendor returns the vendor, or the default.
func (g GPU) vendor() GPUVendor { return cmp.Or(g.Vendor, NVIDIA) }

// Resource returns the extended resource that the vendor's device plugin advertises.
func (g GPU) Resource() string {
	switch {
	case g.vendor() == AMD:
		return "amd.com/gpu"
	case g.MIG != "":
		return "nvidia.com/mig-" + g.MIG
	}
	return "nvidia.com/gpu"
}

// taint returns the key of the taint on the vendor's nodes.
func (g GPU) taint() string {
	if g.vendor() == AMD {
		return "amd.com/gpu"
	}
	return "nvidia.com/gpu"
}

// productLabel returns the label in which the vendor's node labeller names the GPUs.
func (g GPU) productLabel() string {
	if g.vendor() == AMD {
		return "amd.com/gpu.product-name"
	}
	return "nvidia.com/gpu.product"
}

// apply sets p in a pod's spec. If store is set, the pod runs on the same node as the other pods of that store.
func (p Placement) apply(pod *corev1.PodSpecArgs, store string) {
	if tolerations := p.tolerations(); len(tolerations) > 0 {
		pod.Tolerations = tolerations
	}
	selector := pulumi.ToStringMap(p.NodeSelector)
	if p.NodePool != nil {
		selector[nodePoolLabel] = p.NodePool
	}
	if len(selector) > 0 {
		pod.NodeSelector = selector
	}
	if p.RuntimeClassName != "" {
		pod.RuntimeClassName = pulumi.String(p.RuntimeClassName)
	}
	if p.PriorityClassName != "" {
		pod.PriorityClassName = pulumi.String(p.PriorityClassName)
	}
	affinity := &corev1.AffinityArgs{}
	if node := p.GPU.nodeAffinity(); node != nil {
		affinity.NodeAffinity, pod.Affinity = node, affinity
	}
	if store != "" {
		affinity.PodAffinity, pod.Affinity = together(store), affinity
	}
}

func (p Placement) tolerations() corev1.TolerationArray {
	tolerations := corev1.TolerationArray{}
	if p.GPU.Count > 0 {
		// Exists, not Equal: the taint's value differs between vendors.
		tolerations = append(tolerations, &corev1.TolerationArgs{
			Key: pulumi.String(p.GPU.taint()), Operator: pulumi.String("Exists"), Effect: pulumi.String("NoSchedule"),
		})
	}
	for _, t := range p.Tolerations {
		toleration := &corev1.TolerationArgs{Operator: pulumi.String("Exists")}
		if t.Operator != "" {
			toleration.Operator = pulumi.String(t.Operator)
		} else if t.Value != "" {
			toleration.Operator = pulumi.String("Equal")
		}
		if t.Key != "" {
			toleration.Key = pulumi.String(t.Key)
		}
		if t.Value != "" {
			toleration.Value = pulumi.String(t.Value)
		}
		if t.Effect != "" {
			toleration.Effect = pulumi.String(t.Effect)
		}
		tolerations = append(tolerations, toleration)
	}
	return tolerations
}

// nodeAffinity uses the labels of NVIDIA's GPU feature discovery or of AMD's node labeller.
func (g GPU) nodeAffinity() *corev1.NodeAffinityArgs {
	requirement := func(key, operator string, values ...string) *corev1.NodeSelectorRequirementArgs {
		r := &corev1.NodeSelectorRequirementArgs{Key: pulumi.String(key), Operator: pulumi.String(operator)}
		if len(values) > 0 {
			r.Values = pulumi.ToStringArray(values)
		}
		return r
	}
	var terms corev1.NodeSelectorTermArray // a node must meet all requirements of one term
	term := func(requirements ...corev1.NodeSelectorRequirementInput) {
		terms = append(terms, &corev1.NodeSelectorTermArgs{
			MatchExpressions: corev1.NodeSelectorRequirementArray(requirements),
		})
	}
	const memory = "nvidia.com/gpu.memory"
	var product []corev1.NodeSelectorRequirementInput
	if g.Product != "" {
		product = append(product, requirement(g.productLabel(), "In", g.Product))
	}
	switch {
	case g.vendor() != AMD && g.MinMiB > 0:
		// Without the second term, a node autoscaler would create no node: it does not know a label that is set after the
		// node starts.
		term(append(slices.Clone(product), requirement(memory, "Gt", strconv.Itoa(g.MinMiB-1)))...)
		term(append(slices.Clone(product), requirement(memory, "DoesNotExist"))...)
	case g.Product != "":
		term(product...)
	}
	if g.Count == 0 {
		return nil
	}
	// Only prefer nodes with GPUs: the writer requests no GPU, and must start where the pool's pod can follow it, because
	// the volume may be bound to that node.
	present := "nvidia.com/gpu.present"
	if g.vendor() == AMD {
		present = "feature.node.kubernetes.io/amd-gpu"
	}
	preferred := &corev1.PreferredSchedulingTermArgs{
		Weight: pulumi.Int(100),
		Preference: &corev1.NodeSelectorTermArgs{
			MatchExpressions: corev1.NodeSelectorRequirementArray{requirement(present, "Exists")},
		},
	}
	affinity := &corev1.NodeAffinityArgs{
		PreferredDuringSchedulingIgnoredDuringExecution: corev1.PreferredSchedulingTermArray{preferred},
	}
	if len(terms) > 0 {
		affinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelectorArgs{NodeSelectorTerms: terms}
	}
	return affinity
}

// storeLabel marks the pods that mount a ReadWriteOnce claim, so that they can be kept on one node.
const storeLabel = "ollama-k8s/store"

// together keeps all pods of a store on the node of its volume. The first one may go anywhere: Kubernetes schedules a
// pod whose affinity only the pod itself can meet.
func together(store string) *corev1.PodAffinityArgs {
	return &corev1.PodAffinityArgs{RequiredDuringSchedulingIgnoredDuringExecution: corev1.PodAffinityTermArray{
		&corev1.PodAffinityTermArgs{
			LabelSelector: &metav1.LabelSelectorArgs{MatchLabels: pulumi.StringMap{storeLabel: pulumi.String(store)}},
			TopologyKey:   pulumi.String("kubernetes.io/hostname"),
		},
	}}
}

// spread prefers different nodes and zones for the pods of an instance.
func spread(r role, instance string) corev1.TopologySpreadConstraintArray {
	constraints := corev1.TopologySpreadConstraintArray{}
	for _, key := range []string{"kubernetes.io/hostname", "topology.kubernetes.io/zone"} {
		constraints = append(constraints, &corev1.TopologySpreadConstraintArgs{
			MaxSkew: pulumi.Int(1), TopologyKey: pulumi.String(key), WhenUnsatisfiable: pulumi.String("ScheduleAnyway"),
			LabelSelector: &metav1.LabelSelectorArgs{MatchLabels: selectInstance(r, instance)},
		})
	}
	return constraints
}

// validate rejects combinations that cannot work.
func (g GPU) validate() error {
	switch {
	case g.vendor() != NVIDIA && g.vendor() != AMD:
		return fmt.Errorf("GPU vendor %q: use %s or %s", g.Vendor, NVIDIA, AMD)
	case g.MIG != "" && g.vendor() == AMD:
		return fmt.Errorf("MIG profile %q: AMD GPUs have no MIG: leave it out", g.MIG)
	case g.MIG != "" && g.Count > 1:
		return fmt.Errorf("%d MIG slices: a CUDA program can use only one: set Count to 1", g.Count)
	}
	return nil
}
