package ledger

import (
	"database/sql"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	transactions *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	retries      prometheus.Counter
	connections  prometheus.GaugeFunc
}

func newMetrics(writer, reader *sql.DB) *metrics {
	return &metrics{
		transactions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollway_ledger_transactions_total",
			Help: "Transactions on the ledger database by mode (read, write) and outcome (done, refused, failed).",
		}, []string{"mode", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tollway_ledger_transaction_seconds",
			Help:    "Time of a transaction with all its attempts.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}, []string{"mode"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tollway_ledger_retries_total",
			Help: "Transactions that were run again because they lost against another one.",
		}),
		connections: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tollway_ledger_connections_in_use",
			Help: "Connections to the ledger database that a transaction uses.",
		}, func() float64 {
			inUse := reader.Stats().InUse
			if writer != reader {
				inUse += writer.Stats().InUse
			}
			return float64(inUse)
		}),
	}
}

func (m *metrics) observe(mode string, err error, took time.Duration) {
	outcome := "done"
	var refused *ConstraintError
	switch {
	case err == nil:
	case errors.As(err, &refused), errors.Is(err, ErrNotFound):
		outcome = "refused"
	default:
		outcome = "failed"
	}
	m.transactions.WithLabelValues(mode, outcome).Inc()
	m.duration.WithLabelValues(mode).Observe(took.Seconds())
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.transactions, m.duration, m.retries, m.connections}
}

// Describe makes a DB a prometheus.Collector, to be registered by its owner.
func (db *DB) Describe(out chan<- *prometheus.Desc) {
	for _, c := range db.metrics.all() {
		c.Describe(out)
	}
}

// Collect is the other half of prometheus.Collector.
func (db *DB) Collect(out chan<- prometheus.Metric) {
	for _, c := range db.metrics.all() {
		c.Collect(out)
	}
}
