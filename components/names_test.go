package components

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	stack "ollama-k8s/internal/render"
	"ollama-k8s/internal/testhaproxy"
)

// Names of a copy's  No part of one is in another, so that a name that is written twice shows.
type componentNames struct {
	namespace, nodes, store, front, observability string
	servers, scalers                              map[string]string // by pool
}

var copies = []componentNames{
	{
		"blue", "machines", "shelf", "gate", "watch",
		map[string]string{"chat": "talkers", "embed": "vectors"}, map[string]string{"chat": "grow-t", "embed": "grow-v"},
	},
	{
		"green", "iron", "cellar", "door", "lookout",
		map[string]string{"chat": "chat", "embed": "chat-too"}, map[string]string{"chat": "s1", "embed": "s2"},
	},
}

// deploy makes all components under the names, as stacks.Deploy does under its own.
func (n componentNames) deploy(ctx *pulumi.Context, mode PrometheusMode) error {
	provider, err := kubernetes.NewProvider(ctx, "cluster", &kubernetes.ProviderArgs{})
	if err != nil {
		return err
	}
	inCluster := pulumi.Provider(provider)
	namespace := pulumi.String(n.namespace)
	pools := []Pool{
		{
			Name: "chat", Replicas: Replicas{Min: 1, Max: 3}, Queue: "gpus", Karpenter: &NodeRequests{},
			Placement: Placement{GPU: GPU{Count: 1}},
			Models:    []Model{{Name: "tiny", Slots: 2}},
		},
		{
			Name: "embed", Replicas: Replicas{Min: 1, Max: 2}, Models: []Model{{Name: "bert", Slots: 1}},
		},
	}
	nodes, err := NewNodes(ctx, n.nodes, &NodesArgs{
		Namespace: namespace, Pools: pools, ClusterQueue: "all",
		NodeClass: NodeClass{Group: "karpenter.k8s.aws", Kind: "EC2NodeClass", Name: "gpu"},
	}, inCluster)
	if err != nil {
		return err
	}
	pools[0].NodePool = nodes.NodePools["chat"]
	store, err := NewModelStore(ctx, n.store, &ModelStoreArgs{
		Namespace: namespace, Image: "ollama:1", AccessMode: ReadWriteMany, CheckSchedule: "0 3 * * 0",
		Models: []Model{{Name: "tiny"}, {Name: "bert"}},
	}, inCluster)
	if err != nil {
		return err
	}
	servers := map[string]*OllamaServer{}
	for i, pool := range pools {
		server, err := NewOllamaServer(ctx, n.servers[pool.Name], &OllamaServerArgs{
			Namespace: namespace, Image: "ollama:1", Store: store.Mount, Placement: pool.Placement, Replicas: pool.Replicas,
		}, inCluster)
		if err != nil {
			return err
		}
		servers[pool.Name], pools[i].Host, pools[i].Workload = server, server.PodsHost, server.WorkloadName
	}
	front, err := NewAuthFront(ctx, n.front, &AuthFrontArgs{
		Namespace: namespace, Image: "haproxy:1", Pools: pools, Teams: []Team{{Name: "dev", Models: []string{"*"}}},
		Expose: Ingress{Host: n.namespace + ".example.com"},
	}, inCluster)
	if err != nil {
		return err
	}
	observability, err := NewObservability(ctx, n.observability, &ObservabilityArgs{
		Namespace: namespace, Mode: mode, Image: "prometheus:1", ExporterImage: "exporter:1", Pools: pools, QueueLength: 100,
		WriterJobs: store.WriterJobs, MetricsHost: front.MetricsHost, MetricsPort: front.MetricsPort,
		ServerURL: "http://prometheus", DCGM: DCGMDeploy, DCGMImage: "dcgm:1",
	}, inCluster)
	if err != nil {
		return err
	}
	for _, pool := range pools {
		if _, err := NewAutoscaling(ctx, n.scalers[pool.Name], &AutoscalingArgs{
			Namespace: namespace, Engine: EngineKEDA, Pool: pool, WorkloadKind: servers[pool.Name].WorkloadKind,
			WorkloadName: servers[pool.Name].WorkloadName, QueryURL: observability.QueryURL,
		}, inCluster); err != nil {
			return err
		}
	}
	return nil
}

// Two copies of everything in one cluster, under names that nothing else in the code knows.
func TestComponentsWorkUnderAnyNameAndTwiceInOneCluster(t *testing.T) {
	t.Parallel()
	for _, mode := range []PrometheusMode{PrometheusBundled, PrometheusOperator} {
		t.Run(string(mode), func(t *testing.T) {
			rules := map[string]string{}
			owner := map[string]string{} // of each object's name, by namespace and kind
			for _, names := range copies {
				resources, err := stack.Run("other", "test", nil, false, func(ctx *pulumi.Context) error {
					return names.deploy(ctx, mode)
				})
				require.NoError(t, err)
				assert.Empty(t, stack.Violations(resources), names.namespace)
				objects := stack.Objects(resources)
				for _, object := range objects {
					metadata, _ := object["metadata"].(map[string]any)
					key := fmt.Sprint(metadata["namespace"], " ", object.Kind(), " ", object.Name())
					assert.Empty(t, owner[key], "both copies make %s", key)
					owner[key] = names.namespace
				}
				rules[names.namespace] = names.checkObjects(t, mode, objects)
			}
			for _, names := range copies {
				names.checkRules(t, rules)
			}
		})
	}
}

// What the stacks of this project call their objects.
var usualNames = []string{"models-writer", "ollama-chat", "ollama-embed", "service/front", "front-pods", "autoscaling-"}

// checkObjects checks what matches on names inside the objects, and returns the text of the rules.
func (n componentNames) checkObjects(t *testing.T, mode PrometheusMode, objects []stack.Object) (rules string) {
	for _, object := range objects {
		text := object.Text()
		for _, usual := range usualNames {
			assert.NotContains(t, text, usual, "%s %s", object.Kind(), object.Name())
		}
		data, _ := object["data"].(map[string]any)
		spec := object["spec"]
		switch {
		case object.Kind() == "ConfigMap" && data["haproxy.cfg"] != nil:
			files := map[string]string{}
			for name, file := range data {
				files[name] = fmt.Sprint(file)
			}
			testhaproxy.Check(t, files)
		case object.Kind() == "ConfigMap" && data["rules.yml"] != nil:
			rules = fmt.Sprint(data["rules.yml"])
		case object.Kind() == "PrometheusRule" && object.Name() == n.observability:
			text, err := yaml.Marshal(spec)
			require.NoError(t, err)
			rules = string(text)
		case object.Kind() == "PodMonitor" && object.Name() == n.observability+"-servers":
			n.checkPodMonitor(t, spec, objects)
		}
	}
	require.NotEmpty(t, rules)
	return rules
}

// checkPodMonitor relabels each pool's pods as Prometheus does: they must get the pool's name.
func (n componentNames) checkPodMonitor(t *testing.T, spec any, objects []stack.Object) {
	text, err := yaml.Marshal(spec)
	require.NoError(t, err)
	var monitor struct {
		PodMetricsEndpoints []struct {
			Relabelings []struct {
				SourceLabels                    []string
				Regex, TargetLabel, Replacement string
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &monitor))
	require.NotEmpty(t, monitor.PodMetricsEndpoints)
	for pool, server := range n.servers {
		instance := ""
		for _, object := range objects {
			if object.Kind() == "Deployment" && object.Name() == server {
				var deployment struct {
					Spec struct {
						Template struct {
							Metadata struct{ Labels map[string]string }
						}
					}
				}
				require.NoError(t, yaml.Unmarshal([]byte(object.Text()), &deployment))
				instance = deployment.Spec.Template.Metadata.Labels[instanceLabel]
			}
		}
		require.NotEmpty(t, instance, "the pods of %s", pool)
		for _, endpoint := range monitor.PodMetricsEndpoints {
			got := ""
			for _, r := range endpoint.Relabelings {
				if r.TargetLabel == "pool" && regexp.MustCompile("^(?:"+r.Regex+")$").MatchString(instance) {
					got = r.Replacement
				}
			}
			assert.Equal(t, pool, got, "the label pool of pods of instance %s", instance)
		}
	}
}

// checkRules runs the rules' own tests under the copy's names. The same Prometheus has the other copy's rules, and each
// sees its own series only.
func (n componentNames) checkRules(t *testing.T, rules map[string]string) {
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	other := ""
	for namespace, text := range rules {
		if namespace == n.namespace {
			write("rules.yml", text)
		} else {
			write("others.yml", text)
			other = namespace
		}
	}
	tests, err := os.ReadFile("testdata/rules_test.yml")
	require.NoError(t, err)
	write("rules_test.yml", strings.NewReplacer(
		"[[.Namespace]]", n.namespace, "[[.Other]]", other, "[[.Writer]]", n.store+"-writer", "[[.Chat]]", n.servers["chat"],
	).Replace(string(tests)))
	for _, arguments := range [][]string{
		{"check", "rules", dir + "/rules.yml", dir + "/others.yml"}, {"test", "rules", dir + "/rules_test.yml"},
	} {
		out, err := exec.Command(tool(t, "PROMTOOL"), arguments...).CombinedOutput()
		require.NoError(t, err, "%s: %s", n.namespace, out)
	}
}
