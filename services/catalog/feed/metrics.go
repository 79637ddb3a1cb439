package feed

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	records      *prometheus.CounterVec
	unreadable   prometheus.Gauge
	problems     prometheus.Gauge
	restarts     prometheus.Counter
	lastFetch    prometheus.Gauge
	buildSeconds prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, version func() float64) *metrics {
	m := &metrics{
		records:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollway_feed_records_total", Help: "Records of the catalog that were read, by what became of them: applied, older, unreadable."}, []string{"outcome"}),
		unreadable:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollway_feed_unreadable_records", Help: "Names in the catalog whose newest record cannot be read; what was known before stays in use."}),
		problems:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollway_feed_unmatched_operations", Help: "Operations of the catalog that calls cannot be matched with."}),
		restarts:     prometheus.NewCounter(prometheus.CounterOpts{Name: "tollway_feed_restarts_total", Help: "How often the topic was read again from its beginning."}),
		lastFetch:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollway_feed_last_fetch_timestamp_seconds", Help: "When the topic was last read from; it grows twice a second while the log answers."}),
		buildSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tollway_feed_build_seconds", Help: "Time to make a snapshot.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 12)}),
	}
	reg.MustRegister(m.records, m.unreadable, m.problems, m.restarts, m.lastFetch, m.buildSeconds,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tollway_feed_version", Help: "The highest sequence of a change in the snapshot."}, version))
	return m
}
