package registry_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/ollama/ollama/manifest"
	"github.com/ollama/ollama/types/model"

	"ollama-k8s/local/registry"
	"ollama-k8s/local/tinymodel"
)

const manifestType = "application/vnd.docker.distribution.manifest.v2+json"

// answer is a response with its body read.
type answer struct {
	*http.Response
	body []byte
}

// ask sends a request to a server under another hostname than the one that it listens on, like a client of a Service
// with a name. It follows no redirect.
func ask(t *testing.T, server *httptest.Server, method, path string, header http.Header) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if host := header.Get("Host"); host != "" {
		req.Host = host
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	response, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response, body}
}

// tinyModels generates the models once for all tests.
var tinyModels = sync.OnceValues(registry.TinyModels)

func start(t *testing.T, blobHost string, log io.Writer) (*httptest.Server, *registry.Catalogue) {
	t.Helper()
	models, err := tinyModels()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.Handler(models, blobHost, slog.New(slog.NewTextHandler(log, nil))))
	t.Cleanup(server.Close)
	return server, models
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// weightsOf returns the weights layer of a model.
func weightsOf(t *testing.T, server *httptest.Server, model, tag string) manifest.Layer {
	t.Helper()
	var m manifest.Manifest
	if err := json.Unmarshal(ask(t, server, "GET", "/v2/library/"+model+"/manifests/"+tag, nil).body, &m); err != nil {
		t.Fatal(err)
	}
	for _, layer := range m.Layers {
		if layer.MediaType == "application/vnd.ollama.image.model" {
			return layer
		}
	}
	t.Fatalf("%s:%s has no weights", model, tag)
	return manifest.Layer{}
}

func TestEveryModelIsWholeAndItsManifestTellsTheTruth(t *testing.T) {
	server, models := start(t, "", io.Discard)
	const want = "library/tiny-embed:latest library/tiny-endless:latest library/tiny:deep library/tiny:latest " +
		"library/tiny:long library/tiny:twin library/tiny:wide"
	if got := strings.Join(models.Names(), " "); got != want {
		t.Errorf("got models %s, want %s", got, want)
	}
	for _, name := range models.Names() {
		t.Run(name, func(t *testing.T) {
			repository, tag, _ := strings.Cut(name, ":")
			response := ask(t, server, "GET", "/v2/"+repository+"/manifests/"+tag, nil)
			if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != manifestType {
				t.Fatalf("got %s of type %s", response.Status, response.Header.Get("Content-Type"))
			}
			header := response.Header.Get("Docker-Content-Digest")
			if digest := digestOf(response.body); header != digest {
				t.Errorf("the manifest has digest %s, the header says %s", digest, header)
			}
			var m manifest.Manifest
			if err := json.Unmarshal(response.body, &m); err != nil {
				t.Fatal(err)
			}
			if m.SchemaVersion != 2 || m.MediaType != manifestType {
				t.Errorf("got schema %d of type %s", m.SchemaVersion, m.MediaType)
			}
			content := map[string][]byte{}
			var digests []string
			for _, layer := range append(m.Layers, m.Config) {
				blob := ask(t, server, "GET", "/v2/"+repository+"/blobs/"+layer.Digest, nil).body
				if digest := digestOf(blob); digest != layer.Digest || int64(len(blob)) != layer.Size {
					t.Errorf("%s: got %d bytes with digest %s, want %d with %s",
						layer.MediaType, len(blob), digest, layer.Size, layer.Digest)
				}
				content[layer.MediaType] = blob
				digests = append(digests, layer.Digest)
			}
			var config model.ConfigV2
			configText := content["application/vnd.docker.container.image.v1+json"]
			if err := json.Unmarshal(configText, &config); err != nil {
				t.Fatal(err)
			}
			family := "llama"
			if strings.Contains(name, "embed") {
				family = "bert"
			}
			if config.ModelFormat != "gguf" || config.ModelFamily != family ||
				config.FileType == "" || config.ModelType == "" {
				t.Errorf("got config %+v", config)
			}
			if got, want := strings.Join(config.RootFS.DiffIDs, " "), strings.Join(digests[:len(digests)-1], " "); got != want {
				t.Errorf("the config lists layers %s, the manifest %s", got, want)
			}
			if !bytes.Contains(content["application/vnd.ollama.image.params"], []byte(`"num_thread":1`)) {
				t.Errorf("got parameters %s", content["application/vnd.ollama.image.params"])
			}
		})
	}
}

// A stack may lock these models by digest, so nobody must change them by accident.
func TestTheDigestsOfTheModelsAreStable(t *testing.T) {
	models, err := tinyModels()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"library/tiny:latest":         "sha256:97dc1caf236b036be22aa4d93aa05042d352b4a55f9b242c88371f7e88226fa6",
		"library/tiny:twin":           "sha256:86333fe6e0b1522bd32c02b4faf7e4440673a630c09ea3492bdbc9ed1a8d99e7",
		"library/tiny:deep":           "sha256:b8c8f0550ea6cc27d8adc73be859a44b54c926d1926bd035a9a512de8853dee8",
		"library/tiny-endless:latest": "sha256:82a13020fd4f837a5771720749b2791cf868fc99e4aa7233dc077d43f73a03f7",
		"library/tiny-embed:latest":   "sha256:a3b55b85cb5d90b8383bd658809d3cdcbf85c5e5cb8d4858ed48ea52a7b06815",
	} {
		if got, _ := models.Digest(name); got != want {
			t.Errorf("%s has digest %s, want %s", name, got, want)
		}
	}
}

func TestAManifestIsAlsoFoundByItsDigest(t *testing.T) {
	server, models := start(t, "", io.Discard)
	digest, _ := models.Digest("library/tiny:latest")
	byTag := ask(t, server, "GET", "/v2/library/tiny/manifests/latest", nil)
	byDigest := ask(t, server, "GET", "/v2/library/tiny/manifests/"+digest, nil)
	if byDigest.StatusCode != http.StatusOK || !bytes.Equal(byTag.body, byDigest.body) {
		t.Errorf("got %s and %s", byDigest.Status, byDigest.body)
	}
}

func TestAHeadSaysSizeAndDigestWithoutABody(t *testing.T) {
	server, _ := start(t, "", io.Discard)
	weights := weightsOf(t, server, "tiny", "latest")
	blob := ask(t, server, "HEAD", "/v2/library/tiny/blobs/"+weights.Digest, http.Header{"Host": {"registry.example"}})
	if blob.StatusCode != http.StatusOK || blob.ContentLength != weights.Size || len(blob.body) != 0 {
		t.Errorf("got %s, length %d, %d bytes; want 200, length %d, none",
			blob.Status, blob.ContentLength, len(blob.body), weights.Size)
	}
	found := ask(t, server, "HEAD", "/v2/library/tiny/manifests/latest", nil)
	if found.StatusCode != http.StatusOK || found.Header.Get("Docker-Content-Digest") == "" {
		t.Errorf("got %s, headers %v", found.Status, found.Header)
	}
}

func TestABlobComesInRanges(t *testing.T) {
	server, _ := start(t, "", io.Discard)
	weights := weightsOf(t, server, "tiny", "latest")
	part := ask(t, server, "GET", "/v2/library/tiny/blobs/"+weights.Digest, http.Header{"Range": {"bytes=0-3"}})
	if part.StatusCode != http.StatusPartialContent || string(part.body) != "GGUF" {
		t.Errorf("got %s with %q, want 206 with GGUF", part.Status, part.body)
	}
	beyond := ask(t, server, "GET", "/v2/library/tiny/blobs/"+weights.Digest, http.Header{"Range": {"bytes=999999999-"}})
	if beyond.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("got %s for a range beyond the end, want 416", beyond.Status)
	}
}

func TestABlobIsRedirectedToAnotherHostname(t *testing.T) {
	tests := map[string]struct {
		blobHost, asked, want string // with an empty want, the blob itself comes; {port} is the server's port
	}{
		"by default to the address of the connection":      {"", "registry.example:{port}", "127.0.0.1:{port}"},
		"but not if the client used that address":          {"", "127.0.0.1:{port}", ""},
		"to the given host, with the port of the request":  {"blobs.example", "registry.example:5000", "blobs.example:5000"},
		"to the given host, without a port if it has none": {"blobs.example", "registry.example", "blobs.example"},
		"to the given host and port": {
			"blobs.example:8443", "registry.example:5000", "blobs.example:8443",
		},
		"to an IPv6 address":                        {"[::1]:5000", "registry.example:5000", "[::1]:5000"},
		"but not if the client used the given host": {"blobs.example", "blobs.example:5000", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			server, _ := start(t, test.blobHost, io.Discard)
			address, err := url.Parse(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			weights := weightsOf(t, server, "tiny", "latest")
			path := "/v2/library/tiny/blobs/" + weights.Digest
			withPort := strings.NewReplacer("{port}", address.Port())
			got := ask(t, server, "GET", path, http.Header{"Host": {withPort.Replace(test.asked)}})
			if test.want == "" {
				if got.StatusCode != http.StatusOK || digestOf(got.body) != weights.Digest {
					t.Errorf("got %s and %d bytes, want the blob", got.Status, len(got.body))
				}
				return
			}
			want := "http://" + withPort.Replace(test.want) + path
			if got.StatusCode != http.StatusTemporaryRedirect || got.Header.Get("Location") != want {
				t.Errorf("got %s to %q, want 307 to %q", got.Status, got.Header.Get("Location"), want)
			}
		})
	}
}

func TestTheOtherRoutesAnswer(t *testing.T) {
	server, _ := start(t, "", io.Discard)
	tests := map[string]struct {
		method, path string
		status       int
		body         string
	}{
		"it is healthy":       {"GET", "/healthz", 200, "ok\n"},
		"it speaks version 2": {"GET", "/v2/", 200, "{}\n"},
		"it lists tags": {"GET", "/v2/library/tiny/tags/list", 200,
			`{"name":"library/tiny","tags":["deep","latest","long","twin","wide"]}` + "\n"},
		"an unknown repository":                 {"GET", "/v2/library/huge/manifests/latest", 404, `"NAME_UNKNOWN"`},
		"an unknown namespace":                  {"GET", "/v2/acme/tiny/manifests/latest", 404, `"NAME_UNKNOWN"`},
		"an unknown tag":                        {"GET", "/v2/library/tiny/manifests/70b", 404, `"MANIFEST_UNKNOWN"`},
		"a digest that is a layer's":            {"GET", "/v2/library/tiny/manifests/sha256:00", 404, `"MANIFEST_UNKNOWN"`},
		"an unknown blob":                       {"GET", "/v2/library/tiny/blobs/sha256:00", 404, `"BLOB_UNKNOWN"`},
		"a blob of an unknown repository":       {"GET", "/v2/library/huge/blobs/sha256:00", 404, `"NAME_UNKNOWN"`},
		"tags of an unknown repository":         {"GET", "/v2/library/huge/tags/list", 404, `"NAME_UNKNOWN"`},
		"a path within no repository":           {"GET", "/v2/library/tiny", 404, `"NOT_FOUND"`},
		"a path outside the protocol":           {"GET", "/", 404, `"NOT_FOUND"`},
		"an upload is refused":                  {"POST", "/v2/library/tiny/blobs/uploads/", 405, `"UNSUPPORTED"`},
		"a push of a manifest is refused":       {"PUT", "/v2/library/tiny/manifests/latest", 405, `"UNSUPPORTED"`},
		"a deletion is refused":                 {"DELETE", "/v2/library/tiny/manifests/latest", 405, `"UNSUPPORTED"`},
		"a post to the probe's path is refused": {"POST", "/healthz", 405, `"UNSUPPORTED"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := ask(t, server, test.method, test.path, nil)
			if got.StatusCode != test.status || !strings.Contains(string(got.body), test.body) {
				t.Errorf("got %s with %s, want %d with %s", got.Status, got.body, test.status, test.body)
			}
			if test.status < 400 {
				return
			}
			var problem struct {
				Errors []struct{ Code, Message string }
			}
			err := json.Unmarshal(got.body, &problem)
			if err != nil || len(problem.Errors) != 1 || problem.Errors[0].Message == "" {
				t.Errorf("%s does not have the format of a registry's error (%v)", got.body, err)
			}
		})
	}
}

func TestARequestIsOneLineInTheLogAndAProbeNone(t *testing.T) {
	var log bytes.Buffer
	server, _ := start(t, "", &log)
	ask(t, server, "GET", "/healthz", nil)
	ask(t, server, "GET", "/v2/library/huge/manifests/latest", nil)
	blob := "/v2/library/tiny/blobs/" + weightsOf(t, server, "tiny", "latest").Digest
	ask(t, server, "GET", blob, http.Header{"Range": {"bytes=0-3"}})
	server.Close() // waits for the handlers, and so for the log
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("got %d lines, want 3:\n%s", len(lines), log.String())
	}
	for i, want := range []string{
		`path=/v2/library/huge/manifests/latest range="" status=404`,
		`path=/v2/library/tiny/manifests/latest range="" status=200`,
		`range="bytes=0-3" status=206 bytes=4`,
	} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %d is %s, want %s", i, lines[i], want)
		}
	}
}

func TestAModelThatCannotBeServedIsRefused(t *testing.T) {
	weights, err := tinymodel.Bert(tinymodel.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		name    string
		weights []byte
		want    string
	}{
		"a name without a tag":          {"library/tiny", weights, "namespace/model:tag"},
		"a name without a namespace":    {"tiny:latest", weights, "namespace/model:tag"},
		"a name with a host":            {"localhost/library/tiny:latest", weights, "namespace/model:tag"},
		"weights that are no GGUF file": {"library/tiny:latest", []byte("no model"), "the weights are not a GGUF file"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := new(registry.Catalogue).Add(test.name, registry.Model{Weights: test.weights})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one that says %q", err, test.want)
			}
		})
	}
}
