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

const header = "# Written by `make lock`: the digest of each model, and the figures from which its memory is " +
	"planned. Commit it.\n"

// Marshal returns the text of the lock, with models sorted by name and fields in Model's order, so that a diff shows
// only real changes. A lock that Parse would reject is an error.
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

// plain matches texts that YAML reads the same with and without quotes: they begin with a letter and contain neither ":
// " nor " #".
var plain = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9._/()-]|:[A-Za-z0-9]|[;,]? [A-Za-z0-9])*$`)

// words matches what YAML reads as a boolean or as null.
var words = regexp.MustCompile(`^(?i:y|n|yes|no|on|off|true|false|null)$`)

// scalar quotes a text if YAML needs it. A JSON string is a YAML string too.
func scalar(text string) string {
	if plain.MatchString(text) && !words.MatchString(text) {
		return text
	}
	quoted, _ := json.Marshal(text) // marshaling a string cannot fail
	return string(quoted)
}

// Write replaces the file atomically and reports whether it changed. It does not touch a file with the same content.
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
