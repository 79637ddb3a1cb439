package ledger

import (
	"errors"
	"fmt"
	"time"

	"github.com/tollway/tollway/services/platform/config"
)

// Drivers.
const (
	SQLite   = "sqlite"
	Postgres = "postgres"
)

// Config says which database to use, and within which limits.
type Config struct {
	// Driver is sqlite or postgres.
	Driver string `yaml:"driver"`
	// Path is the file of SQLite; its folder is made.
	Path string `yaml:"path"`
	// URL is where PostgreSQL is, postgres://user:password@host:port/database,
	// with sslmode and the other parameters of libpq.
	URL config.Secret `yaml:"url"`
	// MaxConnections bounds the connections in use at once; on SQLite those that
	// read, beside the one that writes.
	MaxConnections int           `yaml:"max_connections"`
	ConnectTimeout time.Duration `yaml:"connect_timeout"`
	// LockTimeout is how long one attempt waits for somebody else's lock.
	LockTimeout time.Duration `yaml:"lock_timeout"`
	// TransactionTimeout bounds a transaction with all its attempts.
	TransactionTimeout time.Duration `yaml:"transaction_timeout"`
	// MaxAttempts bounds how often a transaction that lost against another one
	// is run.
	MaxAttempts int `yaml:"max_attempts"`
}

// DefaultConfig is a SQLite file below the working folder.
func DefaultConfig() Config {
	return Config{
		Driver:             SQLite,
		Path:               "data/ledger.db",
		MaxConnections:     8,
		ConnectTimeout:     5 * time.Second,
		LockTimeout:        5 * time.Second,
		TransactionTimeout: 30 * time.Second,
		MaxAttempts:        20,
	}
}

// Validate names the field that is wrong.
func (c Config) Validate() error {
	switch c.Driver {
	case SQLite:
		if c.Path == "" {
			return errors.New("ledger: path is empty")
		}
	case Postgres:
		if _, err := postgresConfig(c); err != nil {
			return err
		}
	default:
		return fmt.Errorf("ledger: driver is %q, want %s or %s", c.Driver, SQLite, Postgres)
	}
	if c.MaxConnections < 1 {
		return errors.New("ledger: max_connections must be at least 1")
	}
	if c.MaxAttempts < 1 {
		return errors.New("ledger: max_attempts must be at least 1")
	}
	for name, value := range map[string]time.Duration{
		"connect_timeout": c.ConnectTimeout, "lock_timeout": c.LockTimeout, "transaction_timeout": c.TransactionTimeout,
	} {
		if value < time.Millisecond {
			return fmt.Errorf("ledger: %s is %s, want at least 1ms", name, value)
		}
	}
	return nil
}
