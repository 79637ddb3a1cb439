package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tollway/tollway/services/reports"
)

// A reportKind is a question that is asked often: a subcommand.
type reportKind struct {
	name    string
	short   string
	metrics []string
	by      []string
}

var reportKinds = []reportKind{
	{"traffic", "how many calls, how fast they come, how much they carry and how many fail",
		[]string{"calls", "calls_per_second", "error_rate", "p50", "p99", "request_bytes", "response_bytes"}, nil},
	{"latency", "how long calls take, by percentiles",
		[]string{"calls", "latency_avg", "p50", "p90", "p95", "p99", "latency_max"}, nil},
	{"split", "how traffic divides over upstreams and versions, side by side",
		[]string{"calls", "share", "error_rate", "p50", "p99"}, []string{"upstream", "version"}},
	{"errors", "which calls fail, and who is to blame",
		[]string{"calls", "errors", "client_errors", "error_rate"}, []string{"status", "fault"}},
}

// reportFlags are the flags of every report.
type reportFlags struct {
	client      *clientFlags
	by, metrics []string
	since       string
	from, to    string
	filter      string
	granularity string
	timeZone    string
	orderBy     string
	limit       int
	compare     bool
	output      string
}

func newReportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Ask about calls: traffic, latency, errors, splits",
		Long: "Reports over the calls that were metered, exact over any range of time.\n\n" +
			"Metrics:    " + wrap(reports.MetricNames()) + "\n            and any other percentile, such as p99.99 or upstream_p75\n\n" +
			"Dimensions: " + wrap(reports.DimensionNames()),
		Example: "  tollway report traffic --by product --since 24h\n" +
			"  tollway report latency --by api --granularity hour --since 7d --time-zone Europe/Berlin\n" +
			"  tollway report split --by upstream,version --filter 'product = \"payments\" AND status < 500'\n" +
			"  tollway report errors --from 2026-11-01 --to 2026-12-01 -o csv",
	}
	client := &clientFlags{}
	client.add(cmd)
	for _, kind := range reportKinds {
		cmd.AddCommand(newReportKindCommand(kind, client))
	}
	cmd.AddCommand(newUnattributedCommand(client))
	return cmd
}

func newReportKindCommand(kind reportKind, client *clientFlags) *cobra.Command {
	f := &reportFlags{client: client}
	cmd := &cobra.Command{
		Use:   kind.name,
		Short: kind.short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SilenceUsage = true
			return f.run(cmd.Context(), cmd.OutOrStdout(), time.Now())
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.by, "by", kind.by, "dimensions to group by")
	flags.StringSliceVar(&f.metrics, "metrics", kind.metrics, "metrics to show")
	f.addRange(cmd)
	flags.StringVar(&f.filter, "filter", "", `which calls, such as 'product = "payments" AND status >= 500'`)
	flags.StringVar(&f.granularity, "granularity", "none", "one row per time bucket: "+strings.Join(reports.Granularities(), ", "))
	flags.StringVar(&f.orderBy, "order-by", "", "columns to order by, such as 'error_rate desc' (default the first metric, high to low)")
	flags.IntVar(&f.limit, "limit", 0, "most rows (default 1000)")
	flags.BoolVar(&f.compare, "compare", false, "beside each metric, that of the period of equal length before")
	flags.StringVarP(&f.output, "output", "o", "table", "table, json or csv")
	for flag, names := range map[string][]string{
		"by": reports.DimensionNames(), "metrics": reports.MetricNames(), "granularity": reports.Granularities(),
		"output": {"table", "json", "csv"},
	} {
		_ = cmd.RegisterFlagCompletionFunc(flag, complete(names)) // each flag was added above
	}
	return cmd
}

// addRange adds the flags that say which time is asked about.
func (f *reportFlags) addRange(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.since, "since", "24h", "the time up to now: 15m, 24h, 7d, 4w")
	flags.StringVar(&f.from, "from", "", "start of the range: 2026-11-01, 2026-11-01T10:00 or with an offset (instead of --since)")
	flags.StringVar(&f.to, "to", "", "end of the range, not included (default now)")
	flags.StringVar(&f.timeZone, "time-zone", "UTC", "IANA time zone of buckets and of --from and --to")
	cmd.MarkFlagsMutuallyExclusive("since", "from")
	cmd.MarkFlagsMutuallyExclusive("since", "to")
	_ = cmd.RegisterFlagCompletionFunc("since", complete([]string{"1h", "24h", "7d", "30d"})) // the flag was added above
}

// reportRequest is the body of a query.
type reportRequest struct {
	Metrics     []string  `json:"metrics"`
	Dimensions  []string  `json:"dimensions,omitempty"`
	Filter      string    `json:"filter,omitempty"`
	TimeRange   timeRange `json:"time_range"`
	Granularity string    `json:"granularity,omitempty"`
	TimeZone    string    `json:"time_zone,omitempty"`
	OrderBy     string    `json:"order_by,omitempty"`
	Limit       int       `json:"limit,omitempty"`
	CompareTo   string    `json:"compare_to,omitempty"`
}

type timeRange struct {
	Start time.Time `json:"start_time"`
	End   time.Time `json:"end_time"`
}

// reportAnswer is the answer to a query, in the order in which it is printed.
type reportAnswer struct {
	Rows          []map[string]any `json:"rows"`
	SourceTable   string           `json:"source_table"`
	CompleteUntil *time.Time       `json:"complete_until"`
}

func (f *reportFlags) run(ctx context.Context, out io.Writer, now time.Time) error {
	if !slices.Contains([]string{"table", "json", "csv"}, f.output) {
		return usageError("--output %q is not table, json or csv", f.output)
	}
	request, err := f.request(now)
	if err != nil {
		return err
	}
	var answer reportAnswer
	if err := f.client.call(ctx, http.MethodPost, "/v1/reports:query", nil, request, &answer); err != nil {
		return err
	}
	switch f.output {
	case "json":
		return printJSON(out, answer)
	case "csv":
		return printCSV(out, request, answer)
	}
	return printReport(out, request, answer)
}

func (f *reportFlags) request(now time.Time) (*reportRequest, error) {
	r := &reportRequest{
		Metrics: f.metrics, Dimensions: f.by, Filter: f.filter,
		Granularity: f.granularity, TimeZone: f.timeZone, OrderBy: f.orderBy, Limit: f.limit,
	}
	if f.compare {
		r.CompareTo = "previous_period"
	}
	var err error
	r.TimeRange, err = f.timeRange(now)
	return r, err
}

// timeRange reads --from and --to, or --since.
func (f *reportFlags) timeRange(now time.Time) (timeRange, error) {
	loc, err := time.LoadLocation(f.timeZone)
	if err != nil {
		return timeRange{}, usageError("--time-zone %q is not an IANA time zone such as Europe/Berlin", f.timeZone)
	}
	// The whole of the current minute is cheaper to ask for than a part of it.
	r := timeRange{End: now.Truncate(time.Minute).Add(time.Minute)}
	if f.to != "" {
		if r.End, err = parseMoment(f.to, loc); err != nil {
			return r, usageError("--to %w", err)
		}
	}
	switch {
	case f.from != "":
		if r.Start, err = parseMoment(f.from, loc); err != nil {
			return r, usageError("--from %w", err)
		}
	case f.to != "":
		return r, usageError("--to needs --from")
	default:
		length, err := parseSince(f.since)
		if err != nil {
			return r, usageError("--since %w", err)
		}
		// A start on a full minute, or hour for long ranges, is what "the last
		// week" means and can be answered when single calls are long gone.
		r.Start = now.Add(-length).Truncate(time.Minute)
		if length > 48*time.Hour {
			r.Start = now.Add(-length).Truncate(time.Hour)
		}
	}
	if !r.Start.Before(r.End) {
		return r, usageError("the range is empty: %s is not before %s", r.Start.Format(time.RFC3339), r.End.Format(time.RFC3339))
	}
	return r, nil
}

var momentForms = []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02", "2006-01"}

func parseMoment(text string, loc *time.Location) (time.Time, error) {
	for _, form := range momentForms {
		if t, err := time.ParseInLocation(form, text, loc); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time such as 2026-11-01, 2026-11-01T10:00 or 2026-11-01T10:00:00+01:00", text)
}

// parseSince reads a duration that may be in days or weeks.
func parseSince(text string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a time such as 15m, 24h, 7d or 4w", text)
	unit := time.Duration(0)
	switch {
	case strings.HasSuffix(text, "d"):
		unit = 24 * time.Hour
	case strings.HasSuffix(text, "w"):
		unit = 7 * 24 * time.Hour
	default:
		length, err := time.ParseDuration(text)
		if err != nil || length <= 0 {
			return 0, bad
		}
		return length, nil
	}
	n, err := strconv.Atoi(text[:len(text)-1])
	if err != nil || n <= 0 || n > 36500 {
		return 0, bad
	}
	return time.Duration(n) * unit, nil
}

// columns of a printed answer, in order.
func (r *reportRequest) columns() []string {
	var columns []string
	if r.Granularity != "" && r.Granularity != "none" {
		columns = append(columns, "time")
	}
	columns = append(columns, r.Dimensions...)
	for _, m := range r.Metrics {
		columns = append(columns, m)
		if r.CompareTo != "" {
			columns = append(columns, "previous_"+m)
		}
	}
	return columns
}

func printJSON(out io.Writer, answer any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(answer)
}

func printCSV(out io.Writer, request *reportRequest, answer reportAnswer) error {
	w := csv.NewWriter(out)
	columns := request.columns()
	records := [][]string{columns}
	for _, row := range answer.Rows {
		record := make([]string, len(columns))
		for i, c := range columns {
			if row[c] != nil {
				record[i] = fmt.Sprint(row[c])
			}
		}
		records = append(records, record)
	}
	return w.WriteAll(records)
}

// printReport prints a line that says what was asked and how complete the
// answer is, and an aligned table.
func printReport(out io.Writer, request *reportRequest, answer reportAnswer) error {
	loc, err := time.LoadLocation(request.TimeZone)
	if err != nil {
		return err
	}
	complete := "not known how complete"
	if answer.CompleteUntil != nil {
		complete = "complete until " + answer.CompleteUntil.In(loc).Format(time.RFC3339)
	}
	if _, err := fmt.Fprintf(out, "%s to %s, from %s, %s\n", request.TimeRange.Start.In(loc).Format(time.RFC3339),
		request.TimeRange.End.In(loc).Format(time.RFC3339), answer.SourceTable, complete); err != nil {
		return err
	}
	if len(answer.Rows) == 0 {
		_, err := fmt.Fprintln(out, "no calls")
		return err
	}
	columns := request.columns()
	table := textTable{right: make([]bool, len(columns))}
	for i, c := range columns {
		table.right[i] = reports.MetricUnit(strings.TrimPrefix(c, "previous_")) != ""
	}
	table.add(columns)
	for _, row := range answer.Rows {
		cells := make([]string, len(columns))
		for i, c := range columns {
			cells[i] = cell(row[c], reports.MetricUnit(strings.TrimPrefix(c, "previous_")))
		}
		table.add(cells)
	}
	return table.print(out)
}

func wrap(names []string) string {
	var b strings.Builder
	width := 12
	for i, name := range names {
		if width+len(name) > 76 {
			b.WriteString("\n            ")
			width = 12
		}
		b.WriteString(name)
		if i < len(names)-1 {
			b.WriteString(", ")
		}
		width += len(name) + 2
	}
	return b.String()
}
