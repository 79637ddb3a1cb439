package operation

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// reference says what Match must: each rule is a regular expression that is
// tried on every call, and what matches is ranked afterwards. It shares no code
// with the matcher.
type reference struct {
	rules []referenceRule
}

type referenceRule struct {
	Rule
	template *regexp.Regexp // nil in a rule without operation
	base     *regexp.Regexp
	segments []string // of base path and template, parameters as {}, the rest as **
}

var (
	variable = regexp.MustCompile(`\{[^{}=]*(?:=([^{}]*))?\}`)
	escape   = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
	foreign  = regexp.MustCompile(`[^\x01\x21-\x7e]+`)
	capitals = regexp.MustCompile(`[A-Z]+`)
	plain    = regexp.MustCompile(`^[0-9A-Za-z._~-]$`)
)

func normal(path string) string {
	return escape.ReplaceAllStringFunc(path, func(e string) string {
		if c, err := url.PathUnescape(e); err == nil && plain.MatchString(c) {
			return c
		}
		return strings.ToUpper(e)
	})
}

func newReference(rules []Rule) reference {
	var all reference
	for _, r := range rules {
		one := referenceRule{Rule: r}
		base := strings.TrimRight(r.BasePath, "/")
		one.base = regexp.MustCompile("(?s)^" + regexp.QuoteMeta(normal(base)) + "(/.*)?$")
		if r.Operation != "" {
			text := variable.ReplaceAllStringFunc(r.Template, func(v string) string {
				if m := variable.FindStringSubmatch(v); m[1] != "" {
					return strings.ReplaceAll(strings.ReplaceAll(m[1], "**", "\x01"), "*", "{}")
				}
				return "{}"
			})
			text = strings.ReplaceAll(strings.ReplaceAll(text, "/**", "/\x01"), "/*", "/{}")
			text = foreign.ReplaceAllStringFunc(text, url.PathEscape)
			text = normal(base) + strings.TrimSuffix("/"+strings.TrimPrefix(text, "/"), "/")
			if strings.HasSuffix(r.Template, "/") && r.Template != "/" {
				text += "/"
			}
			one.template, one.segments = expression(text)
		}
		all.rules = append(all.rules, one)
	}
	return all
}

// expression turns /a/{}/x{}/\x01 into a regular expression and its segments.
func expression(text string) (*regexp.Regexp, []string) {
	var pattern strings.Builder
	pattern.WriteString("^")
	var segments []string
	for _, s := range strings.Split(text, "/")[1:] {
		if s == "\x01" {
			pattern.WriteString("(?:/.*)?")
			segments = append(segments, "**")
			continue
		}
		var quoted []string
		for _, piece := range strings.Split(s, "{}") {
			quoted = append(quoted, regexp.QuoteMeta(normal(piece)))
		}
		pattern.WriteString("/" + strings.Join(quoted, "[^/]+"))
		segments = append(segments, normal(s))
	}
	if !strings.HasSuffix(text, "/") && !strings.HasSuffix(text, "\x01") {
		pattern.WriteString("/?")
	}
	return regexp.MustCompile("(?s)" + pattern.String() + "$"), segments
}

// hostRank is 0 for a host that does not match, and higher the more is named.
func hostRank(hosts []string, host string) int {
	host = capitals.ReplaceAllStringFunc(host, strings.ToLower)
	if m := regexp.MustCompile(`(?s)^(.*):[^\]:]*$`).FindStringSubmatch(host); m != nil {
		host = m[1]
	}
	host = strings.TrimSuffix(host, ".")
	best := 0
	if len(hosts) == 0 {
		return 1
	}
	for _, h := range hosts {
		h = strings.ToLower(h)
		switch suffix, wild := strings.CutPrefix(h, "*"); {
		case h == "*":
			best = max(best, 1)
		case wild && len(host) > len(suffix) && strings.HasSuffix(host, suffix) && len(host) < 256:
			best = max(best, 1+len(suffix))
		case h == host:
			best = max(best, 1000)
		}
	}
	return best
}

func methodRank(method, call string) int {
	switch {
	case method == "" || method == "*":
		return 1
	case strings.ToUpper(method) == call:
		return 2
	}
	return 0
}

// kinds says how specific each segment is, smaller being more specific; what
// ends early does so in one more step, which is less specific than a segment and
// more specific than the rest.
func kinds(segments []string) (ranks [][4]int, texts []string) {
	for _, s := range append(slices.Clone(segments), "\x02") {
		pieces := strings.Split(s, "{}")
		kind := [4]int{}
		switch {
		case s == "**":
			kind[0] = 5
		case s == "\x02":
			kind[0] = 4
		case s == "{}":
			kind[0] = 3
		case len(pieces) > 1:
			kind = [4]int{2, -len(strings.Join(pieces, "")), -len(pieces[0])}
		default:
			kind[0] = 1
		}
		ranks, texts = append(ranks, kind), append(texts, s)
	}
	return ranks, texts
}

func comparePaths(a, b []string) int {
	ka, ta := kinds(a)
	kb, tb := kinds(b)
	for i := range min(len(ka), len(kb)) {
		if c := slices.Compare(ka[i][:], kb[i][:]); c != 0 {
			return c
		}
		if ka[i][0] == 2 && ta[i] != tb[i] {
			return cmp.Compare(ta[i], tb[i])
		}
	}
	return 0
}

func (all reference) match(method, host, path string) (Target, bool) {
	path, _, _ = strings.Cut(path, "?")
	path, _, _ = strings.Cut(path, "#")
	path = normal(path)
	if !strings.HasPrefix(path, "/") {
		return Target{}, false
	}
	type hit struct {
		referenceRule
		host, method int
	}
	var operations, places []hit
	for _, r := range all.rules {
		h := hit{r, hostRank(r.Hosts, host), methodRank(r.Method, method)}
		if h.host == 0 {
			continue
		}
		if r.template != nil && h.method > 0 && r.template.MatchString(path) {
			operations = append(operations, h)
		}
		somewhere := strings.Trim(r.BasePath, "/") != "" || h.host > 1
		if somewhere && r.base.MatchString(path) {
			places = append(places, h)
		}
	}
	if len(operations) > 0 {
		best := slices.MinFunc(operations, func(a, b hit) int {
			return cmp.Or(cmp.Compare(b.host, a.host), comparePaths(a.segments, b.segments), cmp.Compare(b.method, a.method))
		})
		return Target{best.API, best.Operation}, true
	}
	if len(places) == 0 {
		return Target{}, false
	}
	rank := func(a, b hit) int {
		depth := func(h hit) int { return strings.Count(strings.TrimRight(h.BasePath, "/"), "/") }
		return cmp.Or(cmp.Compare(b.host, a.host), cmp.Compare(depth(b), depth(a)))
	}
	best := slices.MinFunc(places, rank)
	for _, p := range places {
		if rank(p, best) == 0 && p.API != best.API {
			return Target{API: "shared"}, false
		}
	}
	return Target{API: best.API}, true
}

// Small alphabets, so that rules overlap and calls meet them.
var (
	someSegments = []string{"a", "b", "A", "~x", "%7Ex", "%2f", "a.json", "{p}", "{q}", "{p}.json", "{p}:go", "a{p}", "a{p}c", "{p}-{q}", "b{p}-{q}", "{p}-{q}-{r}", "{p}c", "*", "{p=a/*}", "é"}
	someHosts    = []string{"h.example.com", "H.example.com", "*.example.com", "*.h.example.com", "*.com", "other", "*"}
	someBases    = []string{"", "/", "/a", "/a/", "/a/b", "/%7ex"}
	someMethods  = []string{"", "*", "GET", "post"}
	callParts    = []string{"a", "b", "A", "", ".", "..", "~x", "%7Ex", "%7ex", "%2F", "%2fa", "a.json", ".json", "x:go", "ac", "axc", "a-b", "b1-2", "a-b-c", "ab-.json", "a-", "b--", "%C3%A9", "%c3%a9", "%", "%4", "%zz", "%%37E"}
	callHosts    = []string{"h.example.com", "H.EXAMPLE.com:443", "x.h.example.com", "example.com", "y.example.com.", "other", "x.com", "", "[::1]:80", ".example.com", "é"}
	callMethods  = []string{"GET", "POST", "get", ""}
)

func drawRules(t *rapid.T) []Rule {
	pick := func(name string, from []string) string { return rapid.SampledFrom(from).Draw(t, name) }
	var rules []Rule
	for i := range rapid.IntRange(1, 12).Draw(t, "rules") {
		r := Rule{API: pick("api", []string{"x", "y"}), BasePath: pick("base", someBases)}
		for range rapid.IntRange(0, 2).Draw(t, "hosts") {
			r.Hosts = append(r.Hosts, pick("host", someHosts))
		}
		if rapid.IntRange(0, 5).Draw(t, "kind") > 0 {
			r.Operation, r.Method = fmt.Sprintf("o%d", i), pick("method", someMethods)
			for range rapid.IntRange(0, 4).Draw(t, "depth") {
				r.Template += "/" + pick("segment", someSegments)
			}
			r.Template += pick("end", []string{"", "", "/", "/**", "/{p=**}"})
			if r.Template == "" {
				r.Template = "/"
			}
		}
		rules = append(rules, r)
	}
	return rules
}

func drawPath(t *rapid.T) string {
	var b strings.Builder
	for range rapid.IntRange(0, 6).Draw(t, "parts") {
		b.WriteString("/" + rapid.SampledFrom(callParts).Draw(t, "part"))
	}
	return b.String() + rapid.SampledFrom([]string{"", "", "/", "?q=/a", "#f", "/?a#b"}).Draw(t, "end")
}

// newWithoutConflicts leaves out each rule that conflicts with those before it.
func newWithoutConflicts(t interface{ Fatalf(string, ...any) }, rules []Rule) (*Matcher, []Rule) {
	var kept []Rule
	m, err := New(nil)
	for _, r := range rules {
		next, nextErr := New(append(kept, r))
		if nextErr != nil {
			if !strings.Contains(nextErr.Error(), "match the same calls") {
				t.Fatalf("%+v: %v", r, nextErr)
			}
			continue
		}
		m, err, kept = next, nextErr, append(kept, r)
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
	return m, kept
}

func TestMatchIsWhatTheReferenceSays(t *testing.T) {
	hits, places := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		m, rules := newWithoutConflicts(t, drawRules(t))
		slow := newReference(rules)
		for range 100 {
			method := rapid.SampledFrom(callMethods).Draw(t, "method")
			host := rapid.SampledFrom(callHosts).Draw(t, "host")
			path := drawPath(t)
			got, ok := m.Match(method, host, path)
			want, wantOK := slow.match(method, host, path)
			if ok != wantOK || ok && got != want {
				t.Fatalf("%s %s %s: got %v %v, want %v %v\n%+v", method, host, path, got, ok, want, wantOK, rules)
			}
			switch {
			case ok && got.Operation != "":
				hits++
			case ok:
				places++
			}
		}
	})
	if hits < 100 || places < 100 {
		t.Errorf("only %d operations and %d places were found: this says nothing", hits, places)
	}
}

// A conflict is what the reference cannot decide: two rules that match the same
// calls equally specifically. In a matcher that was made there are none.
func TestOrderOfRulesDoesNotCount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, rules := newWithoutConflicts(t, drawRules(t))
		slices.Reverse(rules)
		other, err := New(rules)
		if err != nil {
			t.Fatalf("reversed: %v", err)
		}
		for range 20 {
			host, path := rapid.SampledFrom(callHosts).Draw(t, "host"), drawPath(t)
			a, okA := m.Match("GET", host, path)
			b, okB := other.Match("GET", host, path)
			if a != b && okA || okA != okB {
				t.Fatalf("%s %s: %v %v, reversed %v %v\n%+v", host, path, a, okA, b, okB, rules)
			}
		}
	})
}

func FuzzMatch(f *testing.F) {
	for _, path := range []string{"/a/b/c", "/a//b/", "/a/%2f/x.json?y", "/a/b:go#", "/", "*", "", "/a-b-c/%C3%a9", "/%%37E", "/a/\n\xb4"} {
		f.Add("GET", "h.example.com:80", path, "/{p}-{q}/**", "*.example.com")
	}
	fixed := []Rule{
		{API: "x", Operation: "1", Template: "/a/{p}/c"},
		{API: "x", Operation: "2", Template: "/a/b/{p}", Method: "GET"},
		{API: "x", Operation: "3", Template: "/{p}.json", Hosts: []string{"h.example.com"}},
		{API: "y", Operation: "4", Template: "/{p}:go", BasePath: "/a"},
		{API: "y", Operation: "5", Template: "/**", BasePath: "/a/b"},
		{API: "z", Operation: "6", Template: "/~x/é/", Hosts: []string{"*.com"}},
	}
	made, err := New(fixed)
	if err != nil {
		f.Fatal(err)
	}
	slow := newReference(fixed)
	f.Fuzz(func(t *testing.T, method, host, path, template, ruleHost string) {
		// A drawn template must be refused or work; the reference is not asked what
		// is malformed.
		rules := append(slices.Clone(fixed), Rule{API: "z", Operation: "7", Template: template, Hosts: []string{ruleHost}})
		if m, err := New(rules); err == nil {
			m.Match(method, host, path)
		}
		got, ok := made.Match(method, host, path)
		want, wantOK := slow.match(method, host, path)
		if ok != wantOK || ok && got != want {
			t.Errorf("%q %q %q: got %v %v, want %v %v", method, host, path, got, ok, want, wantOK)
		}
	})
}
