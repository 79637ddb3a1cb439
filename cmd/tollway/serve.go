package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/logging"
	"github.com/tollway/tollway/sql"
)

// services in the order in which a process sets them up: reports know how
// complete they are where pipelines run, and share the collector's port.
var services = []struct {
	name, short string
	add         func(*process, context.Context) error
}{
	{"collector", "takes calls from gateways and writes them to Kafka", (*process).addCollector},
	{"pipelines", "stores calls from Kafka in ClickHouse, each once", (*process).addPipelines},
	{"reports", "answers questions about what is stored", (*process).addReports},
	{"catalog", "keeps accounts, apps, products and plans, and publishes them", (*process).addCatalog},
	{"quota", "tells gateways who calls and whether the call may pass", (*process).addQuota},
}

func serviceNames() (names []string) {
	for _, s := range services {
		names = append(names, s.name)
	}
	return names
}

func newServeCommand() *cobra.Command {
	var long strings.Builder
	long.WriteString("Run services on Kafka and ClickHouse of your own, as the configuration says:\n\n")
	for _, s := range services {
		fmt.Fprintf(&long, "  %-10s %s\n", s.name, s.short)
	}
	long.WriteString("\n`tollway serve embedded` runs the embedded log and engine alone, for services in\nother processes on this machine.")
	var flags processFlags
	cmd := &cobra.Command{
		Use:       "serve SERVICE...",
		Short:     "Run one or more services on Kafka and ClickHouse of your own",
		Long:      long.String(),
		Example:   "  tollway serve collector --config tollway.yaml\n  tollway serve pipelines reports --config tollway.yaml",
		ValidArgs: append(serviceNames(), "embedded"),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError("name the services to run: %s", strings.Join(serviceNames(), ", "))
			}
			for _, a := range args {
				if a == "embedded" && len(args) > 1 {
					return usageError("embedded runs alone")
				}
				if a != "embedded" && !slices.Contains(serviceNames(), a) {
					return usageError("there is no service %q; there are %s and embedded", a, strings.Join(serviceNames(), ", "))
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			cfg, err := flags.load(args[0] != "embedded")
			if err != nil {
				return err
			}
			log, err := logging.New(cfg.Logging)
			if err != nil {
				return err
			}
			if args[0] == "embedded" {
				return serveEmbedded(ctx, cfg, flags.data, log)
			}
			if len(cfg.Kafka.Brokers) == 0 {
				return errors.New("kafka.brokers is empty: name your brokers in the configuration, or run `tollway up`, which brings its own")
			}
			return serve(ctx, cfg, flags.data, log, args, func(context.Context) error { return nil })
		},
	}
	flags.add(cmd)
	return cmd
}

// serve runs services until ctx ends; started is called when they are about
// to run.
func serve(ctx context.Context, cfg Config, data string, log zerolog.Logger, names []string, started func(context.Context) error) error {
	p, err := newProcess(ctx, cfg, data, log)
	if p != nil {
		defer p.close()
	}
	if err != nil {
		return err
	}
	if slices.Contains(names, "pipelines") || slices.Contains(names, "reports") {
		if len(cfg.ClickHouse.Addresses) == 0 {
			return errors.New("clickhouse.addresses is empty: name your servers in the configuration, or run `tollway up`, which brings its own")
		}
		if err := migrateWithPatience(ctx, cfg, log); err != nil {
			return err
		}
	}
	for _, s := range services {
		if slices.Contains(names, s.name) {
			if err := s.add(p, ctx); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	if err := started(ctx); err != nil {
		return err
	}
	log.Info().Strs("services", names).Str("grpc", cfg.Listen.GRPC).Str("http", cfg.Listen.HTTP).Str("admin", cfg.Listen.Admin).Str("version", version).Msg("running")
	return p.run(ctx)
}

// migrateWithPatience waits for a ClickHouse that is not up yet.
func migrateWithPatience(ctx context.Context, cfg Config, log zerolog.Logger) error {
	for pause := time.Second; ; pause = min(2*pause, 15*time.Second) {
		steps, err := migrate(ctx, cfg)
		if err == nil {
			if steps > 0 {
				log.Info().Int("steps", steps).Msg("usage store migrated")
			}
			return nil
		}
		if ctx.Err() != nil || !clickhouse.IsRetryable(err) {
			return err
		}
		log.Warn().Err(err).Msg("waiting for ClickHouse")
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func newMigrateCommand() *cobra.Command {
	var flags processFlags
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the usage store and the ledger to this version's schema",
		Long:  "Bring the usage store, on every node, and the ledger to this version's schema. Run\nagain, it changes nothing. `tollway up` and `tollway serve` do it on their own.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.load(true)
			if err != nil {
				return err
			}
			if len(cfg.ClickHouse.Addresses) == 0 {
				return errors.New("clickhouse.addresses is empty, and no `tollway up` runs on this data folder")
			}
			steps, err := migrate(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			ledgerSteps, err := migrateLedger(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Applied %d steps to the usage store and %d to the ledger.\n", steps, ledgerSteps)
			return nil
		},
	}
	flags.add(cmd)
	return cmd
}

// usageStore is for commands that work on ClickHouse directly.
type usageStore struct {
	all    *clickhouse.DB // reads all shards
	shards []*clickhouse.DB
}

func migrateLedger(ctx context.Context, cfg Config) (int, error) {
	db, err := ledger.Open(ctx, cfg.Ledger, zerolog.Nop())
	if err != nil {
		return 0, err
	}
	defer db.Close()
	return db.Migrate(ctx, sql.LedgerMigrations)
}

// openClickHouse opens the usage store for a command that works on it
// directly. The command has the flags of processFlags.
func openClickHouse(cmd *cobra.Command) (*usageStore, error) {
	flags := processFlags{config: cmd.Flag("config").Value.String(), data: cmd.Flag("data").Value.String()}
	cfg, err := flags.load(true)
	if err != nil {
		return nil, err
	}
	if len(cfg.ClickHouse.Addresses) == 0 {
		return nil, fmt.Errorf("no ClickHouse is configured, and no `tollway up` runs on the data folder %s", flags.data)
	}
	s := &usageStore{}
	if s.shards, err = clickhouse.OpenShards(cmd.Context(), cfg.ClickHouse.Config); err != nil {
		return nil, err
	}
	if s.all, err = clickhouse.Open(cmd.Context(), cfg.ClickHouse.AllShards()); err != nil {
		closeAll(s.shards)
		return nil, err
	}
	return s, nil
}

func (s *usageStore) close() { closeAll(append(s.shards, s.all)) }

func closeAll(pools []*clickhouse.DB) {
	for _, db := range pools {
		_ = db.Close() // nothing is under way any more
	}
}
