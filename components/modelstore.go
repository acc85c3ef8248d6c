package components

import (
	"fmt"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// StoredModel is one model that the store holds.
type StoredModel struct {
	// Name is what users ask for, for instance llama3.3:70b.
	Name string
	// Modelfile is the text from which `ollama create` makes the model; empty for a model that is pulled.
	Modelfile string
	// Digest of the manifest that must be pulled, sha256:…; the writer fails on another. Default: whatever the registry
	// has.
	Digest string
}

// Proxy leads to registries from inside a company's network.
type Proxy struct {
	// URL of the HTTP proxy, for both http and https.
	URL string
	// Direct are hosts, domains and CIDRs to reach without it, besides the cluster's own.
	Direct []string
}

// ModelStoreArgs says what the store holds, and where.
type ModelStoreArgs struct {
	Namespace pulumi.StringInput
	// Image is an Ollama image; it pulls and creates the models.
	Image string
	// Models in order: a Modelfile's FROM stands before the Modelfile.
	Models []StoredModel
	// Registry is the host[:port]/path that short model names are pulled from. Default: Ollama's own library.
	Registry string
	// Insecure says that Registry speaks plain HTTP. Default: false.
	Insecure bool
	// KeySecret is a Secret whose key id_ed25519 is the identity that a private registry knows. Default: a new identity
	// each time.
	KeySecret string
	// CABundle is a ConfigMap whose keys are PEM files of certificate authorities to trust besides the system's. Default:
	// none.
	CABundle string
	// Proxy to reach the registries through. Default: none.
	Proxy *Proxy
	// ClusterDomain is the cluster's DNS domain, never reached through the proxy. Default: cluster.local.
	ClusterDomain string
	// Prune removes models that the writer pulled and that are not listed any more, never those that were created.
	// Default: false.
	Prune bool
	// CheckSchedule is when registries are asked whether they have another model than the listed digests, in cron's five
	// fields. What differs is downloaded beside what serves, which stays as it is, and the Job of that time fails and says
	// so. Default: never.
	CheckSchedule string
	// PerReplica gives each server pod a claim of its own instead, filled by that pod before it serves. Default: false.
	PerReplica bool
	// Placement of the writer. With ReadWriteOnce it should be the servers', so that they meet. Default: any node.
	Placement Placement
	// ExistingClaim names a claim that somebody else owns. Default: the store makes its own of Size, StorageClass and
	// AccessMode.
	ExistingClaim string
	// Size of the claim. Default: 100Gi.
	Size string
	// StorageClass of the claim. Default: the cluster's own default class.
	StorageClass string
	// AccessMode of the claim. Default: ReadWriteOnce.
	AccessMode AccessMode
	// Protect refuses to delete the claim, and with it hours of downloads. Default: false.
	Protect bool
}

// ModelStore is the claim that holds the models and the one Job that writes to it. Servers only read: Ollama's start-up
// pruning, racing pulls and non-atomic manifests make a second writer unsafe.
type ModelStore struct {
	pulumi.ResourceState

	// ClaimName is the claim that all servers mount; empty with PerReplica.
	ClaimName pulumi.StringOutput `pulumi:"claimName"`
	// WriterJobs begins the names of the writer's Jobs, those of the scheduled check included.
	WriterJobs pulumi.StringOutput `pulumi:"writerJobs"`
	// Mount is what a server mounts.
	Mount StoreMount
}

func (a ModelStoreArgs) withDefaults() *ModelStoreArgs {
	setDefault(&a.Size, "100Gi")
	setDefault(&a.AccessMode, ReadWriteOnce)
	setDefault(&a.ClusterDomain, "cluster.local")
	return &a
}

// NewModelStore makes the claim and the writer Job, and waits until the Job has pulled and created every model. A model
// that fails fails the update; the Job's message names it. The Job is named by a hash of what it does: a changed model
// list makes a new Job, an unchanged one makes none.
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
	metadata.Annotations = skipAwait() // a WaitForFirstConsumer class binds only once the writer's pod is there
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

// replicaStore is what each server pod needs to have a store of its own.
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
