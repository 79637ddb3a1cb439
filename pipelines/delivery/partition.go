package delivery

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/pipelines/load"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/seam"
)

// partition is the ownership of one partition during one generation.
type partition struct {
	*Consumer
	number int32
	gen    kafkaio.Generation
	store  Store

	// committed is when the coordinator last said that this member owns the
	// partition, on the clock that goes on while a process is stopped.
	committed time.Time

	mu       sync.Mutex
	stopped  error     // why the partition does not go on, until an operator acts
	progress time.Time // when a range was last stored, or there was nothing to do
	low      int64     // everything below is stored
	high     int64     // the end of the log
	lag      int64     // messages beyond what is stored
}

// run owns the partition until gctx ends. An error that another attempt may
// mend leads to one.
func (p *partition) run(gctx context.Context) {
	log := p.log.With().Int32("partition", p.number).Logger()
	pause := 200 * time.Millisecond
	for gctx.Err() == nil {
		err := p.consume(gctx)
		switch {
		case gctx.Err() != nil:
			return
		case errors.Is(err, kafkaio.ErrFenced):
			log.Info().Msg("fenced: the partition has another owner")
			<-gctx.Done()
			return
		case errors.Is(err, errStop):
			log.Error().Err(err).Msg("partition stopped; see `tollway events resume --help`")
			p.stop(err)
			<-gctx.Done()
			return
		}
		log.Error().Err(err).Msg("consume: beginning again")
		select {
		case <-gctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, 10*time.Second)
	}
}

// errStop is wrapped by errors after which going on would lose or double
// calls.
var errStop = errors.New("an operator has to decide")

func (p *partition) consume(gctx context.Context) error {
	p.store = p.open(p.number)
	offset, st, err := p.start(gctx)
	if err != nil {
		return err
	}
	if st.pending {
		if err := p.replay(gctx, st); err != nil {
			return err
		}
		offset = st.to
		if err := p.commit(gctx, offset, state{epoch: st.epoch}); err != nil {
			return err
		}
	}
	if err := p.store.Warm(gctx, time.Now()); err != nil {
		return err
	}
	p.stored(offset)
	return p.steady(gctx, offset, st.epoch)
}

// start finds out where the partition continues.
func (p *partition) start(ctx context.Context) (int64, state, error) {
	found, err := p.client.FetchOffsets(ctx, p.cfg.Group.GroupID, p.cfg.Topic, []int32{p.number})
	if err != nil {
		return 0, state{}, err
	}
	log, err := p.client.Offsets(ctx, p.cfg.Topic)
	if err != nil {
		return 0, state{}, err
	}
	first, last := log[p.number].First, log[p.number].Last
	at := found[p.number]
	if at.Offset < 0 {
		return first, state{}, nil // nobody was here before: from the earliest
	}
	st, err := parseState(at.Metadata)
	if err != nil {
		return 0, st, fmt.Errorf("%w: %w", errStop, err)
	}
	switch {
	case st.pending && st.from != at.Offset:
		return 0, st, fmt.Errorf("%w: offset %d is committed with an intent that begins at %d", errStop, at.Offset, st.from)
	case at.Offset < first:
		return 0, st, fmt.Errorf("%w: offsets %d to %d were removed from the log before they were stored", errStop, at.Offset, first)
	case at.Offset > last || st.pending && st.to > last:
		return 0, st, fmt.Errorf("%w: the log ends at %d, before what is committed (%d): the topic was recreated or lost messages", errStop, last, max(at.Offset, st.to))
	}
	return at.Offset, st, nil
}

// replay fetches exactly the range of an intent and lets the store recover it.
func (p *partition) replay(ctx context.Context, st state) error {
	f := kafkaio.NewFetcher(p.client, p.cfg.Topic, p.number, st.from, p.cfg.Fetch)
	r := newRun(st.from)
	for r.next < st.to {
		res, err := f.Next(ctx)
		if err != nil {
			return outOfRange(err)
		}
		for _, m := range res.Messages {
			if m.Offset < st.to {
				r.add(m)
			}
		}
		r.next = max(r.next, min(res.NextOffset, st.to))
	}
	if r.batch.Rows() != st.rows || hashOf(r.batch) != st.hash {
		return fmt.Errorf("%w: offsets %d to %d hold %d calls now, and held %d different ones when they were promised",
			errStop, st.from, st.to, r.batch.Rows(), st.rows)
	}
	if err := p.deadLetter(ctx, r.bad); err != nil {
		return err
	}
	p.committed = time.Now()
	return p.store.Recover(ctx, p.rangeOf(st), r.batch, p.valid(ctx, st))
}

func outOfRange(err error) error {
	if errors.Is(err, kafkaio.ErrOffsetOutOfRange) {
		return fmt.Errorf("%w: %w", errStop, err)
	}
	return err
}

func (p *partition) rangeOf(st state) load.Range {
	return load.Range{Topic: p.cfg.Topic, Partition: p.number, Epoch: st.epoch, From: st.from, To: st.to}
}

// valid tells whether this member still owns the partition: it does for a
// session timeout after the coordinator has said so. After a longer pause, of
// the process or of the machine, it is asked again.
func (p *partition) valid(ctx context.Context, st state) func() error {
	return func() error {
		if time.Since(p.committed) < p.cfg.Group.SessionTimeout/2 {
			return nil
		}
		return p.commit(ctx, st.from, st)
	}
}

func (p *partition) commit(ctx context.Context, offset int64, st state) error {
	before := time.Now()
	err := p.client.CommitOffset(ctx, p.cfg.Group.GroupID, p.gen.ID, p.gen.MemberID, p.cfg.Topic, p.number, offset, st.String())
	if err != nil {
		return err
	}
	p.committed = before
	p.metrics.commits.Inc()
	return nil
}

// finishTimeout is how long a partition that is given up may take to finish
// the range that it has begun. It is below the rebalance timeout.
const finishTimeout = 20 * time.Second

// steady stores range after range. The filler fetches and decodes the next
// range while the present one is stored.
func (p *partition) steady(gctx context.Context, offset int64, epoch uint32) error {
	ctx, cancel := context.WithCancel(gctx)
	defer cancel()
	filled, free := make(chan *run), make(chan *run, 2)
	free <- newRun(offset)
	free <- newRun(offset)
	var fillErr error
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(filled)
		fillErr = p.fill(ctx, offset, filled, free)
	}()
	defer func() { cancel(); <-done }()

	idle := time.NewTimer(time.Hour)
	defer idle.Stop()
	clean := true // nothing is promised beyond the committed offset
	pause := p.cfg.FlushInterval
	for {
		idle.Reset(pause + p.cfg.FlushInterval)
		select {
		case r, ok := <-filled:
			if !ok {
				<-done
				if !clean {
					return errors.Join(fillErr, p.finish(gctx, offset, epoch))
				}
				return fillErr
			}
			// What is begun is finished, also when the generation ends meanwhile:
			// then the next owner has nothing to replay.
			work, stop := context.WithCancel(context.WithoutCancel(gctx))
			expire := context.AfterFunc(gctx, func() { time.AfterFunc(finishTimeout, stop) })
			begun := time.Now()
			err := p.storeRun(work, r, epoch)
			r.took = time.Since(begun)
			expire()
			stop()
			if err != nil {
				return err
			}
			offset, clean = r.next, false
			p.stored(offset)
			pause = p.cfg.gather(r.took)
			r.reset()
			free <- r
		case <-idle.C:
			if !clean {
				if err := p.commit(gctx, offset, state{epoch: epoch}); err != nil {
					return err
				}
				clean = true
				p.metrics.pending.WithLabelValues(p.label()).Set(0)
			}
		}
	}
}

// finish says that nothing is promised, on the way out.
func (p *partition) finish(gctx context.Context, offset int64, epoch uint32) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(gctx), 5*time.Second)
	defer cancel()
	return p.commit(ctx, offset, state{epoch: epoch})
}

func (p *partition) storeRun(ctx context.Context, r *run, epoch uint32) error {
	st := state{epoch: epoch, pending: true, from: r.from, to: r.next, rows: r.batch.Rows(), hash: hashOf(r.batch)}
	if seam.Broken("commit_first") {
		if err := p.commit(ctx, st.to, state{epoch: epoch}); err != nil {
			return err
		}
	} else if err := p.commit(ctx, st.from, st); err != nil {
		return err
	}
	p.metrics.pending.WithLabelValues(p.label()).Set(float64(st.rows))
	seam.Point("delivery.intent_committed")
	if err := p.deadLetter(ctx, r.bad); err != nil {
		return err
	}
	return p.store.Load(ctx, p.rangeOf(st), r.batch, p.valid(ctx, st))
}

// run is a range of the log on its way: [from, next).
type run struct {
	from, next int64
	batch      *call.Batch
	bad        []badMessage
	bytes      int
	begun      time.Time
	took       time.Duration // to store what it held before
}

type badMessage struct {
	message kafkaio.Fetched
	reason  error
}

func newRun(from int64) *run { return &run{from: from, next: from, batch: call.NewBatch()} }

func (r *run) reset() {
	r.batch.Reset()
	r.bad, r.bytes, r.begun = nil, 0, time.Time{}
}

func (r *run) empty() bool { return r.next == r.from }

// share is how many times longer a range is gathered than the one before took
// to store. What an insert costs by itself, whatever is in it, is most of what
// small ones cost: a store that is slow because it has much to do gets fewer
// and larger ones, and a quiet one stays quick.
const share = 2

// gather is how long the range after one that took so long is gathered.
func (c Config) gather(took time.Duration) time.Duration {
	return min(max(c.FlushInterval, share*took), c.FlushIntervalMax)
}

func (r *run) add(m kafkaio.Fetched) {
	if r.begun.IsZero() {
		r.begun = time.Now()
	}
	if _, err := r.batch.AppendMessage(m.Value, m.Offset); err != nil {
		r.bad = append(r.bad, badMessage{m, err})
	}
	r.bytes += len(m.Value)
	r.next = m.Offset + 1
}

// fill fetches, decodes and hands over ranges. While the store is busy it goes
// on filling up to the limits of a batch, and then waits: the log holds the
// rest.
func (p *partition) fill(ctx context.Context, offset int64, filled chan<- *run, free <-chan *run) error {
	f := kafkaio.NewFetcher(p.client, p.cfg.Topic, p.number, offset, p.cfg.Fetch)
	cur := <-free
	for {
		res, err := f.Next(ctx)
		if err != nil {
			return outOfRange(err)
		}
		p.observe(res)
		for _, m := range res.Messages {
			cur.add(m)
			if cur.batch.Rows() >= p.cfg.BatchRows || cur.bytes >= p.cfg.BatchBytes {
				if cur, err = handOver(ctx, cur, filled, free); err != nil {
					return err
				}
			}
		}
		if cur.empty() {
			// A gap in the log is no range of its own.
			cur.from, cur.next = res.NextOffset, res.NextOffset
			continue
		}
		cur.next = max(cur.next, res.NextOffset)
		if time.Since(cur.begun) < p.cfg.gather(cur.took) {
			continue
		}
		select {
		case filled <- cur:
			next := cur.next
			select {
			case cur = <-free:
			case <-ctx.Done():
				return ctx.Err()
			}
			cur.from, cur.next = next, next
		default: // the store is busy: let the range grow
		}
	}
}

func handOver(ctx context.Context, cur *run, filled chan<- *run, free <-chan *run) (*run, error) {
	next := cur.next
	select {
	case filled <- cur:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case cur = <-free:
		cur.from, cur.next = next, next
		return cur, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Headers of a dead letter, beside those of the message itself.
const (
	ReasonHeader    = "tollway-reason"
	TopicHeader     = "tollway-topic"
	PartitionHeader = "tollway-partition"
	OffsetHeader    = "tollway-offset"
)

// deadLetter moves messages that cannot be read to their own topic, where the
// bytes stay as they are. A replay may write one again: its origin tells.
func (p *partition) deadLetter(ctx context.Context, bad []badMessage) error {
	for _, b := range bad {
		headers := append([]kafkaio.Header{
			{Key: ReasonHeader, Value: []byte(call.Clean(b.reason.Error(), 512))},
			{Key: TopicHeader, Value: []byte(p.cfg.Topic)},
			{Key: PartitionHeader, Value: []byte(strconv.Itoa(int(p.number)))},
			{Key: OffsetHeader, Value: []byte(strconv.FormatInt(b.message.Offset, 10))},
		}, b.message.Headers...)
		err := p.letters.Produce(ctx, p.cfg.DeadLetterTopic, 0, []kafkaio.Message{{Key: b.message.Key, Value: b.message.Value, Headers: headers}})
		if err != nil {
			return fmt.Errorf("write a dead letter: %w", err)
		}
		p.metrics.deadLetters.Inc()
		p.log.Warn().Err(b.reason).Int32("partition", p.number).Int64("offset", b.message.Offset).Msg("dead letter")
	}
	return nil
}
