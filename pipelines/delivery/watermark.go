package delivery

import (
	"context"
	"time"

	"github.com/tollway/tollway/services/platform/kafkaio"
)

// Watermark reads from the log and the group's commits up to when everything
// is stored. It needs no consumer in this process, so every process of a
// cluster sees the same.
type Watermark struct {
	client *kafkaio.Client
	cfg    Config
}

// NewWatermark makes one for the topic and group of cfg.
func NewWatermark(client *kafkaio.Client, cfg Config) *Watermark {
	cfg.Fetch.MaxWait = time.Second
	return &Watermark{client: client, cfg: cfg}
}

// Complete is the time up to which all calls that were acknowledged to their
// sources are stored: when the first message that is not stored was written,
// or now when all are.
func (w *Watermark) Complete(ctx context.Context) (time.Time, error) {
	out := time.Now()
	log, err := w.client.Offsets(ctx, w.cfg.Topic)
	if err != nil {
		return time.Time{}, err
	}
	partitions := make([]int32, 0, len(log))
	for p := range log {
		partitions = append(partitions, p)
	}
	committed, err := w.client.FetchOffsets(ctx, w.cfg.Group.GroupID, w.cfg.Topic, partitions)
	if err != nil {
		return time.Time{}, err
	}
	for p, bounds := range log {
		// An intent keeps its offset until the next commit: what it promises may
		// be stored already, and counts as not stored.
		next := max(committed[p].Offset, bounds.First)
		if next >= bounds.Last {
			continue
		}
		res, err := kafkaio.NewFetcher(w.client, w.cfg.Topic, p, next, w.cfg.Fetch).Next(ctx)
		if err != nil {
			return time.Time{}, err
		}
		if len(res.Messages) > 0 && res.Messages[0].Time.Before(out) {
			out = res.Messages[0].Time
		}
	}
	return out, nil
}
