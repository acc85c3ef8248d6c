package components

import (
	"fmt"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Proxy is an HTTP proxy to the registries.
type Proxy struct {
	// URL of the HTTP proxy, for both http and https.
	URL string
	// Direct lists hosts, domains and CIDRs to reach without the proxy, besides the cluster's own.
	Direct []string
}

// ModelStoreArgs configures what the store holds, and where.
type ModelStoreArgs struct {
	Namespace pulumi.StringInput
	// Image is an Ollama image, which pulls and creates the models.
	Image string
	// Models in order: the base of a Modelfile comes before it.
	Models []Model
	// Registry is the host[:port]/path from which short model names are pulled. Default: Ollama's own library.
	Registry string
	// Insecure says that Registry speaks plain HTTP. Default: false.
	Insecure bool
	// KeySecret is a Secret whose key id_ed25519 is the identity that a private registry knows. Default: a new identity
	// each time.
	KeySecret string
	// CABundle is a ConfigMap whose keys are PEM files of certificate authorities to trust besides the system's. Default:
	// none.
	CABundle string
	// Proxy for the connections to registries. Default: none.
	Proxy *Proxy
	// ClusterDomain is the cluster's DNS domain, never reached through the proxy. Default: cluster.local.
	ClusterDomain string
	// Prune removes models that the writer pulled and that are no longer listed, but never created models. Default: false.
	Prune bool
	// CheckSchedule is when to compare the registries with the digests, in cron's five fields. A different model is
	// downloaded next to the current one, which pods keep serving, and the check's Job fails and names it. Default: never.
	CheckSchedule string
	// PerReplica gives each server pod its own claim instead, which the pod fills before it serves. Default: false.
	PerReplica bool
	// Placement of the writer. With ReadWriteOnce, use that of the servers, so that both run on the same node. Default:
	// any node.
	Placement Placement
	// ExistingClaim names a claim that is not part of the stack. Default: the store creates a claim from Size,
	// StorageClass and AccessMode.
	ExistingClaim string
	// Size of the claim. Default: 100Gi.
	Size string
	// StorageClass of the claim. Default: the cluster's default class.
	StorageClass string
	// AccessMode of the claim. Default: ReadWriteOnce.
	AccessMode AccessMode
	// Protect keeps Pulumi from deleting the claim, and with it hours of downloads. Default: false.
	Protect bool
}

// ModelStore is the claim that holds the models and the one Job that writes to it. Servers only read: Ollama's start-up
// pruning, racing pulls and non-atomic manifests make a second writer unsafe.
type ModelStore struct {
	pulumi.ResourceState

	// ClaimName is the claim that all servers mount. Empty with PerReplica.
	ClaimName pulumi.StringOutput `pulumi:"claimName"`
	// WriterJobs is the prefix of the names of the writer's Jobs, including those of the scheduled check.
	WriterJobs pulumi.StringOutput `pulumi:"writerJobs"`
	// Mount says how a server mounts the store.
	Mount StoreMount
}

func (a ModelStoreArgs) withDefaults() *ModelStoreArgs {
	setDefault(&a.Size, "100Gi")
	setDefault(&a.AccessMode, ReadWriteOnce)
	setDefault(&a.ClusterDomain, "cluster.local")
	return &a
}

// NewModelStore creates the claim and the writer Job, and waits until the Job has pulled and created every model. If a
// model fails, the update fails, and the Job's message names the model. A changed model list creates a new Job; an
// unchanged one does not.
func NewModelStore(
	ctx *pulumi.Context, name string, args *ModelStoreArgs, opts ...pulumi.ResourceOption,
) (*ModelStore, error) {
	a := args.withDefaults()
	if len(a.Models) == 0 {
		return nil, fmt.Errorf("ModelStore %s: models is empty: list at least one model", name)
	}
	plan, err := a.plan()
	if err != nil {
		return nil, fmt.Errorf("ModelStore %s: %w", name, err)
	}

	store := &ModelStore{}
	if err := ctx.RegisterComponentResourceV2("ollama-k8s:index:ModelStore", name, pulumi.Map{
		"namespace": a.Namespace, "models": pulumi.ToStringArray(modelNames(a.Models)),
	}, store, opts...); err != nil {
		return nil, err
	}
	parent := pulumi.Parent(store)
	store.WriterJobs = pulumi.String(name + "-writer").ToStringOutput()

	config, err := a.writerConfigMap(ctx, name+"-writer", plan, parent)
	if err != nil {
		return nil, fmt.Errorf("creating the configuration of %s: %w", name, err)
	}
	if a.PerReplica {
		store.ClaimName = pulumi.String("").ToStringOutput()
		store.Mount = StoreMount{Shared: true, PerReplica: a.replicaStore(config)}
		return store, ctx.RegisterResourceOutputs(store, store.outputs())
	}
	claim, err := a.claim(ctx, name, parent)
	if err != nil {
		return nil, fmt.Errorf("creating the claim of %s: %w", name, err)
	}
	store.ClaimName = claim
	store.Mount = StoreMount{ClaimName: claim, Shared: a.AccessMode == ReadWriteMany}
	if !store.Mount.Shared {
		store.Mount.Together = name
	}
	if err := networkPolicy(ctx, name+"-writer", a.Namespace, roleWriter, allow{egress: anywhere()}, parent); err != nil {
		return nil, fmt.Errorf("creating the network policy of %s: %w", name, err)
	}
	if err := a.writerJob(ctx, name+"-writer", config, store.Mount, parent); err != nil {
		return nil, fmt.Errorf("creating the writer of %s: %w", name, err)
	}
	if a.CheckSchedule != "" {
		if err := a.checkCronJob(ctx, name+"-writer", config, store.Mount, parent); err != nil {
			return nil, fmt.Errorf("creating the scheduled check of %s: %w", name, err)
		}
	}
	return store, ctx.RegisterResourceOutputs(store, store.outputs())
}

func (s *ModelStore) outputs() pulumi.Map {
	return pulumi.Map{"claimName": s.ClaimName, "writerJobs": s.WriterJobs}
}

func (a *ModelStoreArgs) claim(
	ctx *pulumi.Context, name string, opts ...pulumi.ResourceOption,
) (pulumi.StringOutput, error) {
	if a.ExistingClaim != "" {
		return pulumi.String(a.ExistingClaim).ToStringOutput(), nil
	}
	metadata := named(a.Namespace, roleWriter, name, name)
	metadata.Annotations = skipAwait() // a WaitForFirstConsumer class binds only when the writer's pod exists
	claim, err := corev1.NewPersistentVolumeClaim(ctx, name, &corev1.PersistentVolumeClaimArgs{
		Metadata: metadata, Spec: a.claimSpec(a.AccessMode),
	},
		append([]pulumi.ResourceOption{pulumi.Protect(a.Protect)}, opts...)...)
	if err != nil {
		return pulumi.StringOutput{}, err
	}
	return claim.Metadata.Name().Elem(), nil
}

func (a *ModelStoreArgs) claimSpec(accessMode AccessMode) *corev1.PersistentVolumeClaimSpecArgs {
	spec := &corev1.PersistentVolumeClaimSpecArgs{
		AccessModes: pulumi.StringArray{pulumi.String(accessMode)},
		Resources:   &corev1.VolumeResourceRequirementsArgs{Requests: pulumi.StringMap{"storage": pulumi.String(a.Size)}},
	}
	if a.StorageClass != "" {
		spec.StorageClassName = pulumi.String(a.StorageClass)
	}
	return spec
}

// replicaStore returns what each server pod needs for its own store.
func (a *ModelStoreArgs) replicaStore(config pulumi.StringPtrInput) *ReplicaStore {
	return &ReplicaStore{
		Claim: &corev1.PersistentVolumeClaimTypeArgs{
			Metadata: &metav1.ObjectMetaArgs{Name: pulumi.String(StoreVolume)}, Spec: a.claimSpec(ReadWriteOnce),
		},
		Retain:         a.Protect,
		InitContainers: corev1.ContainerArray{a.writerContainer()},
		Volumes:        a.writerVolumes(config),
	}
}
