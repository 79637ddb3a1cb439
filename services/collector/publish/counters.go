package publish

import (
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Counters counts the calls of one kind of source: what came in, what the log
// has acknowledged, and what was refused and why. Every kind counts under the
// same three names, so that "in = out + rejected" can be asked of all at once.
type Counters struct {
	In, Out, Duplicates prometheus.Counter

	rejected *prometheus.CounterVec
	kind     string
	mu       sync.Mutex
	reasons  map[string]prometheus.Counter
}

// NewCounters registers, or joins, the counters of a kind of source such as
// "events" or "file".
func NewCounters(reg prometheus.Registerer, kind string) *Counters {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return join(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollway_collector_" + name, Help: help}, labels))
	}
	return &Counters{
		In:         vec("calls_in_total", "Calls that sources sent.", "source_kind").WithLabelValues(kind),
		Out:        vec("calls_out_total", "Calls that the log has acknowledged.", "source_kind").WithLabelValues(kind),
		Duplicates: vec("calls_duplicate_total", "Calls that were in one request twice.", "source_kind").WithLabelValues(kind),
		rejected:   vec("calls_rejected_total", "Calls refused, by reason.", "source_kind", "reason"),
		kind:       kind,
		reasons:    map[string]prometheus.Counter{},
	}
}

func join(reg prometheus.Registerer, vec *prometheus.CounterVec) *prometheus.CounterVec {
	err := reg.Register(vec)
	if registered := (prometheus.AlreadyRegisteredError{}); errors.As(err, &registered) {
		if old, ok := registered.ExistingCollector.(*prometheus.CounterVec); ok {
			return old
		}
	}
	return vec
}

// Rejected is the counter of a reason; reasons are few and fixed.
func (c *Counters) Rejected(reason string) prometheus.Counter {
	c.mu.Lock()
	defer c.mu.Unlock()
	counter, ok := c.reasons[reason]
	if !ok {
		counter = c.rejected.WithLabelValues(c.kind, reason)
		c.reasons[reason] = counter
	}
	return counter
}
