package ledger_test

import (
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
	"github.com/tollway/tollway/sql"
)

func files(texts map[string]string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, text := range texts {
		out[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}

func TestRealMigrateTwice(t *testing.T) {
	testenv.EachLedgerConfig(t, func(t *testing.T, cfg ledger.Config) {
		db := testenv.OpenLedger(t, cfg)
		first, err := db.Migrate(t.Context(), sql.LedgerMigrations)
		if err != nil || first < 8 {
			t.Fatalf("the first run did %d steps, error %v", first, err)
		}
		resource(t, db, "accounts/acme")
		second, err := db.Migrate(t.Context(), sql.LedgerMigrations)
		if err != nil || second != 0 {
			t.Fatalf("the second run did %d steps, error %v", second, err)
		}
		if n := number(t, db, `SELECT count(*) FROM schema_migrations`); n != int64(first) {
			t.Errorf("%d steps are recorded, %d were done", n, first)
		}
		if n := number(t, db, `SELECT count(*) FROM resources`); n != 1 {
			t.Errorf("%d resources are left, want 1", n)
		}
	})
}

// Each step is done by one of many who start at the same time, each with
// connections of its own.
func TestRealMigrateAtOnce(t *testing.T) {
	testenv.EachLedgerConfig(t, func(t *testing.T, cfg ledger.Config) {
		const migrators = 4
		done := make([]int, migrators)
		errs := make([]error, migrators)
		var wg sync.WaitGroup
		for i := range migrators {
			db := testenv.OpenLedger(t, cfg)
			wg.Go(func() { done[i], errs[i] = db.Migrate(t.Context(), sql.LedgerMigrations) })
		}
		wg.Wait()
		sum := 0
		for i := range migrators {
			if errs[i] != nil {
				t.Errorf("migrator %d: %v", i, errs[i])
			}
			sum += done[i]
		}
		if n := number(t, testenv.OpenLedger(t, cfg), `SELECT count(*) FROM schema_migrations`); n != int64(sum) {
			t.Errorf("%d steps are recorded and %d were done: %v", n, sum, done)
		}
	})
}

func TestRealMigrateStepByStep(t *testing.T) {
	steps := map[string]string{
		"0001_a.sql":          `CREATE TABLE a (id ${identity}, x ${text} NOT NULL, y ${bytes}) ${strict}; CREATE INDEX a_x ON a (x)`,
		"0002_b.sqlite.sql":   `INSERT INTO a (x) VALUES ('sqlite')`,
		"0002_b.postgres.sql": `INSERT INTO a (x) VALUES ('postgres')`,
	}
	testenv.EachLedgerConfig(t, func(t *testing.T, cfg ledger.Config) {
		db := testenv.OpenLedger(t, cfg)
		steps := maps.Clone(steps)
		migrate := func(wantDone int, wantError string) {
			t.Helper()
			done, err := db.Migrate(t.Context(), files(steps))
			if done != wantDone || wantError == "" && err != nil || wantError != "" && (err == nil || !strings.Contains(err.Error(), wantError)) {
				t.Fatalf("did %d steps, error %v; want %d and %q", done, err, wantDone, wantError)
			}
		}
		migrate(2, "")
		if n := number(t, db, `SELECT count(*) FROM a WHERE x = $1`, cfg.Driver); n != 1 {
			t.Errorf("the file of the other database was run")
		}
		// A step that breaks in the middle leaves nothing, and can be put right.
		steps["0003_c.sql"] = `CREATE TABLE c (id ${int64} NOT NULL); INSERT INTO nowhere (x) VALUES (1)`
		migrate(0, "0003_c")
		steps["0003_c.sql"] = `CREATE TABLE c (id ${int64} NOT NULL)`
		migrate(1, "")

		steps["0001_a.sql"] += " "
		migrate(0, "0001_a was changed")
		steps["0001_a.sql"] = strings.TrimSpace(steps["0001_a.sql"])
		delete(steps, "0003_c.sql")
		migrate(0, "has the step 0003_c")
	})
}

func TestMigrationFiles(t *testing.T) {
	cases := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"no number", map[string]string{"a.sql": "SELECT 1"}, "want a name like"},
		{"unknown dialect", map[string]string{"0001_a.mysql.sql": "SELECT 1"}, "want a name like"},
		{"same number", map[string]string{"0001_a.sql": "SELECT 1", "0001_b.sql": "SELECT 1"}, "the same number"},
		{"both and one", map[string]string{"0001_a.sql": "SELECT 1", "0001_a.sqlite.sql": "SELECT 1", "0001_a.postgres.sql": "SELECT 1"}, "the same number"},
		{"one database only", map[string]string{"0001_a.postgres.sql": "SELECT 1"}, "for postgres only"},
		{"unknown variable", map[string]string{"0001_a.sql": "CREATE TABLE a (x ${uuid})"}, "unknown variable ${uuid}"},
	}
	db := testenv.OpenLedger(t, testenv.LedgerConfig(t))
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if _, err := db.Migrate(t.Context(), files(c.files)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
		})
	}
}

// SQLite changes a table by making a new one; that must not delete what refers
// to the old one, and must not leave references to nothing.
func TestSQLiteTableCanBeRebuilt(t *testing.T) {
	db := testenv.OpenLedger(t, testenv.LedgerConfig(t))
	steps := map[string]string{
		"0001_a.sql": `CREATE TABLE a (id INTEGER PRIMARY KEY);
			CREATE TABLE b (a INTEGER REFERENCES a (id) ON DELETE CASCADE);
			INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)`,
		"0002_a.sql": `CREATE TABLE a_new (id INTEGER PRIMARY KEY, x TEXT); INSERT INTO a_new SELECT id, '' FROM a;
			DROP TABLE a; ALTER TABLE a_new RENAME TO a`,
	}
	if _, err := db.Migrate(t.Context(), files(steps)); err != nil {
		t.Fatal(err)
	}
	if n := number(t, db, `SELECT count(*) FROM b`); n != 1 {
		t.Errorf("%d rows refer to the table that was made anew, want 1", n)
	}
	steps["0003_a.sql"] = `DELETE FROM a`
	if _, err := db.Migrate(t.Context(), files(steps)); err == nil || !strings.Contains(err.Error(), "table b refers to rows that do not exist") {
		t.Errorf("error is %v", err)
	}
	if n := number(t, db, `SELECT count(*) FROM a`); n != 1 {
		t.Errorf("the step that was refused left %d rows, want 1", n)
	}
}
