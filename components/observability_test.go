package components

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEachAlertIsFiredByATestAndHasASectionInTheRunbook(t *testing.T) {
	runbook, err := os.ReadFile("../docs/runbook.md")
	require.NoError(t, err)
	tests, err := os.ReadFile("testdata/rules_test.yml")
	require.NoError(t, err)
	alerts := regexp.MustCompile(`(?m)- alert: (\w+)$`).FindAllStringSubmatch(file("rules.yml"), -1)
	require.NotEmpty(t, alerts)
	for _, alert := range alerts {
		assert.Contains(t, string(runbook), "\n## "+alert[1]+"\n")
		assert.Regexp(
			t, `alertname: `+alert[1]+`\n +exp_alerts:( \[\{|\n +- )`, string(tests), "%s is expected to fire", alert[1],
		)
	}
}

func observed() *ObservabilityArgs {
	return &ObservabilityArgs{
		MetricsPort: portMetrics, QueueLength: 100,
		Pools: []Pool{
			{Name: "chat", Placement: Placement{GPU: GPU{Count: 1}}, Replicas: Replicas{Max: 3}, Models: []Model{
				{Name: "hf.co/org/big:Q4", Slots: 4, Digest: "sha256:" + strings.Repeat("a", 64)},
				{Name: "shares", Slots: 4, Queue: "hf.co/org/big:Q4"},
			}},
			{Name: "embed", Replicas: Replicas{Min: 1, Max: 1}, Models: []Model{{Name: "embed:latest", Slots: 1}}},
		},
	}
}

func TestTheBundledPrometheusConfigurationIsValid(t *testing.T) {
	for name, test := range map[string]struct {
		dcgm DCGMSource
		host string
	}{
		"without GPUs' metrics": {DCGMNone, ""},
		"existing exporters":    {DCGMExisting, ""},
		"exporters of our own":  {DCGMDeploy, "observability-dcgm.ollama-dcgm.svc"},
	} {
		t.Run(name, func(t *testing.T) {
			args := observed()
			args.DCGM, args.DCGMNamespace = test.dcgm, "gpu-operator"
			k := known{
				Namespace: "ollama", FrontHost: "front-metrics.ollama.svc", DCGMHost: test.host, WriterJobs: "models-writer",
				Pools: []knownPool{
					{"chat", "ollama-chat-pods.ollama.svc", "ollama-chat"}, {"embed", "ollama-embed-pods.ollama.svc", "ollama-embed"},
				},
			}
			config, err := args.prometheusConfig(k)
			require.NoError(t, err)
			assert.Equal(t, test.dcgm != DCGMNone, strings.Contains(config, "job_name: dcgm"))
			series, err := args.configRules(k)
			require.NoError(t, err)
			rules, err := k.rules()
			require.NoError(t, err)
			dir := t.TempDir()
			for name, text := range map[string]string{
				"prometheus.yml": strings.ReplaceAll(config, "/etc/prometheus/", dir+"/"), "rules.yml": rules,
				"stack.yml": series,
			} {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
			}
			out, err := exec.Command(
				tool(t, "PROMTOOL"), "check", "config", filepath.Join(dir, "prometheus.yml"),
			).CombinedOutput()
			require.NoError(t, err, string(out))
		})
	}
}

func TestTheConfigsOwnSeriesNameModelsAsTheMetricsDo(t *testing.T) {
	series, err := observed().configRules(known{Namespace: "llms"})
	require.NoError(t, err)
	assert.Contains(t, series, "model: hf.co_org_big:Q4\n", "as its backend")
	assert.Contains(t, series, "model: embed\n", "as its backend")
	assert.Equal(t, backendName("p", "hf.co/org/big:Q4"), "model:p:hf.co_org_big:Q4")
	assert.Contains(t, series, "digest: "+strings.Repeat("a", 64)+"\n", "as /api/tags")
	assert.Equal(
		t, 2, strings.Count(series, "record: ollama_pool_slots\n"), "a model in another's queue has no slots of its own",
	)
	// And the names that Ollama says, after the scrape's relabelling.
	for said, want := range map[string]string{
		"embed:latest": "embed", "hf.co/org/big:Q4": "hf.co_org_big:Q4",
		"registry.example.com/a/b/c:latest": "registry.example.com_a_b_c",
	} {
		name := said
		for _, r := range metricRenamings() {
			if whole := regexp.MustCompile("^(?:" + r.Regex + ")$"); whole.MatchString(name) {
				name = whole.ReplaceAllString(name, strings.Replace(r.Replacement, "$1", "${1}", 1))
			}
		}
		assert.Equal(t, want, name)
		assert.Equal(t, want, MetricModel(said))
	}
}

// json_exporter itself, with our configuration, before what Ollama and Kubernetes say.
func TestJSONExporterMakesTheSeriesThatTheRulesRead(t *testing.T) {
	dir := t.TempDir()
	said := map[string]string{
		"/api/ps": `{"models":[{"name":"tiny:latest","size":1000,"size_vram":400,"context_length":4096},` +
			`{"name":"hf.co/org/big:Q4","size":2000,"size_vram":2000}]}`,
		"/idle":     `{"models":[]}`,
		"/api/tags": `{"models":[{"name":"tiny:latest","model":"tiny:latest","size":900,"digest":"365c0bd3"}]}`,
		"/jobs": `{"items":[{"metadata":{"name":"models-writer"},"status":{"succeeded":1,"failed":1}},
			{"metadata":{"name":"models-writer-check-1"},"status":{"failed":2}},
			{"metadata":{"name":"models-writer-check-2"},"status":{"active":1}}]}`,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/jobs" {
			assert.Equal(t, "Bearer token", r.Header.Get("Authorization"))
		} else {
			assert.Empty(t, r.Header.Get("Authorization"), "the token is Kubernetes' only")
		}
		fmt.Fprint(w, said[r.URL.Path])
	}))
	defer server.Close()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "token"), []byte("token"), 0o600))
	authority, _ := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.crt"), authority, 0o600))
	config := filepath.Join(dir, "json-exporter.yml")
	require.NoError(t, os.WriteFile(config, []byte(strings.ReplaceAll(
		file("json-exporter.yml"), accountPath, dir,
	)), 0o600))
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	exporter := exec.Command(
		filepath.Join(tool(t, "JSON_EXPORTER")), "--config.file="+config, "--web.listen-address="+address,
	)
	log := &output{}
	exporter.Stdout, exporter.Stderr = log, log
	require.NoError(t, exporter.Start())
	defer func() {
		_ = exporter.Process.Kill()
		_ = exporter.Wait() // killed on purpose
	}()
	probe := func(module, path string) (status int, text string) {
		require.Eventually(t, func() bool {
			response, err := client.Get(
				"http://" + address + "/probe?module=" + module + "&target=" + url.QueryEscape(server.URL+path),
			)
			if err != nil {
				return false
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			status, text = response.StatusCode, string(body)
			return err == nil
		}, 10*time.Second, 50*time.Millisecond, "%s", log)
		return status, text
	}
	for _, test := range []struct {
		module, path string
		want         []string
	}{
		{"memory", "/api/ps", []string{
			`ollama_loaded_model_size_bytes{model="tiny:latest"} 1000`,
			`ollama_loaded_model_vram_bytes{model="tiny:latest"} 400`,
			`ollama_loaded_model_vram_bytes{model="hf.co/org/big:Q4"} 2000`,
		}},
		{"memory", "/idle", nil},
		{"store", "/api/tags", []string{`ollama_stored_model_size_bytes{digest="365c0bd3",model="tiny:latest"} 900`}},
		{"jobs", "/jobs", []string{
			`kube_job_status_failed{job_name="models-writer"} 1`, `kube_job_status_succeeded{job_name="models-writer"} 1`,
			`kube_job_status_failed{job_name="models-writer-check-1"} 2`,
			`kube_job_status_active{job_name="models-writer-check-2"} 1`,
		}},
	} {
		status, text := probe(test.module, test.path)
		assert.Equal(t, 200, status, text)
		for _, line := range test.want {
			assert.Contains(t, text, line+"\n")
		}
		if test.want == nil {
			assert.NotContains(t, text, "ollama_")
		}
	}
	assert.NotContains(t, log.String(), "Failed", "nothing that it could not read")
}
