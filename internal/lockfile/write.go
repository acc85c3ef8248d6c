package lockfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

const header = "# Made by `make lock`: what each model is, byte for byte, and the figures that its memory is " +
	"planned from. Commit it.\n"

// Marshal is the text of the lock: models by name, fields as in Model, so that a diff shows what changed and nothing
// else. A lock that Parse would refuse is an error.
func (l *Lock) Marshal() ([]byte, error) {
	var text bytes.Buffer
	text.WriteString(header)
	if len(l.Models) == 0 {
		text.WriteString("models: {}\n")
	} else {
		text.WriteString("models:\n")
	}
	for _, name := range slices.Sorted(maps.Keys(l.Models)) {
		fmt.Fprintf(&text, "  %s:\n", scalar(name))
		entry := reflect.ValueOf(l.Models[name])
		for i := range entry.NumField() {
			key, options, _ := strings.Cut(entry.Type().Field(i).Tag.Get("json"), ",")
			if options == "omitempty" && entry.Field(i).IsZero() {
				continue
			}
			fmt.Fprintf(&text, "    %s: %s\n", key, encode(entry.Field(i)))
		}
	}
	if _, err := Parse(text.Bytes()); err != nil {
		return nil, err
	}
	return text.Bytes(), nil
}

func encode(value reflect.Value) string {
	switch value.Kind() {
	case reflect.String:
		return scalar(value.String())
	case reflect.Slice:
		var items []string
		for i := range value.Len() {
			items = append(items, scalar(value.Index(i).String()))
		}
		return "[" + strings.Join(items, ", ") + "]"
	default:
		return fmt.Sprint(value.Int())
	}
}

// plain texts are the same with and without quotes: they begin with a letter and have no ": " and no " #" in them.
var plain = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9._/()-]|:[A-Za-z0-9]|[;,]? [A-Za-z0-9])*$`)

// words that YAML does not read as text.
var words = regexp.MustCompile(`^(?i:y|n|yes|no|on|off|true|false|null)$`)

// scalar quotes a text where YAML needs it; JSON's quotes are YAML's too.
func scalar(text string) string {
	if plain.MatchString(text) && !words.MatchString(text) {
		return text
	}
	quoted, _ := json.Marshal(text) // a string always can be
	return string(quoted)
}

// Write writes the lock to a file, whole or not at all, and tells whether it had to: a file of the same content is left
// alone.
func (l *Lock) Write(path string) (changed bool, err error) {
	text, err := l.Marshal()
	if err != nil {
		return false, err
	}
	old, err := os.ReadFile(path)
	if err == nil && bytes.Equal(old, text) {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return false, err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return false, errors.Join(err, os.Remove(path+".new"))
	}
	return true, nil
}
