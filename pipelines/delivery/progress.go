package delivery

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollway/tollway/services/platform/kafkaio"
)

func (p *partition) label() string { return strconv.Itoa(int(p.number)) }

// observe notes how far the log goes.
func (p *partition) observe(res kafkaio.FetchResult) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.high = res.HighWatermark
	p.showLag()
	if p.lag == 0 {
		p.progress = time.Now()
	}
}

// stored notes that everything below offset is stored.
func (p *partition) stored(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.progress = time.Now()
	p.low = offset
	p.showLag()
	p.metrics.offset.WithLabelValues(p.label()).Set(float64(offset))
}

func (p *partition) showLag() {
	p.lag = max(p.high-p.low, 0)
	p.metrics.lag.WithLabelValues(p.label()).Set(float64(p.lag))
}

func (p *partition) stop(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = err
	p.metrics.stopped.WithLabelValues(p.label()).Set(1)
}

func (p *partition) ready(now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped != nil {
		return fmt.Errorf("partition %d: %w", p.number, p.stopped)
	}
	if p.lag > 0 && now.Sub(p.progress) > p.cfg.StallTimeout {
		return fmt.Errorf("partition %d has %d messages to go and has made no progress for %s", p.number, p.lag, now.Sub(p.progress).Round(time.Second))
	}
	return nil
}

type metrics struct {
	lag         *prometheus.GaugeVec
	pending     *prometheus.GaugeVec
	offset      *prometheus.GaugeVec
	stopped     *prometheus.GaugeVec
	commits     prometheus.Counter
	deadLetters prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		lag:         prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tollway_delivery_lag_messages", Help: "Messages in the log that are not stored yet."}, []string{"partition"}),
		pending:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tollway_delivery_pending_rows", Help: "Calls that are promised to be stored and not yet committed as done."}, []string{"partition"}),
		offset:      prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tollway_delivery_stored_offset", Help: "Offset below which everything is stored."}, []string{"partition"}),
		stopped:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tollway_delivery_partition_stopped", Help: "1 when the partition waits for an operator."}, []string{"partition"}),
		commits:     prometheus.NewCounter(prometheus.CounterOpts{Name: "tollway_delivery_commits_total", Help: "Offset commits."}),
		deadLetters: prometheus.NewCounter(prometheus.CounterOpts{Name: "tollway_delivery_dead_letters_total", Help: "Messages that could not be read."}),
	}
	reg.MustRegister(m.lag, m.pending, m.offset, m.stopped, m.commits, m.deadLetters)
	return m
}

func (m *metrics) forget(partition int32) {
	for _, g := range []*prometheus.GaugeVec{m.lag, m.pending, m.offset, m.stopped} {
		g.DeleteLabelValues(strconv.Itoa(int(partition)))
	}
}
