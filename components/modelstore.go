package components

import (
	"fmt"
	"strings"

	batchv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/batch/v1"
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	networkingv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/networking/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Access modes of the store's claim.
const (
	ReadWriteOnce = "ReadWriteOnce" // one node: one replica
	ReadWriteMany = "ReadWriteMany" // any number of nodes
)

// Model is one model that the store holds.
type Model struct {
	// Name is what users ask for, for instance llama3.3:70b.
	Name string
	// Modelfile is the text from which `ollama create` makes the model; empty for a model that is pulled.
	Modelfile string
}

// ModelStoreArgs says what the store holds, and where.
type ModelStoreArgs struct {
	Namespace pulumi.StringInput
	// Image is an Ollama image; it pulls and creates the models.
	Image string
	// Models in order: a Modelfile's FROM stands before the Modelfile.
	Models []Model
	// Registry is the host[:port]/path that short model names are pulled from. Default: Ollama's own library.
	Registry string
	// Insecure says that Registry speaks plain HTTP. Default: false.
	Insecure bool
	// ExistingClaim names a claim that somebody else owns. Default: the store makes its own of Size, StorageClass and AccessMode.
	ExistingClaim string
	// Size of the claim. Default: 100Gi.
	Size string
	// StorageClass of the claim. Default: the cluster's own default class.
	StorageClass string
	// AccessMode of the claim. Default: ReadWriteOnce.
	AccessMode string
	// Protect refuses to delete the claim, and with it hours of downloads. Default: false.
	Protect bool
}

// ModelStore is the claim that holds the models and the one Job that writes to it. Servers only read: Ollama's start-up pruning, racing
// pulls and non-atomic manifests make a second writer unsafe.
type ModelStore struct {
	pulumi.ResourceState

	// ClaimName is the claim to mount, read-only, at every server.
	ClaimName pulumi.StringOutput
}

// writerTimeout bounds one update's downloads: 500 GB at 300 Mbit/s take 3 h 42 min.
const writerTimeout = "4h"

// NewModelStore makes the claim and the writer Job, and waits until the Job has pulled and created every model. A model that fails fails
// the update; the Job's message names it. The Job is named by a hash of what it does: a changed model list makes a new Job, an
// unchanged one makes none.
func NewModelStore(ctx *pulumi.Context, name string, args *ModelStoreArgs, opts ...pulumi.ResourceOption) (*ModelStore, error) {
	a := *args
	if a.Size == "" {
		a.Size = "100Gi"
	}
	if a.AccessMode == "" {
		a.AccessMode = ReadWriteOnce
	}
	if len(a.Models) == 0 {
		return nil, fmt.Errorf("ModelStore %s: models is empty: list at least one model", name)
	}

	store := &ModelStore{}
	if err := ctx.RegisterComponentResourceV2("ollama-k8s:index:ModelStore", name, pulumi.Map{
		"namespace": a.Namespace, "models": pulumi.ToStringArray(modelNames(a.Models)),
	}, store, opts...); err != nil {
		return nil, err
	}
	parent := pulumi.Parent(store)

	claim, err := a.claim(ctx, name, parent)
	if err != nil {
		return nil, fmt.Errorf("creating the claim of %s: %w", name, err)
	}
	store.ClaimName = claim

	if err := networkPolicy(ctx, name+"-writer", a.Namespace, roleWriter, allow{
		egress: networkingv1.NetworkPolicyEgressRuleArray{&networkingv1.NetworkPolicyEgressRuleArgs{}}, // registries are anywhere
	}, parent); err != nil {
		return nil, fmt.Errorf("creating the network policy of %s: %w", name, err)
	}
	if err := a.writer(ctx, name+"-writer", claim, parent); err != nil {
		return nil, fmt.Errorf("creating the writer of %s: %w", name, err)
	}
	return store, ctx.RegisterResourceOutputs(store, pulumi.Map{"claimName": store.ClaimName})
}

func (a *ModelStoreArgs) claim(ctx *pulumi.Context, name string, opts ...pulumi.ResourceOption) (pulumi.StringOutput, error) {
	if a.ExistingClaim != "" {
		return pulumi.String(a.ExistingClaim).ToStringOutput(), nil
	}
	metadata := named(a.Namespace, roleWriter, name, name)
	metadata.Annotations = skipAwait() // a WaitForFirstConsumer class binds only once the writer's pod is there
	spec := &corev1.PersistentVolumeClaimSpecArgs{
		AccessModes: pulumi.StringArray{pulumi.String(a.AccessMode)},
		Resources:   &corev1.VolumeResourceRequirementsArgs{Requests: pulumi.StringMap{"storage": pulumi.String(a.Size)}},
	}
	if a.StorageClass != "" {
		spec.StorageClassName = pulumi.String(a.StorageClass)
	}
	claim, err := corev1.NewPersistentVolumeClaim(ctx, name, &corev1.PersistentVolumeClaimArgs{Metadata: metadata, Spec: spec},
		append([]pulumi.ResourceOption{pulumi.Protect(a.Protect)}, opts...)...)
	if err != nil {
		return pulumi.StringOutput{}, err
	}
	return claim.Metadata.Name().Elem(), nil
}

func (a *ModelStoreArgs) writer(ctx *pulumi.Context, name string, claim pulumi.StringInput, opts ...pulumi.ResourceOption) error {
	const script = "write-models.sh"
	data := pulumi.StringMap{script: pulumi.String(file(script)), "plan": pulumi.String(a.plan())}
	identity := []string{file(script), a.plan(), a.Image}
	for _, m := range a.Models {
		if m.Modelfile != "" {
			data[fileKey(m.Name)] = pulumi.String(m.Modelfile)
			identity = append(identity, m.Modelfile)
		}
	}
	config, err := corev1.NewConfigMap(ctx, name, &corev1.ConfigMapArgs{Metadata: autonamed(a.Namespace, roleWriter, name), Data: data}, opts...)
	if err != nil {
		return err
	}

	metadata := named(a.Namespace, roleWriter, name, name+"-"+digest(identity...))
	// A Job that failed is done for good: the next update must replace it, not wait for it again.
	metadata.Annotations = pulumi.StringMap{"pulumi.com/replaceUnready": pulumi.String("true")}
	pod := &corev1.PodSpecArgs{
		RestartPolicy:                pulumi.String("Never"),
		AutomountServiceAccountToken: pulumi.Bool(false),
		SecurityContext:              restrictedPod(uidOllama),
		Containers: corev1.ContainerArray{&corev1.ContainerArgs{
			Name:    pulumi.String("writer"),
			Image:   pulumi.String(a.Image),
			Command: pulumi.ToStringArray([]string{"sh", "/etc/ollama-k8s/" + script, "/etc/ollama-k8s/plan"}),
			Env: env(
				"HOME", "/home/ollama", // Ollama writes its identity there at start
				"OLLAMA_HOST", fmt.Sprintf("127.0.0.1:%d", portOllama),
				"OLLAMA_MODELS", modelsPath,
				"OLLAMA_NOPRUNE", "1", // pruning at start would delete what a running server reads
				"NVIDIA_VISIBLE_DEVICES", "void", // the image asks for all GPUs of the node
			),
			Resources:       requests("500m", "1Gi"), // a pull streams to disk; 1 GiB leaves room for `ollama create`
			SecurityContext: restrictedContainer(),
			VolumeMounts: corev1.VolumeMountArray{
				mount("models", modelsPath, false), mount("home", "/home/ollama", false), mount("config", "/etc/ollama-k8s", true),
			},
		}},
		Volumes: corev1.VolumeArray{
			claimVolume("models", claim, false), scratch("home"), configVolume("config", config.Metadata.Name(), 0o444),
		},
	}
	if a.AccessMode == ReadWriteOnce {
		// Such a volume can be on one node at a time, the one that a server already runs on: go there, GPU taint or not.
		pod.Tolerations = tolerateGPU()
		pod.Affinity = &corev1.AffinityArgs{PodAffinity: &corev1.PodAffinityArgs{
			PreferredDuringSchedulingIgnoredDuringExecution: corev1.WeightedPodAffinityTermArray{&corev1.WeightedPodAffinityTermArgs{
				Weight: pulumi.Int(100),
				PodAffinityTerm: &corev1.PodAffinityTermArgs{
					LabelSelector: &metav1.LabelSelectorArgs{MatchLabels: selectRole(roleServer)},
					TopologyKey:   pulumi.String("kubernetes.io/hostname"),
				},
			}},
		}}
	}
	_, err = batchv1.NewJob(ctx, name, &batchv1.JobArgs{
		Metadata: metadata,
		Spec: &batchv1.JobSpecArgs{
			BackoffLimit: pulumi.Int(0), // the script retries each model by itself, and says which one failed
			PodFailurePolicy: &batchv1.PodFailurePolicyArgs{Rules: batchv1.PodFailurePolicyRuleArray{&batchv1.PodFailurePolicyRuleArgs{
				Action: pulumi.String("Ignore"), // an eviction or a drain is not the models' fault
				OnPodConditions: batchv1.PodFailurePolicyOnPodConditionsPatternArray{&batchv1.PodFailurePolicyOnPodConditionsPatternArgs{
					Type: pulumi.String("DisruptionTarget"), Status: pulumi.String("True"),
				}},
			}}},
			Template: &corev1.PodTemplateSpecArgs{
				Metadata: &metav1.ObjectMetaArgs{Labels: labels(roleWriter, name)},
				Spec:     pod,
			},
		},
	}, append([]pulumi.ResourceOption{pulumi.Timeouts(&pulumi.CustomTimeouts{Create: writerTimeout, Update: writerTimeout})}, opts...)...)
	return err
}

// plan is what write-models.sh reads: a line per model, "pull NAME SOURCE [OPTIONS]" or "create NAME MODELFILE".
func (a *ModelStoreArgs) plan() string {
	var plan strings.Builder
	for _, m := range a.Models {
		if m.Modelfile != "" {
			fmt.Fprintf(&plan, "create %s /etc/ollama-k8s/%s\n", m.Name, fileKey(m.Name))
			continue
		}
		source, options := m.Name, ""
		if a.Registry != "" {
			source = a.Registry + "/" + m.Name
		}
		if a.Insecure {
			options = " --insecure"
		}
		fmt.Fprintf(&plan, "pull %s %s%s\n", m.Name, source, options)
	}
	return plan.String()
}

func modelNames(models []Model) []string {
	names := make([]string, len(models))
	for i, m := range models {
		names[i] = m.Name
	}
	return names
}
