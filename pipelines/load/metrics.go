package load

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	stored        prometheus.Counter
	discarded     *prometheus.CounterVec
	capped        *prometheus.CounterVec
	inserts       prometheus.Counter
	insertSeconds prometheus.Histogram
	lookups       prometheus.Counter
	recoveries    prometheus.Counter
	repairs       *prometheus.CounterVec
	retries       *prometheus.CounterVec
	failing       *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		stored:        prometheus.NewCounter(prometheus.CounterOpts{Name: "tollway_load_calls_stored_total", Help: "Calls stored in ClickHouse."}),
		discarded:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollway_load_calls_discarded_total", Help: "Calls not stored, by fate and reason; each is in the table discards."}, []string{"fate", "reason"}),
		capped:        prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollway_load_values_capped_total", Help: "Values that became (other) because their column has too many."}, []string{"column"}),
		inserts:       prometheus.NewCounter(prometheus.CounterOpts{Name: "tollway_load_inserts_total", Help: "Inserts of calls that succeeded."}),
		insertSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tollway_load_insert_seconds", Help: "Time of one attempt to insert calls.", Buckets: prometheus.ExponentialBuckets(0.005, 2, 14)}),
		lookups:       prometheus.NewCounter(prometheus.CounterOpts{Name: "tollway_load_lookups_total", Help: "Calls looked up in ClickHouse because they start before what is remembered."}),
		recoveries:    prometheus.NewCounter(prometheus.CounterOpts{Name: "tollway_load_recoveries_total", Help: "Ranges that were read back after an interruption."}),
		repairs:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollway_load_repairs_total", Help: "Repairs after an interruption, by table."}, []string{"table"}),
		retries:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollway_load_retries_total", Help: "Failed attempts, by what was attempted."}, []string{"operation"}),
		failing:       prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tollway_load_partition_failing", Help: "1 while the partition's last attempt at ClickHouse failed."}, []string{"partition"}),
	}
	reg.MustRegister(m.stored, m.discarded, m.capped, m.inserts, m.insertSeconds, m.lookups, m.recoveries, m.repairs, m.retries, m.failing)
	return m
}

func label(partition int32) string { return strconv.Itoa(int(partition)) }
