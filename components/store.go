package components

import (
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// AccessMode of a claim.
type AccessMode string

// Access modes of the store's claim.
const (
	ReadWriteOnce AccessMode = "ReadWriteOnce" // one node: one replica
	ReadWriteMany AccessMode = "ReadWriteMany" // any number of nodes
)

// StoreMount says how a server reaches its models: ModelStore.Mount, or your own store in Ollama's layout.
type StoreMount struct {
	// ClaimName is the claim that every server mounts read-only. Unused with PerReplica.
	ClaimName pulumi.StringInput
	// Shared is true if several nodes can mount the claim at once (ReadWriteMany).
	Shared bool
	// Together names the store whose pods must share a node, because only one node can mount its claim. Default: none.
	Together string
	// PerReplica gives each pod its own claim. Default: all pods mount ClaimName.
	PerReplica *ReplicaStore
}

// Names and paths that a ReplicaStore's init containers and an Ollama server agree on.
const (
	// StoreVolume is the name of the volume with the models, and of the claim template.
	StoreVolume = "models"
	// StorePath is where the server mounts it.
	StorePath = "/models"
	// HomeVolume is an empty volume of the pod, for programs that must write to their home directory.
	HomeVolume = "home"
)

// ReplicaStore gives each pod of a StatefulSet its own store, which the pod fills before it serves.
type ReplicaStore struct {
	// Claim is the template of the pods' claims. Its name is StoreVolume.
	Claim *corev1.PersistentVolumeClaimTypeArgs
	// Retain keeps the claims when the pool is deleted. Claims of pods that an autoscaler removed always stay. Default:
	// false.
	Retain bool
	// InitContainers fill StoreVolume. They may mount HomeVolume and Volumes, and reach any address.
	InitContainers corev1.ContainerArray
	// Volumes of the init containers.
	Volumes corev1.VolumeArray
}

// whenDeleted returns the retention policy of the claims when the pool is deleted.
func (s *ReplicaStore) whenDeleted() string {
	if s.Retain {
		return "Retain"
	}
	return "Delete"
}
