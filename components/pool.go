package components

import "github.com/pulumi/pulumi/sdk/v3/go/pulumi"

// Pool is a pool of Ollama pods that serve the same models. All components that deal with pools use this type.
type Pool struct {
	Name     string
	Replicas Replicas
	// Placement and GPUs of the pods.
	Placement
	// Models that the pool serves.
	Models []Model
	// Host resolves to the address of each ready pod, without the cluster's domain: OllamaServer.PodsHost.
	Host pulumi.StringInput
	// Workload is the name of the object that creates the pods: OllamaServer.WorkloadName. It is the prefix of the pods'
	// names and the value of their label app.kubernetes.io/instance.
	Workload pulumi.StringInput
	// Karpenter configures the nodes that Karpenter creates for the pool. Default: Karpenter creates none.
	Karpenter *NodeRequests
	// Queue is the name of the Kueue LocalQueue that admits the pods. Default: they start at once.
	Queue string
}

// Replicas bounds the number of a pool's pods.
type Replicas struct {
	// Min is the number of pods without an autoscaler. 0 scales an idle pool to zero until a request comes.
	Min int
	// Max is the largest number of pods that an autoscaler may set. If it is above Min, an autoscaler sets the number.
	Max int
	// Surge is how many pods an update starts before it stops as many old ones. They need free GPUs. Default: 0.
	Surge int `json:"-"`
}

// Most returns the largest number of pods that can exist at a time, including those of an update.
func (r Replicas) Most() int { return r.Max + r.Surge }

// Scaled reports whether an autoscaler sets the number of pods.
func (r Replicas) Scaled() bool { return r.Max > r.Min }

// Idle reports whether the pool scales to zero when it is idle.
func (r Replicas) Idle() bool { return r.Min == 0 }

// withDefaults returns one pod if nothing is set, and a fixed number of pods if only Min is set.
func (r Replicas) withDefaults() Replicas {
	if r.Max == 0 {
		setDefault(&r.Min, 1)
		r.Max = r.Min
	}
	return r
}

// Model is a model that the store holds and a pool serves.
type Model struct {
	// Name is what clients request, for instance llama3.3:70b.
	Name string
	// Modelfile is the text from which `ollama create` makes the model. Only ModelStore uses it. Default: the model is
	// pulled.
	Modelfile string
	// Digest of the manifest, sha256:…. The writer fails if it pulls another one. Default: whatever the registry has.
	Digest string
	// Slots is the number of requests for the model that one pod answers at a time.
	Slots int
	// Context in tokens. A request may set only this context, because any other would reload the model for everybody.
	// Default: unknown.
	Context int
	// Queue is the model whose slots and queue this one shares, because Ollama loads the same weights once. Default: its
	// own.
	Queue string
	// OutputTokens limits the answers. Default: only the limit that a request sets.
	OutputTokens OutputTokens
}

// OutputTokens limits one answer of a model.
type OutputTokens struct {
	// Most is the largest limit that a request may set. Default: no limit.
	Most int
	// Silent is the limit for a request that sets none, if the model has its own limit. Default: Most.
	Silent int
}

// queue returns the name of the model in whose queue requests for the model wait.
func (m Model) queue() string {
	if m.Queue == "" {
		return m.Name
	}
	return m.Queue
}

// hasQueue reports whether the model has its own slots and queue.
func (m Model) hasQueue() bool { return m.queue() == m.Name }

// slots returns the largest number of requests that one pod answers at a time for one of the pool's models.
func (p Pool) slots() int {
	slots := 1
	for _, model := range p.Models {
		slots = max(slots, model.Slots)
	}
	return slots
}
