package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tollway/tollway/cmd/tollway/manifest"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog"
	"github.com/tollway/tollway/services/collector/als"
	"github.com/tollway/tollway/services/platform/auth"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/rest"
	"github.com/tollway/tollway/services/platform/testenv"
)

// newCatalog runs the catalog's service on a database, and lets commands ask it
// as an administrator. The result makes them ask as a consumer.
func newCatalog(t *testing.T, db *ledger.DB) (asConsumer func(account string)) {
	t.Helper()
	newAPI(t, http.StatusOK, "")
	dir := t.TempDir()
	cfg := catalog.DefaultConfig()
	cfg.HashKeyFile, cfg.Registration = filepath.Join(dir, "hash.key"), catalog.Approval
	service, err := catalog.New(cfg, catalog.Deps{Ledger: db, Log: zerolog.Nop(), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if err := service.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	tokens := map[string]auth.Principal{}
	token := func(p auth.Principal) string {
		text, _, err := auth.NewToken(p.Role)
		if err != nil {
			t.Fatal(err)
		}
		tokens[text] = p
		return text
	}
	admin := token(auth.Principal{Name: "admin", Role: auth.Admin})
	consumers := map[string]string{}
	for _, account := range []string{"northwind", "globex"} {
		consumers[account] = token(auth.Principal{Name: account, Role: auth.Consumer, Account: account})
	}
	t.Setenv("TOLLWAY_SERVER", serveCatalog(t, service, auth.Static(tokens)))
	t.Setenv("TOLLWAY_TOKEN", admin)
	return func(account string) { t.Setenv("TOLLWAY_TOKEN", consumers[account]) }
}

// serveCatalog is the REST side of the service; the guard lets strangers
// register.
func serveCatalog(t *testing.T, service catalogv1.CatalogServer, tokens auth.Authenticator) string {
	t.Helper()
	guard, err := auth.NewGuard(tokens, catalog.Rules)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(append(als.ServerOptions(), // as the process has them
		grpc.Creds(rest.Credentials(insecure.NewCredentials())), grpc.UnaryInterceptor(guard.Unary()))...)
	catalogv1.RegisterCatalogServer(server, service)
	gateway, err := rest.New(guard)
	if err != nil {
		t.Fatal(err)
	}
	if err := gateway.Register(t.Context(), catalogv1.RegisterCatalogHandler); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- gateway.Serve(t.Context(), server) }()
	web := httptest.NewServer(gateway)
	t.Cleanup(func() {
		web.Close()
		_ = gateway.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve the catalog: %v", err)
		}
	})
	return web.URL
}

// ok runs a command that must succeed and returns what it prints.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	out, err := run(t, catalogCommand(), args...)
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return out
}

// refusedWith runs a command that must fail with a code and a text.
func refusedWith(t *testing.T, code int, text string, args ...string) {
	t.Helper()
	if out, err := run(t, catalogCommand(), args...); exitCode(err) != code || err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: exit %d, %v, want %d with %q\n%s", strings.Join(args, " "), exitCode(err), err, code, text, out)
	}
}

// sampleFolder copies the sample company, so that a test can change it.
func sampleFolder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "company")
	if err := os.CopyFS(dir, os.DirFS(samplePath)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// samplePath is set before a test leaves this folder.
var samplePath = func() string {
	path, err := filepath.Abs("../../deploy/examples/catalog")
	if err != nil {
		panic(err) // the folder of a test is there
	}
	return path
}()

func lastLine(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1]
}

func edit(t *testing.T, file, from, to string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		t.Fatalf("%s has no %q", file, from)
	}
	write(t, file, strings.Replace(string(text), from, to, 1))
}

func TestRealSampleCompany(t *testing.T) { testenv.EachLedger(t, sampleCompany) }

func sampleCompany(t *testing.T, db *ledger.DB) {
	newCatalog(t, db)
	dir := sampleFolder(t)
	files, err := readFiles([]string{dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	documents, err := parseFiles(files)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, d := range documents {
		kind, _ := manifest.Open(d.Resource)
		counts[kind.Name]++
	}
	for name, want := range map[string]int{"Api": 3, "Product": 4, "Account": 8, "LegalEntity": 1} {
		if counts[name] != want {
			t.Errorf("%d of %s, want %d", counts[name], name, want)
		}
	}

	dry := ok(t, "apply", "-f", dir, "--dry-run")
	if ok(t, "get", "all", "-o", "name") != "" {
		t.Error("a dry run made something")
	}
	out := ok(t, "apply", "-f", dir)
	total := len(documents)
	if want := fmt.Sprintf("%d created", total); lastLine(out) != want || strings.ReplaceAll(dry, " (dry run)", "") != out {
		t.Errorf("applied\n%s\nwant %s, and as in the dry run\n%s", out, want, dry)
	}
	if out := ok(t, "apply", "-f", dir); lastLine(out) != fmt.Sprintf("%d unchanged", total) {
		t.Errorf("applied again\n%s", out)
	}
	if out := ok(t, "diff", "-f", dir); out != "" {
		t.Errorf("differs\n%s", out)
	}
	if out := ok(t, "apply", "--api", "orders", "-f", filepath.Join(dir, "openapi", "orders.yaml"), "--prune"); !strings.Contains(out, "5 unchanged") || strings.Contains(out, "created") || strings.Contains(out, "updated") {
		t.Errorf("the OpenAPI document says something else:\n%s", out)
	}
	for _, line := range []string{"accounts/northwind/apps/warehouse/credentials/certificate", "products/commerce/plans/business/versions/4", "accounts/acme/subscriptions/commerce"} {
		if !strings.Contains(ok(t, "get", "all", "-o", "name"), line+"\n") {
			t.Errorf("%s is not there", line)
		}
	}
	states := ok(t, "get", "subscriptions", "-o", "csv")
	for _, state := range []string{"REQUESTED", "ACTIVE", "SUSPENDED", "ENDED"} {
		if !strings.Contains(states, ","+state+",") {
			t.Errorf("no subscription is %s:\n%s", state, states)
		}
	}
}

// What get prints as YAML is the catalog: applied to an empty one it makes the
// same, and applied again it changes nothing.
func TestRealCatalogRoundTrip(t *testing.T) { testenv.EachLedger(t, catalogRoundTrip) }

func catalogRoundTrip(t *testing.T, db *ledger.DB) {
	newCatalog(t, db)
	ok(t, "apply", "-f", sampleFolder(t))
	ok(t, "subscription", "move", "contoso/commerce", "commerce/free")
	ok(t, "subscription", "suspend", "contoso/commerce", "--reason", "unpaid")
	ok(t, "credential", "revoke", "northwind/warehouse/certificate")
	ok(t, "credential", "create", "northwind/warehouse", "--id", "first")
	ok(t, "credential", "rotate", "northwind/warehouse/first", "--id", "second", "--overlap", "1s")
	copied := filepath.Join(t.TempDir(), "copy.yaml")
	write(t, copied, ok(t, "get", "all", "-o", "yaml"))
	if out := ok(t, "apply", "-f", copied); strings.Contains(out, "created") || strings.Contains(out, "updated") {
		t.Errorf("applied to where it came from\n%s", out)
	}
	asJSON := filepath.Join(t.TempDir(), "copy.json")
	write(t, asJSON, ok(t, "get", "accounts", "-o", "json"))
	if out := ok(t, "apply", "-f", asJSON); lastLine(out) != "8 unchanged" {
		t.Errorf("applied to where it came from\n%s", out)
	}
	before := ok(t, "get", "all", "-o", "yaml")
	newCatalog(t, testenv.Ledger(t))
	if out := ok(t, "apply", "-f", copied); strings.Contains(out, "updated") || strings.Contains(out, "unchanged") {
		t.Errorf("applied to nothing\n%s", out)
	}
	if after := ok(t, "get", "all", "-o", "yaml"); after != before {
		t.Errorf("the copy differs:\n%s", unifiedDiff("catalog", before, after))
	}
}

// Up to the limits that the help names a change is applied as a whole, and beyond
// them the error says what to do.
func TestApplyLimits(t *testing.T) {
	newCatalog(t, testenv.Ledger(t))
	file := filepath.Join(t.TempDir(), "large.json")
	resources := func(n, size int) {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "%c{\"kind\":\"Product\",\"name\":\"products/p%d\",\"display_name\":\"P\",\"description\":\"%s\"}\n", "[,"[min(i, 1)], i, strings.Repeat("x", size))
		}
		write(t, file, b.String()+"]")
	}
	resources(5001, 10)
	refusedWith(t, 2, "at most 5000 can be applied at once: apply them in several sets", "apply", "-f", file, "--dry-run")
	resources(4300, 3990)
	refusedWith(t, 1, "a request has at most 16 MiB (status 413); apply the files in several parts", "apply", "-f", file)
	resources(4100, 3990)
	if out := ok(t, "apply", "-f", file, "--timeout", "5m"); lastLine(out) != "4100 created" {
		t.Errorf("applied %s", lastLine(out))
	}
}

// One wrong document, wherever it is, and nothing is applied.
func TestNothingAppliedInPart(t *testing.T) {
	newCatalog(t, testenv.Ledger(t))
	for _, c := range []struct {
		file, from, to string
		want           string
	}{
		{"accounts.yaml", "display_name: Fleet tracking", "display_nam: Fleet tracking", "accounts.yaml:62:1: display_nam: there is no such field in App"},
		{"accounts.yaml", "country: BE", "country: Belgium", "accounts.yaml:35:84: billing_address.country"},
		{"products.yaml", "model: GRADUATED", "model: STEPS", `products.yaml:61:10: charges[0].model: "STEPS" is not one of PER_UNIT, GRADUATED, VOLUME, PACKAGE`},
		{"products.yaml", "{up_to: 10000000, unit_price: 0.0003}", "{up_to: 10, unit_price: 0.0003}", "products.yaml:64:6: charges[0].tiers[1].up_to"},
		{"products.yaml", "meter: meters/tokens", "meter: meters/words", "meters/words"},
		{"subscriptions.yaml", "plan: products/maps/plans/free", "plan: products/maps/plans/cheap", "products/maps/plans/cheap"},
		{"company.yaml", "name: environments/sandbox", "name: environments/production", "environments/production is here a second time"},
		{"company.yaml", "iban: DE89", "iban: DE88", "company.yaml:27:1: iban"},
	} {
		dir := sampleFolder(t)
		edit(t, filepath.Join(dir, c.file), c.from, c.to)
		refusedWith(t, 2, c.want, "apply", "-f", dir)
		refusedWith(t, 2, c.want, "diff", "-f", dir)
	}
	if out := ok(t, "get", "all", "-o", "name"); out != "" {
		t.Errorf("applied in part:\n%s", out)
	}
}

func TestRealApplyChanges(t *testing.T) { testenv.EachLedger(t, applyChanges) }

func applyChanges(t *testing.T, db *ledger.DB) {
	newCatalog(t, db)
	dir := sampleFolder(t)
	ok(t, "apply", "-f", dir)
	edit(t, filepath.Join(dir, "accounts.yaml"), "display_name: Contoso\n", "display_name: Contoso Ltd\n")
	edit(t, filepath.Join(dir, "accounts.yaml"), "labels: {tier: gold}", "labels: {tier: platinum}")
	out, err := run(t, catalogCommand(), "diff", "-f", dir)
	if want := `--- accounts/northwind (now)
+++ accounts/northwind (files)
@@ -1,7 +1,7 @@
 kind: Account
 name: accounts/northwind
 labels:
-  tier: gold
+  tier: platinum
 display_name: Northwind Traders
 state: ACCOUNT_ACTIVE
 email: api@northwind.example
--- accounts/contoso (now)
+++ accounts/contoso (files)
@@ -2,7 +2,7 @@
 name: accounts/contoso
 labels:
   tier: gold
-display_name: Contoso
+display_name: Contoso Ltd
 state: ACCOUNT_ACTIVE
 email: platform@contoso.example
 billing_address:
`; exitCode(err) != exitDiffers || out != want {
		t.Errorf("%v, differs\n%s\nwant\n%s", err, out, want)
	}
	out = ok(t, "apply", "-f", dir)
	for _, line := range []string{"accounts/contoso updated (display_name)", "accounts/northwind updated (labels)", "2 updated"} {
		if !strings.Contains(out, line) {
			t.Errorf("%q is not in\n%s", line, out)
		}
	}
	// What was published stays as it is.
	edit(t, filepath.Join(dir, "products.yaml"), "recurring_fee: 990.00", "recurring_fee: 99.00")
	refusedWith(t, 1, "products.yaml:", "apply", "-f", dir)
}

func TestRealApplyPrunes(t *testing.T) { testenv.EachLedger(t, applyPrunes) }

func applyPrunes(t *testing.T, db *ledger.DB) {
	newCatalog(t, db)
	dir := sampleFolder(t)
	ok(t, "apply", "-f", dir)
	write(t, filepath.Join(dir, "other.yaml"), "kind: Meter\nname: meters/by-hand\nunit: call\naggregation: COUNT\n")
	ok(t, "apply", "-f", filepath.Join(dir, "other.yaml"), "--set", "by-hand")
	if err := os.Remove(filepath.Join(dir, "other.yaml")); err != nil {
		t.Fatal(err)
	}
	edit(t, filepath.Join(dir, "subscriptions.yaml"), `kind: Subscription
name: accounts/acme/subscriptions/commerce
app: accounts/acme/apps/trial
plan: products/commerce/plans/free
state: REQUESTED
`, "")
	if out := ok(t, "apply", "-f", dir); strings.Contains(out, "deleted") {
		t.Errorf("without --prune\n%s", out)
	}
	out, err := run(t, catalogCommand(), "diff", "-f", dir, "--prune")
	if exitCode(err) != exitDiffers || !strings.HasPrefix(out, "--- accounts/acme/subscriptions/commerce (now)\n+++ /dev/null\n") || strings.Count(out, "+++") != 1 {
		t.Errorf("%v, differs\n%s", err, out)
	}
	if out := ok(t, "apply", "-f", dir, "--prune"); !strings.Contains(out, "accounts/acme/subscriptions/commerce deleted\n1 deleted, ") {
		t.Errorf("pruned\n%s", out)
	}
	if out := ok(t, "get", "meters", "-o", "name"); !strings.Contains(out, "meters/by-hand\n") {
		t.Errorf("a resource of another set is gone:\n%s", out)
	}
}

func TestDeleteInUse(t *testing.T) {
	newCatalog(t, testenv.Ledger(t))
	dir := sampleFolder(t)
	ok(t, "apply", "-f", dir)
	refusedWith(t, 1, "accounts/contoso", "delete", "account", "contoso")
	refusedWith(t, 1, "subscriptions/commerce", "delete", "plan", "commerce/free")
	if out := ok(t, "delete", "subscription", "acme/commerce"); out != "accounts/acme/subscriptions/commerce deleted\n" {
		t.Error(out)
	}
	refusedWith(t, 1, "does not exist", "get", "subscription", "acme/commerce")
}

func TestDescribe(t *testing.T) {
	newCatalog(t, testenv.Ledger(t))
	ok(t, "apply", "-f", sampleFolder(t))
	for args, want := range map[string][]string{
		"account northwind":               {"display_name: Northwind Traders", "Apps\n", "accounts/northwind/apps/warehouse", "spiffe://northwind.example/warehouse", "Subscriptions\n", "Versions that refer to it\n  name", "products/commerce/plans/business/versions/3"},
		"meters/tokens":                   {"field: measures.tokens", "products/semantic-search/plans/tokens/versions/1"},
		"api maps":                        {"*.tiles.meridian.example", "GET", "/tiles/{z}/{x}/{y}", "Products that refer to it", "products/geocoding", "products/maps"},
		"plan commerce/business":          {"Versions\n", "PUBLISHED", "DRAFT"},
		"subscription northwind/commerce": {"plan_version: products/commerce/plans/business/versions/3"},
		"legal-entity meridian":           {"Meridian Data Services GmbH", "Accounts that refer to it", "accounts/hooli"},
	} {
		out := ok(t, append([]string{"describe"}, strings.Fields(args)...)...)
		for _, text := range want {
			if !strings.Contains(out, text) {
				t.Errorf("%s: %q is not in\n%s", args, text, out)
			}
		}
	}
}

// What a consumer does by itself, and what it cannot.
func TestRealSelfService(t *testing.T) { testenv.EachLedger(t, selfService) }

func selfService(t *testing.T, db *ledger.DB) {
	asConsumer := newCatalog(t, db)
	ok(t, "apply", "-f", sampleFolder(t))
	admin := os.Getenv("TOLLWAY_TOKEN")

	asConsumer("globex")
	if out := ok(t, "whoami"); !strings.Contains(out, "role       consumer\naccount    accounts/globex\n") {
		t.Error(out)
	}
	ok(t, "app", "create", "globex/robot", "--display-name", "Robot")
	out := ok(t, "credential", "create", "globex/robot", "--id", "first", "--expires-in", "90d")
	key := strings.Fields(lastLine(out))
	if len(key) != 2 || key[0] != "accounts/globex/apps/robot/credentials/first" || len(key[1]) < 32 {
		t.Fatalf("made\n%s", out)
	}
	if again := ok(t, "get", "credential", "globex/robot/first", "-o", "json"); strings.Contains(again, key[1]) || !strings.Contains(again, `"prefix"`) {
		t.Errorf("the key is shown again, or nothing of it:\n%s", again)
	}
	if out := ok(t, "credential", "rotate", "globex/robot/first", "--id", "second", "--overlap", "1h"); !strings.Contains(out, "credentials/second created\n") || !strings.Contains(out, "Keep these now") {
		t.Error(out)
	}
	ok(t, "credential", "revoke", "globex/robot/first")
	table := ok(t, "get", "credentials", "--app", "globex/robot")
	if !strings.Contains(table, "first") || !strings.Contains(table, "revoked") || !strings.Contains(table, "active") {
		t.Errorf("after the change of keys\n%s", table)
	}
	if out := ok(t, "subscription", "request", "commerce/free", "--app", "globex/robot", "--id", "shop"); out != "accounts/globex/subscriptions/shop requested\n" {
		t.Error(out)
	}
	refusedWith(t, 1, "", "subscription", "approve", "globex/shop")
	refusedWith(t, 1, "", "get", "account", "northwind")
	refusedWith(t, 1, "", "apply", "-f", filepath.Join(samplePath, "company.yaml"))
	refusedWith(t, 1, "", "token", "create", "--role", "admin")
	if out := ok(t, "get", "all", "-o", "name"); strings.Contains(out, "northwind") || !strings.Contains(out, "accounts/globex/subscriptions/shop") {
		t.Errorf("a consumer sees\n%s", out)
	}

	t.Setenv("TOLLWAY_TOKEN", admin)
	if out := ok(t, "get", "subscriptions", "--filter", "state = REQUESTED", "--sort", "create_time desc", "-o", "name"); !strings.Contains(out, "accounts/globex/subscriptions/shop\n") {
		t.Error(out)
	}
	if out := ok(t, "subscription", "approve", "globex/shop"); out != "accounts/globex/subscriptions/shop approved\n" {
		t.Error(out)
	}
	ok(t, "subscription", "suspend", "globex/shop", "--reason", "unpaid")
	ok(t, "subscription", "resume", "globex/shop")
	ok(t, "subscription", "move", "globex/shop", "commerce/business")
	ok(t, "subscription", "end", "globex/shop", "--at", "2100-01-01")
	ok(t, "subscription", "reject", "acme/commerce", "--reason", "no contract")
	ok(t, "plan", "publish", "commerce/business/4")
	ok(t, "plan", "archive", "commerce/business/1")
	if out := ok(t, "token", "create", "nightly", "--role", "finance", "--scope", "catalog.read", "--expires-in", "30d"); !strings.Contains(out, "tokens/nightly created\n") {
		t.Error(out)
	}
	if out := ok(t, "token", "list", "-o", "name"); out != "tokens/nightly\n" {
		t.Error(out)
	}
	if out := ok(t, "token", "revoke", "nightly"); out != "tokens/nightly revoked\n" {
		t.Error(out)
	}
	audit := ok(t, "audit", "--name", "accounts/globex/subscriptions/shop")
	for _, method := range []string{"MoveSubscription", "ResumeSubscription", "SuspendSubscription", "ApproveSubscription", "CreateSubscription"} {
		if !strings.Contains(audit, method) {
			t.Errorf("%s is not in\n%s", method, audit)
		}
	}
	if out := ok(t, "audit", "--actor", "globex", "--since", "1h", "-o", "json"); strings.Contains(out, key[1]) || !strings.Contains(out, "accounts/globex/apps/robot") {
		t.Errorf("audited\n%s", out)
	}
}

func TestRegister(t *testing.T) {
	newCatalog(t, testenv.Ledger(t))
	t.Setenv("TOLLWAY_TOKEN", "")
	out := ok(t, "register", "--id", "stark", "--display-name", "Stark", "--email", "api@stark.example")
	if !strings.HasPrefix(out, "accounts/stark registered, pending\n\nKeep these now: they are not shown again.\n  tokens/") {
		t.Error(out)
	}
	refusedWith(t, 2, "email", "register", "--display-name", "Stark", "--email", "nonsense")
}
