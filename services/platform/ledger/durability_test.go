package ledger_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
	"github.com/tollway/tollway/sql"
)

// writeForEver commits a resource together with its version and says so, until
// it is killed.
func writeForEver(path string) error {
	ctx := context.Background()
	db, err := openAt(ctx, path)
	if err != nil {
		return err
	}
	if _, err := db.Migrate(ctx, sql.LedgerMigrations); err != nil {
		return err
	}
	for i := 0; ; i++ {
		name := fmt.Sprintf("things/%d-%d", os.Getpid(), i)
		err := db.Tx(ctx, func(tx *ledger.Tx) error {
			if _, err := tx.Exec(ctx, insertResource, name, "", name); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, insertOutbox, name, 1)
			return err
		})
		if err != nil {
			return err
		}
		fmt.Println(name)
	}
}

// A process is killed while it writes, several times on one file, also while it
// creates the tables. Whatever it said it had committed is there, and of no
// transaction is there a half.
func TestKillLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	var committed []string
	for round := range 6 {
		committed = append(committed, writeAndKill(t, path, min(round, 1)*(1+rand.IntN(100)))...)
	}
	if len(committed) == 0 {
		t.Fatal("nothing was committed before the kills")
	}
	cfg := testenv.LedgerConfig(t)
	cfg.Path = path
	db := testenv.OpenLedger(t, cfg)
	if _, err := db.Migrate(t.Context(), sql.LedgerMigrations); err != nil {
		t.Fatal(err)
	}
	for _, name := range committed {
		if n := number(t, db, `SELECT count(*) FROM resources WHERE name = $1`, name); n != 1 {
			t.Errorf("%s was committed and is gone", name)
		}
	}
	if n := number(t, db, `SELECT count(*) FROM resources WHERE NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.name = resources.name)`); n != 0 {
		t.Errorf("%d resources have no version", n)
	}
	if resources, versions := number(t, db, `SELECT count(*) FROM resources`), number(t, db, `SELECT count(*) FROM outbox`); resources != versions {
		t.Errorf("%d resources and %d versions", resources, versions)
	}
	if n := number(t, db, `SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'`); n != 1 {
		t.Error("the file is damaged")
	}
	t.Logf("%d transactions were committed before 6 kills", len(committed))
}

// writeAndKill kills the writer when it has said that it committed so many, or
// before that while it creates the tables.
func writeAndKill(t *testing.T, path string, after int) []string {
	t.Helper()
	lines, kill := otherProcess(t, "writer", path)
	if after == 0 {
		waitForFile(t, path)
		kill()
		return nil
	}
	var committed []string
	for len(committed) < after && lines.Scan() {
		committed = append(committed, lines.Text())
	}
	if len(committed) < after {
		t.Fatalf("the writer ended by itself after %d of %d", len(committed), after)
	}
	kill()
	return committed
}

func waitForFile(t *testing.T, path string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for _, err := os.Stat(path); err != nil; _, err = os.Stat(path) {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}
