package main

import (
	"cmp"
	"context"
	"encoding/csv"
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

// unattributedReason is a way in which a call is not attributed. They exclude
// each other.
type unattributedReason struct {
	name, what string
	filter     string
	by         []string // the properties that say which calls these are
}

var unattributedReasons = []unattributedReason{
	{"no credential", "The call brought none, or its gateway said of none.",
		`account = "(not set)" AND credential = "(not set)"`, []string{"api", "host", "method", "path"}},
	{"unknown credential", "No credential of the catalog is this one.",
		`account = "(not set)" AND credential != "(not set)"`, []string{"credential"}},
	{"no operation", "The account is known; no operation of the catalog matches the call.",
		`account != "(not set)" AND operation = "(not set)"`, []string{"api", "host", "method", "path"}},
	{"no subscription", "Account and operation are known; no subscription was in force.",
		`account != "(not set)" AND operation != "(not set)" AND subscription = "(not set)"`, []string{"account", "app", "api", "operation"}},
}

// unattributedRows is from how many distinct values the top ones are chosen,
// after paths were made alike.
const unattributedRows = 5000

type unattributedFlags struct {
	reportFlags
	top int
}

func newUnattributedCommand(client *clientFlags) *cobra.Command {
	f := &unattributedFlags{reportFlags: reportFlags{client: client}}
	cmd := &cobra.Command{
		Use:   "unattributed",
		Short: "calls of which it is not known who called what, and why",
		Long: "Counts calls that the catalog could not attribute to a caller, an operation or a\n" +
			"subscription, by reason, and lists what most of them have in common. Segments of\n" +
			"paths that look like an id are shown as {}.\n\n" +
			"Put the catalog right, and then: tollway rebuild --attribute --from ...",
		Example: "  tollway report unattributed --since 1h\n  tollway report unattributed --filter 'denied = \"(not set)\"' -o csv",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SilenceUsage = true
			return f.report(cmd.Context(), cmd.OutOrStdout(), time.Now())
		},
	}
	flags := cmd.Flags()
	f.addRange(cmd)
	flags.StringVar(&f.filter, "filter", "", `which calls, such as 'source = "envoy/edge" AND status < 400'`)
	flags.IntVar(&f.top, "top", 5, "how many values to list for each reason")
	flags.StringVarP(&f.output, "output", "o", "table", "table, json or csv")
	_ = cmd.RegisterFlagCompletionFunc("output", complete([]string{"table", "json", "csv"})) // the flag was added above
	return cmd
}

// unattributed is the answer.
type unattributed struct {
	TimeRange timeRange       `json:"time_range"`
	Calls     int64           `json:"calls"` // of the range, attributed or not
	Reasons   []reasonedCalls `json:"reasons"`
}

type reasonedCalls struct {
	Reason string      `json:"reason"`
	Calls  int64       `json:"calls"`
	Share  float64     `json:"share"`
	Top    []topValues `json:"top"`
}

type topValues struct {
	Values map[string]string `json:"values"`
	Calls  int64             `json:"calls"`
}

func (f *unattributedFlags) report(ctx context.Context, out io.Writer, now time.Time) error {
	if !slices.Contains([]string{"table", "json", "csv"}, f.output) {
		return usageError("--output %q is not table, json or csv", f.output)
	}
	r, err := f.timeRange(now)
	if err != nil {
		return err
	}
	answer := unattributed{TimeRange: r}
	if answer.Calls, err = f.count(ctx, r, f.filter); err != nil {
		return err
	}
	for _, reason := range unattributedReasons {
		c, err := f.reasoned(ctx, r, reason)
		if err != nil {
			return err
		}
		if answer.Calls > 0 {
			c.Share = float64(c.Calls) / float64(answer.Calls)
		}
		answer.Reasons = append(answer.Reasons, c)
	}
	switch f.output {
	case "json":
		return printJSON(out, answer)
	case "csv":
		return answer.printCSV(out)
	}
	return answer.print(out)
}

func (f *unattributedFlags) ask(ctx context.Context, request reportRequest) (reportAnswer, error) {
	request.Metrics = []string{"calls"}
	var answer reportAnswer
	err := f.client.call(ctx, http.MethodPost, "/v1/reports:query", nil, request, &answer)
	return answer, err
}

func (f *unattributedFlags) count(ctx context.Context, r timeRange, filter string) (int64, error) {
	answer, err := f.ask(ctx, reportRequest{TimeRange: r, Filter: filter})
	if err != nil || len(answer.Rows) == 0 {
		return 0, err
	}
	return wholeNumber(answer.Rows[0]["calls"]), nil
}

func wholeNumber(v any) int64 {
	n, err := strconv.ParseFloat(fmt.Sprint(v), 64)
	if err != nil {
		return 0
	}
	return int64(n)
}

func (f *unattributedFlags) reasoned(ctx context.Context, r timeRange, reason unattributedReason) (c reasonedCalls, err error) {
	c = reasonedCalls{Reason: reason.name, Top: []topValues{}}
	filter := reason.filter
	if f.filter != "" {
		filter += " AND (" + f.filter + ")"
	}
	if c.Calls, err = f.count(ctx, r, filter); err != nil || c.Calls == 0 {
		return c, err
	}
	answer, err := f.ask(ctx, reportRequest{TimeRange: r, Filter: filter, Dimensions: reason.by, OrderBy: "calls desc", Limit: unattributedRows})
	if err != nil {
		return c, err
	}
	at := map[string]int{}
	for _, row := range answer.Rows {
		values, key := map[string]string{}, ""
		for _, d := range reason.by {
			values[d] = fmt.Sprint(row[d])
			if d == "path" {
				values[d] = likeness(values[d])
			}
			key += values[d] + "\x00"
		}
		i, ok := at[key]
		if !ok {
			i = len(c.Top)
			at[key] = i
			c.Top = append(c.Top, topValues{Values: values})
		}
		c.Top[i].Calls += wholeNumber(row["calls"])
	}
	slices.SortStableFunc(c.Top, func(a, b topValues) int { return cmp.Compare(b.Calls, a.Calls) })
	c.Top = c.Top[:min(len(c.Top), max(f.top, 0))]
	return c, nil
}

// likeness is a path in which segments that look like an id read {}.
func likeness(path string) string {
	if path == reports.NotSet {
		return path
	}
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if looksLikeID(s) {
			segments[i] = "{}"
		}
	}
	return strings.Join(segments, "/")
}

// looksLikeID tells words, which an operation's path is made of, from what is
// counted, random or too long to be one. v1 and the like are words.
func looksLikeID(segment string) bool {
	digits := 0
	for _, c := range segment {
		if c >= '0' && c <= '9' {
			digits++
		}
	}
	return digits > 0 && (digits == len(segment) || digits >= 3) || len(segment) > 40
}

func (u unattributed) print(out io.Writer) error {
	if _, err := fmt.Fprintf(out, "%s to %s: %d calls\n", u.TimeRange.Start.Format(time.RFC3339), u.TimeRange.End.Format(time.RFC3339), u.Calls); err != nil {
		return err
	}
	reasons := textTable{right: []bool{false, true, true, false}}
	reasons.add([]string{"reason", "calls", "share", ""})
	for i, c := range u.Reasons {
		reasons.add([]string{c.Reason, integer(uint64(c.Calls)), quantity(c.Share, "ratio"), unattributedReasons[i].what})
	}
	if err := reasons.print(out); err != nil {
		return err
	}
	for i, c := range u.Reasons {
		if len(c.Top) == 0 {
			continue
		}
		by := unattributedReasons[i].by
		table := textTable{right: append(make([]bool, len(by)), true)}
		table.add(append(slices.Clone(by), "calls"))
		for _, v := range c.Top {
			var cells []string
			for _, d := range by {
				cells = append(cells, printable(v.Values[d]))
			}
			table.add(append(cells, integer(uint64(v.Calls))))
		}
		fmt.Fprintf(out, "\n%s\n", c.Reason)
		if err := table.print(out); err != nil {
			return err
		}
	}
	return nil
}

func (u unattributed) printCSV(out io.Writer) error {
	columns := []string{"credential", "host", "method", "path", "account", "app", "api", "operation"}
	records := [][]string{append([]string{"reason", "calls"}, columns...)}
	for _, c := range u.Reasons {
		for _, v := range c.Top {
			record := []string{c.Reason, integer(uint64(v.Calls))}
			for _, d := range columns {
				record = append(record, v.Values[d])
			}
			records = append(records, record)
		}
	}
	return csv.NewWriter(out).WriteAll(records)
}
