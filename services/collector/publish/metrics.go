package publish

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	acknowledged prometheus.Counter
	failed       prometheus.Counter
	batches      prometheus.Counter
	bytes        prometheus.Counter
	busy         prometheus.Counter
	stopped      prometheus.Counter
	errors       prometheus.Counter
	produce      prometheus.Histogram
}

func (p *Publisher) register(reg prometheus.Registerer) {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "tollway_publish_" + name, Help: help})
		reg.MustRegister(c)
		return c
	}
	rejected := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tollway_publish_calls_rejected_total",
		Help: "Calls not taken, by reason: busy (memory bound reached), stopped.",
	}, []string{"reason"})
	p.metrics = metrics{
		acknowledged: counter("calls_acknowledged_total", "Calls acknowledged by the log."),
		failed:       counter("calls_failed_total", "Calls whose batch was given up; their sources were told."),
		batches:      counter("batches_total", "Messages acknowledged by the log."),
		bytes:        counter("bytes_total", "Encoded bytes acknowledged by the log."),
		errors:       counter("produce_errors_total", "Attempts to produce that failed and were retried."),
		busy:         rejected.WithLabelValues("busy"),
		stopped:      rejected.WithLabelValues("stopped"),
		produce: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "tollway_publish_produce_seconds",
			Help:    "Duration of one produce request, failed ones included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}),
	}
	reg.MustRegister(rejected, p.metrics.produce,
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "tollway_publish_calls_in_total", Help: "Calls taken from sources.",
		}, func() float64 { return float64(p.callsIn()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tollway_publish_in_flight_bytes", Help: "Bytes of open batches and of those not acknowledged.",
		}, func() float64 { return float64(p.held.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tollway_publish_oldest_unacknowledged_seconds", Help: "Age of the oldest batch that is not acknowledged.",
		}, func() float64 { return p.Oldest().Seconds() }),
	)
}
