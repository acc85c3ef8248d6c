package modelfile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"ollama-k8s/internal/modelref"
	"ollama-k8s/internal/nearest"
)

var instructions = []string{
	"FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "MESSAGE", "LICENSE", "RENDERER", "PARSER", "REQUIRES",
}

// take checks an instruction and keeps what the rest of the program needs of it.
func (r *reading) take(found instruction) {
	name := strings.ToUpper(found.name)
	if found.open {
		r.report(
			found.line,
			`%s has a value that begins with a quote and never ends: close it with %s; a comment needs a line of its own`, name,
			found.quote,
		)
		// The rest of the file was taken for the value.
		r.named = true
		return
	}
	switch name {
	case "FROM":
		r.from(found)
	case "ADAPTER":
		r.report(
			found.line,
			"ADAPTER %s is a file: the writer has the Modelfile only, not the file; push a model that has the adapter to a "+
				"registry and make this one FROM it",
			found.value,
		)
	case "PARAMETER":
		if problem := checkParameter(found.key, found.value, found.bare); problem != "" {
			r.report(found.line, "PARAMETER %s", problem)
		}
		r.file.Parameters[found.key] = append(r.file.Parameters[found.key], Value{found.value, found.line})
	case "MESSAGE":
		if roles := []string{"system", "user", "assistant"}; !slices.Contains(roles, found.key) {
			r.report(
				found.line,
				"MESSAGE: the role %q is not allowed: write MESSAGE, one space, the role (system, user or assistant) and the text",
				found.key,
			)
		} else if found.bare {
			r.report(found.line, "MESSAGE %s has no value: write it behind the role, on the same line", found.key)
		}
	case "TEMPLATE", "SYSTEM", "LICENSE", "RENDERER", "PARSER", "REQUIRES":
		switch {
		case found.bare:
			r.report(
				found.line, `%s has no value: write it behind the instruction, beginning on the same line (%s)`, name, blocks,
			)
		case name == "TEMPLATE":
			r.template(found)
		case name == "REQUIRES" && !version.MatchString(found.value):
			r.report(found.line, "REQUIRES %q is not a version: give the oldest Ollama that will do, e.g. 0.17.4", found.value)
		}
	default:
		near := nearest.To(name, instructions)
		r.named = r.named || near == "FROM"
		if near != "" {
			r.report(found.line, "%q is no instruction: did you mean %s?", found.name, near)
			return
		}
		r.report(found.line, "%q is no instruction: use one of %s (%s)", found.name, strings.Join(instructions, ", "), blocks)
	}
}

// blocks is the remedy for a text that goes on below its instruction.
const blocks = `a text of several lines stands between """ and """`

func (r *reading) from(found instruction) {
	r.named = true
	r.file.From, r.file.FromLine = found.value, found.line
	switch _, err := modelref.Parse(found.value); {
	case found.value == "":
		r.report(found.line, "FROM has no value: name a model of the config behind it")
	case isFile(found.value):
		r.report(
			found.line,
			"FROM %s is a file: the writer has the Modelfile only, not the file; push the model to a registry and name it",
			found.value,
		)
	case err != nil && strings.Contains(found.value, "#"):
		r.report(
			found.line, "FROM %q: the comment is taken for a part of the name: a comment needs a line of its own", found.value,
		)
	case err != nil:
		r.report(found.line, "FROM: %v", err)
	}
}

// isFile tells a path from a model's name. In a name with a tag, .gguf is a part of the tag, as on Hugging Face.
func isFile(value string) bool {
	return strings.ContainsAny(value[:1], `./~\`) || strings.Contains(value, `:\`) || !strings.Contains(value, ":") &&
		strings.HasSuffix(strings.ToLower(value), ".gguf")
}

// functions are those that a TEMPLATE has in Ollama; only their names matter here.
var functions = template.FuncMap{
	"json": fmt.Sprint, "currentDate": fmt.Sprint, "yesterdayDate": fmt.Sprint, "toTypeScriptType": fmt.Sprint,
}

func (r *reading) template(found instruction) {
	// The empty lines before it make the error's line number that of the file.
	above := strings.Repeat("\n", found.line-1)
	if _, err := template.New(r.path).Funcs(functions).Parse(above + found.value); err != nil {
		problem := strings.TrimPrefix(err.Error(), "template: ")
		r.problems = append(
			r.problems, problem+" in TEMPLATE: write it as a Go template with Ollama's variables, e.g. {{ .Prompt }}",
		)
	}
}

// version is a semantic version, of which the last parts may be left out.
var version = regexp.MustCompile(
	`^v?(0|[1-9]\d*)(\.(0|[1-9]\d*)(\.(0|[1-9]\d*)(-` + label + `(\.` + label +
		`)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?)?)?$`,
)

const label = `(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)`
