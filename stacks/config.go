// Package stacks turns a stack's config into a running platform: Load reads and checks the config, and Deploy creates
// the components.
package stacks

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"

	"ollama-k8s/components"
	"ollama-k8s/internal/lockfile"
	"ollama-k8s/internal/modelfile"
	"ollama-k8s/internal/vram"
)

// Config is a complete, checked stack config with its defaults filled in. config.schema.json documents each key with
// its unit and default.
type Config struct {
	Namespace struct {
		Name   string
		Labels map[string]string
	}
	Cluster struct {
		Context string
		Domain  string
	}
	Images struct {
		Ollama, OllamaROCm, HAProxy, OAuth2Proxy, Prometheus, JSONExporter, DCGMExporter string
	}
	Store         Store
	Models        []Model
	Pools         map[string]Pool
	Teams         map[string]Team
	Front         Front
	OIDC          *components.OIDC
	Expose        Expose
	Observability struct {
		Prometheus              components.PrometheusMode
		ReleaseLabel, ServerURL string
		RetentionDays           int
		Storage, StorageClass   string
		Annotations             map[string]string
		DCGM                    components.DCGMSource
		DCGMNamespace           string
	}
	Autoscaling struct {
		Engine       components.Engine
		QuietSeconds int
		Karpenter    *struct{ NodeClass components.NodeClass }
		Kueue        *struct{ ClusterQueue string }
	}
	Update struct{ Schedule string }

	lock *lockfile.Lock
	// base maps each Modelfile's model to the model in its FROM. All names are in normal form.
	base map[string]string
	// stored lists the models in the order in which the store must make them, including those that only a Modelfile's FROM
	// names.
	stored []Model
	// plans holds the memory plan of each pool.
	plans map[string]vram.Plan
}

// Values that turn a component off.
const (
	noPrometheus components.PrometheusMode = "none"
	noEngine     components.Engine         = "none"
)

// Store configures the volume of the models and where the models come from.
type Store struct {
	Size, StorageClass, ExistingClaim string
	AccessMode                        components.AccessMode
	Protect                           bool
	Registry                          string
	Insecure                          bool
	KeySecret, CABundle               string
	Proxy                             *struct {
		URL    string
		Direct []string
	}
	Prune, PerReplica bool
}

// shared reports whether pods on several nodes can read the models.
func (s Store) shared() bool { return s.PerReplica || s.AccessMode == components.ReadWriteMany }

// Model is a model of the store.
type Model struct {
	Name string
	// Modelfile is a path, and Text is the content of the file.
	Modelfile string
	Text      string `json:"-"`
	VRAMGiB   float64

	file   *modelfile.File
	locked lockfile.Model
}

// Pool is a pool of Ollama pods.
type Pool struct {
	GPU struct {
		Count        int
		VRAMGiB      float64
		Spare        bool
		Vendor       components.GPUVendor
		MIG, Product string
	}
	Replicas components.Replicas
	// Models that the pool serves. Never empty after Load.
	Models                                   []string
	ContextLength, Parallel, MaxLoadedModels int
	MaxOutputTokens                          int
	KVCacheType, KeepAlive, CPU, Memory      string
	RuntimeClassName, PriorityClassName      string
	NodeSelector                             map[string]string
	Tolerations                              []components.Toleration
	Karpenter                                *components.NodeRequests
	Queue                                    string
}

// Team holds a team's rights and limits.
type Team struct {
	Models                                []string
	RequestsPerMinute, ConcurrentRequests int
	Keys                                  []int
	Priority                              components.Priority
}

// Front holds the settings of the front.
type Front struct {
	Replicas, QueueLength, MaxBodyMiB, MaxSeconds int
	KeysSecret, TLSSecret                         string
}

// Expose says how clients outside the cluster reach the front. At most one field is set.
type Expose struct {
	LoadBalancer *components.LoadBalancer
	Ingress      *components.Ingress
	Gateway      *components.Gateway
}

// Load reads a stack's config. values holds each key without the project's prefix, with objects as JSON. Load reads the
// Modelfiles and models.lock.yaml from project, the folder that holds Pulumi.yaml. The error joins all problems, each
// with its key, its value and a remedy. Nothing is deployed from a config with problems.
func Load(values map[string]string, project fs.FS) (*Config, error) {
	document := map[string]any{}
	for key, value := range values {
		document[key] = parse(value)
	}
	problems := checkShape(document) // also removes invalid values, so that the rest can be checked
	fillDefaults(document)

	config := &Config{}
	encoded, err := json.Marshal(document)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(encoded, config); err != nil {
		return nil, fmt.Errorf("reading the checked config: %w", err) // the schema and the types disagree
	}
	config.derive()
	problems = append(problems, config.readLock(project)...)
	problems = append(problems, config.readModelfiles(project)...)
	problems = append(problems, config.check()...)
	problems = append(problems, config.resolve()...)
	problems = append(problems, config.plan()...)
	if len(problems) > 0 {
		return nil, problemsError(problems)
	}
	return config, nil
}

// parse reads a config value as Pulumi passes it: JSON for objects, plain text for the rest.
func parse(value string) any {
	var parsed any
	if err := json.Unmarshal([]byte(value), &parsed); err != nil {
		return value
	}
	return parsed
}

// problemsError joins the problems under a line that counts them.
func problemsError(problems []string) error {
	sort.Strings(problems)
	lines := make([]error, len(problems))
	for i, problem := range problems {
		lines[i] = errors.New(problem)
	}
	noun := "problems"
	if len(problems) == 1 {
		noun = "problem"
	}
	return fmt.Errorf("the stack config has %d %s, nothing was changed:\n%w", len(problems), noun, errors.Join(lines...))
}

// derive sets values that follow from others.
func (c *Config) derive() {
	if c.OIDC != nil && c.OIDC.IssuerURL == "" {
		c.OIDC = nil // {} is the default in Pulumi.yaml; the schema rejects any other value without issuerURL
	}
	for name, pool := range c.Pools {
		if pool.Models == nil && len(c.Pools) == 1 {
			for _, m := range c.Models {
				if !slices.Contains(pool.Models, m.Name) {
					pool.Models = append(pool.Models, m.Name)
				}
			}
		}
		if pool.Replicas.Max == 0 {
			pool.Replicas.Max = pool.Replicas.Min
		}
		pool.Replicas.Surge = c.surge(pool)
		c.Pools[name] = pool
	}
}

// poolNames returns the sorted names of the pools. Go's map order is random, and the order of objects must not be.
func (c *Config) poolNames() []string { return sortedKeys(c.Pools) }

func (c *Config) teamNames() []string { return sortedKeys(c.Teams) }

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
