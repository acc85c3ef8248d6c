// Package components holds the six parts of an Ollama platform on Kubernetes, each a Pulumi ComponentResource that
// works alone:
//
//	ModelStore    the claim that holds the models, and the one Job that may write to it
//	OllamaServer  one pool of Ollama pods, which read the store and answer requests
//	AuthFront     HAProxy: who are you, may you, which pool has your model, wait for a slot
//	Observability Prometheus (bundled, or the operator's objects), recording rules, a Grafana dashboard
//	Autoscaling   one HorizontalPodAutoscaler or KEDA ScaledObject for one pool
//	Nodes         Karpenter's NodePools and Kueue's LocalQueues: on whose nodes, and from whose quota, pools run
//
// A component never reads stack config and never creates a provider: package stacks does both. What decides which
// objects exist is a plain Go value in the args; everything else is a pulumi Input, so that names flow from the
// component that makes an object to the one that uses it. Programs that other programs run (haproxy.cfg, shell scripts,
// rules, the dashboard) are files under files/, checked there by their own binaries.
package components
