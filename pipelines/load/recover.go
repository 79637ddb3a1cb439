package load

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/platform/seam"
	"github.com/tollway/tollway/sql"
)

var (
	queryRecent = sql.ClickHouseQuery("recent")
	queryStored = sql.ClickHouseQuery("stored")
	queryLanded = sql.ClickHouseQuery("landed")
)

// stopInserts ends inserts of this partition that may still run, of this
// process or of an owner before it, and waits for their end: two inserts with
// one token at the same time could both be stored.
func (p *Partition) stopInserts(ctx context.Context, r Range) error {
	err := p.db.Exec(ctx, "KILL QUERY WHERE query_id = {id:String} SYNC", map[string]any{"id": writerID(p.db, uint16(r.Partition))})
	if err != nil {
		return fmt.Errorf("stop earlier inserts: %w", err)
	}
	return nil
}

// recover stores what is missing of a range.
func (p *Partition) recover(ctx context.Context, r Range, b *call.Batch, valid func() error, s span) error {
	if b.Rows() == 0 {
		return nil
	}
	if seam.Broken("read_back") {
		return p.insert(ctx, r, b, r.token("calls"), valid, s)
	}
	p.metrics.recoveries.Inc()
	if err := p.retry(ctx, "stop earlier inserts", func(ctx context.Context) error { return p.stopInserts(ctx, r) }); err != nil {
		return err
	}
	landed, err := p.landed(ctx, r, s)
	if err != nil {
		return err
	}
	// Only what is not there at all is inserted as a whole. A row that is there is
	// not inserted again, token or not: the catalog may have changed in between,
	// and a row under another account would not be recognised as the same one.
	if landed.count(b) == 0 {
		if err := p.insert(ctx, r, b, r.token("calls"), valid, s); err != nil {
			return err
		}
	}
	return p.verify(ctx, r, b, valid, s)
}

// maxRepairs bounds how often a range is repaired before an operator has to
// look: each repair that succeeds makes the next one unnecessary.
const maxRepairs = 10

// verify reads a range back, stores rows that are missing, and then sees to it
// that the rollups say what raw says.
func (p *Partition) verify(ctx context.Context, r Range, b *call.Batch, valid func() error, s span) error {
	touched := touchedBy(b)
	for n := range maxRepairs {
		landed, err := p.landed(ctx, r, s)
		if err != nil {
			return err
		}
		missing := landed.missing(b)
		if missing == nil {
			return p.repairRollups(ctx, r, touched, valid)
		}
		p.metrics.repairs.WithLabelValues("calls").Inc()
		p.log.Warn().Int32("partition", r.Partition).Int64("from", r.From).Int64("to", r.To).
			Int("rows", count(missing)).Msg("storing rows that an interrupted insert lost")
		rest := b.Select(missing)
		// A token of its own: the engine may remember the first one without
		// having the rows.
		token := fmt.Sprintf("%s|repair|%d|%d", r.token("calls"), n, time.Now().UnixNano())
		if err := p.insertOnce(ctx, r, rest, token, valid); err != nil {
			return err
		}
	}
	return fmt.Errorf("rows %d to %d of partition %d are still missing after %d repairs", r.From, r.To, r.Partition, maxRepairs)
}

// insertOnce inserts without a retry of its own: whatever comes of it, the
// range is read back.
func (p *Partition) insertOnce(ctx context.Context, r Range, b *call.Batch, token string, valid func() error) error {
	version := p.attribute(b)
	block, err := call.EncodeInsert(nil, b, call.Provenance{Epoch: r.Epoch, Partition: uint16(r.Partition), CatalogVersion: version})
	if err != nil {
		return err
	}
	refused := false
	err = exclusively(ctx, func() error {
		if err := valid(); err != nil {
			refused = true
			return err
		}
		return p.db.InsertArrow(ctx, "calls", insertColumns, p.insertSettings(r, token, b.Rows()), strings.NewReader(call.Alias(block)))
	})
	if err == nil || refused {
		return err
	}
	p.log.Warn().Err(err).Int32("partition", r.Partition).Msg("repair insert: reading back")
	return p.retry(ctx, "stop earlier inserts", func(ctx context.Context) error { return p.stopInserts(ctx, r) })
}

// place is a row's place in a range.
type place struct {
	offset int64
	row    uint32
}

type places map[place]struct{}

func (l places) has(b *call.Batch, i int) bool {
	_, ok := l[place{b.Offset[i], b.Row[i]}]
	return ok
}

func (l places) count(b *call.Batch) (n int) {
	for i := range b.Rows() {
		if l.has(b, i) {
			n++
		}
	}
	return n
}

// missing marks the rows of b that are not stored; nil when all are.
func (l places) missing(b *call.Batch) []bool {
	if l.count(b) == b.Rows() {
		return nil
	}
	out := make([]bool, b.Rows())
	for i := range out {
		out[i] = !l.has(b, i)
	}
	return out
}

func count(marks []bool) (n int) {
	for _, m := range marks {
		if m {
			n++
		}
	}
	return n
}

func (p *Partition) landed(ctx context.Context, r Range, s span) (places, error) {
	var out places
	err := p.retry(ctx, "read back", func(ctx context.Context) error {
		out = make(places)
		rows, err := p.db.Query(ctx, queryLanded, map[string]any{
			"epoch": r.Epoch, "partition": uint16(r.Partition), "from_offset": r.From, "to_offset": r.To, "from": s.from, "to": s.to,
		})
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var at place
			if err := rows.Scan(&at.offset, &at.row); err != nil {
				return err
			}
			out[at] = struct{}{}
		}
		return rows.Err()
	})
	return out, err
}

// touched is the minutes in which a batch has calls, since the epoch.
type touched map[int64]struct{}

func touchedBy(b *call.Batch) touched {
	t := make(touched)
	for _, us := range b.Time {
		t[us/60e6] = struct{}{}
	}
	return t
}

func (t touched) buckets(seconds int64) []time.Time {
	set := make(map[int64]struct{})
	for minute := range t {
		set[minute*60/seconds] = struct{}{}
	}
	return bucketTimes(set, seconds)
}

// since leaves out buckets that begin before a time.
func since(buckets []time.Time, from time.Time) []time.Time {
	first, _ := slices.BinarySearchFunc(buckets, from, time.Time.Compare)
	return buckets[first:]
}

// bucketChunk bounds the list of buckets in one query.
const bucketChunk = 500

func (p *Partition) repairRollups(ctx context.Context, r Range, t touched, valid func() error) error {
	var horizon time.Time
	err := p.retry(ctx, "read the retention", func(ctx context.Context) (err error) {
		horizon, err = Horizon(ctx, p.db)
		return err
	})
	if err != nil {
		return err
	}
	for _, u := range rollups {
		for buckets := range slices.Chunk(since(t.buckets(u.seconds), horizon), bucketChunk) {
			if err := p.repairRollup(ctx, r, u, buckets, valid); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Partition) repairRollup(ctx context.Context, r Range, u Rollup, buckets []time.Time, valid func() error) error {
	for range maxRepairs {
		var difference Difference
		err := p.retry(ctx, "compare "+u.table, func(ctx context.Context) (err error) {
			difference, err = u.Differences(ctx, p.db, uint16(r.Partition), buckets)
			return err
		})
		if err != nil || difference.Keys == 0 {
			return err
		}
		p.metrics.repairs.WithLabelValues(u.table).Inc()
		p.log.Warn().Int32("partition", r.Partition).Str("table", u.table).Uint64("keys", difference.Keys).
			Msg("making a rollup equal to raw")
		if err := valid(); err != nil {
			return err
		}
		if err := u.Repair(ctx, p.db, uint16(r.Partition), buckets); err != nil {
			p.log.Warn().Err(err).Str("table", u.table).Msg("repair rollup: comparing again")
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := p.retry(ctx, "stop earlier inserts", func(ctx context.Context) error { return p.stopInserts(ctx, r) }); err != nil {
				return err
			}
		}
	}
	return errors.New("rollup " + u.table + " still differs from raw after " + fmt.Sprint(maxRepairs) + " repairs")
}
