package publish

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/platform/kafkaio"
)

// batch is calls for one partition, open or on their way.
type batch struct {
	number  uint64
	rows    *call.Batch
	shares  []share // of each delivery one
	last    int     // share of the last call: runs of one source are common
	opened  time.Time
	due     time.Time
	held    int64  // bytes this batch counts for in Publisher.held
	encoded []byte // set once it is sealed and encoded
	count   int    // rows, still known when rows is given back
}

// share is how many calls of a batch belong to a delivery.
type share struct {
	delivery *Delivery
	calls    int
}

// partition is the lane of one partition: one open batch, the sealed ones
// behind it in order, and one goroutine that sends them.
type partition struct {
	index int
	pub   *Publisher
	wake  chan struct{} // something is due sooner than the loop believes

	mu     sync.Mutex
	number uint64
	open   *batch
	sealed []*batch
	in     uint64
	oldest time.Time // opened time of the oldest batch being produced; zero without
}

// append copies c into the open batch.
func (p *partition) append(d *Delivery, c *call.Call) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pub.stopped.Load() {
		return ErrStopped
	}
	b := p.open
	if b == nil {
		b = p.begin()
	}
	before := b.rows.Size()
	b.rows.Append(c)
	grown := int64(b.rows.Size() - before)
	b.held += grown
	p.pub.held.Add(grown)
	p.in++
	if d != nil {
		if len(b.shares) == 0 || b.shares[b.last].delivery != d {
			p.join(b, d)
		}
		b.shares[b.last].calls++
	}
	if b.rows.Rows() >= p.pub.cfg.FlushRows || b.rows.Size() >= p.pub.cfg.FlushBytes {
		p.seal()
		p.poke()
	}
	return nil
}

func (p *partition) begin() *batch {
	b := p.pub.take()
	p.number++
	b.number = p.number
	b.opened = p.pub.clock()
	b.due = b.opened.Add(p.pub.cfg.FlushInterval)
	p.open = b
	p.poke()
	return b
}

// join makes the share of d the last one.
func (p *partition) join(b *batch, d *Delivery) {
	first, urgent := d.join(p, b.number)
	if first {
		b.shares = append(b.shares, share{delivery: d})
		b.last = len(b.shares) - 1
	} else {
		b.last = slices.IndexFunc(b.shares, func(s share) bool { return s.delivery == d })
	}
	if urgent {
		p.bring(b)
	}
}

// hurry makes the numbered batch due soon, if it is still open.
func (p *partition) hurry(number uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open != nil && p.open.number == number {
		p.bring(p.open)
	}
}

func (p *partition) bring(b *batch) {
	if due := p.pub.clock().Add(p.pub.cfg.AckLinger); due.Before(b.due) {
		b.due = due
		p.poke()
	}
}

func (p *partition) seal() {
	if p.open != nil {
		p.sealed = append(p.sealed, p.open)
		p.open = nil
	}
}

func (p *partition) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run sends batches until stop ends and nothing is left, or abort ends.
func (p *partition) run(stop, abort context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		stopping := stop.Err() != nil
		ready, wait := p.ready(stopping)
		if len(ready) > 0 {
			p.send(abort, ready)
			continue
		}
		if stopping {
			return
		}
		timer.Reset(wait)
		select {
		case <-p.wake:
		case <-timer.C:
		case <-stop.Done():
		}
	}
}

// ready takes the batches of the next produce. Without one it says how long to
// sleep.
func (p *partition) ready(stopping bool) ([]*batch, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait := time.Hour
	if p.open != nil {
		wait = p.open.due.Sub(p.pub.clock())
		if wait <= 0 || stopping {
			p.seal()
		}
	}
	if len(p.sealed) == 0 {
		return nil, max(wait, time.Millisecond/10)
	}
	n, size := 0, int64(0)
	for n < len(p.sealed) && (n == 0 || size+p.sealed[n].held <= int64(p.pub.cfg.MaxProduceBytes)) {
		size += p.sealed[n].held
		n++
	}
	taken := append(make([]*batch, 0, n), p.sealed[:n]...)
	rest := copy(p.sealed, p.sealed[n:])
	clear(p.sealed[rest:])
	p.sealed = p.sealed[:rest]
	p.oldest = taken[0].opened
	return taken, 0
}

// send encodes the batches and produces them until the log has them.
func (p *partition) send(ctx context.Context, batches []*batch) {
	messages := make([]Message, 0, len(batches))
	kept := batches[:0]
	for _, b := range batches {
		if err := p.encode(b); err != nil {
			p.pub.logger.Error().Err(err).Int("partition", p.index).Int("rows", b.count).Msg("batch cannot be encoded")
			p.finish(b, err, false)
			continue
		}
		messages = append(messages, Message{Value: b.encoded, Headers: p.pub.headers})
		kept = append(kept, b)
	}
	attempts, err := p.produce(ctx, messages)
	tooLarge := errors.Is(err, kafkaio.ErrMessageTooLarge)
	for i, b := range kept {
		if tooLarge {
			err = p.split(ctx, messages[i])
		}
		// After a failed attempt the client may still be writing from the
		// buffer in the background, so it is not used again.
		p.finish(b, err, err == nil && attempts == 1)
	}
	p.mu.Lock()
	p.oldest = time.Time{}
	p.mu.Unlock()
}

// split produces a message by itself, and in halves if the broker finds it too
// large. Only a call that is too large alone cannot be produced.
func (p *partition) split(ctx context.Context, m Message) error {
	_, err := p.produce(ctx, []Message{m})
	if !errors.Is(err, kafkaio.ErrMessageTooLarge) {
		return err
	}
	for half := range 2 {
		rows := call.NewBatch()
		n, err := rows.AppendMessage(m.Value, 0)
		if err != nil {
			return err
		}
		if n < 2 {
			return fmt.Errorf("one call is too large for the log: %w", kafkaio.ErrMessageTooLarge)
		}
		keep := make([]bool, n)
		for i := range keep {
			keep[i] = (i < n/2) == (half == 0)
		}
		rows.Keep(keep)
		value, err := p.pub.encode(nil, rows)
		if err != nil {
			return err
		}
		if err := p.split(ctx, Message{Value: value, Headers: m.Headers}); err != nil {
			return err
		}
	}
	return nil
}

// encode turns the rows into the message and gives their memory back at once.
func (p *partition) encode(b *batch) error {
	var err error
	b.count = b.rows.Rows()
	b.encoded, err = p.pub.encode(b.encoded[:0], b.rows)
	if err != nil {
		return err
	}
	p.pub.recount(b, int64(len(b.encoded)))
	p.pub.giveRows(b.rows)
	b.rows = nil
	return nil
}

// produce tries until the log has acknowledged, ctx ends, or a message is too
// large for the log, which trying again would not change.
func (p *partition) produce(ctx context.Context, messages []Message) (attempts int, err error) {
	if len(messages) == 0 {
		return 0, nil
	}
	backoff := p.pub.cfg.RetryMin
	for {
		attempts++
		err := p.attempt(ctx, messages)
		if err == nil {
			return attempts, nil
		}
		if errors.Is(err, kafkaio.ErrMessageTooLarge) {
			return attempts, err
		}
		if ctx.Err() != nil {
			return attempts, errors.Join(ErrStopped, err)
		}
		p.pub.metrics.errors.Inc()
		p.pub.sampled.Warn().Err(err).Int("partition", p.index).Int("attempt", attempts).Msg("produce; will be tried again")
		timer := time.NewTimer(backoff/2 + rand.N(backoff/2+1))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return attempts, errors.Join(ErrStopped, err)
		}
		backoff = min(2*backoff, p.pub.cfg.RetryMax)
	}
}

func (p *partition) attempt(ctx context.Context, messages []Message) error {
	ctx, cancel := context.WithTimeout(ctx, p.pub.cfg.ProduceTimeout)
	defer cancel()
	start := time.Now()
	err := p.pub.log.Produce(ctx, p.pub.cfg.Topic, p.index, messages)
	p.pub.metrics.produce.Observe(time.Since(start).Seconds())
	return err
}

// finish tells the sources, frees the memory and keeps the batch for reuse.
func (p *partition) finish(b *batch, err error, reuse bool) {
	m := &p.pub.metrics
	if err == nil {
		m.acknowledged.Add(float64(b.count))
		m.batches.Inc()
		m.bytes.Add(float64(len(b.encoded)))
	} else {
		m.failed.Add(float64(b.count))
	}
	for _, s := range b.shares {
		s.delivery.resolve(s.calls, err)
	}
	p.pub.recount(b, 0)
	if !reuse {
		b.encoded = nil
	}
	p.pub.give(b)
}
