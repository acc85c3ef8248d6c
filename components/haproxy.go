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
	// Slots are this front's share of a pod's.
	Slots int
}

// haproxyConfig renders haproxy.cfg; hosts are the routes' hosts, in their order.
func (a *AuthFrontArgs) haproxyConfig(hosts []string) (string, error) {
	var backends []haproxyBackend
	for i, route := range a.Routes {
		for _, model := range route.Models {
			slots := route.Slots
			if own, ok := route.ModelSlots[model]; ok {
				slots = own
			}
			backends = append(backends, haproxyBackend{
				Name: backendName(route.Pool, model), Host: hosts[i] + "." + a.ClusterDomain, MaxPods: route.MaxPods, Slots: divide(slots, a.Replicas),
			})
		}
	}
	return render("haproxy.cfg.tmpl", map[string]any{
		"APIPort": portAPI, "MetricsPort": portMetrics, "OllamaPort": portOllama,
		"AnswerSeconds": answerSeconds, "BodyBytes": bodyBytes, "BufferBytes": bodyBytes + 64<<10,
		// Every pod of every pool reads the same store, so any pool can say which models there are.
		"Catalog":  haproxyBackend{Host: hosts[0] + "." + a.ClusterDomain, MaxPods: a.Routes[0].MaxPods},
		"Backends": backends,
		// A front's share of the queue.
		"QueueLength": divide(a.QueueLength, a.Replicas),
	})
}

// backendName names the queue of one model in one pool; recording rules take pool and model out of it again. HAProxy allows no slash.
func backendName(pool, model string) string {
	return "model:" + pool + ":" + strings.ReplaceAll(model, "/", "_")
}

// modelsMap leads from every name of a model to its backend: Ollama reads a name without a tag as name:latest, and the other way round.
func (a *AuthFrontArgs) modelsMap() string {
	var lines []string
	for _, route := range a.Routes {
		for _, model := range route.Models {
			backend := backendName(route.Pool, model)
			lines = append(lines, model+" "+backend+"\n")
			if name, latest := strings.CutSuffix(model, ":latest"); latest {
				lines = append(lines, name+" "+backend+"\n")
			} else if !strings.Contains(model[strings.LastIndex(model, "/")+1:], ":") {
				lines = append(lines, model+":latest "+backend+"\n")
			}
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "")
}

// contextsMap has the context of each backend's model, where it is known.
func (a *AuthFrontArgs) contextsMap() string {
	var lines []string
	for _, route := range a.Routes {
		for model, tokens := range route.Contexts {
			lines = append(lines, fmt.Sprintf("%s %d\n", backendName(route.Pool, model), tokens))
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "")
}

// grantsMap has a line for each team and backend that the team may use.
func (a *AuthFrontArgs) grantsMap() string {
	var lines []string
	for _, team := range a.Teams {
		for _, route := range a.Routes {
			for _, model := range route.Models {
				if team.mayUse(model) {
					lines = append(lines, fmt.Sprintf("%s/%s 1\n", team.Name, backendName(route.Pool, model)))
				}
			}
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "")
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

// divide shares n among parts, rounded up, so that a share is never 0: HAProxy counts per process.
func divide(n, parts int) int {
	return (n + parts - 1) / parts
}
