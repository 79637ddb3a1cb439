package manifest_test

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/tollway/tollway/cmd/tollway/manifest"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

const several = `# a company
kind: Account
name: accounts/acme
displayName: "Acme"
labels: {tier: gold, since: 2026-01-01}
state: ACCOUNT_ACTIVE
billing_address:
  lines: [1 High Street]
  country: DE
uid: from-the-server
---
---
- kind: PlanVersion
  name: products/pay/plans/basic/versions/1
  start_time: 2026-01-01
  recurring_fee: 0.10
  charges:
  - id: calls
    model: GRADUATED
    tiers:
    - {up_to: 1000, unit_price: 0.010}
    - {unit_price: 0.005}
  quotas:
  - {id: q, meter: meters/calls, limit: "9007199254740993", window: PER_DAY}
- kind: Credential
  name: accounts/acme/apps/web/credentials/main
  api_key: {}
`

func TestParse(t *testing.T) {
	documents, err := manifest.Parse("company.yaml", []byte(several))
	if err != nil {
		t.Fatal(err)
	}
	var got []*catalogv1.Resource
	for _, d := range documents {
		got = append(got, d.Resource)
	}
	want := []*catalogv1.Resource{
		{Kind: &catalogv1.Resource_Account{Account: &catalogv1.Account{
			Name: "accounts/acme", DisplayName: "Acme", Labels: map[string]string{"tier": "gold", "since": "2026-01-01"},
			State: catalogv1.AccountState_ACCOUNT_ACTIVE, BillingAddress: &catalogv1.PostalAddress{Lines: []string{"1 High Street"}, Country: "DE"},
		}}},
		{Kind: &catalogv1.Resource_PlanVersion{PlanVersion: &catalogv1.PlanVersion{
			Name: "products/pay/plans/basic/versions/1", RecurringFee: "0.10",
			StartTime: timestamppb.New(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)),
			Charges: []*catalogv1.Charge{{Id: "calls", Model: catalogv1.ChargeModel_GRADUATED, Tiers: []*catalogv1.Tier{
				{UpTo: "1000", UnitPrice: "0.010"}, {UnitPrice: "0.005"}}}},
			Quotas: []*catalogv1.QuotaLimit{{Id: "q", Meter: "meters/calls", Limit: 9007199254740993, Window: catalogv1.QuotaWindow_PER_DAY}},
		}}},
		{Kind: &catalogv1.Resource_Credential{Credential: &catalogv1.Credential{
			Name: "accounts/acme/apps/web/credentials/main", Kind: &catalogv1.Credential_ApiKey{ApiKey: &catalogv1.ApiKey{}},
		}}},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	for path, want := range map[string]string{
		"resources[0].display_name":                          "company.yaml:4:1 display_name",
		"resources[0].account.billing_address.country":       "company.yaml:9:3 billing_address.country",
		"resources[0].labels.tier":                           "company.yaml:5:10 labels.tier",
		"resources[0].email":                                 "company.yaml:2:1 email",
		"resources[0]":                                       "company.yaml:2:1 ",
		"resources[1].charges[0].tiers[1].unit_price":        "company.yaml:22:8 charges[0].tiers[1].unit_price",
		"resources[1].plan_version.charges[0].tiers[0].id.x": "company.yaml:21:7 charges[0].tiers[0].id.x",
		"resources[1].charges[7].id":                         "company.yaml:17:3 charges[7].id",
		"resources[2].api_key":                               "company.yaml:27:3 api_key",
	} {
		at, field, ok := manifest.Locate(documents, path)
		if got := at.String() + " " + field; !ok || got != want {
			t.Errorf("%s is at %q, want %q", path, got, want)
		}
	}
	for _, path := range []string{"set", "resources[3]", "resources[-1]", "resources[x]", "resources[1"} {
		if at, field, ok := manifest.Locate(documents, path); ok || field != path {
			t.Errorf("%s is at %s", path, at)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	account := "kind: Account\nname: accounts/a\n"
	for _, c := range []struct{ name, text, want string }{
		{"unknown field", account + "dispaly_name: x\n", "f:3:1: dispaly_name: there is no such field in Account, which has name, labels, display_name, state, email, billing_address, tax_id, currency, time_zone, legal_entity"},
		{"unknown field below", account + "billing_address:\n  street: x\n", "f:4:3: billing_address.street: there is no such field in PostalAddress, which has lines, city, postal_code, region, country"},
		{"wrong enum", account + "state: ACTIVE\n", `f:3:8: state: "ACTIVE" is not one of ACCOUNT_PENDING, ACCOUNT_ACTIVE, ACCOUNT_SUSPENDED`},
		{"enum of a wrong shape", account + "state: [ACCOUNT_ACTIVE]\n", `f:3:8: state: "" is not one of ACCOUNT_PENDING, ACCOUNT_ACTIVE, ACCOUNT_SUSPENDED`},
		{"field twice", account + "email: a\nemail: b\n", "f:4:1: email: is here a second time; the first is in line 3"},
		{"field twice by both spellings", account + "tax_id: a\ntaxId: b\n", "f:4:1: tax_id: is here a second time; the first is in line 3"},
		{"label twice", account + "labels: {a: b, a: c}\n", "f:3:16: labels.a: is here a second time"},
		{"kind twice", "kind: Account\n" + account, "f:2:1: kind: there is no such field in Account, which has name, labels, display_name, state, email, billing_address, tax_id, currency, time_zone, legal_entity"},
		{"text", account + "email: [a]\n", "f:3:8: email: must be a text"},
		{"mapping", account + "billing_address: Berlin\n", "f:3:18: billing_address: must be a mapping with lines, city, postal_code, region, country"},
		{"message without a value", account + "billing_address:\n", "f:3:17: billing_address: has no value; leave it out, or write {} for an empty one"},
		{"list", account + "billing_address: {lines: x}\n", "f:3:26: billing_address.lines: must be a list"},
		{"element without a value", account + "billing_address: {lines: [a, ]}\nemail: 1\nlabels: [x]\n", "f:5:9: labels: must be a mapping"},
		{"null element", account + "billing_address: {lines: [a, null]}\n", "f:3:30: billing_address.lines[1]: has no value"},
		{"bool", "kind: App\nname: accounts/a/apps/b\ndisabled: 1\n", "f:3:11: disabled: must be true or false"},
		{"number", "kind: PlanVersion\nname: products/a/plans/b/versions/1\nquotas:\n- limit: 1.5\n- limit: 99999999999999999999\n- limit: [1]\n",
			"f:4:10: quotas[0].limit: must be a whole number from -9223372036854775808 to 9223372036854775807\n" +
				"f:5:10: quotas[1].limit: must be a whole number from -9223372036854775808 to 9223372036854775807\n" +
				"f:6:10: quotas[2].limit: must be a whole number from -9223372036854775808 to 9223372036854775807"},
		{"moment", "kind: Subscription\nname: accounts/a/subscriptions/b\nstart_time: soon\n", `f:3:13: start_time: "soon" is not a time such as 2026-11-01T10:00:00+01:00 or, in UTC, 2026-11-01`},
		{"two of one", "kind: Credential\nname: accounts/a/apps/b/credentials/c\napi_key: {}\noauth_client: {issuer: i}\n", "f:4:1: oauth_client: only one of api_key, oauth_client, jwt_subject, client_certificate can be set, and api_key is"},
		{"no kind", "name: accounts/a\n", "f:1:1: kind is missing: one of Account, Api, App, Credential, Environment, LegalEntity, Meter, Operation, Plan, PlanVersion, Product, Subscription, Token"},
		{"wrong kind", "\nkind: account\nname: accounts/a\n", `f:2:7: kind: "account" is not one of Account, Api, App, Credential, Environment, LegalEntity, Meter, Operation, Plan, PlanVersion, Product, Subscription, Token`},
		{"no name", "kind: App\n", "f:1:1: name: is missing; a name of App is accounts/*/apps/*"},
		{"wrong name", "kind: App\nname: apps/a\n", `f:2:7: name: "apps/a" is not a name of App, which is accounts/*/apps/*`},
		{"name of a wrong shape", "kind: App\nname: {a: b}\n", "f:2:7: name: must be a text"},
		{"OpenAPI", "openapi: 3.1.0\ninfo: {}\n", "f:1:1: this is an OpenAPI document: name the API whose operations it has with --api"},
		{"text for a resource", "hello\n", "f:1:1: a resource is a mapping with kind and name"},
		{"list in a list", "- - kind: Account\n", "f:1:3: a list in a list is not a resource"},
		{"second document", account + "---\nkind: Account\nname: accounts/b\nstate: X\n", `f:6:8: state: "X" is not one of ACCOUNT_PENDING, ACCOUNT_ACTIVE, ACCOUNT_SUSPENDED`},
		{"not YAML", account + "email: [a\n", "f:2: not YAML: did not find expected ',' or ']'"},
		{"unknown anchor", account + "email: *a\n", "f: not YAML: unknown anchor 'a' referenced"},
	} {
		documents, err := manifest.Parse("f", []byte(c.text))
		if err == nil || err.Error() != c.want || documents != nil {
			t.Errorf("%s: %v\nwant\n%s", c.name, err, c.want)
		}
	}
}

func TestManyProblems(t *testing.T) {
	_, err := manifest.Parse("f", []byte("kind: Account\nname: accounts/a\n"+strings.Repeat("x: 1\n", 30)))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 21 || lines[20] != "and 10 more" {
		t.Errorf("shows\n%s", err)
	}
}

func TestAnchors(t *testing.T) {
	documents, err := manifest.Parse("f", []byte("kind: Account\nname: accounts/a\nbilling_address: &home\n  city: Berlin\n---\nkind: LegalEntity\nname: legalEntities/a\naddress: {lines: [&x a, *x]}\n"))
	if err != nil || strings.Join(documents[1].Resource.GetLegalEntity().GetAddress().GetLines(), ",") != "a,a" {
		t.Errorf("%v, %v", documents, err)
	}
}

func TestUnique(t *testing.T) {
	text := "kind: Account\nname: accounts/a\n---\nkind: Account\nname: accounts/b\n"
	one, err := manifest.Parse("one", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	two, err := manifest.Parse("two", []byte("\n\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	if err := manifest.Unique(one); err != nil {
		t.Error(err)
	}
	want := "two:3:1: accounts/a is here a second time; the first is at one:1:1\ntwo:6:1: accounts/b is here a second time; the first is at one:4:1"
	if err := manifest.Unique(slices.Concat(one, two)); err == nil || err.Error() != want {
		t.Errorf("says %v, want\n%s", err, want)
	}
}

// What is written is read back as it was, whatever it is.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var resources []*catalogv1.Resource
		for range rapid.IntRange(0, 3).Draw(t, "n") {
			k := rapid.SampledFrom(manifest.Kinds()).Draw(t, "kind")
			r, m := k.New()
			fill(t, m.ProtoReflect())
			name := m.ProtoReflect().Descriptor().Fields().ByName("name")
			m.ProtoReflect().Set(name, protoreflect.ValueOfString(k.Join([]string{"a", "b", "c"})))
			resources = append(resources, r)
		}
		var b bytes.Buffer
		if err := manifest.Write(&b, resources); err != nil {
			t.Fatal(err)
		}
		documents, err := manifest.Parse("f", b.Bytes())
		if err != nil {
			t.Fatalf("%s\n%s", err, b.String())
		}
		if len(documents) != len(resources) {
			t.Fatalf("%d documents of %d resources:\n%s", len(documents), len(resources), b.String())
		}
		for i, d := range documents {
			if diff := cmp.Diff(resources[i], d.Resource, protocmp.Transform()); diff != "" {
				t.Fatalf("%s\n%s", diff, b.String())
			}
		}
	})
}

// fill sets some fields that a file can set.
func fill(t *rapid.T, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if manifest.ServerOnly(f) || !rapid.Bool().Draw(t, string(f.Name())) {
			continue
		}
		switch {
		case f.IsMap():
			for _, k := range rapid.SliceOfN(rapid.String(), 0, 3).Draw(t, "keys") {
				m.Mutable(f).Map().Set(protoreflect.ValueOfString(k).MapKey(), protoreflect.ValueOfString(rapid.String().Draw(t, "value")))
			}
		case f.IsList():
			for range rapid.IntRange(0, 3).Draw(t, "length") {
				list := m.Mutable(f).List()
				list.Append(draw(t, f, list.NewElement()))
			}
		default:
			m.Set(f, draw(t, f, m.NewField(f)))
		}
	}
}

func draw(t *rapid.T, f protoreflect.FieldDescriptor, fresh protoreflect.Value) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.MessageKind:
		if fresh.Message().Descriptor().FullName() == "google.protobuf.Timestamp" {
			at := rapid.Int64Range(-62135596800, 253402300799).Draw(t, "seconds")
			return protoreflect.ValueOfMessage((&timestamppb.Timestamp{Seconds: at, Nanos: rapid.Int32Range(0, 999999999).Draw(t, "nanos")}).ProtoReflect())
		}
		fill(t, fresh.Message())
		return fresh
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool"))
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(rapid.IntRange(0, values.Len()-1).Draw(t, "enum")).Number())
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, "number"))
	}
	return protoreflect.ValueOfString(rapid.String().Draw(t, "text"))
}

// The schema says in its comments which fields only the server sets; the list
// here must say the same.
func TestServerOnly(t *testing.T) {
	schema, err := os.ReadFile("../../../schemas/proto/tollway/catalog/v1/resources.proto")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	message := ""
	only := false
	opened, comment := regexp.MustCompile(`^message (\w+)`), regexp.MustCompile(`^\s*// (Output only|See Account\.etag)`)
	field := regexp.MustCompile(`^\s*(?:repeated )?[\w.<>, ]+ (\w+) = \d+;`)
	for line := range strings.Lines(string(schema)) {
		if m := opened.FindStringSubmatch(line); m != nil {
			message = m[1]
		}
		only = only || comment.MatchString(line)
		if m := field.FindStringSubmatch(line); m != nil {
			want[message+"."+m[1]] = only
			only = false
		}
	}
	seen := 0
	for _, k := range manifest.Kinds() {
		_, m := k.New()
		seen += checkServerOnly(t, m.ProtoReflect().Descriptor(), want)
	}
	if seen < 100 {
		t.Errorf("compared only %d fields", seen)
	}
}

func checkServerOnly(t *testing.T, d protoreflect.MessageDescriptor, want map[string]bool) int {
	t.Helper()
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		name := string(d.Name()) + "." + string(f.Name())
		only, found := want[name]
		if name == "Account.etag" {
			only = true
		}
		if got := manifest.ServerOnly(f); !found || got != only {
			t.Errorf("%s is server only: %v; the schema says %v (found: %v)", name, got, only, found)
		}
		if f.Message() != nil && !f.IsMap() && f.Message().ParentFile() == d.ParentFile() {
			checkServerOnly(t, f.Message(), want)
		}
	}
	return d.Fields().Len()
}

// Every kind of the schema is here, under the names of its services.
func TestKinds(t *testing.T) {
	services := catalogv1.File_tollway_catalog_v1_catalog_proto.Services().ByName("Catalog").Methods()
	fields := (&catalogv1.Resource{}).ProtoReflect().Descriptor().Fields()
	if len(manifest.Kinds()) != fields.Len() {
		t.Errorf("%d kinds, the schema has %d", len(manifest.Kinds()), fields.Len())
	}
	for i, k := range manifest.Kinds() {
		f := fields.ByName(k.Field)
		if f == nil || string(f.Message().Name()) != k.Name {
			t.Errorf("%s is not field %s of a resource", k.Name, k.Field)
			continue
		}
		list := services.ByName(protoreflect.Name("List" + strings.TrimSuffix(k.Name, "y") + "s"))
		if strings.HasSuffix(k.Name, "y") {
			list = services.ByName(protoreflect.Name("List" + strings.TrimSuffix(k.Name, "y") + "ies"))
		}
		if list == nil || list.Output().Fields().ByName(protoreflect.Name(k.Plural)) == nil {
			t.Errorf("no list of %s has a field %s", k.Name, k.Plural)
		}
		for _, text := range append([]string{k.Name, k.Plural, strings.ToUpper(k.Name), strings.ReplaceAll(k.Plural, "_", "-"), string(k.Field)}, k.Short...) {
			if found, ok := manifest.KindNamed(text); !ok || found != k {
				t.Errorf("%q does not name %s", text, k.Name)
			}
		}
		name := k.Join([]string{"a", "b", "c"})
		if found, ok := manifest.KindOf(name); !ok || found != k {
			t.Errorf("%s is not a name of %s", name, k.Name)
		}
		if parent := k.Parent(); parent != "" {
			at := slices.IndexFunc(manifest.Kinds(), func(p *manifest.Kind) bool { return p.Pattern == parent })
			if at < 0 || at > i {
				t.Errorf("the parent of %s does not come before it", k.Name)
			}
		}
	}
	for _, name := range []string{"", "accounts", "accounts/", "accounts/a/", "accounts/a/apps", "orders/a", "accounts/a/apps/b/c"} {
		if k, ok := manifest.KindOf(name); ok {
			t.Errorf("%q is a name of %s", name, k.Name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(several)
	f.Add("kind: Account\nname: &a accounts/a\nbilling_address: {lines: [*a]}")
	f.Add("&a [*a]")
	f.Add("kind: &k\n  kind: *k")
	f.Add("[{]")
	f.Fuzz(func(t *testing.T, text string) {
		documents, err := manifest.Parse("f", []byte(text))
		if err != nil {
			return
		}
		for _, d := range documents {
			written, err := manifest.Text(d.Resource, false)
			if err != nil {
				t.Fatal(err)
			}
			again, err := manifest.Parse("f", []byte(written))
			if err != nil || len(again) != 1 || !proto.Equal(again[0].Resource, d.Resource) {
				t.Fatalf("%v\n%s", err, written)
			}
		}
	})
}
