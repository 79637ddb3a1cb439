package scan

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/tollway/tollway/pipelines/call"
)

// MaxDepth is how deep values may nest.
const MaxDepth = 64

// SyntaxError says where a text stops being JSON, and why.
type SyntaxError struct {
	Pos    int // byte offset from the start of the buffer
	Reason string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("byte %d: %s", e.Pos, e.Reason) }

// Scanner walks a JSON text. The strings it returns are valid until the buffer
// is changed, and those that were escaped until Forget.
type Scanner struct {
	buf     []byte
	pos     int
	scratch []byte
}

// Reset starts at the beginning of buf.
func (s *Scanner) Reset(buf []byte) {
	s.buf, s.pos = buf, 0
	s.Forget()
}

// Forget frees the memory of unescaped strings for those to come.
func (s *Scanner) Forget() { s.scratch = s.scratch[:0] }

// Pos is the offset of the next byte.
func (s *Scanner) Pos() int { return s.pos }

func (s *Scanner) fail(reason string) error { return &SyntaxError{Pos: s.pos, Reason: reason} }

// Kind is the first byte of the next value with '0' for all numbers, and 0 at
// the end of the text.
func (s *Scanner) Kind() byte {
	for s.pos < len(s.buf) {
		switch c := s.buf[s.pos]; c {
		case ' ', '\n', '\t', '\r':
			s.pos++
		case '-', '1', '2', '3', '4', '5', '6', '7', '8', '9':
			return '0'
		default:
			return c
		}
	}
	return 0
}

func (s *Scanner) enter(open byte, reason string) error {
	if s.Kind() != open {
		return s.fail(reason)
	}
	s.pos++
	return nil
}

// EnterObject reads the '{'.
func (s *Scanner) EnterObject() error { return s.enter('{', "expected an object") }

// EnterArray reads the '['.
func (s *Scanner) EnterArray() error { return s.enter('[', "expected an array") }

// Element moves to the next element of an array; false at its end.
func (s *Scanner) Element(first bool) (bool, error) {
	return s.member(first, ']', "expected ',' or ']'")
}

// Key reads the next key of an object and the ':'; false at its end.
func (s *Scanner) Key(first bool) (key string, more bool, err error) {
	if more, err = s.member(first, '}', "expected ',' or '}'"); !more {
		return "", false, err
	}
	if s.Kind() != '"' {
		return "", false, s.fail("expected a key in quotes")
	}
	if key, err = s.String(); err != nil {
		return "", false, err
	}
	if s.Kind() != ':' {
		return "", false, s.fail("expected ':'")
	}
	s.pos++
	return key, true, nil
}

func (s *Scanner) member(first bool, closing byte, reason string) (bool, error) {
	c := s.Kind()
	switch {
	case c == closing:
		s.pos++
		return false, nil
	case first:
		return true, nil
	case c != ',':
		return false, s.fail(reason)
	}
	s.pos++
	if s.Kind() == closing {
		return false, s.fail("comma before the end")
	}
	return true, nil
}

// End fails if anything but white space is left.
func (s *Scanner) End() error {
	if s.Kind() != 0 || s.pos < len(s.buf) {
		return s.fail("text after the value")
	}
	return nil
}

// String reads a string value. Invalid UTF-8 is left as it is.
func (s *Scanner) String() (string, error) {
	if s.Kind() != '"' {
		return "", s.fail("expected a string")
	}
	start := s.pos + 1
	s.pos = plain(s.buf, start)
	if s.pos < len(s.buf) && s.buf[s.pos] == '"' {
		s.pos++
		return call.Alias(s.buf[start : s.pos-1]), nil
	}
	return s.escaped(start)
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// plain returns the offset of the first quote, backslash or control character,
// or len(buf). It looks at eight bytes at a time: per byte, x-1 borrows into
// the high bit only where x was 0. A borrow can spoil higher bytes only, and
// the lowest is the one that counts.
func plain(buf []byte, pos int) int {
	for pos+8 <= len(buf) {
		w := binary.LittleEndian.Uint64(buf[pos:])
		quote, slash := w^(ones*'"'), w^(ones*'\\')
		m := ((quote-ones)&^quote | (slash-ones)&^slash | (w-ones*0x20)&^w) & highs
		if m != 0 {
			return pos + bits.TrailingZeros64(m)>>3
		}
		pos += 8
	}
	for pos < len(buf) && buf[pos] != '"' && buf[pos] != '\\' && buf[pos] >= 0x20 {
		pos++
	}
	return pos
}

// escaped reads the rest of a string that has an escape at s.pos, or an error.
func (s *Scanner) escaped(start int) (string, error) {
	from := len(s.scratch)
	for {
		s.scratch = append(s.scratch, s.buf[start:s.pos]...)
		switch {
		case s.pos >= len(s.buf):
			return "", s.fail("string without end")
		case s.buf[s.pos] == '"':
			s.pos++
			return call.Alias(s.scratch[from:]), nil
		case s.buf[s.pos] != '\\':
			return "", s.fail("control character in a string")
		}
		if err := s.unescape(); err != nil {
			return "", err
		}
		start = s.pos
		s.pos = plain(s.buf, start)
	}
}

// unescape reads one escape into scratch.
func (s *Scanner) unescape() error {
	if s.pos+1 >= len(s.buf) {
		return s.fail("string without end")
	}
	c := s.buf[s.pos+1]
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		return s.unescapeUnicode()
	default:
		return s.fail("unknown escape in a string")
	}
	s.scratch = append(s.scratch, c)
	s.pos += 2
	return nil
}

func (s *Scanner) unescapeUnicode() error {
	r, ok := hex4(s.buf[s.pos:])
	if !ok {
		return s.fail(`\u without four hexadecimal digits`)
	}
	s.pos += 6
	if utf16.IsSurrogate(r) {
		// Half a pair reads as U+FFFD, as encoding/json has it.
		second, ok := hex4(s.buf[s.pos:])
		if pair := utf16.DecodeRune(r, second); ok && pair != utf8.RuneError {
			r = pair
			s.pos += 6
		} else {
			r = utf8.RuneError
		}
	}
	s.scratch = utf8.AppendRune(s.scratch, r)
	return nil
}

// hex4 reads \uXXXX.
func hex4(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// Number reads a number as its text.
func (s *Scanner) Number() (string, error) {
	if s.Kind() != '0' {
		return "", s.fail("expected a number")
	}
	start := s.pos
	if s.buf[s.pos] == '-' {
		s.pos++
	}
	if s.pos < len(s.buf) && s.buf[s.pos] == '0' {
		s.pos++
	} else if !s.digits() {
		return "", s.fail("expected a digit")
	}
	if s.at('.') && !s.digitsAfter(1) {
		return "", s.fail("expected a digit after the point")
	}
	if s.at('e') || s.at('E') {
		s.pos++
		if s.at('+') || s.at('-') {
			s.pos++
		}
		if !s.digits() {
			return "", s.fail("expected a digit in the exponent")
		}
	}
	return call.Alias(s.buf[start:s.pos]), nil
}

func (s *Scanner) at(c byte) bool { return s.pos < len(s.buf) && s.buf[s.pos] == c }

func (s *Scanner) digitsAfter(n int) bool {
	s.pos += n
	return s.digits()
}

func (s *Scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.buf) && s.buf[s.pos]-'0' <= 9 {
		s.pos++
	}
	return s.pos > start
}

// Null reads null, if it is next.
func (s *Scanner) Null() bool { return s.Kind() == 'n' && s.literal("null") }

func (s *Scanner) literal(word string) bool {
	if len(s.buf)-s.pos < len(word) || string(s.buf[s.pos:s.pos+len(word)]) != word {
		return false
	}
	s.pos += len(word)
	return true
}

// Skip reads any value.
func (s *Scanner) Skip() error { return s.skip(0) }

func (s *Scanner) skip(depth int) error {
	if depth > MaxDepth {
		return s.fail("nested too deeply")
	}
	switch s.Kind() {
	case '"':
		_, err := s.String()
		return err
	case '0':
		_, err := s.Number()
		return err
	case '{':
		return s.skipObject(depth)
	case '[':
		return s.skipArray(depth)
	case 'n':
		if s.literal("null") {
			return nil
		}
	case 't':
		if s.literal("true") {
			return nil
		}
	case 'f':
		if s.literal("false") {
			return nil
		}
	case 0:
		if s.pos >= len(s.buf) {
			return s.fail("text ends where a value should be")
		}
	}
	return s.fail("expected a value")
}

func (s *Scanner) skipObject(depth int) error {
	s.pos++
	for first := true; ; first = false {
		_, more, err := s.Key(first)
		if !more {
			return err
		}
		if err := s.skip(depth + 1); err != nil {
			return err
		}
	}
}

func (s *Scanner) skipArray(depth int) error {
	s.pos++
	for first := true; ; first = false {
		more, err := s.Element(first)
		if !more {
			return err
		}
		if err := s.skip(depth + 1); err != nil {
			return err
		}
	}
}
