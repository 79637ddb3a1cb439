package kafkaio

import (
	"context"
	"errors"
	"fmt"

	kafka "github.com/segmentio/kafka-go"
)

// Committed is what a group has stored for one partition. Offset is -1 when it
// has stored nothing yet.
type Committed struct {
	Offset   int64
	Metadata string
}

// FetchOffsets reads what a group has committed for partitions of a topic. The
// result has an entry for every partition asked for.
func (c *Client) FetchOffsets(ctx context.Context, group, topic string, partitions []int32) (map[int32]Committed, error) {
	out := make(map[int32]Committed, len(partitions))
	want := make([]int, len(partitions))
	for i, p := range partitions {
		want[i] = int(p)
	}
	if len(want) == 0 {
		return out, nil
	}
	err := c.retry(ctx, "offset_fetch", func() error {
		clear(out)
		ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
		defer cancel()
		res, err := c.kafka.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{topic: want}})
		if err != nil {
			return err
		}
		if errors.Is(res.Error, kafka.GroupIdNotFound) {
			// Some brokers say it this way, others with offset -1.
			for _, p := range partitions {
				out[p] = Committed{Offset: -1}
			}
			return nil
		}
		if res.Error != nil {
			return res.Error
		}
		for _, p := range res.Topics[topic] {
			if p.Error != nil {
				return p.Error
			}
			out[int32(p.Partition)] = Committed{Offset: p.CommittedOffset, Metadata: p.Metadata}
		}
		for _, p := range partitions {
			if _, ok := out[p]; !ok {
				// Taking a missing answer for "nothing committed" would read the
				// partition from its start again.
				return fmt.Errorf("the coordinator's answer lacks partition %d", p)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("fetch offsets of group %s, topic %s: %w", group, topic, err)
	}
	return out, nil
}

// CommitOffset stores the offset to continue from, with metadata beside it, on
// behalf of one member of one generation. It answers ErrFenced when that
// generation is over, and then nothing was stored by this call. Passing errors
// are retried until the context ends; after such an error the commit may or may
// not have been stored.
func (c *Client) CommitOffset(ctx context.Context, group string, generation int32, memberID, topic string, partition int32, offset int64, metadata string) error {
	err := c.retry(ctx, "offset_commit", func() error {
		ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
		defer cancel()
		res, err := c.kafka.OffsetCommit(ctx, &kafka.OffsetCommitRequest{
			GroupID: group, GenerationID: int(generation), MemberID: memberID,
			Topics: map[string][]kafka.OffsetCommit{topic: {{Partition: int(partition), Offset: offset, Metadata: metadata}}},
		})
		if err != nil {
			return err
		}
		for _, p := range res.Topics[topic] {
			if p.Partition == int(partition) {
				return fencing(p.Error)
			}
		}
		return errors.New("the coordinator's answer does not name the partition")
	})
	if err != nil {
		return fmt.Errorf("commit offset %d of %s/%d for group %s: %w", offset, topic, partition, group, err)
	}
	return nil
}

// fencing turns the coordinator's refusals into ErrFenced. The library's error
// is kept as text only: some of its codes count as passing, this one never is.
func fencing(err error) error {
	if err != nil && fenced(err) {
		return &fencedError{cause: err}
	}
	return err
}

type fencedError struct{ cause error }

// Error tells what the coordinator said.
func (e *fencedError) Error() string { return fmt.Sprintf("%v (%v)", ErrFenced, e.cause) }

// Unwrap makes errors.Is(err, ErrFenced) true.
func (e *fencedError) Unwrap() error { return ErrFenced }
