package lockfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"ollama-k8s/internal/modelref"
)

// capabilities are Ollama's words for what a model can do.
var capabilities = []string{"completion", "embedding", "tools", "vision", "insert", "thinking"}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Parse reads the text of a lock. An empty text is an empty lock. The error has one line per problem, with the key, the
// value and the remedy.
func Parse(text []byte) (*Lock, error) {
	var file struct {
		Models map[string]map[string]json.RawMessage `json:"models"`
	}
	// Strict mode rejects duplicate keys, and keys other than models.
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		return nil, fmt.Errorf(
			"%s: %w: write one entry for each model below the key models, or run `make lock`", Name, err,
		)
	}
	lock := &Lock{Models: map[string]Model{}}
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(file.Models)) {
		entry, wrong := parseEntry(file.Models[name])
		if normal := modelref.Normal(name); normal != name {
			wrong = append(wrong, fmt.Sprintf(": the lock uses short names with a tag: rename the entry to %s", normal))
		} else if _, err := modelref.Parse(name); err != nil {
			wrong = append(wrong, ": "+err.Error())
		}
		for _, problem := range wrong {
			problems = append(problems, fmt.Sprintf("%s: models.%s%s", Name, name, problem))
		}
		lock.Models[name] = entry
	}
	if len(problems) > 0 {
		return nil, errors.New(strings.Join(problems, "\n"))
	}
	return lock, nil
}

// parseEntry reads an entry field by field, so that one wrong field does not hide another. Each problem begins with
// ".field: ".
func parseEntry(fields map[string]json.RawMessage) (entry Model, problems []string) {
	known := fieldsOf(&entry)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		target, ok := known[name]
		if !ok {
			problems = append(problems, fmt.Sprintf(".%s: value %s: unknown field: remove it", name, fields[name]))
			continue
		}
		if err := json.Unmarshal(fields[name], target.Addr().Interface()); err != nil {
			problems = append(problems, fmt.Sprintf(".%s: value %s: use %s", name, fields[name], wanted(target)))
			delete(known, name) // reported already
		}
	}
	return entry, append(problems, entry.problems(known)...)
}

// fieldsOf returns the fields of an entry by their key in the file.
func fieldsOf(entry *Model) map[string]reflect.Value {
	fields := map[string]reflect.Value{}
	value := reflect.ValueOf(entry).Elem()
	for i := range value.NumField() {
		key, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
		fields[key] = value.Field(i)
	}
	return fields
}

func wanted(field reflect.Value) string {
	switch field.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "a list of strings"
	default:
		return "a whole number"
	}
}

// problems reports values that no model can have. It skips fields that could not be read.
func (m *Model) problems(readable map[string]reflect.Value) (problems []string) {
	wrong := func(key string, value any, remedy string) {
		if _, ok := readable[key]; ok {
			problems = append(problems, fmt.Sprintf(".%s: value %v: %s", key, value, remedy))
		}
	}
	if m.Digest != "" && !digestForm.MatchString(m.Digest) {
		wrong("digest", m.Digest, "use sha256: and 64 digits of 0-9a-f, or leave it out")
	}
	if m.Architecture == "" {
		wrong("architecture", `""`, "use the architecture from the GGUF header, for instance llama")
	}
	for _, figure := range []struct {
		key   string
		value int64
	}{
		{"bytes", m.Bytes}, {"layers", int64(m.Layers)}, {"heads", int64(m.Heads)}, {"kvHeads", int64(m.KVHeads)},
		{"headDim", int64(m.HeadDim)},
		{"embedding", int64(m.Embedding)}, {"context", int64(m.Context)}, {"graph", m.Graph},
	} {
		if figure.value <= 0 {
			wrong(figure.key, figure.value, "use a number above 0, or run `make lock`")
		}
	}
	// If all layers have a window, no cache grows with the context and kvPerToken is 0.
	if m.KVPerToken < 0 || m.KVPerToken == 0 && m.KVPerWindowToken <= 0 {
		wrong("kvPerToken", m.KVPerToken, "use a number above 0, or run `make lock`")
	}
	if m.KVPerWindowToken < 0 {
		wrong("kvPerWindowToken", m.KVPerWindowToken, "use a number above 0, or leave it out")
	}
	if m.Window < 0 || m.Window == 0 && m.KVPerWindowToken > 0 {
		wrong("window", m.Window, "kvPerWindowToken needs a window: use a number of tokens above 0")
	}
	if len(m.Capabilities) == 0 {
		wrong("capabilities", "[]", "use one or more of "+strings.Join(capabilities, ", "))
	}
	for _, capability := range m.Capabilities {
		if !slices.Contains(capabilities, capability) {
			wrong("capabilities", capability, "use one or more of "+strings.Join(capabilities, ", "))
		}
	}
	return problems
}
