package reports

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// family is a set of tables that know the same columns of a call.
type family uint8

const (
	traffic    family = 1 << iota // traffic_1m, traffic_1h, traffic_1d
	usage                         // usage_15m
	raw                           // calls
	everywhere = traffic | usage | raw
)

// NotSet is what a report prints where a call has no value.
const NotSet = "(not set)"

// A dimension is a property of a call to group by and filter on. Its texts are
// constants of this file: nothing from a caller becomes part of a statement.
type dimension struct {
	name        string
	description string
	column      string // expression over the table's columns
	families    family
	numeric     bool
	missing     int64 // the number that stands for "not set"
	internal    bool  // not for callers who are tied to an account
}

// label is the expression of what the report prints for a value of the column.
func (d *dimension) label(value string) string {
	if d.numeric {
		return fmt.Sprintf("if(%s = %d, '%s', toString(%s))", value, d.missing, NotSet, value)
	}
	return fmt.Sprintf("if(%s = '', '%s', toString(%s))", value, NotSet, value)
}

const statusClass = "if(status = 0, '', concat(toString(intDiv(status, 100)), 'xx'))"

var dimensions = []*dimension{
	{name: "source", families: everywhere, description: "collector source that reported the call"},
	{name: "product", families: everywhere, description: "product that the operation belongs to"},
	{name: "api", families: everywhere, description: "API that was called"},
	{name: "operation", families: everywhere, description: "operation of the API: route template or gRPC method"},
	{name: "status", families: everywhere, numeric: true, description: "HTTP status"},
	{name: "status_class", column: statusClass, families: everywhere, description: "class of the HTTP status: 2xx, 3xx, 4xx, 5xx"},
	{name: "environment", families: everywhere, description: "environment, such as production"},
	{name: "method", families: traffic | raw, description: "HTTP method"},
	{name: "fault", families: traffic | raw, description: "who is to blame: none, client, gateway, policy, upstream"},
	{name: "upstream", families: traffic | raw, internal: true, description: "upstream cluster that answered"},
	{name: "version", families: traffic | raw, description: "version, subset or track of the upstream"},
	{name: "region", families: traffic | raw, description: "region of the gateway"},
	{name: "gateway", families: traffic | raw, internal: true, description: "gateway node or deployment"},
	{name: "account", families: usage | raw, description: "account of the consumer"},
	{name: "app", families: usage | raw, description: "app of the consumer"},
	{name: "subscription", families: usage | raw, description: "subscription that the call falls under"},
	{name: "plan", families: usage | raw, description: "rate plan of the subscription"},
	{name: "denied", families: usage | raw, description: "why the call was denied: quota, auth"},
	{name: "host", families: raw, description: "host that was asked for"},
	{name: "path", families: raw, description: "path that was asked for"},
	{name: "route", families: raw, description: "route of the gateway"},
	{name: "credential", families: raw, description: "id of the credential that was presented"},
	{name: "country", families: raw, description: "country of the client"},
	{name: "user_agent", families: raw, description: "family of the client's user agent"},
	{name: "os", families: raw, description: "operating system of the client"},
	{name: "device", families: raw, description: "kind of the client's device"},
	{name: "client_ip", families: raw, description: "address of the client, truncated by default"},
	{name: "protocol", families: raw, description: "protocol of the call"},
	{name: "grpc_status", families: raw, numeric: true, missing: -1, description: "gRPC status code"},
	{name: "attempts", families: raw, numeric: true, description: "attempts at the upstream"},
	{name: "cache", families: raw, description: "what the cache did"},
	{name: "flags", families: raw, internal: true, description: "response flags of the gateway"},
	{name: "zone", families: raw, internal: true, description: "zone of the gateway"},
	{name: "upstream_host", families: raw, internal: true, description: "upstream host that answered"},
}

var dimensionsByName = func() map[string]*dimension {
	byName := map[string]*dimension{}
	for _, d := range dimensions {
		if d.column == "" {
			d.column = d.name
		}
		byName[d.name] = d
	}
	return byName
}()

// An aggregate is what a table contributes to a metric. It merges, so that the
// parts of a range can come from different tables.
type aggregate struct {
	name     string
	merge    string // function that merges two of it
	families family
	raw      string // over rows of calls
	rollup   string // over rows of the other tables
}

const (
	serverError = "(status >= 500 OR fault IN ('gateway', 'upstream'))"
	clientError = "(status >= 400 AND status < 500 AND fault NOT IN ('gateway', 'upstream'))"
)

// Bucket 65535 holds the calls whose duration was not measured.
var (
	calls          = &aggregate{"calls", "sum", everywhere, "toInt64(count())", "sum(calls)"}
	errorCalls     = &aggregate{"errors", "sum", traffic | raw, "toInt64(countIf(" + serverError + "))", "sumIf(calls, " + serverError + ")"}
	clientErrors   = &aggregate{"client_errors", "sum", traffic | raw, "toInt64(countIf(" + clientError + "))", "sumIf(calls, " + clientError + ")"}
	deniedCalls    = &aggregate{"denied_calls", "sum", usage | raw, "toInt64(countIf(denied != ''))", "sumIf(calls, denied != '')"}
	requestBytes   = &aggregate{"request_bytes", "sum", everywhere, "sum(request_bytes)", "sum(request_bytes)"}
	responseBytes  = &aggregate{"response_bytes", "sum", everywhere, "sum(response_bytes)", "sum(response_bytes)"}
	totalTime      = &aggregate{"total_us", "sum", traffic | raw, "sumIf(total_us, total_us > 0)", "sum(total_us)"}
	upstreamTime   = &aggregate{"upstream_us", "sum", traffic | raw, "sumIf(upstream_us, upstream_us > 0)", "sum(upstream_us)"}
	totalMax       = &aggregate{"total_max_us", "max", traffic | raw, "maxOrNull(total_us)", "maxOrNull(total_max_us)"}
	upstreamMax    = &aggregate{"upstream_max_us", "max", raw, "maxOrNull(upstream_us)", ""}
	totalBuckets   = histogramOf("total")
	upstreamBucket = histogramOf("upstream")
)

func histogramOf(latency string) *aggregate {
	return &aggregate{
		name: latency + "_histogram", merge: "sumMap", families: traffic | raw,
		raw:    fmt.Sprintf("sumMapIf(map(%[1]s_bucket, toInt64(1)), %[1]s_bucket != 65535)", latency),
		rollup: fmt.Sprintf("sumMap(%s_histogram)", latency),
	}
}

// A metric is computed from aggregates.
type metric struct {
	name        string
	description string
	unit        string
	needs       []*aggregate
	// expression over the aggregates' names; %seconds% and %group% stand for
	// the length of the row's time and the window of its time bucket.
	expression string
}

func (m *metric) families() family {
	f := everywhere
	for _, a := range m.needs {
		f &= a.families
	}
	return f
}

// Units of metrics.
const (
	unitCalls        = "calls"
	unitRatio        = "ratio"
	unitBytes        = "bytes"
	unitMilliseconds = "ms"
	unitRate         = "calls/s"
)

var metrics = []*metric{
	{"calls", "number of calls", unitCalls, []*aggregate{calls}, "calls"},
	{"calls_per_second", "calls divided by the seconds of the range, or of the part of the time bucket that is in it, as far as they have passed", unitRate,
		[]*aggregate{calls}, "calls / %seconds%"},
	{"share", "fraction of all calls of the answer in the same time bucket, before the limit", unitRatio,
		[]*aggregate{calls}, "if(calls = 0, NULL, calls / sum(calls) OVER (%group%))"},
	{"errors", "calls that failed on the serving side: status 500 or above, or fault gateway or upstream", unitCalls,
		[]*aggregate{errorCalls}, "errors"},
	{"error_rate", "errors divided by calls", unitRatio, []*aggregate{errorCalls, calls}, "if(calls = 0, NULL, errors / calls)"},
	{"client_errors", "calls with status 400 to 499 that are not errors", unitCalls, []*aggregate{clientErrors}, "client_errors"},
	{"client_error_rate", "client_errors divided by calls", unitRatio, []*aggregate{clientErrors, calls}, "if(calls = 0, NULL, client_errors / calls)"},
	{"denied_calls", "calls denied by quota or authentication", unitCalls, []*aggregate{deniedCalls}, "denied_calls"},
	{"request_bytes", "bytes received from clients", unitBytes, []*aggregate{requestBytes}, "request_bytes"},
	{"response_bytes", "bytes sent to clients", unitBytes, []*aggregate{responseBytes}, "response_bytes"},
	{"bytes", "request_bytes plus response_bytes", unitBytes, []*aggregate{requestBytes, responseBytes}, "request_bytes + response_bytes"},
	average("latency_avg", "total duration", "total", totalTime, totalBuckets),
	{"latency_max", "longest total duration", unitMilliseconds, []*aggregate{totalMax},
		"if(total_max_us < 0, NULL, total_max_us / 1000)"},
	average("upstream_avg", "time that the upstream took to begin to answer", "upstream", upstreamTime, upstreamBucket),
	{"upstream_max", "longest time that the upstream took to begin to answer", unitMilliseconds, []*aggregate{upstreamMax},
		"if(upstream_max_us < 0, NULL, upstream_max_us / 1000)"},
}

func average(name, what, latency string, sum, histogram *aggregate) *metric {
	return &metric{name, "mean " + what + " of the calls for which it was measured", unitMilliseconds, []*aggregate{sum, histogram},
		fmt.Sprintf("if(arraySum(mapValues(%[1]s_histogram)) = 0, NULL, %[1]s_us / arraySum(mapValues(%[1]s_histogram)) / 1000)", latency)}
}

// commonPercentiles are the ones listed in documentation and completion; any
// other can be asked for.
var commonPercentiles = []string{"50", "90", "95", "99", "99.9"}

var metricsByName = func() map[string]*metric {
	byName := map[string]*metric{}
	for _, m := range metrics {
		byName[m.name] = m
	}
	return byName
}()

// findMetric is the metric of that name, or nil. Percentiles are made as they
// are asked for.
func findMetric(name string) *metric {
	if m, ok := metricsByName[name]; ok {
		return m
	}
	return percentile(name)
}

var percentilePattern = regexp.MustCompile(`^(latency_|upstream_)?p([0-9]{1,3})(?:\.([0-9]{1,4}))?$`)

// percentile makes the metric of "p99", "latency_p99" (the same) or
// "upstream_p99.9": nil where the name is not of that form or the percentile
// not in (0, 100].
//
// The definition is nearest rank: of n measured calls in ascending order, the
// one at position ceil(n*p/100), counted in whole numbers. What is reported is
// the middle of that call's histogram bucket, at most 1.1 % from its duration.
func percentile(name string) *metric {
	match := percentilePattern.FindStringSubmatch(name)
	if match == nil {
		return nil
	}
	numerator, denominator := 0, 100
	for _, digit := range match[2] + match[3] {
		numerator = numerator*10 + int(digit-'0')
	}
	for range match[3] {
		denominator *= 10
	}
	if numerator == 0 || numerator > denominator {
		return nil
	}
	latency, what, histogram := "total", "total duration", totalBuckets
	if match[1] == "upstream_" {
		latency, what, histogram = "upstream", "time that the upstream took to begin to answer", upstreamBucket
	}
	return &metric{
		name:        name,
		description: fmt.Sprintf("percentile %s of the %s by nearest rank, within 1.1 %%", strings.TrimLeft(name[strings.LastIndex(name, "p")+1:], "0"), what),
		unit:        unitMilliseconds,
		needs:       []*aggregate{histogram},
		expression:  quantileSQL(latency+"_histogram", numerator, denominator),
	}
}

// quantileSQL finds the bucket in which the cumulative count reaches the rank.
// sumMap returns its keys in ascending order.
func quantileSQL(histogram string, numerator, denominator int) string {
	rank := fmt.Sprintf("intDiv(arraySum(mapValues(%s)) * %d + %d, %d)", histogram, numerator, denominator-1, denominator)
	// A repair subtracts, so that a count can be zero: it never is the one at
	// which the rank is reached.
	bucket := fmt.Sprintf("mapKeys(%[1]s)[arrayFirstIndex(reached -> reached >= %[2]s, arrayCumSum(mapValues(%[1]s)))]", histogram, rank)
	// The arithmetic of call.BucketMiddle.
	return fmt.Sprintf("if(arraySum(mapValues(%[1]s)) = 0, NULL, if(%[2]s = 0, 1, exp2((toFloat64(%[2]s) - 0.5) / 32)) / 1000)", histogram, bucket)
}

// MetricNames are the names of all metrics, with the common percentiles, for
// help and completion.
func MetricNames() []string {
	var names []string
	for _, m := range listedMetrics() {
		names = append(names, m.name)
	}
	return names
}

func listedMetrics() []*metric {
	listed := slices.Clone(metrics)
	for _, prefix := range []string{"", "upstream_"} {
		for _, p := range commonPercentiles {
			listed = append(listed, percentile(prefix+"p"+p))
		}
	}
	return listed
}

// DimensionNames are the names of all dimensions, for help and completion.
func DimensionNames() []string {
	var names []string
	for _, d := range dimensions {
		names = append(names, d.name)
	}
	return names
}

// MetricUnit is the unit of a metric's numbers, empty for an unknown one.
func MetricUnit(name string) string {
	if m := findMetric(name); m != nil {
		return m.unit
	}
	return ""
}
