package stacks

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes"
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"ollama-k8s/components"
)

// Deploy is the Pulumi program. It reads the stack's config and creates the components, each with the outputs of those
// before it.
func Deploy(ctx *pulumi.Context) error {
	config, err := Load(values(ctx), os.DirFS("."))
	if err != nil {
		return err
	}
	if err := config.explain(ctx); err != nil {
		return err
	}
	namespace, inCluster, err := config.namespace(ctx)
	if err != nil {
		return err
	}

	pools, nodes := config.pools(), &components.Nodes{}
	if args := config.nodes(namespace, pools); args != nil {
		if nodes, err = components.NewNodes(ctx, "nodes", args, inCluster); err != nil {
			return err
		}
	}
	for i, pool := range pools {
		if nodePool, made := nodes.NodePools[pool.Name]; made {
			pools[i].NodePool = nodePool
		}
	}
	store, err := components.NewModelStore(ctx, "models", config.modelStore(namespace, pools), inCluster)
	if err != nil {
		return err
	}
	// The servers and the front wait for the writer, so that a model exists before a client can request it. DependsOn is
	// needed: if they used outputs of the writer, which changes with each new model, they would change too.
	afterStore := pulumi.DependsOn([]pulumi.Resource{store})

	servers := map[string]*components.OllamaServer{}
	for i, pool := range pools {
		server, err := components.NewOllamaServer(
			ctx, "ollama-"+pool.Name, config.ollamaServer(pool, namespace, nodes, store), inCluster, afterStore,
		)
		if err != nil {
			return err
		}
		servers[pool.Name], pools[i].Host, pools[i].Workload = server, server.PodsHost, server.WorkloadName
	}
	front, err := components.NewAuthFront(ctx, "front", config.authFront(namespace, pools), inCluster, afterStore)
	if err != nil {
		return err
	}
	if config.Observability.Prometheus != noPrometheus {
		if err := config.observe(ctx, namespace, pools, store, servers, front, inCluster); err != nil {
			return err
		}
	}
	export(ctx, config, front)
	return nil
}

// observe creates Prometheus, or the objects for its operator, and the autoscalers that query it.
func (c *Config) observe(
	ctx *pulumi.Context, namespace pulumi.StringInput, pools []components.Pool, store *components.ModelStore,
	servers map[string]*components.OllamaServer, front *components.AuthFront, inCluster pulumi.ResourceOption,
) error {
	args := c.observability(namespace, pools, store, front)
	observability, err := components.NewObservability(ctx, "observability", args, inCluster)
	if err != nil {
		return err
	}
	for _, pool := range pools {
		if !pool.Replicas.Scaled() {
			continue
		}
		args := c.autoscaling(pool, namespace, servers[pool.Name], observability)
		if _, err := components.NewAutoscaling(ctx, "autoscaling-"+pool.Name, args, inCluster); err != nil {
			return err
		}
	}
	return nil
}

// values returns the stack's config values by key, without the project's prefix.
func values(ctx *pulumi.Context) map[string]string {
	prefix := ctx.Project() + ":"
	found := map[string]string{}
	for _, key := range Keys() {
		if value, ok := ctx.GetConfig(prefix + key); ok {
			found[key] = value
		}
	}
	// The SDK returns only keys that you ask for. The engine passes the whole config in this variable, including
	// misspelled keys.
	var all map[string]string
	if err := json.Unmarshal([]byte(os.Getenv(pulumi.EnvConfig)), &all); err == nil {
		for key, value := range all {
			if name, ours := strings.CutPrefix(key, prefix); ours {
				found[name] = value
			}
		}
	}
	return found
}

// namespace creates the provider and the namespace, and returns the option that makes other resources use the provider.
func (c *Config) namespace(ctx *pulumi.Context) (pulumi.StringInput, pulumi.ResourceOption, error) {
	args := &kubernetes.ProviderArgs{
		// Without a fixed identifier, Pulumi takes a changed kubeconfig for another cluster and replaces everything.
		ClusterIdentifier:     pulumi.String(ctx.Project() + "/" + ctx.Stack()),
		EnableServerSideApply: pulumi.Bool(true),
		// Pulumi replaces a ConfigMap that is marked immutable, and updates any other in place.
		EnableConfigMapMutable: pulumi.Bool(true),
	}
	if c.Cluster.Context != "" {
		args.Context = pulumi.String(c.Cluster.Context)
	}
	provider, err := kubernetes.NewProvider(ctx, "cluster", args)
	if err != nil {
		return nil, nil, fmt.Errorf("creating the Kubernetes provider: %w", err)
	}
	labels := pulumi.StringMap{}
	for key, value := range c.Namespace.Labels {
		labels[key] = pulumi.String(value)
	}
	for _, mode := range []string{"enforce", "warn", "audit"} {
		labels["pod-security.kubernetes.io/"+mode] = pulumi.String("restricted")
	}
	namespace, err := corev1.NewNamespace(ctx, "namespace", &corev1.NamespaceArgs{
		Metadata: &metav1.ObjectMetaArgs{Name: pulumi.String(c.Namespace.Name), Labels: labels},
	}, pulumi.Provider(provider))
	if err != nil {
		return nil, nil, fmt.Errorf("creating namespace %s: %w", c.Namespace.Name, err)
	}
	return namespace.Metadata.Name().Elem(), pulumi.Provider(provider), nil
}
