package testenv

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/sql"
)

// Ledger returns a migrated ledger database of this test's own, on SQLite.
func Ledger(t testing.TB) *ledger.DB {
	t.Helper()
	return migratedLedger(t, LedgerConfig(t))
}

// LedgerConfig is the configuration of a SQLite file of this test's own, which
// does not exist yet.
func LedgerConfig(t testing.TB) ledger.Config {
	t.Helper()
	cfg := ledger.DefaultConfig()
	cfg.Path = filepath.Join(t.TempDir(), "ledger.db")
	patient(&cfg)
	return cfg
}

// Postgres returns a migrated ledger database of this test's own, on a real
// PostgreSQL. Where none was fetched the test is skipped, or fails when
// TOLLWAY_REAL=1.
func Postgres(t testing.TB) *ledger.DB {
	t.Helper()
	return migratedLedger(t, PostgresConfig(t))
}

// EachLedger runs a test on a migrated database of its own on SQLite, and in a
// run on real parts (make test-real) on PostgreSQL too. That run takes the tests
// that are named TestReal…, so a test that uses it has such a name.
func EachLedger(t *testing.T, test func(t *testing.T, db *ledger.DB)) {
	t.Helper()
	EachLedgerConfig(t, func(t *testing.T, cfg ledger.Config) { test(t, migratedLedger(t, cfg)) })
}

// EachLedgerConfig is EachLedger for a test that opens the database by itself.
// It has no tables yet.
func EachLedgerConfig(t *testing.T, test func(t *testing.T, cfg ledger.Config)) {
	t.Helper()
	if !strings.HasPrefix(t.Name(), "TestReal") {
		t.Fatalf("%s runs on each ledger database and must be named TestReal…, or it never meets PostgreSQL", t.Name())
	}
	t.Run(ledger.SQLite, func(t *testing.T) { test(t, LedgerConfig(t)) })
	if realWanted() {
		t.Run(ledger.Postgres, func(t *testing.T) { test(t, PostgresConfig(t)) })
	}
}

// OpenLedger connects and disconnects when the test ends.
func OpenLedger(t testing.TB, cfg ledger.Config) *ledger.DB {
	t.Helper()
	db, err := ledger.Open(context.Background(), cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close the ledger database: %v", err)
		}
	})
	return db
}

func migratedLedger(t testing.TB, cfg ledger.Config) *ledger.DB {
	t.Helper()
	db := OpenLedger(t, cfg)
	if _, err := db.Migrate(context.Background(), sql.LedgerMigrations); err != nil {
		t.Fatal(err)
	}
	return db
}

// patient sets the limits of time so that a slow machine does not fail a test.
func patient(cfg *ledger.Config) {
	cfg.ConnectTimeout = 30 * time.Second
	cfg.LockTimeout = 30 * time.Second
	cfg.TransactionTimeout = 2 * time.Minute
}
