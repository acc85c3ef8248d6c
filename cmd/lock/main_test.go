package main

import (
	"bytes"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/internal/ggufread/gguftest"
	"ollama-k8s/internal/lockfile"
	"ollama-k8s/internal/registryread"
)

var weights = part{registryread.TypeWeights, string(gguftest.Llama(nil))}

// project is an empty folder, in which the test then is, with a stack file for each text by its stack's name.
func project(t *testing.T, stackConfigs map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for stack, config := range stackConfigs {
		require.NoError(t, os.WriteFile("Pulumi."+stack+".yaml", []byte("config:\n"+config), 0o600))
	}
}

func from(r *registry, models string) string {
	return "  ollama-k8s:store: {registry: " +
		"\"" + r.host() + "/library\", insecure: true}\n  ollama-k8s:models: " + models + "\n"
}

// lock runs the command.
func lock(t *testing.T, args ...string) (progress string, err error) {
	t.Helper()
	var out bytes.Buffer
	err = run(t.Context(), args, &out)
	return out.String(), err
}

func written(t *testing.T) *lockfile.Lock {
	t.Helper()
	l, err := lockfile.Read(os.DirFS("."))
	require.NoError(t, err)
	return l
}

func TestEveryModelThatAStackPullsIsLockedOnce(t *testing.T) {
	r := newRegistry(t, httptest.NewServer)
	tiny := r.push(t, "tiny:latest", weights, part{registryread.TypeTemplate, "{{ if .Tools }}{{ end }}{{ .Prompt }}"})
	r.push(t, "seeing:7b", weights, part{registryread.TypeProjector, strings.Repeat("p", 1000)})
	project(t, map[string]string{
		"a": from(r, "[{name: tiny}, {name: reviewer, modelfile: none.Modelfile}]"),
		"b": from(r, "[{name: 'tiny:latest'}, {name: 'seeing:7b'}]"),
	})
	progress, err := lock(t)
	require.NoError(t, err)
	assert.Contains(t, progress, "[1/2] seeing:7b  "+r.host()+"  new sha256:")
	assert.Contains(t, progress, "[2/2] tiny:latest  "+r.host()+"  new "+tiny+", llama 2 layers, 0.3 MiB\n")
	models := written(t).Models
	require.Len(t, models, 2)
	assert.Equal(t, tiny, models["tiny:latest"].Digest)
	assert.Equal(t, []string{"completion", "tools"}, models["tiny:latest"].Capabilities)
	assert.Equal(t, []string{"completion", "vision"}, models["seeing:7b"].Capabilities)
	assert.Equal(t, models["tiny:latest"].Bytes+1000, models["seeing:7b"].Bytes)
	assert.Equal(t, int64(256), models["tiny:latest"].KVPerToken)
}

func TestOnlyTheNamedStackIsRead(t *testing.T) {
	r := newRegistry(t, httptest.NewServer)
	r.push(t, "tiny:latest", weights)
	project(t, map[string]string{"a": from(r, "[{name: tiny}]"), "b": "  ollama-k8s:models: no list\n"})
	_, err := lock(t, "-stack", "a")
	require.NoError(t, err)
	_, err = lock(t, "-stack", "a", "-stack", "b")
	require.ErrorContains(t, err, "Pulumi.b.yaml: models")
	_, err = lock(t, "-config", "Pulumi.a.yaml", "-check")
	require.NoError(t, err)
}

func TestAnUnchangedModelCostsOneRequestAndKeepsItsEntry(t *testing.T) {
	r := newRegistry(t, httptest.NewServer)
	r.push(t, "tiny:latest", weights)
	project(t, map[string]string{"a": from(r, "[{name: tiny}]")})
	_, err := lock(t)
	require.NoError(t, err)
	l := written(t)
	entry := l.Models["tiny:latest"]
	entry.Graph++ // by hand
	l.Models["tiny:latest"] = entry
	_, err = l.Write(lockfile.Name)
	require.NoError(t, err)
	r.requests()

	progress, err := lock(t)
	require.NoError(t, err)
	assert.Contains(t, progress, "unchanged\n"+lockfile.Name+": unchanged\n")
	assert.Equal(t, []string{"manifest"}, r.requests())
	assert.Equal(t, l, written(t))
}

func TestAChangedTagIsTakenOverAndTheOtherEntriesStay(t *testing.T) {
	r := newRegistry(t, httptest.NewServer)
	old := r.push(t, "tiny:latest", weights)
	r.push(t, "other:latest", weights)
	project(t, map[string]string{"a": from(r, "[{name: tiny}, {name: other}]")})
	_, err := lock(t)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile("Pulumi.a.yaml", []byte("config:\n"+from(r, "[{name: tiny}]")), 0o600))
	fresh := r.push(t, "tiny:latest", part{registryread.TypeWeights, string(gguftest.Llama(
		gguftest.Values{"llama.context_length": uint32(4096)},
	))})

	progress, err := lock(t)
	require.NoError(t, err)
	assert.Contains(t, progress, "changed from "+old+" to "+fresh)
	models := written(t).Models
	assert.Equal(t, fresh, models["tiny:latest"].Digest)
	assert.Equal(t, 4096, models["tiny:latest"].Context)
	assert.Contains(t, models, "other:latest")
}

func TestCheckTellsEveryDifferenceAndWritesNothing(t *testing.T) {
	r := newRegistry(t, httptest.NewServer)
	old := r.push(t, "moved:latest", weights)
	r.push(t, "same:latest", weights)
	r.push(t, "bare:latest", weights)
	project(t, map[string]string{"a": from(r, "[{name: moved}, {name: same}, {name: bare}]")})
	_, err := lock(t)
	require.NoError(t, err)
	_, err = lock(t, "-check")
	require.NoError(t, err, "nothing has changed yet")

	l := written(t)
	entry := l.Models["bare:latest"]
	entry.Digest = ""
	l.Models["bare:latest"] = entry
	_, err = l.Write(lockfile.Name)
	require.NoError(t, err)
	before, err := os.ReadFile(lockfile.Name)
	require.NoError(t, err)
	fresh := r.push(t, "moved:latest", weights, part{registryread.TypeTemplate, "{{ .Prompt }}"})
	r.push(t, "added:latest", weights)
	require.NoError(t, os.WriteFile("Pulumi.b.yaml", []byte("config:\n"+from(r, "[{name: added}]")), 0o600))

	progress, err := lock(t, "-check")
	require.ErrorContains(t, err, "3 of 4 models failed:")
	assert.ErrorContains(t, err, "\n  moved:latest: models.lock.yaml has "+old+", but the registry has "+fresh)
	assert.ErrorContains(t, err, "\n  added:latest: models.lock.yaml has no entry")
	assert.ErrorContains(t, err, "\n  bare:latest: models.lock.yaml has no digest")
	assert.Contains(t, progress, "same:latest  "+r.host()+"  unchanged\n")
	after, err := os.ReadFile(lockfile.Name)
	require.NoError(t, err)
	assert.Equal(t, string(before), string(after))
}

func TestCheckMakesNoLockWhereThereIsNone(t *testing.T) {
	r := newRegistry(t, httptest.NewServer)
	r.push(t, "tiny:latest", weights)
	project(t, map[string]string{"a": from(r, "[{name: tiny}]")})
	_, err := lock(t, "-check")
	require.ErrorContains(t, err, "tiny:latest: models.lock.yaml has no entry")
	assert.NoFileExists(t, lockfile.Name)
}

func TestADigestIsThatOfTheManifestAsOllamaStoresIt(t *testing.T) {
	r := newRegistry(t, httptest.NewServer)
	want := r.push(t, "tiny:latest", weights)
	// Another registry's spacing, and a key that Ollama drops.
	r.manifests["tiny:latest"] = bytes.Replace(
		bytes.ReplaceAll(r.manifests["tiny:latest"], []byte(`,"`), []byte(",\n \"")), []byte("{"),
		[]byte(`{"annotations": {}, `), 1,
	)
	project(t, map[string]string{"a": from(r, "[{name: tiny}]")})
	_, err := lock(t)
	require.NoError(t, err)
	assert.Equal(t, want, written(t).Models["tiny:latest"].Digest)
}

func TestAllModelsAreTriedAndTheFailuresListed(t *testing.T) {
	r := newRegistry(t, httptest.NewServer)
	r.push(t, "tiny:latest", weights)
	r.push(t, "cloud:latest")
	r.push(t, "page:latest", part{registryread.TypeWeights, "<html>a portal's page</html>"})
	project(t, map[string]string{"a": from(r, "[{name: absent}, {name: cloud}, {name: page}, {name: tiny}]")})
	progress, err := lock(t)
	require.ErrorContains(t, err, "3 of 4 models failed:")
	assert.ErrorContains(t, err, "absent:latest: "+r.URL+"/v2/library/absent/manifests/latest: the model does not exist")
	assert.ErrorContains(t, err, "cloud:latest: the model has no weights")
	assert.ErrorContains(t, err, "page:latest: ")
	assert.ErrorContains(t, err, "not a readable GGUF file")
	assert.Contains(t, progress, "[1/4] absent:latest  "+r.host()+"  failed\n")
	assert.Len(t, written(t).Models, 1, "what could be read is written")
}

func TestARegistryThatAsksForAKeyIsSaid(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(
		w http.ResponseWriter, _ *http.Request,
	) {
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer server.Close()
	project(t, map[string]string{"a": "  ollama-k8s:models: [{name: tiny}]\n"})
	_, err := lock(t, "-registry", server.URL+"/library")
	require.ErrorContains(t, err, "401 Unauthorized")
	assert.ErrorContains(t, err, "GGUF=NAME=FILE")
}

// closed is an address at which nobody listens.
func closed(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return listener.Addr().String()
}

func TestAnEntryIsKeptWhereItsRegistryIsInsideACluster(t *testing.T) {
	r := newRegistry(t, httptest.NewServer)
	r.push(t, "tiny:latest", weights)
	// .invalid never resolves.
	project(t, map[string]string{
		"a": "  ollama-k8s:store: {registry: \"registry.models.svc.invalid:5000/library\", insecure: true}\n  " +
			"ollama-k8s:models: [{name: tiny}]\n",
	})
	_, err := lock(t)
	require.ErrorContains(
		t, err, "forward a port and pass REGISTRY=http://localhost:5000/library", "there is no entry to keep",
	)
	_, err = lock(t, "-registry", r.URL+"/library")
	require.NoError(t, err)
	before := written(t)

	progress, err := lock(t)
	require.NoError(t, err)
	assert.Contains(
		t, progress,
		"kept: registry.models.svc.invalid:5000 is inside a cluster: forward a port and pass "+
			"REGISTRY=http://localhost:5000/library\n",
	)
	assert.Equal(t, before, written(t))
	_, err = lock(t, "-check")
	require.ErrorContains(t, err, "tiny:latest: could not be checked")
}

func TestAnUnreachableRegistryElsewhereIsAFailure(t *testing.T) {
	address := closed(t)
	project(t, map[string]string{"a": "  ollama-k8s:models: [{name: tiny}]\n"})
	_, err := lock(t, "-registry", "http://"+address+"/library")
	require.ErrorContains(t, err, "tiny:latest: "+address+" cannot be reached")
}

func TestAPrivateAuthorityIsTrustedWhenItIsGiven(t *testing.T) {
	r := newRegistry(t, httptest.NewTLSServer)
	r.push(t, "tiny:latest", weights)
	config := strings.Replace(from(r, "[{name: tiny}]"), ", insecure: true", "", 1)
	project(t, map[string]string{"a": config})
	_, err := lock(t)
	require.ErrorContains(t, err, "CA=file.pem")

	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	require.NoError(t, os.WriteFile("ca.pem", ca, 0o600))
	_, err = lock(t, "-ca", "ca.pem")
	require.NoError(t, err)
	assert.Contains(t, written(t).Models, "tiny:latest")

	require.NoError(t, os.WriteFile("ca.pem", []byte("no certificate"), 0o600))
	_, err = lock(t, "-ca", "ca.pem")
	require.ErrorContains(t, err, "-----BEGIN CERTIFICATE-----")
}

func TestAPlainRegistryAskedByHTTPSSaysSo(t *testing.T) {
	r := newRegistry(t, httptest.NewServer)
	project(t, map[string]string{"a": "  ollama-k8s:models: [{name: tiny}]\n"})
	_, err := lock(t, "-registry", r.host()+"/library")
	require.ErrorContains(t, err, "write http:// before the host")
}

func TestFiguresCanComeFromAFile(t *testing.T) {
	project(t, map[string]string{"a": "  ollama-k8s:models: [{name: tiny}]\n"})
	require.NoError(t, os.Mkdir("files", 0o700))
	require.NoError(t, os.WriteFile("files/tiny.gguf", []byte(weights.content), 0o600))
	progress, err := lock(t, "-gguf", "tiny=files/tiny.gguf")
	require.NoError(t, err)
	assert.Contains(t, progress, "[1/1] tiny:latest  files/tiny.gguf  new, no digest, llama 2 layers")
	entry := written(t).Models["tiny:latest"]
	assert.Empty(t, entry.Digest)
	assert.Equal(t, "file tiny.gguf", entry.Source)
	_, err = lock(t, "-check", "-gguf", "tiny=files/tiny.gguf")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile("files/tiny.gguf", gguftest.Llama(gguftest.Values{
		"llama.context_length": uint32(4096),
	}), 0o600))
	_, err = lock(t, "-check", "-gguf", "tiny=files/tiny.gguf")
	require.ErrorContains(t, err, "figures other than files/tiny.gguf")
}

func TestWrongFlagsAreRefusedWithTheRemedy(t *testing.T) {
	project(t, map[string]string{"a": "  ollama-k8s:models: [{name: 'a/b/c/d'}]\n"})
	for args, part := range map[string]string{
		"tiny":                                "takes only flags",
		"-stack a -stack b -config c":         "pass one -stack or none",
		"-gguf tiny":                          "use NAME=FILE",
		"-registry localhost":                 "HOST[:PORT]/NAMESPACE",
		"-registry http://localhost:5000/a/b": "HOST[:PORT]/NAMESPACE",
		"-stack none":                         "Pulumi.none.yaml",
		"-stack a":                            "Pulumi.a.yaml: models[0].name",
		"-ca none.pem -config Pulumi.a.yaml":  "models[0].name",
		"-ca none.pem -config empty.yaml":     "none.pem",
	} {
		require.NoError(t, os.WriteFile("empty.yaml", []byte("config:\n  a:b: c\n"), 0o600))
		_, err := lock(t, strings.Fields(args)...)
		require.ErrorContains(t, err, part, args)
	}
	assert.NoFileExists(t, lockfile.Name)
	require.NoError(t, os.Remove("Pulumi.a.yaml"))
	_, err := lock(t)
	require.ErrorContains(t, err, "no Pulumi.*.yaml in this folder")
}
