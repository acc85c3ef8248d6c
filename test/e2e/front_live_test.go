//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/internal/testcert"
)

// These steps change things under a running front: its certificate, externally managed keys, and DNS.

// clientFor returns a client that can reach an endpoint of these tests: one with a certificate of the tests, or a
// front's inner port, where a front sends the client's address before the request.
func clientFor(endpoint string) *http.Client {
	switch {
	case strings.HasPrefix(endpoint, "https:"):
		return ownCertificate
	case strings.HasSuffix(endpoint, ":8082"):
		return ofAFront
	}
	return http.DefaultClient
}

var (
	ownCertificate = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	ofAFront = &http.Client{Transport: &http.Transport{DialContext: dialProxied}}
)

func dialProxied(ctx context.Context, network, address string) (net.Conn, error) {
	connection, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &proxied{Conn: connection}, nil
}

// proxied is a connection that first sends where it comes from, like a front's, in one packet with the request.
type proxied struct {
	net.Conn
	told bool
}

func (p *proxied) Write(text []byte) (int, error) {
	if p.told {
		return p.Conn.Write(text)
	}
	p.told = true
	header := "PROXY UNKNOWN\r\n"
	written, err := p.Conn.Write(append([]byte(header), text...))
	return max(written-len(header), 0), err
}

// applySecret creates or changes a Secret in the stack's namespace.
func applySecret(t *testing.T, name string, files map[string]string) {
	t.Helper()
	// Not the test's own folder: its name may contain a comma, at which kubectl splits.
	folder := filepath.Join(os.TempDir(), "ollama-k8s-secret-"+name)
	require.NoError(t, os.MkdirAll(folder, 0o700))
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	for file, text := range files {
		require.NoError(t, os.WriteFile(filepath.Join(folder, file), []byte(text), 0o600))
	}
	manifest := kubectl(t, "create", "secret", "generic", "-n", "ollama", name,
		"--from-file="+folder, "--dry-run=client", "-o", "yaml")
	file := filepath.Join(os.TempDir(), "ollama-k8s-secret-"+name+".yaml")
	require.NoError(t, os.WriteFile(file, []byte(manifest), 0o600))
	t.Cleanup(func() { _ = os.Remove(file) })
	kubectl(t, "apply", "-f", file)
}

func ownKeys(key string) map[string]string {
	return map[string]string{"keys.map": fmt.Sprintf("%x batch\n", sha256.Sum256([]byte(key)))}
}

func certificate(t *testing.T) map[string]string {
	crt, key := testcert.New(t)
	return map[string]string{"tls.crt": crt, "tls.key": key}
}

// fronts lists the front's pods with everything that a restart would change. It leaves out the pods of the previous
// rollout, which may still finish their streams.
func fronts(t *testing.T) (staying []string) {
	t.Helper()
	out := kubectl(t, "get", "pods", "-n", "ollama", "-l", "app.kubernetes.io/component=auth-front", "-o",
		"jsonpath={range .items[*]}{.metadata.uid} {range .status.containerStatuses[*]}{.restartCount} {end}"+
			`{.metadata.deletionTimestamp}{"\n"}{end}`)
	for _, line := range strings.Split(out, "\n") {
		if line != "" && !strings.HasSuffix(line, "Z") {
			staying = append(staying, line)
		}
	}
	return staying
}

// renewed changes the certificate and the externally managed keys under 20 streams.
func renewed(t *testing.T) {
	applySecret(t, "front-tls", certificate(t))
	applySecret(t, "team-keys", ownKeys("the-first-key-of-batch"))
	text, err := os.ReadFile(manyStreams(t, "{}"))
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "Pulumi.local.yaml")
	changed := strings.Replace(string(text), "{replicas: 2}",
		"{replicas: 2, tlsSecret: front-tls, keysSecret: team-keys}", 1)
	require.NotEqual(t, string(text), changed)
	require.NoError(t, os.WriteFile(file, []byte(changed), 0o600))
	mustUp(t, "--ask=false", "--config", file)
	kubectl(t, "rollout", "status", "-n", "ollama", "deployment/front", "--timeout=180s")
	endpoint := assignments(t, "outputs")["ENDPOINT"]
	require.True(t, strings.HasPrefix(endpoint, "https://"), endpoint)
	status := func(key string) int {
		request, err := http.NewRequestWithContext(t.Context(), "GET", endpoint+"/v1/models", nil)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+key)
		request.Close = true
		response, err := ownCertificate.Do(request)
		require.NoError(t, err)
		response.Body.Close()
		return response.StatusCode
	}
	works := func() bool { return status("the-first-key-of-batch") == 200 }
	require.Eventually(t, works, time.Minute, 500*time.Millisecond)
	shown := func(address string) []byte {
		config := ownCertificate.Transport.(*http.Transport).TLSClientConfig
		connection, err := tls.Dial("tcp", address+":8080", config)
		require.NoError(t, err)
		defer connection.Close()
		return connection.ConnectionState().PeerCertificates[0].Raw
	}
	pods, before := addresses(t, "app.kubernetes.io/component=auth-front"), fronts(t)
	require.Len(t, pods, 2)
	former := shown(pods[0])
	stop := streaming(t, endpoint, assignments(t, "outputs")["KEY_IDE"])
	began := time.Now()
	applySecret(t, "front-tls", certificate(t))
	applySecret(t, "team-keys", ownKeys("the-second-key-of-batch"))
	for _, pod := range pods { // the kubelet renews mounted Secrets within a minute or so
		renewed := func() bool { return !bytes.Equal(shown(pod), former) }
		require.Eventually(t, renewed, 3*time.Minute, time.Second, "the certificate at %s", pod)
	}
	t.Logf("both fronts show the renewed certificate after %.0f s", time.Since(began).Seconds())
	require.Eventually(t, func() bool {
		return status("the-second-key-of-batch") == 200 && status("the-first-key-of-batch") == 401
	}, 2*time.Minute, time.Second, "the externally managed keys")
	t.Logf("the new key works and the old one does not after %.0f s", time.Since(began).Seconds())
	streams, failures := stop()
	t.Logf("%d streams, %d cut or failed", streams, len(failures))
	assert.Greater(t, streams, 20)
	assert.Empty(t, failures)
	assert.Equal(t, before, fronts(t), "no front restarted")
}

// withoutDNS stops the cluster's DNS for a while. All streams must continue, and every request must be answered.
func withoutDNS(away time.Duration) func(*testing.T) {
	return func(t *testing.T) {
		require.Eventually(t, func() bool { return len(loaded(t)) == 2 }, 2*time.Minute, time.Second)
		awaitServers(t, 2)
		outputs := assignments(t, "outputs")
		kubectl(t, "scale", "-n", "kube-system", "deployment/coredns", "--replicas=0")
		defer func() {
			kubectl(t, "scale", "-n", "kube-system", "deployment/coredns", "--replicas=1")
			kubectl(t, "rollout", "status", "-n", "kube-system", "deployment/coredns", "--timeout=120s")
		}()
		kubectl(t, "wait", "-n", "kube-system", "--for=delete", "pod", "-l", "k8s-app=kube-dns", "--timeout=120s")
		stopStreams := streaming(t, outputs["ENDPOINT"], outputs["KEY_IDE"])
		stopAsking := asking(t, outputs["KEY_BATCH"])
		time.Sleep(away) // the experiment
		requests, refused := stopAsking()
		streams, cut := stopStreams()
		t.Logf("%v without DNS: %d streams, %d cut; %d requests, %d failed", away, streams, len(cut), requests, len(refused))
		assert.Greater(t, requests, 10)
		assert.Empty(t, cut)
		assert.Empty(t, refused)
	}
}
