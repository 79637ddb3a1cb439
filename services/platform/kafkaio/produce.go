package kafkaio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/produce"
)

// Header is a named value beside a message. Its bytes must not change after it
// was given to Produce.
type Header struct {
	Key   string
	Value []byte
}

// Message is what is produced. A nil Value is a tombstone in a compacted topic.
// The bytes may be reused as soon as Produce has returned.
type Message struct {
	Key, Value []byte
	Headers    []Header
}

func (m Message) size() int {
	n := len(m.Key) + len(m.Value)
	for _, h := range m.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// ProducerConfig says how messages are packed.
type ProducerConfig struct {
	// Compression is lz4, zstd, snappy, gzip or none.
	Compression string `yaml:"compression"`
	// MaxRequestBytes is the size before compression at which one call's messages
	// are split into several requests. It should stay below the topic's
	// max.message.bytes (1 MB by default).
	MaxRequestBytes int `yaml:"max_request_bytes"`
}

// DefaultProducerConfig compresses with LZ4, which costs the least CPU.
func DefaultProducerConfig() ProducerConfig {
	return ProducerConfig{Compression: "lz4", MaxRequestBytes: 900_000}
}

// Validate checks the compression's name and the size.
func (c ProducerConfig) Validate() error {
	if _, err := c.attributes(); err != nil {
		return err
	}
	if c.MaxRequestBytes < 1024 {
		return fmt.Errorf("max_request_bytes is %d, must be at least 1024", c.MaxRequestBytes)
	}
	return nil
}

func (c ProducerConfig) attributes() (protocol.Attributes, error) {
	switch c.Compression {
	case "lz4":
		return protocol.Lz4, nil
	case "zstd":
		return protocol.Zstd, nil
	case "snappy":
		return protocol.Snappy, nil
	case "gzip":
		return protocol.Gzip, nil
	case "none":
		return 0, nil
	}
	return 0, fmt.Errorf("compression is %q, must be lz4, zstd, snappy, gzip or none", c.Compression)
}

// Producer writes messages to partitions that the caller chooses. It is safe for
// concurrent use: partitions are written in parallel, and within one partition
// one request is under way at a time, so calls are stored in the order in which
// they got their turn.
type Producer struct {
	client     *Client
	cfg        ProducerConfig
	attributes protocol.Attributes
	turns      sync.Map // partitionKey → chan struct{}
}

type partitionKey struct {
	topic     string
	partition int
}

// NewProducer makes a producer on an open client.
func NewProducer(client *Client, cfg ProducerConfig) (*Producer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("producer config: %w", err)
	}
	attributes, err := cfg.attributes()
	if err != nil {
		return nil, err
	}
	return &Producer{client: client, cfg: cfg, attributes: attributes}, nil
}

// Produce stores messages in one partition and returns nil only after all in-sync
// replicas have acknowledged every one of them. It repeats what failed for a
// passing reason until the context ends. After an error some or all messages may
// be stored nevertheless, possibly twice.
func (p *Producer) Produce(ctx context.Context, topic string, partition int, msgs []Message) error {
	if len(msgs) == 0 {
		return nil
	}
	start := time.Now()
	if err := p.lock(ctx, topic, partition); err != nil {
		return fmt.Errorf("produce to %s/%d: wait for turn: %w", topic, partition, err)
	}
	defer p.unlock(topic, partition)
	total := 0
	for len(msgs) > 0 {
		n, size := p.cut(msgs)
		if err := p.send(ctx, topic, partition, msgs[:n]); err != nil {
			return fmt.Errorf("produce to %s/%d: %w", topic, partition, err)
		}
		p.client.metrics.producedMessages.WithLabelValues(topic).Add(float64(n))
		total += size
		msgs = msgs[n:]
	}
	p.client.metrics.producedBytes.WithLabelValues(topic).Add(float64(total))
	p.client.metrics.produceSeconds.WithLabelValues(topic).Observe(time.Since(start).Seconds())
	return nil
}

func (p *Producer) turn(topic string, partition int) chan struct{} {
	key := partitionKey{topic, partition}
	if ch, ok := p.turns.Load(key); ok {
		return ch.(chan struct{})
	}
	ch, _ := p.turns.LoadOrStore(key, make(chan struct{}, 1))
	return ch.(chan struct{})
}

func (p *Producer) lock(ctx context.Context, topic string, partition int) error {
	select {
	case p.turn(topic, partition) <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Producer) unlock(topic string, partition int) { <-p.turn(topic, partition) }

// cut returns how many messages go into the next request, and their size.
func (p *Producer) cut(msgs []Message) (n, size int) {
	for n < len(msgs) {
		s := msgs[n].size()
		if n > 0 && size+s > p.cfg.MaxRequestBytes {
			break
		}
		size += s
		n++
	}
	return n, size
}

// send repeats one request until it is acknowledged. A batch that is too large
// for the broker is halved; one message that is too large is an error.
func (p *Producer) send(ctx context.Context, topic string, partition int, msgs []Message) error {
	b := p.client.newBackoff()
	for {
		err := p.attempt(ctx, topic, partition, msgs)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, kafka.MessageSizeTooLarge) || errors.Is(err, kafka.RecordListTooLarge):
			if len(msgs) == 1 {
				return fmt.Errorf("%w: %d bytes", ErrMessageTooLarge, msgs[0].size())
			}
			half := len(msgs) / 2
			if err := p.send(ctx, topic, partition, msgs[:half]); err != nil {
				return err
			}
			msgs = msgs[half:]
			continue
		}
		if err := p.client.failed(ctx, "produce", &b, err); err != nil {
			return err
		}
	}
}

func (p *Producer) attempt(ctx context.Context, topic string, partition int, msgs []Message) error {
	records := &recordReader{msgs: msgs}
	// After a cancelled call the request may still be waiting to be encoded in
	// another goroutine; from here on it must not see the caller's bytes.
	defer records.detach()
	limit := p.client.cfg.RequestTimeout
	res, err := p.client.roundTrip(ctx, limit+requestSlack, &produce.Request{
		Acks:    int16(kafka.RequireAll),
		Timeout: int32(limit.Milliseconds()),
		Topics: []produce.RequestTopic{{
			Topic: topic,
			Partitions: []produce.RequestPartition{{
				Partition: int32(partition),
				RecordSet: protocol.RecordSet{Attributes: p.attributes, Records: records},
			}},
		}},
	})
	if err != nil {
		return err
	}
	return produceResult(res.(*produce.Response), topic, partition)
}

// produceResult accepts only an answer that names our partition: silence is not
// an acknowledgement.
func produceResult(res *produce.Response, topic string, partition int) error {
	for _, t := range res.Topics {
		for _, r := range t.Partitions {
			if t.Topic != topic || int(r.Partition) != partition {
				continue
			}
			if r.ErrorCode == 0 {
				return nil
			}
			if r.ErrorMessage != "" {
				return fmt.Errorf("%s: %w", r.ErrorMessage, kafka.Error(r.ErrorCode))
			}
			return kafka.Error(r.ErrorCode)
		}
	}
	return errors.New("the broker's answer does not name the partition")
}

var errDetached = errors.New("request was given up")

// recordReader feeds the messages of one request to the encoder without copying
// them. All access to the caller's bytes happens under the lock.
type recordReader struct {
	mu       sync.Mutex
	detached bool
	msgs     []Message
	next     int
	record   protocol.Record
	headers  []protocol.Header
}

func (r *recordReader) detach() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.detached, r.msgs = true, nil
}

// ReadRecord hands out the next message as a record.
func (r *recordReader) ReadRecord() (*protocol.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.detached {
		return nil, errDetached
	}
	if r.next == len(r.msgs) {
		return nil, io.EOF
	}
	m := r.msgs[r.next]
	r.next++
	r.headers = r.headers[:0]
	for _, h := range m.Headers {
		r.headers = append(r.headers, protocol.Header{Key: h.Key, Value: h.Value})
	}
	r.record = protocol.Record{Key: r.bytes(m.Key), Value: r.bytes(m.Value), Headers: r.headers}
	return &r.record, nil
}

// bytes keeps nil as nil: a tombstone is not an empty value.
func (r *recordReader) bytes(b []byte) protocol.Bytes {
	if b == nil {
		return nil
	}
	return &recordBytes{owner: r, b: b}
}

type recordBytes struct {
	owner *recordReader
	b     []byte
}

// Read copies out a piece.
func (b *recordBytes) Read(dst []byte) (int, error) {
	b.owner.mu.Lock()
	defer b.owner.mu.Unlock()
	if b.owner.detached {
		return 0, errDetached
	}
	if len(b.b) == 0 {
		return 0, io.EOF
	}
	n := copy(dst, b.b)
	b.b = b.b[n:]
	return n, nil
}

// WriteTo writes the rest at once into the encoder, which is memory.
func (b *recordBytes) WriteTo(w io.Writer) (int64, error) {
	b.owner.mu.Lock()
	defer b.owner.mu.Unlock()
	if b.owner.detached {
		return 0, errDetached
	}
	n, err := w.Write(b.b)
	b.b = b.b[n:]
	return int64(n), err
}

// Close does nothing: the bytes are the caller's.
func (b *recordBytes) Close() error { return nil }

// Len is the number of bytes left.
func (b *recordBytes) Len() int { return len(b.b) }
