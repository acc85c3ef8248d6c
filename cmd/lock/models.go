package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"ollama-k8s/internal/modelref"
	"ollama-k8s/internal/registryread"
	"ollama-k8s/stacks"
)

// model is a model to look up. Several stacks may name it.
type model struct {
	// name is its key in the lock.
	name string
	// from is its place in a registry.
	from registryread.Model
	// gguf is a local file from which to read the figures instead. Empty: none.
	gguf string
}

// models returns the models that the stacks pull and those of -gguf, sorted by name. If stacks use different registries
// for a model, the first one counts: a mirror has the same bytes.
func (o options) models() ([]model, error) {
	files, err := o.files()
	if err != nil {
		return nil, err
	}
	byName := map[string]model{}
	var problems []error
	for _, file := range files {
		of, err := modelsOf(file, o.registry)
		problems = append(problems, err)
		for _, m := range of {
			if _, known := byName[m.name]; !known {
				byName[m.name] = m
			}
		}
	}
	for name, file := range o.gguf {
		byName[name] = model{name: name, gguf: file}
	}
	var models []model
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		models = append(models, byName[name])
	}
	return models, errors.Join(problems...)
}

func (o options) files() ([]string, error) {
	if o.config != "" {
		return []string{o.config}, nil
	}
	var files []string
	for _, stack := range o.stacks {
		files = append(files, "Pulumi."+stack+".yaml")
	}
	if len(files) > 0 {
		return files, nil
	}
	files, err := filepath.Glob("Pulumi.*.yaml")
	if err == nil && len(files) == 0 {
		err = errors.New("no Pulumi.*.yaml in this folder: run the command in the project's folder, or pass -config FILE")
	}
	return files, err
}

// modelsOf reads only the keys that it needs. The Pulumi program reports other errors in a stack file.
func modelsOf(file, registry string) ([]model, error) {
	values, err := stacks.ReadFile(file, stacks.Project)
	if err != nil {
		return nil, err
	}
	var store struct {
		Registry string
		Insecure bool
	}
	var listed []struct{ Name, Modelfile string }
	for key, into := range map[string]any{"store": &store, "models": &listed} {
		if values[key] == "" {
			continue
		}
		if err := json.Unmarshal([]byte(values[key]), into); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", file, key, err)
		}
	}
	if registry != "" {
		host, plain := strings.CutPrefix(registry, "http://")
		store.Registry, store.Insecure = strings.TrimSuffix(strings.TrimPrefix(host, "https://"), "/"), plain
		if strings.Count(store.Registry, "/") != 1 {
			return nil, fmt.Errorf(
				"-registry %s: use [http://|https://]HOST[:PORT]/NAMESPACE, for instance http://localhost:5000/library", registry,
			)
		}
	}
	var models []model
	var problems []error
	for i, m := range listed {
		if m.Modelfile != "" {
			continue // its FROM is another model
		}
		ref, err := modelref.Parse(modelref.In(store.Registry, m.Name))
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: models[%d].name: %w", file, i, err))
			continue
		}
		models = append(models, model{
			name: modelref.Normal(m.Name), from: registryread.Model{Ref: ref, Insecure: store.Insecure},
		})
	}
	return models, errors.Join(problems...)
}
