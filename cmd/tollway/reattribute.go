package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/tollway/tollway/pipelines/attribute"
	"github.com/tollway/tollway/pipelines/reconcile"
	"github.com/tollway/tollway/services/catalog/feed"
	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/kafkaio"
)

// catalogPatience is how long a command waits for the published catalog.
const catalogPatience = time.Minute

// readCatalog reads the catalog as it is published now.
func readCatalog(cmd *cobra.Command) (*attribute.Snapshot, error) {
	flags := processFlags{config: cmd.Flag("config").Value.String(), data: cmd.Flag("data").Value.String()}
	cfg, err := flags.load(true)
	if err != nil {
		return nil, err
	}
	client, err := kafkaio.Open(cfg.Kafka.Config, zerolog.Nop())
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Close() }()
	f, err := feed.New(cfg.Feed, client, prometheus.NewRegistry(), zerolog.Nop())
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(cmd.Context(), catalogPatience)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f.Run(ctx) // what kept it from reading is what Ready says
	}()
	defer func() { stop(); <-done }()
	if err := f.Wait(ctx); err != nil {
		return nil, errors.Join(err, f.Ready(ctx))
	}
	return f.Snapshot(), nil
}

// maxMoved bounds how many lines tell what changed.
const maxMoved = 50

// reattribute attributes stored calls again and prints what changed.
func reattribute(ctx context.Context, out, progress io.Writer, shards []*clickhouse.DB, catalog reconcile.Catalog, r reconcile.Range) error {
	last := time.Now()
	changed, err := reconcile.Reattribute(ctx, shards, catalog, r, func(done, total int) {
		if time.Since(last) > 2*time.Second {
			last = time.Now()
			fmt.Fprintf(progress, "%d of %d hours\n", done, total)
		}
	})
	if err := printMoved(out, changed); err != nil {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w; what is done stays done, run it again for the rest", err)
	}
	switch {
	case changed.Calls == 0:
		fmt.Fprintf(out, "Every call is attributed as version %d of the catalog says.\n", changed.Version)
	case r.DryRun:
		fmt.Fprintf(out, "%d call(s) would change by version %d of the catalog; nothing was changed.\n", changed.Calls, changed.Version)
	default:
		fmt.Fprintf(out, "%d call(s) changed by version %d of the catalog, in %d sealed hour(s).\n", changed.Calls, changed.Version, len(changed.Sealed))
	}
	return nil
}

func printMoved(out io.Writer, changed reconcile.Reattributed) error {
	if len(changed.Moved) == 0 {
		return nil
	}
	table := textTable{right: []bool{false, false, false, false, true}}
	table.add([]string{"account before", "product before", "account", "product", "calls"})
	rest := uint64(0)
	for i, m := range changed.Moved {
		if i >= maxMoved {
			rest += m.Calls
			continue
		}
		table.add([]string{orNotSet(m.FromAccount), orNotSet(m.FromProduct), orNotSet(m.ToAccount), orNotSet(m.ToProduct), integer(m.Calls)})
	}
	if rest > 0 {
		table.add([]string{"(others)", "", "", "", integer(rest)})
	}
	return table.print(out)
}
