package components

import (
	"embed"
	"strings"
	"text/template"
)

// Scripts and configurations for the pods. They are separate files so that haproxy -c, shellcheck, promtool and others
// can check them.
//
//go:embed files
var files embed.FS

// file returns an embedded file. It panics if the file is missing, which every test of the package would reveal.
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
