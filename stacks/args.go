package stacks

import (
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"ollama-k8s/components"
)

// Functions that turn the config into each component's args.

func (c *Config) modelStore(namespace pulumi.StringInput, pools []components.Pool) *components.ModelStoreArgs {
	store := c.Store
	args := &components.ModelStoreArgs{
		Namespace: namespace, Image: c.Images.Ollama, ClusterDomain: c.Cluster.Domain,
		Registry: store.Registry, Insecure: store.Insecure, KeySecret: store.KeySecret, CABundle: store.CABundle,
		ExistingClaim: store.ExistingClaim, Size: store.Size, StorageClass: store.StorageClass, AccessMode: store.AccessMode,
		Protect: store.Protect,
		Prune:   store.Prune, PerReplica: store.PerReplica, CheckSchedule: c.Update.Schedule,
	}
	if store.Proxy != nil {
		args.Proxy = &components.Proxy{URL: store.Proxy.URL, Direct: store.Proxy.Direct}
	}
	if !store.shared() {
		args.Placement = pools[0].Placement // there is only one pool, and the writer must share a node with its pod
	}
	for _, m := range c.stored {
		args.Models = append(args.Models, components.Model{Name: m.Name, Modelfile: m.Text, Digest: m.locked.Digest})
	}
	return args
}

func (c *Config) ollamaServer(
	pool components.Pool, namespace pulumi.StringInput, nodes *components.Nodes, store *components.ModelStore,
) *components.OllamaServerArgs {
	config, plan := c.Pools[pool.Name], c.plans[pool.Name]
	image := c.Images.Ollama
	if pool.GPU.Vendor == components.AMD && pool.GPU.Count > 0 {
		image = c.rocmImage()
	}
	return &components.OllamaServerArgs{
		Namespace: namespace, Image: image, Store: store.Mount, Placement: pool.Placement, Replicas: pool.Replicas,
		ContextLength: plan.Context, Parallel: plan.Parallel, KVCacheType: plan.CacheType, MaxLoadedModels: plan.MaxLoaded,
		KeepAlive: config.KeepAlive, CPU: config.CPU, Memory: c.memory(pool.Name), Queue: queue(pool, nodes),
		DrainSeconds: c.Front.MaxSeconds,
	}
}

func (c *Config) authFront(namespace pulumi.StringInput, pools []components.Pool) *components.AuthFrontArgs {
	args := &components.AuthFrontArgs{
		Namespace: namespace, Image: c.Images.HAProxy, Pools: pools, ClusterDomain: c.Cluster.Domain,
		Replicas: c.Front.Replicas, QueueLength: c.Front.QueueLength,
		BodyMiB: c.Front.MaxBodyMiB, MaxSeconds: c.Front.MaxSeconds, KeysSecret: c.Front.KeysSecret,
		TLSSecret: c.Front.TLSSecret, OIDC: c.OIDC, Expose: c.Expose.way(),
	}
	if args.OIDC != nil {
		args.OIDC.Image = c.Images.OAuth2Proxy
	}
	for _, name := range c.teamNames() {
		team := c.Teams[name]
		args.Teams = append(args.Teams, components.Team{
			Name: name, Models: team.Models, RequestsPerMinute: team.RequestsPerMinute,
			ConcurrentRequests: team.ConcurrentRequests, Keys: team.Keys, Priority: team.Priority,
		})
	}
	return args
}

// way returns how to expose the front, or nil if it stays inside the cluster.
func (e Expose) way() components.Expose {
	switch {
	case e.LoadBalancer != nil:
		return *e.LoadBalancer
	case e.Ingress != nil:
		return *e.Ingress
	case e.Gateway != nil:
		return *e.Gateway
	}
	return nil
}

func (c *Config) observability(
	namespace pulumi.StringInput, pools []components.Pool, store *components.ModelStore, front *components.AuthFront,
) *components.ObservabilityArgs {
	o := c.Observability
	args := &components.ObservabilityArgs{
		Namespace: namespace, Pools: pools, Mode: o.Prometheus, Image: c.Images.Prometheus,
		ExporterImage: c.Images.JSONExporter,
		RetentionDays: o.RetentionDays, Storage: o.Storage, StorageClass: o.StorageClass,
		ReleaseLabel: o.ReleaseLabel, Annotations: o.Annotations, ServerURL: o.ServerURL,
		WriterJobs: store.WriterJobs, MetricsHost: front.MetricsHost, MetricsPort: front.MetricsPort,
		QueueLength: c.Front.QueueLength,
		DCGM:        o.DCGM, DCGMNamespace: o.DCGMNamespace, DCGMImage: c.Images.DCGMExporter,
	}
	for _, pool := range pools {
		if args.DCGMRuntimeClass == "" && pool.GPU.Count > 0 {
			args.DCGMRuntimeClass = pool.RuntimeClassName
		}
	}
	return args
}

func (c *Config) autoscaling(
	pool components.Pool, namespace pulumi.StringInput, server *components.OllamaServer,
	observability *components.Observability,
) *components.AutoscalingArgs {
	return &components.AutoscalingArgs{
		Namespace: namespace, Engine: c.Autoscaling.Engine, Pool: pool, WorkloadKind: server.WorkloadKind,
		WorkloadName: server.WorkloadName,
		QueryURL:     observability.QueryURL, QuietSeconds: c.Autoscaling.QuietSeconds,
	}
}
