package stacks

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"ollama-k8s/components"
	"ollama-k8s/internal/modelref"
)

// Rules that a schema cannot express: values that must agree with each other. Each check reports all violations.
func (c *Config) check() (problems []string) {
	problems = append(problems, c.checkModels()...)
	problems = append(problems, c.checkPools()...)
	problems = append(problems, c.checkStore()...)
	problems = append(problems, c.checkExpose()...)
	problems = append(problems, c.checkTeams()...)
	problems = append(problems, c.checkObservability()...)
	problems = append(problems, c.checkAutoscaling()...)
	return append(problems, c.checkNodes()...)
}

// checkObservability reports settings that the chosen Prometheus mode does not use.
func (c *Config) checkObservability() (problems []string) {
	o := c.Observability
	if o.Storage != "" && o.Prometheus != components.PrometheusBundled {
		problems = append(problems, fmt.Sprintf(
			"observability.storage: %s is for the bundled Prometheus, but observability.prometheus is %s: leave it out",
			o.Storage, o.Prometheus,
		))
	}
	if o.StorageClass != "" && o.Storage == "" {
		problems = append(problems, fmt.Sprintf(
			"observability.storageClass: %q is set but there is no volume: set observability.storage too, or leave it out",
			o.StorageClass,
		))
	}
	if o.DCGM == components.DCGMExisting && o.Prometheus == components.PrometheusOperator {
		problems = append(
			problems,
			"observability.dcgm: existing is for the bundled Prometheus, but observability.prometheus is operator, and the "+
				"GPU operator's ServiceMonitor already serves that: set dcgm to none, or to deploy if there is no GPU operator",
		)
	}
	if o.DCGM != components.DCGMNone && o.Prometheus == noPrometheus {
		problems = append(problems, fmt.Sprintf(
			"observability.dcgm: %s is set but observability.prometheus is none, so nothing would scrape it: leave it out",
			o.DCGM,
		))
	}
	return problems
}

func (c *Config) checkModels() (problems []string) {
	seen, metrics := map[string]int{}, map[string]int{}
	for i, m := range c.Models {
		if _, err := modelref.Parse(m.Name); err != nil && m.Name != "" {
			problems = append(problems, fmt.Sprintf("models[%d].name: %v", i, err))
		}
		name := modelref.Normal(m.Name)
		if first, twice := seen[name]; twice && m.Name != "" {
			problems = append(problems, fmt.Sprintf(
				"models[%d].name: %q is the same model as models[%d]: list each model once", i, m.Name, first,
			))
			continue
		}
		seen[name] = i
		if first, same := metrics[components.MetricModel(m.Name)]; same {
			problems = append(problems, fmt.Sprintf(
				"models[%d].name: %q has the same name in metrics as models[%d], %s: use only one of them, "+
					"or another path or tag for one", i, m.Name, first, c.Models[first].Name,
			))
			continue
		}
		metrics[components.MetricModel(m.Name)] = i
	}
	return problems
}

func (c *Config) checkPools() (problems []string) {
	known := map[string]bool{}
	for _, m := range c.Models {
		known[m.Name] = true
	}
	owner := map[string]string{}
	for _, name := range c.poolNames() {
		pool, key := c.Pools[name], "pools."+name
		if strings.HasSuffix(name, components.HeadlessSuffix) {
			problems = append(problems, fmt.Sprintf(
				"%s: a name that ends in %s can collide with another pool's Service: rename it", key, components.HeadlessSuffix,
			))
		}
		if len(pool.Models) == 0 && len(c.Models) > 0 {
			problems = append(problems, key+".models: is missing: with several pools, list the models of each")
		}
		for i, model := range pool.Models {
			at := fmt.Sprintf("%s.models[%d]", key, i)
			if !known[model] {
				problems = append(problems, fmt.Sprintf("%s: %q is not in models: add it there, or correct the name", at, model))
			}
			if other, taken := owner[model]; taken {
				problems = append(problems, fmt.Sprintf(
					"%s: %q is already in pools.%s: list a model in one pool only, and raise its replicas for more capacity", at,
					model, other,
				))
			}
			owner[model] = name
		}
		if pool.Replicas.Max < pool.Replicas.Min {
			problems = append(problems, fmt.Sprintf(
				"%s.replicas.max: %d is below replicas.min %d: raise max or lower min", key, pool.Replicas.Max, pool.Replicas.Min,
			))
		}
		if context := pool.ContextLength; context > 0 && pool.MaxOutputTokens > context {
			problems = append(problems, fmt.Sprintf(
				"%s.maxOutputTokens: %d is above contextLength %d, which no answer exceeds: lower it, or leave it out", key,
				pool.MaxOutputTokens, context,
			))
		}
		problems = append(problems, pool.checkGPU(key)...)
		if pool.GPU.Vendor == components.AMD && pool.GPU.Count > 0 && c.rocmImage() == "" {
			problems = append(problems, fmt.Sprintf(
				"images.ollamaROCm: is missing: %s has AMD GPUs and images.ollama is pinned by digest: set the ROCm image too",
				key,
			))
		}
	}
	return problems
}

// checkGPU reports GPU settings that have no effect or cannot work.
func (p Pool) checkGPU(key string) (problems []string) {
	g := p.GPU
	if g.Count == 0 {
		stray := func(setting string, value any) {
			problems = append(problems, fmt.Sprintf(
				"%s.gpu.%s: %v is set but gpu.count is 0: set count, or leave %s out", key, setting, value, setting,
			))
		}
		if g.VRAMGiB != 0 {
			stray("vramGiB", g.VRAMGiB)
		}
		if g.MIG != "" {
			stray("mig", g.MIG)
		}
		if g.Product != "" {
			stray("product", g.Product)
		}
		return problems
	}
	if g.MIG != "" && g.Vendor == components.AMD {
		problems = append(problems, fmt.Sprintf(
			"%s.gpu.mig: %q is set but gpu.vendor is amd, whose GPUs have no MIG: leave it out", key, g.MIG,
		))
	}
	if g.MIG != "" && g.Count > 1 {
		problems = append(problems, fmt.Sprintf(
			"%s.gpu.count: %d slices of %s, but Ollama can use only one slice per pod: set count to 1 and raise replicas",
			key, g.Count, g.MIG,
		))
	}
	return problems
}

func (c *Config) checkStore() (problems []string) {
	if c.Store.PerReplica {
		if c.Store.ExistingClaim != "" {
			problems = append(problems, fmt.Sprintf(
				"store.existingClaim: %q is set but store.perReplica makes a claim for each pod: leave one of them out",
				c.Store.ExistingClaim,
			))
		}
		if c.Update.Schedule != "" {
			problems = append(problems, fmt.Sprintf(
				"update.schedule: %q needs a store that all pods share, but store.perReplica gives each pod its own: leave "+
					"one of them out",
				c.Update.Schedule,
			))
		}
		return problems
	}
	if c.Store.AccessMode != components.ReadWriteOnce {
		return nil
	}
	total := 0
	for _, name := range c.poolNames() {
		replicas := c.Pools[name].Replicas.Max
		total += replicas
		if replicas > 1 {
			problems = append(problems, fmt.Sprintf("pools.%s.replicas.max: %d pods cannot share a volume with "+
				"store.accessMode %s, which mounts on only one node: set store.accessMode to %s, or replicas.max to 1",
				name, replicas, components.ReadWriteOnce, components.ReadWriteMany))
		}
	}
	if len(problems) == 0 && total > 1 {
		problems = append(problems, fmt.Sprintf("store.accessMode: %s mounts on only one node, but the pods of %d pools "+
			"may run on several nodes: set it to %s, or use one pool",
			components.ReadWriteOnce, total, components.ReadWriteMany))
	}
	return problems
}

func (c *Config) checkExpose() (problems []string) {
	in := c.Expose.Ingress
	if in != nil && in.ClusterIssuer != "" && in.TLSSecret == "" {
		problems = append(problems, fmt.Sprintf(
			"expose.ingress.tlsSecret: is missing: name the Secret in which %s stores the certificate", in.ClusterIssuer,
		))
	}
	if c.Front.TLSSecret != "" && (in != nil || c.Expose.Gateway != nil) {
		problems = append(problems, fmt.Sprintf(
			"front.tlsSecret: %q makes the front serve HTTPS, but an ingress or a gateway speaks plain HTTP to it: leave it "+
				"out, and configure the certificate there",
			c.Front.TLSSecret,
		))
	}
	return problems
}

func (c *Config) checkTeams() (problems []string) {
	named := map[string]bool{}
	if c.OIDC != nil {
		for _, group := range sortedKeys(c.OIDC.Groups) {
			team := c.OIDC.Groups[group]
			if group == "" || strings.ContainsFunc(group, unicode.IsControl) {
				problems = append(problems, fmt.Sprintf(
					"oidc.groups: %q is not a valid group name: use a name that is not empty and has no control characters", group,
				))
			}
			if _, known := c.Teams[team]; !known {
				problems = append(problems, fmt.Sprintf(
					"oidc.groups.%s: %q is not a team: add it to teams, or correct the name", group, team,
				))
			}
			named[team] = true
		}
	}
	for _, name := range c.teamNames() {
		if keys := c.Teams[name].Keys; keys != nil && len(keys) == 0 && !named[name] && c.Front.KeysSecret == "" {
			problems = append(problems, fmt.Sprintf(
				"teams.%s.keys: is empty, so the team has no way to sign in: leave it out to get a key, or use the team in "+
					"oidc.groups or front.keysSecret",
				name,
			))
		}
	}
	served := []string{"*"}
	for _, name := range c.poolNames() {
		served = append(served, c.Pools[name].Models...)
	}
	for _, name := range c.teamNames() {
		for i, model := range c.Teams[name].Models {
			if !slices.Contains(served, model) {
				problems = append(problems, fmt.Sprintf(
					"teams.%s.models[%d]: %q is in no pool: add it to a pool's models, or correct the name", name, i, model,
				))
			}
		}
	}
	return problems
}

func (c *Config) checkAutoscaling() (problems []string) {
	engine := c.Autoscaling.Engine
	for _, name := range c.poolNames() {
		r := c.Pools[name].Replicas
		switch {
		case r.Max == 0:
			problems = append(problems, fmt.Sprintf(
				"pools.%s.replicas.max: is missing: with min 0, set how many pods the pool may have", name,
			))
		case r.Min == 0 && engine != components.EngineKEDA:
			problems = append(problems, fmt.Sprintf(
				"pools.%s.replicas.min: 0 scales the pool to zero when it is idle, but autoscaling.engine is %s: set the engine "+
					"to keda, which alone can do that, or min to 1",
				name, engine,
			))
		case r.Max > r.Min && engine == noEngine:
			problems = append(problems, fmt.Sprintf(
				"pools.%s.replicas.max: %d is above min %d but autoscaling.engine is none: set the engine to keda or hpa, or "+
					"leave max out",
				name, r.Max, r.Min,
			))
		}
	}
	switch {
	case engine == noEngine || engine == "":
	case c.Observability.Prometheus == noPrometheus:
		problems = append(problems, fmt.Sprintf(
			"autoscaling.engine: %s scales by Prometheus metrics, but observability.prometheus is none: set it to bundled or "+
				"operator",
			engine,
		))
	case engine == components.EngineKEDA && c.Observability.Prometheus == components.PrometheusOperator &&
		c.Observability.ServerURL == "":
		problems = append(
			problems,
			"observability.serverURL: is missing: set where KEDA can query the operator's Prometheus, e.g. "+
				"http://prometheus-operated.monitoring.svc:9090",
		)
	}
	return problems
}
