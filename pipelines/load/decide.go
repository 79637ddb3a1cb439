package load

import (
	"bytes"
	"context"
	"encoding/hex"
	"slices"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tollway/tollway/pipelines/call"
)

// Fates of calls that were accepted and are not in calls.
const (
	duplicate   = "duplicate"
	quarantined = "quarantined"
)

// discard is one call that is not stored, and why.
type discard struct {
	id               call.ID
	source           string
	time, receivedAt int64
	fate, reason     string
	offset           int64
	row              uint32
}

// decide drops from b what is not to be stored and returns it. While
// recovering, rows of this range that are stored already do not make
// themselves duplicates.
func (p *Partition) decide(ctx context.Context, r Range, b *call.Batch, recovering bool, s span) ([]discard, error) {
	rows := b.Rows()
	p.keep = slices.Grow(p.keep[:0], rows)[:rows]
	var dropped []discard
	drop := func(i int, fate, reason string) {
		p.keep[i] = false
		dropped = append(dropped, discard{
			id: b.ID[i], source: b.Strings[call.Source].Value(i), time: b.Time[i], receivedAt: b.ReceivedAt[i],
			fate: fate, reason: reason, offset: b.Offset[i], row: b.Row[i],
		})
		p.metrics.discarded.WithLabelValues(fate, reason).Inc()
	}

	future, retention := p.cfg.FutureLimit.Microseconds(), p.cfg.Retention.Microseconds()
	first := make(map[call.ID]struct{}, rows)
	var lookup []int
	for i := range rows {
		p.keep[i] = true
		id, at := b.ID[i], b.Time[i]
		switch {
		case at > b.ReceivedAt[i]+future:
			drop(i, quarantined, "starts in the future")
			continue
		case at < b.ReceivedAt[i]-retention || at < 0:
			drop(i, quarantined, "older than the retention")
			continue
		}
		if _, again := first[id]; again {
			drop(i, duplicate, "in the same batch")
			continue
		}
		first[id] = struct{}{}
		switch {
		case recovering || at < p.hot.Horizon():
			// An older call can still be in memory: no need to ask then.
			if !recovering && p.hot.Contains(id) {
				drop(i, duplicate, "stored before")
			} else {
				lookup = append(lookup, i)
			}
		case p.hot.Contains(id):
			drop(i, duplicate, "stored before")
		}
	}
	if err := p.lookUp(ctx, r, b, lookup, s, func(i int) { drop(i, duplicate, "stored before") }); err != nil {
		return nil, err
	}
	if len(dropped) > 0 {
		b.Keep(p.keep)
	}
	return dropped, nil
}

// lookupChunk bounds the text of one query.
const lookupChunk = 4000

// lookUp asks ClickHouse which of the calls are stored, other than from this
// very range and row.
func (p *Partition) lookUp(ctx context.Context, r Range, b *call.Batch, rows []int, s span, stored func(int)) error {
	for chunk := range slices.Chunk(rows, lookupChunk) {
		at := make(map[call.ID]int, len(chunk))
		ids := make([]string, 0, len(chunk))
		hours := make(map[int64]struct{})
		for _, i := range chunk {
			at[b.ID[i]] = i
			ids = append(ids, hex.EncodeToString(b.ID[i][:]))
			hours[b.Time[i]/1e6/3600] = struct{}{}
		}
		params := map[string]any{"ids": ids, "hours": bucketTimes(hours, 3600), "from": s.from, "to": s.to}
		p.metrics.lookups.Add(float64(len(chunk)))
		var hits []int
		err := p.retry(ctx, "look up earlier calls", func(ctx context.Context) error {
			hits = hits[:0]
			found, err := p.db.Query(ctx, queryStored, params)
			if err != nil {
				return err
			}
			defer found.Close()
			for found.Next() {
				var id string
				var epoch, row uint32
				var partition uint16
				var offset int64
				if err := found.Scan(&id, &epoch, &partition, &offset, &row); err != nil {
					return err
				}
				i := at[call.ID([]byte(id))]
				if epoch == r.Epoch && int32(partition) == r.Partition && offset == b.Offset[i] && row == b.Row[i] {
					continue // landed, not a copy
				}
				hits = append(hits, i)
			}
			return found.Err()
		})
		if err != nil {
			return err
		}
		slices.Sort(hits)
		for _, i := range slices.Compact(hits) {
			stored(i)
		}
	}
	return nil
}

func bucketTimes(buckets map[int64]struct{}, seconds int64) []time.Time {
	out := make([]time.Time, 0, len(buckets))
	for b := range buckets {
		out = append(out, time.Unix(b*seconds, 0).UTC())
	}
	slices.SortFunc(out, time.Time.Compare)
	return out
}

var discardSchema = arrow.NewSchema([]arrow.Field{
	{Name: "id", Type: &arrow.FixedSizeBinaryType{ByteWidth: 16}},
	{Name: "source", Type: arrow.BinaryTypes.String},
	{Name: "time", Type: arrow.FixedWidthTypes.Timestamp_us},
	{Name: "received_at", Type: arrow.FixedWidthTypes.Timestamp_us},
	{Name: "fate", Type: arrow.BinaryTypes.String},
	{Name: "reason", Type: arrow.BinaryTypes.String},
	{Name: "epoch", Type: arrow.PrimitiveTypes.Uint32},
	{Name: "partition", Type: arrow.PrimitiveTypes.Uint16},
	{Name: "offset", Type: arrow.PrimitiveTypes.Int64},
	{Name: "row", Type: arrow.PrimitiveTypes.Uint32},
}, nil)

var discardColumns = func() (names []string) {
	for _, f := range discardSchema.Fields() {
		names = append(names, f.Name)
	}
	return names
}()

// insertDiscards records the fates. The table keeps one row per place in the
// log, so inserting them again changes nothing.
func (p *Partition) insertDiscards(ctx context.Context, r Range, dropped []discard, valid func() error) error {
	if len(dropped) == 0 {
		return nil
	}
	b := array.NewRecordBuilder(memory.DefaultAllocator, discardSchema)
	defer b.Release()
	for i := range dropped {
		d := &dropped[i]
		b.Field(0).(*array.FixedSizeBinaryBuilder).Append(d.id[:])
		b.Field(1).(*array.StringBuilder).Append(d.source)
		b.Field(2).(*array.TimestampBuilder).Append(arrow.Timestamp(p.storable(d.time)))
		b.Field(3).(*array.TimestampBuilder).Append(arrow.Timestamp(d.receivedAt))
		b.Field(4).(*array.StringBuilder).Append(d.fate)
		b.Field(5).(*array.StringBuilder).Append(d.reason)
		b.Field(6).(*array.Uint32Builder).Append(r.Epoch)
		b.Field(7).(*array.Uint16Builder).Append(uint16(r.Partition))
		b.Field(8).(*array.Int64Builder).Append(d.offset)
		b.Field(9).(*array.Uint32Builder).Append(d.row)
	}
	record := b.NewRecord()
	defer record.Release()
	var block bytes.Buffer
	w := ipc.NewWriter(&block, ipc.WithSchema(discardSchema))
	if err := w.Write(record); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	settings := p.insertSettings(r, r.token("discards"), len(dropped))
	delete(settings, "query_id")
	return p.retry(ctx, "insert discards", func(ctx context.Context) error {
		if err := valid(); err != nil {
			return &stopError{err}
		}
		return p.db.InsertArrow(ctx, "discards", discardColumns, settings, bytes.NewReader(block.Bytes()))
	})
}

// storable moves a start time that the column type cannot hold (years 1900 to
// 2299) to its edge: the call is quarantined for it.
func (p *Partition) storable(us int64) int64 {
	return min(max(us, minTime), maxTime)
}

var (
	minTime = time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	maxTime = time.Date(2299, 12, 31, 0, 0, 0, 0, time.UTC).UnixMicro()
)
