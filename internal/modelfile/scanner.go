package modelfile

import "strings"

// instruction is a name and its value, which may be quoted and then go over several lines.
type instruction struct {
	name, value string
	line        int
	// open: the value's quote is never closed. bare: the line ends right behind the name.
	open, bare bool
}

type scanner struct {
	rest string
	line int // of rest
	last int // the line that cut gave last
}

// next skips blank lines and comments and reads an instruction; false at the end. A # within a line is no comment: only one that begins it is.
func (s *scanner) next() (found instruction, ok bool) {
	for {
		line, more := s.cut()
		if trimmed := strings.TrimLeft(line, " \t"); trimmed != "" && trimmed[0] != '#' {
			return s.instruction(trimmed), true
		}
		if !more {
			return instruction{}, false
		}
	}
}

// cut takes the next line off; CR, LF and CRLF end one.
func (s *scanner) cut() (line string, more bool) {
	s.last = s.line
	end := strings.IndexAny(s.rest, "\r\n")
	if end < 0 {
		line, s.rest = s.rest, ""
		return line, false
	}
	line, ending := s.rest[:end], s.rest[end:]
	if strings.HasPrefix(ending, "\r\n") {
		ending = ending[1:]
	}
	s.rest = ending[1:]
	s.line++
	return line, true
}

func (s *scanner) instruction(text string) instruction {
	at := s.last
	name, value, spaced := strings.Cut(text, " ")
	if tabbed := strings.IndexByte(name, '\t'); tabbed >= 0 {
		name, value, spaced = name[:tabbed], text[tabbed+1:], true
	}
	found := instruction{name: name, line: at, bare: !spaced}
	// The part that may be quoted: behind a parameter's key and a message's role.
	head, quoted := "", value
	switch strings.ToLower(name) {
	case "parameter", "message":
		head, quoted, _ = strings.Cut(value, " ")
		head += " "
	}
	for !closed(strings.TrimSpace(quoted)) {
		line, more := s.cut()
		quoted += "\n" + line
		if !more && !closed(strings.TrimSpace(quoted)) {
			found.open = true
			break
		}
	}
	found.value = strings.TrimSpace(quoted)
	if head == "" {
		found.value = unquoted(found.value)
	}
	found.value = head + found.value
	return found
}

const triple = `"""`

// closed tells whether a value that begins with a quote ends with one.
func closed(value string) bool {
	switch {
	case strings.HasPrefix(value, triple):
		return len(value) >= 2*len(triple) && strings.HasSuffix(value, triple)
	case strings.HasPrefix(value, `"`):
		return len(value) >= 2 && strings.HasSuffix(value, `"`)
	}
	return true
}

func unquoted(value string) string {
	for _, quote := range []string{triple, `"`} {
		if strings.HasPrefix(value, quote) && closed(value) {
			return strings.TrimSuffix(strings.TrimPrefix(value, quote), quote)
		}
	}
	return value
}
