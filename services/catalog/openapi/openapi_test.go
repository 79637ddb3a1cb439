package openapi

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"gopkg.in/yaml.v3"
	"pgregory.net/rapid"

	"github.com/tollway/tollway/pipelines/attribute/operation"
)

const shop3 = `
openapi: 3.1.0
info: {title: "  The shop\n", version: 1.10}
servers:
  - url: https://{region}.api.example.com:8443/{stage}/v1/
    variables:
      region: {default: eu, enum: [eu, us]}
      stage: {default: live}
  - url: //API.example.org/live/v1
security: [{key: []}]
x-shared: &shared
  summary: Who I am
paths:
  x-internal: [1, 2]
  /orders:
    parameters: [{$ref: other.yaml#/not/read}]
    servers: [{url: 'https://orders.example.com/live/v1/'}]
    get: {operationId: listOrders, summary: "List\n  orders ", tags: [orders, read]}
    post: {operationId: order_create, deprecated: true, servers: [{url: /live/v1}, {url: 'http://API.example.org/live/v1'}]}
  /orders/{id}:
    get:
      responses: {200: {description: what is not read}, default: []}
    head: null
    x-rate: 5
  /orders/{id}:cancel:
    post: {operationId: cancelHTTPOrder2}
  /me:
    get: *shared
    $ref: '#/components/pathItems/Me'
  /files/{path+}:
    $ref: '#/components/pathItems/files~1%7Bpath%7D'
x-items:
  /~files: {get: {operationId: readFile}}
components:
  pathItems:
    Me:
      put: {operationId: replace me}
      get: {operationId: not.taken}
    files/{path}:
      $ref: '#/x-items/~1~0files'
webhooks:
  paid: {post: {operationId: paid}}
`

const shop2 = `{
	"swagger": "2.0",
	"info": {"title": "Old \ud83d\ude80 shop \\ud83d\\ude80 \ud83d \u00e9 \/` + "\x7f\u2028" + `", "version": "2019-01-02"},
	"host": "Old.example.com:8080", "basePath": "/api/", "schemes": ["https"],
	"paths": {
		"\/orders\/": {"get": {"operationId": "Orders_List"}},
		"/2fa": {"get": {}, "trace": {"operationId": "2fa"}}
	},
	"definitions": {"Broken": {"$ref": "https://example.com/x.json"}}
}`

func TestImport(t *testing.T) {
	for _, c := range []struct {
		name, text string
		api        API
		operations []Operation
	}{
		{"3.1 in YAML", shop3, API{
			Title: "The shop", Version: "1.10",
			Hosts: []string{"eu.api.example.com", "api.example.org", "orders.example.com"}, BasePaths: []string{"/live/v1"},
		}, []Operation{
			{ID: "read-file", DisplayName: "readFile", Method: "GET", Template: "/files/{path+}"},
			{ID: "get-me", DisplayName: "Who I am", Method: "GET", Template: "/me"},
			{ID: "replace-me", DisplayName: "replace me", Method: "PUT", Template: "/me"},
			{ID: "list-orders", DisplayName: "List orders", Method: "GET", Template: "/orders", Tags: []string{"orders", "read"}},
			{ID: "order-create", DisplayName: "order_create", Method: "POST", Template: "/orders", Deprecated: true},
			{ID: "get-orders-id", DisplayName: "GET /orders/{id}", Method: "GET", Template: "/orders/{id}"},
			{ID: "cancel-http-order2", DisplayName: "cancelHTTPOrder2", Method: "POST", Template: "/orders/{id}:cancel"},
		}},
		{"2.0 in JSON", shop2, API{
			Title: "Old 🚀 shop \\ud83d\\ude80 � é /\x7f", Version: "2019-01-02", Hosts: []string{"old.example.com"}, BasePaths: []string{"/api"},
		}, []Operation{
			{ID: "get-2fa", DisplayName: "GET /2fa", Method: "GET", Template: "/2fa"},
			{ID: "op-2fa", DisplayName: "2fa", Method: "TRACE", Template: "/2fa"},
			{ID: "orders-list", DisplayName: "Orders_List", Method: "GET", Template: "/orders/"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			api, operations, err := Import([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.api, api); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.operations, operations, cmpopts.IgnoreUnexported(Operation{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestServers(t *testing.T) {
	for _, c := range []struct {
		text       string
		hosts      []string
		basePaths  []string
		wrongParts string // of the error, if there is one
	}{
		{"", nil, []string{"/"}, ""},
		{"servers: []", nil, []string{"/"}, ""},
		{"servers: [{url: /}]", nil, []string{"/"}, ""},
		{"servers: [{url: https://a.com}, {url: 'http://A.com.:80/'}]", []string{"a.com"}, []string{"/"}, ""},
		{"servers: [{url: https://a.com/v1}, {url: 'http://b.com/v2/x/'}]", []string{"a.com", "b.com"}, []string{"/v1", "/v2/x"}, ""},
		{"servers: [{url: https://a.com/v1}, {url: /v1}]", nil, []string{"/v1"}, ""},
		{"servers: [{url: 'https://[::1]:80/a%2Fb'}]", []string{"[::1]"}, []string{"/a%2Fb"}, ""},
		{"servers: [{url: 'https://{t}.a.com'}]", nil, nil, "servers[0]: url: variable {t} has no default"},
		{"servers: [{url: /}, {url: '/{v}', variables: {v: {enum: [a]}}}]", nil, nil, "servers[1]: url: variable {v} has no default"},
		{"servers: [{url: v1}]", nil, nil, `servers[0]: base_path: "v1" must begin with /`},
		{"servers: [{url: 'mailto:a'}]", nil, nil, "neither scheme://host/path nor /path"},
		{"servers: [{url: 'https:///v1'}]", nil, nil, "neither scheme://host/path nor /path"},
		{"servers: [{url: 'https://a.com?x=1'}]", nil, nil, "has a query"},
		{"servers: [{url: 'https://a b.com'}]", nil, nil, "servers[0]: url: "},
		{"servers: [{url: 'https://a_*.com'}]", nil, nil, `servers[0]: hosts[0]: "a_*.com" must be`},
		{"servers: {url: /}", nil, nil, "line 2: found !!map, want a list"},
	} {
		api, _, err := Import([]byte("openapi: 3.0.3\n" + c.text + "\npaths: {/a: {get: {}}}"))
		if err != nil || c.wrongParts != "" {
			if c.wrongParts == "" || err == nil || !strings.Contains(err.Error(), c.wrongParts) {
				t.Errorf("%s: got %v, want %q", c.text, err, c.wrongParts)
			}
			continue
		}
		if diff := cmp.Diff(API{Hosts: c.hosts, BasePaths: c.basePaths}, api); diff != "" {
			t.Errorf("%s: %s", c.text, diff)
		}
	}
}

func TestBadDocuments(t *testing.T) {
	paths := func(text string) string { return "openapi: 3.0.0\npaths:\n" + text }
	for _, c := range []struct{ text, want string }{
		{"", "document is empty"},
		{"# nothing", "document is empty"},
		{"just text", "document is no mapping"},
		{"[1]", "document is no mapping"},
		{"a: [", "line 1: did not find expected"},
		{"a: \x01", "control characters are not allowed"},
		{"openapi: 3.0.0\n---\nopenapi: 3.0.0", "more than one document"},
		{"title: x", "neither openapi nor swagger"},
		{"openapi: 3.0.0\nswagger: '2.0'", "both openapi and swagger"},
		{"openapi: 3.2.0", `version "3.2.0" is not read; 3.0 and 3.1 are`},
		{"openapi: 4", `version "4" is not read`},
		{"swagger: '1.2'", `version "1.2" is not read; 2.0 is`},
		{"swagger: '2.0'\nhost: https://a.com\npaths: {/a: {get: {}}}", `host and basePath: hosts[0]: "https://a.com" must be`},
		{"swagger: '2.0'\nbasePath: v1\npaths: {/a: {get: {}}}", `host and basePath: base_path: "v1" must begin with /`},
		{"openapi: 3.0.0", "paths: there is no operation"},
		{paths("  /a: {parameters: []}"), "paths: there is no operation"},
		{paths("  [/a]"), "paths: line 3: found !!seq, want a mapping"},
		{paths("  /a: 5"), "line 3: /a: line 3: found !!int `5`, want a mapping"},
		{paths("  /a: {get: {}}\n  /b: {}\n  /a: {put: {}}"), `line 5: mapping key "/a" already defined at line 3`},
		{paths("  /a:\n    get: {}\n    get: {}"), `line 5: mapping key "get" already defined at line 4`},
		{paths("  /a:\n    get: [x]"), "line 4: GET /a: line 4: found !!seq, want a mapping"},
		{paths("  /a:\n    get: {operationId: [x]}"), "line 4: GET /a: line 4: found !!seq, want text"},
		{paths("  /a:\n    get: {tags: x}"), "line 4: GET /a: line 4: found !!str `x`, want a list"},
		{paths("  /a:\n    get: {deprecated: 7}"), "line 4: GET /a: line 4: found !!int `7`, want true or false"},
		{paths("  a:\n    get: {}"), `line 4: GET a: template: "a" must begin with /`},
		{paths("  /a/{b:\n    get: {}"), "line 4: GET /a/{b: template: "},
		{paths("  /a?b=c:\n    get: {}"), `line 4: GET /a?b=c: template: "/a?b=c" has a character`},
		{paths("  /a:\n    servers: [{url: /x}]\n    get: {}"), "line 3: /a: servers[0]: url: base path /x is none of the API's (/)"},
		{paths("  /a:\n    get: {servers: [{url: /}, {url: '{x}'}]}"), "line 4: GET /a: servers[1]: url: variable {x} has no default"},
		{paths("  /a:\n    $ref: paths.yaml#/a"), `line 3: /a: $ref "paths.yaml#/a": only references within the document`},
		{paths("  /a:\n    $ref: https://example.com/a"), `line 3: /a: $ref "https://example.com/a": only references`},
		{paths("  /a:\n    $ref: '#/x/y'"), `line 3: /a: $ref "#/x/y": there is no "x"`},
		{paths("  /a:\n    $ref: '#/openapi/y'"), `line 3: /a: $ref "#/openapi/y": line 1: found !!str`},
		{paths("  /a:\n    $ref: '#/paths/~1b'\n  /b:\n    $ref: '#/paths/~1a'"), "$ref: refers to itself"},
		{paths("  /a: &a\n    <<: *a\n    get: {}"), "contains itself"},
		{
			paths("  /a:\n    get: {operationId: getA}\n  /b:\n    put: {operationId: get_a}"),
			`line 6: PUT /b: operationId: makes the id "get-a", as GET /a in line 4 does`,
		},
		{
			paths("  /a/{x}:\n    get: {operationId: x}\n  /a/{y}:\n    get: {operationId: y}"),
			"rules paths/GET /a/{x} (line 4) and paths/GET /a/{y} (line 6) match the same calls: method GET, host *, path /a/{}",
		},
	} {
		if _, _, err := Import([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\ngot  %v\nwant %s", c.text, err, c.want)
		}
	}
	if _, _, err := Import(make([]byte, maxDocument+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("oversize: %v", err)
	}
}

// A key that stands very often must not become an error for every pair, which
// no machine has the memory for.
func TestManyKeys(t *testing.T) {
	var distinct strings.Builder
	for i := range maxKeys + 1 {
		fmt.Fprintf(&distinct, "k%d: x\n", i)
	}
	for _, c := range []struct{ text, want string }{
		{strings.Repeat("a: &a\n", maxKeys), `line 2: mapping key "a" already defined at line 1`},
		{"openapi: 3.0.0\npaths: {/a: {get: {}}}\nx: {y: [{b: 1, b: 2}]}", `line 3: mapping key "b" already defined at line 3`},
		{distinct.String(), "line 1: mapping has 10001 keys; at most 10000 are read"},
	} {
		if _, _, err := Import([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

// Aliases of aliases must not multiply.
func TestManyAliases(t *testing.T) {
	var b strings.Builder
	b.WriteString("openapi: 3.0.0\na0: &a0 [x, x, x, x, x, x, x, x, x]\n")
	for i := range 9 {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 9), ", "))
	}
	b.WriteString("paths: {/a: {get: {tags: *a9}}, /b: *a9}\n")
	if _, _, err := Import([]byte(b.String())); err == nil {
		t.Error("no error")
	}
}

func TestResourceID(t *testing.T) {
	long := strings.Repeat("getOrders", 20)
	for text, want := range map[string]string{
		"getOrder": "get-order", "GetOrder": "get-order", "get_order": "get-order", "GET_ORDER": "get-order", "get.order/v2": "get-order-v2",
		"HTTPServer": "http-server", "listV2Orders": "list-v2-orders", "getURL": "get-url", "orderID2": "order-id2",
		"  --a--b-- ": "a-b", "größe": "gr-e", "2fa": "op-2fa", "": "", "日本": "", "A": "a", "-": "",
		long: "get-ordersget-ordersget-ordersget-ordersget-ordersget-" + resourceID(long)[54:],
	} {
		if got := resourceID(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if other := resourceID(long + "x"); other == resourceID(long) {
		t.Errorf("two long ids are one: %s", other)
	}
}

func TestIDsThatAreMadeStayUnique(t *testing.T) {
	text := "openapi: 3.0.0\npaths: {'/a/{b}': {get: {}}, /a/b: {get: {}}, /a_c: {get: {}}, /a/d: {get: {operationId: get-a-c}}}"
	_, operations, err := Import([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range operations {
		got = append(got, regexp.MustCompile(`-[0-9a-f]{8}$`).ReplaceAllString(o.ID, "-#"))
	}
	if diff := cmp.Diff([]string{"get-a-b-#", "get-a-c", "get-a-b-#", "get-a-c-#"}, got); diff != "" {
		t.Error(diff)
	}
}

// What is written into a document is what comes out of it, in YAML and in JSON,
// and each operation is the one its calls are matched with.
func TestRoundTrip(t *testing.T) {
	// No tabs and line breaks: the YAML writer makes blocks of them that no reader accepts.
	words := rapid.StringOf(rapid.RuneFrom([]rune{' ', '"', '\\', '/', '😀'}, unicode.L, unicode.P, unicode.S))
	segment := rapid.SampledFrom([]string{"orders", "{id}", "v1", "{a}.json", "{b}:cancel", "x-y", "~me"})
	rapid.Check(t, func(t *rapid.T) {
		paths := map[string]map[string]any{}
		for _, p := range rapid.SliceOfN(rapid.SliceOfN(segment, 1, 4), 1, 8).Draw(t, "paths") {
			item := map[string]any{}
			for _, m := range rapid.SliceOfNDistinct(rapid.SampledFrom(methods), 1, 3, rapid.ID).Draw(t, "methods") {
				item[m] = map[string]any{"summary": words.Draw(t, "summary"), "deprecated": rapid.Bool().Draw(t, "deprecated")}
			}
			paths["/"+strings.Join(p, "/")] = item
		}
		text := map[string]any{"openapi": "3.0.0", "info": map[string]any{"title": "x"}, "paths": paths}
		asYAML, err := yaml.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		asJSON, err := json.MarshalIndent(text, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		api, operations, err := Import(asYAML)
		if err != nil {
			if strings.Contains(err.Error(), "match the same calls") {
				return
			}
			t.Fatalf("%v\n%s", err, asYAML)
		}
		api2, operations2, err := Import(asJSON)
		if err != nil {
			t.Fatalf("%v\n%s", err, asJSON)
		}
		if diff := cmp.Diff(api, api2) + cmp.Diff(operations, operations2, cmpopts.IgnoreUnexported(Operation{})); diff != "" {
			t.Fatalf("JSON differs: %s\n%s", diff, asJSON)
		}
		matches(t, paths, operations)
	})
}

func matches(t *rapid.T, paths map[string]map[string]any, operations []Operation) {
	var rules []operation.Rule
	for _, o := range operations {
		want, ok := paths[o.Template][strings.ToLower(o.Method)].(map[string]any)
		if !ok || o.Deprecated != want["deprecated"] {
			t.Fatalf("%+v is not in the document", o)
		}
		rules = append(rules, operation.Rule{API: "x", Operation: o.ID, Method: o.Method, Template: o.Template})
	}
	written := 0
	for _, item := range paths {
		written += len(item)
	}
	if written != len(operations) {
		t.Fatalf("%d operations of %d", len(operations), written)
	}
	m, err := operation.New(rules)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range operations {
		call := regexp.MustCompile(`\{.*?\}`).ReplaceAllString(o.Template, "4711")
		if got, ok := m.Match(o.Method, "", call); !ok || got.Operation != o.ID {
			t.Fatalf("%s %s: got %v, want %s", o.Method, call, got, o.ID)
		}
	}
}

var validID = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

func FuzzImport(f *testing.F) {
	f.Add([]byte(shop3))
	f.Add([]byte(shop2))
	f.Add([]byte("openapi: 3.0.0\npaths: {'/a/{b}': {get: {}}, /a/b: {get: {}}}"))
	f.Add([]byte("openapi: 3.0.0\npaths: &p {/a: *p, /b: {$ref: '#/paths/~1b'}}"))
	f.Add([]byte("swagger: 2.0\npaths: {<<: [*a, {/x: {put: ~}}]}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		api, operations, err := Import(text)
		if err != nil {
			return
		}
		if len(operations) == 0 || len(api.BasePaths) == 0 {
			t.Errorf("no error and nothing imported: %+v", api)
		}
		ids := map[string]bool{}
		for _, o := range operations {
			if !validID.MatchString(o.ID) || ids[o.ID] || o.DisplayName == "" || o.Template == "" || o.Method == "" {
				t.Errorf("%+v", o)
			}
			ids[o.ID] = true
		}
	})
}

func BenchmarkImport(b *testing.B) {
	var text strings.Builder
	text.WriteString("openapi: 3.0.0\npaths:\n")
	for i := range 500 {
		fmt.Fprintf(&text, "  /r%d/{id}:\n    get: {operationId: getR%d, tags: [a]}\n    put: {operationId: putR%d}\n", i, i, i)
	}
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		if _, _, err := Import([]byte(text.String())); err != nil {
			b.Fatal(err)
		}
	}
}
