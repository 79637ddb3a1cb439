package reports

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tollway/tollway/pipelines/call"
	reportsv1 "github.com/tollway/tollway/schemas/proto/tollway/reports/v1"
	"github.com/tollway/tollway/services/platform/auth"
	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/filter"
	"github.com/tollway/tollway/services/platform/testenv"
)

var (
	dayStart = time.Date(2025, 10, 20, 0, 0, 0, 0, time.UTC)
	dayRange = &reportsv1.TimeRange{StartTime: timestamppb.New(dayStart), EndTime: timestamppb.New(dayStart.Add(24 * time.Hour))}
)

// plainSample is a call with nothing special about it.
func plainSample(offset time.Duration, text map[string]string) sample {
	s := sample{time: dayStart.Add(offset), text: map[string]string{"fault": "none", "denied": ""}, status: 200, total: 1000, upstream: 500, request: 1, response: 2}
	for column := range textColumns {
		s.text[column] = ""
	}
	for column, value := range text {
		s.text[column] = value
	}
	return s
}

func (f *fixture) mustQuery(t *testing.T, r *reportsv1.QueryRequest) *reportsv1.QueryResponse {
	t.Helper()
	if r.TimeRange == nil {
		r.TimeRange = dayRange
	}
	answer, err := f.Query(t.Context(), r)
	if err != nil {
		t.Fatalf("%v: %v", r, err)
	}
	return answer
}

// TestEveryNameOnEveryTable asks for each metric and each dimension on each
// table that is said to know it: the registry and the tables agree.
func TestEveryNameOnEveryTable(t *testing.T) {
	f := newFixture(t, DefaultConfig())
	f.insert(t, []sample{plainSample(time.Hour+30*time.Minute, nil)})
	described, err := f.DescribeMetrics(t.Context(), &reportsv1.DescribeMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	ask := func(name string, tables []string, r *reportsv1.QueryRequest) {
		if names[name] {
			t.Errorf("%s is both a metric and a dimension, or there twice", name)
		}
		names[name] = true
		for _, table := range tables {
			switch {
			case table == "usage_15m" && slices.Contains(tables, "traffic_1m"):
				r.Filter = "account:\"(not set)\" OR account != x" // which the traffic tables do not have
			case table == "calls":
				r.Filter = `host = "(not set)"`
			default:
				r.Filter = ""
			}
			span := map[string]time.Duration{"traffic_1d": 24 * time.Hour, "traffic_1h": time.Hour, "usage_15m": 15 * time.Minute, "traffic_1m": time.Minute, "calls": time.Second}[table]
			start := dayStart.Add(time.Hour + 30*time.Minute).Truncate(span)
			r.TimeRange = &reportsv1.TimeRange{StartTime: timestamppb.New(start), EndTime: timestamppb.New(start.Add(span))}
			answer := f.mustQuery(t, r)
			if answer.SourceTable != table {
				t.Errorf("%s is read from %s, want %s", name, answer.SourceTable, table)
			}
			if len(answer.Rows) != 1 {
				t.Errorf("%s in %s: %d rows", name, table, len(answer.Rows))
			}
		}
	}
	for _, m := range described.Metrics {
		ask(m.Name, m.Tables, &reportsv1.QueryRequest{Metrics: []string{m.Name}})
		if m.Description == "" || m.Unit == "" {
			t.Errorf("%s is not described", m.Name)
		}
	}
	for _, d := range described.Dimensions {
		ask(d.Name, d.Tables, &reportsv1.QueryRequest{Metrics: []string{"calls"}, Dimensions: []string{d.Name}})
		if d.Description == "" {
			t.Errorf("%s is not described", d.Name)
		}
	}
}

// TestPercentilesNearExact compares percentiles with exact quantiles of random
// durations of several shapes.
func TestPercentilesNearExact(t *testing.T) {
	f := newFixture(t, DefaultConfig())
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	shapes := []func() float64{
		func() float64 { return r.Float64() * 1e6 },
		func() float64 { return math.Exp(r.NormFloat64()*3 + 10) },
		func() float64 { return 1e3 + 1e6*float64(r.IntN(2)) },
		func() float64 { return float64(r.IntN(5)) },
		func() float64 { return 3.6e9 * r.Float64() },
	}
	var samples []sample
	exact := map[string][]int64{}
	for i, shape := range shapes {
		product := fmt.Sprint("shape", i)
		for range 1 + r.IntN(700) {
			s := plainSample(time.Duration(r.IntN(86400))*time.Second, map[string]string{"product": product})
			s.total = int64(shape())
			exact[product] = append(exact[product], s.total)
			samples = append(samples, s)
		}
	}
	f.insert(t, samples)
	percentiles := []float64{0.01, 1, 25, 50, 75, 90, 95, 99, 99.9, 99.9999, 100}
	request := &reportsv1.QueryRequest{Dimensions: []string{"product"}}
	for _, p := range percentiles {
		request.Metrics = append(request.Metrics, fmt.Sprintf("p%g", p))
	}
	answer := f.mustQuery(t, request)
	if len(answer.Rows) != len(shapes) {
		t.Fatalf("%d rows, want %d", len(answer.Rows), len(shapes))
	}
	for _, row := range answer.Rows {
		values := exact[row.Fields["product"].GetStringValue()]
		slices.Sort(values)
		for i, p := range percentiles {
			rank := int(math.Ceil(float64(len(values)) * p / 100 * (1 - 1e-12)))
			want := float64(values[max(rank, 1)-1])
			got := row.Fields[request.Metrics[i]].GetNumberValue() * 1000
			// Microseconds are whole: 0 and 1 share a bucket.
			if math.Abs(got-want) > max(want*0.011, 1) {
				t.Errorf("p%g of %d calls is %v µs, want %v", p, len(values), got, want)
			}
		}
	}
}

// TestValuesStayValues filters on texts that would matter inside a statement.
func TestValuesStayValues(t *testing.T) { layouts(t, valuesStayValues) }

func valuesStayValues(t *testing.T, f *fixture) {
	nasty := []string{
		`'`, `''`, `"`, `\`, `\'`, `' OR 1=1 --`, `a') OR ('1'='1`, `{p0:String}`, `}{`, "tab\there", "line\nbreak", "nul\x00byte", `%s%d`, `%`, `_`,
		`/* x */`, `; DROP TABLE calls`, `\x27`, `NULL`, `\N`, `ünïcode ☃`, `*middle`, `a*b`, `-1`, ` space `, `$1`, `?`, `@p`, `:x`, `toString(1)`, "`", `a\`, "\u202e",
	}
	var samples []sample
	for i, value := range nasty {
		if strings.ContainsAny(value, "\\\x00") {
			continue // inserted below, by parameter
		}
		samples = append(samples, plainSample(time.Duration(i)*time.Minute, map[string]string{"path": value}))
	}
	f.insert(t, samples)
	for i, value := range nasty {
		if strings.ContainsAny(value, "\\\x00") {
			us := dayStart.UnixMicro()
			err := f.db.Exec(t.Context(), "INSERT INTO calls (id, time, received_at, path, fault, total_bucket, upstream_bucket) SELECT toFixedString(unhex({id:String}), 16), "+
				"fromUnixTimestamp64Micro({at:Int64}, 'UTC'), fromUnixTimestamp64Micro({at:Int64}, 'UTC'), {path:String}, 'none', 65535, 65535",
				map[string]any{"id": call.NewID("nasty", fmt.Sprint(i)).String(), "at": us, "path": value})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, value := range nasty {
		if strings.HasPrefix(value, "*") {
			continue
		}
		answer := f.mustQuery(t, &reportsv1.QueryRequest{Metrics: []string{"calls"}, Dimensions: []string{"path"}, Filter: "path = " + filter.Quote(value)})
		if len(answer.Rows) != 1 || answer.Rows[0].Fields["path"].GetStringValue() != value || answer.Rows[0].Fields["calls"].GetNumberValue() != 1 {
			t.Errorf("%q finds %v", value, answer.Rows)
		}
	}
	if total := f.mustQuery(t, &reportsv1.QueryRequest{Metrics: []string{"calls"}}).Rows[0].Fields["calls"].GetNumberValue(); total != float64(len(nasty)) {
		t.Errorf("%v calls in all, want %d", total, len(nasty))
	}
	wild := map[string]float64{`*middle`: 1, `"a*"`: 4, `*break`: 1, `"*DROP*"`: 1, `*`: float64(len(nasty))}
	wild[`"a*"`] = 0
	for _, value := range nasty {
		if strings.HasPrefix(value, "a") {
			wild[`"a*"`]++
		}
	}
	for pattern, want := range wild {
		got := f.mustQuery(t, &reportsv1.QueryRequest{Metrics: []string{"calls"}, Filter: "path = " + pattern}).Rows[0].Fields["calls"].GetNumberValue()
		if got != want {
			t.Errorf("path = %s finds %v, want %v", pattern, got, want)
		}
	}
}

func TestConsumerSeesOneAccount(t *testing.T) { layouts(t, consumerSeesOneAccount) }

func consumerSeesOneAccount(t *testing.T, f *fixture) {
	f.insert(t, []sample{
		plainSample(time.Hour, map[string]string{"account": "acme", "host": "a"}),
		plainSample(2*time.Hour, map[string]string{"account": "acme", "host": "b"}),
		plainSample(3*time.Hour, map[string]string{"account": "rival", "host": "c"}),
		plainSample(3*time.Hour, map[string]string{"account": ""}),
	})
	f.caller = Caller{Restricted: true, Account: "acme"}
	for _, r := range []*reportsv1.QueryRequest{
		{},
		{Filter: `account = rival OR account != rival OR account:"(not set)"`},
		{Filter: `NOT account = acme OR account = acme`},
		{Dimensions: []string{"account"}},
		{Dimensions: []string{"account"}, Filter: `host != x`},
		{Dimensions: []string{"account"}, Granularity: "day", OrderBy: "account desc"},
	} {
		r.Metrics = []string{"calls", "share"}
		answer := f.mustQuery(t, r)
		if len(answer.Rows) != 1 || answer.Rows[0].Fields["calls"].GetNumberValue() != 2 || answer.Rows[0].Fields["share"].GetNumberValue() != 1 {
			t.Errorf("%v finds %v", r, answer.Rows)
		}
	}
	if answer := f.mustQuery(t, &reportsv1.QueryRequest{Metrics: []string{"calls"}, Filter: "account = rival"}); answer.Rows[0].Fields["calls"].GetNumberValue() != 0 {
		t.Errorf("a rival's calls are %v", answer.Rows)
	}
	for _, r := range []*reportsv1.QueryRequest{
		{Metrics: []string{"calls"}, Dimensions: []string{"upstream_host"}},
		{Metrics: []string{"calls"}, Filter: "NOT (host = a AND gateway = x)"},
	} {
		r.TimeRange = dayRange
		if _, err := f.Query(t.Context(), r); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%v: %v, want permission denied", r, err)
		}
	}
	f.caller = Caller{Restricted: true}
	if _, err := f.Query(t.Context(), &reportsv1.QueryRequest{Metrics: []string{"calls"}, TimeRange: dayRange}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a consumer without account: %v, want permission denied", err)
	}
}

// TestNothingDependsOnMerges stores a call twice, and repairs a rollup by rows
// that subtract.
func TestNothingDependsOnMerges(t *testing.T) {
	f := newFixture(t, DefaultConfig())
	s := []sample{plainSample(time.Hour, map[string]string{"product": "p", "host": "h"})}
	f.insert(t, s)
	f.insert(t, s) // the same identity again
	raw := f.mustQuery(t, &reportsv1.QueryRequest{Metrics: []string{"calls"}, Filter: "host = h"})
	if got := raw.Rows[0].Fields["calls"].GetNumberValue(); got != 1 {
		t.Errorf("raw counts %v, want 1", got)
	}
	// The rollups counted both; what repair does is to add the difference to
	// the minute, from which the coarser ones follow.
	err := f.db.Exec(t.Context(), "INSERT INTO traffic_1m (bucket, product, status, fault, calls, request_bytes, response_bytes, total_us, upstream_us, total_max_us, total_histogram) "+
		"SELECT bucket, product, status, fault, -1, -1, -2, -1000, -500, total_max_us, map({b:UInt16}, toInt64(-1)) FROM traffic_1m LIMIT 1",
		map[string]any{"b": call.Bucket(1000)})
	if err != nil {
		t.Fatal(err)
	}
	rolled := f.mustQuery(t, &reportsv1.QueryRequest{Metrics: []string{"calls", "bytes", "latency_avg", "p50"}, Dimensions: []string{"product"}})
	if len(rolled.Rows) != 1 || rolled.SourceTable == "calls" {
		t.Fatalf("rows %v from %s", rolled.Rows, rolled.SourceTable)
	}
	for name, want := range map[string]float64{"calls": 1, "bytes": 3, "latency_avg": 1, "p50": call.BucketMiddle(call.Bucket(1000)) / 1000} {
		if got := rolled.Rows[0].Fields[name].GetNumberValue(); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func TestOrderLimitCompare(t *testing.T) { layouts(t, orderLimitCompare) }

func orderLimitCompare(t *testing.T, f *fixture) {
	var samples []sample
	for i := range 10 {
		for range i + 1 {
			samples = append(samples, plainSample(time.Duration(len(samples))*time.Second, map[string]string{"product": fmt.Sprintf("p%d", i)}))
		}
	}
	for range 4 { // the day before
		samples = append(samples, plainSample(-time.Hour+time.Duration(len(samples))*time.Second, map[string]string{"product": "p9"}))
	}
	f.insert(t, samples)
	products := func(r *reportsv1.QueryRequest) string {
		r.Metrics, r.Dimensions = []string{"calls"}, []string{"product"}
		var names []string
		for _, row := range f.mustQuery(t, r).Rows {
			names = append(names, row.Fields["product"].GetStringValue())
		}
		return strings.Join(names, " ")
	}
	for _, c := range []struct {
		r    *reportsv1.QueryRequest
		want string
	}{
		{&reportsv1.QueryRequest{Limit: 3}, "p9 p8 p7"},
		{&reportsv1.QueryRequest{Limit: 2, OrderBy: "calls"}, "p0 p1"},
		{&reportsv1.QueryRequest{Limit: 2, OrderBy: "product desc, calls"}, "p9 p8"},
		{&reportsv1.QueryRequest{Limit: 2, OrderBy: "calls desc", Filter: "product != p9"}, "p8 p7"},
	} {
		if got := products(c.r); got != c.want {
			t.Errorf("%v gives %s, want %s", c.r, got, c.want)
		}
	}
	compared := f.mustQuery(t, &reportsv1.QueryRequest{Metrics: []string{"calls", "error_rate"}, Dimensions: []string{"product"}, CompareTo: "previous_period", Limit: 2})
	if got := compared.Rows[0].Fields["previous_calls"].GetNumberValue(); got != 4 {
		t.Errorf("previous calls of p9 are %v, want 4", got)
	}
	if p8 := compared.Rows[1].Fields; p8["previous_calls"].GetNumberValue() != 0 || !isNull(p8["previous_error_rate"]) {
		t.Errorf("previous of p8 is %v, %v; want 0 and null", p8["previous_calls"], p8["previous_error_rate"])
	}
}

// TestRateUntilNow: what lies in the future does not thin out a rate.
func TestRateUntilNow(t *testing.T) {
	f := newFixture(t, DefaultConfig())
	f.insert(t, []sample{plainSample(0, nil), plainSample(time.Second, nil), plainSample(61*time.Second, nil)})
	f.deps.Now = func() time.Time { return dayStart.Add(80 * time.Second) }
	for granularity, want := range map[string][]float64{"none": {3.0 / 80}, "minute": {2.0 / 60, 1.0 / 20}, "day": {3.0 / 80}} {
		answer := f.mustQuery(t, &reportsv1.QueryRequest{
			Metrics: []string{"calls_per_second"}, Granularity: granularity, TimeRange: &reportsv1.TimeRange{StartTime: dayRange.StartTime},
		})
		if answer.SourceTable != "traffic_1m" {
			t.Errorf("the current minute is read from %s", answer.SourceTable)
		}
		for i, row := range answer.Rows {
			if got := row.Fields["calls_per_second"].GetNumberValue(); math.Abs(got-want[i]) > 1e-9 {
				t.Errorf("%s %d: %v, want %v", granularity, i, got, want[i])
			}
		}
	}
}

func TestAuthenticated(t *testing.T) {
	if _, err := Authenticated(t.Context()); err == nil {
		t.Error("nobody is let through")
	}
	for _, tc := range []struct {
		caller auth.Principal
		want   Caller
	}{
		{auth.Principal{Role: auth.Admin}, Caller{}},
		{auth.Principal{Role: auth.Consumer, Account: "acme"}, Caller{Account: "acme", Restricted: true}},
		{auth.Principal{Role: auth.Consumer}, Caller{Restricted: true}},
	} {
		if got, err := Authenticated(auth.WithPrincipal(t.Context(), tc.caller)); err != nil || got != tc.want {
			t.Errorf("%v is %v, %v; want %v", tc.caller, got, err, tc.want)
		}
	}
	for method, roles := range Rules {
		for _, role := range roles {
			if !slices.Contains([]auth.Role{auth.Admin, auth.ProductManager, auth.Finance, auth.Consumer}, auth.Role(role)) {
				t.Errorf("%s is allowed for %q", method, role)
			}
		}
	}
}

func TestBadRequests(t *testing.T) {
	f := newFixture(t, DefaultConfig())
	ok := func() *reportsv1.QueryRequest {
		return &reportsv1.QueryRequest{Metrics: []string{"calls"}, TimeRange: dayRange}
	}
	cases := []struct {
		change func(*reportsv1.QueryRequest)
		want   string
	}{
		{func(r *reportsv1.QueryRequest) { r.Metrics = nil }, "metrics: name at least one of calls, "},
		{func(r *reportsv1.QueryRequest) { r.Metrics = []string{"cals"} }, `metrics: there is no metric "cals"; did you mean "calls"?`},
		{func(r *reportsv1.QueryRequest) { r.Metrics = []string{"p101"} }, `metrics: there is no metric "p101"`},
		{func(r *reportsv1.QueryRequest) { r.Metrics = []string{"p0"} }, `metrics: there is no metric "p0"`},
		{func(r *reportsv1.QueryRequest) { r.Metrics = []string{"calls", "calls"} }, `metrics: "calls" is there twice`},
		{func(r *reportsv1.QueryRequest) { r.Dimensions = []string{"produkt"} }, `dimensions: there is no dimension "produkt"; did you mean "product"?`},
		{func(r *reportsv1.QueryRequest) { r.Filter = "product = a AND (b = c" }, `filter: column 23: expected ")"`},
		{func(r *reportsv1.QueryRequest) { r.Filter = "product = a AND latency = 3" }, `filter: column 17: there is no dimension "latency"`},
		{func(r *reportsv1.QueryRequest) { r.Filter = "product > a" }, "filter: column 1: product is text: compare it with =, != or :"},
		{func(r *reportsv1.QueryRequest) { r.Filter = "status = 5xx" }, `filter: column 1: status is a number, and "5xx" is none`},
		{func(r *reportsv1.QueryRequest) { r.TimeRange = nil }, "time_range: start_time is required"},
		{func(r *reportsv1.QueryRequest) {
			r.TimeRange = &reportsv1.TimeRange{StartTime: dayRange.EndTime, EndTime: dayRange.StartTime}
		}, "time_range: start_time 2025-10-21T00:00:00Z is not before end_time"},
		{func(r *reportsv1.QueryRequest) {
			r.TimeRange = &reportsv1.TimeRange{StartTime: &timestamppb.Timestamp{Seconds: -1}, EndTime: dayRange.EndTime}
		}, "time_range: must lie between 1970 and 2100"},
		{func(r *reportsv1.QueryRequest) { r.TimeZone = "Mars/Olympus" }, `time_zone: "Mars/Olympus" is not an IANA time zone`},
		{func(r *reportsv1.QueryRequest) { r.TimeZone = "../etc/passwd" }, `time_zone: "../etc/passwd" is not an IANA time zone`},
		{func(r *reportsv1.QueryRequest) { r.TimeZone = "Local" }, `time_zone: "Local" depends on the machine`},
		{func(r *reportsv1.QueryRequest) { r.Granularity = "week" }, `granularity: granularity "week" is not one of`},
		{func(r *reportsv1.QueryRequest) { r.OrderBy = "product" }, `order_by: "product" is not among the metrics and dimensions`},
		{func(r *reportsv1.QueryRequest) { r.OrderBy = "calls down" }, `order_by: "calls down" is not the name of a column`},
		{func(r *reportsv1.QueryRequest) { r.Limit = -1 }, "limit: must be between 0 and 100000"},
		{func(r *reportsv1.QueryRequest) { r.Limit = 100_001 }, "limit: must be between 0 and 100000"},
		{func(r *reportsv1.QueryRequest) { r.CompareTo = "last_year" }, `compare_to: "last_year" is not "previous_period"`},
		{func(r *reportsv1.QueryRequest) { r.CompareTo, r.Granularity = "previous_period", "day" }, "compare_to: is not possible with a granularity"},
	}
	for _, c := range cases {
		r := ok()
		c.change(r)
		_, err := f.Query(t.Context(), r)
		if status.Code(err) != codes.InvalidArgument || !strings.HasPrefix(status.Convert(err).Message(), c.want) {
			t.Errorf("%v: %v, want %q", r, err, c.want)
		}
	}
}

func TestLimitsOfTheStore(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxRowsToRead = 10
	testenv.Layouts(t, func(t *testing.T, connection clickhouse.Config) {
		limitsOfTheStore(t, newFixtureOn(t, connection, cfg))
	})
}

func limitsOfTheStore(t *testing.T, f *fixture) {
	var samples []sample
	for i := range 100 {
		samples = append(samples, plainSample(time.Duration(i)*time.Minute, map[string]string{"host": fmt.Sprint(i)}))
	}
	f.insert(t, samples)
	_, err := f.Query(t.Context(), &reportsv1.QueryRequest{Metrics: []string{"calls"}, Dimensions: []string{"host"}, TimeRange: dayRange})
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "max_rows_to_read") {
		t.Errorf("reading too much: %v", err)
	}
	if err := f.db.Exec(t.Context(), "DROP TABLE calls SYNC", nil); err != nil {
		t.Fatal(err)
	}
	_, err = f.Query(t.Context(), &reportsv1.QueryRequest{Metrics: []string{"calls"}, Dimensions: []string{"host"}, TimeRange: dayRange})
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "calls") {
		t.Errorf("without a table: %v", err)
	}
}

// TestREST holds the JSON of the API to the form that is promised.
func TestREST(t *testing.T) {
	f := newFixture(t, DefaultConfig())
	f.insert(t, []sample{plainSample(time.Hour, map[string]string{"product": "pay"})})
	mux := runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, JSON()), runtime.WithErrorHandler(Problem))
	if err := reportsv1.RegisterReportsHandlerServer(t.Context(), mux, f.Server); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(mux)
	defer server.Close()
	post := func(body string) (int, string) {
		response, err := http.Post(server.URL+"/v1/reports:query", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var answer any
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(text)
	}
	const span = `"time_range":{"start_time":"2025-10-20T00:00:00Z","end_time":"2025-10-21T00:00:00Z"}`
	for body, want := range map[string]string{
		`{"metrics":["calls","errors","upstream_max"],"dimensions":["product","region"],"granularity":"day","time_zone":"Europe/Berlin",` + span + `}`: `{"complete_until":null,"rows":[{"calls":1,"errors":0,"product":"pay","region":"(not set)","time":"2025-10-20T00:00:00+02:00","upstream_max":0.5}],"source_table":"calls"}`,
		`{"metrics":["calls"],"dimensions":["product"],"filter":"product = x",` + span + `}`:                                                           `{"complete_until":null,"rows":[],"source_table":"traffic_1d"}`,
		`{"metrics":["calls","p99"],"filter":"product = x",` + span + `}`:                                                                              `{"complete_until":null,"rows":[{"calls":0,"p99":null}],"source_table":"traffic_1d"}`,
	} {
		if code, got := post(body); code != 200 || got != want {
			t.Errorf("%s\ngives %d %s\nwant %s", body, code, got, want)
		}
	}
	for _, body := range []string{`{"metrics":["calls"],"metric":1,` + span + `}`, `{"metrics":"calls"}`, `[`, `{}`} {
		if code, text := post(body); code != 400 {
			t.Errorf("%s gives %d %s, want 400", body, code, text)
		}
	}
	if _, text := post(`{"metrics":["cals"]}`); text != `{"code":"InvalidArgument","detail":"metrics: there is no metric \"cals\"; did you mean \"calls\"?","status":400,"title":"Bad Request","type":"about:blank"}` {
		t.Errorf("a problem is %s", text)
	}
	response, err := http.Get(server.URL + "/v1/reports/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var described struct {
		Metrics, Dimensions []struct {
			Name   string
			Tables []string
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&described); err != nil || len(described.Metrics) < 20 || len(described.Dimensions) != len(dimensions) {
		t.Errorf("described %d metrics and %d dimensions, %v", len(described.Metrics), len(described.Dimensions), err)
	}
}
