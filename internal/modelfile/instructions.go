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

// take checks an instruction and keeps what the rest of the program needs.
func (r *reading) take(found instruction) {
	name := strings.ToUpper(found.name)
	if found.open {
		r.report(
			found.line,
			`%s: the quoted value never ends: close it with %s, and put comments on their own line`, name,
			found.quote,
		)
		// The value swallowed the rest of the file, which may include the FROM.
		r.named = true
		return
	}
	switch name {
	case "FROM":
		r.from(found)
	case "ADAPTER":
		r.report(
			found.line,
			"ADAPTER %s is a file, and the writer has only the Modelfile: push a model with the adapter to a registry "+
				"and use it in FROM",
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
			r.report(found.line, "MESSAGE %s has no value: write it after the role, on the same line", found.key)
		}
	case "TEMPLATE", "SYSTEM", "LICENSE", "RENDERER", "PARSER", "REQUIRES":
		switch {
		case found.bare:
			r.report(
				found.line, `%s has no value: start it after the instruction, on the same line (%s)`, name, blocks,
			)
		case name == "TEMPLATE":
			r.template(found)
		case name == "REQUIRES" && !version.MatchString(found.value):
			r.report(found.line, "REQUIRES %q is not a version: use the oldest Ollama that works, e.g. 0.17.4", found.value)
		}
	default:
		near := nearest.To(name, instructions)
		r.named = r.named || near == "FROM"
		if near != "" {
			r.report(found.line, "unknown instruction %q: did you mean %s?", found.name, near)
			return
		}
		known := strings.Join(instructions, ", ")
		r.report(found.line, "unknown instruction %q: use one of %s (%s)", found.name, known, blocks)
	}
}

// blocks tells how to write a text that continues below its instruction.
const blocks = `put a text of several lines between """ and """`

func (r *reading) from(found instruction) {
	r.named = true
	r.file.From, r.file.FromLine = found.value, found.line
	switch _, err := modelref.Parse(found.value); {
	case found.value == "":
		r.report(found.line, "FROM has no value: name a model from the stack config after it")
	case isFile(found.value):
		r.report(
			found.line,
			"FROM %s is a file, and the writer has only the Modelfile: push the model to a registry and name it here",
			found.value,
		)
	case err != nil && strings.Contains(found.value, "#"):
		r.report(
			found.line, "FROM %q: Ollama reads the comment as part of the name: put comments on their own line", found.value,
		)
	case err != nil:
		r.report(found.line, "FROM: %v", err)
	}
}

// isFile reports whether value is a path and not a model name. In a name with a tag, .gguf is part of the tag, as on
// Hugging Face.
func isFile(value string) bool {
	return strings.ContainsAny(value[:1], `./~\`) || strings.Contains(value, `:\`) || !strings.Contains(value, ":") &&
		strings.HasSuffix(strings.ToLower(value), ".gguf")
}

// functions are the functions that Ollama offers to a TEMPLATE. Only their names matter here.
var functions = template.FuncMap{
	"json": fmt.Sprint, "currentDate": fmt.Sprint, "yesterdayDate": fmt.Sprint, "toTypeScriptType": fmt.Sprint,
}

func (r *reading) template(found instruction) {
	// Leading empty lines make the error's line number that of the file.
	above := strings.Repeat("\n", found.line-1)
	if _, err := template.New(r.path).Funcs(functions).Parse(above + found.value); err != nil {
		problem := strings.TrimPrefix(err.Error(), "template: ")
		r.problems = append(
			r.problems, problem+" in TEMPLATE: write it as a Go template with Ollama's variables, e.g. {{ .Prompt }}",
		)
	}
}

// version matches a semantic version whose last parts may be missing.
var version = regexp.MustCompile(
	`^v?(0|[1-9]\d*)(\.(0|[1-9]\d*)(\.(0|[1-9]\d*)(-` + label + `(\.` + label +
		`)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?)?)?$`,
)

const label = `(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)`
