package reports

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	reportsv1 "github.com/tollway/tollway/schemas/proto/tollway/reports/v1"
	"github.com/tollway/tollway/services/platform/clickhouse"
)

// BenchmarkQuery asks typical questions about two million calls of one day.
func BenchmarkQuery(b *testing.B) {
	f := newFixture(b, DefaultConfig())
	err := f.db.Exec(b.Context(), `INSERT INTO calls (id, time, received_at, source, product, api, operation, method, status, fault, upstream, version, region, account, host,
    total_us, upstream_us, total_bucket, upstream_bucket, request_bytes, response_bytes)
SELECT toFixedString(unhex(hex(sipHash128(number))), 16), fromUnixTimestamp64Micro({from:Int64} + number * 43200, 'UTC') AS time, time, 'edge',
    concat('product', toString(number % 5)), concat('api', toString(number % 20)), concat('operation', toString(number % 100)), 'GET',
    if(number % 50 = 0, 503, 200), if(number % 50 = 0, 'upstream', 'none'), concat('upstream', toString(number % 10)), concat('v', toString(number % 10 < 9)), 'eu',
    concat('account', toString(number % 500)), concat('host', toString(number % 30)),
    toInt64(exp(randNormal(9, 1))) AS total, intDiv(total, 2), toUInt16(ceil(log2(total) * 32)), toUInt16(ceil(log2(intDiv(total, 2)) * 32)), 200, 2000
FROM numbers(2000000)`,
		map[string]any{"from": dayStart.UnixMicro()}, clickhouse.WithSettings(map[string]any{"async_insert": 0}))
	if err != nil {
		b.Fatal(err)
	}
	edges := &reportsv1.TimeRange{
		StartTime: timestamppb.New(dayStart.Add(10 * time.Second)),
		EndTime:   timestamppb.New(dayStart.Add(24*time.Hour - 10*time.Second)),
	}
	for name, request := range map[string]*reportsv1.QueryRequest{
		"day_total":          {Metrics: []string{"calls", "error_rate", "p50", "p99"}, TimeRange: dayRange},
		"day_edges":          {Metrics: []string{"calls", "error_rate", "p50", "p99"}, Dimensions: []string{"product"}, TimeRange: edges},
		"hours_by_operation": {Metrics: []string{"calls", "p99"}, Dimensions: []string{"operation"}, Granularity: "hour", TimeRange: dayRange, Limit: 10000},
		"account_usage":      {Metrics: []string{"calls", "bytes"}, Dimensions: []string{"account"}, TimeRange: dayRange},
		"raw_by_host":        {Metrics: []string{"calls", "p99"}, Dimensions: []string{"host"}, TimeRange: dayRange},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := f.Query(b.Context(), request); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
