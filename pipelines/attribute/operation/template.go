package operation

import (
	"errors"
	"fmt"
	"strings"
)

// segment is one part of a template between slashes. A literal is one piece; two
// and more have a parameter between each two, so that a parameter alone is two
// empty pieces.
type segment []string

func (s segment) literal() bool { return len(s) == 1 }
func (s segment) param() bool   { return len(s) == 2 && s[0] == "" && s[1] == "" }
func (s segment) text() string  { return strings.Join(s, "{}") }

// letters is how much of the segment is literal.
func (s segment) letters() (n int) {
	for _, piece := range s {
		n += len(piece)
	}
	return n
}

// match tells whether what is in a path fits, with no parameter empty. Taking
// each inner piece as far left as it goes leaves most for those that follow.
func (s segment) match(text string) bool {
	last := len(s) - 1
	if !strings.HasPrefix(text, s[0]) {
		return false
	}
	text = text[len(s[0]):]
	for _, piece := range s[1:last] {
		if text == "" {
			return false
		}
		at := strings.Index(text[1:], piece)
		if at < 0 {
			return false
		}
		text = text[1+at+len(piece):]
	}
	return len(text) > len(s[last]) && strings.HasSuffix(text, s[last])
}

// template is a parsed base path or template.
type template struct {
	segments []segment
	rest     bool // anything may follow
}

func (t template) String() string {
	var b strings.Builder
	for _, s := range t.segments {
		b.WriteString("/" + s.text())
	}
	if t.rest {
		b.WriteString("/**")
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}

// Marks for what a parameter stands for; no template contains them.
const (
	markOne  = "\x00"
	markRest = "\x01"
)

func parseTemplate(text string) (template, error) {
	marked, err := mark(text)
	if err != nil || marked == "/" {
		return template{}, err
	}
	var t template
	parts := strings.Split(marked[1:], "/")
	for i, part := range parts {
		last := i == len(parts)-1
		switch {
		case part == markRest && last:
			t.rest = true
			return t, nil
		case strings.Contains(part, markRest):
			return template{}, errors.New("the rest of the path must be the whole last segment")
		case part == "" && !last:
			return template{}, errors.New("has an empty segment")
		}
		pieces := segment(strings.Split(part, markOne))
		for j, piece := range pieces {
			if piece == "" && j > 0 && j < len(pieces)-1 {
				return template{}, errors.New("two parameters need something between them")
			}
			pieces[j] = literal(piece)
		}
		t.segments = append(t.segments, pieces)
	}
	return t, nil
}

// mark replaces parameters by what they stand for.
func mark(text string) (string, error) {
	if !strings.HasPrefix(text, "/") {
		return "", errors.New("must begin with /")
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '?' || r == '#' }) {
		return "", errors.New("has a character that cannot be in a path: control characters, ? and #")
	}
	var b strings.Builder
	for text != "" {
		at := strings.IndexAny(text, "{}")
		if at < 0 {
			at = len(text)
		}
		b.WriteString(text[:at])
		if text = text[at:]; text == "" {
			break
		}
		end := strings.IndexByte(text, '}')
		if text[0] == '}' || end < 0 {
			return "", errors.New("has a brace without its other half")
		}
		pattern, err := parameter(text[1:end])
		if err != nil {
			return "", err
		}
		b.WriteString(pattern)
		text = text[end+1:]
	}
	return stars(b.String())
}

// parameter returns what a parameter stands for, of literals, * and **.
func parameter(text string) (string, error) {
	name, pattern, ok := strings.Cut(text, "=")
	if !ok {
		pattern = "*"
		if name, ok = strings.CutSuffix(name, "+"); ok {
			pattern = "**"
		}
	}
	if name == "" || strings.ContainsAny(text, "{:") || strings.Contains(name, "/") {
		return "", fmt.Errorf("parameter {%s} must be {name} or {name=pattern}, without a regular expression", text)
	}
	if pattern == "" || pattern[0] == '/' || pattern[len(pattern)-1] == '/' {
		return "", fmt.Errorf("parameter {%s} has a pattern that is empty or begins or ends with /", text)
	}
	// Within a segment, a mark can stand beside literals; a star cannot.
	switch pattern {
	case "*":
		return markOne, nil
	case "**":
		return markRest, nil
	}
	return stars(pattern)
}

// stars replaces the segments * and **.
func stars(text string) (string, error) {
	parts := strings.Split(text, "/")
	for i, part := range parts {
		switch {
		case part == "*":
			parts[i] = markOne
		case part == "**":
			parts[i] = markRest
		case strings.Contains(part, "*"):
			return "", errors.New("* and ** must be whole segments; use {name} within one")
		}
	}
	return strings.Join(parts, "/"), nil
}

// Shape is what a template matches, written so that two templates that match the
// same paths have the same shape: without the names of parameters, and with
// escapes undone where they mean nothing. The error says what is wrong with a
// template.
func Shape(text string) (string, error) {
	t, err := parseTemplate(text)
	if err != nil {
		return "", err
	}
	return t.String(), nil
}

// parseBasePath accepts what servers are described with: with and without a slash
// at the end, and nothing.
func parseBasePath(text string) (template, error) {
	trimmed := strings.TrimRight(text, "/")
	if trimmed == "" {
		return template{}, nil
	}
	t, err := parseTemplate(trimmed)
	if err != nil {
		return template{}, err
	}
	for _, s := range t.segments {
		if !s.literal() {
			return template{}, errors.New("must not have parameters")
		}
	}
	if t.rest {
		return template{}, errors.New("must not have parameters")
	}
	return t, nil
}
