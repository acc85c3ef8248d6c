package components

import (
	"embed"
	"strings"
	"text/template"
)

// The programs and configurations that the pods run. They are files of their own so that haproxy -c, shellcheck,
// promtool and the like can check them.
//
//go:embed files
var files embed.FS

// file returns an embedded file. A missing one is a programming error that every test of the package would meet.
func file(name string) string {
	content, err := files.ReadFile("files/" + name)
	if err != nil {
		panic(err)
	}
	return string(content)
}

// render executes an embedded text/template.
func render(name string, values any) (string, error) { return fill(name, "{{", "}}", values) }

// fill is render for a file in which other programs use the braces.
func fill(name, left, right string, values any) (string, error) {
	parsed, err := template.New(name).Delims(left, right).Option("missingkey=error").Parse(file(name))
	if err != nil {
		return "", err
	}
	var out strings.Builder
	if err := parsed.Execute(&out, values); err != nil {
		return "", err
	}
	return out.String(), nil
}
