package modelfile

import (
	"strconv"
	"strings"
)

// instruction is a name and its value, which may be quoted and then go over several lines.
type instruction struct {
	name, value string
	// key is a PARAMETER's name or a MESSAGE's role.
	key  string
	line int
	// bare: the line ends right behind the name or the key.
	bare bool
	// open: the value's quote, which is then in quote, is never closed.
	open  bool
	quote string
}

// scanner parts a text into instructions.
type scanner struct {
	rest string
	line int // where rest begins
}

// next skips blank lines and comments and reads an instruction; false at the end. A # within a line is no comment: only
// one that begins it is.
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

// cut takes the next line and its ending off: CR, LF, CRLF or, at the end of the text, none.
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

// read takes an instruction's first line apart, and takes more lines until the value's quote is closed.
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

// cutSpace parts a line at its first space or tab.
func cutSpace(line string) (word, rest string, found bool) {
	if at := strings.IndexAny(line, " \t"); at >= 0 {
		return line[:at], line[at+1:], true
	}
	return line, "", false
}

// visible leaves out what Ollama leaves out of a value: control characters, and spaces of no width or that do not
// break.
func visible(line string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || strconv.IsPrint(r) {
			return r
		}
		return -1
	}, line)
}

// unquote takes the quotes off a value that has them; not closed where one begins it and none ends it.
func unquote(value string) (text, quote string, closed bool) {
	for _, quote := range []string{`"""`, `"`} {
		if inner, quoted := strings.CutPrefix(value, quote); quoted {
			text, closed = strings.CutSuffix(inner, quote)
			return text, quote, closed
		}
	}
	return value, "", true
}
