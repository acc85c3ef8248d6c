package components

import (
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"
)

// The Prometheus rules of one stack.

// rules returns rules.yml with the names of the stack. Kubernetes names without dots need no quoting in a regular
// expression.
func (k known) rules() (string, error) {
	var pods []string
	for _, pool := range k.Pools {
		pods = append(pods, pool.Workload+"-.+")
	}
	return fill("rules.yml", "[[", "]]", map[string]any{
		"Namespace": k.Namespace, "WriterJobs": k.WriterJobs + "-.+", "ServerPods": strings.Join(pods, "|"),
	})
}

type recordingRule struct {
	Record string            `json:"record"`
	Expr   string            `json:"expr"`
	Labels map[string]string `json:"labels"`
}

// configRules returns stack.yml: rules that record constants by pool and model, with which alerts and the dashboard
// compare measured values.
func (a *ObservabilityArgs) configRules(k known) (string, error) {
	var rules []recordingRule
	constant := func(record string, value int, labels ...string) {
		rule := recordingRule{
			Record: record, Expr: fmt.Sprintf("vector(%d)", value), Labels: map[string]string{"namespace": k.Namespace},
		}
		for i := 0; i+1 < len(labels); i += 2 {
			if labels[i+1] != "" {
				rule.Labels[labels[i]] = labels[i+1]
			}
		}
		rules = append(rules, rule)
	}
	constant("ollama_queue_length_limit", a.QueueLength)
	for _, pool := range a.Pools {
		constant("ollama_pool_gpus", pool.GPU.Count, "pool", pool.Name)
		constant("ollama_pool_replicas_min", pool.Replicas.Min, "pool", pool.Name)
		constant("ollama_pool_replicas_max", pool.Replicas.Max, "pool", pool.Name)
		for _, model := range pool.Models {
			name := MetricModel(model.Name)
			if model.hasQueue() {
				constant("ollama_pool_slots", model.Slots, "pool", pool.Name, "model", name)
			}
			constant(
				"ollama_model_expected", 1, "pool", pool.Name, "model", name, "digest", strings.TrimPrefix(model.Digest, "sha256:"),
			)
		}
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "ollama-stack", "rules": rules}}})
	return string(text), err
}
