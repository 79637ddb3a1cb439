package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/tollway/tollway/services/platform/config"
	"github.com/tollway/tollway/services/platform/embedded"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/logging"
)

// embeddedFile, in the data folder, says how to reach what is embedded. It has
// the passwords of log and engine and is there while `tollway up` runs.
const embeddedFile = "embedded.yaml"

func newUpCommand() *cobra.Command {
	var flags processFlags
	var demo bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run everything in one process tree, on embedded engines",
		Long: `Run everything in one process tree: the collector, the pipelines and the reports,
with an embedded log and an embedded ClickHouse engine in the data folder. Where
the configuration names Kafka brokers or ClickHouse servers, those are used.

On the first start an administrator's token is written to data/admin.token and a
gateway's to data/gateway.token. Stop with Ctrl-C; the next start finds its data.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			defaults := defaultConfig()
			defaults.Logging.Format = "console" // a person is watching
			cfg, err := flags.loadOver(defaults, false)
			if err != nil {
				return err
			}
			log, err := logging.New(cfg.Logging)
			if err != nil {
				return err
			}
			return up(cmd.Context(), cfg, flags.data, log, demo)
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&demo, "demo", false, "send traffic shaped like a company's day, and print the first report")
	return cmd
}

func up(ctx context.Context, cfg Config, data string, log zerolog.Logger, demo bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e, err := startEmbedded(ctx, &cfg, data, log)
	if err != nil {
		return err
	}
	defer e.close()
	shown := make(chan struct{})
	err = serve(ctx, cfg, data, log, serviceNames(), func(ctx context.Context) error {
		go func() {
			defer close(shown)
			if err := welcome(ctx, cfg, data, demo); err != nil && ctx.Err() == nil {
				log.Error().Err(err).Msg("demo")
			}
		}()
		return nil
	})
	cancel()
	select {
	case <-shown:
	case <-time.After(5 * time.Second):
	}
	return err
}

func serveEmbedded(ctx context.Context, cfg Config, data string, log zerolog.Logger) error {
	cfg.Kafka.Brokers, cfg.ClickHouse.Addresses = nil, nil
	e, err := startEmbedded(ctx, &cfg, data, log)
	if err != nil {
		return err
	}
	defer e.close()
	log.Info().Str("file", filepath.Join(data, embeddedFile)).Msg("embedded log and engine are running")
	select {
	case <-ctx.Done():
		return nil
	case <-e.engine.Done():
		return e.engine.Err()
	}
}

// stores is what is embedded of a process.
type stores struct {
	engine *embedded.Engine
	log    *embedded.Log
	file   string
}

// startEmbedded starts what the configuration does not name, and names it
// there.
func startEmbedded(ctx context.Context, cfg *Config, data string, log zerolog.Logger) (*stores, error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	e := &stores{file: filepath.Join(data, embeddedFile)}
	// Stores outlive ctx: services that stop still write to them.
	ctx = context.WithoutCancel(ctx)
	if len(cfg.Kafka.Brokers) == 0 {
		c := cfg.Embedded.Log
		c.Log, c.Partitions = log, cfg.Kafka.Partitions
		l, err := embedded.StartLog(ctx, c)
		if err != nil {
			return nil, err
		}
		e.log = l
		cfg.Kafka.Brokers, cfg.Kafka.Replication = []string{l.Addr()}, 1
		cfg.Kafka.SASL = kafkaio.SASLConfig{Mechanism: "scram-sha-256", Username: embedded.LogUser, Password: config.Secret(l.Password())}
	}
	if len(cfg.ClickHouse.Addresses) == 0 {
		c := cfg.Embedded.Engine
		c.Log = log
		c.ReadableDatabases = []string{cfg.ClickHouse.Database}
		engine, err := embedded.StartEngine(ctx, c)
		if err != nil {
			e.close()
			return nil, err
		}
		e.engine = engine
		ch := &cfg.ClickHouse
		ch.Addresses, ch.HTTPAddresses = []string{engine.NativeAddr()}, []string{engine.HTTPAddr()}
		ch.Username, ch.Password = embedded.TollwayUser, config.Secret(engine.Passwords().Tollway)
		ch.ReaderUsername, ch.ReaderPassword = embedded.ReaderUser, config.Secret(engine.Passwords().Reader)
	}
	if err := e.write(cfg); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *stores) write(cfg *Config) error {
	kafka := map[string]any{"brokers": cfg.Kafka.Brokers, "partitions": cfg.Kafka.Partitions, "replication": cfg.Kafka.Replication}
	if e.log != nil {
		sasl := cfg.Kafka.SASL
		kafka["sasl"] = map[string]any{"mechanism": sasl.Mechanism, "username": sasl.Username, "password": sasl.Password.Reveal()}
	}
	text, err := yaml.Marshal(map[string]any{
		"kafka": kafka,
		"clickhouse": map[string]any{
			"addresses": cfg.ClickHouse.Addresses, "http_addresses": cfg.ClickHouse.HTTPAddresses, "database": cfg.ClickHouse.Database,
			"username": cfg.ClickHouse.Username, "password": cfg.ClickHouse.Password.Reveal(),
			"reader_username": cfg.ClickHouse.ReaderUsername, "reader_password": cfg.ClickHouse.ReaderPassword.Reveal(),
		},
	})
	if err != nil {
		return err
	}
	next := e.file + ".new"
	if err := errors.Join(os.WriteFile(next, text, 0o600), os.Rename(next, e.file)); err != nil {
		return fmt.Errorf("write %s: %w", e.file, err)
	}
	return nil
}

func (e *stores) close() {
	_ = os.Remove(e.file) // a stale one is replaced by the next start
	if e.log != nil {
		e.log.Close()
	}
	if e.engine != nil {
		_ = e.engine.Close() // it says itself what went wrong
	}
}
