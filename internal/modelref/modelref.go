// Package modelref parses the names of Ollama models as Ollama does: [[host/]namespace/]model[:tag].
package modelref

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// Ollama's defaults for missing parts of a name.
const (
	DefaultHost      = "registry.ollama.ai"
	DefaultNamespace = "library"
	DefaultTag       = "latest"
)

// Ref is a full name, with every part set.
type Ref struct {
	// Host may include a port.
	Host, Namespace, Model, Tag string
}

var (
	hostForm = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._:-]{0,349}$`)
	partForm = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,79}$`)
	nsForm   = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_-]{0,79}$`)
)

// Parse reads a name. The error names the invalid part.
func Parse(name string) (Ref, error) {
	ref := Ref{Host: DefaultHost, Namespace: DefaultNamespace, Tag: DefaultTag}
	rest := name
	// A colon after the last slash starts the tag. An earlier one belongs to the host's port.
	if slash, colon := strings.LastIndex(rest, "/"), strings.LastIndex(rest, ":"); colon > slash {
		rest, ref.Tag = rest[:colon], rest[colon+1:]
	}
	parts := strings.Split(rest, "/")
	switch len(parts) {
	case 1:
		ref.Model = parts[0]
	case 2:
		ref.Namespace, ref.Model = parts[0], parts[1]
	case 3:
		ref.Host, ref.Namespace, ref.Model = parts[0], parts[1], parts[2]
	default:
		return Ref{}, fmt.Errorf("model name %q has %d slashes: use [[host/]namespace/]model[:tag]", name, len(parts)-1)
	}
	for _, part := range []struct {
		what, value string
		form        *regexp.Regexp
	}{
		{"host", ref.Host, hostForm}, {"namespace", ref.Namespace, nsForm}, {"model", ref.Model, partForm},
		{"tag", ref.Tag, partForm},
	} {
		if !part.form.MatchString(part.value) {
			return Ref{}, fmt.Errorf(
				"model name %q: the %s %q is not allowed: use [[host/]namespace/]model[:tag], each part of at most 80 "+
					"letters, digits, '_', '-' and (not in the namespace) '.'",
				name, part.what, part.value,
			)
		}
	}
	return ref, nil
}

// In returns the name of the model in a registry, given as host[:port]/namespace. An empty registry means Ollama's
// default. A name that includes a host keeps it.
func In(registry, name string) string {
	if registry == "" || strings.Count(name, "/") >= 2 {
		return name
	}
	return registry + "/" + name
}

// Short returns the name as Ollama shows it: without the default host and namespace, always with the tag.
func (r Ref) Short() string {
	name := r.Model + ":" + r.Tag
	if r.Host != DefaultHost {
		return r.Host + "/" + r.Namespace + "/" + name
	}
	if r.Namespace != DefaultNamespace {
		return r.Namespace + "/" + name
	}
	return name
}

// Path returns where Ollama keeps the manifest, below OLLAMA_MODELS/manifests.
func (r Ref) Path() string { return path.Join(r.Host, r.Namespace, r.Model, r.Tag) }

// Normal returns the Short form of a name, or the name itself if it is invalid. Two names mean the same model if their
// normal forms are equal.
func Normal(name string) string {
	ref, err := Parse(name)
	if err != nil {
		return name
	}
	return ref.Short()
}
