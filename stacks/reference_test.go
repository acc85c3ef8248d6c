package stacks_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/stacks"
)

// The README's config reference is the schema, as a table.

type node struct {
	Description          string
	Type                 string
	Enum                 []any
	Default              any
	Ref                  string `json:"$ref"`
	Required             []string
	Properties           map[string]*node
	AdditionalProperties any
	Items                *node
}

func reference(t *testing.T) string {
	t.Helper()
	root := &node{}
	require.NoError(t, json.Unmarshal(stacks.SchemaJSON, root))
	var table strings.Builder
	table.WriteString("| key | type | default | meaning |\n| --- | --- | --- | --- |\n")
	rows(t, &table, "", root)
	return table.String()
}

func rows(t *testing.T, table *strings.Builder, prefix string, n *node) {
	keys := make([]string, 0, len(n.Properties))
	for key := range n.Properties {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		child := n.Properties[key]
		require.NotEmpty(t, child.Description, "%s%s has no description", prefix, key)
		standard := ""
		if child.Default != nil {
			text, err := json.Marshal(child.Default)
			require.NoError(t, err)
			standard = "`" + string(text) + "`"
		}
		for _, required := range n.Required {
			if required == key {
				standard = "required"
			}
		}
		fmt.Fprintf(table, "| `%s%s` | %s | %s | %s |\n", prefix, key, child.kind(), standard, child.Description)
		rows(t, table, prefix+key+".", child)
		if child.Items != nil {
			rows(t, table, prefix+key+"[].", child.Items)
		}
		if any, ok := child.AdditionalProperties.(map[string]any); ok {
			text, err := json.Marshal(any)
			require.NoError(t, err)
			other := &node{}
			require.NoError(t, json.Unmarshal(text, other))
			rows(t, table, prefix+key+".<name>.", other)
		}
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

func TestTheREADMEsReferenceIsTheSchema(t *testing.T) {
	path := filepath.Join(projectFolder, "README.md")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(text), "<!-- reference -->\n")
	require.True(t, found)
	current, after, found := strings.Cut(rest, "<!-- /reference -->")
	require.True(t, found)
	want := "\n" + reference(t) + "\n"
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(before+"<!-- reference -->\n"+want+"<!-- /reference -->"+after), 0o644))
		return
	}
	assert.Equal(t, want, current, "if the schema is right, run: go test ./stacks -update")
}
