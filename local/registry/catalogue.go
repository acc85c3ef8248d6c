package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ollama/ollama/manifest"
)

// The media types of a model's parts.
const (
	mediaTypeManifest = "application/vnd.docker.distribution.manifest.v2+json"
	mediaTypeConfig   = "application/vnd.docker.container.image.v1+json"
	mediaTypeWeights  = "application/vnd.ollama.image.model"
	mediaTypeTemplate = "application/vnd.ollama.image.template"
	mediaTypeSystem   = "application/vnd.ollama.image.system"
	mediaTypeParams   = "application/vnd.ollama.image.params"
	mediaTypeLicense  = "application/vnd.ollama.image.license"
)

// Catalogue holds models in memory, under names such as library/tiny:latest. Fill it before you serve it: it has no
// lock. The zero value is empty and ready.
type Catalogue struct {
	blobs        map[string][]byte            // by digest
	repositories map[string]map[string]string // name, tag → digest of the manifest
}

// Add adds a model under a name of the form namespace/model:tag.
func (c *Catalogue) Add(name string, m Model) error {
	repository, tag, tagged := strings.Cut(name, ":")
	namespace, model, ok := strings.Cut(repository, "/")
	if !tagged || !ok || tag == "" || namespace == "" || model == "" || strings.Contains(model, "/") {
		return fmt.Errorf("model name %q: give namespace/model:tag, such as library/tiny:latest", name)
	}
	body, err := c.manifestOf(m)
	if err != nil {
		return fmt.Errorf("model %s: %w", name, err)
	}
	if c.repositories == nil {
		c.repositories = map[string]map[string]string{}
	}
	if c.repositories[repository] == nil {
		c.repositories[repository] = map[string]string{}
	}
	c.repositories[repository][tag] = c.store(body)
	return nil
}

// manifestOf stores the parts of a model and returns the manifest that lists them.
func (c *Catalogue) manifestOf(m Model) ([]byte, error) {
	parts, err := m.parts()
	if err != nil {
		return nil, err
	}
	var layers []manifest.Layer
	var digests []string
	for _, p := range parts {
		layer := manifest.Layer{MediaType: p.mediaType, Digest: c.store(p.data), Size: int64(len(p.data))}
		layers = append(layers, layer)
		digests = append(digests, layer.Digest)
	}
	config, err := m.config(digests)
	if err != nil {
		return nil, err
	}
	return json.Marshal(manifest.Manifest{
		SchemaVersion: 2,
		MediaType:     mediaTypeManifest,
		Config:        manifest.Layer{MediaType: mediaTypeConfig, Digest: c.store(config), Size: int64(len(config))},
		Layers:        layers,
	})
}

func (c *Catalogue) store(blob []byte) (digest string) {
	sum := sha256.Sum256(blob)
	digest = "sha256:" + hex.EncodeToString(sum[:])
	if c.blobs == nil {
		c.blobs = map[string][]byte{}
	}
	c.blobs[digest] = blob
	return digest
}

// Digest returns the digest of the manifest under a name of the form that Add takes, and whether there is one.
func (c *Catalogue) Digest(name string) (digest string, ok bool) {
	repository, tag, _ := strings.Cut(name, ":")
	digest, ok = c.repositories[repository][tag]
	return digest, ok
}

// Names lists the models, sorted.
func (c *Catalogue) Names() []string {
	var names []string
	for repository, tags := range c.repositories {
		for tag := range tags {
			names = append(names, repository+":"+tag)
		}
	}
	slices.Sort(names)
	return names
}

// tags lists the tags of a repository, sorted. An unknown repository has none.
func (c *Catalogue) tags(repository string) []string {
	return slices.Sorted(maps.Keys(c.repositories[repository]))
}

// isManifest reports whether the repository has a manifest with the digest.
func (c *Catalogue) isManifest(repository, digest string) bool {
	for _, manifest := range c.repositories[repository] {
		if manifest == digest {
			return true
		}
	}
	return false
}
