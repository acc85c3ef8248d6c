package cluster

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"text/template"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"ollama-k8s/local/internal/agent"
)

//go:embed manifests/*.yaml
var manifestFiles embed.FS

var manifestTemplates = template.Must(
	template.New("").Option("missingkey=error").ParseFS(manifestFiles, "manifests/*.yaml"))

// Values are the values for the manifests.
type Values struct {
	Domain        string // of the cluster's names, such as cluster.local
	DNSAddress    string // of the DNS Service, as configured in every kubelet
	DNSImage      string
	RegistryImage string // "" leaves the model registry out
}

// Provisioner is the name of the agent as a provisioner, for the StorageClass.
func (Values) Provisioner() string { return agent.Provisioner }

// Objects returns the objects of the manifests, in the order in which they need each other.
func Objects(v Values) ([]*unstructured.Unstructured, error) {
	files := []string{"storage.yaml", "runtimes.yaml", "dns.yaml"}
	if v.RegistryImage != "" {
		files = append(files, "registry.yaml")
	}
	var objects []*unstructured.Unstructured
	for _, file := range files {
		var text bytes.Buffer
		if err := manifestTemplates.ExecuteTemplate(&text, file, v); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", file, err)
		}
		documents := yaml.NewYAMLOrJSONDecoder(&text, 4096)
		for {
			object := &unstructured.Unstructured{}
			err := documents.Decode(&object.Object)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("manifest %s: %w", file, err)
			}
			if len(object.Object) > 0 {
				objects = append(objects, object)
			}
		}
	}
	return objects, nil
}
