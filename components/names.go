package components

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"strings"

	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// All names that two objects must agree on are defined here.

// A role is the app.kubernetes.io/component label of a pod: Services, NetworkPolicies and PodDisruptionBudgets select
// by it.
type role string

const (
	roleWriter     role = "model-writer"
	roleServer     role = "ollama-server"
	roleFront      role = "auth-front"
	rolePrometheus role = "prometheus"
	roleExporter   role = "json-exporter"
	roleDCGM       role = "dcgm-exporter"
)

// Ports, by number for containers and by name for everything that refers to them.
const (
	portOllama      = 11434 // Ollama's own default
	portAPI         = 8080  // the front; unprivileged, because HAProxy runs as a plain user
	portSignedIn    = 8081  // where oauth2-proxy sends authenticated requests, only on the pod's loopback
	portQueue       = 8082  // where the active front receives requests from the others
	portOAuth2Proxy = 4180  // oauth2-proxy's own default, only on the pod's loopback
	portMetrics     = 8404  // HAProxy's conventional exporter port
	// where nothing listens, on the pod's loopback: the port is privileged, and HAProxy runs as a plain user
	portNobody     = 9
	portPrometheus = 9090
	portExporter   = 7979 // json_exporter's own default
	portDCGM       = 9400 // dcgm-exporter's own default
	portService    = 80   // the port that users see
	portServiceTLS = 443

	portNameHTTP    = "http"
	portNameMetrics = "metrics"
	portNameQueue   = "queue"
)

// teamsMetricsPath is where the front's metrics port serves the teams' usage. haproxy.cfg.tmpl repeats it.
const teamsMetricsPath = "/metrics/teams"

// instanceLabel distinguishes the pods of component instances with the same role, such as two pools.
const instanceLabel = "app.kubernetes.io/instance"

// selectRole matches every pod of a role.
func selectRole(r role) pulumi.StringMap {
	return pulumi.StringMap{"app.kubernetes.io/component": pulumi.String(r)}
}

// selectInstance matches the pods of one component instance.
func selectInstance(r role, instance string) pulumi.StringMap {
	selector := selectRole(r)
	selector[instanceLabel] = pulumi.String(instance)
	return selector
}

// labels returns the labels of every object of a component instance: its selector and the recommended labels.
func labels(r role, instance string) pulumi.StringMap {
	all := selectInstance(r, instance)
	all["app.kubernetes.io/name"] = pulumi.String("ollama-k8s")
	all["app.kubernetes.io/managed-by"] = pulumi.String("pulumi")
	return all
}

// named returns the metadata of an object with a fixed name, to which other objects or people refer. more adds labels.
func named(
	namespace pulumi.StringInput, r role, instance, name string, more ...pulumi.StringMap,
) *metav1.ObjectMetaArgs {
	metadata := autonamed(namespace, r, instance, more...)
	metadata.Name = pulumi.String(name)
	return metadata
}

// autonamed returns the metadata of an object that is replaced when its content changes. Pulumi adds a random suffix,
// so pods that mount the object roll, and then deletes the old object. A ConfigMap must be marked immutable; others are
// updated in place.
func autonamed(namespace pulumi.StringInput, r role, instance string, more ...pulumi.StringMap) *metav1.ObjectMetaArgs {
	all := labels(r, instance)
	for _, some := range more {
		maps.Copy(all, some)
	}
	return &metav1.ObjectMetaArgs{Namespace: namespace, Labels: all}
}

// digest returns a short stable name for content: 10 hex digits (40 bits) are enough for the few objects of one stack.
func digest(parts ...string) string {
	sum := sha256.New()
	for _, part := range parts {
		// Without the length, ("ab","c") and ("a","bc") would have the same digest.
		fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(sum.Sum(nil))[:10]
}

// fileKey turns a model name such as hf.co/org/model:tag into a ConfigMap key, which may hold only [-._a-zA-Z0-9]. The
// digest distinguishes names that differ only in replaced characters.
func fileKey(model string) string {
	safe := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '.':
			return r
		}
		return '_'
	}, model)
	return safe + "-" + digest(model)
}

// HeadlessSuffix ends the name of the Service that resolves to each pod. A pool with such a name could collide with the
// Service of another.
const HeadlessSuffix = "-pods"

// backendName returns the name of the queue of one model in one pool. Recording rules extract pool and model from it.
// HAProxy allows no slash in it.
func backendName(pool, model string) string {
	return "model:" + pool + ":" + MetricModel(model)
}

// MetricModel returns a model's name as a metric label, as in the name of its backend. It must be unique in a stack.
func MetricModel(model string) string {
	return strings.ReplaceAll(strings.TrimSuffix(model, ":latest"), "/", "_")
}

// renaming is one step of relabeling.
type renaming struct{ Regex, Replacement string }

// metricRenamings returns the steps that do the same to the names that Ollama reports. A name has at most three
// slashes, and each step replaces one.
func metricRenamings() []renaming {
	slash := renaming{"([^/]*)/(.*)", "${1}_$2"}
	return []renaming{{"(.+):latest", "$1"}, slash, slash, slash}
}
