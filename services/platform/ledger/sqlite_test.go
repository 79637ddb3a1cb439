package ledger_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
	"github.com/tollway/tollway/sql"
)

// Nobody but the owner may read the database, wherever it lies.
func TestSQLiteFiles(t *testing.T) {
	cfg := testenv.LedgerConfig(t)
	dir := filepath.Join(t.TempDir(), "new", "a b?c#d%41&mode=memory")
	cfg.Path = filepath.Join(dir, "ledger 100%.db")
	db := testenv.OpenLedger(t, cfg)
	must(t, db, `CREATE TABLE a (x INTEGER)`)
	lock, err := db.TryLock(t.Context(), "outbox")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Unlock() }()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		info, err := file.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has the mode %s, want 0600", file.Name(), info.Mode())
		}
		names = append(names, file.Name())
	}
	if len(names) != 4 { // the database, its log, the log's index, the lock
		t.Errorf("files are %q", names)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has the mode %v, error %v; want 0700", info.Mode(), err)
	}
}

// Processes that start at the same time on a file that does not exist yet all
// get a database.
func TestSQLiteOpenedAtOnce(t *testing.T) {
	for range 10 {
		cfg := testenv.LedgerConfig(t)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				db, err := ledger.Open(t.Context(), cfg, zerolog.Nop())
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				if _, err := db.Migrate(t.Context(), sql.LedgerMigrations); err != nil {
					t.Errorf("migrate: %v", err)
				}
				if err := db.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
		}
		wg.Wait()
	}
}

func TestSQLiteRefusesWhatIsNoDatabase(t *testing.T) {
	cfg := testenv.LedgerConfig(t)
	if err := os.WriteFile(cfg.Path, []byte("this is a letter and no database, long enough to be read as a header"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Open(t.Context(), cfg, zerolog.Nop()); err == nil {
		t.Error("a letter was opened")
	}
	cfg.Path = filepath.Join(cfg.Path, "ledger.db")
	if _, err := ledger.Open(t.Context(), cfg, zerolog.Nop()); err == nil {
		t.Error("a file was taken for a folder")
	}
}
