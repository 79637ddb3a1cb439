package als

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollway/tollway/services/collector/publish"
)

type metrics struct {
	calls    *publish.Counters
	skipped  *prometheus.CounterVec // type
	fields   *prometheus.CounterVec // reason, field
	messages prometheus.Counter
	bytes    prometheus.Counter
	open     prometheus.Gauge
	opened   prometheus.Counter
	closed   *prometheus.CounterVec // cause
	last     *prometheus.GaugeVec   // node

	mu       sync.Mutex
	maxNodes int
	nodes    map[string]prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, maxNodes int) *metrics {
	m := &metrics{
		calls: publish.NewCounters(reg, "als"),
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollway_als_entries_skipped_total",
			Help: "Entries that are no calls, such as those of a call that goes on, by type."}, []string{"type"}),
		fields: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollway_als_entries_rejected_total",
			Help: "Entries refused, by reason and field."}, []string{"reason", "field"}),
		messages: prometheus.NewCounter(prometheus.CounterOpts{Name: "tollway_als_messages_total",
			Help: "Messages received."}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{Name: "tollway_als_message_bytes_total",
			Help: "Bytes of the messages received."}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollway_als_open_streams",
			Help: "Streams that are open; an Envoy has one per worker thread."}),
		opened: prometheus.NewCounter(prometheus.CounterOpts{Name: "tollway_als_streams_total",
			Help: "Streams ever opened."}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollway_als_streams_closed_total",
			Help: "Streams closed, by cause. A stream that broke may have lost what was on its way."}, []string{"cause"}),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tollway_als_node_last_entry_timestamp_seconds",
			Help: "When the last entry of an Envoy came, in seconds since 1970."}, []string{"node"}),
		maxNodes: maxNodes,
		nodes:    map[string]prometheus.Gauge{},
	}
	reg.MustRegister(m.skipped, m.fields, m.messages, m.bytes, m.open, m.opened, m.closed, m.last)
	return m
}

// node is the gauge of an Envoy, shared when there are too many.
func (m *metrics) node(id string) prometheus.Gauge {
	m.mu.Lock()
	defer m.mu.Unlock()
	if g, ok := m.nodes[id]; ok {
		return g
	}
	if len(m.nodes) >= m.maxNodes {
		return m.last.WithLabelValues("other")
	}
	g := m.last.WithLabelValues(id)
	m.nodes[id] = g
	return g
}
