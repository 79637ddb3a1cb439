package ledger

import (
	"strings"
	"testing"
	"time"

	"github.com/tollway/tollway/services/platform/config"
)

func TestValidate(t *testing.T) {
	onPostgres := func(url string) func(*Config) {
		return func(c *Config) { c.Driver, c.URL = Postgres, config.Secret(url) }
	}
	cases := []struct {
		name   string
		change func(*Config)
		want   string // part of the error, "" for none
	}{
		{"default", func(*Config) {}, ""},
		{"postgres", onPostgres("postgres://tollway:secret@127.0.0.1:5432/tollway?sslmode=disable"), ""},
		{"keywords", onPostgres("host=db user=tollway password=secret dbname=tollway"), ""},
		{"driver", func(c *Config) { c.Driver = "mysql" }, `driver is "mysql"`},
		{"no path", func(c *Config) { c.Path = "" }, "path is empty"},
		{"no url", onPostgres(""), "url is empty"},
		{"no address", onPostgres("postgres://user:top#secret@db:x/tollway"), "url cannot be read"},
		{"missing certificate", onPostgres("postgres://user:topsecret@db/x?sslmode=verify-full&sslrootcert=/nowhere.pem"), "url cannot be read"},
		{"connections", func(c *Config) { c.MaxConnections = 0 }, "max_connections"},
		{"attempts", func(c *Config) { c.MaxAttempts = 0 }, "max_attempts"},
		{"lock timeout", func(c *Config) { c.LockTimeout = 0 }, "lock_timeout"},
		{"transaction timeout", func(c *Config) { c.TransactionTimeout = -time.Second }, "transaction_timeout"},
		{"connect timeout", func(c *Config) { c.ConnectTimeout = time.Microsecond }, "connect_timeout"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg := DefaultConfig()
			c.change(&cfg)
			err := cfg.Validate()
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error is %v, want %q in it", err, c.want)
			case err != nil && strings.Contains(err.Error(), "secret"):
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

// What the address says wins over the limits of this package.
func TestPostgresConfig(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Driver = Postgres
	cfg.URL = "postgres://db/tollway?application_name=billing&lock_timeout=7"
	connection, err := postgresConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"application_name": "billing", "lock_timeout": "7", "statement_timeout": "30000",
	} {
		if got := connection.RuntimeParams[name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
