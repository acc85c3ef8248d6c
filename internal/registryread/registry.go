// Package registryread reads Ollama models from a registry: the manifest, small layers, and the header of the weights.
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

// Media types of a manifest and of a model's layers.
const (
	TypeManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	TypeWeights   = "application/vnd.ollama.image.model"
	TypeProjector = "application/vnd.ollama.image.projector"
	TypeTemplate  = "application/vnd.ollama.image.template"
)

const (
	// requestTime bounds one request, including its response body.
	requestTime = 2 * time.Minute
	dialTime    = 10 * time.Second
	// longestText is the largest manifest or template in bytes. They are usually a few KiB.
	longestText = 4 << 20
)

// Manifest lists the layers of a model. The fields and their order are Ollama's, because the digest depends on them.
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

// Layer returns the last layer of a media type, which is the one that Ollama uses.
func (m *Manifest) Layer(mediaType string) (layer Layer, ok bool) {
	for _, l := range m.Layers {
		if l.MediaType == mediaType {
			layer, ok = l, true
		}
	}
	return layer, ok
}

// Digest returns the digest of the manifest as Ollama stores it: the ID that `ollama list` shows. It is the registry's
// digest too if Ollama pushed the model.
func (m *Manifest) Digest() string {
	text, _ := json.Marshal(m) // marshaling strings and numbers cannot fail
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Unreachable is the error for a host that does not answer, or for which only a gateway answers.
type Unreachable struct {
	Host string
	Err  error
}

func (e *Unreachable) Error() string { return fmt.Sprintf("%s cannot be reached: %v", e.Host, e.Err) }
func (e *Unreachable) Unwrap() error { return e.Err }

// Client reads from registries. It takes proxies from the environment.
type Client struct{ http *http.Client }

// New makes a client that trusts roots. nil means the system's roots.
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

// Model names a model in a registry.
type Model struct {
	modelref.Ref
	// Insecure uses plain HTTP, as `ollama pull --insecure` does.
	Insecure bool
}

func (m Model) url(kind, reference string) string {
	scheme := "https"
	if m.Insecure {
		scheme = "http"
	}
	return fmt.Sprintf("%s://%s/v2/%s/%s/%s/%s", scheme, m.Host, m.Namespace, m.Model, kind, reference)
}

// Manifest reads a model's manifest.
func (c *Client) Manifest(ctx context.Context, m Model) (*Manifest, error) {
	text, err := c.text(ctx, m, "manifests", m.Tag)
	if err != nil {
		return nil, err
	}
	manifest := &Manifest{}
	if err := json.Unmarshal(text, manifest); err != nil {
		return nil, fmt.Errorf(
			"%s: the manifest cannot be parsed (%w): use a registry of Ollama models", m.url("manifests", m.Tag), err,
		)
	}
	return manifest, nil
}

// Text reads a small layer, such as a template, and verifies its digest.
func (c *Client) Text(ctx context.Context, m Model, layer Layer) ([]byte, error) {
	text, err := c.text(ctx, m, "blobs", layer.Digest)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(text); "sha256:"+hex.EncodeToString(sum[:]) != layer.Digest {
		return nil, fmt.Errorf(
			"%s: the content does not match the digest: check the registry and any proxy in front of it",
			m.url("blobs", layer.Digest),
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
		return nil, fmt.Errorf("%s: the response exceeds %d bytes: use a registry of Ollama models", url, longestText)
	}
	return text, nil
}

// Header reads the GGUF header at the start of a model's weights.
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
		if answer.StatusCode != http.StatusPartialContent { // a server without ranges sends everything from the start
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

// get follows redirects. Its errors include a remedy.
func (c *Client) get(ctx context.Context, url string, set func(*http.Request)) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	// The public registry rejects other user agents.
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
		err = fmt.Errorf("%s: the model does not exist: correct the name, or push the model", url)
	case http.StatusUnauthorized, http.StatusForbidden:
		err = fmt.Errorf(
			"%s: %s requires authentication (%s), which this command does not support: use a mirror with REGISTRY=..., "+
				"or a local file with GGUF=NAME=FILE",
			url, host, answer.Status,
		)
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		err = &Unreachable{request.URL.Host, fmt.Errorf("%s: %s", url, answer.Status)}
	default:
		err = fmt.Errorf("%s: %s: try again, or check the registry's log", url, answer.Status)
	}
	return nil, errors.Join(err, answer.Body.Close())
}

func explain(request *http.Request, err error) error {
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate):
		return fmt.Errorf("%w: pass the certificate of its CA with CA=file.pem", err)
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%w: it serves plain HTTP: set store.insecure, or write http:// before the host in REGISTRY", err)
	}
	return &Unreachable{request.URL.Host, err}
}
