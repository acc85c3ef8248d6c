package toolchain

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Name is the name of a tool.
type Name string

// The tools. Kubectl, Etcd and Promtool are part of others.
const (
	Kubernetes       Name = "kubernetes"
	Kubectl          Name = "kubectl"
	Etcd             Name = "etcd"
	CoreDNS          Name = "coredns"
	Ollama           Name = "ollama"
	Pulumi           Name = "pulumi"
	PulumiKubernetes Name = "pulumi-kubernetes"
	PulumiRandom     Name = "pulumi-random"
	Pause            Name = "pause"
	Registry         Name = "registry"
	Agent            Name = "agent"
	Issuer           Name = "issuer"
	Pacer            Name = "pacer"
	OAuth2Proxy      Name = "oauth2-proxy"
	JSONExporter     Name = "json-exporter"
	HAProxy          Name = "haproxy"
	Prometheus       Name = "prometheus"
	Promtool         Name = "promtool"

	// For trials next to the stack. No cluster needs these.
	KEDA              Name = "keda"
	KEDAAdapter       Name = "keda-adapter"
	PrometheusAdapter Name = "prometheus-adapter"
	Kwok              Name = "kwok"
)

// A tool is a folder in the cache that a recipe can fill.
type tool struct {
	name    Name
	version string // part of the folder's name, for people; only the key matters
	recipe  recipe
}

// A recipe fills a tool's folder.
type recipe interface {
	// find returns the folder of the finished tool in the cache, or "". It is quick and does not use the network.
	find(t tool) (string, error)
	// make fills the empty folder dir and returns its final path in the cache.
	make(j job, dir string) (final string, err error)
}

// alsoKnown maps the names of tools that are in another tool's folder.
var alsoKnown = map[Name]Name{
	Kubectl:  Kubernetes,
	Etcd:     Kubernetes,
	Promtool: Prometheus,
}

// moduleOf maps the tools that are programs of another tool's module. CoreDNS uses the same client as Kubernetes, and
// the two can share its compiled packages only if they use the same versions of all its dependencies.
var moduleOf = map[Name]Name{KEDAAdapter: KEDA, CoreDNS: Kubernetes}

// tools lists all tools in the order of Names, the most important first.
var tools = []tool{
	{Kubernetes, "1.35.4", goTool{
		ldflags: "-X k8s.io/component-base/version.gitVersion=v1.35.4" +
			" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=35" +
			" -X k8s.io/component-base/version.gitTreeState=clean",
		links: []string{
			"etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet",
		},
	}},
	{Ollama, "0.17.4", goTool{
		source:  "github.com/ollama/ollama",
		ldflags: "-X github.com/ollama/ollama/version.Version=0.17.4",
		cgo:     true,
		headers: map[string]string{"miniaudio": "github.com/gen2brain/malgo"},
		needs:   []string{"g++", "libstb-dev", "nlohmann-json3-dev"},
	}},
	{Pulumi, "3.274.1", goTool{
		source: "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
		// The Automation API checks the CLI's version first, and refuses a CLI without one.
		ldflags: "-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v3.274.1",
	}},
	{CoreDNS, "1.14.3", goTool{source: "./coredns"}},
	{PulumiRandom, "4.18.2", goTool{executable: "pulumi-resource-random"}},
	{PulumiKubernetes, "4.24.0", goTool{
		executable: "pulumi-resource-kubernetes",
		embeds: embeds{
			module: "github.com/pulumi/pulumi-kubernetes/provider/v4",
			files: map[string]string{
				"schema.json":            "cmd/pulumi-resource-kubernetes/schema.json",
				"terraform-mapping.json": "cmd/pulumi-resource-kubernetes/terraform-mapping.json",
			},
		},
	}},
	{Pause, "1", goTool{}},
	{Registry, "1", ownCommand{}},
	{Agent, "1", ownCommand{}},
	{Issuer, "1", ownCommand{}},
	{Pacer, "1", ownCommand{}},
	{OAuth2Proxy, "7.15.6", goTool{
		source:  "github.com/oauth2-proxy/oauth2-proxy/v7",
		ldflags: "-X github.com/oauth2-proxy/oauth2-proxy/v7/pkg/version.VERSION=v7.15.6",
	}},
	{JSONExporter, "0.7.0", goTool{
		source:     "github.com/prometheus-community/json_exporter",
		executable: "json_exporter",
		ldflags:    "-X github.com/prometheus/common/version.Version=0.7.0",
	}},
	{HAProxy, "3.4", debianTool{
		packages: []string{"haproxy"},
		series:   "3.4.*", // the first with large buffers; Debian stable has 2.6
		programs: map[string]string{"haproxy": "usr/sbin/haproxy"},
	}},
	{Prometheus, "3", debianTool{
		packages: []string{"prometheus", "promtool"},
		series:   "3.*",
		programs: map[string]string{"prometheus": "usr/bin/prometheus", "promtool": "usr/bin/promtool"},
	}},
	{KEDA, "2.21.0", goTool{
		source:  "github.com/kedacore/keda/v2/cmd/operator",
		ldflags: "-X github.com/kedacore/keda/v2/version.Version=2.21.0",
	}},
	{KEDAAdapter, "2.21.0", goTool{
		source:  "github.com/kedacore/keda/v2/cmd/adapter",
		ldflags: "-X github.com/kedacore/keda/v2/version.Version=2.21.0",
	}},
	{PrometheusAdapter, "0.12.0", goTool{source: "sigs.k8s.io/prometheus-adapter/cmd/adapter"}},
	{Kwok, "0.8.0", goTool{
		source:  "sigs.k8s.io/kwok/cmd/kwok",
		ldflags: "-X sigs.k8s.io/kwok/pkg/consts.Version=v0.8.0",
	}},
}

// Names lists all names that Ensure, Path and Command accept.
func Names() []Name {
	var names []Name
	for _, t := range tools {
		names = append(names, t.name)
	}
	return append(names, slices.Sorted(maps.Keys(alsoKnown))...)
}

func find(n Name) (tool, error) {
	wanted := n
	if other, ok := alsoKnown[n]; ok {
		wanted = other
	}
	for _, t := range tools {
		if t.name == wanted {
			return t, nil
		}
	}
	var known []string
	for _, name := range Names() {
		known = append(known, string(name))
	}
	return tool{}, fmt.Errorf("unknown tool %q: use one of %s", n, strings.Join(known, ", "))
}
