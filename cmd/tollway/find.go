package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

type findFlags struct {
	since, from, to string
	source, path    string
	status, limit   int
	output          string
}

func newFindCommand(client *clientFlags) *cobra.Command {
	f := &findFlags{}
	cmd := &cobra.Command{
		Use:     "find",
		Short:   "List single calls that are stored, newest first",
		Long:    "Lists single calls that are stored, newest first, with the identity that\n`tollway events trace --call` takes.",
		Example: "  tollway events find --since 15m --path /v1/orders --status 503",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SilenceUsage = true
			return f.run(cmd.Context(), cmd.OutOrStdout(), client)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.since, "since", "1h", "the time up to now: 15m, 24h; 24 hours at most")
	flags.StringVar(&f.from, "from", "", "start of the range: 2026-11-01, 2026-11-01T10:00 or with an offset (instead of --since)")
	flags.StringVar(&f.to, "to", "", "end of the range, not included (default now)")
	flags.StringVar(&f.source, "source", "", "only calls of this source, such as envoy/edge")
	flags.StringVar(&f.path, "path", "", "only calls whose path begins so")
	flags.IntVar(&f.status, "status", 0, "only calls with this HTTP status")
	flags.IntVar(&f.limit, "limit", 20, "most calls to list, up to 1,000")
	cmd.MarkFlagsMutuallyExclusive("since", "from")
	cmd.MarkFlagsMutuallyExclusive("since", "to")
	addOutput(cmd, &f.output, "table")
	return cmd
}

type foundCall struct {
	CallID    string     `json:"call_id"`
	EventTime *time.Time `json:"event_time"`
	Source    string     `json:"source"`
	Gateway   string     `json:"gateway"`
	Path      string     `json:"path"`
	Call      storedCall `json:"call"`
}

type findAnswer struct {
	Calls []foundCall `json:"calls"`
}

func (f *findFlags) run(ctx context.Context, out io.Writer, client *clientFlags) error {
	r, err := (&reportFlags{since: f.since, from: f.from, to: f.to, timeZone: "UTC"}).timeRange(time.Now())
	if err != nil {
		return err
	}
	if f.from == "" && r.End.Sub(r.Start) > 24*time.Hour {
		r.Start = r.End.Add(-24 * time.Hour) // --since 24h has the current minute as a whole
	}
	query := url.Values{"start_time": {r.Start.Format(time.RFC3339Nano)}, "end_time": {r.End.Format(time.RFC3339Nano)}, "limit": {strconv.Itoa(f.limit)}}
	for name, value := range map[string]string{"source": f.source, "path_prefix": f.path} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if f.status != 0 {
		query.Set("status", strconv.Itoa(f.status))
	}
	var answer findAnswer
	if err := client.call(ctx, http.MethodGet, "/v1/calls:find", query, nil, &answer); err != nil {
		return err
	}
	if f.output == "json" {
		return printJSON(out, answer)
	}
	return printFound(out, answer)
}

func printFound(out io.Writer, a findAnswer) error {
	if len(a.Calls) == 0 {
		_, err := fmt.Fprintln(out, "no calls")
		return err
	}
	table := textTable{right: []bool{false, false, false, false, false, false, true, true}}
	table.add([]string{"start", "call", "source", "gateway", "method", "path", "status", "total"})
	for _, c := range a.Calls {
		start := "-"
		if c.EventTime != nil {
			start = c.EventTime.UTC().Format("2006-01-02T15:04:05.000000Z")
		}
		total := "-"
		if us, err := strconv.ParseFloat(string(c.Call.TotalUs), 64); err == nil && us >= 0 {
			total = quantity(us/1000, "ms")
		}
		table.add([]string{start, c.CallID, orNotSet(c.Source), orNotSet(c.Gateway), orNotSet(c.Call.Method), orNotSet(c.Path), strconv.Itoa(c.Call.Status), total})
	}
	return table.print(out)
}
