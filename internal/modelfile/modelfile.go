// Package modelfile checks Modelfiles before they are deployed, by the rules of `ollama create` (0.17): what it would refuse in a pod, hours
// later, is refused here with the file and the line.
package modelfile

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// File is a Modelfile that `ollama create` takes.
type File struct {
	// From is the model that it is made of, and the line that says so.
	From     string
	FromLine int
	// Parameters by name. A parameter may stand several times; only stop means them all, of others the last one counts.
	Parameters map[string][]Value
}

// Value is a parameter's text and its line.
type Value struct {
	Text string
	Line int
}

// NumCtx is the context that the file fixes, and its line.
func (f *File) NumCtx() (value, line int, ok bool) {
	values := f.Parameters["num_ctx"]
	if len(values) == 0 {
		return 0, 0, false
	}
	last := values[len(values)-1]
	value, err := strconv.Atoi(last.Text)
	return value, last.Line, err == nil
}

// Parse reads a Modelfile. Each problem begins with path:line and ends with what to do; with any, the file is nil.
func Parse(path string, text []byte) (*File, []string) {
	if !utf8.Valid(text) {
		return nil, []string{path + ":1: is not UTF-8: save it as UTF-8"}
	}
	file := &File{Parameters: map[string][]Value{}}
	var problems []string
	report := func(line int, format string, values ...any) {
		problems = append(problems, fmt.Sprintf("%s:%d: %s", path, line, fmt.Sprintf(format, values...)))
	}
	scan := scanner{rest: strings.TrimPrefix(string(text), "\ufeff"), line: 1}
	for {
		found, ok := scan.next()
		if !ok {
			break
		}
		if found.open {
			report(found.line, "%s has a value that begins with a quote and never ends: close the quote", strings.ToUpper(found.name))
		}
		if found.value == "" && found.bare {
			report(found.line, "%q has no value: write it behind the instruction, on the same line", found.name)
			continue
		}
		file.take(found, report)
	}
	if file.FromLine == 0 && len(problems) == 0 {
		report(1, "has no FROM: begin with FROM and a model of the config")
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return file, nil
}

func (f *File) take(found instruction, report func(line int, format string, values ...any)) {
	switch name := strings.ToLower(found.name); name {
	case "from":
		if isPath(found.value) {
			report(found.line, "FROM %s is a file: the writer has the Modelfile only; push the model to a registry and name it", found.value)
		}
		f.From, f.FromLine = found.value, found.line
	case "adapter":
		report(found.line, "ADAPTER %s is a file: the writer has the Modelfile only; push a model that has the adapter to a registry and make this one FROM it", found.value)
		if f.FromLine == 0 {
			return
		}
	case "parameter":
		key, value, _ := strings.Cut(found.value, " ")
		value = unquoted(strings.TrimSpace(value))
		if problem := checkParameter(key, value); problem != "" {
			report(found.line, "PARAMETER %s", problem)
		}
		f.Parameters[key] = append(f.Parameters[key], Value{value, found.line})
	case "message":
		role, _, _ := strings.Cut(found.value, " ")
		if role != "system" && role != "user" && role != "assistant" {
			report(found.line, "MESSAGE %s: the role is not allowed: use system, user or assistant", role)
		}
	case "template", "system", "license", "renderer", "parser", "requires":
	default:
		report(found.line, "%q is no instruction: use one of FROM, PARAMETER, TEMPLATE, SYSTEM, MESSAGE, LICENSE, RENDERER, PARSER, REQUIRES", found.name)
	}
}

func isPath(value string) bool {
	return strings.HasPrefix(value, ".") || strings.HasPrefix(value, "/") || strings.HasPrefix(value, "~") || strings.HasSuffix(strings.ToLower(value), ".gguf")
}
