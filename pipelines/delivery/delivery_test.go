package delivery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/pipelines/load"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// shelf is a store that keeps what it was given, by partition, and can be told
// to fail.
type shelf struct {
	mu      sync.Mutex
	ranges  map[int32][]load.Range
	stored  map[call.ID]int
	recover []load.Range
	warmed  int
	fail    func(r load.Range) error
}

func newShelf() *shelf {
	return &shelf{ranges: map[int32][]load.Range{}, stored: map[call.ID]int{}}
}

func (s *shelf) open(int32) Store { return s }

func (s *shelf) Warm(context.Context, time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.warmed++
	return nil
}

func (s *shelf) Load(_ context.Context, r load.Range, b *call.Batch, valid func() error) error {
	if err := valid(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		if err := s.fail(r); err != nil {
			return err
		}
	}
	s.keep(r, b)
	return nil
}

func (s *shelf) keep(r load.Range, b *call.Batch) {
	s.ranges[r.Partition] = append(s.ranges[r.Partition], r)
	for i, id := range b.ID {
		if b.Offset[i] < r.From || b.Offset[i] >= r.To {
			panic(fmt.Sprintf("row of offset %d in range %v", b.Offset[i], r))
		}
		s.stored[id]++
	}
}

func (s *shelf) Recover(_ context.Context, r load.Range, b *call.Batch, valid func() error) error {
	if err := valid(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recover = append(s.recover, r)
	s.keep(r, b)
	return nil
}

func (s *shelf) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.stored)
}

// once asserts that n calls were stored, each once, in ranges without gap or
// overlap.
func (s *shelf) once(t *testing.T, n int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.stored) != n {
		t.Errorf("%d calls stored, want %d", len(s.stored), n)
	}
	for id, times := range s.stored {
		if times != 1 {
			t.Errorf("call %s was stored %d times", id, times)
		}
	}
	for p, ranges := range s.ranges {
		next := int64(0)
		for _, r := range ranges {
			if r.From != next || r.To <= r.From {
				t.Errorf("partition %d: range %d to %d after %d", p, r.From, r.To, next)
			}
			next = r.To
		}
	}
}

type bench struct {
	t        *testing.T
	cfg      Config
	client   *kafkaio.Client
	producer *kafkaio.Producer
	sent     int
}

const partitions = 3

func newBench(t *testing.T) *bench {
	return benchOn(t, testenv.Log(t))
}

func benchOn(t *testing.T, brokers ...string) *bench {
	kc := kafkaio.DefaultConfig()
	kc.Brokers = brokers
	client, err := kafkaio.Open(kc, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	producer, err := kafkaio.NewProducer(client, kafkaio.DefaultProducerConfig())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, cfg: DefaultConfig(), client: client, producer: producer}
	b.cfg.FlushInterval = 20 * time.Millisecond
	for topic, n := range map[string]int{b.cfg.Topic: partitions, b.cfg.DeadLetterTopic: 1} {
		if err := client.EnsureTopic(t.Context(), kafkaio.TopicSpec{Name: topic, Partitions: n, ReplicationFactor: 1}); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// produce sends messages of ten calls, in turn to all partitions.
func (b *bench) produce(messages int) {
	b.t.Helper()
	for range messages {
		batch := call.NewBatch()
		for range 10 {
			var c call.Call
			c.Reset()
			c.ID = call.NewID("test", fmt.Sprint(b.sent))
			b.sent++
			batch.Append(&c)
		}
		value, err := call.Encode(nil, batch)
		if err != nil {
			b.t.Fatal(err)
		}
		b.raw(b.sent/10%partitions, value)
	}
}

func (b *bench) raw(partition int, value []byte) {
	b.t.Helper()
	if err := b.producer.Produce(b.t.Context(), b.cfg.Topic, partition, []kafkaio.Message{{Value: value}}); err != nil {
		b.t.Fatal(err)
	}
}

// start runs a consumer; the answer stops it and waits.
func (b *bench) start(s *shelf) (*Consumer, func()) {
	c := New(b.cfg, b.client, b.producer, s.open, prometheus.NewRegistry(), zerolog.New(zerolog.NewTestWriter(b.t)).Level(zerolog.WarnLevel))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				b.t.Error(err)
			}
		})
	}
	b.t.Cleanup(stop)
	return c, stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 30 s: %s", what)
}

func (b *bench) state(partition int32) (kafkaio.Committed, state) {
	b.t.Helper()
	found, err := b.client.FetchOffsets(b.t.Context(), b.cfg.Group.GroupID, b.cfg.Topic, []int32{partition})
	if err != nil {
		b.t.Fatal(err)
	}
	st, err := parseState(found[partition].Metadata)
	if err != nil {
		b.t.Fatal(err)
	}
	return found[partition], st
}

func TestWhatIsThereBeforeTheFirstConsumerIsStored(t *testing.T) {
	b, s := newBench(t), newShelf()
	b.produce(30)
	_, stop := b.start(s)
	eventually(t, "stored", func() bool { return s.count() == 300 })
	b.produce(30)
	eventually(t, "stored", func() bool { return s.count() == 600 })
	stop()
	s.once(t, 600)
	for p := range int32(partitions) {
		if at, st := b.state(p); st.pending || at.Offset != 20 {
			t.Errorf("partition %d ends at %d with %v", p, at.Offset, st)
		}
	}
	// The next owner goes on where this one stopped.
	b.produce(3)
	_, stop = b.start(s)
	eventually(t, "stored", func() bool { return s.count() == 630 })
	stop()
	s.once(t, 630)
	if len(s.recover) != 0 {
		t.Errorf("%d ranges were recovered after a clean stop", len(s.recover))
	}
}

func TestAnInterruptedRangeIsReplayedExactly(t *testing.T) {
	b, s := newBench(t), newShelf()
	var interrupted []load.Range
	s.fail = func(r load.Range) error {
		if len(interrupted) < 5 {
			interrupted = append(interrupted, r)
			return errors.New("interrupted")
		}
		return nil
	}
	c, stop := b.start(s)
	for range 10 {
		b.produce(6)
	}
	eventually(t, "stored", func() bool { return s.count() == b.sent })
	stop()
	s.once(t, b.sent)
	if len(interrupted) != len(s.recover) {
		t.Fatalf("%d ranges were interrupted, %d recovered", len(interrupted), len(s.recover))
	}
	seen := map[load.Range]bool{}
	for _, r := range s.recover {
		seen[r] = true
	}
	for _, r := range interrupted {
		if !seen[r] {
			t.Errorf("range %v was interrupted and not recovered as it was", r)
		}
	}
	if testutil.ToFloat64(c.metrics.commits) == 0 {
		t.Error("no commits were counted")
	}
}

func TestAMessageThatCannotBeReadIsADeadLetter(t *testing.T) {
	b, s := newBench(t), newShelf()
	b.produce(3)
	b.raw(1, []byte("nonsense"))
	b.raw(1, nil)
	b.produce(3)
	_, stop := b.start(s)
	eventually(t, "stored", func() bool { return s.count() == 60 })
	stop()
	s.once(t, 60)
	f := kafkaio.NewFetcher(b.client, b.cfg.DeadLetterTopic, 0, 0, kafkaio.DefaultFetchConfig())
	var letters []kafkaio.Fetched
	eventually(t, "dead letters", func() bool {
		res, err := f.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		letters = append(letters, res.Messages...)
		return len(letters) >= 1
	})
	headers := map[string]string{}
	for _, h := range letters[0].Headers {
		headers[h.Key] = string(h.Value)
	}
	if string(letters[0].Value) != "nonsense" || headers[OffsetHeader] != "1" || headers[PartitionHeader] != "1" || !strings.Contains(headers[ReasonHeader], "malformed") {
		t.Errorf("letter %q with %v", letters[0].Value, headers)
	}
}

func TestALogThatIsShorterThanWhatIsCommittedStopsThePartition(t *testing.T) {
	b, s := newBench(t), newShelf()
	b.produce(9)
	_, stop := b.start(s)
	eventually(t, "stored", func() bool { return s.count() == 90 })
	stop()
	// An operator's mistake: the offset of partition 2 is moved ahead.
	if err := b.client.CommitOffset(t.Context(), b.cfg.Group.GroupID, -1, "", b.cfg.Topic, 2, 1000, state{}.String()); err != nil {
		t.Fatal(err)
	}
	c, stop := b.start(s)
	eventually(t, "partition 2 to stop", func() bool { return c.Ready(t.Context()) != nil })
	if err := c.Ready(t.Context()); !strings.Contains(err.Error(), "partition 2") || !strings.Contains(err.Error(), "recreated") {
		t.Errorf("readiness says %v", err)
	}
	b.produce(9) // the others go on
	eventually(t, "the other partitions", func() bool { return s.count() == 90+60 })
	if _, err := Resume(t.Context(), b.client, b.cfg, 2, 3); err == nil || !strings.Contains(err.Error(), "running") {
		t.Errorf("resumed beside a running consumer: %v", err)
	}
	stop()
	// The first three messages of partition 2 were stored before that.
	r, err := Resume(t.Context(), b.client, b.cfg, 2, 3)
	if err != nil || r.From != 3 || r.Epoch != 1 || r.Before != 1000 {
		t.Fatalf("resumed %+v: %v", r, err)
	}
	_, stop = b.start(s)
	eventually(t, "partition 2", func() bool { return s.count() == 180 })
	stop()
	s.once(t, 180)
	if _, st := b.state(2); st.epoch != 1 {
		t.Errorf("the epoch is %d", st.epoch)
	}
}

func TestTheWatermarkIsTheFirstMessageThatIsNotStored(t *testing.T) {
	b, s := newBench(t), newShelf()
	w := NewWatermark(b.client, b.cfg)
	complete := func() time.Time {
		at, err := w.Complete(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	before := time.Now()
	if at := complete(); at.Before(before) {
		t.Errorf("an empty log is complete until %s", at)
	}
	b.produce(6)
	between := time.Now()
	time.Sleep(2 * time.Millisecond) // messages have a time in ms
	b.produce(6)
	if at := complete(); at.After(between) || at.Before(before.Add(-time.Second)) {
		t.Errorf("complete until %s, the first message came before %s", at, between)
	}
	_, stop := b.start(s)
	eventually(t, "the watermark", func() bool { return complete().After(between.Add(2 * time.Millisecond)) })
	stop()
	after := time.Now()
	if at := complete(); at.Before(after) || s.count() != 120 {
		t.Errorf("complete until %s with %d calls stored", at, s.count())
	}
}

func TestMembersShareThePartitions(t *testing.T) {
	b, s := newBench(t), newShelf()
	_, stopFirst := b.start(s)
	b.produce(12)
	eventually(t, "stored", func() bool { return s.count() == b.sent })
	_, stopSecond := b.start(s)
	for range 20 {
		b.produce(6)
	}
	stopFirst()
	for range 5 {
		b.produce(6)
	}
	eventually(t, "stored", func() bool { return s.count() == b.sent })
	stopSecond()
	s.once(t, b.sent)
}

func TestState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := state{epoch: rapid.Uint32().Draw(t, "epoch")}
		if rapid.Bool().Draw(t, "pending") {
			s.pending = true
			s.from = rapid.Int64Range(0, 1<<50).Draw(t, "from")
			s.to = s.from + rapid.Int64Range(1, 1000).Draw(t, "n")
			s.rows, s.hash = rapid.IntRange(0, 1e6).Draw(t, "rows"), rapid.Uint64().Draw(t, "hash")
		}
		if got, err := parseState(s.String()); err != nil || got != s {
			t.Fatalf("%q reads as %+v: %v", s, got, err)
		}
		if len(s.String()) > 4096 {
			t.Fatal("longer than a broker takes")
		}
	})
	for _, bad := range []string{"v2|done|0", "v1", "v1|done", "v1|done|x", "v1|5|4|0|1|0", "v1|-1|4|0|1|0", "v1|1|2|0|-1|0", "v1|1|2|3|4", "x"} {
		if s, err := parseState(bad); !errors.Is(err, errMetadata) {
			t.Errorf("%q reads as %+v", bad, s)
		}
	}
}

func TestASlowStoreGetsLargerRanges(t *testing.T) {
	cfg := DefaultConfig()
	for took, want := range map[time.Duration]time.Duration{
		0:                      cfg.FlushInterval,
		10 * time.Millisecond:  cfg.FlushInterval,
		100 * time.Millisecond: 200 * time.Millisecond,
		time.Minute:            cfg.FlushIntervalMax,
	} {
		if got := cfg.gather(took); got != want {
			t.Errorf("after a range that took %s the next is gathered for %s, want %s", took, got, want)
		}
	}
	cfg.FlushIntervalMax = cfg.FlushInterval / 2
	if cfg.Validate() == nil {
		t.Error("a flush_interval_max below flush_interval is accepted")
	}
}
