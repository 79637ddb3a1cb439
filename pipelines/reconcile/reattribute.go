package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/pipelines/load"
	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/seam"
	"github.com/tollway/tollway/sql"
)

var (
	queryCalls    = sql.ClickHouseQuery("reattribute_calls")
	queryReplaced = sql.ClickHouseQuery("reattribute_replaced")
	queryDelete   = sql.ClickHouseQuery("reattribute_delete")
	queryRewrite  = rewriting(sql.ClickHouseQuery("reattribute_insert"))
)

// Catalog says who called what. It is one state of the catalog: the version of
// which is the same every time.
type Catalog interface {
	Attribute(*call.Batch) (version uint64)
	Version() uint64
}

// Moved is how many calls went from one account and product to another. Where
// both are the same, something else about the calls changed.
type Moved struct {
	FromAccount string `json:"from_account"`
	FromProduct string `json:"from_product"`
	ToAccount   string `json:"to_account"`
	ToProduct   string `json:"to_product"`
	Calls       uint64 `json:"calls"`
}

// Reattributed is what came of attributing a range again.
type Reattributed struct {
	Version uint64  `json:"catalog_version"`
	Calls   uint64  `json:"calls"` // that changed
	Moved   []Moved `json:"moved"` // the most first
	// Sealed hours that were recorded anew.
	Sealed []time.Time `json:"sealed_hours"`
}

// Reattribute attributes the stored calls of a range again, by the catalog as it
// is now, and makes the rollups follow. It works hour by hour, beside whatever
// else runs. progress is told of each hour that is done.
//
// # How a call changes its account
//
// Account and product are part of the key of calls, so a call is not updated: it
// is inserted once more with its new attribution, under the same identity and
// the same place in the log and with the version of the catalog; then rows of
// which there is one by a newer catalog are deleted; then the rollups, which
// have got the new rows through their views, are made equal to raw. In between a
// changed call counts twice, for as long as its hour takes.
//
// Of several rows of one identity the one by the newest catalog is the call. This
// is why every step may be cut off and done again: rows that were inserted are
// found and not inserted again, what is left to delete is found by looking, and
// so is by how much a rollup differs. There is always a row of every call. Calls
// by this catalog or a newer one are left as they are.
func Reattribute(ctx context.Context, shards []*clickhouse.DB, catalog Catalog, r Range, progress func(done, total int)) (Reattributed, error) {
	a := reattribution{catalog: catalog, dry: r.DryRun, moved: map[Moved]uint64{}, out: Reattributed{Version: catalog.Version()}, step: seam.Point}
	return a.run(ctx, shards, r, progress)
}

type reattribution struct {
	catalog Catalog
	dry     bool
	shards  []keeper
	sealer  *Sealer
	moved   map[Moved]uint64
	out     Reattributed
	step    func(name string)
}

func (a *reattribution) run(ctx context.Context, shards []*clickhouse.DB, r Range, progress func(done, total int)) (Reattributed, error) {
	if a.out.Version == 0 {
		return a.out, errors.New("the catalog is empty: nothing can be attributed by it")
	}
	if !r.From.Before(r.To) {
		return a.out, fmt.Errorf("the range is empty: %s is not before %s", r.From.Format(time.RFC3339), r.To.Format(time.RFC3339))
	}
	if r.QueryTime == 0 {
		r.QueryTime = time.Hour
	}
	for _, db := range shards {
		k := newKeeper(db, r.QueryTime)
		k.found = func(string, time.Time, uint16, load.Difference) {}
		a.shards = append(a.shards, k)
	}
	a.sealer = &Sealer{deps: Deps{Shards: shards}, shards: a.shards}
	horizon, err := horizonOf(ctx, a.shards)
	if err != nil {
		return a.out, err
	}
	if r.From.Before(horizon) {
		return a.out, fmt.Errorf("calls that start before %s are being dropped, and calls can be attributed from there on only", horizon.Format(time.RFC3339))
	}
	b := rebuild{shards: a.shards}
	hours, err := b.hours(ctx, r.From.UTC().Truncate(time.Hour), r.To.Add(time.Hour-1).UTC().Truncate(time.Hour))
	if err != nil {
		return a.out, err
	}
	for i, hour := range hours {
		last := i == len(hours)-1 || !hours[i+1].Truncate(day).Equal(hour.Truncate(day))
		if err := a.hour(ctx, hour, last); err != nil {
			return a.sum(), fmt.Errorf("attribute %s: %w", hour.Format(time.RFC3339), err)
		}
		if progress != nil {
			progress(i+1, len(hours))
		}
	}
	return a.sum(), nil
}

func (a *reattribution) sum() Reattributed {
	a.out.Moved = nil
	for m, n := range a.moved {
		m.Calls = n
		a.out.Moved = append(a.out.Moved, m)
	}
	slices.SortFunc(a.out.Moved, func(x, y Moved) int {
		return cmp.Or(cmp.Compare(y.Calls, x.Calls), cmp.Compare(x.FromAccount, y.FromAccount), cmp.Compare(x.FromProduct, y.FromProduct),
			cmp.Compare(x.ToAccount, y.ToAccount), cmp.Compare(x.ToProduct, y.ToProduct))
	})
	return a.out
}

// hour attributes an hour, and with the last one of a day makes the day's rollup
// follow.
func (a *reattribution) hour(ctx context.Context, hour time.Time, lastOfDay bool) error {
	changed := false
	for _, k := range a.shards {
		n, err := a.rewrite(ctx, k, hour)
		if err != nil {
			return err
		}
		if a.dry {
			continue
		}
		a.step("reattribute.inserted")
		replaced, err := a.replace(ctx, k, hour)
		if err != nil {
			return err
		}
		a.step("reattribute.deleted")
		s, err := k.settleHour(ctx, hour)
		if err != nil {
			return err
		}
		changed = changed || n > 0 || replaced || s.repaired
	}
	if a.dry {
		return nil
	}
	a.step("reattribute.settled")
	if changed {
		if err := a.record(ctx, hour); err != nil {
			return err
		}
	}
	if !lastOfDay {
		return nil
	}
	_, err := onEach(ctx, a.shards, func(ctx context.Context, k keeper) (bool, error) { return k.settleDay(ctx, hour.Truncate(day)) })
	return err
}

// record records a sealed hour anew. A pass of the sealer that has read the hour
// while calls were in it twice began before, and its record goes behind this
// one.
func (a *reattribution) record(ctx context.Context, hour time.Time) error {
	sealed, err := a.sealer.sealedAt(ctx, hour, hour.Add(time.Hour))
	if err != nil {
		return err
	}
	if _, ok := sealed[hour]; !ok {
		return nil
	}
	now, err := a.sealer.clock(ctx)
	if err != nil {
		return err
	}
	record, err := a.sealer.settle(ctx, hour)
	if err != nil {
		return err
	}
	for i := range record {
		record[i].Repaired = true
	}
	a.out.Sealed = append(a.out.Sealed, hour)
	return a.sealer.record(ctx, hour, record, now)
}

// replace deletes what an insert of this or an interrupted run replaced.
func (a *reattribution) replace(ctx context.Context, k keeper, hour time.Time) (bool, error) {
	params := map[string]any{"from": hour, "to": hour.Add(time.Hour)}
	var n uint64
	if err := k.db.QueryRow(ctx, queryReplaced, params, k.options...).Scan(&n); err != nil {
		return false, fmt.Errorf("look for replaced calls: %w", err)
	}
	if n == 0 {
		return false, nil
	}
	settings := clickhouse.WithSettings(map[string]any{
		"lightweight_deletes_sync": 2, // returns when it is done on all replicas
		// Each replica finds out by itself what was replaced.
		"allow_nondeterministic_mutations": 1,
	})
	if err := k.db.Exec(ctx, queryDelete, params, append(slices.Clone(k.options), settings)...); err != nil {
		return false, fmt.Errorf("delete replaced calls: %w", err)
	}
	return true, nil
}

const (
	// attributeRows is how many calls are attributed at once.
	attributeRows = 50_000
	// rewriteRows is how many calls one statement rewrites; it bounds its text.
	rewriteRows = 20_000
	// maxMoved bounds what is told of a run.
	maxMoved = 10_000
)

// attributed are the columns that attribution sets, in the order of the
// parameters of reattribute_insert.sql.
var attributed = [...]call.StringColumn{
	call.Credential, call.App, call.Account, call.Product, call.Plan, call.Subscription, call.API, call.Operation,
}

type attribution [len(attributed)]string

// rewriting completes the statement with the columns of a call.
func rewriting(text string) string {
	columns := call.InsertColumns()
	values := make([]string, len(columns))
	for i, c := range columns {
		values[i] = "c." + c
		if c == "catalog_version" {
			values[i] = "{version:UInt64}"
		}
		for _, a := range attributed {
			if c == a.String() {
				values[i] = "{" + c + ":Array(String)}[n.which]"
			}
		}
	}
	return strings.NewReplacer("${columns}", strings.Join(columns, ", "), "${values}", strings.Join(values, ", ")).Replace(text)
}

// pending is calls of one partition that are to be rewritten.
type pending struct {
	ids    []string
	which  []uint32 // numbers in values, from 1 on
	number map[attribution]uint32
	values []attribution
}

func (p *pending) add(id string, to attribution) {
	if p.number == nil {
		p.number = map[attribution]uint32{}
	}
	n, ok := p.number[to]
	if !ok {
		p.values = append(p.values, to)
		n = uint32(len(p.values))
		p.number[to] = n
	}
	p.ids, p.which = append(p.ids, id), append(p.which, n)
}

// rewrite inserts the calls of an hour of which the catalog says something else
// now, and returns how many they are.
func (a *reattribution) rewrite(ctx context.Context, k keeper, hour time.Time) (n int, err error) {
	// An interrupted run may have left rows of which there is a newer one by now.
	if !a.dry {
		if _, err := a.replace(ctx, k, hour); err != nil {
			return 0, err
		}
	}
	rows, err := k.db.Query(ctx, queryCalls, map[string]any{"from": hour, "to": hour.Add(time.Hour), "version": a.out.Version}, k.options...)
	if err != nil {
		return 0, fmt.Errorf("read calls: %w", err)
	}
	defer rows.Close()
	w := rewriter{reattribution: a, keeper: k, hour: hour, batch: call.NewBatch(), pending: map[uint16]*pending{}}
	for rows.Next() {
		if err := w.scan(rows); err != nil {
			return w.changed, fmt.Errorf("read calls: %w", err)
		}
		if w.batch.Rows() == attributeRows {
			if err := w.attribute(ctx, rewriteRows); err != nil {
				return w.changed, err
			}
		}
	}
	if err := rows.Err(); err != nil {
		return w.changed, fmt.Errorf("read calls: %w", err)
	}
	return w.changed, w.attribute(ctx, 1)
}

// rewriter attributes the calls of an hour of one shard.
type rewriter struct {
	*reattribution
	keeper  keeper
	hour    time.Time
	batch   *call.Batch
	ids     []string // of the rows of the batch, hexadecimal
	parts   []uint16
	pending map[uint16]*pending
	changed int
}

func (w *rewriter) scan(rows clickhouse.Rows) error {
	var c call.Call
	c.Reset()
	var id string
	var partition uint16
	s := &c.Strings
	err := rows.Scan(&id, &partition, &c.Time, &s[call.Credential], &s[call.App], &s[call.Account], &s[call.Product], &s[call.Plan],
		&s[call.Subscription], &s[call.API], &s[call.Operation], &s[call.Environment], &s[call.Method], &s[call.Host], &c.Path)
	if err != nil {
		return err
	}
	w.batch.Append(&c)
	w.ids, w.parts = append(w.ids, id), append(w.parts, partition)
	return nil
}

// attribute finds what changes in the batch, and rewrites the calls of
// partitions of which at least a number wait for it.
func (w *rewriter) attribute(ctx context.Context, atLeast int) error {
	var before [len(attributed)][]uint32
	for i, column := range attributed {
		before[i] = slices.Clone(w.batch.Strings[column].Index)
	}
	w.catalog.Attribute(w.batch)
	for row := range w.batch.Rows() {
		w.compare(row, &before)
	}
	w.batch.Reset()
	w.ids, w.parts = w.ids[:0], w.parts[:0]
	for _, partition := range slices.Sorted(maps.Keys(w.pending)) {
		if p := w.pending[partition]; len(p.ids) >= atLeast {
			delete(w.pending, partition)
			if err := w.insert(ctx, partition, p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *rewriter) compare(row int, before *[len(attributed)][]uint32) {
	same := true
	var from, to attribution
	for i, column := range attributed {
		d := &w.batch.Strings[column]
		same = same && before[i][row] == d.Index[row]
		from[i], to[i] = d.Values[before[i][row]], d.Value(row)
	}
	if same {
		return
	}
	w.changed++
	w.out.Calls++
	m := Moved{FromAccount: from[2], FromProduct: from[3], ToAccount: to[2], ToProduct: to[3]}
	if _, known := w.moved[m]; !known && len(w.moved) >= maxMoved {
		m = Moved{FromAccount: "(other)", FromProduct: "(other)", ToAccount: "(other)", ToProduct: "(other)"}
	}
	w.moved[m]++
	if w.dry {
		return
	}
	partition := w.parts[row]
	if w.pending[partition] == nil {
		w.pending[partition] = &pending{}
	}
	w.pending[partition].add(w.ids[row], to)
}

// insert writes the calls in statements of bounded size.
func (w *rewriter) insert(ctx context.Context, partition uint16, p *pending) error {
	params := map[string]any{"partition": partition, "from": w.hour, "to": w.hour.Add(time.Hour), "version": w.out.Version}
	for i, column := range attributed {
		values := make([]string, len(p.values))
		for j, v := range p.values {
			values[j] = v[i]
		}
		params[column.String()] = values
	}
	settings := clickhouse.WithSettings(map[string]any{"async_insert": 0, "insert_deduplicate": 0, "deduplicate_insert": "disable"})
	for from := 0; from < len(p.ids); from += rewriteRows {
		to := min(from+rewriteRows, len(p.ids))
		params["ids"], params["which"] = p.ids[from:to], p.which[from:to]
		if err := load.AsWriter(ctx, w.keeper.db, partition, queryRewrite, params, append(slices.Clone(w.keeper.options), settings)...); err != nil {
			return fmt.Errorf("rewrite %d calls of partition %d: %w", to-from, partition, err)
		}
		w.step("reattribute.rewritten")
	}
	return nil
}
