package outbox

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

func TestRealClean(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		p, err := New(DefaultConfig(), Deps{Ledger: db, Log: zerolog.Nop(), Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		old, young := time.Now().Add(-8*24*time.Hour).UnixMicro(), time.Now().UnixMicro()
		type row struct {
			name      string
			revision  int
			body      any
			published any
		}
		ctx := context.Background()
		err = db.Tx(ctx, func(tx *ledger.Tx) error {
			for _, r := range []row{
				{"replaced", 1, "{}", old}, {"replaced", 2, "{}", old},
				{"young", 1, "{}", young}, {"young", 2, "{}", young},
				{"waiting", 1, "{}", old}, {"waiting", 2, "{}", nil},
				{"deleted", 1, "{}", old}, {"deleted", 2, nil, old},
				{"deleted-now", 1, nil, young},
			} {
				if _, err := tx.Exec(ctx, `INSERT INTO outbox (name, kind, revision, body, time, published_at) VALUES ($1, 'x', $2, $3, 0, $4)`, r.name, r.revision, r.body, r.published); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.clean(ctx); err != nil {
			t.Fatal(err)
		}
		var left []string
		err = db.Read(ctx, func(tx *ledger.Tx) (err error) {
			left, err = ledger.Select(ctx, tx, func(r ledger.Row) (string, error) {
				var name, revision string
				err := r.Scan(&name, &revision)
				return name + " " + revision, err
			}, `SELECT name, CAST(revision AS TEXT) FROM outbox ORDER BY sequence`)
			return err
		})
		if want := []string{"replaced 2", "young 1", "young 2", "waiting 2", "deleted-now 1"}; err != nil || !slices.Equal(left, want) {
			t.Errorf("left %q, %v; want %q", left, err, want)
		}
	})
}
