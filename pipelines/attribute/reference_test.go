package attribute

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// reference attributes one call by looking through all records, as the rules
// say it, without an index, a cache or a code. Paths are compared without
// parameters; the matcher has a reference of its own.
type reference []*catalogv1.Record

// who is what a call says of its caller and of what it called.
type who struct {
	credential, app, account, product, plan, subscription, api, operation string
	environment                                                           string
}

func (r reference) each(visit func(*catalogv1.Resource)) {
	for _, record := range r {
		visit(record.GetResource())
	}
}

func words(name string) string {
	parts := strings.Split(name, "/")
	var out []string
	for i := 1; i < len(parts); i += 2 {
		out = append(out, parts[i])
	}
	return strings.Join(out, "/")
}

func cutLast(id string) string { return id[:max(0, strings.LastIndex(id, "/"))] }

func (r reference) attribute(w who, method, host, path string, at time.Time) who {
	apiKnown, operationKnown := false, false
	r.each(func(res *catalogv1.Resource) {
		a := res.GetApi()
		if a == nil || !slices.Contains(a.GetHosts(), host) {
			return
		}
		r.each(func(res *catalogv1.Resource) {
			o := res.GetOperation()
			if o != nil && strings.HasPrefix(o.GetName(), a.GetName()+"/") && o.GetMethod() == method && path == a.GetBasePaths()[0]+o.GetPathTemplate() {
				w.api, w.operation, operationKnown = words(a.GetName()), strings.TrimPrefix(words(o.GetName()), words(a.GetName())+"/"), true
			}
		})
		if !operationKnown && strings.HasPrefix(path, a.GetBasePaths()[0]+"/") && w.api != words(a.GetName()) {
			w.api, w.operation = words(a.GetName()), ""
		}
	})
	operationKnown = false
	r.each(func(res *catalogv1.Resource) {
		apiKnown = apiKnown || res.GetApi() != nil && words(res.GetApi().GetName()) == w.api
		operationKnown = operationKnown || res.GetOperation() != nil && words(res.GetOperation().GetName()) == w.api+"/"+w.operation
	})
	// 2 by name, 1 with the whole API, 0 not at all.
	contains := func(p *catalogv1.Product) int {
		if len(p.GetEnvironments()) > 0 && w.environment != "" && !slices.Contains(p.GetEnvironments(), "environments/"+w.environment) {
			return 0
		}
		switch {
		case !apiKnown && w.product != "" && words(p.GetName()) == w.product:
			return 2
		case !apiKnown:
			return 0
		case operationKnown && slices.Contains(p.GetOperations(), "apis/"+w.api+"/operations/"+w.operation):
			return 2
		case slices.Contains(p.GetOperations(), "apis/"+w.api):
			return 1
		}
		return 0
	}

	known := false
	r.each(func(res *catalogv1.Resource) {
		c := res.GetCredential()
		if c == nil || known {
			return
		}
		id := words(c.GetName())
		client := c.GetOauthClient() != nil && w.credential == "client:"+c.GetOauthClient().GetIssuer()+"#"+c.GetOauthClient().GetClientId()
		subject := c.GetJwtSubject() != nil && w.credential == "subject:"+c.GetJwtSubject().GetIssuer()+"#"+c.GetJwtSubject().GetSubject()
		san := c.GetClientCertificate() != nil && w.credential == "certificate:"+c.GetClientCertificate().GetUriSan()
		if id == w.credential || client || subject || san {
			known = true
			w.credential, w.app = id, cutLast(id)
			w.account = cutLast(w.app)
		}
	})
	app, account := "", ""
	if known {
		app, account = w.app, w.account
	} else {
		r.each(func(res *catalogv1.Resource) {
			if res.GetApp() != nil {
				if id := words(res.GetApp().GetName()); id == w.app || id == w.account+"/"+w.app && !strings.Contains(w.app, "/") && w.app != "" && w.account != "" {
					app, account = id, cutLast(id)
				}
			}
		})
		if app != "" {
			w.app, w.account = app, account
		} else {
			account = w.account
		}
	}

	var best *catalogv1.Subscription
	score := func(s *catalogv1.Subscription) (own bool, how int) {
		r.each(func(res *catalogv1.Resource) {
			if p := res.GetProduct(); p != nil && strings.HasPrefix(s.GetPlan(), p.GetName()+"/") {
				how = contains(p)
			}
		})
		return s.GetApp() != "", how
	}
	r.each(func(res *catalogv1.Resource) {
		s := res.GetSubscription()
		if s == nil || account == "" || cutLast(words(s.GetName())) != account || s.GetApp() != "" && words(s.GetApp()) != app {
			return
		}
		if s.GetState() == catalogv1.SubscriptionState_REQUESTED || s.GetState() == catalogv1.SubscriptionState_REJECTED {
			return
		}
		if at.Before(s.GetStartTime().AsTime()) || s.GetEndTime() != nil && !at.Before(s.GetEndTime().AsTime()) {
			return
		}
		own, how := score(s)
		if how == 0 {
			return
		}
		if best != nil {
			bestOwn, bestHow := score(best)
			switch {
			case own != bestOwn:
				if !own {
					return
				}
			case how != bestHow:
				if how < bestHow {
					return
				}
			case !s.GetStartTime().AsTime().Equal(best.GetStartTime().AsTime()):
				if s.GetStartTime().AsTime().After(best.GetStartTime().AsTime()) {
					return
				}
			case s.GetName() > best.GetName():
				return
			}
		}
		best = s
	})
	sent := w.product
	if best != nil {
		w.subscription = words(best.GetName())
		w.product, w.plan = words(strings.SplitN(best.GetPlan(), "/plans/", 2)[0]), ""
		for _, p := range best.GetPhases() {
			if !at.Before(p.GetStartTime().AsTime()) {
				w.plan = words(p.GetPlanVersion())
			}
		}
		return w
	}
	if apiKnown {
		var byName, all []string
		r.each(func(res *catalogv1.Resource) {
			if p := res.GetProduct(); p != nil {
				switch contains(p) {
				case 2:
					byName = append(byName, words(p.GetName()))
					all = append(all, words(p.GetName()))
				case 1:
					all = append(all, words(p.GetName()))
				}
			}
		})
		first := byName
		if len(first) == 0 {
			first = all
		}
		switch {
		case len(first) == 1:
			w.product = first[0]
		case len(first) > 1 && !slices.Contains(all, sent):
			w.product = ""
		}
	}
	if known && (apiKnown || w.product != "") {
		w.plan, w.subscription = "", ""
	}
	return w
}

var epoch = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func on(day int) *timestamppb.Timestamp { return timestamppb.New(epoch.Add(time.Duration(day) * day1)) }

const day1 = 24 * time.Hour

// anyCatalog draws a small catalog in which much collides.
func anyCatalog(t *rapid.T) reference {
	var out reference
	some := func(name string, n int) int { return rapid.IntRange(0, n-1).Draw(t, name) }
	put := func(r *catalogv1.Resource, hash []byte) {
		out = append(out, &catalogv1.Record{Resource: r, SecretHash: hash, Sequence: int64(len(out) + 1)})
	}
	for i := range 1 + some("apis", 2) {
		api := fmt.Sprintf("apis/a%d", i)
		put(&catalogv1.Resource{Kind: &catalogv1.Resource_Api{Api: &catalogv1.Api{Name: api, Hosts: []string{fmt.Sprintf("h%d", i)}, BasePaths: []string{"/v1"}}}}, nil)
		for j := range some("operations", 3) {
			put(&catalogv1.Resource{Kind: &catalogv1.Resource_Operation{Operation: &catalogv1.Operation{
				Name: fmt.Sprintf("%s/operations/o%d", api, j), Method: "GET", PathTemplate: fmt.Sprintf("/x%d", j),
			}}}, nil)
		}
	}
	for i := range some("products", 4) {
		p := &catalogv1.Product{Name: fmt.Sprintf("products/p%d", i)}
		for range some("in it", 4) {
			if some("whole", 3) == 0 {
				p.Operations = append(p.Operations, fmt.Sprintf("apis/a%d", some("api", 2)))
			} else {
				p.Operations = append(p.Operations, fmt.Sprintf("apis/a%d/operations/o%d", some("api", 2), some("operation", 3)))
			}
		}
		if some("limited", 4) == 0 {
			p.Environments = []string{"environments/live"}
		}
		put(&catalogv1.Resource{Kind: &catalogv1.Resource_Product{Product: p}}, nil)
	}
	for i := range 2 {
		account := fmt.Sprintf("accounts/c%d", i)
		put(&catalogv1.Resource{Kind: &catalogv1.Resource_Account{Account: &catalogv1.Account{Name: account, State: catalogv1.AccountState_ACCOUNT_ACTIVE}}}, nil)
		for j := range 2 {
			app := fmt.Sprintf("%s/apps/m%d", account, j)
			put(&catalogv1.Resource{Kind: &catalogv1.Resource_App{App: &catalogv1.App{Name: app}}}, nil)
			c := &catalogv1.Credential{Name: app + "/credentials/k"}
			var hash []byte
			switch some("kind", 4) {
			case 0:
				c.Kind = &catalogv1.Credential_ApiKey{ApiKey: &catalogv1.ApiKey{}}
				hash = slices.Repeat([]byte{byte(2*i + j)}, 32)
			case 1:
				c.Kind = &catalogv1.Credential_OauthClient{OauthClient: &catalogv1.OAuthClient{Issuer: "iss", ClientId: fmt.Sprint(2*i + j)}}
			case 2:
				c.Kind = &catalogv1.Credential_JwtSubject{JwtSubject: &catalogv1.JwtSubject{Issuer: "iss", Subject: fmt.Sprint(2*i + j)}}
			case 3:
				c.Kind = &catalogv1.Credential_ClientCertificate{ClientCertificate: &catalogv1.ClientCertificate{UriSan: fmt.Sprintf("spiffe://x/%d", 2*i+j)}}
			}
			if some("revoked", 3) == 0 {
				c.RevokeTime = on(3)
			}
			put(&catalogv1.Resource{Kind: &catalogv1.Resource_Credential{Credential: c}}, hash)
		}
		for j := range some("subscriptions", 5) {
			start := some("start", 8)
			s := &catalogv1.Subscription{
				Name: fmt.Sprintf("%s/subscriptions/s%d", account, j), Plan: fmt.Sprintf("products/p%d/plans/gold", some("product", 4)),
				StartTime: on(start), State: catalogv1.SubscriptionState(1 + some("state", 5)),
				Phases: []*catalogv1.SubscriptionPhase{{StartTime: on(start), PlanVersion: "products/p/plans/gold/versions/1"}},
			}
			if some("of an app", 2) == 0 {
				s.App = fmt.Sprintf("%s/apps/m%d", account, some("app", 2))
			}
			if some("ends", 2) == 0 {
				s.EndTime = on(start + 1 + some("days", 4))
			}
			if some("moved", 3) == 0 {
				s.Phases = append(s.Phases, &catalogv1.SubscriptionPhase{StartTime: on(start + 1), PlanVersion: "products/p/plans/gold/versions/2"})
			}
			put(&catalogv1.Resource{Kind: &catalogv1.Resource_Subscription{Subscription: s}}, nil)
		}
	}
	return out
}

func nameOf(r *catalogv1.Resource) string {
	m := r.ProtoReflect()
	kind := m.WhichOneof(m.Descriptor().Oneofs().Get(0))
	inner := m.Get(kind).Message()
	return inner.Get(inner.Descriptor().Fields().ByName("name")).String()
}

// built makes a snapshot of records that come in any order.
func built(t interface {
	Helper()
	Fatal(...any)
}, records []*catalogv1.Record) *Snapshot {
	t.Helper()
	b := NewBuilder()
	for _, r := range records {
		if _, err := b.Apply(nameOf(r.GetResource()), r, 0); err != nil {
			t.Fatal(err)
		}
	}
	return b.Snapshot()
}

func anyWho(t *rapid.T) (w who) {
	one := func(name string, values ...string) string { return rapid.SampledFrom(values).Draw(t, name) }
	n := one("n", "0", "1", "2", "3")
	w.credential = one("credential", "", "c0/m0/k", "c0/m1/k", "c1/m0/k", "client:iss#"+n, "subject:iss#"+n, "certificate:spiffe://x/"+n, "unknown")
	w.app = one("app", "", "", "c0/m0", "m1", "c1/m1", "stranger")
	w.account = one("account", "", "", "c0", "c1", "c9")
	w.product = one("product", "", "", "p0", "p1", "p9")
	w.plan = one("plan", "", "sent")
	w.subscription = one("subscription", "", "sent")
	w.api = one("api", "", "", "a0", "a1", "a9")
	w.operation = one("operation", "", "", "o0", "o2", "o9")
	w.environment = one("environment", "", "live", "test")
	return w
}

func (w who) columns() map[call.StringColumn]string {
	return map[call.StringColumn]string{
		call.Credential: w.credential, call.App: w.app, call.Account: w.account, call.Product: w.product, call.Plan: w.plan,
		call.Subscription: w.subscription, call.API: w.api, call.Operation: w.operation, call.Environment: w.environment,
	}
}

func whoOf(b *call.Batch, row int) who {
	v := func(c call.StringColumn) string { return b.Strings[c].Value(row) }
	return who{v(call.Credential), v(call.App), v(call.Account), v(call.Product), v(call.Plan), v(call.Subscription), v(call.API), v(call.Operation), v(call.Environment)}
}

func TestAgainstTheReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := anyCatalog(t)
		s := built(t, rapid.Permutation([]*catalogv1.Record(records)).Draw(t, "order"))
		b := call.NewBatch()
		var want []who
		for range rapid.IntRange(1, 30).Draw(t, "calls") {
			var c call.Call
			c.Reset()
			w := anyWho(t)
			for column, v := range w.columns() {
				c.Strings[column] = v
			}
			at := epoch.Add(time.Duration(rapid.IntRange(0, 12*24).Draw(t, "hour")) * time.Hour)
			c.Time = at.UnixMicro()
			host := rapid.SampledFrom([]string{"h0", "h1", "h2"}).Draw(t, "host")
			c.Strings[call.Method], c.Strings[call.Host] = rapid.SampledFrom([]string{"GET", "POST"}).Draw(t, "method"), host
			c.Path = rapid.SampledFrom([]string{"/v1/x0", "/v1/x1", "/v1/zz", "/other"}).Draw(t, "path")
			b.Append(&c)
			want = append(want, records.attribute(w, c.Strings[call.Method], host, c.Path, at))
		}
		if version := s.Attribute(b); version != uint64(len(records)) {
			t.Fatalf("version %d of %d records", version, len(records))
		}
		for pass := range 2 { // once more changes nothing
			for row, w := range want {
				if got := whoOf(b, row); got != w {
					t.Fatalf("pass %d, row %d:\ngot  %+v\nwant %+v", pass, row, got, w)
				}
			}
			s.Attribute(b)
		}
	})
}
