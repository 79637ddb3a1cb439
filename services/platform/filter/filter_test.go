package filter

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	cases := []struct{ text, want string }{
		{`product = payments`, `product = "payments"`},
		{`product="a b"`, `product = "a b"`},
		{`product = 'it"s'`, `product = "it\"s"`},
		{`status >= 500 AND status<600`, `(status >= "500" AND status < "600")`},
		{`a=1 AND b=2 OR c=3`, `(a = "1" AND (b = "2" OR c = "3"))`}, // OR binds tighter
		{`(a=1 AND b=2) OR c=3`, `((a = "1" AND b = "2") OR c = "3")`},
		{`NOT a=1 AND -b=2`, `(NOT a = "1" AND NOT b = "2")`},
		{`NOT (a=1 OR b!=2)`, `NOT (a = "1" OR b != "2")`},
		{`region:(eu OR us, "ap 1")`, `region:("eu" OR "us" OR "ap 1")`},
		{`region:eu`, `region:("eu")`},
		{`grpc_status = -1`, `grpc_status = "-1"`},
		{`operation = "GET /v1/{id}"`, `operation = "GET /v1/{id}"`},
		{`path = /v1/x*`, `path = "/v1/x*"`},
		{`a = "\\\""`, `a = "\\\""`},
	}
	for _, c := range cases {
		e, err := Parse(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got := e.String(); got != c.want {
			t.Errorf("%s is %s, want %s", c.text, got, c.want)
		}
	}
	for _, text := range []string{"", "  \t\n"} {
		if e, err := Parse(text); e != nil || err != nil {
			t.Errorf("%q is %v, %v; want nothing", text, e, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	cases := []struct {
		text, want string
		pos        int
	}{
		{`product`, `expected =, !=, <, <=, >, >= or : after "product", found the end of the filter`, 7},
		{`product =`, `expected a value, found the end of the filter`, 9},
		{`= x`, `expected the name of a field, found "="`, 0},
		{`"a" = x`, `expected the name of a field, found "a"`, 0},
		{`a = x b = y`, `unexpected "b"; join comparisons with AND or OR`, 6},
		{`a = x AND`, `expected the name of a field, found the end of the filter`, 9},
		{`(a = x`, `expected ")" for the "(" in column 1`, 6},
		{`a = x)`, `unexpected ")"; join comparisons with AND or OR`, 5},
		{`a = "x`, `the quoted string does not end`, 4},
		{`a = "x\`, `the quoted string does not end`, 4},
		{`a:(x y)`, `expected OR, "," or ")" in the list of values, found "y"`, 5},
		{`a:()`, `expected a value, found ")"`, 3},
		{`a ! b`, `expected != ; to negate, write NOT`, 2},
		{`a = AND`, `expected a value, found "AND"`, 4},
		{"a = \xff", `the filter is not valid UTF-8`, 0},
		{strings.Repeat("(", 100) + "a=1" + strings.Repeat(")", 100), `parentheses are nested deeper than 32`, 33},
		{strings.Repeat("x", 9000), `the filter is longer than 8192 bytes`, 8192},
		{"a=1" + strings.Repeat(" OR a=1", 600), `more than 500 comparisons`, 3500},
	}
	for _, c := range cases {
		_, err := Parse(c.text)
		var parsing *Error
		if !errors.As(err, &parsing) || parsing.Message != c.want || parsing.Pos != c.pos {
			t.Errorf("%.60s: %v, want %q at %d", c.text, err, c.want, c.pos)
		}
	}
}

// randomExpr makes a tree as Parse would: groups have two parts or more.
func randomExpr(t *rapid.T, depth int) Expr {
	kind := rapid.IntRange(0, 4).Draw(t, "kind")
	if depth == 0 {
		kind = 0
	}
	parts := func() []Expr {
		all := make([]Expr, rapid.IntRange(2, 3).Draw(t, "parts"))
		for i := range all {
			all[i] = randomExpr(t, depth-1)
		}
		return all
	}
	switch kind {
	case 1:
		return And(parts())
	case 2:
		return Or(parts())
	case 3:
		if e := randomExpr(t, depth-1); !isNot(e) {
			return Not{e}
		}
	}
	op := rapid.SampledFrom([]Op{Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual, Has}).Draw(t, "op")
	c := &Comparison{Field: rapid.SampledFrom([]string{"product", "status", "status_class"}).Draw(t, "field"), Op: op}
	c.Values = rapid.SliceOfN(rapid.String(), 1, 1).Draw(t, "values")
	if op == Has {
		c.Values = rapid.SliceOfN(rapid.String(), 1, 4).Draw(t, "values")
	}
	return c
}

func isNot(e Expr) bool { _, not := e.(Not); return not }

// TestRoundTrip: what a tree prints is read back as the same tree, whatever
// its values hold.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := randomExpr(t, 4).String()
		if len(text) > MaxLength {
			t.Skip("too long")
		}
		e, err := Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if e.String() != text {
			t.Fatalf("%s is read as %s", text, e)
		}
	})
}

// FuzzParse: any text is refused with a position inside it, or is a filter
// that prints as a text which means the same.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`product = "a" AND (status >= 500 OR NOT region:(eu OR us))`, `a='\''`, `-a=-1`, `a:"x,y"`, `((`, `a=1 AND`, `"`, `a!`, "a=\x00",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := Parse(text)
		if err != nil {
			var parsing *Error
			if !errors.As(err, &parsing) || parsing.Pos < 0 || parsing.Pos > len(text) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if e == nil {
			if strings.Trim(text, " \t\r\n") != "" {
				t.Fatalf("%q is read as nothing", text)
			}
			return
		}
		printed := e.String()
		if len(printed) > MaxLength {
			return
		}
		again, err := Parse(printed)
		if err != nil {
			t.Fatalf("%q prints as %q, which is refused: %v", text, printed, err)
		}
		if again.String() != printed {
			t.Fatalf("%q prints as %q, which prints as %q", text, printed, again)
		}
	})
}
