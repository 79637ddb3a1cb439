package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tollway/tollway/pipelines/delivery"
	"github.com/tollway/tollway/pipelines/load"
	"github.com/tollway/tollway/pipelines/reconcile"
	"github.com/tollway/tollway/services/catalog"
	"github.com/tollway/tollway/services/catalog/feed"
	"github.com/tollway/tollway/services/collector"
	"github.com/tollway/tollway/services/collector/als"
	"github.com/tollway/tollway/services/collector/otlp"
	"github.com/tollway/tollway/services/collector/served"
	"github.com/tollway/tollway/services/platform/auth"
	"github.com/tollway/tollway/services/platform/certs"
	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/config"
	"github.com/tollway/tollway/services/platform/embedded"
	"github.com/tollway/tollway/services/platform/jwks"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/logging"
	"github.com/tollway/tollway/services/quota/extauthz"
	"github.com/tollway/tollway/services/reports"
)

// Config is the whole configuration: one file for all services.
type Config struct {
	Logging    logging.Config   `yaml:"logging"`
	Listen     Listen           `yaml:"listen"`
	Auth       auth.Config      `yaml:"auth"`
	Kafka      Kafka            `yaml:"kafka"`
	ClickHouse ClickHouse       `yaml:"clickhouse"`
	Ledger     ledger.Config    `yaml:"ledger"`
	Catalog    catalog.Config   `yaml:"catalog"`
	Feed       feed.Config      `yaml:"feed"`
	Quota      Quota            `yaml:"quota"`
	Retention  Retention        `yaml:"retention"`
	Collector  collector.Config `yaml:"collector"`
	ALS        als.Config       `yaml:"als"`
	OTLP       otlp.Config      `yaml:"otlp"`
	Served     served.Config    `yaml:"served"`
	Delivery   delivery.Config  `yaml:"delivery"`
	Load       load.Config      `yaml:"load"`
	Reconcile  reconcile.Config `yaml:"reconcile"`
	Reports    reports.Config   `yaml:"reports"`
	Embedded   Embedded         `yaml:"embedded"`
}

// Listen is where a process answers: gRPC (access logs, APIs), HTTP (events,
// APIs) and the operators' port.
type Listen struct {
	GRPC  string `yaml:"grpc"`
	HTTP  string `yaml:"http"`
	Admin string `yaml:"admin"`
	// TLS is for gRPC and HTTP, AdminTLS for the operators' port. Without
	// certificates they are plain.
	TLS      certs.Config `yaml:"tls"`
	AdminTLS certs.Config `yaml:"admin_tls"`
	// Pprof shows profiles on the operators' port.
	Pprof bool `yaml:"pprof"`
}

// Validate names the address that is wrong.
func (l Listen) Validate() error {
	var errs []error
	for name, address := range map[string]string{"grpc": l.GRPC, "http": l.HTTP, "admin": l.Admin} {
		if _, _, err := net.SplitHostPort(address); err != nil {
			errs = append(errs, fmt.Errorf("%s is %q, must be host:port", name, address))
		}
	}
	return errors.Join(errs...)
}

// baseURL is where a client finds a port.
func baseURL(tls certs.Config, address string) string {
	if tls.Enabled() {
		return "https://" + address
	}
	return "http://" + address
}

// Kafka is the log. Without brokers, `tollway up` brings its own.
type Kafka struct {
	kafkaio.Config `yaml:",inline"`
	Producer       kafkaio.ProducerConfig `yaml:"producer"`
	// The rest is what topics are created with. RetentionDays is how long the
	// pipelines may be away without loss.
	Partitions              int `yaml:"partitions"`
	Replication             int `yaml:"replication"`
	RetentionDays           int `yaml:"retention_days"`
	DeadLetterRetentionDays int `yaml:"dead_letter_retention_days"`
}

// retention is a number of days as topics are told it.
func retention(days int) string {
	return strconv.FormatInt((time.Duration(days) * 24 * time.Hour).Milliseconds(), 10)
}

// Validate names the field that is wrong. That there are brokers is checked
// where they are needed.
func (k Kafka) Validate() error {
	var errs []error
	if k.Partitions < 1 || k.Replication < 1 {
		errs = append(errs, errors.New("partitions and replication must be above zero"))
	}
	if k.RetentionDays < 1 || k.DeadLetterRetentionDays < 1 {
		errs = append(errs, errors.New("retention_days and dead_letter_retention_days must be above zero"))
	}
	if len(k.Brokers) > 0 {
		errs = append(errs, k.Config.Validate())
	}
	return errors.Join(append(errs, k.Producer.Validate())...)
}

// ClickHouse is the usage store, with a second account that may only read.
// Without addresses, `tollway up` brings its own.
type ClickHouse struct {
	clickhouse.Config `yaml:",inline"`
	ReaderUsername    string        `yaml:"reader_username"`
	ReaderPassword    config.Secret `yaml:"reader_password"`
}

// Validate checks what is there; that there are addresses is checked where
// they are needed.
func (c ClickHouse) Validate() error {
	if len(c.Addresses) == 0 {
		return nil
	}
	return c.Config.Validate()
}

func (c ClickHouse) reader() clickhouse.Config {
	r := c.Config
	if c.ReaderUsername != "" {
		r.Username, r.Password = c.ReaderUsername, c.ReaderPassword
	}
	return r
}

// Retention is how long rows are kept, in days. It takes effect when the
// tables are made.
type Retention struct {
	CallsDays   int `yaml:"calls_days"`
	RollupsDays int `yaml:"rollups_days"`
}

// Validate checks that rollups outlive calls.
func (r Retention) Validate() error {
	if r.CallsDays < 1 || r.RollupsDays < r.CallsDays {
		return errors.New("calls_days must be above zero and at most rollups_days")
	}
	return nil
}

// Quota is what gateways ask in the request path.
type Quota struct {
	ExtAuthz extauthz.Config `yaml:"ext_authz"`
	// Issuers of the JWTs that callers of the metered APIs bring.
	Issuers []jwks.Config `yaml:"issuers"`
}

// Validate names the entry that is wrong.
func (q Quota) Validate() error {
	errs := []error{q.ExtAuthz.Validate()}
	for n, issuer := range q.Issuers {
		if err := issuer.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("issuers[%d]: %w", n, err))
		}
	}
	return errors.Join(errs...)
}

// Embedded is what `tollway up` brings along.
type Embedded struct {
	Engine embedded.EngineConfig `yaml:"engine"`
	Log    embedded.LogConfig    `yaml:"log"`
}

func defaultConfig() Config {
	cfg := Config{
		Logging:    logging.DefaultConfig(),
		Listen:     Listen{GRPC: "127.0.0.1:7601", HTTP: "127.0.0.1:7602", Admin: "127.0.0.1:7603"},
		Kafka:      Kafka{Config: kafkaio.DefaultConfig(), Producer: kafkaio.DefaultProducerConfig(), Partitions: 4, Replication: 1, RetentionDays: 7, DeadLetterRetentionDays: 28},
		ClickHouse: ClickHouse{Config: clickhouse.Default()},
		Ledger:     ledger.DefaultConfig(),
		Catalog:    catalog.DefaultConfig(),
		Feed:       feed.DefaultConfig(),
		Quota:      Quota{ExtAuthz: extauthz.DefaultConfig()},
		Retention:  Retention{CallsDays: 35, RollupsDays: 1100},
		Collector:  collector.DefaultConfig(),
		ALS:        als.DefaultConfig(),
		OTLP:       otlp.DefaultConfig(),
		Served:     served.DefaultConfig(),
		Delivery:   delivery.DefaultConfig(),
		Load:       load.DefaultConfig(),
		Reconcile:  reconcile.DefaultConfig(),
		Reports:    reports.DefaultConfig(),
		Embedded:   Embedded{Engine: embedded.DefaultEngineConfig(), Log: embedded.DefaultLogConfig()},
	}
	// Nothing is assumed about where the log and the store are.
	cfg.Kafka.Brokers = nil
	cfg.ClickHouse.Addresses, cfg.ClickHouse.HTTPAddresses = nil, nil
	cfg.Embedded.Engine.DataDir, cfg.Embedded.Log.DataDir = "data/engine", "data/log"
	return cfg
}

// processVariables are read elsewhere than in the configuration.
var processVariables = []string{
	"TOLLWAY_CONFIG", "TOLLWAY_DATA", "TOLLWAY_SERVER", "TOLLWAY_TOKEN", "TOLLWAY_CACHE",
	"TOLLWAY_CA_FILE", "TOLLWAY_CERT_FILE", "TOLLWAY_KEY_FILE",
	"TOLLWAY_ENGINE_LIBRARY", "TOLLWAY_REAL", "TOLLWAY_SEAM", "TOLLWAY_BROKEN", "TOLLWAY_FAULT_SEEDS",
}

// processFlags are common to the commands that run for long or open the
// stores themselves.
type processFlags struct {
	config string
	data   string
}

func (f *processFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.config, "config", os.Getenv("TOLLWAY_CONFIG"), "configuration file (environment: TOLLWAY_CONFIG)")
	data := os.Getenv("TOLLWAY_DATA")
	if data == "" {
		data = "data"
	}
	flags.StringVar(&f.data, "data", data, "data folder: tokens, and what is embedded (environment: TOLLWAY_DATA)")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml") // the flag was added above
	_ = cmd.MarkFlagDirname("data")
}

// load reads the configuration. A command that needs stores and was told of
// none finds those of a running `tollway up` in its data folder.
func (f *processFlags) load(findEmbedded bool) (Config, error) {
	return f.loadOver(defaultConfig(), findEmbedded)
}

// loadOver reads the configuration over other defaults.
func (f *processFlags) loadOver(cfg Config, findEmbedded bool) (Config, error) {
	file := f.config
	if file == "" && findEmbedded {
		if path := filepath.Join(f.data, embeddedFile); exists(path) {
			file = path
		}
	}
	err := config.Load(&cfg, config.Source{File: file, Environ: os.Environ(), Allow: processVariables})
	if err != nil {
		return cfg, err
	}
	cfg.Embedded.Engine.DataDir = filepath.Join(f.data, "engine")
	cfg.Embedded.Log.DataDir = filepath.Join(f.data, "log")
	if cfg.Ledger.Path == ledger.DefaultConfig().Path {
		cfg.Ledger.Path = filepath.Join(f.data, "ledger.db")
	}
	if cfg.Catalog.HashKeyFile == catalog.DefaultConfig().HashKeyFile {
		cfg.Catalog.HashKeyFile = filepath.Join(f.data, "hash.key")
	}
	cfg.Catalog.Outbox.Topic = cfg.Feed.Topic
	cfg.Reports.RetentionDays, cfg.Reports.RollupRetentionDays = cfg.Retention.CallsDays, cfg.Retention.RollupsDays
	cfg.Load.Retention = time.Duration(cfg.Retention.CallsDays) * 24 * time.Hour
	// Sources accept what is kept, unless they are told a limit of their own.
	defaults := defaultConfig()
	for own, usual := range map[*time.Duration]time.Duration{
		&cfg.ALS.MaxAge:                   defaults.ALS.MaxAge,
		&cfg.OTLP.MaxAge:                  defaults.OTLP.MaxAge,
		&cfg.Collector.Events.MaxAge:      defaults.Collector.Events.MaxAge,
		&cfg.Collector.Files.Envoy.MaxAge: defaults.Collector.Files.Envoy.MaxAge,
	} {
		if *own == usual {
			*own = cfg.Load.Retention
		}
	}
	cfg.Collector.HTTP.Address = cfg.Listen.HTTP
	return cfg, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func newCheckCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "check", Short: "Check things without changing them"}
	var flags processFlags
	var dump bool
	check := &cobra.Command{
		Use:   "config",
		Short: "Check a configuration file and the environment",
		Long:  "Check a configuration file and the environment. An unknown key is an error.\nWith --dump, print the effective configuration; secrets are left out.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.load(false)
			if err != nil {
				return err
			}
			if dump {
				return config.Dump(cmd.OutOrStdout(), cfg)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "The configuration is valid.")
			return nil
		},
	}
	flags.add(check)
	check.Flags().BoolVar(&dump, "dump", false, "print the effective configuration")
	cmd.AddCommand(check)
	return cmd
}
