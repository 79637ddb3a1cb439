package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/tollway/tollway/cmd/tollway/manifest"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

func catalogCommand() *cobra.Command {
	root := &cobra.Command{Use: "tollway", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(newCatalogCommands()...)
	return root
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const applied = `{"changes":[
 {"name":"accounts/a","action":"CREATED","after":{"account":{"name":"accounts/a"}}},
 {"name":"accounts/b","action":"UPDATED","fields":["email","labels.tier"],"before":{"account":{"name":"accounts/b","etag":"1","email":"x","display_name":"B"}},"after":{"account":{"name":"accounts/b","etag":"2","email":"y","display_name":"B","labels":{"tier":"gold"}}}},
 {"name":"accounts/c","action":"UNCHANGED"},
 {"name":"accounts/a/apps/w/credentials/k","action":"CREATED","after":{"credential":{"name":"accounts/a/apps/w/credentials/k","api_key":{"prefix":"tk_ab","key":"tk_abcdef"}}}},
 {"name":"tokens/ci","action":"CREATED","after":{"token":{"name":"tokens/ci","token":"tt_x"}}},
 {"name":"accounts/d","action":"DELETED","before":{"account":{"name":"accounts/d","display_name":"D"}}}]}`

func TestApplyPrints(t *testing.T) {
	a := newAPI(t, 200, applied)
	write(t, "f.yaml", "kind: Account\nname: accounts/a\nstate: ACCOUNT_ACTIVE\n")
	out, err := run(t, catalogCommand(), "apply", "-f", "f.yaml", "--prune", "--set", "mine")
	want := `accounts/a created
accounts/b updated (email, labels.tier)
accounts/c unchanged
accounts/a/apps/w/credentials/k created
tokens/ci created
accounts/d deleted
3 created, 1 updated, 1 deleted, 1 unchanged

Keep these now: they are not shown again.
  accounts/a/apps/w/credentials/k  tk_abcdef
  tokens/ci                        tt_x
`
	if err != nil || out != want {
		t.Errorf("printed\n%s%v\nwant\n%s", out, err, want)
	}
	body, err := json.Marshal(a.body)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"prune":true,"resources":[{"account":{"name":"accounts/a","state":"ACCOUNT_ACTIVE"}}],"set":"mine"}`; a.path != "/v1/catalog:apply" || string(body) != want {
		t.Errorf("asked %s %s", a.path, body)
	}
	a.answer = `{"changes":[{"name":"accounts/a","action":"CREATED"}]}`
	if out, err = run(t, catalogCommand(), "apply", "-f", "f.yaml", "--dry-run"); err != nil || out != "accounts/a created (dry run)\n1 created (dry run)\n" {
		t.Errorf("printed %q, %v", out, err)
	}
	if a.body["validate_only"] != true {
		t.Errorf("asked %v", a.body)
	}
	if out, err = run(t, catalogCommand(), "apply", "-f", "f.yaml", "-o", "json"); err != nil || !json.Valid([]byte(out)) || !strings.Contains(out, `"CREATED"`) {
		t.Errorf("printed %q, %v", out, err)
	}
	a.answer = `{}`
	if out, err = run(t, catalogCommand(), "apply", "-f", "f.yaml"); err != nil || out != "nothing to change\n" {
		t.Errorf("printed %q, %v", out, err)
	}
}

func TestApplyOpenAPI(t *testing.T) {
	a := newAPI(t, 200, applied)
	write(t, "openapi.yaml", "openapi: 3.1.0\n")
	if _, err := run(t, catalogCommand(), "apply", "-f", "openapi.yaml", "--api", "orders", "--prune", "--dry-run"); err != nil {
		t.Fatal(err)
	}
	if a.path != "/v1/apis/orders:importOpenApi" || fmt.Sprint(a.body) != "map[document:b3BlbmFwaTogMy4xLjAK prune:true validate_only:true]" {
		t.Errorf("asked %s %v", a.path, a.body)
	}
	a.code, a.answer = 400, `{"detail":"no","violations":[{"field":"document","description":"line 1: no info"}]}`
	if _, err := run(t, catalogCommand(), "apply", "-f", "openapi.yaml", "--api", "apis/orders"); exitCode(err) != 2 || err.Error() != "openapi.yaml: document: line 1: no info" {
		t.Errorf("says %v", err)
	}
}

func TestApplyRefused(t *testing.T) {
	a := newAPI(t, 400, `{"detail":"two fields","code":"InvalidArgument","violations":[
		{"field":"resources[1].billing_address.country","description":"\"XX\" is no country"},{"field":"resources[0].email","description":"is no address"},{"field":"set","description":"too long"}]}`)
	write(t, "c/b.yaml", "kind: Account\nname: accounts/b\nbilling_address:\n  country: XX\n")
	write(t, "c/a.yml", "\nkind: Account\nname: accounts/a\nemail: x\n")
	write(t, "c/.hidden.yaml", "not read")
	write(t, "c/sub/c.yaml", "not read")
	write(t, "c/readme.md", "not read")
	_, err := run(t, catalogCommand(), "apply", "-f", "c")
	want := "c/b.yaml:4:3: billing_address.country: \"XX\" is no country\nc/a.yml:4:1: email: is no address\nset: too long"
	if exitCode(err) != 2 || err.Error() != want {
		t.Errorf("says\n%v\nwant\n%s", err, want)
	}
	a.path = ""
	write(t, "c/z.yaml", "kind: Account\nname: accounts/a\n---\nkind: Account\nname: accounts/z\nstat: x\n")
	_, err = run(t, catalogCommand(), "apply", "-f", "c", "-f", "c/a.yml")
	if exitCode(err) != 2 || !strings.Contains(err.Error(), "c/z.yaml:6:1: stat: there is no such field") || !strings.Contains(err.Error(), "c/a.yml:2:1: accounts/a is here a second time; the first is at c/a.yml:2:1") || a.path != "" {
		t.Errorf("says\n%v", err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"apply"}, "required flag"},
		{[]string{"apply", "-f", "nowhere"}, "no such file"},
		{[]string{"apply", "-f", "c/sub/c.yaml"}, "a resource is a mapping"},
		{[]string{"apply", "-f", t.TempDir()}, "there is no .yaml, .yml or .json file in"},
		{[]string{"apply", "-f", "c", "extra"}, "unknown command"},
		{[]string{"apply", "-f", "c/b.yaml", "-o", "xml"}, `--output "xml"`},
		{[]string{"apply", "-f", "c", "--api", "a/b"}, `"a/b" is not the name of an api`},
		{[]string{"apply", "-f", "c", "--api", "a"}, "--api takes one OpenAPI document"},
	} {
		if _, err := run(t, catalogCommand(), c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %s", c.args, err, c.want)
		}
	}
	write(t, "empty.yaml", "# nothing\n---\n")
	if _, err := run(t, catalogCommand(), "apply", "-f", "empty.yaml"); exitCode(err) != 2 || err.Error() != "there are no resources in the files" {
		t.Errorf("says %v", err)
	}
	a.code, a.answer = 400, `{"detail":"accounts/b is in use by accounts/b/apps/w","code":"FailedPrecondition"}`
	if _, err := run(t, catalogCommand(), "apply", "-f", "c/b.yaml"); exitCode(err) != 1 || !strings.HasPrefix(err.Error(), "accounts/b is in use") {
		t.Errorf("says %v", err)
	}
	command := catalogCommand()
	command.SetIn(strings.NewReader("kind: Account\nname: accounts/b\nx: y\n"))
	if _, err := run(t, command, "apply", "-f", "-"); exitCode(err) != 2 || !strings.HasPrefix(err.Error(), "standard input:3:1: x: ") {
		t.Errorf("says %v", err)
	}
}

func TestDiffPrints(t *testing.T) {
	a := newAPI(t, 200, applied)
	write(t, "f.yaml", "kind: Account\nname: accounts/a\n")
	out, err := run(t, catalogCommand(), "diff", "-f", "f.yaml")
	want := `--- /dev/null
+++ accounts/a (files)
@@ -0,0 +1,2 @@
+kind: Account
+name: accounts/a
--- accounts/b (now)
+++ accounts/b (files)
@@ -1,4 +1,6 @@
 kind: Account
 name: accounts/b
+labels:
+  tier: gold
 display_name: B
-email: x
+email: y
--- /dev/null
+++ accounts/a/apps/w/credentials/k (files)
@@ -0,0 +1,3 @@
+kind: Credential
+name: accounts/a/apps/w/credentials/k
+api_key: {}
--- /dev/null
+++ tokens/ci (files)
@@ -0,0 +1,2 @@
+kind: Token
+name: tokens/ci
--- accounts/d (now)
+++ /dev/null
@@ -1,3 +0,0 @@
-kind: Account
-name: accounts/d
-display_name: D
`
	if exitCode(err) != 1 || !errors.Is(err, errSilent) || out != want {
		t.Errorf("printed\n%s%v\nwant\n%s", out, err, want)
	}
	if a.body["validate_only"] != true {
		t.Errorf("asked %v", a.body)
	}
	a.answer = `{"changes":[{"name":"accounts/a","action":"UNCHANGED"}]}`
	if out, err = run(t, catalogCommand(), "diff", "-f", "f.yaml"); err != nil || out != "" {
		t.Errorf("printed %q, %v", out, err)
	}
	for _, code := range []int{400, 403, 500} {
		a.code, a.answer = code, `{"detail":"no","code":"FailedPrecondition"}`
		if _, err = run(t, catalogCommand(), "diff", "-f", "f.yaml"); exitCode(err) != 2 {
			t.Errorf("after %d: %v", code, err)
		}
	}
}

// The hunks of a diff, put onto the first text, make the second.
func TestUnifiedDiff(t *testing.T) {
	line := rapid.SampledFrom([]string{"a", "b", "c", "d", "- e", ""})
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) []string { return rapid.SliceOfN(line, 1, 30).Draw(t, name) }
		before, after := draw("before"), draw("after")
		diff := unifiedDiff("x", strings.Join(before, "\n")+"\n", strings.Join(after, "\n")+"\n")
		if got := patch(t, before, diff); strings.Join(got, "\n") != strings.Join(after, "\n") {
			t.Fatalf("%q patched with\n%s\nis %q, not %q", before, diff, got, after)
		}
	})
}

// Texts that are too different to be compared line by line are shown as a whole.
func TestLargeDiff(t *testing.T) {
	lines := func(word string) string {
		var b strings.Builder
		for i := range 3000 {
			fmt.Fprintf(&b, "%s %d\n", word, i)
		}
		return "same\n" + b.String() + "end\n"
	}
	diff := unifiedDiff("x", lines("old"), lines("new"))
	for text, want := range map[string]int{"\n-old ": 3000, "\n+new ": 3000, "\n same": 1, "\n end": 1, "\n@@ ": 1} {
		if got := strings.Count(diff, text); got != want {
			t.Errorf("%d of %q, want %d", got, text, want)
		}
	}
}

func patch(t *rapid.T, before []string, diff string) []string {
	var out []string
	at := 0
	lines := strings.Split(strings.TrimSuffix(diff, "\n"), "\n")[2:]
	for _, l := range lines {
		if strings.HasPrefix(l, "@@") {
			var left, nLeft, right, nRight int
			if _, err := fmt.Sscanf(l, "@@ -%d,%d +%d,%d @@", &left, &nLeft, &right, &nRight); err != nil {
				t.Fatal(err)
			}
			start := left - 1
			if nLeft == 0 {
				start = left
			}
			out = append(out, before[at:start]...)
			at = start
			continue
		}
		switch l[0] {
		case '+':
			out = append(out, l[1:])
			continue
		case ' ':
			out = append(out, before[at])
		}
		if before[at] != l[1:] {
			t.Fatalf("line %d is %q, the diff says %q", at+1, before[at], l)
		}
		at++
	}
	return append(out, before[at:]...)
}

// pages answers list requests with what belongs to the path.
type pages map[string]string

func (p pages) serve(t *testing.T) {
	t.Helper()
	newAPI(t, 200, "")
	answer(t, func(w http.ResponseWriter, r *http.Request) {
		key := r.Method + " " + r.URL.Path
		if token := r.URL.Query().Get("page_token"); token != "" {
			key += "?" + token
		}
		answer, ok := p[key]
		if !ok {
			answer = `{}`
			if r.Method != http.MethodGet || strings.Count(r.URL.Path, "/")%2 == 1 {
				w.WriteHeader(http.StatusNotFound)
				answer = `{"detail":"` + r.URL.Path + ` not found"}`
			}
		}
		if strings.HasPrefix(answer, "403") {
			w.WriteHeader(http.StatusForbidden)
			answer = `{"detail":"not for you"}`
		}
		_, _ = io.WriteString(w, answer) // the client tells what it got
	})
}

var company = pages{
	"GET /v1/accounts":                    `{"accounts":[{"name":"accounts/a","display_name":"A","state":"ACCOUNT_ACTIVE","labels":{},"email":"a\u001b[2J@x"}],"next_page_token":"2"}`,
	"GET /v1/accounts?2":                  `{"accounts":[{"name":"accounts/b","display_name":"Bé","state":"ACCOUNT_PENDING","future_field":1}],"next_page_token":""}`,
	"GET /v1/accounts/a":                  `{"name":"accounts/a","uid":"u1","etag":"7","display_name":"A","legal_entity":"legalEntities/e","billing_address":{"city":"Berlin"}}`,
	"GET /v1/accounts/a/apps":             `{"apps":[{"name":"accounts/a/apps/w","display_name":"Web","disabled":true}]}`,
	"GET /v1/accounts/-/apps":             `{"apps":[{"name":"accounts/a/apps/w","display_name":"Web"}]}`,
	"GET /v1/accounts/a/apps/w":           `{"name":"accounts/a/apps/w","etag":"1","display_name":"Web"}`,
	"DELETE /v1/accounts/a/apps/w":        `{}`,
	"GET /v1/products/-/plans/-/versions": `{"versions":[{"name":"products/p/plans/x/versions/1","account":"accounts/a","state":"DRAFT","charges":[{},{}]},{"name":"products/p/plans/x/versions/2","account":"accounts/ab"}]}`,
	"GET /v1/accounts/a/apps/-/credentials": `{"credentials":[
		{"name":"accounts/a/apps/w/credentials/1","api_key":{"prefix":"tk_abc"}},
		{"name":"accounts/a/apps/w/credentials/2","oauth_client":{"issuer":"https://i","client_id":"c"},"expire_time":"2020-01-01T00:00:00Z"},
		{"name":"accounts/a/apps/w/credentials/3","client_certificate":{"uri_san":"spiffe://x"},"revoke_time":"2020-01-01T00:00:00Z","expire_time":"2099-01-01T00:00:00Z"}]}`,
	"GET /v1/tokens": "403",
}

func TestGet(t *testing.T) {
	company.serve(t)
	for _, c := range []struct{ args, want string }{
		{"get accounts", `name        display_name  state            email    currency  time_zone
accounts/a  A             ACCOUNT_ACTIVE   a�[2J@x  -         -
accounts/b  Bé            ACCOUNT_PENDING  -        -         -
`},
		{"get acc -o name", "accounts/a\naccounts/b\n"},
		{"get account -o csv", "name,display_name,state,email,currency,time_zone\naccounts/a,A,ACCOUNT_ACTIVE,a\x1b[2J@x,,\naccounts/b,Bé,ACCOUNT_PENDING,,,\n"},
		{"get account a -o yaml", "kind: Account\nname: accounts/a\ndisplay_name: A\nbilling_address:\n  city: Berlin\nlegal_entity: legalEntities/e\n"},
		{"get app a/w accounts/a/apps/w -o yaml", "kind: App\nname: accounts/a/apps/w\ndisplay_name: Web\n---\nkind: App\nname: accounts/a/apps/w\ndisplay_name: Web\n"},
		{"get app w --account a -o name", "accounts/a/apps/w\n"},
		{"get accounts/a/apps/w -o json", "{\n  \"kind\": \"App\",\n  \"name\": \"accounts/a/apps/w\",\n  \"etag\": \"1\",\n  \"display_name\": \"Web\"\n}\n"},
		{"get apps --account accounts/a -o json", "[\n  {\n    \"kind\": \"App\",\n    \"name\": \"accounts/a/apps/w\",\n    \"display_name\": \"Web\",\n    \"disabled\": true\n  }\n]\n"},
		{"get creds --account a", `name                             type                identity     state    expire_time
accounts/a/apps/w/credentials/1  api_key             tk_abc…      active   -
accounts/a/apps/w/credentials/2  oauth_client        https://i c  expired  2020-01-01T00:00:00Z
accounts/a/apps/w/credentials/3  client_certificate  spiffe://x   revoked  2099-01-01T00:00:00Z
`},
		{"get plan-versions", `name                           state  start_time  account      currency  recurring_fee  charges  quotas
products/p/plans/x/versions/1  DRAFT  -           accounts/a   -         -              2        0
products/p/plans/x/versions/2  -      -           accounts/ab  -         -              0        0
`},
		{"get all -o name", "accounts/a\naccounts/b\naccounts/a/apps/w\nproducts/p/plans/x/versions/1\nproducts/p/plans/x/versions/2\n"},
		{"get all --account a -o name", "accounts/a\naccounts/a/apps/w\naccounts/a/apps/w/credentials/1\naccounts/a/apps/w/credentials/2\naccounts/a/apps/w/credentials/3\n"},
		{"get meters", ""},
		{"describe accounts/a", `Account accounts/a
  uid: u1
  etag: "7"
  display_name: A
  billing_address:
    city: Berlin
  legal_entity: legalEntities/e

Apps
  name               display_name  disabled
  accounts/a/apps/w  Web           true

Credentials
  name                             type                identity     state    expire_time
  accounts/a/apps/w/credentials/1  api_key             tk_abc…      active   -
  accounts/a/apps/w/credentials/2  oauth_client        https://i c  expired  2020-01-01T00:00:00Z
  accounts/a/apps/w/credentials/3  client_certificate  spiffe://x   revoked  2099-01-01T00:00:00Z

Versions that refer to it
  name                           state  start_time  account     currency  recurring_fee  charges  quotas
  products/p/plans/x/versions/1  DRAFT  -           accounts/a  -         -              2        0
`},
		{"delete app a/w", "accounts/a/apps/w deleted\n"},
		{"delete accounts/a/apps/w --dry-run", "accounts/a/apps/w would be deleted\n"},
	} {
		out, err := run(t, catalogCommand(), strings.Fields(c.args)...)
		if err != nil || out != c.want {
			t.Errorf("%s printed\n%s%v\nwant\n%s", c.args, out, err, c.want)
		}
	}
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"get", 2, "requires at least 1 arg"},
		{"get order", 2, `"order" is not a kind of resource; there are account, api, app,`},
		{"get orders/a", 2, `"orders/a" is not the name of a resource`},
		{"get app w", 2, `"w" is not the name of an app`},
		{"get app a/b/c", 2, `"a/b/c" is not the name of an app`},
		{"get products --account a", 2, "a product does not belong to what the flags name"},
		{"get apps --account a/b", 2, `--account "a/b" is not a name of one`},
		{"get all x", 2, "all takes no names"},
		{"get account a --filter x=1", 2, "--filter and --sort are for lists"},
		{"get accounts -o toml", 2, `--output "toml" is not one of table, json, yaml, csv, name`},
		{"get account nobody", 1, "/v1/accounts/nobody not found"},
		{"get tokens", 1, "not allowed: not for you"},
		{"describe account", 2, "describe takes one name"},
		{"delete", 2, "name the resources"},
		{"delete account", 2, "name the resources to delete"},
		{"delete account a/b", 2, `"a/b" is not the name of an account`},
		{"delete accounts/x accounts/y", 1, "accounts/x: /v1/accounts/x not found (status 404)\naccounts/y: /v1/accounts/y not found (status 404)"},
	} {
		_, err := run(t, catalogCommand(), strings.Fields(c.args)...)
		if exitCode(err) != c.code || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.args, err, c.want)
		}
	}
}

func TestDeleteFiles(t *testing.T) {
	var asked []string
	newAPI(t, 200, "")
	answer(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		if strings.HasSuffix(r.URL.Path, "/a") {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"detail":"accounts/a is in use by accounts/a/apps/x","code":"FailedPrecondition"}`)
			return
		}
		_, _ = io.WriteString(w, `{}`)
	})
	write(t, "f.yaml", "- {kind: Account, name: accounts/a}\n- {kind: App, name: accounts/a/apps/w}\n- {kind: Subscription, name: accounts/a/subscriptions/s, app: accounts/a/apps/w}\n")
	out, err := run(t, catalogCommand(), "delete", "-f", "f.yaml")
	if want := "accounts/a/subscriptions/s deleted\naccounts/a/apps/w deleted\n"; exitCode(err) != 1 || out != want || !strings.Contains(err.Error(), "accounts/a is in use by accounts/a/apps/x") {
		t.Errorf("printed %q, %v", out, err)
	}
	if got := strings.Join(asked, ", "); got != "DELETE /v1/accounts/a/subscriptions/s, DELETE /v1/accounts/a/apps/w, DELETE /v1/accounts/a" {
		t.Errorf("asked %s", got)
	}
}

// answer lets a handler answer what newAPI would have answered.
func answer(t *testing.T, handler http.HandlerFunc) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	t.Setenv("TOLLWAY_SERVER", server.URL)
}

func TestActions(t *testing.T) {
	for _, c := range []struct{ args, answer, method, path, body, want string }{
		{"credential create a/w --id k --display-name Key,one --expires-in 90d", `{"name":"accounts/a/apps/w/credentials/k","api_key":{"prefix":"tk_a","key":"tk_abc"}}`,
			"POST", "/v1/accounts/a/apps/w/credentials?credential_id=k", `{"display_name":"Key,one","api_key":{},"expire_time":"*"}`,
			"accounts/a/apps/w/credentials/k created\n\nKeep these now: they are not shown again.\n  accounts/a/apps/w/credentials/k  tk_abc\n"},
		{"credential rotate a/w/k --overlap 7d --id n", `{"name":"accounts/a/apps/w/credentials/n","api_key":{"key":"tk_n"}}`,
			"POST", "/v1/accounts/a/apps/w/credentials/k:rotate", `{"credential_id":"n","overlap":"604800s"}`,
			"accounts/a/apps/w/credentials/n created\n\nKeep these now: they are not shown again.\n  accounts/a/apps/w/credentials/n  tk_n\n"},
		{"credential revoke accounts/a/apps/w/credentials/k", `{"name":"accounts/a/apps/w/credentials/k"}`, "POST", "/v1/accounts/a/apps/w/credentials/k:revoke", `{}`, "accounts/a/apps/w/credentials/k revoked\n"},
		{"app create a/w --display-name Web", `{"name":"accounts/a/apps/w"}`, "POST", "/v1/accounts/a/apps?app_id=w", `{"display_name":"Web"}`, "accounts/a/apps/w created\n"},
		{"subscription request p/x --app a/w --start 2026-12-01", `{"name":"accounts/a/subscriptions/s","state":"REQUESTED"}`,
			"POST", "/v1/accounts/a/subscriptions", `{"app":"accounts/a/apps/w","plan":"products/p/plans/x","start_time":"2026-12-01T00:00:00Z"}`, "accounts/a/subscriptions/s requested\n"},
		{"subscription request products/p/plans/x --account a --id s", `{"name":"accounts/a/subscriptions/s","state":"ACTIVE"}`,
			"POST", "/v1/accounts/a/subscriptions?subscription_id=s", `{"plan":"products/p/plans/x"}`, "accounts/a/subscriptions/s active\n"},
		{"subscription approve a/s", `{"name":"accounts/a/subscriptions/s"}`, "POST", "/v1/accounts/a/subscriptions/s:approve", `{}`, "accounts/a/subscriptions/s approved\n"},
		{"subscription reject a/s --reason no", `{"name":"accounts/a/subscriptions/s"}`, "POST", "/v1/accounts/a/subscriptions/s:approve", `{"reject":true,"reason":"no"}`, "accounts/a/subscriptions/s rejected\n"},
		{"subscription suspend a/s --reason unpaid", `{"name":"accounts/a/subscriptions/s"}`, "POST", "/v1/accounts/a/subscriptions/s:suspend", `{"reason":"unpaid"}`, "accounts/a/subscriptions/s suspended\n"},
		{"subscription resume a/s", `{"name":"accounts/a/subscriptions/s"}`, "POST", "/v1/accounts/a/subscriptions/s:resume", `{}`, "accounts/a/subscriptions/s resumed\n"},
		{"subscription end a/s --at 2027-01-01T12:00", `{"name":"accounts/a/subscriptions/s"}`, "POST", "/v1/accounts/a/subscriptions/s:end", `{"end_time":"2027-01-01T12:00:00Z"}`, "accounts/a/subscriptions/s ended\n"},
		{"subscription move a/s p/x/2", `{"name":"accounts/a/subscriptions/s"}`, "POST", "/v1/accounts/a/subscriptions/s:move", `{"plan":"products/p/plans/x/versions/2"}`, "accounts/a/subscriptions/s moved\n"},
		{"subscription move a/s p/y --at 2027-01-01", `{"name":"accounts/a/subscriptions/s"}`, "POST", "/v1/accounts/a/subscriptions/s:move", `{"plan":"products/p/plans/y","start_time":"2027-01-01T00:00:00Z"}`, "accounts/a/subscriptions/s moved\n"},
		{"plan publish p/x/2", `{"name":"products/p/plans/x/versions/2"}`, "POST", "/v1/products/p/plans/x/versions/2:publish", `{}`, "products/p/plans/x/versions/2 published\n"},
		{"plan archive p/x/2", `{"name":"products/p/plans/x/versions/2"}`, "POST", "/v1/products/p/plans/x/versions/2:archive", `{}`, "products/p/plans/x/versions/2 archived\n"},
		{"token create ci --role consumer --account a --scope reports.read --scope catalog.read", `{"name":"tokens/ci","token":"tt_1"}`,
			"POST", "/v1/tokens?token_id=ci", `{"role":"consumer","account":"accounts/a","scopes":["reports.read","catalog.read"]}`,
			"tokens/ci created\n\nKeep these now: they are not shown again.\n  tokens/ci  tt_1\n"},
		{"token revoke ci", `{}`, "DELETE", "/v1/tokens/ci", ``, "tokens/ci revoked\n"},
		{"token list", `{"tokens":[{"name":"tokens/ci","role":"admin"}]}`, "GET", "/v1/tokens?page_size=1000", ``,
			"name       role   account  scopes  expire_time  last_used_time\ntokens/ci  admin  -        -       -            -\n"},
		{"register --id a --display-name Acme --email a@b.c", `{"account":{"name":"accounts/a","state":"ACCOUNT_PENDING"},"token":{"name":"tokens/t","token":"tt_2"}}`,
			"POST", "/v1/accounts:register", `{"account_id":"a","display_name":"Acme","email":"a@b.c"}`,
			"accounts/a registered, pending\n\nKeep these now: they are not shown again.\n  tokens/t  tt_2\n"},
		{"whoami", `{"principal":"tokens/ci","role":"consumer","account":"accounts/a","scopes":["a.b","c.d"]}`, "GET", "/v1/whoami", ``,
			"principal  tokens/ci\nrole       consumer\naccount    accounts/a\nscopes     a.b c.d\n"},
	} {
		a := newAPI(t, 200, c.answer)
		out, err := run(t, catalogCommand(), strings.Fields(c.args)...)
		if err != nil || out != c.want || a.path != c.path || a.method != c.method {
			t.Errorf("%s asked %s %s and printed\n%s%v\nwant %s %s\n%s", c.args, a.method, a.path, out, err, c.method, c.path, c.want)
		}
		if expires, ok := a.body["expire_time"].(string); ok {
			at, err := time.Parse(time.RFC3339, expires)
			if left := time.Until(at); err != nil || left < 89*24*time.Hour || left > 90*24*time.Hour {
				t.Errorf("%s expires at %s", c.args, expires)
			}
			a.body["expire_time"] = "*"
		}
		var want map[string]any
		if c.body != "" {
			if err := json.Unmarshal([]byte(c.body), &want); err != nil {
				t.Fatal(err)
			}
		}
		if fmt.Sprint(a.body) != fmt.Sprint(want) {
			t.Errorf("%s sent %v, want %v", c.args, a.body, want)
		}
	}
}

func TestActionsRefused(t *testing.T) {
	newAPI(t, 200, `{"principal":"tokens/x","role":"admin"}`)
	for args, want := range map[string]string{
		"credential create":                            "accepts 1 arg(s), received 0",
		"credential create w":                          `"w" is not the name of an app`,
		"credential rotate a/w/k --overlap soon":       `--overlap "soon" is not a time such as`,
		"credential create a/w --expires-in -1h":       `--expires-in "-1h" is not a time such as`,
		"subscription end a/s --at soon":               `--at "soon" is not a time such as`,
		"subscription request p/x":                     "say for whom, with --app or --account",
		"subscription request p/x --app a":             `--app "a" is not the name of an app`,
		"subscription request p/x --account a --app w": "none of the others can be",
		"subscription move a/s":                        "accepts 2 arg(s), received 1",
		"plan publish p/x":                             `"p/x" is not the name of a plan-version`,
		"audit --since soon":                           `--since "soon" is not a time such as`,
		"audit --limit 0":                              "--limit must be at least 1",
		"register":                                     "required flag",
	} {
		if _, err := run(t, catalogCommand(), strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}

func TestAudit(t *testing.T) {
	pages{
		"GET /v1/auditEntries": `{"entries":[
			{"id":"3","time":"2026-11-24T12:00:00Z","actor":"tokens/ci","role":"admin","method":"/tollway.catalog.v1.Catalog/UpdateAccount","name":"accounts/a","before":{"account":{"name":"accounts/a","etag":"1","email":"x"}},"after":{"account":{"name":"accounts/a","etag":"2","email":"y","labels":{"a":"b"}}}}],"next_page_token":"n"}`,
		"GET /v1/auditEntries?n": `{"entries":[
			{"id":"2","time":"2026-11-24T11:00:00Z","actor":"tokens/ci","role":"admin","method":"CreateAccount","name":"accounts/a","after":{"account":{"name":"accounts/a"}}},
			{"id":"1","time":"2026-11-24T10:00:00Z","actor":"sub","role":"admin","method":"DeleteAccount","name":"accounts/z","before":{"account":{"name":"accounts/z"}}}]}`,
	}.serve(t)
	out, err := run(t, catalogCommand(), "audit", "--since", "7d")
	want := `time                  actor      role   method         name        fields
2026-11-24T12:00:00Z  tokens/ci  admin  UpdateAccount  accounts/a  email, labels
2026-11-24T11:00:00Z  tokens/ci  admin  CreateAccount  accounts/a  created
2026-11-24T10:00:00Z  sub        admin  DeleteAccount  accounts/z  deleted
`
	if err != nil || out != want {
		t.Errorf("printed\n%s%v\nwant\n%s", out, err, want)
	}
	if out, err = run(t, catalogCommand(), "audit", "--limit", "1"); err != nil || strings.Count(out, "\n") != 2 {
		t.Errorf("printed\n%s%v", out, err)
	}
}

func TestCatalogCompletion(t *testing.T) {
	company.serve(t)
	for args, want := range map[string]string{
		"get|ap":                        "api\napp\n:4\n",
		"get|al":                        "all\n:4\n",
		"get|accounts|accounts/":        "accounts/a\naccounts/b\n:4\n",
		"get|tokens|":                   ":4\n",
		"describe|app|":                 "accounts/a/apps/w\n:4\n",
		"get|apps|--account|":           "accounts/a\naccounts/b\n:4\n",
		"app|create|":                   "accounts/a\naccounts/b\n:4\n",
		"plan|publish|":                 "products/p/plans/x/versions/1\nproducts/p/plans/x/versions/2\n:4\n",
		"subscription|request|x|--app|": "accounts/a/apps/w\n:4\n",
		"get|accounts|-o|":              "table\njson\nyaml\ncsv\nname\n:6\n",
		"subscription|re":               "reject\tSay no to a requested subscription\nrequest\tAsk for a product under a plan\nresume\tBring a suspended subscription back\n:4\n",
	} {
		out, err := run(t, catalogCommand(), append([]string{"__complete"}, strings.Split(args, "|")...)...)
		if err != nil || out != want {
			t.Errorf("%s completes to %q, %v; want %q", args, out, err, want)
		}
	}
}

// What get prints can be applied: all of it comes back as it was, but for what
// belongs to one installation.
func TestGetIsApplicable(t *testing.T) {
	r := &catalogv1.Resource{Kind: &catalogv1.Resource_Subscription{Subscription: &catalogv1.Subscription{
		Name: "accounts/a/subscriptions/s", Uid: "u", Etag: "e", CreateTime: timestamppb.Now(), Plan: "products/p/plans/x",
		StartTime: &timestamppb.Timestamp{Seconds: 1, Nanos: 1000}, State: catalogv1.SubscriptionState_ACTIVE,
		Phases: []*catalogv1.SubscriptionPhase{{PlanVersion: "products/p/plans/x/versions/1"}},
	}}}
	text, err := protojson.Marshal(r.GetSubscription())
	if err != nil {
		t.Fatal(err)
	}
	pages{"GET /v1/accounts/-/subscriptions": `{"subscriptions":[` + string(text) + `]}`}.serve(t)
	for _, output := range []string{"yaml", "json"} {
		out, err := run(t, catalogCommand(), "get", "subscriptions", "-o", output)
		if err != nil {
			t.Fatal(err)
		}
		documents, err := manifest.Parse("f", []byte(out))
		if err != nil {
			t.Fatal(err)
		}
		if got := protojson.Format(documents[0].Resource); !strings.Contains(got, "1970-01-01T00:00:01.000001Z") || strings.Contains(got, "etag") || !strings.Contains(got, "products/p/plans/x/versions/1") {
			t.Errorf("%s comes back as %s", output, got)
		}
	}
}
