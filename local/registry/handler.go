package registry

import (
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Handler serves a catalogue, pull only.
//
// It redirects a GET for a blob to blobHost, another host or host:port of this handler; the default port is that of the
// request. An empty blobHost means the IP address on which the request arrived, which this client can reach. Requests
// to blobHost itself get the bytes.
//
// It logs one line for each request, except for /healthz.
func Handler(c *Catalogue, blobHost string, log *slog.Logger) http.Handler {
	r := &routes{catalogue: c, blobHost: blobHost}
	v2 := http.NewServeMux()
	v2.HandleFunc("GET /v2/{$}", r.version)
	v2.HandleFunc("GET /v2/{namespace}/{model}/manifests/{reference}", r.manifest)
	v2.HandleFunc("GET /v2/{namespace}/{model}/blobs/{digest}", r.blob)
	v2.HandleFunc("GET /v2/{namespace}/{model}/tags/list", r.tags)
	v2.HandleFunc("/", r.elsewhere)

	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", healthy)
	mux.Handle("/", logged(log, v2))
	return mux
}

type routes struct {
	catalogue *Catalogue
	blobHost  string
}

// healthy stays out of the log: a probe every few seconds would bury the pulls.
func healthy(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n")) // fails only if the client has gone
}

func (r *routes) version(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, struct{}{})
}

func (r *routes) manifest(w http.ResponseWriter, req *http.Request) {
	repository, ok := r.repository(w, req)
	if !ok {
		return
	}
	reference := req.PathValue("reference")
	digest, ok := r.catalogue.Digest(repository + ":" + reference)
	if !ok && r.catalogue.isManifest(repository, reference) {
		digest, ok = reference, true
	}
	if !ok {
		writeError(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "no model "+repository+":"+reference)
		return
	}
	r.serve(w, req, mediaTypeManifest, digest)
}

func (r *routes) blob(w http.ResponseWriter, req *http.Request) {
	repository, ok := r.repository(w, req)
	if !ok {
		return
	}
	digest := req.PathValue("digest")
	if _, ok := r.catalogue.blobs[digest]; !ok {
		writeError(w, http.StatusNotFound, "BLOB_UNKNOWN", "no blob "+digest+" in "+repository)
		return
	}
	// Only a GET is redirected: Ollama reads the size from the answer to a HEAD.
	if target := r.blobTarget(req); req.Method == http.MethodGet && target != "" {
		location := url.URL{Scheme: "http", Host: target, Path: req.URL.Path}
		http.Redirect(w, req, location.String(), http.StatusTemporaryRedirect)
		return
	}
	r.serve(w, req, "application/octet-stream", digest)
}

func (r *routes) tags(w http.ResponseWriter, req *http.Request) {
	repository, ok := r.repository(w, req)
	if !ok {
		return
	}
	writeJSON(w, http.StatusOK, struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{repository, r.catalogue.tags(repository)})
}

// elsewhere refuses writes, and paths that the protocol does not have.
func (r *routes) elsewhere(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		writeError(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry serves pulls only")
		return
	}
	writeError(w, http.StatusNotFound, "NOT_FOUND", "no such path: "+req.URL.Path)
}

// repository returns the repository that the request names. If there is none, it writes the answer and returns false.
func (r *routes) repository(w http.ResponseWriter, req *http.Request) (name string, ok bool) {
	name = req.PathValue("namespace") + "/" + req.PathValue("model")
	if len(r.catalogue.tags(name)) == 0 {
		writeError(w, http.StatusNotFound, "NAME_UNKNOWN", "no repository "+name)
		return "", false
	}
	return name, true
}

// serve answers with a blob, or with the range that the request asks for.
func (r *routes) serve(w http.ResponseWriter, req *http.Request, contentType, digest string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("ETag", `"`+digest+`"`)
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(r.catalogue.blobs[digest]))
}

// blobTarget returns the host to redirect a blob to, or "" if the client already used it.
func (r *routes) blobTarget(req *http.Request) string {
	asked, port := splitHost(req.Host)
	target, targetPort := splitHost(r.blobHost)
	if target == "" {
		local, ok := req.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if !ok {
			return ""
		}
		target, targetPort = splitHost(local.String())
	}
	if asked == target {
		return ""
	}
	if targetPort == "" {
		targetPort = port
	}
	if targetPort == "" {
		return target
	}
	return net.JoinHostPort(target, targetPort)
}

// splitHost is net.SplitHostPort for addresses that may have no port.
func splitHost(address string) (host, port string) {
	if host, port, err := net.SplitHostPort(address); err == nil {
		return host, port
	}
	return address, ""
}
