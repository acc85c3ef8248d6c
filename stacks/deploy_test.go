package stacks_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/internal/render"
	"ollama-k8s/stacks"
)

var update = flag.Bool("update", false, "write the goldens under testdata/golden anew")

// run runs the program on a config, in the project's folder.
func run(t *testing.T, stack string, values map[string]string, preview bool) []render.Resource {
	t.Helper()
	t.Chdir(projectFolder)
	resources, err := render.Run(stacks.Project, stack, values, preview, stacks.Deploy)
	require.NoError(t, err)
	return resources
}

var projectFolder = func() string {
	folder, err := filepath.Abs("..")
	if err != nil {
		panic(err)
	}
	return folder
}()

func stackFile(t *testing.T, stack string) map[string]string {
	t.Helper()
	values, err := stacks.ReadFile(filepath.Join(projectFolder, "Pulumi."+stack+".yaml"), stacks.Project)
	require.NoError(t, err)
	return values
}

var shipped = []string{"dev", "prod", "local"}

// goldens are the stack files that have one: those that are shipped, and one for each way to store models and each kind
// of GPU.
func goldens(t *testing.T) map[string]map[string]string {
	all := map[string]map[string]string{}
	for _, stack := range shipped {
		all[stack] = stackFile(t, stack)
	}
	files, err := filepath.Glob(filepath.Join(projectFolder, "stacks/testdata/stacks/*.yaml"))
	require.NoError(t, err)
	require.Len(t, files, 9)
	for _, file := range files {
		values, err := stacks.ReadFile(file, stacks.Project)
		require.NoError(t, err)
		all[strings.TrimSuffix(filepath.Base(file), ".yaml")] = values
	}
	return all
}

func TestStacksRenderAsTheirGoldens(t *testing.T) {
	for stack, values := range goldens(t) {
		t.Run(stack, func(t *testing.T) {
			got := render.YAML(render.Objects(run(t, stack, values, false)))
			golden := filepath.Join(projectFolder, "stacks/testdata/golden", stack+".yaml")
			if *update {
				require.NoError(t, os.MkdirAll(filepath.Dir(golden), 0o755))
				require.NoError(t, os.WriteFile(golden, got, 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			assert.Equal(t, string(want), string(got), "if the change is meant, run: go test ./stacks -update")
		})
	}
}

// variants are configs that take every branch of the program.
func variants(t *testing.T) map[string]map[string]string {
	all := goldens(t)
	change := func(name, base string, values map[string]string) {
		all[name] = map[string]string{}
		for key, value := range all[base] {
			all[name][key] = value
		}
		for key, value := range values {
			all[name][key] = value
		}
	}
	change("bundled Prometheus and HPA", "prod", map[string]string{
		"observability": `{}`, "autoscaling": `{"engine":"hpa"}`,
	})
	change("bundled Prometheus and KEDA", "prod", map[string]string{"observability": `{}`})
	change("no Prometheus", "dev", map[string]string{"observability": `{"prometheus":"none"}`})
	change(
		"a load balancer for some networks", "dev",
		map[string]string{"expose": `{"loadBalancer":{"sourceRanges":["10.0.0.0/8"]}}`},
	)
	change("a claim that is there already", "dev", map[string]string{"store": `{"existingClaim":"existing-models"}`})
	change("an ingress without TLS", "dev", map[string]string{"expose": `{"ingress":{"host":"llm.example.com"}}`})
	change("an ingress whose certificate cert-manager makes", "dev", map[string]string{
		"expose": `{"ingress":{"host":"llm.example.com","tlsSecret":"llm-tls","clusterIssuer":"letsencrypt"}}`,
	})
	change("a gateway", "dev", map[string]string{
		"expose": `{"gateway":{"host":"llm.example.com","name":"public","namespace":"gateways","listener":"https"}}`,
	})
	change("nodes of Karpenter beside one volume", "rwo", map[string]string{
		"autoscaling": `{"karpenter":{"nodeClass":{"group":"karpenter.k8s.aws","kind":"EC2NodeClass","name":"gpu"}}}`,
	})
	change("a queue that is there already", "per-replica", map[string]string{
		"pools": `{"chat":{"gpu":{"count":1,"vramGiB":24},"queue":"serving"}}`, "autoscaling": `{}`,
	})
	change("a Prometheus that remembers, and our own exporters of GPUs", "dev", map[string]string{
		"observability": `{"retentionDays":30,"storage":"20Gi","storageClass":"fast",` +
			`"annotations":{"grafana_folder":"LLMs"},"dcgm":"deploy"}`,
	})
	change("the GPU operator's exporters", "dev", map[string]string{"observability": `{"dcgm":"existing"}`})
	change(
		"our own exporters of GPUs for an operator's Prometheus", "dev",
		map[string]string{"observability": `{"prometheus":"operator","dcgm":"deploy"}`},
	)
	change("a pool that sleeps", "dev", map[string]string{
		"autoscaling": `{"engine":"keda"}`, "pools": `{"chat":{"replicas":{"min":0,"max":1}}}`,
	})
	change("a spare GPU", "prod", map[string]string{
		"pools": `{"chat":{"gpu":{"count":1,"spare":true},"replicas":{"min":2}}}`, "autoscaling": `{}`,
		"models": `[{"name":"llama3.3:70b"},{"name":"hf.co/org/model:Q4"}]`,
	})
	return all
}

func TestInvariantsHoldForEveryVariant(t *testing.T) {
	for name, values := range variants(t) {
		t.Run(name, func(t *testing.T) {
			assert.Empty(t, render.Violations(run(t, "test", values, false)))
		})
	}
}

func TestPreviewRegistersWhatUpDoes(t *testing.T) {
	for name, values := range variants(t) {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, urns(run(t, "test", values, false)), urns(run(t, "test", values, true)))
		})
	}
}

func urns(resources []render.Resource) []string {
	all := make([]string, len(resources))
	for i, r := range resources {
		all[i] = r.URN
	}
	return all
}

func TestKeysStandInNoObject(t *testing.T) {
	resources := run(t, "prod", stackFile(t, "prod"), false)
	keys := render.Passwords(resources)
	require.Len(t, keys, 2)
	text := string(render.YAML(render.ObjectsWithSecrets(resources)))
	for _, key := range keys {
		assert.NotContains(t, text, key, "a key in clear")
	}
	assert.Contains(t, text, "keys.map: |", "the Secret with the hashes")
	redacted := string(render.YAML(render.Objects(resources)))
	assert.Contains(t, redacted, "keys.map: "+render.Redacted)
}

func TestTheClaimIsProtectedInProdOnly(t *testing.T) {
	for stack, protected := range map[string]bool{"prod": true, "dev": false} {
		found := false
		for _, r := range run(t, stack, stackFile(t, stack), false) {
			if r.Type == "kubernetes:core/v1:PersistentVolumeClaim" {
				found = true
				assert.Equal(t, protected, r.Protect, stack)
			}
		}
		assert.True(t, found, stack)
	}
}

func TestAnAutoscaledDeploymentKeepsItsReplicas(t *testing.T) {
	for _, r := range run(t, "prod", stackFile(t, "prod"), false) {
		if r.Type == "kubernetes:apps/v1:Deployment" && strings.HasPrefix(r.Name, "ollama-") {
			assert.Equal(t, []string{"spec.replicas"}, r.IgnoreChanges, r.Name)
		}
	}
}

func TestAnAddedTeamChangesOnlyKeysAndFront(t *testing.T) {
	before := rendered(run(t, "local", stackFile(t, "local"), false))
	values := stackFile(t, "local")
	values["teams"] = `{"ide":{},"batch":{"models":["tiny"],"requestsPerMinute":6000,"priority":"background"},` +
		`"research":{}}`
	after := rendered(run(t, "local", values, false))
	assert.ElementsMatch(t, []string{"ConfigMap/front", "Secret/front-keys", "Deployment/front"}, changed(before, after))
}

func TestARotatedKeyChangesTheFrontOnlyAndTheFormerOneStaysUntilItIsDropped(t *testing.T) {
	values := stackFile(t, "local")
	before := run(t, "local", values, false)
	values["teams"] = `{"ide":{"keys":[1,2]},"batch":{"models":["tiny"],"requestsPerMinute":6000,"priority":"background"}}`
	during := run(t, "local", values, false)
	assert.ElementsMatch(t, []string{"Secret/front-keys", "Deployment/front"}, changed(rendered(before), rendered(during)))
	assert.Len(t, render.Passwords(during), 3)
	for name, key := range render.Passwords(before) {
		assert.Equal(t, key, render.Passwords(during)[name], "the former keys stay")
	}
	values["teams"] = strings.Replace(values["teams"], "[1,2]", "[2]", 1)
	after := run(t, "local", values, false)
	assert.ElementsMatch(t, []string{"Secret/front-keys", "Deployment/front"}, changed(rendered(during), rendered(after)))
	assert.Len(t, render.Passwords(after), 2)
}

func TestAnAddedModelMakesANewWriterAndLeavesTheServersAlone(t *testing.T) {
	before := rendered(run(t, "local", stackFile(t, "local"), false))
	values := stackFile(t, "local")
	values["models"] = strings.Replace(
		values["models"], `{"name":"tiny-embed"}`, `{"name":"tiny-embed"},{"name":"tiny-endless"}`, 1,
	)
	require.NotEqual(t, stackFile(t, "local")["models"], values["models"])
	after := rendered(run(t, "local", values, false))
	assert.ElementsMatch(t, []string{
		"ConfigMap/models-writer", "Job/models-writer", "CronJob/models-writer-check",
	}, changed(before, after))
}

// An update that failed late leaves its Job until one succeeds. Were the name made of what the Job does, going back to
// the former config would meet the former Job, which waits to be deleted.
func TestTheWritersNameIsNotMadeOfItsContent(t *testing.T) {
	jobs := 0
	for _, r := range run(t, "local", stackFile(t, "local"), false) {
		if r.Type == "kubernetes:batch/v1:Job" {
			jobs++
			assert.False(t, r.Inputs["metadata"].ObjectValue().HasValue("name"), "Pulumi names %s", r.Name)
		}
	}
	assert.Equal(t, 1, jobs)
}

// rendered are the objects' texts by kind and Pulumi name, with references included, so that a rolled Deployment shows.
func rendered(resources []render.Resource) map[string]string {
	texts := map[string]string{}
	for _, r := range resources {
		for _, o := range render.ObjectsWithSecrets([]render.Resource{r}) {
			texts[fmt.Sprintf("%s/%s", o.Kind(), r.Name)] = o.Text()
		}
	}
	return texts
}

func changed(before, after map[string]string) (names []string) {
	for name, text := range after {
		if before[name] != text {
			names = append(names, name)
		}
	}
	for name := range before {
		if _, still := after[name]; !still {
			names = append(names, name)
		}
	}
	return names
}
