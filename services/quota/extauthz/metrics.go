package extauthz

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	decisions *prometheus.CounterVec
	failures  prometheus.Counter
	seconds   prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollway_extauthz_decisions_total", Help: "Calls that gateways asked about, by status (200: admitted) and reason of a refusal."}, []string{"status", "reason"}),
		failures:  prometheus.NewCounter(prometheus.CounterOpts{Name: "tollway_extauthz_failures_total", Help: "Checks that could not be decided, because the catalog or a token's keys were not there."}),
		seconds:   prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tollway_extauthz_decision_seconds", Help: "Time to decide.", Buckets: prometheus.ExponentialBuckets(5e-6, 2.5, 12)}),
	}
	reg.MustRegister(m.decisions, m.failures, m.seconds)
	return m
}

var statusText = map[int]string{200: "200", 401: "401", 403: "403"}

func (m *metrics) decided(d *decision, took time.Duration) {
	m.decisions.WithLabelValues(statusText[d.status], d.reason).Inc()
	m.seconds.Observe(took.Seconds())
}
