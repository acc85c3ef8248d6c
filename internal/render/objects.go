package render

import (
	"bytes"
	"fmt"
	"sort"
	"strings"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"sigs.k8s.io/yaml"
)

// Object is a Kubernetes object as Pulumi sends it to the API server.
type Object map[string]any

// Redacted replaces a secret value.
const Redacted = "REDACTED"

// secrets says what to do with secret values.
type secrets bool

const (
	keepSecrets   secrets = true
	redactSecrets secrets = false
)

// Objects returns the Kubernetes objects of the resources, with secrets redacted.
func Objects(resources []Resource) []Object { return objects(resources, redactSecrets) }

// ObjectsWithSecrets is Objects with the secrets, for tests that look for leaks.
func ObjectsWithSecrets(resources []Resource) []Object { return objects(resources, keepSecrets) }

func objects(resources []Resource, s secrets) []Object {
	var found []Object
	for _, r := range resources {
		if !r.Custom || !strings.HasPrefix(r.Type, "kubernetes:") {
			continue
		}
		object, ok := toAny(resource.NewObjectProperty(r.Inputs), s).(map[string]any)
		if !ok {
			continue
		}
		metadata, ok := object["metadata"].(map[string]any)
		if !ok {
			metadata = map[string]any{}
			object["metadata"] = metadata
		}
		if metadata["name"] == nil {
			metadata["name"] = r.Name + "-" + contentHash(r.Inputs)
		}
		found = append(found, object)
	}
	sort.SliceStable(found, func(i, j int) bool { return found[i].key() < found[j].key() })
	return found
}

// key orders objects: by kind, then by name.
func (o Object) key() string { return o.Kind() + "/" + o.Name() }

// Kind of the object.
func (o Object) Kind() string { return fmt.Sprint(o["kind"]) }

// Name of the object.
func (o Object) Name() string { return fmt.Sprint(o.at("metadata", "name")) }

// at returns the value at a path of keys, or nil.
func (o Object) at(keys ...string) any {
	var value any = map[string]any(o)
	for _, key := range keys {
		m, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = m[key]
	}
	return value
}

// Text returns the object as YAML.
func (o Object) Text() string {
	text, err := yaml.Marshal(o)
	if err != nil {
		panic(err) // made of maps, lists and scalars only
	}
	return string(text)
}

// YAML prints objects as one stream of documents.
func YAML(objects []Object) []byte {
	var out bytes.Buffer
	for _, object := range objects {
		fmt.Fprintf(&out, "---\n%s", object.Text())
	}
	return out.Bytes()
}

// toAny turns a property into plain maps, lists and scalars.
func toAny(v resource.PropertyValue, s secrets) any {
	switch {
	case v.IsSecret():
		if s == redactSecrets {
			return redact(v.SecretValue().Element)
		}
		return toAny(v.SecretValue().Element, s)
	case v.IsOutput():
		return toAny(v.OutputValue().Element, s)
	case v.IsComputed():
		return "[unknown]"
	case v.IsObject():
		object := map[string]any{}
		for key, value := range v.ObjectValue() {
			object[string(key)] = toAny(value, s)
		}
		return object
	case v.IsArray():
		list := make([]any, len(v.ArrayValue()))
		for i, value := range v.ArrayValue() {
			list[i] = toAny(value, s)
		}
		return list
	case v.IsNumber():
		// Kubernetes has no fractions: print 8080, not 8.08e+03.
		if whole := int64(v.NumberValue()); float64(whole) == v.NumberValue() {
			return whole
		}
		return v.NumberValue()
	default:
		return v.V
	}
}

// redact keeps the keys of a secret and hides their values.
func redact(v resource.PropertyValue) any {
	v = plain(v)
	if v.IsObject() {
		object := map[string]any{}
		for key := range v.ObjectValue() {
			object[string(key)] = Redacted
		}
		return object
	}
	return Redacted
}
