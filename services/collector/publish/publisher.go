package publish

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/tollway/tollway/pipelines/call"
)

// ErrBusy says that as much is held as may be: try again later.
var ErrBusy = errors.New("too much is waiting for the log")

// ErrStopped says that the publisher is stopping or has stopped.
var ErrStopped = errors.New("the publisher has stopped")

// Log appends messages to one partition of a topic, in order, and returns nil
// once they are acknowledged by all in-sync replicas.
type Log interface {
	Produce(ctx context.Context, topic string, partition int, messages []Message) error
}

// Publisher gathers calls into messages and sends them.
type Publisher struct {
	cfg        Config
	log        Log
	clock      func() time.Time
	logger     zerolog.Logger
	sampled    zerolog.Logger // for what repeats while the log is away
	metrics    metrics
	headers    []Header
	encode     func(dst []byte, b *call.Batch) ([]byte, error)
	partitions []*partition

	held    atomic.Int64
	stopped atomic.Bool

	freeMu   sync.Mutex
	free     []*batch
	freeRows []*call.Batch

	room room
}

// New makes a publisher for a topic of so many partitions.
func New(cfg Config, partitions int, log Log, clock func() time.Time, reg prometheus.Registerer, logger zerolog.Logger) *Publisher {
	p := &Publisher{
		cfg:    cfg,
		log:    log,
		clock:  clock,
		logger: logger,
		sampled: logger.Sample(&zerolog.BurstSampler{
			Burst: 3, Period: 10 * time.Second,
		}),
		headers: []Header{
			{Key: call.ContentTypeHeader, Value: []byte(call.ContentType)},
			{Key: call.SchemaHeader, Value: []byte(call.SchemaFingerprint())},
		},
		encode: call.Encode,
	}
	p.partitions = make([]*partition, partitions)
	for i := range p.partitions {
		p.partitions[i] = &partition{index: i, pub: p, wake: make(chan struct{}, 1)}
	}
	p.register(reg)
	return p
}

// Run sends batches until ctx ends, then takes no more calls, sends what is
// held and waits for the log up to StopTimeout. What is left then is reported
// as failed to its sources.
func (p *Publisher) Run(ctx context.Context) error {
	abort, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	// Batches are sent after the last Append only if that one saw stopped
	// unset under its lane's lock; the lanes look again after the flag is set.
	stop, flush := context.WithCancel(context.Background())
	defer flush()

	var lanes sync.WaitGroup
	for _, lane := range p.partitions {
		lanes.Go(func() { lane.run(stop, abort) })
	}
	<-ctx.Done()
	p.stopped.Store(true)
	p.room.open()
	flush()
	timer := time.AfterFunc(p.cfg.StopTimeout, cancel)
	defer timer.Stop()
	lanes.Wait()
	if abort.Err() != nil {
		return errors.New("stop: the log did not acknowledge everything in time; the sources were told")
	}
	return nil
}

// Append copies c into the open batch of its partition; d learns of its
// acknowledgement, and is nil where nobody can be told. It returns ErrBusy when
// the memory bound is reached, and never blocks for long.
func (p *Publisher) Append(d *Delivery, c *call.Call) error {
	if p.held.Load() >= p.cfg.MaxInFlightBytes {
		p.metrics.busy.Inc()
		return ErrBusy
	}
	return p.append(d, c)
}

// AppendWait is Append that waits for room until ctx ends: back-pressure for
// sources that can be held up.
func (p *Publisher) AppendWait(ctx context.Context, d *Delivery, c *call.Call) error {
	for p.held.Load() >= p.cfg.MaxInFlightBytes && !p.stopped.Load() {
		wait := p.room.wait()
		// Looked at again after the channel is there, so that room made in
		// between is not missed.
		if p.held.Load() < p.cfg.MaxInFlightBytes || p.stopped.Load() {
			break
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return p.append(d, c)
}

func (p *Publisher) append(d *Delivery, c *call.Call) error {
	err := p.partitions[c.ID.Partition(len(p.partitions))].append(d, c)
	if err != nil {
		p.metrics.stopped.Inc()
	}
	return err
}

// recount sets what b counts for, and wakes those who wait for room.
func (p *Publisher) recount(b *batch, bytes int64) {
	freed := b.held - bytes
	b.held = bytes
	if p.held.Add(-freed) < p.cfg.MaxInFlightBytes {
		p.room.open()
	}
}

// take gets an empty batch, used before if there is one.
func (p *Publisher) take() *batch {
	p.freeMu.Lock()
	defer p.freeMu.Unlock()
	b := pop(&p.free)
	if b == nil {
		b = &batch{}
	}
	if b.rows = pop(&p.freeRows); b.rows == nil {
		b.rows = call.NewBatch()
	}
	return b
}

func pop[T any](free *[]*T) *T {
	n := len(*free)
	if n == 0 {
		return nil
	}
	v := (*free)[n-1]
	*free = (*free)[:n-1]
	return v
}

// give keeps b for reuse. No more are kept than are usually in use, so a burst
// does not pin its memory.
func (p *Publisher) give(b *batch) {
	if b.rows != nil {
		p.giveRows(b.rows)
	}
	clear(b.shares)
	*b = batch{encoded: b.encoded[:0], shares: b.shares[:0]}
	p.freeMu.Lock()
	defer p.freeMu.Unlock()
	if len(p.free) < 2*len(p.partitions) {
		p.free = append(p.free, b)
	}
}

func (p *Publisher) giveRows(rows *call.Batch) {
	rows.Reset()
	p.freeMu.Lock()
	defer p.freeMu.Unlock()
	if len(p.freeRows) < 2*len(p.partitions) {
		p.freeRows = append(p.freeRows, rows)
	}
}

func (p *Publisher) callsIn() uint64 {
	var n uint64
	for _, lane := range p.partitions {
		lane.mu.Lock()
		n += lane.in
		lane.mu.Unlock()
	}
	return n
}

// Oldest is the age of the oldest batch that is not acknowledged.
func (p *Publisher) Oldest() time.Duration {
	now := p.clock()
	oldest := now
	for _, lane := range p.partitions {
		lane.mu.Lock()
		if !lane.oldest.IsZero() && lane.oldest.Before(oldest) {
			oldest = lane.oldest
		}
		if len(lane.sealed) > 0 && lane.sealed[0].opened.Before(oldest) {
			oldest = lane.sealed[0].opened
		}
		if lane.open != nil && lane.open.opened.Before(oldest) {
			oldest = lane.open.opened
		}
		lane.mu.Unlock()
	}
	return now.Sub(oldest)
}

// room wakes everybody who waits for memory to become free.
type room struct {
	mu sync.Mutex
	ch chan struct{} // nil while nobody waits
}

func (r *room) wait() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ch == nil {
		r.ch = make(chan struct{})
	}
	return r.ch
}

func (r *room) open() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ch != nil {
		close(r.ch)
		r.ch = nil
	}
}
