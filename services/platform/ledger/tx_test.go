package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
	"github.com/tollway/tollway/sql"
)

// Two writers who have read the same revision: exactly one may write.
func TestRealOneWriterWins(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		resource(t, db, "accounts/acme")
		const writers = 8
		for revision := int64(1); revision <= 5; revision++ {
			var won atomic.Int64
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					changed, err := update(t.Context(), db, "accounts/acme", revision)
					if err != nil {
						t.Errorf("update: %v", err)
					}
					won.Add(changed)
				})
			}
			wg.Wait()
			if won.Load() != 1 {
				t.Fatalf("%d of %d writers won revision %d, want 1", won.Load(), writers, revision)
			}
		}
	})
}

func update(ctx context.Context, db *ledger.DB, name string, revision int64) (changed int64, err error) {
	err = db.Tx(ctx, func(tx *ledger.Tx) error {
		changed, err = tx.Exec(ctx, `UPDATE resources SET revision = revision + 1 WHERE name = $1 AND revision = $2`, name, revision)
		return err
	})
	return changed, err
}

// Transactions that read and then write what they made of it lose no update,
// whether they come from one process or from two: those that would are run again.
func TestRealTransactionsAreSerializable(t *testing.T) {
	testenv.EachLedgerConfig(t, func(t *testing.T, cfg ledger.Config) {
		one, two := testenv.OpenLedger(t, cfg), testenv.OpenLedger(t, cfg)
		if _, err := one.Migrate(t.Context(), sql.LedgerMigrations); err != nil {
			t.Fatal(err)
		}
		must(t, one, `INSERT INTO settings (key, value) VALUES ('a', '0')`)
		const writers, each = 3, 10 // per process
		var wg sync.WaitGroup
		for _, db := range []*ledger.DB{one, two} {
			for range writers {
				wg.Go(func() {
					for range each {
						if err := increment(t.Context(), db); err != nil {
							t.Errorf("increment: %v", err)
						}
					}
				})
			}
		}
		wg.Wait()
		if n := number(t, one, `SELECT CAST(value AS INTEGER) FROM settings WHERE key = 'a'`); n != 2*writers*each {
			t.Errorf("%d increments are left of %d", n, 2*writers*each)
		}
	})
}

func increment(ctx context.Context, db *ledger.DB) error {
	return db.Tx(ctx, func(tx *ledger.Tx) error {
		var n int64
		if err := tx.QueryRow(ctx, `SELECT CAST(value AS INTEGER) FROM settings WHERE key = 'a'`).Scan(&n); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE settings SET value = $1 WHERE key = 'a'`, fmt.Sprint(n+1))
		return err
	})
}

// A rule over rows that do not exist yet holds too: at most one setting.
func TestRealNoWriteSkew(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		taken := errors.New("taken")
		var wg sync.WaitGroup
		var won atomic.Int64
		for i := range 8 {
			wg.Go(func() {
				err := db.Tx(t.Context(), func(tx *ledger.Tx) error {
					var n int64
					if err := tx.QueryRow(t.Context(), `SELECT count(*) FROM settings`).Scan(&n); err != nil {
						return err
					}
					if n > 0 {
						return taken
					}
					_, err := tx.Exec(t.Context(), `INSERT INTO settings (key, value) VALUES ($1, '')`, fmt.Sprint(i))
					return err
				})
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, taken):
					t.Errorf("insert: %v", err)
				}
			})
		}
		wg.Wait()
		if n := number(t, db, `SELECT count(*) FROM settings`); n != 1 || won.Load() != 1 {
			t.Errorf("%d settings, %d writers won; want 1", n, won.Load())
		}
	})
}

// A delete meets a reference that is made at the same time: one of the two is
// refused, whoever comes first.
func TestRealReferenceAgainstDelete(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		for i := range 20 {
			target, user := fmt.Sprintf("plans/%d", i), fmt.Sprintf("subscriptions/%d", i)
			resource(t, db, target)
			resource(t, db, user)
			var refer, remove error
			var wg sync.WaitGroup
			wg.Go(func() {
				refer = execute(t.Context(), db, `INSERT INTO resource_references (name, field, target) VALUES ($1, 'plan', $2)`, user, target)
			})
			wg.Go(func() { remove = execute(t.Context(), db, `DELETE FROM resources WHERE name = $1`, target) })
			wg.Wait()
			if (refer == nil) == (remove == nil) {
				t.Fatalf("round %d: reference %v, delete %v", i, refer, remove)
			}
			if refer != nil && !errors.Is(refer, ledger.ErrReference) || remove != nil && !errors.Is(remove, ledger.ErrInUse) {
				t.Fatalf("round %d: reference %v, delete %v", i, refer, remove)
			}
		}
	})
}

// A failed statement ends the transaction on both databases, also for a
// function that does not care.
func TestRealFailureIsFinal(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		resource(t, db, "accounts/acme")
		ctx := t.Context()
		err := db.Tx(ctx, func(tx *ledger.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO settings (key, value) VALUES ('before', '')`); err != nil {
				return err
			}
			_, first := tx.Exec(ctx, insertResource, "accounts/acme", "", "other uid")
			_, second := tx.Exec(ctx, `INSERT INTO settings (key, value) VALUES ('after', '')`)
			third := tx.QueryRow(ctx, `SELECT count(*) FROM settings`).Scan(new(int64))
			_, fourth := ledger.Select(ctx, tx, scanText, `SELECT key FROM settings`)
			for i, err := range []error{first, second, third, fourth} {
				if !errors.Is(err, ledger.ErrConflict) {
					t.Errorf("statement %d: error is %v, want that of the first", i+1, err)
				}
			}
			return nil
		})
		if !errors.Is(err, ledger.ErrConflict) {
			t.Errorf("the transaction returned %v", err)
		}
		if n := number(t, db, `SELECT count(*) FROM settings`); n != 0 {
			t.Errorf("%d rows of the failed transaction are there", n)
		}
	})
}

// The error of the function ends the transaction and is returned as it is.
func TestRealRollback(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		ctx := t.Context()
		mine := errors.New("mine")
		err := db.Tx(ctx, func(tx *ledger.Tx) error {
			err := tx.QueryRow(ctx, `SELECT value FROM settings WHERE key = 'none'`).Scan(new(string))
			if !errors.Is(err, ledger.ErrNotFound) {
				t.Errorf("a row that is not there gave %v", err)
			}
			if _, err := tx.Exec(ctx, `INSERT INTO settings (key, value) VALUES ('a', '')`); err != nil {
				t.Errorf("a row that was not found ended the transaction: %v", err)
			}
			return mine
		})
		if !errors.Is(err, mine) {
			t.Errorf("error is %v", err)
		}
		func() {
			defer func() { _ = recover() }()
			_ = db.Tx(ctx, func(tx *ledger.Tx) error {
				_, err := tx.Exec(ctx, `INSERT INTO settings (key, value) VALUES ('b', '')`)
				panic(err)
			})
		}()
		must(t, db, `INSERT INTO settings (key, value) VALUES ('c', '')`) // nothing is locked
		if n := number(t, db, `SELECT count(*) FROM settings`); n != 1 {
			t.Errorf("%d rows, want the one that was committed", n)
		}
	})
}

func TestRealReadSeesOneStateAndChangesNothing(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		ctx := t.Context()
		err := db.Read(ctx, func(tx *ledger.Tx) error {
			var before, after int64
			if err := tx.QueryRow(ctx, `SELECT count(*) FROM settings`).Scan(&before); err != nil {
				return err
			}
			must(t, db, `INSERT INTO settings (key, value) VALUES ('a', '')`)
			if err := tx.QueryRow(ctx, `SELECT count(*) FROM settings`).Scan(&after); err != nil {
				return err
			}
			if before != 0 || after != 0 {
				t.Errorf("the reader saw %d rows and then %d, want none", before, after)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		err = db.Read(ctx, func(tx *ledger.Tx) error {
			_, err := tx.Exec(ctx, `DELETE FROM settings`)
			return err
		})
		if err == nil {
			t.Error("a reader may delete")
		}
		if n := number(t, db, `SELECT count(*) FROM settings`); n != 1 {
			t.Errorf("%d rows, want 1", n)
		}
	})
}

func TestRealText(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		type named string
		bad := named("a\xff")
		for _, value := range []any{"a\x00b", "\xc3\x28", bad, &bad} {
			err := execute(t.Context(), db, `INSERT INTO settings (key, value) VALUES ('x', $1)`, value)
			if !errors.Is(err, ledger.ErrInvalid) {
				t.Errorf("%q: error is %v", value, err)
			}
		}
		for _, value := range []string{"", "'; DROP TABLE settings; --", "äöü 中文 😀", "${text} $1 \\ %", "\n\t\x01"} {
			must(t, db, `INSERT INTO settings (key, value) VALUES ('x', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, value)
			var got string
			err := db.Read(t.Context(), func(tx *ledger.Tx) error {
				return tx.QueryRow(t.Context(), `SELECT value FROM settings WHERE key = 'x'`).Scan(&got)
			})
			if err != nil || got != value {
				t.Errorf("%q came back as %q, error %v", value, got, err)
			}
		}
		resource(t, db, "accounts/acme")
		if err := execute(t.Context(), db, `UPDATE resources SET revision = 'many'`); err == nil {
			t.Error("text was stored in a column of numbers")
		}
	})
}

// A number that was generated is never used again, also after the last row is gone.
func TestRealIdentity(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		var last int64
		for i := range 3 {
			err := db.Tx(t.Context(), func(tx *ledger.Tx) error {
				var sequence int64
				err := tx.QueryRow(t.Context(), insertOutbox+` RETURNING sequence`, "x", i).Scan(&sequence)
				if sequence <= last {
					t.Errorf("number %d follows %d", sequence, last)
				}
				last = sequence
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			must(t, db, `DELETE FROM outbox`)
		}
	})
}

// Whoever loses every time is told that the database is busy, and not for ever.
func TestRealBusy(t *testing.T) {
	testenv.EachLedgerConfig(t, func(t *testing.T, cfg ledger.Config) {
		owner := testenv.OpenLedger(t, cfg)
		must(t, owner, `CREATE TABLE a (x INTEGER PRIMARY KEY)`)
		must(t, owner, `INSERT INTO a (x) VALUES (1)`)
		cfg.MaxAttempts = 2
		cfg.LockTimeout = 20e6
		hurried := testenv.OpenLedger(t, cfg)
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(hurried)
		err := owner.Tx(t.Context(), func(tx *ledger.Tx) error {
			if _, err := tx.Exec(t.Context(), `UPDATE a SET x = 2`); err != nil {
				return err
			}
			if err := execute(t.Context(), hurried, `UPDATE a SET x = 3`); !errors.Is(err, ledger.ErrBusy) {
				t.Errorf("while another one writes: %v", err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		must(t, hurried, `UPDATE a SET x = 3`)
		if n := number(t, owner, `SELECT x FROM a`); n != 3 {
			t.Errorf("x is %d, want 3", n)
		}
		if n := retries(t, registry); n != 1 {
			t.Errorf("%v retries are counted, want 1", n)
		}
	})
}

func retries(t *testing.T, registry *prometheus.Registry) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "tollway_ledger_retries_total" {
			return family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("retries are not counted")
	return 0
}

func TestRealContext(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		err := db.Tx(ctx, func(tx *ledger.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO settings (key, value) VALUES ('a', '')`)
			cancel()
			return err
		})
		if !errors.Is(err, context.Canceled) || errors.Is(err, ledger.ErrUnknownOutcome) {
			t.Errorf("cancelled before the commit: %v", err)
		}
		if err := execute(ctx, db, `INSERT INTO settings (key, value) VALUES ('b', '')`); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled before the begin: %v", err)
		}
		must(t, db, `INSERT INTO settings (key, value) VALUES ('c', '')`)
		if n := number(t, db, `SELECT count(*) FROM settings`); n != 1 {
			t.Errorf("%d rows, want the one that was committed", n)
		}
	})
}

// Versions of one name are numbered in the order in which they were committed,
// and a publisher that takes what is unpublished misses none.
func TestRealOutboxOrder(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		const names, versions = 4, 15
		for i := range names {
			resource(t, db, fmt.Sprintf("things/%d", i))
		}
		writing := make(chan struct{})
		var wg sync.WaitGroup
		for i := range names {
			for range 2 { // two writers compete for each name
				wg.Go(func() { writeVersions(t, db, fmt.Sprintf("things/%d", i), versions) })
			}
		}
		go func() { wg.Wait(); close(writing) }()
		published := map[string]int64{}
		for last := false; !last; {
			select {
			case <-writing:
				last = true
			default:
			}
			publish(t, db, published)
		}
		for i := range names {
			if got := published[fmt.Sprintf("things/%d", i)]; got != 1+2*versions {
				t.Errorf("things/%d was published up to revision %d, want %d", i, got, 1+2*versions)
			}
		}
	})
}

func writeVersions(t *testing.T, db *ledger.DB, name string, versions int) {
	ctx := t.Context()
	for range versions {
		err := db.Tx(ctx, func(tx *ledger.Tx) error {
			var revision int64
			err := tx.QueryRow(ctx, `UPDATE resources SET revision = revision + 1 WHERE name = $1 RETURNING revision`, name).Scan(&revision)
			if err != nil {
				return err
			}
			_, err = tx.Exec(ctx, insertOutbox, name, revision)
			return err
		})
		if err != nil {
			t.Errorf("write a version of %s: %v", name, err)
			return
		}
	}
}

type version struct {
	sequence, revision int64
	name               string
}

// publish takes every unpublished version once and checks that it follows the
// one before it.
func publish(t *testing.T, db *ledger.DB, published map[string]int64) {
	t.Helper()
	ctx := t.Context()
	var batch []version
	err := db.Tx(ctx, func(tx *ledger.Tx) (err error) {
		batch, err = ledger.Select(ctx, tx, func(row ledger.Row) (v version, err error) {
			err = row.Scan(&v.sequence, &v.name, &v.revision)
			return v, err
		}, `SELECT sequence, name, revision FROM outbox WHERE published_at IS NULL ORDER BY sequence LIMIT 1000`)
		for _, v := range batch {
			if _, err := tx.Exec(ctx, `UPDATE outbox SET published_at = 1 WHERE sequence = $1`, v.sequence); err != nil {
				return err
			}
		}
		return err
	})
	if err != nil {
		t.Fatalf("publish: %v", err)
	}
	for _, v := range batch {
		if before := max(published[v.name], 1); v.revision != before+1 {
			t.Fatalf("revision %d of %s follows %d", v.revision, v.name, before)
		}
		published[v.name] = v.revision
	}
}

func TestCloseLeavesNoGoroutine(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	cfg := testenv.LedgerConfig(t)
	func() {
		db, err := ledger.Open(t.Context(), cfg, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		must(t, db, `CREATE TABLE a (x INTEGER)`)
		lock, err := db.TryLock(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if err := lock.Unlock(); err != nil {
			t.Fatal(err)
		}
	}()
}
