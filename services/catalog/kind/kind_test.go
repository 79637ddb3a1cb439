package kind

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// A kind refers to kinds of lower rank only, so references cannot form a cycle,
// and applying in the order of ranks finds everything that is referred to.
func TestReferencesGoDown(t *testing.T) {
	for _, k := range All {
		if k.Parent != nil && k.Parent.Rank >= k.Rank {
			t.Errorf("%s comes before its parent", k.ID)
		}
		for _, r := range k.References(full(k)) {
			for _, to := range r.Kinds {
				if to.Rank >= k.Rank {
					t.Errorf("%s.%s refers to %s, which comes later", k.ID, r.Field, to.ID)
				}
			}
		}
	}
	fields := (&catalogv1.Resource{}).ProtoReflect().Descriptor().Fields()
	if fields.Len() != len(All) {
		t.Errorf("%d kinds for %d fields of Resource", len(All), fields.Len())
	}
}

// full is a message in which every field that can refer does.
func full(k *Kind) proto.Message {
	switch k {
	case Account:
		return &catalogv1.Account{LegalEntity: "x"}
	case Product:
		return &catalogv1.Product{Operations: []string{"x"}, VisibleTo: []string{"x"}, Environments: []string{"x"}}
	case PlanVersion:
		return &catalogv1.PlanVersion{Account: "x", Charges: []*catalogv1.Charge{{Meter: "x"}}, Quotas: []*catalogv1.QuotaLimit{{Meter: "x", Operations: []string{"x"}}}}
	case Subscription:
		return &catalogv1.Subscription{App: "x", Plan: "x", Phases: []*catalogv1.SubscriptionPhase{{PlanVersion: "x"}}}
	case Token:
		return &catalogv1.Token{Account: "x"}
	}
	return k.New()
}

// Every field that holds the name of another resource is found.
func TestReferencesAreFound(t *testing.T) {
	want := map[string]int{"account": 1, "product": 3, "plan_version": 4, "subscription": 3, "token": 1}
	for _, k := range All {
		if got := len(k.References(full(k))); got != want[k.ID] {
			t.Errorf("%s: %d references, want %d", k.ID, got, want[k.ID])
		}
		if got := k.References(k.New()); len(got) != 0 {
			t.Errorf("%s: an empty one refers to %v", k.ID, got)
		}
	}
}

// TestPaths: the paths that the tables name exist.
func TestPaths(t *testing.T) {
	for _, k := range All {
		for _, path := range slices.Concat(k.immutable, k.outputOnly, k.kept) {
			d := k.Descriptor()
			for _, part := range strings.Split(path, ".") {
				f := d.Fields().ByTextName(part)
				if f == nil {
					t.Errorf("%s has no field %s", k.ID, path)
					break
				}
				d = f.Message()
			}
		}
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]string{
		"accounts/acme": "account", "accounts/a-1/apps/b/credentials/c": "credential", "products/p/plans/q/versions/12": "plan_version",
		"legalEntities/de": "legal_entity", "tokens/t": "token", "accounts/" + strings.Repeat("a", 63): "account",
		"": "", "accounts": "", "accounts/": "", "accounts/A": "", "accounts/1a": "", "accounts/a-": "", "accounts/a_b": "", "accounts/" + strings.Repeat("a", 64): "",
		"accounts/a/apps": "", "accounts/a/plans/b": "", "products/p/plans/q/versions/0": "", "products/p/plans/q/versions/01": "", "products/p/plans/q/versions/x": "",
		"products/p/plans/q/versions/1234567890": "", "/accounts/a": "", "accounts/a/": "", "accounts//apps/b": "", "accounts/*": "", "accounts/-": "", "accounts/a\n": "", "nothing/a": "",
	} {
		k, err := Of(name)
		if want == "" {
			if err == nil {
				t.Errorf("%q is a name of %s", name, k.ID)
			}
			continue
		}
		if err != nil || k.ID != want || k.CheckName(name) != nil {
			t.Errorf("%q: %v %v", name, k, err)
			continue
		}
		parent, id := Split(name)
		if k.Name(parent, id) != name {
			t.Errorf("%q is split into %q and %q", name, parent, id)
		}
		if k != Account && Account.CheckName(name) == nil {
			t.Errorf("%q is a name of an account", name)
		}
	}
	for _, c := range []struct {
		k      *Kind
		parent string
		ok     bool
	}{
		{Account, "", true}, {Account, "accounts/-", false}, {App, "accounts/-", true}, {App, "accounts/a", true}, {App, "", false}, {App, "-", false},
		{Credential, "accounts/-/apps/-", true}, {Credential, "accounts/a/apps/-", true}, {Credential, "accounts/-", false}, {Credential, "accounts/-/apps/A", false},
		{PlanVersion, "products/-/plans/-", true},
	} {
		if err := c.k.CheckParents(c.parent); (err == nil) != c.ok {
			t.Errorf("parent %q of %s: %v", c.parent, c.k.ID, err)
		}
	}
}

// TestBadInput: each message is wrong in one way, which is named. What is not
// named in a row is as in good.
func TestBadInput(t *testing.T) {
	long := strings.Repeat("x", 5000)
	many := func(n int, text string) string { return strings.Repeat(text, n) }
	const version = `currency: "EUR" `
	const charge = version + `charges { id: "c" meter: "meters/m" model: `
	for i, c := range []struct {
		k           *Kind
		text, field string // a field "" is right
	}{
		{Account, `display_name: "Acme" email: "a@b.example" currency: "EUR" time_zone: "Europe/Berlin" billing_address { lines: "x" country: "DE" }`, ""},
		{Account, ``, "display_name"},
		{Account, `display_name: "  "`, "display_name"},
		{Account, `display_name: "` + long + `"`, "display_name"},
		{Account, `display_name: "a\nb"`, "display_name"},
		{Account, `display_name: "a\000b"`, "display_name"},
		{Account, `display_name: "a" email: "a@"`, "email"},
		{Account, `display_name: "a" email: "A <a@b.example>"`, "email"},
		{Account, `display_name: "a" email: "a@b.example\nBcc: x@y.example"`, "email"},
		{Account, `display_name: "a" currency: "eur"`, "currency"},
		{Account, `display_name: "a" currency: "EUX"`, "currency"},
		{Account, `display_name: "a" currency: "XXX"`, "currency"},
		{Account, `display_name: "a" time_zone: "Mars/Base"`, "time_zone"},
		{Account, `display_name: "a" time_zone: "Local"`, "time_zone"},
		{Account, `display_name: "a" time_zone: "../../etc/passwd"`, "time_zone"},
		{Account, `display_name: "a" billing_address { country: "DEU" }`, "billing_address.country"},
		{Account, `display_name: "a" billing_address { country: "UK" }`, "billing_address.country"},
		{Account, `display_name: "a" billing_address { country: "EU" }`, "billing_address.country"},
		{Account, `display_name: "a" billing_address { ` + many(7, `lines: "x" `) + `}`, "billing_address.lines"},
		{Account, `display_name: "a" state: 99`, "state"},
		{Account, `display_name: "a" labels { key: "A" }`, "labels"},
		{Account, `display_name: "a" labels { key: "a" value: "` + long + `" }`, "labels"},
		{App, `display_name: "a" description: "two\nlines"`, ""},
		{App, `display_name: "a" description: "` + long + `"`, "description"},
		{Credential, ``, "kind"},
		{Credential, `api_key {}`, ""},
		{Credential, `oauth_client { client_id: "x" }`, "oauth_client.issuer"},
		{Credential, `oauth_client { issuer: "https://a b" client_id: "x" }`, "oauth_client.issuer"},
		{Credential, `jwt_subject { issuer: "https://a" }`, "jwt_subject.subject"},
		{Credential, `client_certificate { uri_san: "spiffe://a/b" }`, ""},
		{Credential, `client_certificate { uri_san: "a/b" }`, "client_certificate.uri_san"},
		{Credential, `api_key {} expire_time { seconds: -62135596800 }`, "expire_time"},
		{Credential, `api_key {} expire_time { seconds: 1 nanos: -1 }`, "expire_time"},
		{Token, `role: "admin"`, ""},
		{Token, `role: "king"`, "role"},
		{Token, `role: "consumer"`, "account"},
		{Token, `role: "admin" account: "accounts/a"`, "account"},
		{Token, `role: "admin" scopes: "all"`, "scopes[0]"},
		{Token, `role: "admin" scopes: "a.b" scopes: "a.b"`, "scopes[1]"},
		{LegalEntity, `legal_name: "X" iban: "DE89370400440532013000"`, ""},
		{LegalEntity, `legal_name: "X" iban: "DE89370400440532013001"`, "iban"},
		{LegalEntity, `legal_name: "X" iban: "DE8937040044053201300\303\244"`, "iban"},
		{LegalEntity, `legal_name: "X" invoice_prefix: "x"`, "invoice_prefix"},
		{LegalEntity, ``, "legal_name"},
		{API, `hosts: "api.example.com" hosts: "*.example.com" base_paths: "/v1"`, ""},
		{API, `hosts: "API.example.com"`, "hosts[0]"},
		{API, `hosts: "api.example.com:443"`, "hosts[0]"},
		{API, `hosts: "a" hosts: "a"`, "hosts[1]"},
		{API, `hosts: "a.*.com"`, "hosts[0]"},
		{API, `base_paths: "v1"`, "base_paths[0]"},
		{API, `base_paths: "/v1/"`, "base_paths[0]"},
		{API, `base_paths: "/{v}"`, "base_paths[0]"},
		{API, many(101, `hosts: "a" `), "hosts"},
		{Operation, `method: "GET" path_template: "/orders/{order}/items/**"`, ""},
		{Operation, `path_template: "/pkg.Service/Method"`, ""},
		{Operation, `method: "get" path_template: "/"`, "method"},
		{Operation, `path_template: ""`, "path_template"},
		{Operation, `path_template: "orders"`, "path_template"},
		{Operation, `path_template: "/a//b"`, "path_template"},
		{Operation, `path_template: "/**/b"`, "path_template"},
		{Operation, `path_template: "/{a}{b}"`, "path_template"},
		{Operation, `path_template: "/{a:[0-9]+}"`, "path_template"},
		{Operation, `path_template: "/a?b=c"`, "path_template"},
		{Operation, `path_template: "/` + long + `"`, "path_template"},
		{Product, `display_name: "X" operations: "apis/a" visible_to: "accounts/a"`, ""},
		{Product, `display_name: "X" operations: "apis/a" operations: "apis/a"`, "operations[1]"},
		{Product, `display_name: "X" operations: ""`, "operations[0]"},
		{Product, `display_name: "X" visibility: 7`, "visibility"},
		{Meter, `unit: "call" aggregation: COUNT filter: "status < 400 AND denied = \"\" AND attributes.model = gpt"`, ""},
		{Meter, `unit: "call"`, "aggregation"},
		{Meter, `aggregation: COUNT`, "unit"},
		{Meter, `unit: "call" aggregation: COUNT field: "status"`, "field"},
		{Meter, `unit: "t" aggregation: SUM field: "measures.tokens"`, ""},
		{Meter, `unit: "t" aggregation: MAX field: "total_us"`, ""},
		{Meter, `unit: "t" aggregation: SUM field: "client_ip"`, "field"},
		{Meter, `unit: "t" aggregation: SUM`, "field"},
		{Meter, `unit: "t" aggregation: UNIQUE field: "client_ip"`, ""},
		{Meter, `unit: "t" aggregation: UNIQUE field: "nothing"`, "field"},
		{Meter, `unit: "t" aggregation: COUNT filter: "nothing = 1"`, "filter"},
		{Meter, `unit: "t" aggregation: COUNT filter: "status <"`, "filter"},
		{Meter, `unit: "t" aggregation: COUNT filter: "account < a"`, "filter"},
		{PlanVersion, version + `setup_fee: "25.00" recurring_fee: "0"`, ""},
		{PlanVersion, `setup_fee: "25,00"`, "setup_fee"},
		{PlanVersion, `setup_fee: "-1"`, "setup_fee"},
		{PlanVersion, `setup_fee: "1e3"`, "setup_fee"},
		{PlanVersion, `setup_fee: "NaN"`, "setup_fee"},
		{PlanVersion, `setup_fee: "1234567890123456789"`, "setup_fee"},
		{PlanVersion, version + `recurring_fee: "1.005"`, "recurring_fee"},
		{PlanVersion, version + `recurring_fee: "1.500"`, ""},
		{PlanVersion, `currency: "JPY" recurring_fee: "1.5"`, "recurring_fee"},
		{PlanVersion, `state: PUBLISHED`, "start_time"},
		{PlanVersion, charge + `PER_UNIT tiers { unit_price: "0.002" } }`, ""},
		{PlanVersion, charge + `PER_UNIT tiers { unit_price: "0.002" up_to: "5" } }`, "charges[0].tiers[0].up_to"},
		{PlanVersion, charge + `PER_UNIT }`, "charges[0].tiers"},
		{PlanVersion, charge + `CHARGE_MODEL_UNSPECIFIED tiers { unit_price: "1" } }`, "charges[0].model"},
		{PlanVersion, charge + `9 tiers { unit_price: "1" } }`, "charges[0].model"},
		{PlanVersion, charge + `GRADUATED tiers { up_to: "10" unit_price: "1" } tiers { up_to: "20" unit_price: "1" } tiers { flat_fee: "1" } }`, ""},
		{PlanVersion, charge + `VOLUME tiers { up_to: "10" unit_price: "1" } tiers { up_to: "10.0" unit_price: "1" } tiers { flat_fee: "1" } }`, "charges[0].tiers[1].up_to"},
		{PlanVersion, charge + `VOLUME tiers { up_to: "0" unit_price: "1" } tiers { flat_fee: "1" } }`, "charges[0].tiers[0].up_to"},
		{PlanVersion, charge + `VOLUME tiers { unit_price: "1" } tiers { flat_fee: "1" } }`, "charges[0].tiers[0].up_to"},
		{PlanVersion, charge + `VOLUME tiers { up_to: "9" unit_price: "1" } tiers {} }`, "charges[0].tiers[1].unit_price"},
		{PlanVersion, charge + `PACKAGE package_size: "1000" tiers { unit_price: "1" } }`, ""},
		{PlanVersion, charge + `PACKAGE tiers { unit_price: "1" } }`, "charges[0].package_size"},
		{PlanVersion, charge + `PACKAGE package_size: "0.0" tiers { unit_price: "1" } }`, "charges[0].package_size"},
		{PlanVersion, charge + `PER_UNIT package_size: "1" tiers { unit_price: "1" } }`, "charges[0].package_size"},
		{PlanVersion, charge + `PER_UNIT free_units: "x" tiers { unit_price: "1" } }`, "charges[0].free_units"},
		{PlanVersion, charge + `PER_UNIT tiers { unit_price: "1" } } charges { id: "c" meter: "m" model: PER_UNIT tiers { unit_price: "1" } }`, "charges[1].id"},
		{PlanVersion, `quotas { id: "q" meter: "meters/m" limit: 5 window: PER_DAY }`, ""},
		{PlanVersion, `quotas { id: "q" meter: "meters/m" window: PER_DAY }`, "quotas[0].limit"},
		{PlanVersion, `quotas { id: "q" meter: "meters/m" limit: 5 }`, "quotas[0].window"},
		{PlanVersion, `quotas { id: "Q" meter: "meters/m" limit: 5 window: PER_DAY }`, "quotas[0].id"},
		{PlanVersion, `quotas { id: "q" limit: 5 window: PER_DAY }`, "quotas[0].meter"},
		{Subscription, `name: "accounts/a/subscriptions/s" plan: "products/p/plans/q" app: "accounts/a/apps/b"`, ""},
		{Subscription, `name: "accounts/a/subscriptions/s"`, "plan"},
		{Subscription, `name: "accounts/a/subscriptions/s" plan: "products/p/plans/q" app: "accounts/b/apps/b"`, "app"},
	} {
		m := c.k.New()
		if err := prototext.Unmarshal([]byte(c.text), m); err != nil {
			t.Fatalf("row %d: %v", i, err)
		}
		var v Violations
		c.k.Validate(m.(Resource), &v)
		var got []string
		for _, one := range v.List {
			got = append(got, one.GetField())
		}
		if c.field == "" && len(got) > 0 || c.field != "" && !slices.Contains(got, c.field) {
			t.Errorf("row %d: %s %.200s: %v, want %q", i, c.k.ID, c.text, &v, c.field)
		}
	}
}

// What the schema does not know is refused, not dropped.
func TestUnknownField(t *testing.T) {
	m := &catalogv1.Account{DisplayName: "a"}
	m.ProtoReflect().SetUnknown([]byte{0xb8, 0x3e, 1})
	v := Violations{Prefix: "account."}
	Account.Validate(m, &v)
	if len(v.List) != 1 || v.List[0].GetField() != "account" {
		t.Errorf("an unknown field: %v", &v)
	}
}

func TestTooMany(t *testing.T) {
	m := &catalogv1.PlanVersion{}
	for range maxCharges + 1 {
		m.Charges = append(m.Charges, &catalogv1.Charge{})
	}
	var v Violations
	PlanVersion.Validate(m, &v)
	if v.List[0].GetField() != "charges" || len(v.List) != maxViolations {
		t.Errorf("too many charges: %v, %d violations", v.List[0], len(v.List))
	}
}

// A resource that is within each limit, and too large all the same: the log would
// not take it.
func TestTooLarge(t *testing.T) {
	m := &catalogv1.Product{DisplayName: "X"}
	for i := range maxMembers {
		m.Operations = append(m.Operations, fmt.Sprintf("apis/%s%d/operations/o", strings.Repeat("a", 600), i))
	}
	var v Violations
	Product.Validate(m, &v)
	if len(v.List) != 1 || !strings.Contains(v.Error(), "at most 524288") {
		t.Errorf("too large: %v", &v)
	}
}

// TestIBAN holds the check digits against the registry's own examples, and every
// change of one digit against them.
func TestIBAN(t *testing.T) {
	for _, good := range []string{"DE89370400440532013000", "GB29NWBK60161331926819", "FR1420041010050500013M02606", "NO9386011117947", "MT84MALT011000012345MTLCAST001S"} {
		check := func(text string) bool {
			var v Violations
			iban(&v, "iban", text)
			return len(v.List) == 0
		}
		if !check(good) {
			t.Errorf("%s is refused", good)
		}
		for i := 2; i < len(good); i++ {
			if good[i] >= '0' && good[i] <= '8' && check(good[:i]+string(good[i]+1)+good[i+1:]) {
				t.Errorf("%s with another digit at %d is accepted", good, i)
			}
		}
	}
}

// TestDiffAgrees: two messages differ in the paths that were changed.
func TestDiff(t *testing.T) {
	a := &catalogv1.Account{Name: "accounts/a", DisplayName: "A", BillingAddress: &catalogv1.PostalAddress{City: "X", Country: "DE"}, Labels: map[string]string{"a": "b"}, Etag: "1"}
	b := proto.Clone(a).(*catalogv1.Account)
	b.Etag, b.UpdateTime = "2", timestamppb.Now()
	if got := Account.Diff(a, b); len(got) != 0 {
		t.Errorf("what the server sets: %v", got)
	}
	b.BillingAddress.City, b.Labels["a"], b.Email = "Y", "c", "x"
	if got := Account.Diff(a, b); !slices.Equal(got, []string{"labels", "email", "billing_address.city"}) {
		t.Errorf("differ in %v", got)
	}
	b.BillingAddress = nil
	if got := Account.Diff(a, b); !slices.Contains(got, "billing_address") {
		t.Errorf("differ in %v", got)
	}
}

// TestShape: operations that differ in the names of variables alone have one
// key, others have different ones.
func TestShape(t *testing.T) {
	segment := rapid.SampledFrom([]string{"a", "b", "{x}", "{y}", "**"})
	rapid.Check(t, func(t *rapid.T) {
		one := rapid.SliceOfN(segment, 1, 4).Draw(t, "one")
		other := rapid.SliceOfN(segment, 1, 4).Draw(t, "other")
		same := slices.EqualFunc(one, other, func(a, b string) bool { return a == b || a[0] == '{' && b[0] == '{' })
		keys := [2]string{}
		for i, s := range [][]string{one, other} {
			keys[i] = Operation.UniqueKeys(&catalogv1.Operation{Name: "apis/a/operations/o", Method: "GET", PathTemplate: "/" + strings.Join(s, "/")})[0].Key
		}
		if (keys[0] == keys[1]) != same {
			t.Fatalf("%v and %v: %q, %q", one, other, keys[0], keys[1])
		}
	})
}

func TestViolationsAreBounded(t *testing.T) {
	var v Violations
	for i := range 10 * maxViolations {
		v.Add(fmt.Sprint(i), "is wrong")
	}
	if len(v.List) != maxViolations {
		t.Errorf("%d violations", len(v.List))
	}
}

// FuzzOf: whatever the text, a name is taken apart and put together again, or
// refused.
func FuzzOf(f *testing.F) {
	for _, seed := range []string{"accounts/a", "accounts/a/apps/b/credentials/c", "products/p/plans/q/versions/1", "accounts/-", "//", "a/b/c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		k, err := Of(name)
		if err != nil {
			return
		}
		parent, id := Split(name)
		if k.Name(parent, id) != name || k.CheckID(id) != "" || (parent == "") != (k.Parent == nil) {
			t.Errorf("%q is taken for %s", name, k.ID)
		}
		if parent != "" && k.Parent.CheckName(parent) != nil {
			t.Errorf("the parent of %q is no name", name)
		}
	})
}
