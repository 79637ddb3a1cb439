package reconcile

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/pipelines/load"
	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/testenv"
	"github.com/tollway/tollway/sql"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// yesterday is a whole day that lies behind every window.
var yesterday = time.Now().UTC().Truncate(24 * time.Hour).Add(-24 * time.Hour)

// world is a store that two partitions of the log are loaded into.
type world struct {
	t          testing.TB
	db         *clickhouse.DB // reads all shards
	shards     []*clickhouse.DB
	loader     *load.Loader
	partitions map[int32]*load.Partition
	offset     int64
	epoch      uint32
}

func newWorld(t testing.TB) *world { return newWorldOn(t, testenv.ClickHouseConfig(t)) }

func newWorldOn(t testing.TB, cfg clickhouse.Config) *world {
	if _, err := clickhouse.Migrate(t.Context(), cfg, sql.ClickHouseMigrations, sql.ClickHouseVariables(false, 35, 400)); err != nil {
		t.Fatal(err)
	}
	shards := testenv.OpenShards(t, cfg)
	return &world{t: t, db: testenv.Open(t, cfg.AllShards()), shards: shards, partitions: map[int32]*load.Partition{},
		loader: load.New(load.DefaultConfig(), shards, 2, func(*call.Batch) uint64 { return 0 }, prometheus.NewRegistry(), testLogger(t))}
}

// layouts runs a test on one engine and on two shards.
func layouts(t *testing.T, test func(t *testing.T, w *world)) {
	testenv.Layouts(t, func(t *testing.T, cfg clickhouse.Config) { test(t, newWorldOn(t, cfg)) })
}

func testLogger(t testing.TB) zerolog.Logger { return zerolog.New(zerolog.NewTestWriter(t)) }

// load stores calls, of the given numbers and beginning at a time, as one range
// of the log.
func (w *world) load(partition int32, at time.Time, spread time.Duration, numbers ...int) {
	w.t.Helper()
	if err := w.tryLoad(partition, at, spread, numbers...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) tryLoad(partition int32, at time.Time, spread time.Duration, numbers ...int) error {
	p := w.partitions[partition]
	if p == nil {
		p = w.loader.Open(partition)
		w.partitions[partition] = p
	}
	m := call.NewBatch()
	for i, n := range numbers {
		var c call.Call
		c.Reset()
		c.ID = call.NewID("test", fmt.Sprint(n))
		c.Time = at.Add(spread * time.Duration(i) / time.Duration(len(numbers))).UnixMicro()
		c.ReceivedAt = max(c.Time, at.UnixMicro())
		c.Strings[call.Source], c.Strings[call.Gateway] = []string{"als", "events"}[n%2], "edge-1"
		c.Strings[call.Operation], c.Strings[call.Account] = fmt.Sprintf("op%d", n%5), fmt.Sprintf("acme%d", n%3)
		c.Status = []uint16{200, 404, 503}[n%3]
		c.Latency[call.Total] = int64(n%977) * 100
		if n%4 > 0 {
			c.Latency[call.UpstreamTime] = int64(n%977) * 50
		}
		c.RequestBytes, c.ResponseBytes = int64(n%100), int64(n%1000)
		value, err := call.ParseDecimal(fmt.Sprintf("%d.25", n%10-4))
		if err != nil {
			return err
		}
		c.Measures = append(c.Measures, call.Measure{Name: "tokens", Value: value})
		m.Append(&c)
	}
	value, err := call.Encode(nil, m)
	if err != nil {
		return err
	}
	b := call.NewBatch()
	offset := w.offset
	w.offset++
	if _, err := b.AppendMessage(value, offset); err != nil {
		return err
	}
	return p.Load(context.WithoutCancel(w.t.Context()), load.Range{Topic: "calls", Partition: partition, Epoch: w.epoch, From: offset, To: offset + 1}, b, func() error { return nil })
}

// exec runs a statement on every shard.
func (w *world) exec(query string) {
	w.t.Helper()
	for _, shard := range w.shards {
		if err := shard.Exec(w.t.Context(), query, nil); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) number(query string) (n int64) {
	w.t.Helper()
	if err := w.db.QueryRow(w.t.Context(), "SELECT toInt64(("+query+"))", nil).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// agree asserts that every rollup equals raw in every bucket and key.
func (w *world) agree() {
	w.t.Helper()
	want := w.number("SELECT count() FROM calls FINAL")
	for i, shard := range w.shards {
		var n uint64
		if err := shard.QueryRow(w.t.Context(), "SELECT count() FROM calls", nil).Scan(&n); err != nil || n == 0 {
			w.t.Errorf("shard %d has %d calls, error %v", i+1, n, err)
		}
	}
	from, to := yesterday.Add(3*time.Hour), yesterday.Add(25*time.Hour)
	for _, u := range load.Rollups() {
		if n := w.number("SELECT sum(calls) FROM " + u.Table()); n != want {
			w.t.Errorf("%s counts %d calls, raw %d", u.Table(), n, want)
		}
		for partition := range w.partitions {
			d, err := u.Differences(w.t.Context(), w.shards[int(partition)%len(w.shards)], uint16(partition), u.Buckets(from, to))
			if err != nil || d.Keys != 0 {
				w.t.Errorf("%s differs from raw in partition %d: %+v, %v", u.Table(), partition, d, err)
			}
		}
	}
}

func ints(from, to int) (out []int) {
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

type watermark struct{ at time.Time }

func (w *watermark) Complete(context.Context) (time.Time, error) { return w.at, nil }

func (w *world) sealer(complete time.Time) *Sealer {
	w.t.Helper()
	s, err := New(DefaultConfig(), Deps{Shards: w.shards, Watermark: &watermark{complete}, Metrics: prometheus.NewRegistry(), Logger: testLogger(w.t)})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) pass(s *Sealer) {
	w.t.Helper()
	if err := s.Pass(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) sealed() map[string]Hour {
	w.t.Helper()
	hours, err := SealedHours(w.t.Context(), w.db, yesterday.Add(-24*time.Hour), yesterday.Add(48*time.Hour))
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]Hour{}
	for _, h := range hours {
		if h.SealedAt.IsZero() {
			w.t.Errorf("%+v has no time", h)
		}
		h.SealedAt = time.Time{}
		out[fmt.Sprintf("%s %s", h.Hour.Format("15"), h.Source)] = h
	}
	return out
}

func TestHoursAreSealedWhenTheyAreOver(t *testing.T) { layouts(t, hoursAreSealedWhenTheyAreOver) }

func hoursAreSealedWhenTheyAreOver(t *testing.T, w *world) {
	ten := yesterday.Add(10 * time.Hour)
	w.load(0, ten, 3*time.Hour, ints(0, 3000)...)
	w.load(1, ten, 3*time.Hour, ints(3000, 6000)...)
	w.load(0, ten, 3*time.Hour, ints(0, 3000)...) // copies, every one
	s := w.sealer(ten.Add(4*time.Hour + 30*time.Minute))
	w.pass(s)
	want := map[string]Hour{}
	for _, hour := range []int{10, 11} {
		for _, source := range []string{"als", "events"} {
			want[fmt.Sprintf("%d %s", hour, source)] = Hour{Hour: yesterday.Add(time.Duration(hour) * time.Hour), Source: source,
				Received: 1500, Deduplicated: 500, Stored: 1000, RolledUp: 1000}
		}
	}
	check := func() {
		t.Helper()
		got := w.sealed()
		if len(got) != len(want) {
			t.Errorf("%d records, want %d", len(got), len(want))
		}
		for key, h := range want {
			if got[key] != h {
				t.Errorf("%s is %+v, want %+v", key, got[key], h)
			}
			if !h.Whole() {
				t.Errorf("%s is not whole", key)
			}
		}
	}
	check()
	if n := testutil.ToFloat64(s.unsealed); n != 1 {
		t.Errorf("%v hours are open, want the one within the window", n)
	}
	// Another process, later.
	w.pass(w.sealer(ten.Add(24 * time.Hour)))
	for _, source := range []string{"als", "events"} {
		want["12 "+source] = Hour{Hour: ten.Add(2 * time.Hour), Source: source, Received: 1500, Deduplicated: 500, Stored: 1000, RolledUp: 1000}
	}
	check()
	w.agree()
}

// An operator who has the log read again makes no copies of what is stored.
func TestWhatIsReadAgainWasReceivedOnce(t *testing.T) {
	w := newWorld(t)
	ten := yesterday.Add(10 * time.Hour)
	for range 2 {
		w.offset = 7
		w.load(0, ten, time.Minute, ints(0, 1000)...)
		w.load(0, ten, time.Minute, ints(900, 1100)...)
		w.epoch++
	}
	w.pass(w.sealer(time.Now()))
	for _, source := range []string{"als", "events"} {
		want := Hour{Hour: ten, Source: source, Received: 600, Deduplicated: 50, Stored: 550, RolledUp: 550}
		if got := w.sealed()["10 "+source]; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if n := w.number("SELECT count() FROM discards FINAL WHERE epoch = 1"); n != 1200 {
		t.Errorf("%d places of the second reading have a fate, want 1200", n)
	}
}

// settled runs passes until one finds nothing to do: an hour that was filled a
// second before it was sealed is looked at once more.
func (w *world) settled(s *Sealer) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		before := w.sealings(s)
		w.pass(s)
		if w.sealings(s) == before {
			return
		}
	}
	w.t.Fatal("hours are sealed again and again")
}

func (w *world) sealings(s *Sealer) float64 {
	return testutil.ToFloat64(s.sealed.WithLabelValues("first")) + testutil.ToFloat64(s.sealed.WithLabelValues("again"))
}

func TestSealingRepairsWhatWasTamperedWith(t *testing.T) {
	layouts(t, sealingRepairsWhatWasTamperedWith)
}

func sealingRepairsWhatWasTamperedWith(t *testing.T, w *world) {
	w.load(0, yesterday.Add(3*time.Hour), 3*time.Hour, ints(0, 3000)...)
	w.load(1, yesterday.Add(3*time.Hour), 3*time.Hour, ints(3000, 6000)...)
	bucket := fmt.Sprintf("toDateTime(%d, 'UTC')", yesterday.Add(5*time.Hour).Unix())
	for _, tamper := range []string{
		"ALTER TABLE traffic_1m DELETE WHERE toHour(bucket) = 3 AND partition = 1 SETTINGS mutations_sync = 2",
		"ALTER TABLE traffic_1h DELETE WHERE toHour(bucket) IN (4, 5) AND status = 404 SETTINGS mutations_sync = 2",
		"ALTER TABLE traffic_1d DELETE WHERE operation = 'op2' SETTINGS mutations_sync = 2",
		"ALTER TABLE usage_15m DELETE WHERE toHour(bucket) = 4 AND toMinute(bucket) = 15 SETTINGS mutations_sync = 2",
		// Not the number of calls, only where they stand, or what they carry.
		"INSERT INTO usage_15m (bucket, account, source, partition, measures) SELECT " + bucket + ", 'acme1', 'als', 0, map('tokens', toDecimal128('0.000000001', 9))",
		"INSERT INTO traffic_1h (bucket, source, operation, partition, calls) VALUES (" + bucket + ", 'als', 'op1', 0, 5), (" + bucket + ", 'als', 'op2', 0, -5)",
		"INSERT INTO traffic_1d (bucket, source, operation, partition, total_histogram) SELECT toStartOfDay(" + bucket + "), 'als', 'op1', 0, map(300, 1)",
		// A partition of the log that there is not.
		"INSERT INTO traffic_1m (bucket, source, operation, partition, calls) VALUES (" + bucket + ", 'als', 'op1', 7, 5)",
	} {
		w.exec(tamper)
	}
	s := w.sealer(time.Now())
	w.pass(s)
	w.agree()
	hours := w.sealed()
	if len(hours) != 6 {
		t.Errorf("%d records, want two sources times 3 hours", len(hours))
	}
	for key, h := range hours {
		if !h.Whole() || !h.Repaired {
			t.Errorf("%s: %+v", key, h) // the day was repaired, and with it every hour
		}
	}
	for _, u := range load.Rollups() {
		if testutil.ToFloat64(s.repairs.WithLabelValues(u.Table())) == 0 {
			t.Errorf("no repair of %s was counted", u.Table())
		}
	}
	w.settled(s)
	if n := testutil.ToFloat64(s.unsealed); n != 0 {
		t.Errorf("%v hours are open", n)
	}
}

func TestALateCallOpensItsHourAgain(t *testing.T) { layouts(t, aLateCallOpensItsHourAgain) }

func aLateCallOpensItsHourAgain(t *testing.T, w *world) {
	ten := yesterday.Add(10 * time.Hour)
	w.load(0, ten, 2*time.Hour, ints(0, 2000)...)
	s := w.sealer(time.Now())
	w.settled(s)
	version := func(hour int) int64 {
		return w.number(fmt.Sprintf("SELECT max(version) FROM reconciliation WHERE toHour(hour) = %d", hour))
	}
	ten10, eleven := version(10), version(11)
	w.load(1, ten, time.Hour, 5000, 5001, 5002)
	w.load(1, ten, time.Hour, 5001) // and a late copy
	w.settled(s)
	hours := w.sealed()
	if h := hours["10 als"]; h.Stored != 502 || h.Received != 502 || h.RolledUp != 502 {
		t.Errorf("als: %+v", h)
	}
	if h := hours["10 events"]; h.Stored != 501 || h.Deduplicated != 1 || h.Received != 502 {
		t.Errorf("events: %+v", h)
	}
	if n := version(11); n != eleven {
		t.Error("the hour after was sealed again")
	}
	if n := version(10); n <= ten10 {
		t.Error("the hour has no newer version")
	}
	if testutil.ToFloat64(s.sealed.WithLabelValues("again")) == 0 {
		t.Error("no second sealing was counted")
	}
	w.agree()
}

func TestRebuildAfterTruncate(t *testing.T) {
	rebuildAfterTruncate(t, newWorld(t), "traffic_1m", "traffic_1h", "traffic_1d", "usage_15m")
}

func TestRebuildOfEveryShard(t *testing.T) {
	rebuildAfterTruncate(t, newWorldOn(t, testenv.ClusterConfig(t)), "traffic_1h")
}

// rebuildAfterTruncate rebuilds each of some rollups, and then all there are.
func rebuildAfterTruncate(t *testing.T, w *world, tables ...string) {
	w.load(0, yesterday.Add(23*time.Hour+30*time.Minute), time.Hour, ints(0, 4000)...)
	w.load(1, yesterday.Add(23*time.Hour+30*time.Minute), time.Hour, ints(4000, 8000)...)
	all := Range{From: yesterday, To: yesterday.Add(48 * time.Hour)}
	for _, table := range tables {
		w.exec("TRUNCATE TABLE " + table)
		dry := all
		dry.DryRun = true
		steps := 0
		would, err := Rebuild(t.Context(), w.shards, dry, func(done, total int, _ []Change) {
			if steps++; done != steps || total < 2 || total > 3 {
				t.Errorf("hour %d of %d comes after %d", done, total, steps)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := w.number("SELECT count() FROM " + table); n != 0 {
			t.Errorf("a dry run wrote %d rows", n)
		}
		var calls int64
		for _, c := range would {
			if c.Table != table {
				t.Errorf("a dry run finds fault with %s", c.Table)
			}
			calls += c.Calls
		}
		if calls != 8000 {
			t.Errorf("%s lacks %d calls by the dry run, want 8000", table, calls)
		}
		named := all
		named.Tables = []string{table}
		if _, err := Rebuild(t.Context(), w.shards, named, nil); err != nil {
			t.Fatal(err)
		}
		w.agree()
	}
	for _, table := range []string{"traffic_1m", "traffic_1h", "traffic_1d", "usage_15m"} {
		w.exec("TRUNCATE TABLE " + table)
	}
	if changes, err := Rebuild(t.Context(), w.shards, all, nil); err != nil || len(changes) == 0 {
		t.Fatalf("%d changes, %v", len(changes), err)
	}
	w.agree()
	again, err := Rebuild(t.Context(), w.shards, all, nil)
	if err != nil || len(again) != 0 {
		t.Errorf("a second rebuild changes %+v, %v", again, err)
	}
}

// Without the one query id that a partition's writers share, each of these
// would add the whole difference.
func TestRepairsAtOnceAddTheDifferenceOnce(t *testing.T) {
	w := newWorld(t)
	hour := yesterday.Add(8 * time.Hour)
	w.load(0, hour, time.Hour, ints(0, 20_000)...)
	for _, u := range load.Rollups() {
		w.exec("TRUNCATE TABLE " + u.Table())
	}
	var wait sync.WaitGroup
	for range 6 {
		wait.Go(func() {
			for _, u := range load.Rollups() {
				if err := u.Repair(t.Context(), w.shards[0], 0, u.Buckets(hour, hour.Add(time.Hour))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	w.agree()
}

// Rebuilds and loads of the same hours at the same time leave rollups
// equal to raw.
func TestRebuildBesideRunningLoads(t *testing.T) {
	w := newWorld(t)
	hour := yesterday.Add(8 * time.Hour)
	w.load(0, hour, time.Hour, ints(0, 1000)...)
	w.exec("TRUNCATE TABLE traffic_1m")
	w.exec("TRUNCATE TABLE usage_15m")
	var wait sync.WaitGroup
	loaded := make(chan struct{})
	wait.Go(func() {
		defer close(loaded)
		for i := range 15 {
			if err := w.tryLoad(0, hour, time.Hour, ints(1000+i*100, 1100+i*100)...); err != nil {
				t.Error(err)
			}
		}
	})
	for range 2 {
		wait.Go(func() {
			for rounds := 0; ; rounds++ {
				select {
				case <-loaded:
					if rounds > 0 {
						return
					}
				default:
				}
				if _, err := Rebuild(t.Context(), w.shards, Range{From: hour, To: hour.Add(time.Hour)}, nil); err != nil &&
					!strings.Contains(err.Error(), "still differs") { // the loads outrun it
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	w.agree()
	if n := w.number("SELECT sum(calls) FROM traffic_1d"); n != 2500 {
		t.Errorf("%d calls, want 2500", n)
	}
}

func TestRebuildRefusesWhatItWouldDestroy(t *testing.T) {
	w := newWorld(t)
	for name, r := range map[string]Range{
		"before raw's retention": {From: yesterday.Add(-40 * 24 * time.Hour), To: yesterday},
		"empty":                  {From: yesterday, To: yesterday},
		"no such rollup":         {From: yesterday, To: yesterday.Add(time.Hour), Tables: []string{"calls"}},
	} {
		if _, err := Rebuild(t.Context(), w.shards, r, nil); err == nil {
			t.Errorf("%s is not refused", name)
		}
	}
	horizon, err := load.Horizon(t.Context(), w.shards[0])
	if want := yesterday.Add(24 * time.Hour).Add(-34 * 24 * time.Hour); err != nil || !horizon.Equal(want) {
		t.Errorf("raw is whole since %s, want %s (%v)", horizon, want, err)
	}
}

// How long it takes to seal an hour, per call in it.
func BenchmarkSealHour(b *testing.B) {
	w := newWorld(b)
	const calls = 200_000
	for i := range calls / 20_000 {
		w.load(int32(i%2), yesterday, time.Hour, ints(i*20_000, (i+1)*20_000)...)
	}
	for b.Loop() {
		w.exec("TRUNCATE TABLE reconciliation")
		w.pass(w.sealer(time.Now()))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/calls, "ns/call")
}
