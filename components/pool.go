package components

import "github.com/pulumi/pulumi/sdk/v3/go/pulumi"

// Pool is a pool of Ollama pods that answer for the same models. Every component that deals with pools takes this type.
type Pool struct {
	Name     string
	Replicas Replicas
	// Placement and GPUs of the pods.
	Placement
	// Models that the pool answers for.
	Models []Model
	// Host resolves to the address of each ready pod, without the cluster's domain: OllamaServer.PodsHost.
	Host pulumi.StringInput
	// Workload is the name of what makes the pods: OllamaServer.WorkloadName. Their names begin with it, and it is the value
	// of their label app.kubernetes.io/instance.
	Workload pulumi.StringInput
	// Karpenter makes the nodes of the pool as this says. Default: somebody else makes them.
	Karpenter *NodeRequests
	// Queue is the name of Kueue's LocalQueue that lets the pods start. Default: they start at once.
	Queue string
}

// Replicas bound the number of a pool's pods.
type Replicas struct {
	// Min is the number of pods without an autoscaler. 0 lets an idle pool go until somebody asks it.
	Min int
	// Max is the largest number that an autoscaler may ask for. Above Min, the number of pods is left to an autoscaler.
	Max int
	// Surge is how many pods an update starts before it stops as many old ones. It takes GPUs for them. Default: 0.
	Surge int `json:"-"`
}

// Most is the largest number of pods that there can be at a time: those of an update included.
func (r Replicas) Most() int { return r.Max + r.Surge }

// Scaled tells whether an autoscaler decides the number of pods.
func (r Replicas) Scaled() bool { return r.Max > r.Min }

// Idle tells that the pool may have no pod at times, and gets one when somebody asks it.
func (r Replicas) Idle() bool { return r.Min == 0 }

// withDefaults is one pod where nothing is said, and a fixed number of pods where only Min is.
func (r Replicas) withDefaults() Replicas {
	if r.Max == 0 {
		setDefault(&r.Min, 1)
		r.Max = r.Min
	}
	return r
}

// Model is a model that a pool answers for.
type Model struct {
	// Name is what users ask for, for instance llama3.3:70b.
	Name string
	// Digest of the model's manifest by models.lock.yaml, sha256:…; empty where it has none.
	Digest string
	// Slots is the number of requests for the model that one pod answers at a time.
	Slots int
	// Context in tokens: a request may name that one and no other, which would load the model anew for everybody. Default:
	// unknown.
	Context int
	// Queue is the model whose slots and queue this one shares: Ollama loads the same weights once. Default: its own.
	Queue string
	// OutputTokens limit the answers. Default: no limit but the one that a request names.
	OutputTokens OutputTokens
}

// OutputTokens limit one answer of a model.
type OutputTokens struct {
	// Most that a request may ask for. Default: no limit.
	Most int
	// Silent is the limit of a request that names none, where the model has one of its own. Default: Most.
	Silent int
}

// queue is the name of the model in whose queue requests for the model wait.
func (m Model) queue() string {
	if m.Queue == "" {
		return m.Name
	}
	return m.Queue
}

// hasQueue tells whether the model has slots and a queue of its own.
func (m Model) hasQueue() bool { return m.queue() == m.Name }

// slots is the most requests that one pod answers at a time for one of the pool's models.
func (p Pool) slots() int {
	slots := 1
	for _, model := range p.Models {
		slots = max(slots, model.Slots)
	}
	return slots
}
