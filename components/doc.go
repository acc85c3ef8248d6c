// Package components holds the six parts of an Ollama platform on Kubernetes. Each is a Pulumi ComponentResource that
// works alone:
//
//	ModelStore    the claim that holds the models, and the one Job that may write to it
//	OllamaServer  one pool of Ollama pods, which read the store and answer requests
//	AuthFront     HAProxy: authentication, authorization, routing by model, and queues
//	Observability Prometheus (bundled, or the operator's objects), recording rules, a Grafana dashboard
//	Autoscaling   one HorizontalPodAutoscaler or KEDA ScaledObject for one pool
//	Nodes         Karpenter's NodePools and Kueue's LocalQueues: the nodes and the quota that pools use
//
// A component never reads stack config and never creates a provider: package stacks does both. Args that decide which
// objects exist are plain Go values. All others are pulumi Inputs, so that names flow from the component that creates
// an object to the one that uses it. Files for other programs (haproxy.cfg, shell scripts, rules, the dashboard) are in
// files/, and tests check them with those programs.
package components
