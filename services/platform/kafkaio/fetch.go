package kafkaio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"
)

// Start positions for a Fetcher that has no offset yet.
const (
	// FirstOffset is the oldest message that the partition still has.
	FirstOffset int64 = -2
	// LastOffset is the message that will be written next.
	LastOffset int64 = -1
)

// FetchConfig bounds one fetch.
type FetchConfig struct {
	// MinBytes is what the broker waits for, at most MaxWait long.
	MinBytes int           `yaml:"min_bytes"`
	MaxBytes int           `yaml:"max_bytes"`
	MaxWait  time.Duration `yaml:"max_wait"`
}

// DefaultFetchConfig answers as soon as one byte is there.
func DefaultFetchConfig() FetchConfig {
	return FetchConfig{MinBytes: 1, MaxBytes: 8 << 20, MaxWait: 500 * time.Millisecond}
}

// Validate checks the limits against each other.
func (c FetchConfig) Validate() error {
	if c.MinBytes < 1 || c.MaxBytes < c.MinBytes {
		return fmt.Errorf("min_bytes %d and max_bytes %d: must be at least 1 and in this order", c.MinBytes, c.MaxBytes)
	}
	if c.MaxWait < time.Millisecond {
		return fmt.Errorf("max_wait is %s, must be at least 1ms", c.MaxWait)
	}
	return nil
}

// Fetched is one message from the log. Its bytes belong to the caller.
type Fetched struct {
	Offset int64
	// Time is the producer's clock when it sent the message. In a topic that keeps
	// append time the broker's own stamp exists per batch only and is not shown.
	Time       time.Time
	Key, Value []byte
	Headers    []Header
}

// FetchResult is what one fetch brought. Messages is empty when nothing arrived
// within MaxWait.
type FetchResult struct {
	Messages []Fetched
	// NextOffset is where the next fetch continues. It can be beyond the last
	// message where the log has gaps.
	NextOffset int64
	// HighWatermark is the offset after the last message that consumers may see.
	HighWatermark int64
	// LogStart is the oldest offset that is still there.
	LogStart int64
}

// Fetcher reads one partition in order. It is for one goroutine.
type Fetcher struct {
	client    *Client
	topic     string
	partition int32
	offset    int64
	cfg       FetchConfig
	lastError atomic.Pointer[error]
}

// NewFetcher makes a reader that begins at an offset, or at FirstOffset or
// LastOffset. Limits that are not set take their defaults.
func NewFetcher(client *Client, topic string, partition int32, startOffset int64, cfg FetchConfig) *Fetcher {
	def := DefaultFetchConfig()
	if cfg.MinBytes <= 0 {
		cfg.MinBytes = def.MinBytes
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = def.MaxBytes
	}
	if cfg.MaxWait <= 0 {
		cfg.MaxWait = def.MaxWait
	}
	return &Fetcher{client: client, topic: topic, partition: partition, offset: startOffset, cfg: cfg}
}

// Offset is where the next fetch begins.
func (f *Fetcher) Offset() int64 { return f.offset }

// LastError is what keeps the present Next from succeeding, or nil. It may be
// called from another goroutine.
func (f *Fetcher) LastError() error {
	if p := f.lastError.Load(); p != nil {
		return *p
	}
	return nil
}

// Next waits for messages, at most MaxWait when the broker is well. While the
// broker is away or the leader moves it tries again until the context ends. It
// answers ErrOffsetOutOfRange for an offset that the broker does not have, and
// stays where it is.
func (f *Fetcher) Next(ctx context.Context) (FetchResult, error) {
	b := f.client.newBackoff()
	for {
		res, err := f.attempt(ctx)
		if err == nil {
			f.lastError.Store(nil)
			return res, nil
		}
		f.lastError.Store(&err)
		if errors.Is(err, kafka.OffsetOutOfRange) {
			return FetchResult{}, fmt.Errorf("fetch %s/%d: %w: offset %d", f.topic, f.partition, ErrOffsetOutOfRange, f.offset)
		}
		if err := f.client.failed(ctx, "fetch", &b, err); err != nil {
			return FetchResult{}, fmt.Errorf("fetch %s/%d at %d: %w", f.topic, f.partition, f.offset, err)
		}
	}
}

func (f *Fetcher) attempt(ctx context.Context) (FetchResult, error) {
	if f.offset < 0 {
		if err := f.resolveStart(ctx); err != nil {
			return FetchResult{}, err
		}
	}
	limit := f.cfg.MaxWait + f.client.cfg.RequestTimeout
	m, err := f.client.roundTrip(ctx, limit, &fetch.Request{
		ReplicaID:    -1,
		MaxWaitTime:  int32(f.cfg.MaxWait.Milliseconds()),
		MinBytes:     int32(f.cfg.MinBytes),
		MaxBytes:     int32(f.cfg.MaxBytes),
		SessionID:    -1,
		SessionEpoch: -1,
		Topics: []fetch.RequestTopic{{
			Topic: f.topic,
			Partitions: []fetch.RequestPartition{{
				Partition:          f.partition,
				CurrentLeaderEpoch: -1,
				FetchOffset:        f.offset,
				LogStartOffset:     -1,
				PartitionMaxBytes:  int32(f.cfg.MaxBytes),
			}},
		}},
	})
	if err != nil {
		return FetchResult{}, err
	}
	res := m.(*fetch.Response)
	if res.ErrorCode != 0 {
		return FetchResult{}, kafka.Error(res.ErrorCode)
	}
	for _, t := range res.Topics {
		for i := range t.Partitions {
			if p := &t.Partitions[i]; t.Topic == f.topic && p.Partition == f.partition {
				return f.take(p)
			}
		}
	}
	return FetchResult{}, errors.New("the broker's answer does not name the partition")
}

func (f *Fetcher) resolveStart(ctx context.Context) error {
	ranges, err := f.client.offsets(ctx, f.topic, []int32{f.partition})
	if err != nil {
		return err
	}
	r, ok := ranges[f.partition]
	switch {
	case !ok:
		return kafka.UnknownTopicOrPartition
	case f.offset == FirstOffset:
		f.offset = r.First
	case f.offset == LastOffset:
		f.offset = r.Last
	default:
		return fmt.Errorf("start offset %d: %w", f.offset, kafka.OffsetOutOfRange)
	}
	return nil
}

// take turns the broker's answer into messages and moves the offset on.
func (f *Fetcher) take(p *fetch.ResponsePartition) (FetchResult, error) {
	if p.ErrorCode != 0 {
		return FetchResult{}, kafka.Error(p.ErrorCode)
	}
	t := taker{next: f.offset}
	batches := t.batches(p.RecordSet.Records)
	for _, b := range batches {
		if err := t.take(b); err != nil {
			return FetchResult{}, err
		}
	}
	// A batch without a single visible record at or after our offset was emptied
	// by compaction. The broker would send it again and again, so step over it.
	if len(batches) > 0 && t.next == f.offset && f.offset < p.HighWatermark {
		t.next++
	}
	f.offset = t.next
	f.client.metrics.fetchedMessages.WithLabelValues(f.topic).Add(float64(len(t.out)))
	f.client.metrics.fetchedBytes.WithLabelValues(f.topic).Add(float64(t.bytes))
	return FetchResult{Messages: t.out, NextOffset: t.next, HighWatermark: p.HighWatermark, LogStart: p.LogStartOffset}, nil
}

type taker struct {
	next  int64
	out   []Fetched
	bytes int
}

func (t *taker) batches(r protocol.RecordReader) []protocol.RecordReader {
	switch r := r.(type) {
	case nil:
		return nil
	case *protocol.RecordStream:
		return r.Records
	default:
		return []protocol.RecordReader{r}
	}
}

// take reads one batch. A compressed batch is always sent whole, so records
// before the wanted offset are skipped; control batches only move the offset.
func (t *taker) take(batch protocol.RecordReader) error {
	_, control := batch.(*protocol.ControlBatch)
	for {
		rec, err := batch.ReadRecord()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		if control || rec.Offset < t.next {
			closeRecord(rec)
		} else if err := t.add(rec); err != nil {
			return err
		}
		t.next = max(t.next, rec.Offset+1)
	}
}

// add copies a record out of the library's pooled pages.
func (t *taker) add(rec *protocol.Record) error {
	defer closeRecord(rec)
	key, err := protocol.ReadAll(rec.Key)
	if err != nil {
		return fmt.Errorf("read key at offset %d: %w", rec.Offset, err)
	}
	value, err := protocol.ReadAll(rec.Value)
	if err != nil {
		return fmt.Errorf("read value at offset %d: %w", rec.Offset, err)
	}
	m := Fetched{Offset: rec.Offset, Time: rec.Time, Key: key, Value: value}
	if len(rec.Headers) > 0 {
		m.Headers = make([]Header, len(rec.Headers))
		for i, h := range rec.Headers {
			m.Headers[i] = Header{Key: h.Key, Value: h.Value}
		}
	}
	t.out = append(t.out, m)
	t.bytes += len(key) + len(value)
	return nil
}

func closeRecord(rec *protocol.Record) {
	if rec.Key != nil {
		rec.Key.Close()
	}
	if rec.Value != nil {
		rec.Value.Close()
	}
}
