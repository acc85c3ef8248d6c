package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ollama-k8s/internal/registryread"
)

// registry imitates one, with its blobs on another host.
type registry struct {
	*httptest.Server
	blobs     map[string][]byte
	manifests map[string][]byte

	mu    sync.Mutex
	asked []string
}

func newRegistry(t *testing.T, start func(http.Handler) *httptest.Server) *registry {
	t.Helper()
	r := &registry{blobs: map[string][]byte{}, manifests: map[string][]byte{}}
	elsewhere := start(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.note("blob")
		http.ServeContent(w, request, "", time.Time{}, bytes.NewReader(r.blobs[request.URL.Path[1:]]))
	}))
	t.Cleanup(elsewhere.Close)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/library/{model}/manifests/{tag}", func(w http.ResponseWriter, request *http.Request) {
		r.note("manifest")
		text, ok := r.manifests[request.PathValue("model")+":"+request.PathValue("tag")]
		if !ok {
			http.NotFound(w, request)
			return
		}
		_, _ = w.Write(text)
	})
	mux.HandleFunc("GET /v2/library/{model}/blobs/{digest}", func(w http.ResponseWriter, request *http.Request) {
		// localhost is another host name than 127.0.0.1; the certificates of tests are for the latter only.
		http.Redirect(
			w, request,
			strings.Replace(elsewhere.URL, "http://127.0.0.1", "http://localhost", 1)+"/"+request.PathValue("digest"),
			http.StatusTemporaryRedirect,
		)
	})
	r.Server = start(mux)
	t.Cleanup(r.Close)
	return r
}

func (r *registry) note(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, what)
}

// requests since the last call.
func (r *registry) requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.asked
	r.asked = nil
	return asked
}

// host with the port, as a stack file has it.
func (r *registry) host() string { return r.URL[strings.LastIndex(r.URL, "/")+1:] }

type part struct{ mediaType, content string }

// push adds a model, in the text that Ollama pushes, and returns the digest of its manifest.
func (r *registry) push(t *testing.T, name string, parts ...part) string {
	t.Helper()
	manifest := registryread.Manifest{
		SchemaVersion: 2, MediaType: registryread.TypeManifest,
		Config: r.store("application/vnd.docker.container.image.v1+json", `{"model_family":"llama"}`),
	}
	for _, p := range parts {
		manifest.Layers = append(manifest.Layers, r.store(p.mediaType, p.content))
	}
	text, err := json.Marshal(manifest)
	require.NoError(t, err)
	r.manifests[name] = text
	return digest(text)
}

func (r *registry) store(mediaType, content string) registryread.Layer {
	layer := registryread.Layer{MediaType: mediaType, Digest: digest([]byte(content)), Size: int64(len(content))}
	r.blobs[layer.Digest] = []byte(content)
	return layer
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}
