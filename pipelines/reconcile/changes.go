package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tollway/tollway/pipelines/load"
)

// clock is a time of the server such that whatever is not stored yet will be
// stored_at a later one: an insert that runs now took its time when it began.
func (r reader) clock(ctx context.Context) (time.Time, error) {
	var ms int64
	err := r.db.QueryRow(ctx, queryClock, map[string]any{"writers": load.WriterPrefix(r.db)}).Scan(&ms)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the server's clock: %w", err)
	}
	return time.UnixMilli(ms).UTC(), nil
}

// maxLists bounds how often the list of parts is read until none of them is
// merged away meanwhile.
const maxLists = 10

// touched is the hours with rows that were stored after a time, and when the
// last of them was.
func (r reader) touched(ctx context.Context, since time.Time) (map[time.Time]time.Time, error) {
	parts, err := r.parts(ctx, since)
	if err != nil {
		return nil, err
	}
	for range maxLists {
		out, err := r.hours(ctx, queryTouched, map[string]any{"parts": parts, "since": since.UnixMilli()})
		if err != nil {
			return nil, fmt.Errorf("find hours that changed: %w", err)
		}
		still, err := r.parts(ctx, since)
		if err != nil {
			return nil, err
		}
		// Parts that were merged away in between may not have been read.
		if !slices.ContainsFunc(parts, func(p string) bool { _, found := slices.BinarySearch(still, p); return !found }) {
			return out, nil
		}
		parts = still
	}
	return nil, errors.New("find hours that changed: merges are faster than the search")
}

func (r reader) parts(ctx context.Context, since time.Time) ([]string, error) {
	rows, err := r.db.Query(ctx, queryParts, map[string]any{"since": max(since.Unix()-1, 0)})
	if err != nil {
		return nil, fmt.Errorf("list parts: %w", err)
	}
	defer rows.Close()
	out := []string{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("list parts: %w", err)
		}
		out = append(out, name)
	}
	return out, rows.Err()
}

func (r reader) hours(ctx context.Context, query string, params map[string]any) (map[time.Time]time.Time, error) {
	rows, err := r.db.Query(ctx, query, params, r.options...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[time.Time]time.Time{}
	for rows.Next() {
		var hour, at time.Time
		if err := rows.Scan(&hour, &at); err != nil {
			return nil, err
		}
		out[hour.UTC()] = at
	}
	return out, rows.Err()
}

// discards counts places in the log whose call is not in raw.
type discards struct{ deduplicated, quarantined uint64 }

func (r reader) discards(ctx context.Context, hour time.Time) (map[string]discards, error) {
	rows, err := r.db.Query(ctx, queryDiscards, map[string]any{"from": hour, "to": hour.Add(time.Hour)}, r.options...)
	if err != nil {
		return nil, fmt.Errorf("count discards: %w", err)
	}
	defer rows.Close()
	out := map[string]discards{}
	for rows.Next() {
		var source string
		var d discards
		if err := rows.Scan(&source, &d.deduplicated, &d.quarantined); err != nil {
			return nil, fmt.Errorf("count discards: %w", err)
		}
		out[source] = d
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("count discards: %w", err)
	}
	return out, nil
}
