package components

import (
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"
)

// Publishes the stack's config as series, with which alerts and the dashboard compare measured values.

type recordingRule struct {
	Record string            `json:"record"`
	Expr   string            `json:"expr"`
	Labels map[string]string `json:"labels"`
}

// configRules returns stack.yml: rules that record constants by pool and model.
func (a *ObservabilityArgs) configRules(namespace string) (string, error) {
	var rules []recordingRule
	constant := func(record string, value int, labels ...string) {
		rule := recordingRule{
			Record: record, Expr: fmt.Sprintf("vector(%d)", value), Labels: map[string]string{"namespace": namespace},
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
			name := metricModel(model.Name)
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
