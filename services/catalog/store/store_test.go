package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/catalog/store"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var began = time.Date(2026, 3, 1, 12, 0, 0, 999, time.UTC)

// tx runs a transaction that must succeed.
func tx(t *testing.T, db *ledger.DB, at time.Time, fn func(ctx context.Context, tx *ledger.Tx, w *store.Writer) error) {
	t.Helper()
	ctx := t.Context()
	err := db.Tx(ctx, func(tx *ledger.Tx) error {
		return fn(ctx, tx, store.NewWriter(tx, store.Author{Actor: "a", Role: "r", Method: "m", RequestID: "i"}, at))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func account(name string) *catalogv1.Account {
	return &catalogv1.Account{Name: "accounts/" + name, DisplayName: name}
}

// A name that is used again goes on counting, and the time of a change never goes
// back, whatever the clock does.
func TestRealVersions(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		var made, changed, again *store.Stored
		tx(t, db, began, func(ctx context.Context, _ *ledger.Tx, w *store.Writer) (err error) {
			made, err = w.Insert(ctx, kind.Account, account("a"), store.Secret{})
			return err
		})
		if made.Revision != 1 || !made.Create.Equal(began.Truncate(time.Microsecond)) || len(made.UID) != 32 {
			t.Errorf("made %+v", made)
		}
		tx(t, db, began.Add(-time.Hour), func(ctx context.Context, _ *ledger.Tx, w *store.Writer) (err error) {
			m := proto.Clone(made.Message).(*catalogv1.Account)
			m.DisplayName = "A"
			changed, err = w.Update(ctx, made, m)
			return err
		})
		if changed.Revision != 2 || !changed.Update.After(made.Update) || changed.Message.GetEtag() == made.Message.GetEtag() || made.Message.(*catalogv1.Account).GetDisplayName() != "a" {
			t.Errorf("changed %+v", changed)
		}
		tx(t, db, began, func(ctx context.Context, tx *ledger.Tx, w *store.Writer) error {
			read, err := store.Get(ctx, tx, "accounts/a")
			if err != nil {
				return err
			}
			if !proto.Equal(read.Message, changed.Message) || read.Revision != 2 {
				t.Errorf("read %v", read.Message)
			}
			return w.Delete(ctx, read)
		})
		tx(t, db, began, func(ctx context.Context, tx *ledger.Tx, w *store.Writer) (err error) {
			if _, err := store.Get(ctx, tx, "accounts/a"); !errors.Is(err, ledger.ErrNotFound) {
				t.Errorf("deleted, but %v", err)
			}
			again, err = w.Insert(ctx, kind.Account, account("a"), store.Secret{})
			return err
		})
		if again.Revision != 4 || again.UID == made.UID {
			t.Errorf("made again %+v", again)
		}
		// A writer with an old version changes nothing.
		err := db.Tx(t.Context(), func(tx *ledger.Tx) error {
			_, err := store.NewWriter(tx, store.Author{}, began).Update(t.Context(), changed, account("a"))
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "0 rows") {
			t.Errorf("an old version was changed: %v", err)
		}
	})
}

func TestRealBetween(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		tx(t, db, began, func(ctx context.Context, _ *ledger.Tx, w *store.Writer) error {
			for _, a := range []string{"a", "a-b", "b"} {
				if _, err := w.Insert(ctx, kind.Account, account(a), store.Secret{}); err != nil {
					return err
				}
				for _, id := range []string{"x", "y"} {
					name := "accounts/" + a + "/apps/" + id
					if _, err := w.Insert(ctx, kind.App, &catalogv1.App{Name: name, DisplayName: id}, store.Secret{}); err != nil {
						return err
					}
					for _, c := range []string{"1", "2"} {
						if _, err := w.Insert(ctx, kind.Credential, &catalogv1.Credential{Name: name + "/credentials/c" + c}, store.Secret{}); err != nil {
							return err
						}
					}
				}
			}
			return nil
		})
		tx(t, db, began, func(ctx context.Context, tx *ledger.Tx, _ *store.Writer) error {
			for prefix, want := range map[string]int{"accounts/": 12, "accounts/a/apps/": 4, "accounts/a-b/apps/": 4, "accounts/none/apps/": 0} {
				n := 0
				for after := (store.Place{}); ; {
					page, err := store.Between(ctx, tx, kind.Credential, prefix, after, 3)
					if err != nil {
						return err
					}
					for _, s := range page {
						if !strings.HasPrefix(s.Name, prefix) || s.Parent < after.Parent {
							t.Errorf("%s in %s after %v", s.Name, prefix, after)
						}
						after = store.Place{Parent: s.Parent, Name: s.Name}
					}
					if n += len(page); len(page) < 3 {
						break
					}
				}
				if n != want {
					t.Errorf("%d below %s, want %d", n, prefix, want)
				}
			}
			users, count, err := store.Users(ctx, tx, "accounts/a", 1)
			if len(users) != 1 || users[0] != "accounts/a/apps/x" || count != 2 {
				t.Errorf("users %v, %d", users, count)
			}
			return err
		})
	})
}

// The database itself refuses what overlaps, also if nobody has looked before.
func TestRealPeriods(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		period := func(from, to int) store.Period {
			p := store.Period{Subject: "accounts/a", Product: "products/p", Start: began.AddDate(0, from, 0)}
			if to > 0 {
				p.End = began.AddDate(0, to, 0)
			}
			return p
		}
		tx(t, db, began, func(ctx context.Context, _ *ledger.Tx, w *store.Writer) error {
			if _, err := w.Insert(ctx, kind.Account, account("a"), store.Secret{}); err != nil {
				return err
			}
			for _, id := range []string{"s", "t"} {
				if _, err := w.Insert(ctx, kind.Subscription, &catalogv1.Subscription{Name: "accounts/a/subscriptions/" + id}, store.Secret{}); err != nil {
					return err
				}
			}
			return w.SetPeriods(ctx, "accounts/a/subscriptions/s", period(1, 2), period(3, 0))
		})
		for _, c := range []struct {
			from, to int
			ok       bool
		}{{0, 1, true}, {2, 3, true}, {0, 2, false}, {1, 2, false}, {2, 4, false}, {9, 0, false}} {
			err := db.Tx(t.Context(), func(tx *ledger.Tx) error {
				other, err := store.Overlapping(t.Context(), tx, "accounts/a/subscriptions/t", period(c.from, c.to))
				if err != nil || (other == "") != c.ok {
					t.Errorf("%d to %d overlaps %q, %v", c.from, c.to, other, err)
				}
				return store.NewWriter(tx, store.Author{}, began).SetPeriods(t.Context(), "accounts/a/subscriptions/t", period(c.from, c.to))
			})
			if c.ok && err != nil || !c.ok && !errors.Is(err, ledger.ErrOverlap) {
				t.Errorf("%d to %d: %v", c.from, c.to, err)
			}
		}
	})
}
