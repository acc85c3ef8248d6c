package stacks

import (
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"ollama-k8s/components"
)

// From the config to each component's args.

func (c *Config) modelStore(namespace pulumi.StringInput) *components.ModelStoreArgs {
	args := &components.ModelStoreArgs{
		Namespace: namespace, Image: c.Images.Ollama,
		Registry: c.Store.Registry, Insecure: c.Store.Insecure,
		ExistingClaim: c.Store.ExistingClaim, Size: c.Store.Size, StorageClass: c.Store.StorageClass, AccessMode: c.Store.AccessMode, Protect: c.Store.Protect,
	}
	for _, m := range c.Models {
		args.Models = append(args.Models, components.Model{Name: m.Name, Modelfile: m.Text})
	}
	return args
}

func (c *Config) ollamaServer(name string, namespace pulumi.StringInput, store *components.ModelStore) *components.OllamaServerArgs {
	pool := c.Pools[name]
	return &components.OllamaServerArgs{
		Namespace: namespace, Image: c.Images.Ollama, ClaimName: store.ClaimName, SharedStore: c.Store.AccessMode == components.ReadWriteMany,
		GPUs: pool.GPU.Count, SpareGPU: pool.GPU.Spare, Replicas: pool.Replicas.Min, Scaled: c.scaled(name),
		ContextLength: pool.ContextLength, Parallel: pool.Parallel, MaxLoadedModels: c.maxLoadedModels(pool),
		KeepAlive: pool.KeepAlive, CPU: pool.CPU, Memory: pool.Memory,
	}
}

// maxLoadedModels is what the config says, else what fits; the check has seen that something does.
func (c *Config) maxLoadedModels(pool Pool) int {
	if pool.MaxLoadedModels > 0 {
		return pool.MaxLoadedModels
	}
	known := map[string]Model{}
	for _, m := range c.Models {
		known[m.Name] = m
	}
	fits, err := pool.maxLoaded(known)
	if err != nil {
		return 1
	}
	return fits
}

// scaled tells whether an autoscaler decides the pool's replicas.
func (c *Config) scaled(name string) bool {
	replicas := c.Pools[name].Replicas
	return c.Autoscaling.Engine != "none" && replicas.Max > replicas.Min
}

func (c *Config) authFront(namespace pulumi.StringInput, servers map[string]*components.OllamaServer) *components.AuthFrontArgs {
	args := &components.AuthFrontArgs{Namespace: namespace, Image: c.Images.HAProxy, ClusterDomain: c.Cluster.Domain, Replicas: c.Front.Replicas}
	for _, name := range c.teamNames() {
		team := c.Teams[name]
		args.Teams = append(args.Teams, components.Team{
			Name: name, Models: team.Models, RequestsPerMinute: team.RequestsPerMinute, Background: team.Priority == "background",
		})
	}
	for _, name := range c.poolNames() {
		pool, server := c.Pools[name], servers[name]
		args.Routes = append(args.Routes, components.Route{
			Pool: name, Models: pool.Models, Host: server.PodsHost, MaxPods: pool.Replicas.Max, Slots: server.Slots,
		})
	}
	if lb := c.Expose.LoadBalancer; lb != nil {
		args.Expose.LoadBalancer = &components.LoadBalancer{SourceRanges: lb.SourceRanges}
	}
	if in := c.Expose.Ingress; in != nil {
		args.Expose.Ingress = &components.Ingress{Host: in.Host, ClassName: in.ClassName, TLSSecret: in.TLSSecret}
	}
	return args
}

func (c *Config) observability(namespace pulumi.StringInput, front *components.AuthFront) *components.ObservabilityArgs {
	return &components.ObservabilityArgs{
		Namespace: namespace, Mode: c.Observability.Prometheus, Image: c.Images.Prometheus,
		ReleaseLabel: c.Observability.ReleaseLabel, ServerURL: c.Observability.ServerURL,
		MetricsHost: front.MetricsHost, MetricsPort: front.MetricsPort,
	}
}

func (c *Config) autoscaling(name string, namespace pulumi.StringInput, server *components.OllamaServer, observability *components.Observability) *components.AutoscalingArgs {
	replicas := c.Pools[name].Replicas
	return &components.AutoscalingArgs{
		Namespace: namespace, Engine: c.Autoscaling.Engine, Pool: name, DeploymentName: server.DeploymentName,
		Min: replicas.Min, Max: replicas.Max, Slots: server.Slots, QueryURL: observability.QueryURL,
	}
}
