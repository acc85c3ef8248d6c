package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"strings"

	"ollama-k8s/internal/ggufread"
	"ollama-k8s/internal/lockfile"
	"ollama-k8s/internal/registryread"
)

// locker updates a lock, or compares it with the registry.
type locker struct {
	lock     *lockfile.Lock
	client   *registryread.Client
	check    bool
	file     string
	progress io.Writer
}

// all tries every model, prints a line for each, and returns one error with all failures.
func (l *locker) all(ctx context.Context, models []model) error {
	var failed []string
	for i, m := range models {
		fmt.Fprintf(l.progress, "[%d/%d] %s  %s  ", i+1, len(models), m.name, cmp.Or(m.gguf, m.from.Host))
		remark, err := l.one(ctx, m)
		if err != nil {
			remark = cmp.Or(remark, "failed")
			failed = append(failed, "\n  "+m.name+": "+strings.ReplaceAll(err.Error(), "\n", "\n    "))
		}
		fmt.Fprintln(l.progress, remark)
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d models failed:%s", len(failed), len(models), strings.Join(failed, ""))
	}
	return nil
}

// one processes one model. The remark ends its line, and the error goes into the list at the end.
func (l *locker) one(ctx context.Context, m model) (remark string, err error) {
	if m.gguf != "" {
		return l.fromFile(m)
	}
	entry, known := l.lock.Get(m.name)
	manifest, err := l.client.Manifest(ctx, m.from)
	var unreachable *registryread.Unreachable
	if errors.As(err, &unreachable) && inCluster(m.from.Host) {
		forward := fmt.Sprintf(
			"%s is inside a cluster: forward a port and pass REGISTRY=http://localhost:5000/library", m.from.Host,
		)
		if l.check || !known {
			return "", fmt.Errorf("could not be checked: %s (%w)", forward, err)
		}
		return "kept: " + forward, nil
	}
	if err != nil {
		return "", err
	}
	digest := manifest.Digest()
	switch {
	case known && entry.Digest == digest:
		return "unchanged", nil
	case l.check && !known:
		return "missing", fmt.Errorf("%s has no entry, but the registry has %s: run `make lock`", l.file, digest)
	case l.check && entry.Digest == "":
		return "no digest", fmt.Errorf("%s has no digest, but the registry has %s: run `make lock`", l.file, digest)
	case l.check:
		return "changed", fmt.Errorf(
			"%s has %s, but the registry has %s: run `make lock` to accept it, or restore the old model in the registry",
			l.file, entry.Digest, digest,
		)
	}
	fresh, err := l.fromRegistry(ctx, m.from, manifest)
	if err != nil {
		return "", err
	}
	l.lock.Models[m.name] = fresh
	if known && entry.Digest != "" {
		return fmt.Sprintf("changed from %s to %s, %s", entry.Digest, digest, summary(fresh)), nil
	}
	return fmt.Sprintf("new %s, %s", digest, summary(fresh)), nil
}

// inCluster reports whether host is the name of a Kubernetes Service.
func inCluster(host string) bool {
	name, _, _ := strings.Cut(host, ":")
	return strings.HasSuffix(name, ".svc") || strings.Contains(name, ".svc.")
}

func summary(m lockfile.Model) string {
	size := fmt.Sprintf("%.1f GiB", float64(m.Bytes)/(1<<30))
	if m.Bytes < 1<<30 {
		size = fmt.Sprintf("%.1f MiB", float64(m.Bytes)/(1<<20))
	}
	return fmt.Sprintf("%s %d layers, %s", m.Architecture, m.Layers, size)
}

// fromRegistry makes a model's entry from its layers.
func (l *locker) fromRegistry(
	ctx context.Context, from registryread.Model, manifest *registryread.Manifest,
) (lockfile.Model, error) {
	weights, ok := manifest.Layer(registryread.TypeWeights)
	if !ok {
		return lockfile.Model{}, fmt.Errorf(
			"the model has no weights (no layer of type %s): use a model that runs locally, not in Ollama's cloud",
			registryread.TypeWeights,
		)
	}
	header, err := l.client.Header(ctx, from, weights)
	if err != nil {
		return lockfile.Model{}, err
	}
	entry, err := ggufread.Figures(header)
	if err != nil {
		return lockfile.Model{}, err
	}
	with := ggufread.Package{}
	for _, layer := range manifest.Layers {
		if layer.MediaType == registryread.TypeProjector {
			with.Projector = true
			entry.Bytes += layer.Size
		}
	}
	if layer, ok := manifest.Layer(registryread.TypeTemplate); ok {
		text, err := l.client.Text(ctx, from, layer)
		if err != nil {
			return lockfile.Model{}, err
		}
		with.Template = string(text)
	}
	if manifest.Config.Digest != "" {
		text, err := l.client.Text(ctx, from, manifest.Config)
		if err != nil {
			return lockfile.Model{}, err
		}
		var config struct {
			Parser string `json:"parser"`
		}
		if err := json.Unmarshal(text, &config); err != nil {
			return lockfile.Model{}, fmt.Errorf("the model's config cannot be parsed: %w", err)
		}
		with.Parser = config.Parser
	}
	entry.Digest, entry.Capabilities = manifest.Digest(), ggufread.Capabilities(header, with)
	return entry, nil
}

// fromFile reads the figures from a local file.
func (l *locker) fromFile(m model) (remark string, err error) {
	header, err := ggufread.Open(m.gguf)
	if err != nil {
		return "", err
	}
	fresh, err := ggufread.Figures(header)
	if err != nil {
		return "", fmt.Errorf("%s: %w", m.gguf, err)
	}
	fresh.Capabilities = ggufread.Capabilities(header, ggufread.Package{})
	fresh.Source = "file " + filepath.Base(m.gguf)
	entry, known := l.lock.Get(m.name)
	switch {
	case known && reflect.DeepEqual(entry, fresh):
		return "unchanged", nil
	case l.check:
		return "changed", fmt.Errorf(
			"%s has figures other than %s: run `make lock` with the same GGUF=NAME=FILE", l.file, m.gguf,
		)
	}
	l.lock.Models[m.name] = fresh
	return "new, no digest, " + summary(fresh), nil
}
