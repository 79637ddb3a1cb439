package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

func TestRealLock(t *testing.T) {
	testenv.EachLedgerConfig(t, func(t *testing.T, cfg ledger.Config) {
		ctx := t.Context()
		one, two := testenv.OpenLedger(t, cfg), testenv.OpenLedger(t, cfg)
		first, err := one.TryLock(ctx, "outbox")
		if err != nil {
			t.Fatal(err)
		}
		for _, db := range []*ledger.DB{one, two} {
			if _, err := db.TryLock(ctx, "outbox"); !errors.Is(err, ledger.ErrLocked) {
				t.Errorf("a second holder got %v", err)
			}
		}
		other, err := two.TryLock(ctx, "invoices")
		if err != nil {
			t.Fatalf("a lock of another name: %v", err)
		}
		if err := first.Check(ctx); err != nil {
			t.Errorf("check: %v", err)
		}
		must(t, two, `CREATE TABLE a (x INTEGER)`) // the lock stops nobody's work
		for range 2 {
			if err := first.Unlock(); err != nil {
				t.Errorf("unlock: %v", err)
			}
		}
		if err := first.Check(ctx); !errors.Is(err, ledger.ErrLockLost) {
			t.Errorf("after unlock: %v", err)
		}
		second, err := two.TryLock(ctx, "outbox")
		if err != nil {
			t.Fatalf("after unlock: %v", err)
		}
		for _, lock := range []*ledger.Lock{second, other} {
			if err := lock.Unlock(); err != nil {
				t.Error(err)
			}
		}
		if _, err := one.TryLock(ctx, "../outbox"); err == nil {
			t.Error("any name is taken")
		}
	})
}

const holderLock = "held"

// holdForEver takes the lock and says so.
func holdForEver(path string) error {
	ctx := context.Background()
	db, err := openAt(ctx, path)
	if err != nil {
		return err
	}
	if _, err := db.TryLock(ctx, holderLock); err != nil {
		return err
	}
	fmt.Println("held")
	time.Sleep(time.Hour)
	return errors.New("nobody killed this process")
}

// A lock ends with the process that holds it, also when that is killed.
func TestLockEndsWithProcess(t *testing.T) {
	cfg := testenv.LedgerConfig(t)
	db := testenv.OpenLedger(t, cfg)
	lines, kill := otherProcess(t, "holder", cfg.Path)
	if !lines.Scan() || lines.Text() != "held" {
		t.Fatalf("the other process said %q", lines.Text())
	}
	if _, err := db.TryLock(t.Context(), holderLock); !errors.Is(err, ledger.ErrLocked) {
		t.Errorf("while another process holds it: %v", err)
	}
	kill()
	lock, err := db.TryLock(t.Context(), holderLock)
	if err != nil {
		t.Fatalf("after the kill: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Error(err)
	}
}

// Whoever loses the connection that the lock stands on can know it.
func TestRealPostgresLockLost(t *testing.T) {
	cfg := testenv.PostgresConfig(t)
	db := testenv.OpenLedger(t, cfg)
	lock, err := db.TryLock(t.Context(), "outbox")
	if err != nil {
		t.Fatal(err)
	}
	number(t, db, `SELECT count(pg_terminate_backend(pid)) FROM pg_locks
		WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
	if err := lock.Check(t.Context()); !errors.Is(err, ledger.ErrLockLost) {
		t.Errorf("check: %v", err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		again, err := db.TryLock(t.Context(), "outbox")
		if err == nil {
			if err := again.Unlock(); err != nil {
				t.Error(err)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the lock of a dead connection is still held: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = lock.Unlock() // its connection is gone
}
