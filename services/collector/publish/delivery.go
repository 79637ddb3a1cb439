package publish

import (
	"context"
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Delivery is the receipt of a source: it knows which of the batches that hold
// the source's calls are still to be acknowledged. It is safe for concurrent
// use, and can be used again after a Wait that returned nil.
type Delivery struct {
	mu      sync.Mutex
	pending int           // batches that are not acknowledged
	waiters int           // Waits under way: their batches are urgent
	err     error         // first batch that could not be produced
	done    chan struct{} // closed when pending reaches 0; nil without waiters
	batches []membership  // by partition: the last batch that was joined

	acknowledged, failed prometheus.Counter // of calls; nil when the source counts by itself
}

type membership struct {
	partition *partition
	batch     uint64
}

// NewDelivery makes a receipt for nothing yet.
func NewDelivery() *Delivery { return &Delivery{} }

// NewTally makes the receipt of sources that cannot be told: nobody waits for
// it, and it counts the calls that the log has acknowledged and those that
// could not be produced.
func NewTally(acknowledged, failed prometheus.Counter) *Delivery {
	return &Delivery{acknowledged: acknowledged, failed: failed}
}

// join notes that batch of p holds a call of d. It reports whether this is the
// first such call, and whether somebody waits for d already.
func (d *Delivery) join(p *partition, batch uint64) (first, urgent bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.batches) <= p.index {
		d.batches = append(d.batches, membership{})
	}
	m := &d.batches[p.index]
	if m.partition == p && m.batch == batch {
		return false, d.waiters > 0
	}
	*m = membership{partition: p, batch: batch}
	d.pending++
	return true, d.waiters > 0
}

// resolve is called once for every batch that d joined, with how many of its
// calls are d's.
func (d *Delivery) resolve(calls int, err error) {
	switch {
	case d.acknowledged == nil:
	case err == nil:
		d.acknowledged.Add(float64(calls))
	default:
		d.failed.Add(float64(calls))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil && d.err == nil {
		d.err = err
	}
	d.pending--
	if d.pending == 0 && d.done != nil {
		close(d.done)
		d.done = nil
	}
}

// Wait returns nil once every call appended with d so far is acknowledged by
// the log, or the error of a batch that could not be produced. When ctx ends
// first the fate of the calls is open: they may still arrive.
func (d *Delivery) Wait(ctx context.Context) error {
	d.mu.Lock()
	if d.pending == 0 {
		err := d.err
		d.mu.Unlock()
		return err
	}
	if d.done == nil {
		d.done = make(chan struct{})
	}
	done := d.done
	d.waiters++
	// A batch joined from here on sees waiters > 0; those joined before are
	// hurried below.
	joined := append([]membership(nil), d.batches...)
	d.mu.Unlock()

	for _, m := range joined {
		if m.partition != nil {
			m.partition.hurry(m.batch)
		}
	}

	var ended error
	select {
	case <-done:
	case <-ctx.Done():
		ended = fmt.Errorf("wait for the log: %w", context.Cause(ctx))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiters--
	if ended != nil {
		return ended
	}
	return d.err
}
