package modelfile

import (
	"strconv"
	"strings"
)

// instruction is a name and its value. A quoted value may span several lines.
type instruction struct {
	name, value string
	// key is a PARAMETER's name or a MESSAGE's role.
	key  string
	line int
	// bare is true if the line ends right after the name or the key.
	bare bool
	// open is true if the quote around the value is never closed. quote then holds it.
	open  bool
	quote string
}

// scanner splits a text into instructions.
type scanner struct {
	rest string
	line int // where rest begins
}

// next skips blank lines and comments and reads an instruction. ok is false at the end. Only a # at the start of a line
// begins a comment.
func (s *scanner) next() (found instruction, ok bool) {
	for s.rest != "" {
		found.line = s.line
		line, ending := s.cut()
		if line = strings.TrimLeft(line, " \t"); line != "" && line[0] != '#' {
			s.read(&found, line, ending)
			return found, true
		}
	}
	return instruction{}, false
}

// cut removes the next line from the text. Its ending is CR, LF, CRLF, or empty at the end of the text.
func (s *scanner) cut() (line, ending string) {
	line, s.rest = s.rest, ""
	if end := strings.IndexAny(line, "\r\n"); end >= 0 {
		after := end + 1
		if strings.HasPrefix(line[end:], "\r\n") {
			after++
		}
		line, ending, s.rest = line[:end], line[end:after], line[after:]
		s.line++
	}
	return line, ending
}

// read parses an instruction's first line, and reads more lines until the quote around the value is closed.
func (s *scanner) read(found *instruction, line, ending string) {
	name, line, more := cutSpace(line)
	found.name = name
	if more && (strings.EqualFold(name, "parameter") || strings.EqualFold(name, "message")) {
		found.key, line, more = cutSpace(line)
	}
	found.bare = !more
	text := ""
	for {
		text += visible(line)
		value, quote, closed := unquote(strings.TrimSpace(text))
		if closed || ending == "" {
			found.value, found.quote, found.open = value, quote, !closed
			return
		}
		text += ending
		line, ending = s.cut()
	}
}

// cutSpace splits a line at its first space or tab.
func cutSpace(line string) (word, rest string, found bool) {
	if at := strings.IndexAny(line, " \t"); at >= 0 {
		return line[:at], line[at+1:], true
	}
	return line, "", false
}

// visible removes what Ollama removes from a value: control characters, zero-width spaces and no-break spaces.
func visible(line string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || strconv.IsPrint(r) {
			return r
		}
		return -1
	}, line)
}

// unquote removes the quotes around a value. closed is false if the value begins with a quote but does not end with
// one.
func unquote(value string) (text, quote string, closed bool) {
	for _, quote := range []string{`"""`, `"`} {
		if inner, quoted := strings.CutPrefix(value, quote); quoted {
			text, closed = strings.CutSuffix(inner, quote)
			return text, quote, closed
		}
	}
	return value, "", true
}
