package stacks_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/stacks"
)

// docs/config.md is the schema as headings and tables, in the schema's order.

type node struct {
	Description          string
	Type                 string
	Enum                 []any
	Default              any
	Ref                  string `json:"$ref"`
	Required             []string
	Properties           properties
	AdditionalProperties additional
	Items                *node
}

// properties keep the order in which the schema names them.
type properties []property

type property struct {
	key string
	*node
}

func (p *properties) UnmarshalJSON(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if _, err := decoder.Token(); err != nil { // the opening brace
		return err
	}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return err
		}
		child := &node{}
		if err := decoder.Decode(child); err != nil {
			return err
		}
		*p = append(*p, property{key.(string), child})
	}
	return nil
}

// additional is the schema of an object's other keys. Nil: there are none.
type additional struct{ *node }

func (a *additional) UnmarshalJSON(text []byte) error {
	if text[0] != '{' { // false
		return nil
	}
	a.node = &node{}
	return json.Unmarshal(text, a.node)
}

func reference(t *testing.T) string {
	t.Helper()
	root := &node{}
	require.NoError(t, json.Unmarshal(stacks.SchemaJSON, root))
	var text strings.Builder
	for _, section := range root.Properties {
		require.NotEmpty(t, section.Description, "%s has no description", section.key)
		fmt.Fprintf(&text, "## %s\n\n%s", section.key, section.Description)
		if slices.Contains(root.Required, section.key) {
			text.WriteString(" Required.")
		}
		text.WriteString("\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n")
		rowsBelow(t, &text, section)
		text.WriteString("\n")
	}
	return text.String()
}

func rows(t *testing.T, text *strings.Builder, prefix string, n *node) {
	for _, child := range n.Properties {
		child.key = prefix + child.key
		require.NotEmpty(t, child.Description, "%s has no description", child.key)
		standard := ""
		if child.Default != nil {
			value, err := json.Marshal(child.Default)
			require.NoError(t, err)
			standard = "`" + string(value) + "`"
		}
		if slices.Contains(n.Required, strings.TrimPrefix(child.key, prefix)) {
			standard = "required"
		}
		fmt.Fprintf(text, "| `%s` | %s | %s | %s |\n", child.key, child.kind(), standard, child.Description)
		rowsBelow(t, text, child)
	}
}

func rowsBelow(t *testing.T, text *strings.Builder, parent property) {
	rows(t, text, parent.key+".", parent.node)
	if parent.Items != nil {
		rows(t, text, parent.key+"[].", parent.Items)
	}
	if other := parent.AdditionalProperties.node; other != nil {
		rows(t, text, parent.key+".<name>.", other)
	}
}

func (n *node) kind() string {
	switch {
	case len(n.Enum) > 0:
		words := make([]string, len(n.Enum))
		for i, word := range n.Enum {
			words[i] = fmt.Sprintf("`%v`", word)
		}
		return strings.Join(words, ", ")
	case n.Ref != "":
		return "string"
	case n.Type == "array":
		return "list"
	}
	return n.Type
}

func TestTheConfigReferenceIsTheSchema(t *testing.T) {
	path := filepath.Join(projectFolder, "docs", "config.md")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	const begin, end = "<!-- generated: go test ./stacks -update -->\n\n", "<!-- end -->"
	before, rest, found := strings.Cut(string(text), begin)
	require.True(t, found)
	current, after, found := strings.Cut(rest, end)
	require.True(t, found)
	want := reference(t)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(before+begin+want+end+after), 0o644))
		return
	}
	assert.Equal(t, want, current, "if the schema is right, run: go test ./stacks -update")
}
