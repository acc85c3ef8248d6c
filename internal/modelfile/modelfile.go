// Package modelfile checks Modelfiles before they are deployed, by the rules of `ollama create` (0.17): what it would
// refuse in a pod, hours later, is refused here with the file and the line.
package modelfile

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// File is a Modelfile that `ollama create` takes.
type File struct {
	// From is the model that it is made of, and the line that says so; of several FROM the last one counts.
	From     string
	FromLine int
	// Parameters by name. A parameter may stand several times; only stop means them all, of others the last one counts.
	Parameters map[string][]Value
}

// Value is a parameter's text, without its quotes, and its line.
type Value struct {
	Text string
	Line int
}

// NumCtx is the context in tokens that the file fixes, and its line; not ok where it fixes none.
func (f *File) NumCtx() (value, line int, ok bool) { return f.integer("num_ctx") }

// NumPredict is the limit of output tokens that the file fixes, and its line; not ok where it fixes none.
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

// Parse reads a Modelfile. It finds all problems; each begins with path:line and ends with what to do. With any, the
// file is nil.
//
// Some that Ollama lets pass are problems here: text that is not UTF-8, an invisible character before an instruction, a
// stop without a text, a num_ctx below 1, an instruction's name as a PARAMETER, a FROM with https:// or with .gguf at
// the end of a name without a tag, and what is wrong in a FROM, TEMPLATE or PARAMETER that a later one replaces.
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
		r.report(1, "has no FROM: begin with FROM and a model of the config")
	}
	if len(r.problems) > 0 {
		return nil, r.problems
	}
	return r.file, nil
}

// invalid is where text stops being UTF-8; -1 if it is all UTF-8.
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

// reading is a file under way.
type reading struct {
	path     string
	file     *File
	problems []string
	// named: something is there, right or wrong, that is meant to be a FROM, so that its absence is no second problem.
	named bool
}

func (r *reading) report(line int, format string, values ...any) {
	r.problems = append(r.problems, fmt.Sprintf("%s:%d: %s", r.path, line, fmt.Sprintf(format, values...)))
}
