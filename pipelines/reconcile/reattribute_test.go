package reconcile

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tollway/tollway/pipelines/attribute"
	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/pipelines/load"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// loadUnattributed stores calls of four credentials to two operations, as they
// came.
func (w *world) loadUnattributed(partition int32, at time.Time, spread time.Duration, numbers ...int) {
	w.t.Helper()
	m := call.NewBatch()
	for i, n := range numbers {
		var c call.Call
		c.Reset()
		c.ID = call.NewID("test", fmt.Sprint(n))
		c.Time = at.Add(spread * time.Duration(i) / time.Duration(len(numbers))).UnixMicro()
		c.ReceivedAt = c.Time + 1000
		for column := range call.StringColumns {
			c.Strings[column] = fmt.Sprintf("%s-%d", call.StringColumn(column), n%3)
		}
		for _, column := range attributed {
			c.Strings[column] = ""
		}
		c.Strings[call.Source] = []string{"als", "events"}[n%2]
		c.Strings[call.Fault], c.Strings[call.Denied], c.Strings[call.Environment] = "none", "", "live"
		c.Strings[call.Credential] = fmt.Sprintf("c%d/app/key", n%4)
		c.Strings[call.Method], c.Strings[call.Host] = "GET", "api.example.com"
		c.Path, c.ClientIP = fmt.Sprintf("/v1/%s/%d", []string{"orders", "parcels"}[n/4%2], n), "203.0.113.0"
		c.Status, c.GRPCStatus, c.Attempts = []uint16{200, 404, 503}[n%3], int16(n%5), uint16(n%2)
		for l := range call.LatencyColumns {
			c.Latency[l] = int64(n%977) * int64(l+1)
		}
		c.RequestBytes, c.ResponseBytes = int64(n%100), int64(n%1000)
		value, err := call.ParseDecimal(fmt.Sprintf("%d.25", n%10-4))
		if err != nil {
			w.t.Fatal(err)
		}
		c.Measures = append(c.Measures, call.Measure{Name: "tokens", Value: value})
		c.Attributes = append(c.Attributes, call.Attribute{Name: "tier", Value: fmt.Sprint(n % 3)})
		m.Append(&c)
	}
	value, err := call.Encode(nil, m)
	if err != nil {
		w.t.Fatal(err)
	}
	b, offset := call.NewBatch(), w.offset
	w.offset++
	if _, err := b.AppendMessage(value, offset); err != nil {
		w.t.Fatal(err)
	}
	if w.partitions[partition] == nil {
		w.partitions[partition] = w.loader.Open(partition)
	}
	r := load.Range{Topic: "calls", Partition: partition, From: offset, To: offset + 1}
	if err := w.partitions[partition].Load(context.WithoutCancel(w.t.Context()), r, b, func() error { return nil }); err != nil {
		w.t.Fatal(err)
	}
}

// catalog knows three of the callers. Their subscriptions begin in the middle of
// yesterday's fourth hour, and c1 moves to another plan an hour later.
func catalog(t testing.TB, version int64, products ...string) *attribute.Snapshot {
	t.Helper()
	b := attribute.NewBuilder()
	put := func(name string, r *catalogv1.Resource, hash []byte) {
		if _, err := b.Apply(name, &catalogv1.Record{Resource: r, Sequence: version, SecretHash: hash}, 0); err != nil {
			t.Fatal(err)
		}
	}
	at := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(yesterday.Add(d)) }
	put("apis/shop", &catalogv1.Resource{Kind: &catalogv1.Resource_Api{Api: &catalogv1.Api{Name: "apis/shop", Hosts: []string{"api.example.com"}, BasePaths: []string{"/v1"}}}}, nil)
	for _, o := range []string{"orders", "parcels"} {
		name := "apis/shop/operations/get-" + o
		put(name, &catalogv1.Resource{Kind: &catalogv1.Resource_Operation{Operation: &catalogv1.Operation{Name: name, PathTemplate: "/" + o + "/{id}"}}}, nil)
	}
	for i, p := range products {
		name := "products/" + p
		put(name, &catalogv1.Resource{Kind: &catalogv1.Resource_Product{Product: &catalogv1.Product{
			Name: name, Operations: []string{[]string{"apis/shop/operations/get-orders", "apis/shop"}[i%2]},
		}}}, nil)
	}
	for i := range 3 {
		account := fmt.Sprintf("accounts/c%d", i)
		put(account+"/apps/app/credentials/key", &catalogv1.Resource{Kind: &catalogv1.Resource_Credential{Credential: &catalogv1.Credential{
			Name: account + "/apps/app/credentials/key", Kind: &catalogv1.Credential_ApiKey{ApiKey: &catalogv1.ApiKey{}},
		}}}, []byte(fmt.Sprintf("%032d", i)))
		if i == 2 || len(products) == 0 {
			continue // has no subscription
		}
		plan := "products/" + products[0] + "/plans/gold"
		s := &catalogv1.Subscription{
			Name: account + "/subscriptions/s", Plan: plan, StartTime: at(3*time.Hour + 30*time.Minute), State: catalogv1.SubscriptionState_ACTIVE,
			Phases: []*catalogv1.SubscriptionPhase{{StartTime: at(3*time.Hour + 30*time.Minute), PlanVersion: plan + "/versions/1"}},
		}
		if i == 1 {
			s.Phases = append(s.Phases, &catalogv1.SubscriptionPhase{StartTime: at(4*time.Hour + 30*time.Minute), PlanVersion: plan + "/versions/2"})
		}
		put(s.GetName(), &catalogv1.Resource{Kind: &catalogv1.Resource_Subscription{Subscription: s}}, nil)
	}
	return b.Snapshot()
}

// rest is a fingerprint of everything about calls that attribution leaves alone.
func (w *world) rest() int64 {
	w.t.Helper()
	return w.number(`SELECT reinterpretAsInt64(sum(cityHash64(id, source, time, received_at, environment, gateway, region, zone, protocol, method, host,
		path, route, client_ip, country, user_agent, os, device, status, grpc_status, flags, fault, denied, cache, toString(tuple(total_us, client_in_us,
		gateway_in_us, upstream_us, upstream_transfer_us, gateway_out_us, client_out_us, ttfb_us, total_bucket, upstream_bucket, upstream, upstream_host,
		version, attempts, request_bytes, response_bytes, measures, attributes, epoch, partition, offset, row))))) FROM calls FINAL`)
}

func (w *world) reattribute(c Catalog, change func(*Range)) Reattributed {
	w.t.Helper()
	out, err := Reattribute(w.t.Context(), w.shards, c, wholeDay(change), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func wholeDay(change func(*Range)) Range {
	r := Range{From: yesterday, To: yesterday.Add(24 * time.Hour)}
	if change != nil {
		change(&r)
	}
	return r
}

// fill stores 2,000 calls in two hours of yesterday, in two partitions.
func (w *world) fill() {
	w.t.Helper()
	for partition := range int32(2) {
		for h := range 2 {
			from := 1000*h + 500*int(partition)
			w.loadUnattributed(partition, yesterday.Add(time.Duration(3+h)*time.Hour), time.Hour, ints(from, from+500)...)
		}
	}
}

// attributedRight asserts that raw says what the catalog does, and that every
// rollup says what raw does.
func (w *world) attributedRight(product string) {
	w.t.Helper()
	w.agree()
	for what, want := range map[string]int64{
		"count()": 2000, "uniqExact(partition, offset, row)": 2000,
		"countIf(account = '')": 500, "countIf(account = 'c0' AND app = 'c0/app')": 500,
		"countIf(api = 'shop' AND operation = if(path LIKE '%orders%', 'get-orders', 'get-parcels'))": 2000,
		"countIf(subscription != '')": 374,
		"countIf((subscription != '') != (account IN ('c0', 'c1') AND operation = 'get-orders' AND toHour(time) * 60 + toMinute(time) >= 210))":         0,
		"countIf(subscription != '' AND plan != '" + product + "/gold/' || if(account = 'c1' AND toHour(time) * 60 + toMinute(time) >= 270, '2', '1'))": 0,
		"countIf(product != if(operation = 'get-orders', '" + product + "', 'rest'))":                                                                   0,
		"countIf(catalog_version = 0)": 0,
	} {
		if n := w.number("SELECT " + what + " FROM calls FINAL"); n != want {
			w.t.Errorf("%s is %d, want %d", what, n, want)
		}
	}
	if n := w.number("SELECT count() FROM calls"); n != 2000 {
		w.t.Errorf("%d rows are stored, want 2000", n)
	}
	if n := w.number("SELECT sum(calls) FROM usage_15m WHERE account = 'c1' AND subscription = 'c1/s' AND plan = '" + product + "/gold/2'"); n != w.number("SELECT count() FROM calls WHERE plan = '"+product+"/gold/2'") || n == 0 {
		w.t.Errorf("the usage says %d calls of the second plan", n)
	}
}

func TestReattribute(t *testing.T) { layouts(t, reattribute) }

func reattribute(t *testing.T, w *world) {
	w.fill()
	rest := w.rest()
	dry := w.reattribute(catalog(t, 7, "shop", "rest"), func(r *Range) { r.DryRun = true })
	if n := w.number("SELECT countIf(api != '') FROM calls"); n != 0 || dry.Calls != 2000 {
		t.Errorf("a dry run changed %d calls and told of %d", n, dry.Calls)
	}
	out := w.reattribute(catalog(t, 7, "shop", "rest"), nil)
	w.attributedRight("shop")
	if w.rest() != rest {
		t.Error("something else about the calls has changed")
	}
	if out.Calls != 2000 || out.Version != 7 || len(out.Sealed) != 0 || len(out.Moved) != 8 || len(dry.Moved) != 8 {
		t.Errorf("got %+v", out)
	}
	var sum uint64
	for _, m := range out.Moved {
		sum += m.Calls
		if m.FromAccount != "" || m.FromProduct != "" || m.ToProduct == "" {
			t.Errorf("got %+v", m)
		}
	}
	if sum != 2000 {
		t.Errorf("%d calls moved", sum)
	}

	// Once more, by an older catalog and by a newer one that says the same.
	for _, version := range []int64{6, 8} {
		if out := w.reattribute(catalog(t, version, "shop", "rest"), nil); out.Calls != 0 {
			t.Errorf("version %d changed %d calls", version, out.Calls)
		}
	}
	// By one that says something else, of an hour only.
	hour := func(r *Range) { r.From, r.To = yesterday.Add(4*time.Hour), yesterday.Add(5*time.Hour) }
	if out := w.reattribute(catalog(t, 9, "store", "rest"), hour); out.Calls != 500 || len(out.Moved) != 4 {
		t.Errorf("got %+v", out)
	}
	if n := w.number("SELECT countIf(product = 'store') FROM calls"); n != 500 {
		t.Errorf("%d calls have the new product", n)
	}
	w.agree()
	w.reattribute(catalog(t, 9, "store", "rest"), nil)
	w.attributedRight("store")
	if w.rest() != rest {
		t.Error("something else about the calls has changed")
	}
}

// A run is cut off at each of its steps, and the next one is by a newer catalog.
func TestReattributeIsCutOff(t *testing.T) {
	for _, cut := range []struct {
		step  string
		n     int
		newer bool
	}{
		{"reattribute.rewritten", 3, true}, {"reattribute.inserted", 3, false}, {"reattribute.deleted", 2, true},
	} {
		t.Run(fmt.Sprintf("%s %d", cut.step, cut.n), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.fill()
			rest := w.rest()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			passed := 0
			a := reattribution{catalog: catalog(t, 7, "shop", "rest"), moved: map[Moved]uint64{}, out: Reattributed{Version: 7}, step: func(name string) {
				if name != cut.step {
					return
				}
				if passed++; passed == cut.n {
					cancel()
				}
			}}
			if _, err := a.run(ctx, w.shards, wholeDay(nil), nil); err == nil {
				t.Fatal("the run was not cut off")
			}
			if n := w.number("SELECT uniqExact(id) FROM calls"); n != 2000 {
				t.Errorf("%d calls are there after a run that was cut off", n)
			}
			if cut.newer {
				w.reattribute(catalog(t, 8, "store", "rest"), nil)
				w.attributedRight("store")
			} else {
				w.reattribute(catalog(t, 7, "shop", "rest"), nil)
				w.attributedRight("shop")
			}
			if w.rest() != rest {
				t.Error("something else about the calls has changed")
			}
		})
	}
}

// Hours that are sealed are recorded anew; calls that are loaded meanwhile are
// counted once.
func TestReattributeSealedHours(t *testing.T) {
	w := newWorld(t)
	w.fill()
	s := w.sealer(time.Now())
	w.pass(s)
	before := w.sealedAt()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 20 {
			w.loadUnattributed(0, yesterday.Add(4*time.Hour), time.Hour, ints(2000+50*i, 2050+50*i)...)
		}
	}()
	out := w.reattribute(catalog(t, 7, "shop", "rest"), nil)
	<-done
	if len(out.Sealed) != 2 {
		t.Errorf("sealed hours recorded anew: %v", out.Sealed)
	}
	for key, h := range w.sealed() {
		if !h.Repaired || !h.Whole() {
			t.Errorf("%s: %+v", key, h)
		}
	}
	if after := w.sealedAt(); !after.After(before) {
		t.Errorf("recorded at %s, before at %s", after, before)
	}
	w.reattribute(catalog(t, 8, "shop", "rest"), nil)
	w.agree()
	if n := w.number("SELECT count() FROM calls"); n != 3000 {
		t.Errorf("%d rows, want 3000", n)
	}
	w.pass(s)
	for key, h := range w.sealed() {
		if !h.Whole() {
			t.Errorf("%s: %+v", key, h)
		}
	}
}

// sealedAt is when the hour that was recorded first was.
func (w *world) sealedAt() time.Time {
	w.t.Helper()
	return time.UnixMilli(w.number("SELECT toUnixTimestamp64Milli(min(sealed_at)) FROM reconciliation FINAL"))
}

func TestReattributeRefuses(t *testing.T) {
	w := newWorld(t)
	for name, run := range map[string]func() error{
		"empty catalog": func() error {
			_, err := Reattribute(t.Context(), w.shards, attribute.Empty(), wholeDay(nil), nil)
			return err
		},
		"empty range": func() error {
			_, err := Reattribute(t.Context(), w.shards, catalog(t, 1), Range{From: yesterday, To: yesterday}, nil)
			return err
		},
		"before the retention": func() error {
			_, err := Reattribute(t.Context(), w.shards, catalog(t, 1), Range{From: yesterday.AddDate(0, -2, 0), To: yesterday}, nil)
			return err
		},
	} {
		if run() == nil {
			t.Errorf("%s: not refused", name)
		}
	}
}
