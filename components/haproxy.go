package components

import (
	"cmp"
	"fmt"
	"sort"
	"strings"
)

// Renders the files that HAProxy reads from the front's args: haproxy.cfg from its template, and maps of "key value"
// lines.

type haproxyBackend struct {
	Name    string
	Host    string
	MaxPods int
	Slots   int // per pod
	Idle    bool
	// HalfUnderWay and MostUnderWay are how many requests fit into all slots plus half of the queue, or plus the whole
	// queue.
	HalfUnderWay, MostUnderWay int
}

// haproxyConfig renders haproxy.cfg. hosts are the pools' hosts in the order of the pools, and fronts is the host of
// the front's own pods.
func (a *AuthFrontArgs) haproxyConfig(hosts []string, fronts string) (string, error) {
	var backends []haproxyBackend
	for i, pool := range a.Pools {
		for _, model := range pool.Models {
			if !model.hasQueue() {
				continue
			}
			slots := model.Slots * pool.Replicas.Max
			backends = append(backends, haproxyBackend{
				Name: backendName(pool.Name, model.Name), Host: a.fullName(hosts[i]),
				MaxPods: pool.Replicas.Most(), Slots: model.Slots, Idle: pool.Replicas.Idle(),
				HalfUnderWay: slots + a.halfQueue(), MostUnderWay: slots + a.QueueLength,
			})
		}
	}
	catalog := 0 // a pool that never scales to zero, if there is one
	for catalog < len(a.Pools)-1 && a.Pools[catalog].Replicas.Idle() {
		catalog++
	}
	values := map[string]any{
		"APIPort": portAPI, "MetricsPort": portMetrics, "OllamaPort": portOllama,
		"NobodyPort": portNobody, "MaxSeconds": a.MaxSeconds, "SilenceSeconds": a.silenceSeconds(),
		"HopSeconds":   a.silenceSeconds() + hopSeconds,
		"QueueSeconds": queueSeconds, "LookSeconds": lookSeconds,
		"BodyBytes": a.BodyMiB << 20, "BufferBytes": a.BodyMiB<<20 + 64<<10, "BodiesBytes": a.bodiesMiB() << 20,
		"LuaMiB":  a.luaMiB(),
		"Threads": frontThreads, "Connections": connections,
		// All pods of all pools read the same store, so any pool can list the models.
		"Catalog":  haproxyBackend{Host: a.fullName(hosts[catalog]), MaxPods: a.Pools[catalog].Replicas.Most()},
		"Backends": backends, "QueueLength": a.QueueLength, "HalfQueue": a.halfQueue(),
		"UsageSize": strings.Count(a.grantsMap(), "\n") + 1, // HAProxy would purge counters from a full table
		"OwnKeys":   a.KeysSecret != "",
		"TLS":       "", "FrontsHost": "", "OIDC": nil,
	}
	if a.TLSSecret != "" {
		values["TLS"] = " ssl crt @front/certificate alpn h2,http/1.1"
	}
	if a.Replicas > 1 {
		values["FrontsHost"], values["QueuePort"] = a.fullName(fronts), portQueue
		values["MaxFronts"] = a.Replicas + 1 // one more during a rollout
	}
	if a.OIDC != nil {
		values["OIDC"] = map[string]any{
			"Port": portOAuth2Proxy, "SignedInPort": portSignedIn, "Groups": a.OIDC.groups(), "Login": a.OIDC.ClientSecret != "",
		}
	}
	return render("haproxy.cfg.tmpl", values)
}

// fullName returns the full DNS name of a host. HAProxy resolves no others.
func (a *AuthFrontArgs) fullName(host string) string { return host + "." + a.ClusterDomain }

// modelsMap maps every spelling of a model's name to pool/model, the key of the other maps. To Ollama, name and
// name:latest are the same.
func (a *AuthFrontArgs) modelsMap() string {
	return a.modelLines(func(pool *Pool, model Model) []string {
		name := pool.Name + "/" + model.Name
		lines := []string{model.Name + " " + name}
		if short, latest := strings.CutSuffix(model.Name, ":latest"); latest {
			return append(lines, short+" "+name)
		}
		if !strings.Contains(model.Name[strings.LastIndex(model.Name, "/")+1:], ":") {
			return append(lines, model.Name+":latest "+name)
		}
		return lines
	})
}

// backendsMap maps pool/model to the backend.
func (a *AuthFrontArgs) backendsMap() string {
	return a.modelLines(func(pool *Pool, model Model) []string {
		return []string{pool.Name + "/" + model.Name + " " + backendName(pool.Name, model.queue())}
	})
}

// contextsMap holds the context of each model for which it is known.
func (a *AuthFrontArgs) contextsMap() string {
	return a.modelNumbers(func(model Model) int { return model.Context })
}

// tokensMap holds the largest number of output tokens that a request may ask of each model, if there is a limit.
func (a *AuthFrontArgs) tokensMap() string {
	return a.modelNumbers(func(model Model) int { return model.OutputTokens.Most })
}

// silentTokensMap holds the limit of output tokens for requests that set none.
func (a *AuthFrontArgs) silentTokensMap() string {
	return a.modelNumbers(func(model Model) int { return cmp.Or(model.OutputTokens.Silent, model.OutputTokens.Most) })
}

// grantsMap has a line for each team and model that the team may use.
func (a *AuthFrontArgs) grantsMap() string {
	return a.modelLines(func(pool *Pool, model Model) (lines []string) {
		for _, team := range a.Teams {
			if team.mayUse(model.Name) {
				lines = append(lines, fmt.Sprintf("%s/%s/%s 1", team.Name, pool.Name, model.Name))
			}
		}
		return lines
	})
}

// modelNumbers returns lines "pool/model number" for the models that have the number.
func (a *AuthFrontArgs) modelNumbers(number func(Model) int) string {
	return a.modelLines(func(pool *Pool, model Model) []string {
		if n := number(model); n > 0 {
			return []string{fmt.Sprintf("%s/%s %d", pool.Name, model.Name, n)}
		}
		return nil
	})
}

// modelLines returns the lines of all models, sorted.
func (a *AuthFrontArgs) modelLines(of func(*Pool, Model) []string) string {
	var lines []string
	for i := range a.Pools {
		for _, model := range a.Pools[i].Models {
			lines = append(lines, of(&a.Pools[i], model)...)
		}
	}
	sort.Strings(lines)
	var text strings.Builder
	for _, line := range lines {
		text.WriteString(line + "\n")
	}
	return text.String()
}

func (a *AuthFrontArgs) teamsMap(value func(Team) int) string {
	lines := make([]string, len(a.Teams))
	for i, team := range a.Teams {
		lines[i] = fmt.Sprintf("%s %d\n", team.Name, value(team))
	}
	sort.Strings(lines)
	return strings.Join(lines, "")
}

func (t Team) mayUse(model string) bool {
	for _, granted := range t.Models {
		if granted == model || granted == "*" {
			return true
		}
	}
	return len(t.Models) == 0
}

// priority returns the team's priority, or the default.
func (t Team) priority() Priority { return cmp.Or(t.Priority, PriorityInteractive) }

// priorityClass returns HAProxy's priority class. HAProxy serves the lowest first.
func (t Team) priorityClass() int {
	if t.priority() == PriorityBackground {
		return 100
	}
	return 0
}
