// Package filter reads the language in which the APIs filter: a subset of
// AIP-160.
//
// In: text from a caller. Out: a tree of comparisons, with the position of
// each, or an error that says where the text is wrong. It knows no field and
// no database, and nothing is lost when a process crashes.
//
//	expression = factor { "AND" factor }
//	factor     = term { "OR" term }               OR binds tighter than AND
//	term       = [ "NOT" | "-" ] simple
//	simple     = "(" expression ")" | comparison
//	comparison = field ("=" | "!=" | "<" | "<=" | ">" | ">=") value
//	           | field ":" ( value | "(" value { ("OR" | ",") value } ")" )
package filter

import (
	"fmt"
	"strings"
)

// Bounds of a filter; a longer or deeper one is refused.
const (
	MaxLength      = 8192
	MaxDepth       = 32
	MaxComparisons = 500
)

// Op compares a field with a value.
type Op string

// The operators.
const (
	Equal          Op = "="
	NotEqual       Op = "!="
	Less           Op = "<"
	LessOrEqual    Op = "<="
	Greater        Op = ">"
	GreaterOrEqual Op = ">="
	Has            Op = ":" // equal to any of the values
)

// Expr is a node of a filter: And, Or, Not or *Comparison.
type Expr interface {
	// String is the node in the language, quoted and in parentheses wherever
	// that could matter.
	String() string
}

// And holds when all of its parts do.
type And []Expr

// Or holds when any of its parts does.
type Or []Expr

// Not holds when its part does not.
type Not struct{ Expr Expr }

// Comparison holds when a field compares with a value. Only Has has more than
// one value.
type Comparison struct {
	Field  string
	Op     Op
	Values []string
	Pos    int // of the field in the text, in bytes from 0
}

func (e And) String() string { return join(e, " AND ") }
func (e Or) String() string  { return join(e, " OR ") }
func (e Not) String() string { return "NOT " + e.Expr.String() }

func join(parts []Expr, word string) string {
	texts := make([]string, len(parts))
	for i, p := range parts {
		texts[i] = p.String()
	}
	return "(" + strings.Join(texts, word) + ")"
}

func (c *Comparison) String() string {
	if c.Op != Has {
		return c.Field + " " + string(c.Op) + " " + Quote(c.Values[0])
	}
	texts := make([]string, len(c.Values))
	for i, v := range c.Values {
		texts[i] = Quote(v)
	}
	return c.Field + ":(" + strings.Join(texts, " OR ") + ")"
}

var quoter = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// Quote makes a value of any text.
func Quote(s string) string { return `"` + quoter.Replace(s) + `"` }

// Error is a filter that cannot be read.
type Error struct {
	Pos     int // in bytes from 0
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("column %d: %s", e.Pos+1, e.Message) }

func fail(pos int, format string, args ...any) error {
	return &Error{Pos: pos, Message: fmt.Sprintf(format, args...)}
}

// Walk visits every comparison.
func Walk(e Expr, visit func(*Comparison) error) error {
	switch e := e.(type) {
	case And:
		return walkAll(e, visit)
	case Or:
		return walkAll(e, visit)
	case Not:
		return Walk(e.Expr, visit)
	case *Comparison:
		return visit(e)
	}
	return nil
}

func walkAll(parts []Expr, visit func(*Comparison) error) error {
	for _, p := range parts {
		if err := Walk(p, visit); err != nil {
			return err
		}
	}
	return nil
}

// Parse reads a filter. An empty one is nil: it holds for everything.
func Parse(text string) (Expr, error) {
	if len(text) > MaxLength {
		return nil, fail(MaxLength, "the filter is longer than %d bytes", MaxLength)
	}
	tokens, err := scan(text)
	if err != nil {
		return nil, err
	}
	p := parser{tokens: tokens}
	if p.peek().kind == tokenEnd {
		return nil, nil
	}
	e, err := p.expression(0)
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.kind != tokenEnd {
		return nil, fail(t.pos, "unexpected %s; join comparisons with AND or OR", t)
	}
	return e, nil
}

type parser struct {
	tokens      []token
	next        int
	comparisons int
}

func (p *parser) peek() token { return p.tokens[p.next] }

func (p *parser) take() token {
	t := p.tokens[p.next]
	if t.kind != tokenEnd {
		p.next++
	}
	return t
}

// accept takes the token if it is that keyword or sign.
func (p *parser) accept(kind tokenKind) bool {
	if p.peek().kind != kind {
		return false
	}
	p.next++
	return true
}

func (p *parser) expression(depth int) (Expr, error) {
	if depth > MaxDepth {
		return nil, fail(p.peek().pos, "parentheses are nested deeper than %d", MaxDepth)
	}
	return p.chain(tokenAnd, func() (Expr, error) { return p.factor(depth) }, func(parts []Expr) Expr { return And(parts) })
}

func (p *parser) factor(depth int) (Expr, error) {
	return p.chain(tokenOr, func() (Expr, error) { return p.term(depth) }, func(parts []Expr) Expr { return Or(parts) })
}

// chain reads one or more parts with a word between them.
func (p *parser) chain(word tokenKind, part func() (Expr, error), group func([]Expr) Expr) (Expr, error) {
	var parts []Expr
	for {
		e, err := part()
		if err != nil {
			return nil, err
		}
		parts = append(parts, e)
		if !p.accept(word) {
			break
		}
	}
	if len(parts) == 1 {
		return parts[0], nil
	}
	return group(parts), nil
}

func (p *parser) term(depth int) (Expr, error) {
	if p.accept(tokenNot) || p.accept(tokenMinus) {
		e, err := p.simple(depth)
		if err != nil {
			return nil, err
		}
		return Not{e}, nil
	}
	return p.simple(depth)
}

func (p *parser) simple(depth int) (Expr, error) {
	open := p.peek()
	if !p.accept(tokenOpen) {
		return p.comparison()
	}
	e, err := p.expression(depth + 1)
	if err != nil {
		return nil, err
	}
	if !p.accept(tokenClose) {
		return nil, fail(p.peek().pos, "expected \")\" for the \"(\" in column %d", open.pos+1)
	}
	return e, nil
}

func (p *parser) comparison() (Expr, error) {
	field := p.take()
	if field.kind != tokenText || field.quoted {
		return nil, fail(field.pos, "expected the name of a field, found %s", field)
	}
	if p.comparisons++; p.comparisons > MaxComparisons {
		return nil, fail(field.pos, "more than %d comparisons", MaxComparisons)
	}
	op := p.take()
	if op.kind != tokenOp {
		return nil, fail(op.pos, "expected =, !=, <, <=, >, >= or : after %q, found %s", field.text, op)
	}
	c := &Comparison{Field: field.text, Op: Op(op.text), Pos: field.pos}
	if c.Op == Has && p.accept(tokenOpen) {
		return c, p.list(c)
	}
	value, err := p.value()
	if err != nil {
		return nil, err
	}
	c.Values = []string{value}
	return c, nil
}

// list reads the values of a Has after its "(".
func (p *parser) list(c *Comparison) error {
	for {
		value, err := p.value()
		if err != nil {
			return err
		}
		if c.Values = append(c.Values, value); len(c.Values) > MaxComparisons {
			return fail(c.Pos, "more than %d values", MaxComparisons)
		}
		if p.accept(tokenClose) {
			return nil
		}
		if !p.accept(tokenOr) && !p.accept(tokenComma) {
			return fail(p.peek().pos, "expected OR, \",\" or \")\" in the list of values, found %s", p.peek())
		}
	}
}

func (p *parser) value() (string, error) {
	t := p.take()
	if t.kind == tokenMinus && p.peek().kind == tokenText && !p.peek().quoted && p.peek().pos == t.pos+1 {
		return "-" + p.take().text, nil // a negative number
	}
	if t.kind != tokenText {
		return "", fail(t.pos, "expected a value, found %s", t)
	}
	return t.text, nil
}
