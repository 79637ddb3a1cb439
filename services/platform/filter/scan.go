package filter

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

type tokenKind int

const (
	tokenEnd tokenKind = iota
	tokenText
	tokenOp
	tokenOpen
	tokenClose
	tokenComma
	tokenMinus
	tokenAnd
	tokenOr
	tokenNot
)

type token struct {
	kind   tokenKind
	text   string
	quoted bool
	pos    int
}

func (t token) String() string {
	if t.kind == tokenEnd {
		return "the end of the filter"
	}
	return fmt.Sprintf("%q", t.text)
}

var keywords = map[string]tokenKind{"AND": tokenAnd, "OR": tokenOr, "NOT": tokenNot}

var signs = map[byte]tokenKind{'(': tokenOpen, ')': tokenClose, ',': tokenComma, ':': tokenOp, '=': tokenOp}

// scan cuts the text into tokens, an end token last.
func scan(text string) ([]token, error) {
	if !utf8.ValidString(text) {
		return nil, fail(0, "the filter is not valid UTF-8")
	}
	var tokens []token
	for pos := 0; pos < len(text); {
		if strings.IndexByte(" \t\r\n", text[pos]) >= 0 {
			pos++
			continue
		}
		t, end, err := scanOne(text, pos)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, t)
		pos = end
	}
	return append(tokens, token{kind: tokenEnd, pos: len(text)}), nil
}

func scanOne(text string, pos int) (token, int, error) {
	c := text[pos]
	switch {
	case c == '"' || c == '\'':
		return scanQuoted(text, pos)
	case c == '<' || c == '>' || c == '!':
		end := pos + 1
		if end < len(text) && text[end] == '=' {
			end++
		}
		if text[pos:end] == "!" {
			return token{}, 0, fail(pos, "expected != ; to negate, write NOT")
		}
		return token{kind: tokenOp, text: text[pos:end], pos: pos}, end, nil
	case c == '-':
		return token{kind: tokenMinus, text: "-", pos: pos}, pos + 1, nil
	}
	if kind, ok := signs[c]; ok {
		return token{kind: kind, text: text[pos : pos+1], pos: pos}, pos + 1, nil
	}
	end := pos
	for end < len(text) && strings.IndexByte(" \t\r\n\"'<>!=:(),", text[end]) < 0 {
		end++
	}
	t := token{kind: tokenText, text: text[pos:end], pos: pos}
	if kind, ok := keywords[t.text]; ok {
		t.kind = kind
	}
	return t, end, nil
}

// scanQuoted reads a string in quotes; a backslash takes the next character as
// it is.
func scanQuoted(text string, pos int) (token, int, error) {
	quote := text[pos]
	var b strings.Builder
	for i := pos + 1; i < len(text); i++ {
		switch text[i] {
		case quote:
			return token{kind: tokenText, text: b.String(), quoted: true, pos: pos}, i + 1, nil
		case '\\':
			if i++; i == len(text) {
				return token{}, 0, fail(pos, "the quoted string does not end")
			}
		}
		b.WriteByte(text[i])
	}
	return token{}, 0, fail(pos, "the quoted string does not end")
}
