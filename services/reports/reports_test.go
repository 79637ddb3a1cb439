package reports

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tollway/tollway/pipelines/call"
	reportsv1 "github.com/tollway/tollway/schemas/proto/tollway/reports/v1"
	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/testenv"
	"github.com/tollway/tollway/sql"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// fixture is a fresh database with all tables, and a server that reads it.
type fixture struct {
	*Server
	db     *clickhouse.DB // the first shard
	shards []*clickhouse.DB
	caller Caller
}

func newFixture(t testing.TB, cfg Config) *fixture {
	return newFixtureOn(t, testenv.ClickHouseConfig(t), cfg)
}

func newFixtureOn(t testing.TB, connection clickhouse.Config, cfg Config) *fixture {
	t.Helper()
	// Kept for so long that no call of a test is past it, and not past the end
	// of what the engine can count.
	if _, err := clickhouse.Migrate(t.Context(), connection, sql.ClickHouseMigrations, sql.ClickHouseVariables(false, 20000, 20000)); err != nil {
		t.Fatal(err)
	}
	f := &fixture{shards: testenv.OpenShards(t, connection)}
	f.db = f.shards[0]
	reader := testenv.Open(t, testenv.AsReader(connection.AllShards(), testenv.Engine(t)))
	var err error
	f.Server, err = New(cfg, Deps{
		Store:      ClickHouse(reader),
		Caller:     func(context.Context) (Caller, error) { return f.caller, nil },
		Log:        zerolog.New(zerolog.NewTestWriter(t)),
		Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// layouts runs a test on one engine and on two shards.
func layouts(t *testing.T, test func(t *testing.T, f *fixture)) {
	testenv.Layouts(t, func(t *testing.T, connection clickhouse.Config) {
		test(t, newFixtureOn(t, connection, DefaultConfig()))
	})
}

// sample is a stored call, as the tests recompute reports from it.
type sample struct {
	event             uint64 // tells apart what else would be one call in two blocks
	time              time.Time
	text              map[string]string
	status            int
	total, upstream   int64
	request, response int64
}

// textColumns are the columns that samples fill, and how many values each has.
var textColumns = map[string]int{
	"source": 2, "product": 3, "api": 3, "operation": 4, "environment": 2, "method": 2, "upstream": 2, "version": 3,
	"region": 2, "gateway": 2, "account": 4, "app": 3, "subscription": 3, "plan": 2, "host": 3, "credential": 3, "path": 5, "country": 4,
}

func randomSample(r *rand.Rand, from time.Time, span time.Duration) sample {
	s := sample{time: from.Add(time.Duration(r.Int64N(int64(span/time.Microsecond))) * time.Microsecond), text: map[string]string{}}
	// On a few days only: a block has a part per day.
	s.time = s.time.AddDate(0, 0, []int{0, 3, 4, 25, 31, 32}[r.IntN(6)])
	switch r.IntN(4) { // many lie on the edges of buckets, or just before
	case 0:
		s.time = s.time.Truncate(15 * time.Minute)
	case 1:
		s.time = s.time.Truncate(15 * time.Minute).Add(-time.Microsecond)
	}
	if s.time.Before(from) {
		s.time = from
	}
	for column, values := range textColumns {
		if i := r.IntN(values + 1); i > 0 {
			s.text[column] = fmt.Sprintf("%s'%d", column, i)
		} else {
			s.text[column] = ""
		}
	}
	s.text["fault"] = []string{"none", "none", "client", "gateway", "policy", "upstream"}[r.IntN(6)]
	s.text["denied"] = []string{"", "", "", "quota", "auth"}[r.IntN(5)]
	s.status = []int{200, 200, 200, 201, 302, 400, 404, 429, 499, 500, 503, 0}[r.IntN(12)]
	s.total = int64(math.Exp(r.NormFloat64()*2 + 9))
	s.upstream = s.total / 2
	if r.IntN(5) == 0 {
		s.upstream = call.NotMeasured
	}
	if r.IntN(9) == 0 {
		s.total = []int64{call.NotMeasured, 0, 1}[r.IntN(3)]
	}
	s.event = r.Uint64()
	s.request, s.response = r.Int64N(1000), r.Int64N(1_000_000)
	return s
}

// insert stores samples in one block on each shard.
func (f *fixture) insert(t testing.TB, samples []sample) {
	t.Helper()
	shards := make([][]string, len(f.shards))
	columns := slices.Sorted(maps.Keys(samples[0].text))
	for i, s := range samples {
		id := call.NewID("test", fmt.Sprint(i), s.time.String(), fmt.Sprint(s.event))
		var text strings.Builder
		text.WriteString("\n('")
		for _, b := range id {
			fmt.Fprintf(&text, `\x%02x`, b)
		}
		at := s.time.UTC().Format("2006-01-02 15:04:05.000000")
		fmt.Fprintf(&text, "', '%s', '%s', %d, %d, %d, %d, %d, %d, %d", at, at,
			s.status, s.total, s.upstream, call.Bucket(s.total), call.Bucket(s.upstream), s.request, s.response)
		for _, c := range columns {
			fmt.Fprintf(&text, ", '%s'", strings.ReplaceAll(s.text[c], "'", `\'`))
		}
		text.WriteString(")")
		shard := id.Partition(len(shards))
		shards[shard] = append(shards[shard], text.String())
	}
	for i, rows := range shards {
		if len(rows) == 0 {
			continue
		}
		text := "INSERT INTO calls (id, time, received_at, status, total_us, upstream_us, total_bucket, upstream_bucket, request_bytes, response_bytes, " +
			strings.Join(columns, ", ") + ") VALUES" + strings.Join(rows, "")
		err := f.shards[i].Exec(t.Context(), text, nil, clickhouse.WithSettings(map[string]any{
			"async_insert": 0, "max_query_size": 1 << 28, "insert_deduplicate": 0, "deduplicate_blocks_in_dependent_materialized_views": 0,
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (s sample) label(dimension string) string {
	switch dimension {
	case "status":
		if s.status == 0 {
			return NotSet
		}
		return fmt.Sprint(s.status)
	case "status_class":
		if s.status == 0 {
			return NotSet
		}
		return fmt.Sprintf("%dxx", s.status/100)
	}
	if v := s.text[dimension]; v != "" {
		return v
	}
	return NotSet
}

// expected recomputes a metric from the calls of a group, the plain way. nil
// means null.
func expected(name string, group []sample, all int, seconds float64) *float64 {
	var errorsN, clientN, deniedN, req, resp float64
	var totals, upstreams []int64
	for _, s := range group {
		server := s.status >= 500 || s.text["fault"] == "gateway" || s.text["fault"] == "upstream"
		switch {
		case server:
			errorsN++
		case s.status >= 400:
			clientN++
		}
		if s.text["denied"] != "" {
			deniedN++
		}
		req += float64(s.request)
		resp += float64(s.response)
		if s.total >= 0 {
			totals = append(totals, s.total)
		}
		if s.upstream >= 0 {
			upstreams = append(upstreams, s.upstream)
		}
	}
	n := float64(len(group))
	ratio := func(a, b float64) *float64 {
		if b == 0 {
			return nil
		}
		a /= b
		return &a
	}
	switch name {
	case "calls":
		return &n
	case "calls_per_second":
		return ratio(n, seconds)
	case "share":
		return ratio(n, float64(all))
	case "errors":
		return &errorsN
	case "error_rate":
		return ratio(errorsN, n)
	case "client_errors":
		return &clientN
	case "client_error_rate":
		return ratio(clientN, n)
	case "denied_calls":
		return &deniedN
	case "request_bytes":
		return &req
	case "response_bytes":
		return &resp
	case "bytes":
		return ratio(req+resp, 1)
	case "latency_avg":
		return ratio(sum(totals), float64(len(totals))*1000)
	case "latency_max":
		return ratio(float64(slices.Max(append(totals, 0))), min(float64(len(totals)), 1)*1000)
	case "upstream_avg":
		return ratio(sum(upstreams), float64(len(upstreams))*1000)
	case "upstream_max":
		return ratio(float64(slices.Max(append(upstreams, 0))), min(float64(len(upstreams)), 1)*1000)
	}
	values := totals
	if strings.HasPrefix(name, "upstream_") {
		values = upstreams
	}
	if len(values) == 0 {
		return nil
	}
	var p float64
	if _, err := fmt.Sscanf(name[strings.LastIndex(name, "p")+1:], "%g", &p); err != nil {
		panic(err)
	}
	slices.Sort(values)
	exact := values[min(max(int(math.Ceil(float64(len(values))*p/100-1e-9))-1, 0), len(values)-1)]
	return ratio(call.BucketMiddle(call.Bucket(exact)), 1000)
}

func sum(values []int64) (total float64) {
	for _, v := range values {
		total += float64(v)
	}
	return total
}

// A randomFilter is a filter as text and as a function.
type randomFilter struct {
	text  string
	holds func(sample) bool
	uses  []string
}

func makeFilter(r *rand.Rand, dims []string, depth int) randomFilter {
	if depth == 0 || r.IntN(3) == 0 {
		d := dims[r.IntN(len(dims))]
		value := sample{text: map[string]string{d: ""}}.label(d)
		if n := textColumns[d]; n > 0 && r.IntN(4) > 0 {
			value = fmt.Sprintf("%s'%d", d, 1+r.IntN(n))
		}
		switch d {
		case "status":
			n := []int{200, 404, 499, 500, 0}[r.IntN(5)]
			op := []string{"=", "!=", "<", "<=", ">", ">="}[r.IntN(6)]
			holds := map[string]func(a, b int) bool{
				"=": func(a, b int) bool { return a == b }, "!=": func(a, b int) bool { return a != b },
				"<": func(a, b int) bool { return a < b }, "<=": func(a, b int) bool { return a <= b },
				">": func(a, b int) bool { return a > b }, ">=": func(a, b int) bool { return a >= b },
			}[op]
			return randomFilter{fmt.Sprintf("status %s %d", op, n), func(s sample) bool { return holds(s.status, n) }, []string{d}}
		case "status_class":
			return randomFilter{"status_class:(4xx OR 5xx)", func(s sample) bool { return s.status >= 400 }, []string{d}}
		}
		switch r.IntN(3) {
		case 0:
			return randomFilter{fmt.Sprintf("%s = %q", d, value), func(s sample) bool { return s.label(d) == value }, []string{d}}
		case 1:
			return randomFilter{fmt.Sprintf("%s != %q", d, value), func(s sample) bool { return s.label(d) != value }, []string{d}}
		}
		return randomFilter{fmt.Sprintf("%s:(%q OR %q)", d, value, d+"'1"), func(s sample) bool { return s.label(d) == value || s.label(d) == d+"'1" }, []string{d}}
	}
	a, b := makeFilter(r, dims, depth-1), makeFilter(r, dims, depth-1)
	uses := append(a.uses, b.uses...)
	switch r.IntN(3) {
	case 0:
		return randomFilter{"(" + a.text + ") AND (" + b.text + ")", func(s sample) bool { return a.holds(s) && b.holds(s) }, uses}
	case 1:
		return randomFilter{"(" + a.text + ") OR (" + b.text + ")", func(s sample) bool { return a.holds(s) || b.holds(s) }, uses}
	}
	return randomFilter{"NOT (" + a.text + ")", func(s sample) bool { return !a.holds(s) }, a.uses}
}

// bucketOf is the time bucket of a moment, told by the wall clock.
func bucketOf(t time.Time, granularity string, loc *time.Location) string {
	t = t.In(loc)
	switch granularity {
	case "minute":
		return t.Format("2006-01-02T15:04:00Z07:00")
	case "15m":
		return fmt.Sprintf("%s:%02d:00%s", t.Format("2006-01-02T15"), t.Minute()/15*15, t.Format("Z07:00"))
	case "hour":
		return t.Format("2006-01-02T15:00:00Z07:00")
	case "day":
		return t.Format("2006-01-02")
	case "month":
		return t.Format("2006-01")
	}
	return ""
}

// secondsOf measures a time bucket by stepping through it, minute by minute.
func secondsOf(from, to time.Time, granularity string, loc *time.Location) map[string]float64 {
	if granularity == "none" {
		return map[string]float64{"": to.Sub(from).Seconds()}
	}
	seconds := map[string]float64{}
	for t := from; t.Before(to); {
		next := t.Truncate(time.Minute).Add(time.Minute)
		if next.After(to) {
			next = to
		}
		seconds[bucketOf(t, granularity, loc)] += next.Sub(t).Seconds()
		t = next
	}
	return seconds
}

var zones = []string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Havana", "Pacific/Apia"}

func randomRange(r *rand.Rand, start time.Time, span time.Duration) (time.Time, time.Time) {
	align := []time.Duration{time.Microsecond, time.Second, time.Minute, 15 * time.Minute, time.Hour, 24 * time.Hour}
	for {
		a := start.Add(time.Duration(r.Int64N(int64(span)))).Truncate(align[r.IntN(len(align))])
		b := start.Add(time.Duration(r.Int64N(int64(span)))).Truncate(align[r.IntN(len(align))])
		if a.After(b) {
			a, b = b, a
		}
		if a.Before(b) {
			return a, b
		}
	}
}

func subset(r *rand.Rand, from []string, most int) []string {
	picked := slices.Clone(from)
	r.Shuffle(len(picked), func(i, j int) { picked[i], picked[j] = picked[j], picked[i] })
	return picked[:r.IntN(min(most, len(picked))+1)]
}

// TestQueryEqualsRawCalls compares every metric, over random ranges, filters,
// groups and time zones, with a recomputation from the calls that were stored.
func TestQueryEqualsRawCalls(t *testing.T) {
	layouts(t, func(t *testing.T, f *fixture) {
		if len(f.shards) > 1 {
			queryEqualsRawCalls(t, f, 40)
			return
		}
		seen := queryEqualsRawCalls(t, f, 100)
		for _, table := range allTables {
			if seen[table.name] == 0 {
				t.Errorf("no query read %s", table.name)
			}
		}
	})
}

// queryEqualsRawCalls asks a number of random queries, and returns how many
// read each table.
func queryEqualsRawCalls(t *testing.T, f *fixture, queries int) (seen map[string]int) {
	// The clocks of several of the zones change in this month.
	start, span := time.Date(2025, 10, 1, 0, 0, 0, 0, time.UTC), 40*24*time.Hour
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	var samples []sample
	for range 5 { // several blocks: nothing may depend on merges
		block := make([]sample, 1200)
		for i := range block {
			block[i] = randomSample(r, start, 24*time.Hour)
		}
		f.insert(t, block)
		samples = append(samples, block...)
	}

	inTraffic := []string{"source", "product", "api", "operation", "status", "status_class", "environment", "method", "fault", "upstream", "version", "region", "gateway"}
	inUsage := []string{"source", "product", "api", "operation", "status", "status_class", "environment", "account", "app", "subscription", "plan", "denied"}
	inRaw := append(slices.Clone(inTraffic), "account", "app", "subscription", "plan", "denied", "host", "credential", "path", "country")
	metricsOf := map[string][]string{
		"traffic": {"calls", "calls_per_second", "share", "errors", "error_rate", "client_errors", "client_error_rate", "request_bytes", "response_bytes", "bytes", "latency_avg", "latency_max", "upstream_avg", "p50", "p99.9", "latency_p90", "upstream_p95", "p100", "p0.01"},
		"usage":   {"calls", "calls_per_second", "share", "denied_calls", "request_bytes", "response_bytes", "bytes"},
	}
	metricsOf["raw"] = append(slices.Clone(metricsOf["traffic"]), "denied_calls", "upstream_max")

	seen = map[string]int{}
	for i := range queries {
		kind := []string{"traffic", "usage", "raw"}[i%3]
		dims := map[string][]string{"traffic": inTraffic, "usage": inUsage, "raw": inRaw}[kind]
		names := append([]string{"calls"}, subset(r, metricsOf[kind][1:], 8)...)
		from, to := randomRange(r, start, span)
		if i%7 == 0 {
			to = from.Add(time.Duration(1 + r.Int64N(int64(time.Hour))))
		}
		granularity := Granularities()[r.IntN(6)]
		if granularity == "minute" && to.Sub(from) > 48*time.Hour {
			to = from.Add(48 * time.Hour)
		}
		request := &reportsv1.QueryRequest{
			Metrics: names, Dimensions: subset(r, dims, 3), Granularity: granularity, Limit: 100_000,
			TimeZone:  zones[r.IntN(len(zones))],
			TimeRange: &reportsv1.TimeRange{StartTime: timestamppb.New(from), EndTime: timestamppb.New(to)},
		}
		holds := func(sample) bool { return true }
		if r.IntN(2) == 0 {
			filter := makeFilter(r, dims, 2)
			request.Filter, holds = filter.text, filter.holds
		}
		f.caller = Caller{}
		if kind != "traffic" && r.IntN(3) == 0 {
			f.caller = Caller{Restricted: true, Account: "account'1"}
			request.Dimensions = slices.DeleteFunc(request.Dimensions, internalDimension)
			if request.Filter != "" {
				request.Filter, holds = `product != "product'1"`, func(s sample) bool { return s.text["product"] != "product'1" }
			}
			inner := holds
			holds = func(s sample) bool { return s.text["account"] == "account'1" && inner(s) }
		}
		source := compareReport(t, f, request, samples, from, to, holds)
		for _, table := range strings.Split(source, "+") {
			seen[table]++
		}
		if t.Failed() {
			t.Fatalf("query %d: %v (from %s)", i, request, source)
		}
	}
	t.Logf("tables read: %v", seen)
	return seen
}

func internalDimension(name string) bool { return dimensionsByName[name].internal }

// compareReport runs one query and recomputes it; it returns the source table.
func compareReport(t *testing.T, f *fixture, request *reportsv1.QueryRequest, samples []sample, from, to time.Time, holds func(sample) bool) string {
	t.Helper()
	answer, err := f.Query(t.Context(), request)
	if err != nil {
		t.Errorf("query: %v", err)
		return ""
	}
	loc, err := time.LoadLocation(request.TimeZone)
	if err != nil {
		t.Fatal(err)
	}
	groups, perBucket, seconds := map[string][]sample{}, map[string]int{}, secondsOf(from, to, request.Granularity, loc)
	if len(request.Dimensions) == 0 && request.Granularity == "none" {
		groups[""] = nil // one total, also of nothing
	}
	for _, s := range samples {
		if s.time.Before(from) || !s.time.Before(to) || !holds(s) {
			continue
		}
		bucket := bucketOf(s.time, request.Granularity, loc)
		key := []string{bucket}
		for _, d := range request.Dimensions {
			key = append(key, s.label(d))
		}
		k := strings.Join(key, "|")
		groups[k] = append(groups[k], s)
		perBucket[bucket]++
	}
	if len(answer.Rows) != len(groups) {
		t.Errorf("%d rows, want %d", len(answer.Rows), len(groups))
	}
	for _, row := range answer.Rows {
		bucket := ""
		if request.Granularity != "none" {
			at, err := time.Parse(time.RFC3339, row.Fields["time"].GetStringValue())
			if err != nil {
				t.Fatal(err)
			}
			bucket = bucketOf(at, request.Granularity, loc)
		}
		key := []string{bucket}
		for _, d := range request.Dimensions {
			key = append(key, row.Fields[d].GetStringValue())
		}
		k := strings.Join(key, "|")
		group, ok := groups[k]
		if !ok {
			t.Errorf("unexpected row %v", row)
			continue
		}
		delete(groups, k)
		for _, m := range request.Metrics {
			want := expected(m, group, perBucket[bucket], seconds[bucket])
			got := row.Fields[m]
			if (want == nil) != isNull(got) || want != nil && math.Abs(got.GetNumberValue()-*want) > 1e-9*math.Max(1, math.Abs(*want)) {
				t.Errorf("%s of %q is %v, want %s", m, k, got, show(want))
			}
		}
	}
	return answer.SourceTable
}

func show(f *float64) string {
	if f == nil {
		return "null"
	}
	return fmt.Sprint(*f)
}

func isNull(v *structpb.Value) bool {
	_, null := v.GetKind().(*structpb.Value_NullValue)
	return null
}
