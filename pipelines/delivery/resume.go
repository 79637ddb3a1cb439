package delivery

import (
	"context"
	"errors"
	"fmt"

	"github.com/tollway/tollway/services/platform/kafkaio"
)

// Resumed is what Resume decided for a partition.
type Resumed struct {
	Partition int32
	// Before is the offset that was committed, -1 for none.
	Before int64
	From   int64
	Epoch  uint32
}

// Where a stopped partition can be told to continue.
const (
	Earliest = kafkaio.FirstOffset
	Latest   = kafkaio.LastOffset
)

// Resume lets a stopped partition continue at an offset, Earliest or Latest,
// in a new epoch: the offsets of a log that was lost or made anew mean other
// calls than before, and must not be taken for them. An intent that was pending
// is given up: what it had not stored is lost, which is why only an operator
// does this. No consumer of the group may be running.
func Resume(ctx context.Context, client *kafkaio.Client, cfg Config, partition int32, from int64) (Resumed, error) {
	found, err := client.FetchOffsets(ctx, cfg.Group.GroupID, cfg.Topic, []int32{partition})
	if err != nil {
		return Resumed{}, err
	}
	log, err := client.Offsets(ctx, cfg.Topic)
	if err != nil {
		return Resumed{}, err
	}
	bounds, ok := log[partition]
	if !ok {
		return Resumed{}, fmt.Errorf("topic %s has no partition %d", cfg.Topic, partition)
	}
	switch {
	case from == Earliest:
		from = bounds.First
	case from == Latest:
		from = bounds.Last
	case from < bounds.First || from > bounds.Last:
		return Resumed{}, fmt.Errorf("partition %d holds offsets %d to %d, not %d", partition, bounds.First, bounds.Last, from)
	}
	st, err := parseState(found[partition].Metadata)
	if err != nil && !errors.Is(err, errMetadata) {
		return Resumed{}, err
	}
	out := Resumed{Partition: partition, Before: found[partition].Offset, From: from, Epoch: st.epoch + 1}
	err = client.CommitOffset(ctx, cfg.Group.GroupID, -1, "", cfg.Topic, partition, from, state{epoch: out.Epoch}.String())
	if errors.Is(err, kafkaio.ErrFenced) {
		return Resumed{}, errors.New("the pipelines are running: stop every process that runs them first")
	}
	return out, err
}
