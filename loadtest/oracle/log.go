package oracle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/tollway/tollway/loadtest/gen"
)

func (t Target) client() (*kafka.Client, error) {
	login, err := t.Login.mechanism()
	if err != nil {
		return nil, err
	}
	return &kafka.Client{Addr: kafka.TCP(t.Brokers...), Timeout: 10 * time.Second, Transport: &kafka.Transport{SASL: login}}, nil
}

func (l Login) mechanism() (sasl.Mechanism, error) {
	if l.Username == "" {
		return nil, nil
	}
	return scram.Mechanism(scram.SHA256, l.Username, l.Password)
}

// ReadProgress reads where each partition ends and what is committed of it.
func (t Target) ReadProgress(ctx context.Context) ([]Progress, error) {
	client, err := t.client()
	if err != nil {
		return nil, err
	}
	meta, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{t.Topic}})
	if err != nil {
		return nil, err
	}
	if len(meta.Topics) != 1 || meta.Topics[0].Error != nil {
		return nil, fmt.Errorf("find topic %s: %+v", t.Topic, meta.Topics)
	}
	var numbers []int
	var ends []kafka.OffsetRequest
	for _, p := range meta.Topics[0].Partitions {
		numbers = append(numbers, p.ID)
		ends = append(ends, kafka.LastOffsetOf(p.ID))
	}
	slices.Sort(numbers)
	listed, err := client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{t.Topic: ends}})
	if err != nil {
		return nil, err
	}
	fetched, err := client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: t.Group, Topics: map[string][]int{t.Topic: numbers}})
	if err != nil {
		return nil, err
	}
	if fetched.Error != nil {
		return nil, fetched.Error
	}
	out := make([]Progress, 0, len(numbers))
	for _, n := range numbers {
		p := Progress{Partition: n, End: -1, Committed: -1}
		for _, l := range listed.Topics[t.Topic] {
			if l.Partition == n {
				if l.Error != nil {
					return nil, l.Error
				}
				p.End = l.LastOffset
			}
		}
		for _, f := range fetched.Topics[t.Topic] {
			if f.Partition == n {
				if f.Error != nil {
					return nil, f.Error
				}
				p.Committed, p.Metadata = f.CommittedOffset, f.Metadata
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// Done tells whether everything in the log is stored and nothing is promised.
// A partition that never had a message needs no commit.
func Done(progress []Progress) bool {
	for _, p := range progress {
		if p.End > 0 && (p.Committed != p.End || len(p.Metadata) < 7 || p.Metadata[:7] != "v1|done") {
			return false
		}
	}
	return true
}

func (t Target) readLog(ctx context.Context) (map[Place]gen.ID, []Progress, error) {
	progress, err := t.ReadProgress(ctx)
	if err != nil {
		return nil, nil, err
	}
	rows := map[Place]gen.ID{}
	for _, p := range progress {
		if err := t.readPartition(ctx, p, rows); err != nil {
			return nil, nil, fmt.Errorf("partition %d: %w", p.Partition, err)
		}
	}
	return rows, slices.DeleteFunc(progress, func(p Progress) bool { return p.End == 0 }), nil
}

func (t Target) readPartition(ctx context.Context, p Progress, rows map[Place]gen.ID) error {
	if p.End == 0 {
		return nil
	}
	login, err := t.Login.mechanism()
	if err != nil {
		return err
	}
	r := kafka.NewReader(kafka.ReaderConfig{
		Dialer:  &kafka.Dialer{Timeout: 10 * time.Second, DualStack: true, SASLMechanism: login},
		Brokers: t.Brokers, Topic: t.Topic, Partition: p.Partition,
		MinBytes: 1, MaxBytes: 16 << 20, MaxWait: 100 * time.Millisecond,
	})
	defer r.Close()
	if err := r.SetOffset(kafka.FirstOffset); err != nil {
		return err
	}
	for next := int64(0); next < p.End; {
		m, err := r.ReadMessage(ctx)
		if err != nil {
			return err
		}
		next = m.Offset + 1
		ids, err := identities(m.Value)
		if err != nil {
			return fmt.Errorf("offset %d: %w", m.Offset, err)
		}
		for i, id := range ids {
			rows[Place{Partition: p.Partition, Offset: m.Offset, Row: uint32(i)}] = id
		}
	}
	return nil
}

// identities reads the column id of a message.
func identities(value []byte) ([]gen.ID, error) {
	r, err := ipc.NewReader(bytes.NewReader(value))
	if err != nil {
		return nil, err
	}
	defer r.Release()
	at := r.Schema().FieldIndices("id")
	if len(at) != 1 {
		return nil, errors.New("the message has no column id")
	}
	var out []gen.ID
	for r.Next() {
		column, ok := r.Record().Column(at[0]).(*array.FixedSizeBinary)
		if !ok {
			return nil, errors.New("the column id is not of fixed size")
		}
		for i := range column.Len() {
			out = append(out, gen.ID(column.Value(i)))
		}
	}
	if err := r.Err(); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return out, nil
}
