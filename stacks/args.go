package stacks

import (
	"strings"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"ollama-k8s/components"
)

// From the config to each component's args.

func (c *Config) modelStore(namespace pulumi.StringInput, nodes *components.Nodes) *components.ModelStoreArgs {
	store := c.Store
	args := &components.ModelStoreArgs{
		Namespace: namespace, Image: c.Images.Ollama, ClusterDomain: c.Cluster.Domain,
		Registry: store.Registry, Insecure: store.Insecure, KeySecret: store.KeySecret, CABundle: store.CABundle,
		ExistingClaim: store.ExistingClaim, Size: store.Size, StorageClass: store.StorageClass, AccessMode: store.AccessMode, Protect: store.Protect,
		Prune: store.Prune, PerReplica: store.PerReplica, CheckSchedule: c.Update.Schedule,
	}
	if store.Proxy != nil {
		args.Proxy = &components.Proxy{URL: store.Proxy.URL, Direct: store.Proxy.Direct}
	}
	if !store.shared() {
		args.Placement = c.placementOn(c.poolNames()[0], nodes) // the only pool: the writer must be able to meet its pod
	}
	for _, m := range c.stored {
		args.Models = append(args.Models, components.Model{Name: m.Name, Modelfile: m.Text, Digest: m.locked.Digest})
	}
	return args
}

func (c *Config) ollamaServer(name string, namespace pulumi.StringInput, nodes *components.Nodes, store *components.ModelStore) *components.OllamaServerArgs {
	pool, plan := c.Pools[name], c.plans[name]
	image := c.Images.Ollama
	if pool.GPU.Vendor == components.AMD && pool.GPU.Count > 0 {
		image = c.rocmImage()
	}
	return &components.OllamaServerArgs{
		Namespace: namespace, Image: image, Store: store.Mount, Placement: c.placementOn(name, nodes),
		SpareGPU: pool.GPU.Spare, Replicas: pool.Replicas.Min, Scaled: c.scaled(name),
		ContextLength: plan.Context, Parallel: plan.Parallel, KVCacheType: plan.CacheType, MaxLoadedModels: plan.MaxLoaded,
		KeepAlive: pool.KeepAlive, CPU: pool.CPU, Memory: c.memory(name), Queue: c.queue(name, nodes), DrainSeconds: c.Front.MaxSeconds,
	}
}

func (c *Config) placement(name string) components.Placement {
	pool := c.Pools[name]
	gpu := components.GPU{Count: pool.GPU.Count, Vendor: pool.GPU.Vendor, MIG: pool.GPU.MIG, Product: pool.GPU.Product}
	if pool.GPU.MIG == "" {
		gpu.MinMiB = int(pool.GPU.VRAMGiB * 1024 * 0.99) // people round
	}
	return components.Placement{
		GPU: gpu, NodeSelector: pool.NodeSelector, Tolerations: pool.Tolerations,
		RuntimeClassName: pool.RuntimeClassName, PriorityClassName: pool.PriorityClassName,
	}
}

// rocmImage is Ollama's image for AMD GPUs; empty where images.ollama has no tag to derive it from.
func (c *Config) rocmImage() string {
	if c.Images.OllamaROCm != "" || strings.Contains(c.Images.Ollama, "@") {
		return c.Images.OllamaROCm
	}
	return c.Images.Ollama + "-rocm"
}

// scaled tells whether an autoscaler decides the pool's replicas.
func (c *Config) scaled(name string) bool {
	replicas := c.Pools[name].Replicas
	return c.Autoscaling.Engine != "none" && replicas.Max > replicas.Min
}

func (c *Config) authFront(namespace pulumi.StringInput, servers map[string]*components.OllamaServer) *components.AuthFrontArgs {
	args := &components.AuthFrontArgs{
		Namespace: namespace, Image: c.Images.HAProxy, ClusterDomain: c.Cluster.Domain, Replicas: c.Front.Replicas, QueueLength: c.Front.QueueLength,
		BodyMiB: c.Front.MaxBodyMiB, MaxSeconds: c.Front.MaxSeconds, KeysSecret: c.Front.KeysSecret, TLSSecret: c.Front.TLSSecret, OIDC: c.OIDC,
	}
	if args.OIDC != nil {
		args.OIDC.Image = c.Images.OAuth2Proxy
	}
	for _, name := range c.teamNames() {
		team := c.Teams[name]
		args.Teams = append(args.Teams, components.Team{
			Name: name, Models: team.Models, RequestsPerMinute: team.RequestsPerMinute, ConcurrentRequests: team.ConcurrentRequests, Keys: team.Keys, Background: team.Priority == "background",
		})
	}
	for _, name := range c.poolNames() {
		pool, server := c.Pools[name], servers[name]
		args.Routes = append(args.Routes, components.Route{
			Pool: name, Models: pool.Models, Host: server.PodsHost, MaxPods: pool.Replicas.Max, Idle: pool.Replicas.Min == 0,
			Slots: c.slots(name), ModelSlots: c.modelSlots(name), Runners: c.runners(name), Contexts: c.contexts(name), OutputTokens: c.outputTokens(name),
		})
	}
	if lb := c.Expose.LoadBalancer; lb != nil {
		args.Expose.LoadBalancer = &components.LoadBalancer{Host: lb.Host, SourceRanges: lb.SourceRanges}
	}
	if in := c.Expose.Ingress; in != nil {
		args.Expose.Ingress = &components.Ingress{Host: in.Host, ClassName: in.ClassName, TLSSecret: in.TLSSecret, ClusterIssuer: in.ClusterIssuer}
	}
	if g := c.Expose.Gateway; g != nil {
		args.Expose.Gateway = &components.Gateway{Host: g.Host, Name: g.Name, Namespace: g.Namespace, Listener: g.Listener}
	}
	return args
}

func (c *Config) observability(namespace pulumi.StringInput, front *components.AuthFront, servers map[string]*components.OllamaServer) *components.ObservabilityArgs {
	o := c.Observability
	args := &components.ObservabilityArgs{
		Namespace: namespace, Mode: o.Prometheus, Image: c.Images.Prometheus, ExporterImage: c.Images.JSONExporter,
		RetentionDays: o.RetentionDays, Storage: o.Storage, StorageClass: o.StorageClass,
		ReleaseLabel: o.ReleaseLabel, Annotations: o.Annotations, ServerURL: o.ServerURL,
		MetricsHost: front.MetricsHost, MetricsPort: front.MetricsPort, QueueLength: c.Front.QueueLength,
		DCGM: o.DCGM, DCGMNamespace: o.DCGMNamespace, DCGMImage: c.Images.DCGMExporter,
	}
	for _, name := range c.poolNames() {
		pool := c.Pools[name]
		observed := components.ObservedPool{Name: name, GPUs: pool.GPU.Count, MinReplicas: pool.Replicas.Min, MaxReplicas: pool.Replicas.Max}
		slots, runners := c.modelSlots(name), c.runners(name)
		for _, model := range pool.Models {
			m := components.ObservedModel{Name: model, Digest: c.lockedDigest(model)}
			if _, shared := runners[model]; !shared {
				m.Slots = c.slots(name)
				if fewer, ok := slots[model]; ok {
					m.Slots = fewer
				}
			}
			observed.Models = append(observed.Models, m)
		}
		args.Pools = append(args.Pools, observed)
		args.PodsHosts = append(args.PodsHosts, servers[name].PodsHost)
		if args.DCGMRuntimeClass == "" && pool.GPU.Count > 0 {
			args.DCGMRuntimeClass = pool.RuntimeClassName
		}
	}
	return args
}

// lockedDigest is what models.lock.yaml says of a model that the store has.
func (c *Config) lockedDigest(name string) string {
	for _, m := range c.stored {
		if m.Name == name {
			return m.locked.Digest
		}
	}
	return ""
}

func (c *Config) autoscaling(name string, namespace pulumi.StringInput, server *components.OllamaServer, observability *components.Observability) *components.AutoscalingArgs {
	replicas := c.Pools[name].Replicas
	return &components.AutoscalingArgs{
		Namespace: namespace, Engine: c.Autoscaling.Engine, Pool: name, WorkloadKind: server.WorkloadKind, WorkloadName: server.WorkloadName,
		Min: replicas.Min, Max: replicas.Max, Slots: c.slots(name), QueryURL: observability.QueryURL, QuietSeconds: c.Autoscaling.QuietSeconds,
	}
}
