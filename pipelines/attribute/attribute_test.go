package attribute

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

func record(sequence int64, r *catalogv1.Resource) *catalogv1.Record {
	return &catalogv1.Record{Resource: r, Sequence: sequence}
}

func app(name string, disabled bool) *catalogv1.Resource {
	return &catalogv1.Resource{Kind: &catalogv1.Resource_App{App: &catalogv1.App{Name: name, Disabled: disabled}}}
}

func certificate(name, uri string, revoked bool) *catalogv1.Resource {
	c := &catalogv1.Credential{Name: name, Kind: &catalogv1.Credential_ClientCertificate{ClientCertificate: &catalogv1.ClientCertificate{UriSan: uri}}}
	if revoked {
		c.RevokeTime = on(1)
	}
	return &catalogv1.Resource{Kind: &catalogv1.Resource_Credential{Credential: c}}
}

func api(name string, hosts ...string) *catalogv1.Resource {
	return &catalogv1.Resource{Kind: &catalogv1.Resource_Api{Api: &catalogv1.Api{Name: name, Hosts: hosts}}}
}

func op(name, template string) *catalogv1.Resource {
	return &catalogv1.Resource{Kind: &catalogv1.Resource_Operation{Operation: &catalogv1.Operation{Name: name, PathTemplate: template}}}
}

func TestID(t *testing.T) {
	for name, want := range map[string]string{
		"accounts/acme": "acme",
		"accounts/acme/apps/mobile/credentials/key-1": "acme/mobile/key-1",
		"products/weather/plans/gold/versions/3":      "weather/gold/3",
		"":                                            "", "accounts": "", "accounts/": "", "accounts/a/apps": "a",
	} {
		if got := ID(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestApply(t *testing.T) {
	const name = "accounts/a/apps/m"
	type step struct {
		r        *catalogv1.Record
		sequence int64
		changed  bool
	}
	for _, tt := range []struct {
		name    string
		steps   []step
		present bool
		off     bool
		version uint64
	}{
		{"newer wins", []step{{record(1, app(name, false)), 0, true}, {record(2, app(name, true)), 0, true}}, true, true, 2},
		{"older is dropped", []step{{record(5, app(name, true)), 0, true}, {record(4, app(name, false)), 0, false}}, true, true, 5},
		{"deleted", []step{{record(5, app(name, true)), 0, true}, {nil, 0, true}}, false, false, 5},
		{"deleted with a sequence", []step{{record(5, app(name, true)), 0, true}, {nil, 6, true}, {record(5, app(name, true)), 0, false}}, false, false, 6},
		{"deleted before", []step{{record(5, app(name, true)), 0, true}, {nil, 4, false}}, true, true, 5},
		{"made again", []step{{record(5, app(name, true)), 0, true}, {nil, 0, true}, {record(9, app(name, false)), 0, true}}, true, false, 9},
		{"unknown is deleted", []step{{nil, 7, false}}, false, false, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := NewBuilder()
			for i, s := range tt.steps {
				if changed, err := b.Apply(name, s.r, s.sequence); changed != s.changed || err != nil {
					t.Errorf("step %d: changed %v, error %v", i, changed, err)
				}
			}
			s := b.Snapshot()
			a := s.apps["a/m"]
			if present := a != nil && a.Present; present != tt.present || present && a.Disabled != tt.off {
				t.Errorf("got %+v", a)
			}
			if s.Version() != tt.version {
				t.Errorf("version %d, want %d", s.Version(), tt.version)
			}
		})
	}
}

func TestApplyRefuses(t *testing.T) {
	b := NewBuilder()
	if _, err := b.Apply("accounts/a/apps/m", record(1, app("accounts/a/apps/m", true)), 0); err != nil {
		t.Fatal(err)
	}
	key := &catalogv1.Credential{Name: "accounts/a/apps/m/credentials/k", Kind: &catalogv1.Credential_ApiKey{ApiKey: &catalogv1.ApiKey{}}}
	for name, r := range map[string]*catalogv1.Record{
		"accounts/a/apps/m":               record(2, nil),
		"accounts/a/apps/n":               record(2, app("accounts/a/apps/m", false)),
		"accounts/a/apps/m/credentials/k": record(2, &catalogv1.Resource{Kind: &catalogv1.Resource_Credential{Credential: key}}),
		"tokens/t":                        record(2, &catalogv1.Resource{Kind: &catalogv1.Resource_Token{Token: &catalogv1.Token{Name: "tokens/t"}}}),
		"accounts/a/apps/m/credentials/l": record(2, &catalogv1.Resource{Kind: &catalogv1.Resource_Credential{Credential: &catalogv1.Credential{Name: "accounts/a/apps/m/credentials/l"}}}),
	} {
		if changed, err := b.Apply(name, r, 0); changed || err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: changed %v, error %v", name, changed, err)
		}
	}
	if s := b.Snapshot(); !s.apps["a/m"].Disabled || s.Version() != 1 {
		t.Errorf("a record that was refused changed something: %+v at %d", s.apps["a/m"], s.Version())
	}
}

// A gateway that sends an API key in clear says by the part of it that is kept
// whose it is.
func TestKeyInClear(t *testing.T) {
	key := record(1, &catalogv1.Resource{Kind: &catalogv1.Resource_Credential{Credential: &catalogv1.Credential{
		Name: "accounts/a/apps/m/credentials/k", Kind: &catalogv1.Credential_ApiKey{ApiKey: &catalogv1.ApiKey{Prefix: "tk_01234567"}},
	}}})
	key.SecretHash = make([]byte, hashSize)
	c, ok := built(t, []*catalogv1.Record{key}).Credential([]byte(call.ShownKey("tk_01234567_secret")))
	if !ok || c.ID != "a/m/k" {
		t.Errorf("got %+v", c)
	}
}

// A credential that was revoked can be made again for another app.
func TestSameCertificateAgain(t *testing.T) {
	old, now := "accounts/a/apps/m/credentials/k", "accounts/b/apps/m/credentials/k"
	s := built(t, []*catalogv1.Record{record(1, certificate(now, "spiffe://x/1", false)), record(2, certificate(old, "spiffe://x/1", true))})
	c, ok := s.Credential(call.AppendCertificate(nil, "spiffe://x/1"))
	if !ok || c.ID != "b/m/k" || c.Ends != Never {
		t.Errorf("got %+v", c)
	}
	if c, ok := s.Credential([]byte("a/m/k")); !ok || !c.Revoked || c.Ends != on(1).AsTime().UnixMicro() || c.App.Account.ID != "a" {
		t.Errorf("got %+v", c)
	}
}

// Operations that exclude each other, or cannot be read, are left out one by
// one; the older one stays.
func TestConflictingOperations(t *testing.T) {
	records := []*catalogv1.Record{
		record(1, api("apis/a", "h")), record(2, api("apis/b", "h")),
		record(3, op("apis/a/operations/get", "/x/{id}")), record(4, op("apis/b/operations/get", "/x/{name}")),
		record(5, op("apis/b/operations/broken", "no slash")), record(6, op("apis/b/operations/list", "/y")),
		record(7, op("apis/gone/operations/list", "/z")),
	}
	s := built(t, records)
	if got := s.Problems(); len(got) != 2 {
		t.Errorf("problems %q", got)
	}
	for path, want := range map[string]string{"/x/1": "a/get", "/y": "b/list", "/z": "/"} {
		if g := s.Grant(nil, "GET", "h", path, "", 0); g.API+"/"+g.Operation != want {
			t.Errorf("%s is %s/%s, want %s", path, g.API, g.Operation, want)
		}
	}
}

// What is authorized is what is attributed.
func TestGrantIsAttribution(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := built(t, anyCatalog(t))
		w := anyWho(t)
		c, ok := s.Credential([]byte(w.credential))
		if !ok {
			t.Skip("unknown")
		}
		at := epoch.Add(time.Duration(rapid.IntRange(0, 12*24).Draw(t, "hour")) * time.Hour).UnixMicro()
		path := rapid.SampledFrom([]string{"/v1/x0", "/v1/x1", "/v1/zz", "/other"}).Draw(t, "path")
		g := s.Grant(c, "GET", "h0", path, w.environment, at)

		b := call.NewBatch()
		var one call.Call
		one.Reset()
		one.Time, one.Path = at, path
		one.Strings[call.Credential], one.Strings[call.Environment] = w.credential, w.environment
		one.Strings[call.Method], one.Strings[call.Host] = "GET", "h0"
		b.Append(&one)
		s.Attribute(b)
		id := ""
		if g.Subscription != nil {
			id = g.Subscription.ID
		}
		want := who{c.ID, c.App.ID, c.App.Account.ID, g.Product, g.Plan, id, g.API, g.Operation, w.environment}
		if got := whoOf(b, 0); got != want {
			t.Fatalf("attributed %+v, granted %+v", got, want)
		}
	})
}

func TestEmpty(t *testing.T) {
	b := call.NewBatch()
	var c call.Call
	c.Reset()
	c.Strings[call.Account], c.Strings[call.Credential], c.Strings[call.Product] = "acme", "k", "p"
	b.Append(&c)
	if v := Empty().Attribute(b); v != 0 || whoOf(b, 0) != (who{account: "acme", credential: "k", product: "p"}) {
		t.Errorf("version %d, %+v", v, whoOf(b, 0))
	}
	b.Reset()
	Empty().Attribute(b)
}

// company is a catalog of the size that must load quickly.
func company(accounts, credentials, operations int) []*catalogv1.Record {
	var out []*catalogv1.Record
	put := func(r *catalogv1.Resource, hash []byte) {
		out = append(out, &catalogv1.Record{Resource: r, Sequence: int64(len(out) + 1), SecretHash: hash})
	}
	const apis = 20
	for i := range apis {
		put(api(fmt.Sprintf("apis/api-%02d", i), fmt.Sprintf("api-%02d.example.com", i)), nil)
	}
	for i := range operations {
		put(op(fmt.Sprintf("apis/api-%02d/operations/operation-%04d", i%apis, i), fmt.Sprintf("/v1/things-%d/{thing}/parts/{part}", i)), nil)
	}
	for i := range apis {
		put(&catalogv1.Resource{Kind: &catalogv1.Resource_Product{Product: &catalogv1.Product{Name: fmt.Sprintf("products/product-%02d", i), Operations: []string{fmt.Sprintf("apis/api-%02d", i)}}}}, nil)
	}
	for i := range accounts {
		account := fmt.Sprintf("accounts/account-%05d", i)
		put(&catalogv1.Resource{Kind: &catalogv1.Resource_Account{Account: &catalogv1.Account{Name: account, State: catalogv1.AccountState_ACCOUNT_ACTIVE}}}, nil)
		for j := range 2 {
			put(app(fmt.Sprintf("%s/apps/app-%d", account, j), false), nil)
		}
		for j := range 3 {
			put(&catalogv1.Resource{Kind: &catalogv1.Resource_Subscription{Subscription: &catalogv1.Subscription{
				Name: fmt.Sprintf("%s/subscriptions/sub-%d", account, j), Plan: fmt.Sprintf("products/product-%02d/plans/gold", (i+j)%apis),
				StartTime: on(0), State: catalogv1.SubscriptionState_ACTIVE,
				Phases: []*catalogv1.SubscriptionPhase{{StartTime: on(0), PlanVersion: fmt.Sprintf("products/product-%02d/plans/gold/versions/1", (i+j)%apis)}},
			}}}, nil)
		}
	}
	for i := range credentials {
		hash := []byte(fmt.Sprintf("%032d", i))
		put(&catalogv1.Resource{Kind: &catalogv1.Resource_Credential{Credential: &catalogv1.Credential{
			Name: fmt.Sprintf("accounts/account-%05d/apps/app-%d/credentials/key-%05d", i%accounts, i/accounts%2, i),
			Kind: &catalogv1.Credential_ApiKey{ApiKey: &catalogv1.ApiKey{Prefix: "tk_abcdef"}}, CreateTime: on(0),
		}}}, hash)
	}
	return out
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkLoad reads 10,000 accounts with 50,000 credentials and 1,000
// operations, and shows what the builder and its snapshot keep.
func BenchmarkLoad(b *testing.B) {
	records := company(10_000, 50_000, 1000)
	names := make([]string, len(records))
	for i, r := range records {
		names[i] = nameOf(r.GetResource())
	}
	var builder *Builder
	var s *Snapshot
	before := heap()
	b.ResetTimer()
	for b.Loop() {
		builder = NewBuilder()
		for i, r := range records {
			if _, err := builder.Apply(names[i], r, 0); err != nil {
				b.Fatal(err)
			}
		}
		s = builder.Snapshot()
	}
	b.StopTimer()
	b.ReportMetric(float64(heap()-before)/(1<<20), "MB-kept")
	b.ReportMetric(float64(len(records)), "records")
	runtime.KeepAlive(records)
	runtime.KeepAlive(names)
	runtime.KeepAlive(builder)
	runtime.KeepAlive(s)
}

// BenchmarkChange makes a snapshot after one credential of 50,000 changed.
func BenchmarkChange(b *testing.B) {
	builder := NewBuilder()
	for _, r := range company(10_000, 50_000, 1000) {
		if _, err := builder.Apply(nameOf(r.GetResource()), r, 0); err != nil {
			b.Fatal(err)
		}
	}
	builder.Snapshot()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := builder.Apply("accounts/account-00001/apps/app-0/credentials/extra", record(1e6, certificate("accounts/account-00001/apps/app-0/credentials/extra", "spiffe://x/1", false)), 0); err != nil {
			b.Fatal(err)
		}
		builder.Snapshot()
	}
}

// BenchmarkAttribute shows the time per call of a batch of 50,000 calls with
// 1,000 credentials.
func BenchmarkAttribute(b *testing.B) {
	s := built(b, company(10_000, 50_000, 1000))
	const rows = 50_000
	r := rand.New(rand.NewPCG(1, 2))
	fill := func() *call.Batch {
		batch := call.NewBatch()
		var c call.Call
		for range rows {
			c.Reset()
			c.Time = on(5).AsTime().UnixMicro()
			i := r.IntN(1000)
			o := 20*r.IntN(50) + (i+r.IntN(3))%20
			c.Strings[call.Credential] = fmt.Sprintf("account-%05d/app-0/key-%05d", i, i)
			c.Strings[call.Method], c.Strings[call.Host] = "GET", fmt.Sprintf("api-%02d.example.com", o%20)
			c.Path = fmt.Sprintf("/v1/things-%d/%d/parts/%d", o, r.IntN(1e6), r.IntN(1e6))
			batch.Append(&c)
		}
		return batch
	}
	batch := fill()
	s.Attribute(batch)
	if w := whoOf(batch, 0); w.subscription == "" || w.operation == "" {
		b.Fatalf("not attributed: %+v", w)
	}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		batch := fill()
		b.StartTimer()
		s.Attribute(batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/call")
}
