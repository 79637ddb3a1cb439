package load

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/testenv"
	"github.com/tollway/tollway/sql"
)

// asSent knows no catalog.
func asSent(*call.Batch) uint64 { return 0 }

func TestMain(m *testing.M) { testenv.Main(m) }

var now = time.Now().UTC().Truncate(time.Second)

// opener makes a database, which reads all shards, and a loader of it.
type opener func(t testing.TB, hot int) (*clickhouse.DB, *Loader)

func open(t testing.TB, hot int) (*clickhouse.DB, *Loader) {
	return openOn(t, testenv.ClickHouseConfig(t), hot)
}

func openOn(t testing.TB, cfg clickhouse.Config, hot int) (*clickhouse.DB, *Loader) {
	if _, err := clickhouse.Migrate(t.Context(), cfg, sql.ClickHouseMigrations, sql.ClickHouseVariables(false, 35, 400)); err != nil {
		t.Fatal(err)
	}
	c := DefaultConfig()
	c.HotCalls = hot
	return testenv.Open(t, cfg.AllShards()), New(c, testenv.OpenShards(t, cfg), 3, asSent, prometheus.NewRegistry(), zerolog.New(zerolog.NewTestWriter(t)))
}

// layouts runs a test on one engine and on two shards, of which partition 1
// has the second.
func layouts(t *testing.T, test func(t *testing.T, open opener)) {
	for name, config := range map[string]func(testing.TB) clickhouse.Config{
		"one engine": testenv.ClickHouseConfig, "two shards": testenv.ClusterConfig,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, func(t testing.TB, hot int) (*clickhouse.DB, *Loader) { return openOn(t, config(t), hot) })
		})
	}
}

// message encodes calls with the given numbers as one message; equal numbers
// are copies of one call.
func message(t testing.TB, b *call.Batch, offset int64, at time.Time, numbers ...int) {
	m := call.NewBatch()
	for _, n := range numbers {
		rnd := rand.New(rand.NewPCG(uint64(n), 7))
		var c call.Call
		c.Reset()
		// Each number has an identity that belongs to partition 1 of 3.
		for k := 0; k == 0 || c.ID.Partition(3) != 1; k++ {
			c.ID = call.NewID("test", fmt.Sprint(n), fmt.Sprint(k))
		}
		c.Time = at.Add(-time.Duration(n%5000) * time.Millisecond).UnixMicro()
		c.ReceivedAt = at.UnixMicro()
		c.Strings[call.Source], c.Strings[call.API] = "test", "orders"
		c.Strings[call.Operation] = fmt.Sprintf("op%d", n%7)
		c.Strings[call.Account], c.Strings[call.Upstream] = fmt.Sprintf("acme%d", n%3), "stable"
		c.Status = []uint16{200, 200, 404, 503}[n%4]
		c.Latency[call.Total] = rnd.Int64N(1e6)
		if n%5 > 0 {
			c.Latency[call.UpstreamTime] = c.Latency[call.Total] / 2
		}
		c.RequestBytes, c.ResponseBytes = int64(n%100), int64(n%1000)
		value, _ := call.ParseDecimal(fmt.Sprintf("%d.5", n%10))
		c.Measures = append(c.Measures, call.Measure{Name: "tokens", Value: value})
		m.Append(&c)
	}
	value, err := call.Encode(nil, m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.AppendMessage(value, offset); err != nil {
		t.Fatal(err)
	}
}

func ints(from, to int) (out []int) {
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

func rng(from, to int64) Range { return Range{Topic: "calls", Partition: 1, From: from, To: to} }

func fine() error { return nil }

func number(t testing.TB, db *clickhouse.DB, query string) (n int64) {
	t.Helper()
	if err := db.QueryRow(context.Background(), "SELECT toInt64("+query+")", nil).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// agree asserts that raw holds want calls, each once, and that every rollup
// says the same as raw, bucket by bucket.
func agree(t *testing.T, db *clickhouse.DB, p *Partition, want int64) {
	t.Helper()
	if n := number(t, db, "(SELECT count() FROM calls FINAL)"); n != want {
		t.Errorf("%d calls are stored, want %d", n, want)
	}
	if n := number(t, db, "(SELECT uniqExact(id) FROM calls)"); n != want {
		t.Errorf("%d identities are stored, want %d", n, want)
	}
	for _, table := range []string{"traffic_1m", "traffic_1h", "traffic_1d", "usage_15m"} {
		if n := number(t, db, "(SELECT sum(calls) FROM "+table+")"); n != want {
			t.Errorf("%s counts %d calls, want %d", table, n, want)
		}
	}
	for _, table := range []string{"traffic_1m", "traffic_1h", "traffic_1d"} {
		histogram := number(t, db, "(SELECT arraySum(mapValues(sumMap(total_histogram))) FROM "+table+")")
		if histogram != want {
			t.Errorf("the histograms of %s count %d, want %d", table, histogram, want)
		}
	}
	for _, u := range rollups {
		from := now.Add(-24 * time.Hour).Truncate(24 * time.Hour)
		var buckets []time.Time
		for at := from; at.Before(now.Add(24 * time.Hour)); at = at.Add(time.Duration(u.seconds) * time.Second) {
			buckets = append(buckets, at)
		}
		var differences uint64
		err := p.db.QueryRow(t.Context(), "SELECT count() FROM ("+u.query+")", map[string]any{
			"partition": uint16(p.number), "buckets": buckets, "from": from, "to": now.Add(25 * time.Hour),
		}).Scan(&differences)
		if err != nil || differences != 0 {
			t.Errorf("%s differs from raw in %d keys: %v", u.table, differences, err)
		}
	}
	for i, shard := range p.shards {
		if n := number(t, shard, "(SELECT count() FROM calls FINAL)"); (n > 0) != (i == int(p.number)%len(p.shards) && want > 0) {
			t.Errorf("shard %d has %d calls of partition %d", i, n, p.number)
		}
	}
	tokens := number(t, db, "(SELECT sum(measures['tokens']) * 10 FROM usage_15m)")
	if raw := number(t, db, "(SELECT sum(measures['tokens']) * 10 FROM calls FINAL)"); raw != tokens {
		t.Errorf("usage counts %d tenths of tokens, raw %d", tokens, raw)
	}
}

func TestCopiesAreStoredOnce(t *testing.T) { layouts(t, copiesAreStoredOnce) }

func copiesAreStoredOnce(t *testing.T, open opener) {
	db, l := open(t, 1<<16)
	p := l.Open(1)
	if err := p.Warm(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	b := call.NewBatch()
	message(t, b, 0, now, append(ints(0, 1000), 5, 6, 7)...) // copies in the message
	message(t, b, 1, now, ints(900, 1100)...)                // and in the batch
	if err := p.Load(t.Context(), rng(0, 2), b, fine); err != nil {
		t.Fatal(err)
	}
	agree(t, db, p, 1100)

	b = call.NewBatch()
	message(t, b, 2, now, ints(1000, 1200)...) // and of an earlier batch
	if err := p.Load(t.Context(), rng(2, 3), b, fine); err != nil {
		t.Fatal(err)
	}
	agree(t, db, p, 1200)

	// Another owner, whose memory comes from the store.
	q := l.Open(1)
	if err := q.Warm(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	b = call.NewBatch()
	message(t, b, 3, now, ints(0, 1300)...)
	if err := q.Load(t.Context(), rng(3, 4), b, fine); err != nil {
		t.Fatal(err)
	}
	agree(t, db, p, 1300)
	if n := number(t, db, "(SELECT count() FROM discards FINAL WHERE fate = 'duplicate')"); n != 3+100+100+1200 {
		t.Errorf("%d duplicates are on record", n)
	}
	if n := testutil.ToFloat64(l.metrics.stored); n != 1300 {
		t.Errorf("the metric says %v stored", n)
	}
}

func TestCopiesOfForgottenCallsAreLookedUp(t *testing.T) {
	layouts(t, copiesOfForgottenCallsAreLookedUp)
}

func copiesOfForgottenCallsAreLookedUp(t *testing.T, open opener) {
	db, l := open(t, 1000) // remembers too little on purpose
	p := l.Open(1)
	for i := range 10 {
		b := call.NewBatch()
		message(t, b, int64(i), now.Add(-3*time.Hour), ints(1000*i, 1000*i+1000)...)
		if err := p.Load(t.Context(), rng(int64(i), int64(i)+1), b, fine); err != nil {
			t.Fatal(err)
		}
	}
	b := call.NewBatch()
	message(t, b, 10, now.Add(-3*time.Hour), ints(0, 10_500)...)
	if err := p.Load(t.Context(), rng(10, 11), b, fine); err != nil {
		t.Fatal(err)
	}
	agree(t, db, p, 10_500)
	if testutil.ToFloat64(l.metrics.lookups) == 0 {
		t.Error("nothing was looked up")
	}
}

// halfDone is the calls of the range whose load was interrupted.
func halfDone(t *testing.T) *call.Batch {
	b := call.NewBatch()
	message(t, b, 5, now, ints(0, 2000)...)
	message(t, b, 6, now, ints(1900, 3000)...)
	return b
}

// interruptions leave the store as an interrupted load can.
var interruptions = map[string]func(*testing.T, *clickhouse.DB, *Partition){
	"nothing landed": func(*testing.T, *clickhouse.DB, *Partition) {},
	"all landed": func(t *testing.T, db *clickhouse.DB, p *Partition) {
		if err := p.Load(t.Context(), rng(5, 7), halfDone(t), fine); err != nil {
			t.Fatal(err)
		}
	},
	"raw without the rollups": func(t *testing.T, db *clickhouse.DB, p *Partition) {
		if err := p.Load(t.Context(), rng(5, 7), halfDone(t), fine); err != nil {
			t.Fatal(err)
		}
		for _, table := range []string{"traffic_1m", "traffic_1h", "traffic_1d", "usage_15m"} {
			if err := p.db.Exec(t.Context(), "TRUNCATE TABLE "+table, nil); err != nil {
				t.Fatal(err)
			}
		}
	},
	"one rollup lost its part": func(t *testing.T, db *clickhouse.DB, p *Partition) {
		if err := p.Load(t.Context(), rng(5, 7), halfDone(t), fine); err != nil {
			t.Fatal(err)
		}
		if err := p.db.Exec(t.Context(), "TRUNCATE TABLE traffic_1h", nil); err != nil {
			t.Fatal(err)
		}
	},
	"the engine remembers the token but lost the rows": func(t *testing.T, db *clickhouse.DB, p *Partition) {
		if err := p.Load(t.Context(), rng(5, 7), halfDone(t), fine); err != nil {
			t.Fatal(err)
		}
		// A mutation keeps the token in the log of the table; rows are gone.
		if err := p.db.Exec(t.Context(), "ALTER TABLE calls DELETE WHERE row % 3 = 0 SETTINGS mutations_sync = 2", nil); err != nil {
			t.Fatal(err)
		}
	},
	"stored twice, in raw and in the rollups": func(t *testing.T, db *clickhouse.DB, p *Partition) {
		for range 2 {
			b := halfDone(t)
			b.Keep(append(trues(2000), append(falses(100), trues(1000)...)...))
			block, err := call.EncodeInsert(nil, b, call.Provenance{Partition: 1})
			if err != nil {
				t.Fatal(err)
			}
			settings := map[string]any{"async_insert": 0, "insert_deduplicate": 0, "deduplicate_insert": "disable"}
			if err := p.db.InsertArrow(t.Context(), "calls", insertColumns, settings, readerOf(block)); err != nil {
				t.Fatal(err)
			}
		}
		if n := number(t, db, "(SELECT sum(calls) FROM traffic_1d)"); n != 6000 {
			t.Fatalf("the interruption made %d calls", n)
		}
	},
}

func TestRecoveryOfEveryHalfDoneLoad(t *testing.T) {
	for name, interrupt := range interruptions {
		t.Run(name, func(t *testing.T) { recovers(t, interrupt, open) })
	}
}

func TestRecoveryOnAShard(t *testing.T) {
	onShards := func(t testing.TB, hot int) (*clickhouse.DB, *Loader) { return openOn(t, testenv.ClusterConfig(t), hot) }
	for _, name := range []string{"raw without the rollups", "the engine remembers the token but lost the rows"} {
		t.Run(name, func(t *testing.T) { recovers(t, interruptions[name], onShards) })
	}
}

func recovers(t *testing.T, interrupt func(*testing.T, *clickhouse.DB, *Partition), open opener) {
	db, l := open(t, 1<<16)
	p := l.Open(1)
	interrupt(t, db, p)
	q := l.Open(1)
	if err := q.Recover(t.Context(), rng(5, 7), halfDone(t), fine); err != nil {
		t.Fatal(err)
	}
	agree(t, db, q, 3000)
	if err := q.Recover(t.Context(), rng(5, 7), halfDone(t), fine); err != nil {
		t.Fatal(err)
	}
	agree(t, db, q, 3000)
}

func trues(n int) []bool {
	out := make([]bool, n)
	for i := range out {
		out[i] = true
	}
	return out
}

func falses(n int) []bool { return make([]bool, n) }

// Another number of shards puts a partition on another one, and what it stored
// of late stays known.
func TestANewShardKnowsWhatTheOldOneStored(t *testing.T) {
	db, l := openOn(t, testenv.ClusterConfig(t), 1<<16)
	before := New(l.cfg, l.shards[:1], 3, asSent, prometheus.NewRegistry(), l.log).Open(1)
	b := call.NewBatch()
	message(t, b, 0, now, ints(0, 1000)...)
	if err := before.Load(t.Context(), rng(0, 1), b, fine); err != nil {
		t.Fatal(err)
	}
	p := l.Open(1)
	if err := p.Warm(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	b = call.NewBatch()
	message(t, b, 1, now, ints(500, 1500)...)
	if err := p.Load(t.Context(), rng(1, 2), b, fine); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{1000, 500} {
		if n := number(t, l.shards[i], "(SELECT count() FROM calls FINAL)"); n != want {
			t.Errorf("shard %d has %d calls, want %d", i, n, want)
		}
	}
	if n := number(t, db, "(SELECT sum(calls) FROM traffic_1d)"); n != 1500 {
		t.Errorf("traffic_1d counts %d calls, want 1500", n)
	}
}

func TestWhatCannotBeStoredIsQuarantined(t *testing.T) {
	db, l := open(t, 1<<16)
	p := l.Open(1)
	b := call.NewBatch()
	message(t, b, 0, now, ints(0, 100)...)
	b.Time[3] = now.Add(time.Hour).UnixMicro()
	b.Time[4] = now.Add(-40 * 24 * time.Hour).UnixMicro()
	b.Time[5] = -1 << 62
	if err := p.Load(t.Context(), rng(0, 1), b, fine); err != nil {
		t.Fatal(err)
	}
	agree(t, db, p, 97)
	if n := number(t, db, "(SELECT count() FROM discards FINAL WHERE fate = 'quarantined')"); n != 3 {
		t.Errorf("%d are quarantined", n)
	}
}

func TestAnOwnerThatIsFencedInsertsNothing(t *testing.T) {
	db, l := open(t, 1<<16)
	p := l.Open(1)
	b := call.NewBatch()
	message(t, b, 0, now, ints(0, 100)...)
	fenced := fmt.Errorf("fenced")
	if err := p.Load(t.Context(), rng(0, 1), b, func() error { return fenced }); err != fenced {
		t.Fatal(err)
	}
	agree(t, db, p, 0)
}

// Rows per second of loads of 100,000 calls, against INSERT … SELECT of the
// same rows into the same tables on the same engine.
func BenchmarkLoadAgainstInsertSelect(b *testing.B) {
	db, l := open(b, 4<<20)
	p := l.Open(1)
	p.log = zerolog.Nop()
	const rows = 100_000
	var load, reference time.Duration
	at := int64(0)
	for b.Loop() {
		batch := call.NewBatch()
		for m := range rows / 1000 {
			message(b, batch, at+int64(m), now, ints(int(at)*1000+m*1000, int(at)*1000+m*1000+1000)...)
		}
		start := time.Now()
		if err := p.Load(b.Context(), rng(at, at+100), batch, fine); err != nil {
			b.Fatal(err)
		}
		load += time.Since(start)
		start = time.Now()
		err := db.Exec(b.Context(), fmt.Sprintf("INSERT INTO calls SELECT * REPLACE (2 AS partition) FROM calls AS c WHERE c.offset >= %d AND c.offset < %d AND c.partition = 1 SETTINGS async_insert = 0, max_insert_threads = 1, optimize_on_insert = 0", at, at+100), nil)
		if err != nil {
			b.Fatal(err)
		}
		reference += time.Since(start)
		at += 100
	}
	b.ReportMetric(rows*float64(b.N)/load.Seconds(), "rows/s")
	b.ReportMetric(reference.Seconds()/load.Seconds(), "ratio")
}

func readerOf(block []byte) *bytes.Reader { return bytes.NewReader(block) }

// The table has a column for everything that is inserted, and nothing else but
// when it was stored.
func TestTheTableHasTheColumnsOfTheRecord(t *testing.T) {
	db, _ := open(t, 1000)
	rows, err := db.Query(t.Context(), "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = 'calls'", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	table := map[string]bool{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		table[name] = true
	}
	for _, name := range insertColumns {
		if !table[name] {
			t.Errorf("calls has no column %s", name)
		}
		delete(table, name)
	}
	delete(table, "stored_at")
	for name := range table {
		t.Errorf("nothing is inserted into column %s", name)
	}
}

// A column that is added to a table has to be added where all shards are read.
func TestEveryTableIsReadOnAllShards(t *testing.T) {
	cfg := testenv.ClusterConfig(t)
	db, _ := openOn(t, cfg, 1000)
	if applied, err := clickhouse.Migrate(t.Context(), cfg, sql.ClickHouseMigrations, sql.ClickHouseVariables(false, 35, 400)); err != nil || applied != 0 {
		t.Fatalf("a second run applied %d steps, error %v", applied, err)
	}
	rows, err := db.Query(t.Context(), `SELECT table, name, groupArray(database), groupUniqArray(type)
		FROM system.columns INNER JOIN system.tables AS t ON t.database = columns.database AND t.name = columns.table
		WHERE database IN ({own:String}, currentDatabase()) AND t.engine != 'MaterializedView' AND table != 'schema_migrations'
		GROUP BY table, name`, map[string]any{"own": cfg.Database})
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns := 0
	for rows.Next() {
		var table, name string
		var databases, types []string
		if err := rows.Scan(&table, &name, &databases, &types); err != nil {
			t.Fatal(err)
		}
		if columns++; len(databases) != 2 || len(types) != 1 {
			t.Errorf("%s.%s is in %v with types %v", table, name, databases, types)
		}
	}
	if err := rows.Err(); err != nil || columns < 100 {
		t.Errorf("%d columns, error %v", columns, err)
	}
}
