package operation

import (
	"fmt"
	"strings"
	"testing"
)

// rules makes rules of one API, named by what they match: "GET /a/{b}".
func rules(lines ...string) []Rule {
	var all []Rule
	for _, line := range lines {
		method, path, ok := strings.Cut(line, " ")
		if !ok {
			method, path = "", line
		}
		all = append(all, Rule{API: "api", Operation: line, Method: method, Template: path})
	}
	return all
}

func mustNew(t testing.TB, all []Rule) *Matcher {
	t.Helper()
	m, err := New(all)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestPaths(t *testing.T) {
	const none = ""
	for _, c := range []struct {
		name  string
		rules []string
		want  map[string]string // by call, "GET /a" or "/a"
	}{
		{"going back", []string{"/a/{x}/c", "/a/b/{y}", "/a/**"}, map[string]string{
			"/a/b/c": "/a/b/{y}", "/a/b/d": "/a/b/{y}", "/a/q/c": "/a/{x}/c", "/a/q/d": "/a/**", "/a/b/c/d": "/a/**", "/b": none,
		}},
		{"going back over methods", []string{"GET /a/b", "POST /a/{x}", "/a/{x}", "DELETE /{x}/b"}, map[string]string{
			"GET /a/b": "GET /a/b", "POST /a/b": "POST /a/{x}", "PUT /a/b": "/a/{x}", "DELETE /c/b": "DELETE /{x}/b", "DELETE /a/b": "/a/{x}", "GET /c/b": none,
		}},
		{"left before right", []string{"/a/{x}/{y}", "/{x}/b/c"}, map[string]string{"/a/b/c": "/a/{x}/{y}"}},
		{"kinds of segments", []string{"/v/a.json", "/v/{x}.json", "/v/a{x}", "/v/a{x}.json", "/v/{x}", "/v/**"}, map[string]string{
			"/v/a.json": "/v/a.json", "/v/b.json": "/v/{x}.json", "/v/ab.json": "/v/a{x}.json", "/v/ab": "/v/a{x}", "/v/b": "/v/{x}", "/v/.json": "/v/{x}", "/v/a": "/v/{x}", "/v/b/c": "/v/**", "/v": "/v/**", "/v/": "/v/**",
		}},
		{"verbs", []string{"/o/{id}:cancel", "/o/{id}:{verb}", "/o/{id}"}, map[string]string{
			"/o/1:cancel": "/o/{id}:cancel", "/o/1:pay": "/o/{id}:{verb}", "/o/:cancel": "/o/{id}", "/o/1:": "/o/{id}", "/o/a:b:cancel": "/o/{id}:cancel", "/o/1%3Acancel": "/o/{id}",
		}},
		{"several parameters in a segment", []string{"/{a}-to-{b}.{c}"}, map[string]string{
			"/x-to-y.z": "/{a}-to-{b}.{c}", "/-to-y.z": none, "/x-to-.z": none, "/x-to-y.": none, "/x-to-to-y.z": "/{a}-to-{b}.{c}", "/-to--to-y.z": "/{a}-to-{b}.{c}", "/x-to-..z": "/{a}-to-{b}.{c}",
		}},
		{"inner literals as far left as they go", []string{"/{a}-{b}-{c}", "/{a}--{b}"}, map[string]string{
			"/1-2-3": "/{a}-{b}-{c}", "/1-2-3-4": "/{a}-{b}-{c}", "/1-2": none, "/1--2": "/{a}--{b}", "/1---2": "/{a}--{b}", "/---": none, "/-----": "/{a}--{b}",
		}},
		{"which literal part", []string{"/a/{x}b", "/a/a{x}", "/b/a{x}-{y}", "/b/a{x}.{y}", "/b/{x}-to-{y}"}, map[string]string{
			"/a/ab": "/a/a{x}", "/a/bb": "/a/{x}b", "/b/a1-2.3": "/b/a{x}-{y}", "/b/a1.2": "/b/a{x}.{y}", "/b/a-to-b.c": "/b/{x}-to-{y}",
		}},
		{"going back over literal parts", []string{"/{x}.json/a", "/a{x}/b", "/{x}/c"}, map[string]string{
			"/a1.json/a": "/{x}.json/a", "/a1.json/b": "/a{x}/b", "/a1.json/c": "/{x}/c", "/a1.json/d": none,
		}},
		{"many literals", []string{"/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8", "/9", "/{x}"}, map[string]string{
			"/0": "/0", "/1": "/1", "/2": "/2", "/3": "/3", "/4": "/4", "/5": "/5", "/6": "/6", "/7": "/7", "/8": "/8", "/9": "/9", "/10": "/{x}",
		}},
		{"slash at the end", []string{"/a", "/b/", "/c", "/c/", "/d/{x}"}, map[string]string{
			"/a": "/a", "/a/": "/a", "/a//": none, "/b": none, "/b/": "/b/", "/b//": none, "/c": "/c", "/c/": "/c/", "/d/": none, "/d/1/": "/d/{x}", "/d/1//": none,
		}},
		{"root", []string{"/"}, map[string]string{"/": "/", "": none, "//": none, "/a": none, "*": none}},
		{"rest", []string{"/f/{p=**}", "/g/{p+}", "/f/{x}"}, map[string]string{
			"/f": "/f/{p=**}", "/f/": "/f/{p=**}", "/f/a": "/f/{x}", "/f/a/b": "/f/{p=**}", "/f//": "/f/{p=**}", "/f//a": "/f/{p=**}", "/g/a/b": "/g/{p+}", "/ff": none,
		}},
		{"patterns", []string{"/v1/{name=shelves/*/books/*}", "/v1/{name=shelves/*}:merge", "/v1/*/x"}, map[string]string{
			"/v1/shelves/1/books/2": "/v1/{name=shelves/*/books/*}", "/v1/shelves/1:merge": "/v1/{name=shelves/*}:merge", "/v1/a/x": "/v1/*/x", "/v1/shelves/1": none,
		}},
		{"empty and dot segments", []string{"/a/{x}/b", "/a/./c", "/a/../{x}"}, map[string]string{
			"/a//b": none, "//a/x/b": none, "/a/./b": "/a/{x}/b", "/a/./c": "/a/./c", "/a/../c": "/a/../{x}", "/a/%2e/c": "/a/./c",
		}},
		{"escapes", []string{"/~me/{x}", "/a%2fb", "/%7Eyou", "* /größe 1", "/a%2Fb/{x}%2f"}, map[string]string{
			"/~me/1": "/~me/{x}", "/%7Eme/1": "/~me/{x}", "/%7eme/%2F": "/~me/{x}", "/a%2Fb": "/a%2fb", "/a%2fb": "/a%2fb", "/a/b": none, "/~you": "/%7Eyou",
			"/gr%C3%B6%c3%9Fe%201": "* /größe 1", "/~me/a%2Fb/c": none, "/%257Eme/1": none, "/a%2Fb/x%2F": "/a%2Fb/{x}%2f", "/~me/%": "/~me/{x}", "/~me/%4": "/~me/{x}", "/%7": none,
		}},
		{"query, fragment and case", []string{"/a/B"}, map[string]string{
			"/a/B?x=/c": "/a/B", "/a/B#c": "/a/B", "/a/B#c?d": "/a/B", "/a?/B": none, "/a/b": none, "/a/B%3Fx": none, "/a/B?%7E": "/a/B",
		}},
		{"grpc", []string{"POST /shop.v1.Orders/Get", "POST /shop.v1.Orders/**"}, map[string]string{
			"POST /shop.v1.Orders/Get": "POST /shop.v1.Orders/Get", "POST /shop.v1.Orders/List": "POST /shop.v1.Orders/**", "GET /shop.v1.Orders/Get": none,
		}},
		{"methods", []string{"get /a", "QUERY /a", "* /b"}, map[string]string{
			"GET /a": "get /a", "get /a": none, "QUERY /a": "QUERY /a", "BREW /b": "* /b", "POST /a": none,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := mustNew(t, rules(c.rules...))
			for call, want := range c.want {
				method, path, ok := strings.Cut(call, " ")
				if !ok {
					method, path = "GET", call
				}
				got, ok := m.Match(method, "example.com", path)
				if got.Operation != want || ok != (want != "") {
					t.Errorf("%s: got %v %v, want %q", call, got, ok, want)
				}
			}
		})
	}
}

func TestHosts(t *testing.T) {
	at := func(name, path string, hosts ...string) Rule {
		return Rule{API: "api", Operation: name, Template: path, Hosts: hosts}
	}
	m := mustNew(t, []Rule{
		at("any", "/a"), at("any b", "/b"),
		at("com", "/a", "*.com"),
		at("example", "/{x}", "*.example.com"),
		at("deep", "/a", "*.eu.example.com"),
		at("name", "/a", "API.example.com:8443", "api.example.com", "[2001:db8::1]", "10.0.0.1"),
	})
	for _, c := range []struct{ host, path, want string }{
		{"api.example.com", "/a", "name"},
		{"API.Example.COM:443", "/a", "name"},
		{"api.example.com.", "/a", "name"},
		{"api.example.com", "/b", "example"}, // what the name does not have
		{"x.example.com", "/a", "example"},
		{"x.y.example.com", "/a", "example"},
		{"x.eu.example.com", "/a", "deep"},
		{"eu.example.com", "/a", "example"},
		{"example.com", "/a", "com"},
		{"xexample.com", "/a", "com"},
		{"x.org", "/a", "any"},
		{"x.org", "/b", "any b"},
		{"", "/a", "any"},
		{"[2001:DB8::1]:80", "/a", "name"},
		{"10.0.0.1:80", "/a", "name"},
		{strings.Repeat("x", 300) + ".com", "/a", "any"},
	} {
		if got, _ := m.Match("GET", c.host, c.path); got.Operation != c.want {
			t.Errorf("%s %s: got %v, want %s", c.host, c.path, got, c.want)
		}
	}
}

func TestCallsOfNoOperationBelongToTheirAPI(t *testing.T) {
	m := mustNew(t, []Rule{
		{API: "orders", Operation: "get", BasePath: "/v1", Template: "/orders/{id}", Method: "GET"},
		{API: "admin", BasePath: "/v1/admin/"},
		{API: "hosted", Hosts: []string{"hosted.example.com"}},
		{API: "nowhere", Operation: "ping", Template: "/ping"},
		{API: "one", BasePath: "/shared", Hosts: []string{"a.example.com", "b.example.com"}},
		{API: "two", BasePath: "/shared", Hosts: []string{"b.example.com"}},
		{API: "two", Operation: "buy", BasePath: "/shared", Template: "/buy", Hosts: []string{"b.example.com"}},
	})
	for _, c := range []struct {
		call string
		want string // empty for none
	}{
		{"GET x /v1/orders/1", "orders/get"},
		{"PUT x /v1/orders/1", "orders/"},
		{"GET x /v1", "orders/"},
		{"GET x /v1/", "orders/"},
		{"GET x /v1?a", "orders/"},
		{"GET x /v10", ""},
		{"GET x /%76%31//", "orders/"},
		{"GET x /v1/admin/x", "admin/"},
		{"GET x /v1/administration", "orders/"},
		{"GET x /ping", "nowhere/ping"},
		{"GET x /pong", ""},
		{"GET hosted.example.com /pong", "hosted/"},
		{"GET hosted.example.com /ping", "nowhere/ping"}, // an operation, wherever, before an API alone
		{"GET hosted.example.com /v1/x", "hosted/"},      // by host first
		{"GET a.example.com /shared/x", "one/"},
		{"GET b.example.com /shared/x", ""}, // of either
		{"GET b.example.com /shared/buy", "two/buy"},
	} {
		part := strings.SplitN(c.call, " ", 3)
		got, ok := m.Match(part[0], part[1], part[2])
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("%s: got %v %v, want %q", c.call, got, ok, c.want)
		}
	}
}

func TestMalformedRules(t *testing.T) {
	for _, c := range []struct {
		rule Rule
		want string
	}{
		{Rule{Operation: "b", Template: "/"}, "rule 2 (/b): api: must be given"},
		{Rule{API: "a", Template: "/x"}, "rule 2 (a/): operation: must be given with a template"},
		{Rule{API: "a", Operation: "b"}, `rule 2 (a/b): template: "" must begin with /`},
		{Rule{API: "a", Operation: "b", Template: "x"}, `template: "x" must begin with /`},
		{Rule{API: "a", Operation: "b", Template: "/a//b"}, `template: "/a//b" has an empty segment`},
		{Rule{API: "a", Operation: "b", Template: "/a?x=y"}, `template: "/a?x=y" has a character`},
		{Rule{API: "a", Operation: "b", Template: "/a\n"}, `template: "/a\n" has a character`},
		{Rule{API: "a", Operation: "b", Template: "/{a"}, "a brace without its other half"},
		{Rule{API: "a", Operation: "b", Template: "/a}"}, "a brace without its other half"},
		{Rule{API: "a", Operation: "b", Template: "/{}"}, "parameter {} must be"},
		{Rule{API: "a", Operation: "b", Template: "/{a:[0-9]+}"}, "parameter {a:[0-9]+} must be"},
		{Rule{API: "a", Operation: "b", Template: "/{a/b}"}, "parameter {a/b} must be"},
		{Rule{API: "a", Operation: "b", Template: "/{a=}"}, "a pattern that is empty"},
		{Rule{API: "a", Operation: "b", Template: "/{a=x/}"}, "ends with /"},
		{Rule{API: "a", Operation: "b", Template: "/{a}{b}"}, "something between them"},
		{Rule{API: "a", Operation: "b", Template: "/**/a"}, "the whole last segment"},
		{Rule{API: "a", Operation: "b", Template: "/{a=**}:go"}, "the whole last segment"},
		{Rule{API: "a", Operation: "b", Template: "/a*"}, "must be whole segments"},
		{Rule{API: "a", BasePath: "v1"}, `base_path: "v1" must begin with /`},
		{Rule{API: "a", BasePath: "/{v}"}, `base_path: "/{v}" must not have parameters`},
		{Rule{API: "a", BasePath: "/v/**"}, `base_path: "/v/**" must not have parameters`},
		{Rule{API: "a", Method: "G T"}, `method: "G T" has a character`},
		{Rule{API: "a", Hosts: []string{"x", ""}}, `hosts[1]: "" must be a host name`},
		{Rule{API: "a", Hosts: []string{"*."}}, `hosts[0]: "*." must be`},
		{Rule{API: "a", Hosts: []string{"a.*.com"}}, `hosts[0]: "a.*.com" must be`},
		{Rule{API: "a", Hosts: []string{"https://a.com"}}, `hosts[0]: "https://a.com" must be`},
		{Rule{API: "a", Hosts: []string{"a.com:http"}}, `hosts[0]: "a.com:http" must be`},
		{Rule{API: "a", Hosts: []string{"a..com"}}, `hosts[0]: "a..com" must be`},
		{Rule{API: "a", Hosts: []string{"::1"}}, "in brackets"},
		{Rule{API: "a", Hosts: []string{"bücher.de"}}, "xn--"},
	} {
		_, err := New([]Rule{{API: "first", Operation: "ok", Template: "/ok"}, c.rule})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v:\ngot  %v\nwant %s", c.rule, err, c.want)
		}
	}
}

func TestConflicts(t *testing.T) {
	for _, c := range []struct {
		name string
		a, b Rule
		want string // empty for no conflict
	}{
		{"other parameter", Rule{Template: "/a/{x}"}, Rule{Template: "/a/{y}"},
			"rules api/a and api/b match the same calls: method *, host *, path /a/{}"},
		{"other spelling", Rule{Template: "/~a/{x}.{y}/**"}, Rule{Method: "*", Template: "/%7ea/{p}.{q}/{r=**}"},
			"rules api/a and api/b match the same calls: method *, host *, path /~a/{}.{}/**"},
		{"base path or template", Rule{BasePath: "/v1/", Template: "/a", Method: "get"}, Rule{Template: "/v1/a", Method: "GET"},
			"method GET, host *, path /v1/a"},
		{"one host of several", Rule{Template: "/a", Hosts: []string{"x", "y"}}, Rule{Template: "/a", Hosts: []string{"Y:80", "z"}},
			"method *, host y, path /a"},
		{"root", Rule{Template: "/"}, Rule{Template: "/", Hosts: []string{"*"}}, "host *, path /"},
		{"a host and any", Rule{Template: "/a"}, Rule{Template: "/a", Hosts: []string{"x"}}, ""},
		{"other method", Rule{Template: "/a", Method: "GET"}, Rule{Template: "/a"}, ""},
		{"slash at the end", Rule{Template: "/a"}, Rule{Template: "/a/"}, ""},
		{"other literal part", Rule{Template: "/{a}.x"}, Rule{Template: "/x{a}"}, ""},
		{"rest", Rule{Template: "/a"}, Rule{Template: "/a/**"}, ""},
		{"one host twice in a rule", Rule{Template: "/a", Hosts: []string{"x", "X:80"}}, Rule{Template: "/b"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.a.API, c.a.Operation, c.b.API, c.b.Operation = "api", "a", "api", "b"
			_, err := New([]Rule{c.a, c.b})
			if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			c.b.Operation = "a"
			if _, err := New([]Rule{c.a, c.b}); err != nil {
				t.Errorf("one operation twice: %v", err)
			}
		})
	}
}

// thousand are the operations of 20 APIs, each with its host and base path.
func thousand() []Rule {
	var all []Rule
	for a := range 20 {
		for r := range 10 {
			for i, line := range []string{"GET /r%d", "POST /r%d", "GET /r%d/{id}", "POST /r%d/{id}:cancel", "GET /r%d/{id}/items/{item}"} {
				method, path, _ := strings.Cut(fmt.Sprintf(line, r), " ")
				all = append(all, Rule{
					API: fmt.Sprintf("api%d", a), Operation: fmt.Sprintf("op%d-%d", r, i),
					Hosts: []string{fmt.Sprintf("api%d.example.com", a), "*.test.example.com"}, BasePath: fmt.Sprintf("/a%d/v1", a),
					Method: method, Template: path,
				})
			}
		}
	}
	return all
}

var calls = []struct{ name, method, host, path, want string }{
	{"short", "GET", "api7.example.com", "/a7/v1/r3", "api7/op3-0"},
	{"parameters", "GET", "api19.example.com", "/a19/v1/r9/4711/items/12", "api19/op9-4"},
	{"verb", "POST", "api3.example.com", "/a3/v1/r5/0190163d-8694-739b-aea5-966c26f8ad91:cancel", "api3/op5-3"},
	{"query", "GET", "api3.example.com", "/a3/v1/r5?page_size=50&filter=state%3Dopen", "api3/op5-0"},
	{"port and upper case", "GET", "API3.example.com:8443", "/a3/v1/r5/1/", "api3/op5-2"},
	{"suffix", "GET", "eu.test.example.com", "/a3/v1/r5/1", "api3/op5-2"},
	{"escapes", "GET", "api3.example.com", "/a3/v1/%725/a%20b%2Fc", "api3/op5-2"},
	{"API alone", "DELETE", "api3.example.com", "/a3/v1/r5/1", "api3/"},
	{"none", "GET", "www.example.com", "/index.html", "/"},
}

func TestMatchDoesNotAllocate(t *testing.T) {
	m := mustNew(t, thousand())
	for _, c := range calls {
		got, _ := m.Match(c.method, c.host, c.path)
		if got.String() != c.want {
			t.Errorf("%s: got %v, want %s", c.name, got, c.want)
		}
		if n := testing.AllocsPerRun(100, func() { m.Match(c.method, c.host, c.path) }); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

func TestLongPathsWithEscapes(t *testing.T) {
	m := mustNew(t, rules("/a/{x}.json"))
	for _, n := range []int{490, 500, 510, 520, 5000} {
		if got, ok := m.Match("GET", "", "/%61/"+strings.Repeat("x", n)+".%6Ason"); !ok {
			t.Errorf("%d: got %v", n, got)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	m := mustNew(b, thousand())
	for _, c := range calls {
		b.Run(strings.ReplaceAll(c.name, " ", "_"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.Match(c.method, c.host, c.path)
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	all := thousand()
	for b.Loop() {
		if _, err := New(all); err != nil {
			b.Fatal(err)
		}
	}
}
