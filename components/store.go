package components

import "github.com/pulumi/pulumi/sdk/v3/go/pulumi"

// Access modes of the store's claim.
const (
	ReadWriteOnce = "ReadWriteOnce" // one node: one replica
	ReadWriteMany = "ReadWriteMany" // any number of nodes
)

// StoreMount is how a server reaches its models.
type StoreMount struct {
	// ClaimName is mounted read-only at every server.
	ClaimName pulumi.StringInput
	// Shared tells that the claim mounts on several nodes at once (ReadWriteMany).
	Shared bool
	// Together names the store whose pods must share a node, as its claim mounts on one. Default: none.
	Together string

	perReplica *ModelStoreArgs
	config     pulumi.StringPtrOutput
}
