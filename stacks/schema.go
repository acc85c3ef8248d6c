package stacks

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"ollama-k8s/internal/nearest"
)

// SchemaJSON is the only definition of the config: keys, types, limits, defaults and descriptions. docs/config.md is
// generated from it, and editors can use it.
//
//go:embed config.schema.json
var SchemaJSON []byte

// schemaNode is the part of a JSON schema that this package reads.
type schemaNode struct {
	Description          string                 `json:"description"`
	Properties           map[string]*schemaNode `json:"properties"`
	AdditionalProperties json.RawMessage        `json:"additionalProperties"`
	Items                *schemaNode            `json:"items"`
	Default              any                    `json:"default"`
}

var (
	rootNode   = mustDecode[schemaNode](SchemaJSON)
	rootSchema = mustCompile()
)

func mustDecode[T any](data []byte) *T {
	value := new(T)
	if err := json.Unmarshal(data, value); err != nil {
		panic(err)
	}
	return value
}

func mustCompile() *jsonschema.Schema {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(SchemaJSON))
	if err != nil {
		panic(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("config.schema.json", document); err != nil {
		panic(err)
	}
	return compiler.MustCompile("config.schema.json")
}

// child returns the node of an object's key: a named property, or else additionalProperties.
func (n *schemaNode) child(key string) *schemaNode {
	if named, ok := n.Properties[key]; ok {
		return named
	}
	if len(n.AdditionalProperties) > 0 && n.AdditionalProperties[0] == '{' {
		return mustDecode[schemaNode](n.AdditionalProperties)
	}
	return nil
}

// at returns the node that describes a path in a document.
func (n *schemaNode) at(path []string) *schemaNode {
	for _, step := range path {
		if n == nil {
			return &schemaNode{}
		}
		if n.Items != nil {
			n = n.Items
		} else {
			n = n.child(step)
		}
	}
	if n == nil {
		return &schemaNode{}
	}
	return n
}

// checkShape reports unknown keys and invalid values, and removes them from the document.
func checkShape(document map[string]any) (problems []string) {
	err := rootSchema.Validate(document)
	if err == nil {
		return nil
	}
	invalid, ok := err.(*jsonschema.ValidationError)
	if !ok {
		return []string{err.Error()}
	}
	var leaves []*jsonschema.ValidationError
	var walk func(*jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		if len(e.Causes) == 0 || isKind[*kind.PropertyNames](e) {
			leaves = append(leaves, e)
			return
		}
		for _, cause := range e.Causes {
			walk(cause)
		}
	}
	walk(invalid)
	seen := map[string]bool{}
	for _, leaf := range leaves {
		for _, problem := range describe(leaf, document) {
			if !seen[problem] {
				seen[problem] = true
				problems = append(problems, problem)
			}
		}
	}
	for _, leaf := range leaves {
		removeWrong(leaf, document)
	}
	return problems
}

func isKind[T jsonschema.ErrorKind](e *jsonschema.ValidationError) bool {
	_, ok := e.ErrorKind.(T)
	return ok
}

// describe returns what is wrong at one path, with the key, the value and the remedy.
func describe(e *jsonschema.ValidationError, document map[string]any) []string {
	path := e.InstanceLocation
	node := rootNode.at(path)
	value := encode(lookup(document, path))
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		var problems []string
		for _, key := range k.Properties {
			problems = append(problems, fmt.Sprintf(
				"%s: unknown key: %s", keyPath(append(append([]string{}, path...), key)), suggest(key, node),
			))
		}
		return problems
	case *kind.Required:
		var problems []string
		for _, key := range k.Missing {
			problems = append(problems, fmt.Sprintf(
				"%s: is missing: set it (%s)", keyPath(append(append([]string{}, path...), key)), phrase(node.child(key)),
			))
		}
		return problems
	case *kind.Type:
		return []string{fmt.Sprintf(
			"%s: %s is of type %s: use %s (%s)", keyPath(path), value, k.Got, strings.Join(k.Want, " or "), phrase(node),
		)}
	case *kind.Enum:
		return []string{fmt.Sprintf(
			"%s: %s is not one of %s: use one of them (%s)", keyPath(path), value, encode(k.Want), phrase(node),
		)}
	case *kind.PropertyNames:
		// The library does not report the path here. The schema's URL ends with it: …#/properties/pools/propertyNames.
		place := strings.Split(e.SchemaURL, "/")
		return []string{fmt.Sprintf(
			"%s.%s: the name is not allowed: use at most 30 of a-z, 0-9 and -, beginning with a letter",
			place[len(place)-2], k.Property,
		)}
	case *kind.Not:
		return []string{fmt.Sprintf(
			"%s: %s is not pinned: set a version, so that every pod runs the same one", keyPath(path), value,
		)}
	case *kind.MaxProperties:
		return []string{fmt.Sprintf(
			"%s: has %d keys: use at most %d of them (%s)", keyPath(path), k.Got, k.Want, phrase(node),
		)}
	default:
		return []string{fmt.Sprintf(
			"%s: %s is not allowed (%s): change it (%s)", keyPath(path), value,
			k.LocalizedString(message.NewPrinter(language.English)), phrase(node),
		)}
	}
}

// phrase returns a node's description without its period, for use in parentheses.
func phrase(n *schemaNode) string {
	if n == nil {
		return ""
	}
	return strings.TrimSuffix(n.Description, ".")
}

// suggest returns the known key that an unknown one resembles, or all known keys.
func suggest(key string, node *schemaNode) string {
	known := sortedKeys(node.Properties)
	byLower := map[string]string{}
	for _, candidate := range known {
		byLower[strings.ToLower(candidate)] = candidate
	}
	if near := nearest.To(strings.ToLower(key), sortedKeys(byLower)); near != "" {
		return fmt.Sprintf("did you mean %s?", byLower[near])
	}
	return "use one of " + strings.Join(known, ", ")
}

// removeWrong removes an invalid value, so that the valid ones can still be checked.
func removeWrong(e *jsonschema.ValidationError, document map[string]any) {
	path := e.InstanceLocation
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		if parent, ok := lookup(document, path).(map[string]any); ok {
			for _, key := range k.Properties {
				delete(parent, key)
			}
		}
	case *kind.Required, *kind.PropertyNames:
	default:
		// In a list, remove the whole key: without the item, the others would shift.
		for len(path) > 0 {
			if parent, ok := lookup(document, path[:len(path)-1]).(map[string]any); ok {
				delete(parent, path[len(path)-1])
				return
			}
			path = path[:len(path)-1]
		}
	}
}

// lookup returns the value at a path, or nil.
func lookup(document any, path []string) any {
	for _, step := range path {
		switch container := document.(type) {
		case map[string]any:
			document = container[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(container) {
				return nil
			}
			document = container[i]
		default:
			return nil
		}
	}
	return document
}

// keyPath formats a path for people: pools.chat.replicas.max, models[0].name.
func keyPath(path []string) string {
	var out strings.Builder
	for _, step := range path {
		if _, err := strconv.Atoi(step); err == nil {
			fmt.Fprintf(&out, "[%s]", step)
			continue
		}
		if out.Len() > 0 {
			out.WriteByte('.')
		}
		out.WriteString(step)
	}
	return out.String()
}

func encode(value any) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Sprint(value)
	}
	return strings.TrimSpace(out.String())
}

// fillDefaults sets keys that are missing and have a default. It creates objects that hold defaults.
func fillDefaults(document map[string]any) { fillObject(rootNode, document) }

func fillObject(node *schemaNode, object map[string]any) {
	for key, property := range node.Properties {
		if _, set := object[key]; !set {
			switch {
			case property.Default != nil:
				object[key] = property.Default
			case property.holdsDefaults():
				object[key] = map[string]any{}
			}
		}
	}
	for _, key := range sortedKeys(object) {
		fillValue(node.at([]string{key}), object[key])
	}
}

func fillValue(node *schemaNode, value any) {
	switch value := value.(type) {
	case map[string]any:
		fillObject(node, value)
	case []any:
		for _, item := range value {
			if node.Items != nil {
				fillValue(node.Items, item)
			}
		}
	}
}

func (n *schemaNode) holdsDefaults() bool {
	for _, property := range n.Properties {
		if property.Default != nil || property.holdsDefaults() {
			return true
		}
	}
	return false
}

// Keys returns the config's top-level keys, sorted.
func Keys() []string {
	keys := sortedKeys(rootNode.Properties)
	sort.Strings(keys)
	return keys
}
