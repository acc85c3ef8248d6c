// Package registryread reads models of a registry that Ollama could pull them from: the manifest, small parts, and the
// header of the weights.
package registryread

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	gguf "github.com/gpustack/gguf-parser-go"

	"ollama-k8s/internal/ggufread"
	"ollama-k8s/internal/modelref"
)

// What Ollama calls the parts of a model.
const (
	TypeManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	TypeWeights   = "application/vnd.ollama.image.model"
	TypeProjector = "application/vnd.ollama.image.projector"
	TypeTemplate  = "application/vnd.ollama.image.template"
)

const (
	// requestTime bounds one request, its answer's body included.
	requestTime = 2 * time.Minute
	dialTime    = 10 * time.Second
	// longestText of what is read whole: manifests and templates are a few KiB.
	longestText = 4 << 20
)

// Manifest lists the parts of a model. Fields and order are Ollama's: its digest depends on them.
type Manifest struct {
	SchemaVersion int     `json:"schemaVersion"`
	MediaType     string  `json:"mediaType"`
	Config        Layer   `json:"config"`
	Layers        []Layer `json:"layers"`
}

// Layer is a part of a model; Size is in bytes.
type Layer struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	From      string `json:"from,omitempty"`
	Name      string `json:"name,omitempty"`
}

// Layer is the last part of a type, which is the one that Ollama takes.
func (m *Manifest) Layer(mediaType string) (layer Layer, ok bool) {
	for _, l := range m.Layers {
		if l.MediaType == mediaType {
			layer, ok = l, true
		}
	}
	return layer, ok
}

// Digest is that of the manifest as Ollama stores it, the ID that `ollama list` shows. It is the registry's own where
// Ollama pushed the model.
func (m *Manifest) Digest() string {
	text, _ := json.Marshal(m) // texts and numbers always can be
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Unreachable is the error of a host that gives no answer of its own.
type Unreachable struct {
	Host string
	Err  error
}

func (e *Unreachable) Error() string { return fmt.Sprintf("%s cannot be reached: %v", e.Host, e.Err) }
func (e *Unreachable) Unwrap() error { return e.Err }

// Client asks registries. Proxies are the environment's.
type Client struct{ http *http.Client }

// New makes a client that trusts roots; nil are the system's.
func New(roots *x509.CertPool) *Client {
	return &Client{&http.Client{Timeout: requestTime, Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTime}).DialContext,
		TLSHandshakeTimeout:   dialTime,
		ResponseHeaderTimeout: requestTime,
		ForceAttemptHTTP2:     true,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}}}
}

// Model is a model of a registry.
type Model struct {
	modelref.Ref
	// Insecure asks by plain HTTP, as `ollama pull --insecure` does.
	Insecure bool
}

func (m Model) url(kind, reference string) string {
	scheme := "https"
	if m.Insecure {
		scheme = "http"
	}
	return fmt.Sprintf("%s://%s/v2/%s/%s/%s/%s", scheme, m.Host, m.Namespace, m.Model, kind, reference)
}

// Manifest reads the list of a model's parts.
func (c *Client) Manifest(ctx context.Context, m Model) (*Manifest, error) {
	text, err := c.text(ctx, m, "manifests", m.Tag)
	if err != nil {
		return nil, err
	}
	manifest := &Manifest{}
	if err := json.Unmarshal(text, manifest); err != nil {
		return nil, fmt.Errorf(
			"%s: the manifest cannot be read (%w): name a registry of Ollama models", m.url("manifests", m.Tag), err,
		)
	}
	return manifest, nil
}

// Text reads a small part, a template for instance.
func (c *Client) Text(ctx context.Context, m Model, layer Layer) ([]byte, error) {
	text, err := c.text(ctx, m, "blobs", layer.Digest)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(text); "sha256:"+hex.EncodeToString(sum[:]) != layer.Digest {
		return nil, fmt.Errorf(
			"%s: the content has another digest: the registry, or a proxy before it, changed it", m.url("blobs", layer.Digest),
		)
	}
	return text, nil
}

func (c *Client) text(ctx context.Context, m Model, kind, reference string) ([]byte, error) {
	url := m.url(kind, reference)
	answer, err := c.get(ctx, url, func(r *http.Request) { r.Header.Set("Accept", TypeManifest) })
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, longestText+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if len(text) > longestText {
		return nil, fmt.Errorf("%s: more than %d bytes: name a registry of Ollama models", url, longestText)
	}
	return text, nil
}

// Header reads the GGUF header at the front of a model's weights.
func (c *Client) Header(ctx context.Context, m Model, weights Layer) (*gguf.GGUFFile, error) {
	url := m.url("blobs", weights.Digest)
	file, err := ggufread.Fetch(weights.Size, func(from, to int64) ([]byte, error) {
		answer, err := c.get(
			ctx, url, func(r *http.Request) { r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1)) },
		)
		if err != nil {
			return nil, err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusPartialContent { // a server that knows no ranges sends all, from the front
			if _, err := io.CopyN(io.Discard, answer.Body, from); err != nil {
				return nil, err
			}
		}
		part := make([]byte, to-from)
		_, err = io.ReadFull(answer.Body, part)
		return part, err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	return file, nil
}

// get follows redirects. Its errors say what to do.
func (c *Client) get(ctx context.Context, url string, set func(*http.Request)) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	// The public registry refuses clients that do not name themselves so.
	request.Header.Set("User-Agent", gguf.OllamaUserAgent())
	set(request)
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, explain(request, err)
	}
	host := answer.Request.URL.Host // after redirects
	switch code := answer.StatusCode; code {
	case http.StatusOK, http.StatusPartialContent:
		return answer, nil
	case http.StatusNotFound:
		err = fmt.Errorf("%s: there is no such model: correct its name, or push it there", url)
	case http.StatusUnauthorized, http.StatusForbidden:
		err = fmt.Errorf(
			"%s: %s asks who you are (%s), and this command has no key: ask a mirror by REGISTRY=..., or take the figures "+
				"from a file by GGUF=NAME=FILE",
			url, host, answer.Status,
		)
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		err = &Unreachable{request.URL.Host, fmt.Errorf("%s: %s", url, answer.Status)}
	default:
		err = fmt.Errorf("%s: %s: ask again, or see the registry's log", url, answer.Status)
	}
	return nil, errors.Join(err, answer.Body.Close())
}

func explain(request *http.Request, err error) error {
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate):
		return fmt.Errorf("%w: give the authority's certificate by CA=file.pem", err)
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%w: it speaks plain HTTP; set store.insecure, or write http:// before the host in REGISTRY", err)
	}
	return &Unreachable{request.URL.Host, err}
}
