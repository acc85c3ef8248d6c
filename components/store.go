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

// StoreMount is how a server reaches its models: ModelStore.Mount, or a store of your own in Ollama's layout.
type StoreMount struct {
	// ClaimName is mounted read-only at every server. Unused with PerReplica.
	ClaimName pulumi.StringInput
	// Shared tells that the claim mounts on several nodes at once (ReadWriteMany).
	Shared bool
	// Together names the store whose pods must share a node, as its claim mounts on one. Default: none.
	Together string
	// PerReplica gives each pod a claim of its own. Default: all pods mount ClaimName.
	PerReplica *ReplicaStore
}

// Names and paths that a ReplicaStore's init containers and an Ollama server agree on.
const (
	// StoreVolume is the volume of the models, and the name that the claim template must have.
	StoreVolume = "models"
	// StorePath is where the server mounts it.
	StorePath = "/models"
	// HomeVolume is an empty volume of the pod, for programs that insist on writing to their home.
	HomeVolume = "home"
)

// ReplicaStore is a store that each pod of a StatefulSet has for itself, and fills before it serves.
type ReplicaStore struct {
	// Claim is the template of the pods' claims. Its name is StoreVolume.
	Claim *corev1.PersistentVolumeClaimTypeArgs
	// Retain keeps the claims when the pool is deleted. Those of pods that an autoscaler took away always stay. Default:
	// false.
	Retain bool
	// InitContainers fill StoreVolume. They may mount HomeVolume and Volumes, and reach any address.
	InitContainers corev1.ContainerArray
	// Volumes of the init containers.
	Volumes corev1.VolumeArray
}

// whenDeleted tells what becomes of the claims when the pool is deleted.
func (s *ReplicaStore) whenDeleted() string {
	if s.Retain {
		return "Retain"
	}
	return "Delete"
}
