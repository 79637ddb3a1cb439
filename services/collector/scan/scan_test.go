package scan

import (
	"bytes"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollway/tollway/pipelines/call"
)

// tree reads any value the way encoding/json would, with the scanner.
func tree(s *Scanner, depth int) (any, error) {
	switch s.Kind() {
	case '"':
		v, err := s.String()
		return strings.ToValidUTF8(strings.Clone(v), "\uFFFD"), err
	case '0':
		n, err := s.Number()
		return json.Number(strings.Clone(n)), err
	case '{':
		object := map[string]any{}
		if err := s.EnterObject(); err != nil {
			return nil, err
		}
		for first := true; ; first = false {
			key, more, err := s.Key(first)
			if !more {
				return object, err
			}
			name := strings.ToValidUTF8(strings.Clone(key), "\uFFFD")
			if object[name], err = tree(s, depth+1); err != nil {
				return nil, err
			}
		}
	case '[':
		array := []any{}
		if err := s.EnterArray(); err != nil {
			return nil, err
		}
		for first := true; ; first = false {
			more, err := s.Element(first)
			if !more {
				return array, err
			}
			v, err := tree(s, depth+1)
			if err != nil {
				return nil, err
			}
			array = append(array, v)
		}
	case 'n':
		if s.Null() {
			return nil, nil
		}
	case 't', 'f':
		value := s.Kind() == 't'
		return value, s.Skip()
	}
	return nil, s.fail("expected a value")
}

// standard reads with encoding/json. Runs of invalid UTF-8 bytes count as one
// there or several; both sides are compared after folding them.
func standard(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}

func compare(t require.TestingT, text []byte) {
	want, valid := any(nil), json.Valid(text)
	if valid {
		var err error
		want, err = standard(text)
		require.NoError(t, err)
	}
	var s Scanner
	s.Reset(text)
	got, err := tree(&s, 0)
	if err == nil {
		err = s.End()
	}
	require.Equal(t, valid, err == nil, "%q: %v", text, err)
	if valid {
		a, _ := json.Marshal(want)
		b, _ := json.Marshal(got)
		require.Equal(t, fold(a), fold(b), "%q", text)
	}
	s.Reset(text)
	err = s.Skip()
	if err == nil {
		err = s.End()
	}
	require.Equal(t, valid, err == nil, "skip %q: %v", text, err)
}

func fold(b []byte) string {
	s := string(b)
	for strings.Contains(s, "\uFFFD\uFFFD") {
		s = strings.ReplaceAll(s, "\uFFFD\uFFFD", "\uFFFD")
	}
	return s
}

var texts = []string{
	``, ` `, `{}`, `[]`, `[1,]`, `{"a":1,}`, `{"a" 1}`, `{a:1}`, `"`, `"\`, `"\u12"`, `"a\u00e9b"`, `"\ud83d\ude00"`, `"\ud83d"`,
	`"\ud83d\u0041"`, `"\ude00x"`, `"\x"`, "\"\x01\"", "\"\xff\xfe\"", `-`, `-0`, `01`, `1.`, `.5`, `1.5e`, `1e+5`, `1E-05`, `--1`,
	`nul`, `null`, `true`, `tru`, `false`, `{"a":{"b":[1,"x",null,true,{}]},"a":2}`, `[1 2]`, `{"a":1}{`, ` [ 1 , 2 ] `, `[,1]`, `{,}`,
	`"0123456789\"0123456789"`, `"\"\\\/\b\f\n\r\t"`, "\x00", "[\x00]", `123x`, `"abc`, `{"a"`, `{"a":`, `[`, `{`,
}

func TestScannerAgreesWithTheStandardLibrary(t *testing.T) {
	for _, text := range texts {
		compare(t, []byte(text))
	}
}

func FuzzScanner(f *testing.F) {
	for _, text := range texts {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if bytes.Count(text, []byte("[")) > MaxDepth-1 || bytes.Count(text, []byte("{")) > MaxDepth-1 {
			return
		}
		compare(t, text)
	})
}

func TestDepthIsBounded(t *testing.T) {
	var s Scanner
	s.Reset(bytes.Repeat([]byte("["), 1<<20))
	require.ErrorContains(t, s.Skip(), "nested too deeply")
}

func TestStringsSurviveGrowthUntilForget(t *testing.T) {
	var s Scanner
	s.Reset([]byte(`["a\n","b\n","` + strings.Repeat(`c\n`, 1000) + `"]`))
	require.NoError(t, s.EnterArray())
	var got []string
	for first := true; ; first = false {
		more, err := s.Element(first)
		require.NoError(t, err)
		if !more {
			break
		}
		v, err := s.String()
		require.NoError(t, err)
		got = append(got, v)
	}
	require.Equal(t, []string{"a\n", "b\n", strings.Repeat("c\n", 1000)}, got)
}

func TestTimeAgreesWithTheStandardLibrary(t *testing.T) {
	for _, s := range []string{
		"2026-11-24T05:39:49Z", "2026-11-24t05:39:49z", "2026-11-24T05:39:49.5Z", "2026-11-24T05:39:49.123456789+05:30",
		"2024-02-29T00:00:00Z", "2026-02-29T00:00:00Z", "2000-02-29T23:59:59-23:59", "1900-02-29T00:00:00Z", "0000-01-01T00:00:00Z", "0000-12-31T00:00:00Z",
		"9999-12-31T23:59:59.999999Z", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-01-32T00:00:00Z", "2026-01-01T24:00:00Z",
		"2026-01-01T00:60:00Z", "2026-01-01T00:00:60Z", "2026-01-01T00:00:00", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00.Z",
		"2026-01-01T00:00:00+0100", "", "x", "2026-01-01T00:00:00ZZ", "20a6-01-01T00:00:00Z", "1969-12-31T23:59:59.999999Z",
	} {
		compareTime(t, s)
	}
	rapid.Check(t, func(t *rapid.T) {
		at := time.UnixMicro(rapid.Int64Range(-62167219200_000000, 253402300799_999999).Draw(t, "µs")).
			In(time.FixedZone("", 60*rapid.IntRange(-14*60, 14*60).Draw(t, "zone")))
		if at.Year() < 0 || at.Year() > 9999 {
			return
		}
		compareTime(t, at.Format(time.RFC3339Nano))
	})
}

func compareTime(t require.TestingT, s string) {
	// The standard library takes neither small letters nor a fraction after a
	// comma as RFC 3339; the RFC allows small letters.
	want, wantErr := time.Parse(time.RFC3339Nano, strings.ToUpper(s))
	got, err := Time(s)
	require.Equal(t, wantErr == nil, err == nil, "%q: %v", s, wantErr)
	if err == nil {
		require.Equal(t, want.UnixMicro(), got, "%q", s)
	}
}

func TestUnsigned(t *testing.T) {
	for s, want := range map[string]error{
		"0": nil, "1000": nil, "1001": ErrTooLarge, "-1": ErrNegative, "1.0": ErrNotInteger, "1e3": ErrNotInteger, "": ErrNotInteger,
		"-": ErrNotInteger, "99999999999999999999999999": ErrTooLarge, "9223372036854775808": ErrTooLarge, "18446744073709551617": ErrTooLarge,
	} {
		_, err := Unsigned(s, 1000)
		require.Equal(t, want, err, "%q", s)
	}
}

func TestDecimalAgreesWithTheExactParser(t *testing.T) {
	check := func(t require.TestingT, s string) {
		want, wantErr := call.ParseDecimal(s)
		got, err := Decimal(s)
		require.Equal(t, wantErr == nil, err == nil, "%q", s)
		require.Equal(t, want, got, "%q", s)
	}
	for _, s := range []string{"0", "1", "12.5", "0.000000001", "0.0000000001", "999999999.999999999", "1234567890", "1e3", "1.", ".5", "1..2", "x", "", "12345678901234567890123456789.5"} {
		check(t, s)
	}
	_, err := Decimal("-1")
	require.Equal(t, ErrNegative, err)
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64().Draw(t, "n")
		check(t, new(big.Rat).SetFrac(new(big.Int).SetUint64(n), big.NewInt(1_000_000_000)).FloatString(rapid.IntRange(0, 11).Draw(t, "places")))
	})
}

func TestNetwork(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"203.0.113.77", "203.0.113.0"}, {"203.0.113.77:443", "203.0.113.0"}, {"2001:db8:1:2::3", "2001:db8:1::"},
		{"[2001:db8:1:2::3]:80", "2001:db8:1::"}, {"::ffff:203.0.113.77", "203.0.113.0"}, {"fe80::1%eth0", "fe80::"},
	} {
		got, err := DefaultNetwork().Append(nil, c.in)
		require.NoError(t, err)
		require.Equal(t, c.want, string(got))
	}
	_, err := DefaultNetwork().Append(nil, "unix:/run/x")
	require.Equal(t, ErrAddress, err)
	got, err := Network{}.Append(nil, "203.0.113.77")
	require.NoError(t, err)
	require.Empty(t, got)
	require.Error(t, Network{V4Bits: 33}.Validate())
	require.Error(t, Network{V6Bits: 129}.Validate())
}
