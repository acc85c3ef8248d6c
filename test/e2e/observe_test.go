//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// These steps test the metrics, from their sources to the alerts.

// prometheusAt is the address of the bundled Prometheus.
func prometheusAt(t *testing.T) string {
	t.Helper()
	ip := kubectl(t, "get", "service", "-n", "ollama", "observability-prometheus", "-o", "jsonpath={.spec.clusterIP}")
	return "http://" + ip + ":9090"
}

type sample struct {
	Metric map[string]string
	Value  [2]any
}

// query sends a query to the bundled Prometheus.
func query(t *testing.T, expression string) (samples []sample) {
	t.Helper()
	status, body := askAt(t, prometheusAt(t), "GET", "/api/v1/query?query="+url.QueryEscape(expression), "", "")
	require.Equal(t, 200, status, body)
	var answer struct{ Data struct{ Result []sample } }
	require.NoError(t, json.Unmarshal([]byte(body), &answer))
	return answer.Data.Result
}

type alert struct {
	Labels, Annotations map[string]string
	State, ActiveAt     string
	Value               string
}

func alerts(t *testing.T) (firing []alert) {
	t.Helper()
	status, body := askAt(t, prometheusAt(t), "GET", "/api/v1/alerts", "", "")
	require.Equal(t, 200, status, body)
	var answer struct{ Data struct{ Alerts []alert } }
	require.NoError(t, json.Unmarshal([]byte(body), &answer))
	for _, a := range answer.Data.Alerts {
		if a.State == "firing" {
			firing = append(firing, a)
		}
	}
	return firing
}

// readNames returns the metrics that a text reads, by the prefixes of our sources.
func readNames(text string) []string {
	names := regexp.MustCompile(`\b(?:ollama|haproxy|kube|DCGM)_\w+`).FindAllString(text, -1)
	slices.Sort(names)
	return slices.Compact(names)
}

// unknown returns the names that nobody exports.
func unknown(names, exported []string) (missing []string) {
	for _, name := range names {
		if !slices.Contains(exported, name) {
			missing = append(missing, name)
		}
	}
	return missing
}

// metricsContract compares the metrics that rules, alerts, dashboard and scalers read with those that the sources
// really export.
func metricsContract(t *testing.T) {
	mustUp(t)
	_, _, err := talkTo(server(t), "", "tiny", 2) // a loaded model has metrics of its own
	require.NoError(t, err)
	jobs := filepath.Join(project, "test/e2e/testdata/jobs.yaml")
	kubectl(t, "apply", "-f", jobs)
	defer kubectl(t, "delete", "-f", jobs)
	seen := func() bool {
		return len(query(t, `kube_job_status_active{job_name="sleeper"}`)) == 1 &&
			len(query(t, `kube_job_status_failed{job_name="failer"}`)) == 1
	}
	require.Eventually(t, seen, 90*time.Second, time.Second, "the metrics of a running Job and of one that failed")
	status, body := askAt(t, prometheusAt(t), "GET", "/api/v1/label/__name__/values", "", "")
	require.Equal(t, 200, status)
	var answer struct{ Data []string }
	require.NoError(t, json.Unmarshal([]byte(body), &answer))
	exported := answer.Data
	// This machine has no GPU. These are dcgm-exporter's default counters (its etc/default-counters.csv).
	counters, err := os.ReadFile(filepath.Join(project, "test/e2e/testdata/dcgm-counters.txt"))
	require.NoError(t, err)
	dcgm := strings.Fields(string(counters))
	recorded := regexp.MustCompile(`record: (ollama_gpu_\w+)`)
	exported = append(exported, dcgm...)

	for _, source := range []string{
		"components/files/rules.yml", "components/files/dashboard.json", "components/autoscaling.go",
		"docs/prometheus-adapter.yaml",
	} {
		text, err := os.ReadFile(filepath.Join(project, source))
		require.NoError(t, err)
		// Series recorded from DCGM's counters exist only where those counters exist.
		for _, m := range recorded.FindAllStringSubmatch(string(text), -1) {
			exported = append(exported, m[1])
		}
		code := regexp.MustCompile(`(?m)^ *(#|//).*$`).ReplaceAllString(string(text), "")
		names := readNames(code)
		require.NotEmpty(t, names, source)
		assert.Empty(t, unknown(names, exported), "%s reads metrics that nobody exports", source)
		t.Logf("%s: %d names, all exported", source, len(names))
		// The check finds a misspelt name.
		misspelt := strings.Replace(code, names[0], names[0]+"s", 1)
		assert.Equal(t, []string{names[0] + "s"}, unknown(readNames(misspelt), exported))
	}
}

// liveAlerts breaks four things, waits for their alerts, mends the four things, and waits for the alerts to end.
func liveAlerts(t *testing.T) {
	mustUp(t)
	_, _, err := talkTo(server(t), "", "tiny", 2)
	require.NoError(t, err)
	name := kubectl(t, "get", "pvc", "-n", "ollama", "models", "-o", "jsonpath={.spec.volumeName}")
	volume := kubectl(t, "get", "pv", name, "-o", "jsonpath={.spec.hostPath.path}")
	manifests, err := filepath.Glob(filepath.Join(volume, "manifests", "*", "*", "code-reviewer"))
	require.NoError(t, err)
	require.Len(t, manifests, 1, "in %s", volume)

	// The node claims GPUs that it does not have, so the models of the pool chat are on the CPU, as on a node with a
	// broken driver.
	kubectl(t, "scale", "-n", "ollama", "deployment/ollama-embed", "--replicas=0")
	require.NoError(t, os.Rename(manifests[0], volume+"/code-reviewer.away"))
	kubectl(t, "create", "job", "-n", "ollama", "models-writer-check-now", "--from=cronjob/models-writer-check")
	broken := map[string]string{
		"OllamaModelNotInVRAM": "the node of the pool chat has no real GPU",
		"OllamaNoServerUp":     "the pool embed was scaled to 0 by hand",
		"OllamaModelMissing":   "the manifest of code-reviewer was taken out of the store",
		"OllamaWriterFailed":   "the scheduled check was run on that store",
	}
	began := time.Now()
	fired := map[string]alert{}
	require.Eventually(t, func() bool {
		for _, a := range alerts(t) {
			if _, seen := fired[a.Labels["alertname"]]; !seen {
				fired[a.Labels["alertname"]] = a
			}
		}
		for name := range broken {
			if _, seen := fired[name]; !seen {
				return false
			}
		}
		return true
	}, 6*time.Minute, 2*time.Second, "%v", fired)
	for name, what := range broken {
		text, err := json.Marshal(fired[name])
		require.NoError(t, err)
		t.Logf("%s\n  broken: %s\n  %s", name, what, text)
	}
	t.Logf("all four fired after %.0f s", time.Since(began).Seconds())

	began = time.Now()
	require.NoError(t, os.Rename(volume+"/code-reviewer.away", manifests[0]))
	kubectl(t, "scale", "-n", "ollama", "deployment/ollama-embed", "--replicas=1")
	kubectl(t, "delete", "job", "-n", "ollama", "models-writer-check-now")
	for _, model := range []string{"tiny", "tiny-endless", "code-reviewer"} {
		unload := fmt.Sprintf(`{"model":%q,"keep_alive":0}`, model)
		askAt(t, server(t), "POST", "/api/generate", "", unload)
	}
	var left []alert
	require.Eventually(t, func() bool {
		left = alerts(t)
		return !slices.ContainsFunc(left, func(a alert) bool { return broken[a.Labels["alertname"]] != "" })
	}, 4*time.Minute, 2*time.Second, "%v", left)
	t.Logf("all four alerts ended %.0f s after the repair", time.Since(began).Seconds())
}
