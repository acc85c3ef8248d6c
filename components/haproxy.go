package components

import (
	"fmt"
	"sort"
	"strings"
)

// The text that HAProxy reads, from the front's args: haproxy.cfg from its template, and maps of "key value" lines.

type haproxyBackend struct {
	Name    string
	Host    string
	MaxPods int
	Slots   int // of a pod
	Idle    bool
	// HalfUnderWay and MostUnderWay are the requests that all slots and half of the queue, or all of it, hold.
	HalfUnderWay, MostUnderWay int
}

// haproxyConfig renders haproxy.cfg; hosts are the routes' hosts, in their order, and fronts the host of the front's own pods.
func (a *AuthFrontArgs) haproxyConfig(hosts []string, fronts string) (string, error) {
	var backends []haproxyBackend
	for i, route := range a.Routes {
		for _, model := range route.Models {
			if route.runner(model) != model {
				continue // it waits in that one's queue
			}
			slots := route.Slots
			if own, ok := route.ModelSlots[model]; ok {
				slots = own
			}
			all := slots * route.MaxPods
			backends = append(backends, haproxyBackend{
				Name: backendName(route.Pool, model), Host: a.fullName(hosts[i]), MaxPods: route.MaxPods, Slots: slots, Idle: route.Idle,
				HalfUnderWay: all + a.halfQueue(), MostUnderWay: all + a.QueueLength,
			})
		}
	}
	catalog := 0 // a pool that is always there, if there is one
	for catalog < len(a.Routes)-1 && a.Routes[catalog].Idle {
		catalog++
	}
	values := map[string]any{
		"APIPort": portAPI, "MetricsPort": portMetrics, "OllamaPort": portOllama,
		"NobodyPort": portNobody, "MaxSeconds": a.MaxSeconds, "SilenceSeconds": a.silenceSeconds(), "HopSeconds": a.silenceSeconds() + hopSeconds,
		"QueueSeconds": queueSeconds, "LookSeconds": lookSeconds,
		"BodyBytes": a.BodyMiB << 20, "BufferBytes": a.BodyMiB<<20 + 64<<10, "BodiesBytes": a.bodiesMiB() << 20, "LuaMiB": a.luaMiB(),
		"Threads": frontThreads, "Connections": connections,
		// Every pod of every pool reads the same store, so any pool can say which models there are.
		"Catalog":  haproxyBackend{Host: a.fullName(hosts[catalog]), MaxPods: a.Routes[catalog].MaxPods},
		"Backends": backends, "QueueLength": a.QueueLength, "HalfQueue": a.halfQueue(),
		"UsageSize": strings.Count(a.grantsMap(), "\n") + 1, // a purge of a full table would forget counters
		"OwnKeys":   a.KeysSecret != "",
		"TLS":       "", "FrontsHost": "", "OIDC": nil,
	}
	if a.TLSSecret != "" {
		values["TLS"] = " ssl crt @front/certificate alpn h2,http/1.1"
	}
	if a.Replicas > 1 {
		values["FrontsHost"], values["QueuePort"] = a.fullName(fronts), portQueue
		values["MaxFronts"] = a.Replicas + 1 // one more while a rollout goes on
	}
	if a.OIDC != nil {
		values["OIDC"] = map[string]any{"Port": portOAuth2Proxy, "SignedInPort": portSignedIn, "Groups": a.OIDC.groups(), "Login": a.OIDC.ClientSecret != ""}
	}
	return render("haproxy.cfg.tmpl", values)
}

// fullName of a host: HAProxy resolves no other.
func (a *AuthFrontArgs) fullName(host string) string { return host + "." + a.ClusterDomain }

// runner is the model in whose queue a model's requests wait.
func (r *Route) runner(model string) string {
	if other, shared := r.Runners[model]; shared {
		return other
	}
	return model
}

// backendName names the queue of one model in one pool; recording rules take pool and model out of it again. HAProxy allows no slash.
func backendName(pool, model string) string {
	return "model:" + pool + ":" + metricModel(model)
}

// modelsMap leads from every spelling of a model's name to the one that the other maps have, pool/model: Ollama reads a name without a tag
// as name:latest, and the other way round.
func (a *AuthFrontArgs) modelsMap() string {
	return a.modelLines(func(route *Route, model string) []string {
		name := route.Pool + "/" + model
		lines := []string{model + " " + name}
		if short, latest := strings.CutSuffix(model, ":latest"); latest {
			return append(lines, short+" "+name)
		}
		if !strings.Contains(model[strings.LastIndex(model, "/")+1:], ":") {
			return append(lines, model+":latest "+name)
		}
		return lines
	})
}

// backendsMap leads from pool/model to the backend.
func (a *AuthFrontArgs) backendsMap() string {
	return a.modelLines(func(route *Route, model string) []string {
		return []string{route.Pool + "/" + model + " " + backendName(route.Pool, route.runner(model))}
	})
}

// contextsMap has the context of each model, where it is known.
func (a *AuthFrontArgs) contextsMap() string {
	return a.modelLines(func(route *Route, model string) []string {
		if tokens, known := route.Contexts[model]; known {
			return []string{fmt.Sprintf("%s/%s %d", route.Pool, model, tokens)}
		}
		return nil
	})
}

// tokensMap has the most output tokens that a request may ask of each model, where there is a limit.
func (a *AuthFrontArgs) tokensMap() string {
	return a.modelLines(func(route *Route, model string) []string {
		return route.tokenLine(model, route.OutputTokens[model].Most)
	})
}

// silentTokensMap has the most output tokens of a request that does not say how many.
func (a *AuthFrontArgs) silentTokensMap() string {
	return a.modelLines(func(route *Route, model string) []string {
		tokens := route.OutputTokens[model]
		if tokens.Silent > 0 {
			return route.tokenLine(model, tokens.Silent)
		}
		return route.tokenLine(model, tokens.Most)
	})
}

func (r *Route) tokenLine(model string, tokens int) []string {
	if tokens == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s/%s %d", r.Pool, model, tokens)}
}

// grantsMap has a line for each team and model that the team may use.
func (a *AuthFrontArgs) grantsMap() string {
	return a.modelLines(func(route *Route, model string) (lines []string) {
		for _, team := range a.Teams {
			if team.mayUse(model) {
				lines = append(lines, fmt.Sprintf("%s/%s/%s 1", team.Name, route.Pool, model))
			}
		}
		return lines
	})
}

// modelLines are the lines of all models, sorted.
func (a *AuthFrontArgs) modelLines(of func(*Route, string) []string) string {
	var lines []string
	for i := range a.Routes {
		for _, model := range a.Routes[i].Models {
			lines = append(lines, of(&a.Routes[i], model)...)
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

// priorityClass is HAProxy's: the lowest is served first.
func (t Team) priorityClass() int {
	if t.Background {
		return 100
	}
	return 0
}
