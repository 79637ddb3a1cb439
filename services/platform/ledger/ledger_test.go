package ledger_test

import (
	"testing"

	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestRealSmoke(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		if err := db.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
