// Package modelfile checks Modelfiles before they are deployed, by the rules of `ollama create` (0.17). It reports
// errors with their file and line that would otherwise fail in a pod, hours later.
package modelfile

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// File is a Modelfile that `ollama create` accepts.
type File struct {
	// From is the base model, and FromLine its line. If there are several FROM, the last one counts.
	From     string
	FromLine int
	// Parameters by name. A parameter may occur several times: for stop all values count, for others only the last.
	Parameters map[string][]Value
}

// Value is a parameter's text without its quotes, and its line.
type Value struct {
	Text string
	Line int
}

// NumCtx returns the context in tokens that the file sets, and its line. ok is false if it sets none.
func (f *File) NumCtx() (value, line int, ok bool) { return f.integer("num_ctx") }

// NumPredict returns the limit of output tokens that the file sets, and its line. ok is false if it sets none.
func (f *File) NumPredict() (value, line int, ok bool) { return f.integer("num_predict") }

func (f *File) integer(parameter string) (value, line int, ok bool) {
	values := f.Parameters[parameter]
	if len(values) == 0 {
		return 0, 0, false
	}
	last := values[len(values)-1]
	value, err := strconv.Atoi(last.Text)
	return value, last.Line, err == nil
}

// Parse reads a Modelfile and reports all problems. Each begins with path:line and ends with a remedy. If there is one,
// the file is nil.
//
// Parse is stricter than Ollama. It also rejects text that is not UTF-8, an invisible character before an instruction,
// a stop without text, a num_ctx below 1, a PARAMETER named like an instruction, a FROM with https:// or with .gguf at
// the end of a name without a tag, and errors in a FROM, TEMPLATE or PARAMETER that a later one replaces.
func Parse(path string, text []byte) (*File, []string) {
	r := reading{path: path, file: &File{Parameters: map[string][]Value{}}}
	if at := invalid(text); at >= 0 {
		r.report(1+bytes.Count(text[:at], []byte("\n")), "the byte %#x is not UTF-8: save the file as UTF-8", text[at])
		return nil, r.problems
	}
	scan := scanner{rest: strings.TrimPrefix(string(text), "\ufeff"), line: 1}
	for found, ok := scan.next(); ok; found, ok = scan.next() {
		r.take(found)
	}
	if !r.named {
		r.report(1, "FROM is missing: begin with FROM and a model from the stack config")
	}
	if len(r.problems) > 0 {
		return nil, r.problems
	}
	return r.file, nil
}

// invalid returns the offset of the first byte that is not UTF-8, or -1.
func invalid(text []byte) int {
	for at := 0; at < len(text); {
		r, size := utf8.DecodeRune(text[at:])
		if r == utf8.RuneError && size == 1 {
			return at
		}
		at += size
	}
	return -1
}

// reading is the state of a Parse call.
type reading struct {
	path     string
	file     *File
	problems []string
	// named is true once the file has a FROM, valid or not. Parse then does not report that FROM is missing.
	named bool
}

func (r *reading) report(line int, format string, values ...any) {
	r.problems = append(r.problems, fmt.Sprintf("%s:%d: %s", r.path, line, fmt.Sprintf(format, values...)))
}
