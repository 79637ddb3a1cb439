package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tollway/tollway/pipelines/load"
	"github.com/tollway/tollway/pipelines/reconcile"
	"github.com/tollway/tollway/services/platform/clickhouse"
)

// exitMissing is the exit code of a comparison that found something missing.
const exitMissing = 3

// settling is how long after a minute its calls and the gateways' own count of
// them are stored.
const settling = 2 * time.Minute

type reconcileFlags struct {
	since, from, to string
	minutes         bool
	output          string
}

func newReconcileCommand() *cobra.Command {
	f := &reconcileFlags{}
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Hold what gateways served against what arrived, and rollups against raw",
		Long: "Compares, per gateway and minute, how many calls the gateway says it served with\n" +
			"how many arrived and are stored, and shows the state of sealed hours.\n\n" +
			"Gateways count a call when it ends, and report every few seconds: a single minute\n" +
			"can be off by what ended after its last report, which the next minute then has too\n" +
			"many. 'behind' adds up the differences and comes back to zero when nothing is lost;\n" +
			"'missing' is what is missing for sure. 'dropped' is what the gateway itself says it\n" +
			"dropped of its log: what a broken connection swallowed is not in it.\n" +
			"Of sealed hours, 'deduplicated' counts copies that came; a log that an operator had\n" +
			"read again adds none.\n\n" +
			"The exit code is 3 when something is missing.",
		Example: "  tollway reconcile --since 6h\n  tollway reconcile --from 2026-11-01 --to 2026-12-01 -o csv",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SilenceUsage = true
			return f.run(cmd)
		},
	}
	(&processFlags{}).add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.since, "since", "1h", "the time up to two minutes ago: 15m, 24h, 7d, 4w")
	flags.StringVar(&f.from, "from", "", "start of the range: 2026-11-01, 2026-11-01T10:00 or with an offset (instead of --since)")
	flags.StringVar(&f.to, "to", "", "end of the range, not included (default two minutes ago)")
	flags.BoolVar(&f.minutes, "minutes", false, "show every minute, not only those that differ")
	flags.StringVarP(&f.output, "output", "o", "table", "table, json or csv (json and csv have every minute)")
	cmd.MarkFlagsMutuallyExclusive("since", "from")
	cmd.MarkFlagsMutuallyExclusive("since", "to")
	return cmd
}

// reconciled is the answer of reconcile.
type reconciled struct {
	reconcile.Comparison
	Sealed  []reconcile.Hour `json:"sealed_hours"`
	Missing int64            `json:"missing"`
}

func (f *reconcileFlags) run(cmd *cobra.Command) error {
	if !slices.Contains([]string{"table", "json", "csv"}, f.output) {
		return usageError("--output %q is not table, json or csv", f.output)
	}
	r, err := (&reportFlags{since: f.since, from: f.from, to: f.to, timeZone: "UTC"}).timeRange(time.Now().Add(-settling))
	if err != nil {
		return err
	}
	store, err := openClickHouse(cmd)
	if err != nil {
		return err
	}
	defer store.close()
	answer, err := readReconciled(cmd.Context(), store.all, r.Start, r.End)
	if err != nil {
		return err
	}
	if err := f.print(cmd.OutOrStdout(), answer); err != nil {
		return err
	}
	return answer.verdict()
}

func readReconciled(ctx context.Context, db *clickhouse.DB, from, to time.Time) (reconciled, error) {
	var answer reconciled
	var err error
	if answer.Comparison, err = reconcile.CompareServed(ctx, db, from, to); err != nil {
		return answer, err
	}
	answer.Missing = answer.Comparison.Missing()
	answer.Sealed, err = reconcile.SealedHours(ctx, db, from.UTC().Truncate(time.Hour), to)
	return answer, err
}

// verdict is an error when something is missing.
func (r reconciled) verdict() error {
	broken := 0
	for _, h := range r.Sealed {
		if !h.Whole() {
			broken++
		}
	}
	switch {
	case r.Missing > 0:
		return &exitError{exitMissing, fmt.Errorf("at least %d calls that gateways served are missing", r.Missing)}
	case broken > 0:
		return &exitError{exitMissing, fmt.Errorf("%d sealed hours do not account for all that was received", broken)}
	}
	return nil
}

func (f *reconcileFlags) print(out io.Writer, answer reconciled) error {
	switch f.output {
	case "json":
		return printJSON(out, answer)
	case "csv":
		return printReconciledCSV(out, answer)
	}
	return f.printTables(out, answer)
}

var servedColumns = []string{"from", "gateway", "served", "arrived", "difference", "complete", "behind", "missing", "dropped"}

func minuteCells(m reconcile.Minute) []string {
	return []string{m.Minute.Format("2006-01-02T15:04Z"), printable(m.Gateway), integer(m.Served), integer(m.Arrived), integer(m.Difference()),
		percent(m.Served, m.Arrived), integer(m.Behind), "", integer(m.LogsDropped)}
}

func totalCells(t reconcile.Total) []string {
	return []string{t.From.Format("2006-01-02T15:04Z"), printable(t.Gateway), integer(t.Served), integer(t.Arrived), integer(t.Difference()),
		percent(t.Served, t.Arrived), "", integer(t.Missing), integer(t.LogsDropped)}
}

func integer[T int64 | uint64](n T) string { return fmt.Sprint(n) }

func percent(served, arrived int64) string {
	return strconv.FormatFloat(100*reconcile.Completeness(served, arrived), 'f', 3, 64) + " %"
}

func newServedTable() *textTable {
	t := &textTable{right: []bool{false, false, true, true, true, true, true, true, true}}
	t.add(servedColumns)
	return t
}

func (f *reconcileFlags) printTables(out io.Writer, answer reconciled) error {
	switch {
	case len(answer.Totals) > 0:
		if err := f.printServed(out, answer.Comparison); err != nil {
			return err
		}
	case len(answer.ReportedOnce) == 0:
		fmt.Fprintln(out, "No gateway said what it served in this range: send its statistics to the collector (see deploy/envoy).")
	}
	for _, name := range answer.ReportedOnce {
		fmt.Fprintf(out, "%s reported for the first time in this range; what it serves is known from its next report on.\n", printable(name))
	}
	if len(answer.Sealed) == 0 {
		_, err := fmt.Fprintln(out, "\nNo hour of the range is sealed yet.")
		return err
	}
	fmt.Fprintln(out, "\nSealed hours")
	table := textTable{right: []bool{false, false, true, true, true, true, true, false, false}}
	table.add([]string{"hour", "source", "received", "deduplicated", "quarantined", "stored", "rolled up", "repaired", "sealed at"})
	for _, h := range answer.Sealed {
		repaired := "no"
		if h.Repaired {
			repaired = "yes"
		}
		table.add([]string{h.Hour.Format("2006-01-02T15:04Z"), printable(h.Source), integer(h.Received), integer(h.Deduplicated),
			integer(h.Quarantined), integer(h.Stored), integer(h.RolledUp), repaired, h.SealedAt.Format("2006-01-02T15:04:05Z")})
	}
	return table.print(out)
}

func (f *reconcileFlags) printServed(out io.Writer, c reconcile.Comparison) error {
	minutes := newServedTable()
	for _, m := range c.Minutes {
		if f.minutes || m.Difference() != 0 || m.LogsDropped != 0 {
			minutes.add(minuteCells(m))
		}
	}
	if len(minutes.rows) > 1 {
		fmt.Fprintln(out, "Minutes")
		if err := minutes.print(out); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	for _, part := range []struct {
		title  string
		totals []reconcile.Total
	}{{"Hours", c.Hours}, {"\nWhole range", c.Totals}} {
		fmt.Fprintln(out, part.title)
		table := newServedTable()
		for _, t := range part.totals {
			table.add(totalCells(t))
		}
		if err := table.print(out); err != nil {
			return err
		}
	}
	for _, t := range c.Totals {
		if t.Missing > t.LogsDropped {
			fmt.Fprintf(out, "%s: at least %d calls are missing; its own count of dropped entries tells of %d.\n", printable(t.Gateway), t.Missing, t.LogsDropped)
		}
	}
	return nil
}

// printReconciledCSV prints every minute of every gateway and every sealed hour
// as one table; what a row does not have is empty.
func printReconciledCSV(out io.Writer, answer reconciled) error {
	records := [][]string{{"kind", "from", "gateway", "source", "served", "arrived", "difference", "complete", "behind", "missing", "logs_dropped",
		"received", "deduplicated", "quarantined", "stored", "rolled_up", "repaired"}}
	ratio := func(served, arrived int64) string {
		return strconv.FormatFloat(reconcile.Completeness(served, arrived), 'f', -1, 64)
	}
	for _, m := range answer.Minutes {
		records = append(records, []string{"minute", m.Minute.Format(time.RFC3339), m.Gateway, "", integer(m.Served), integer(m.Arrived), integer(m.Difference()),
			ratio(m.Served, m.Arrived), integer(m.Behind), "", integer(m.LogsDropped), "", "", "", "", "", ""})
	}
	for _, kind := range []struct {
		name   string
		totals []reconcile.Total
	}{{"hour", answer.Hours}, {"total", answer.Totals}} {
		for _, t := range kind.totals {
			records = append(records, []string{kind.name, t.From.Format(time.RFC3339), t.Gateway, "", integer(t.Served), integer(t.Arrived), integer(t.Difference()),
				ratio(t.Served, t.Arrived), "", integer(t.Missing), integer(t.LogsDropped), "", "", "", "", "", ""})
		}
	}
	for _, h := range answer.Sealed {
		records = append(records, []string{"sealed", h.Hour.Format(time.RFC3339), "", h.Source, "", "", "", "", "", "", "",
			integer(h.Received), integer(h.Deduplicated), integer(h.Quarantined), integer(h.Stored), integer(h.RolledUp), strconv.FormatBool(h.Repaired)})
	}
	return csv.NewWriter(out).WriteAll(records)
}

type rebuildFlags struct {
	from, to string
	tables   []string
	dry      bool
	// attribute finds out again who called what.
	attribute bool
}

func newRebuildCommand() *cobra.Command {
	f := &rebuildFlags{}
	var names []string
	for _, u := range load.Rollups() {
		names = append(names, u.Table())
	}
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Make rollups equal to the single calls again",
		Long: "Compares rollups with raw calls, bucket by bucket, and adds what they lack or takes\n" +
			"away what they have too much. It is safe beside a running Tollway, and to run twice.\n\n" +
			"With --attribute, first finds out again who called what, by the catalog as it is\n" +
			"published now, and says which calls changed account or product. Single calls are\n" +
			"kept for a limited time only; what is older cannot be attributed again. While an\n" +
			"hour is at work, its changed calls count twice in reports. A run that was cut off\n" +
			"is made good by running it again.",
		Example: "  tollway rebuild --from 2026-11-01 --to 2026-11-02 --dry-run\n" +
			"  tollway rebuild --attribute --from 2026-11-01 --dry-run",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SilenceUsage = true
			return f.run(cmd)
		},
	}
	(&processFlags{}).add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.from, "from", "", "start of the range: 2026-11-01, 2026-11-01T10:00 or with an offset")
	flags.StringVar(&f.to, "to", "", "end of the range, not included (default now)")
	flags.StringSliceVar(&f.tables, "table", nil, "rollups to rebuild; those of traffic are rebuilt together (default all: "+wrap(names)+")")
	flags.BoolVar(&f.dry, "dry-run", false, "show what differs and change nothing")
	flags.BoolVar(&f.attribute, "attribute", false, "attribute calls again by the catalog as it is now")
	cmd.MarkFlagsMutuallyExclusive("attribute", "table")
	_ = cmd.MarkFlagRequired("from")                             // the flags were
	_ = cmd.RegisterFlagCompletionFunc("table", complete(names)) // added above
	return cmd
}

func (f *rebuildFlags) run(cmd *cobra.Command) error {
	r, err := (&reportFlags{from: f.from, to: f.to, timeZone: "UTC"}).timeRange(time.Now())
	if err != nil {
		return err
	}
	store, err := openClickHouse(cmd)
	if err != nil {
		return err
	}
	defer store.close()
	if f.attribute {
		catalog, err := readCatalog(cmd)
		if err != nil {
			return err
		}
		return reattribute(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), store.shards, catalog, reconcile.Range{From: r.Start, To: r.End, DryRun: f.dry})
	}
	return rebuild(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), store.shards, reconcile.Range{From: r.Start, To: r.End, Tables: f.tables, DryRun: f.dry})
}

// rebuild prints changes as they come, and now and then how far it is.
func rebuild(ctx context.Context, out, progress io.Writer, shards []*clickhouse.DB, r reconcile.Range) error {
	last := time.Now()
	changes, err := reconcile.Rebuild(ctx, shards, r, func(done, total int, changes []reconcile.Change) {
		for _, c := range changes {
			fmt.Fprintf(out, "%s  %-10s  %d keys, %+d calls\n", c.From.Format("2006-01-02T15:04Z"), c.Table, c.Keys, c.Calls)
		}
		if time.Since(last) > 2*time.Second {
			last = time.Now()
			fmt.Fprintf(progress, "%d of %d hours\n", done, total)
		}
	})
	if err != nil {
		return err
	}
	switch {
	case len(changes) == 0:
		fmt.Fprintln(out, "Every rollup equals raw.")
	case r.DryRun:
		fmt.Fprintf(out, "%d stretch(es) of rollups differ from raw; nothing was changed.\n", len(changes))
	default:
		fmt.Fprintf(out, "%d stretch(es) of rollups were made equal to raw.\n", len(changes))
	}
	return nil
}
