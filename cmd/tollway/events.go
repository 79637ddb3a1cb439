package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// maxRedriveAtOnce is how many letters one request can name.
const maxRedriveAtOnce = 1000

func newEventsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "events", Short: "Find out what became of an event; handle dead letters"}
	client := &clientFlags{}
	client.add(cmd)
	dlq := &cobra.Command{Use: "dlq", Short: "Messages that could not be decoded"}
	dlq.AddCommand(newDLQListCommand(client), newDLQRedriveCommand(client))
	cmd.AddCommand(newTraceCommand(client), newFindCommand(client), dlq)
	return cmd
}

// provenance and the types below are answers of the events API.
type provenance struct {
	Epoch     int64  `json:"epoch"`
	Partition int64  `json:"partition"`
	Offset    json64 `json:"offset"`
	Row       int64  `json:"row"`
}

func (p *provenance) String() string {
	if p == nil {
		return "-"
	}
	text := fmt.Sprintf("partition %d, offset %s, row %d", p.Partition, p.Offset, p.Row)
	if p.Epoch > 0 {
		text += fmt.Sprintf(", epoch %d", p.Epoch)
	}
	return text
}

// json64 is a 64-bit integer, which the API writes as a string.
type json64 string

type eventCopy struct {
	Fate        string      `json:"fate"`
	Reason      string      `json:"reason"`
	EventTime   *time.Time  `json:"event_time"`
	ReceiveTime *time.Time  `json:"receive_time"`
	StoreTime   *time.Time  `json:"store_time"`
	Provenance  *provenance `json:"provenance"`
}

type storedCall struct {
	Account   string `json:"account"`
	App       string `json:"app"`
	Product   string `json:"product"`
	API       string `json:"api"`
	Operation string `json:"operation"`
	Method    string `json:"method"`
	Status    int    `json:"status"`
	TotalUs   json64 `json:"total_us"`
}

type traceAnswer struct {
	Fate               string      `json:"fate"`
	Explanation        string      `json:"explanation"`
	CallID             string      `json:"call_id"`
	Copies             []eventCopy `json:"copies"`
	Call               *storedCall `json:"call"`
	CompleteUntil      *time.Time  `json:"complete_until"`
	Lag                string      `json:"lag"`
	WaitingDeadLetters json64      `json:"waiting_dead_letters"`
}

func newTraceCommand(client *clientFlags) *cobra.Command {
	output := "text"
	callID := ""
	cmd := &cobra.Command{
		Use:   "trace <source> <id>",
		Short: "What became of the event that the source calls by this id",
		Long: "Says whether an event is stored, a duplicate, quarantined, in a dead letter, or not seen,\n" +
			"with the place in the log that it came from. Exits with 1 when the event was not seen.\n" +
			"Calls of an Envoy have no id that one could know: look for them with `tollway events find`,\n" +
			"and name them by --call.",
		Example: "  tollway events trace checkout call-1\n  tollway events trace --call 8f14e45fceea167a5a36dedd4bea2543",
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("call") {
				return cobra.NoArgs(cmd, args)
			}
			return cobra.ExactArgs(2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cmd.SilenceUsage = true
			query := url.Values{"call_id": {callID}}
			if len(args) == 2 {
				query = url.Values{"source": {args[0]}, "id": {args[1]}}
			}
			return trace(cmd.Context(), cmd.OutOrStdout(), client, query, output)
		},
	}
	cmd.Flags().StringVar(&callID, "call", "", "the identity that Tollway gave the call, instead of source and id")
	addOutput(cmd, &output, "text")
	return cmd
}

func addOutput(cmd *cobra.Command, output *string, plain string) {
	cmd.Flags().StringVarP(output, "output", "o", plain, plain+" or json")
	_ = cmd.RegisterFlagCompletionFunc("output", complete([]string{plain, "json"})) // the flag was added above
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if *output != plain && *output != "json" {
			return usageError("--output %q is not %s or json", *output, plain)
		}
		return nil
	}
}

func trace(ctx context.Context, out io.Writer, client *clientFlags, query url.Values, output string) error {
	var answer traceAnswer
	if err := client.call(ctx, http.MethodGet, "/v1/events:trace", query, nil, &answer); err != nil {
		return err
	}
	show := printTrace
	if output == "json" {
		show = func(out io.Writer, a traceAnswer) error { return printJSON(out, a) }
	}
	if err := show(out, answer); err != nil {
		return err
	}
	if answer.Fate == "NOT_SEEN" {
		return &exitError{exitFailed, errors.New("the event was not seen")}
	}
	return nil
}

func printTrace(out io.Writer, a traceAnswer) error {
	table := textTable{right: []bool{false, false}}
	table.add([]string{"fate", a.Fate})
	table.add([]string{"call", a.CallID})
	if c := a.Call; c != nil {
		table.add([]string{"account", orNotSet(c.Account)})
		table.add([]string{"product", orNotSet(c.Product)})
		table.add([]string{"operation", orNotSet(c.API) + " " + orNotSet(c.Operation)})
		table.add([]string{"outcome", printable(c.Method) + " " + strconv.Itoa(c.Status)})
	}
	for _, c := range a.Copies {
		text := c.Provenance.String()
		if c.ReceiveTime != nil {
			text += ", received " + c.ReceiveTime.Format(time.RFC3339Nano)
		}
		if c.Reason != "" {
			text += ": " + printable(c.Reason)
		}
		table.add([]string{c.Fate, text})
	}
	if a.CompleteUntil != nil {
		table.add([]string{"pipelines", "complete until " + a.CompleteUntil.Format(time.RFC3339Nano) + ", " + a.Lag + " behind"})
	}
	if err := table.print(out); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, a.Explanation)
	return err
}

func orNotSet(s string) string {
	if s == "" {
		return "(not set)"
	}
	return printable(s)
}

type deadLetter struct {
	ID              string     `json:"id"`
	Reason          string     `json:"reason"`
	CreateTime      *time.Time `json:"create_time"`
	OriginTopic     string     `json:"origin_topic"`
	OriginPartition int        `json:"origin_partition"`
	OriginOffset    json64     `json:"origin_offset"`
	SizeBytes       json64     `json:"size_bytes"`
	Source          string     `json:"source"`
	EventID         string     `json:"event_id"`
}

type deadLetterPage struct {
	DeadLetters   []deadLetter `json:"dead_letters"`
	NextPageToken string       `json:"next_page_token"`
}

// listDeadLetters reads pages until there are limit letters or no more.
func listDeadLetters(ctx context.Context, client *clientFlags, limit int) ([]deadLetter, bool, error) {
	var letters []deadLetter
	token := ""
	for len(letters) < limit {
		var page deadLetterPage
		query := url.Values{"page_size": {strconv.Itoa(min(limit-len(letters), 1000))}, "page_token": {token}}
		if err := client.call(ctx, http.MethodGet, "/v1/deadLetters", query, nil, &page); err != nil {
			return nil, false, err
		}
		letters = append(letters, page.DeadLetters...)
		if token = page.NextPageToken; token == "" {
			return letters, false, nil
		}
	}
	return letters, true, nil
}

func newDLQListCommand(client *clientFlags) *cobra.Command {
	output, limit := "table", 100
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, oldest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SilenceUsage = true
			letters, more, err := listDeadLetters(cmd.Context(), client, limit)
			if err != nil {
				return err
			}
			if output == "json" {
				return printJSON(cmd.OutOrStdout(), deadLetterPage{DeadLetters: letters})
			}
			if err := printDeadLetters(cmd.OutOrStdout(), letters); err != nil {
				return err
			}
			if more {
				fmt.Fprintf(cmd.ErrOrStderr(), "there are more than %d; see them with --limit\n", limit)
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&limit, "limit", limit, "most letters to list")
	addOutput(cmd, &output, "table")
	return cmd
}

func printDeadLetters(out io.Writer, letters []deadLetter) error {
	if len(letters) == 0 {
		_, err := fmt.Fprintln(out, "no dead letters")
		return err
	}
	table := textTable{right: []bool{false, false, false, true, false}}
	table.add([]string{"id", "since", "from", "bytes", "reason"})
	for _, l := range letters {
		since := "-"
		if l.CreateTime != nil {
			since = l.CreateTime.UTC().Format(time.RFC3339)
		}
		from := fmt.Sprintf("%s/%d@%s", l.OriginTopic, l.OriginPartition, l.OriginOffset)
		table.add([]string{l.ID, since, printable(from), string(l.SizeBytes), printable(l.Reason)})
	}
	return table.print(out)
}

func newDLQRedriveCommand(client *clientFlags) *cobra.Command {
	all := false
	cmd := &cobra.Command{
		Use:   "redrive <id>…",
		Short: "Send dead letters to the pipelines again",
		Long: "Sends dead letters to the topic that they came from, for the pipelines to read again.\n" +
			"What was counted before is not counted twice.",
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return usageError("name the dead letters, or say --all")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, ids []string) error {
			cmd.SilenceUsage = true
			if all {
				letters, _, err := listDeadLetters(cmd.Context(), client, 1<<20)
				if err != nil {
					return err
				}
				for _, l := range letters {
					ids = append(ids, l.ID)
				}
			}
			return redrive(cmd.Context(), cmd.OutOrStdout(), client, ids)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all letters that are there now")
	return cmd
}

type redriveAnswer struct {
	Results []struct {
		ID         string      `json:"id"`
		Provenance *provenance `json:"provenance"`
		Error      string      `json:"error"`
	} `json:"results"`
}

func redrive(ctx context.Context, out io.Writer, client *clientFlags, ids []string) error {
	failed := 0
	for batch := range slices.Chunk(ids, maxRedriveAtOnce) {
		var answer redriveAnswer
		body := map[string]any{"ids": batch}
		if err := client.call(ctx, http.MethodPost, "/v1/deadLetters:redrive", nil, body, &answer); err != nil {
			return err
		}
		for _, r := range answer.Results {
			text := "sent again"
			if r.Error != "" {
				failed++
				text = "not sent: " + printable(r.Error)
			}
			if _, err := fmt.Fprintf(out, "%s  %s\n", r.ID, text); err != nil {
				return err
			}
		}
	}
	if failed > 0 {
		return &exitError{exitFailed, fmt.Errorf("%d of %d dead letters were not sent", failed, len(ids))}
	}
	_, err := fmt.Fprintf(out, "%d dead letter(s) sent again\n", len(ids))
	return err
}
