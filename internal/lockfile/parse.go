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

// capabilities are the words that Ollama has for what a model can do.
var capabilities = []string{"completion", "embedding", "tools", "vision", "insert", "thinking"}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Parse reads the text of a lock; an empty text is an empty lock. The error has a line for every problem, each with the
// key, the value and the remedy.
func Parse(text []byte) (*Lock, error) {
	var file struct {
		Models map[string]map[string]json.RawMessage `json:"models"`
	}
	// Strict finds a key that is set twice, and a key beside models.
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		return nil, fmt.Errorf(
			"%s: %w: give models: and below it an entry for each model, or let `make lock` write the file", Name, err,
		)
	}
	lock := &Lock{Models: map[string]Model{}}
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(file.Models)) {
		entry, wrong := parseEntry(file.Models[name])
		if normal := modelref.Normal(name); normal != name {
			wrong = append(wrong, fmt.Sprintf(": the name is written %s: rename the entry", normal))
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
			problems = append(problems, fmt.Sprintf(".%s: value %s: there is no such field: remove it", name, fields[name]))
			continue
		}
		if err := json.Unmarshal(fields[name], target.Addr().Interface()); err != nil {
			problems = append(problems, fmt.Sprintf(".%s: value %s: give %s", name, fields[name], wanted(target)))
			delete(known, name) // said once
		}
	}
	return entry, append(problems, entry.problems(known)...)
}

// fieldsOf are the fields of an entry by their key in the file.
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
		return "a text"
	case reflect.Slice:
		return "a list of texts"
	default:
		return "a whole number"
	}
}

// problems are what no model can be; fields that are not readable are left out.
func (m *Model) problems(readable map[string]reflect.Value) (problems []string) {
	wrong := func(key string, value any, remedy string) {
		if _, ok := readable[key]; ok {
			problems = append(problems, fmt.Sprintf(".%s: value %v: %s", key, value, remedy))
		}
	}
	if m.Digest != "" && !digestForm.MatchString(m.Digest) {
		wrong("digest", m.Digest, "give sha256: and 64 digits of 0-9a-f, or leave it out")
	}
	if m.Architecture == "" {
		wrong("architecture", `""`, "give the architecture that the GGUF names, for instance llama")
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
			wrong(figure.key, figure.value, "give a number above 0, or let `make lock` write the entry")
		}
	}
	// A model all of whose layers have a window has no cache that grows with the context.
	if m.KVPerToken < 0 || m.KVPerToken == 0 && m.KVPerWindowToken <= 0 {
		wrong("kvPerToken", m.KVPerToken, "give a number above 0, or let `make lock` write the entry")
	}
	if m.KVPerWindowToken < 0 {
		wrong("kvPerWindowToken", m.KVPerWindowToken, "give a number above 0, or leave it out")
	}
	if m.Window < 0 || m.Window == 0 && m.KVPerWindowToken > 0 {
		wrong("window", m.Window, "give the window's tokens, a number above 0: kvPerWindowToken needs it")
	}
	if len(m.Capabilities) == 0 {
		wrong("capabilities", "[]", "give one or more of "+strings.Join(capabilities, ", "))
	}
	for _, capability := range m.Capabilities {
		if !slices.Contains(capabilities, capability) {
			wrong("capabilities", capability, "give one or more of "+strings.Join(capabilities, ", "))
		}
	}
	return problems
}
