package ledger_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

// BenchmarkWrite makes a resource with its version, as a catalog does, from many
// goroutines at once.
func BenchmarkWrite(b *testing.B) {
	eachLedger(b, func(b *testing.B, db *ledger.DB) {
		var n atomic.Int64
		b.SetParallelism(8)
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				name := fmt.Sprintf("things/%d", n.Add(1))
				err := db.Tx(b.Context(), func(tx *ledger.Tx) error {
					if _, err := tx.Exec(b.Context(), insertResource, name, "", name); err != nil {
						return err
					}
					_, err := tx.Exec(b.Context(), insertOutbox, name, 1)
					return err
				})
				if err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkRead(b *testing.B) {
	eachLedger(b, func(b *testing.B, db *ledger.DB) {
		resource(b, db, "things/1")
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				number(b, db, `SELECT revision FROM resources WHERE name = $1`, "things/1")
			}
		})
	})
}

func eachLedger(b *testing.B, bench func(b *testing.B, db *ledger.DB)) {
	b.Run(ledger.SQLite, func(b *testing.B) { bench(b, testenv.Ledger(b)) })
	b.Run(ledger.Postgres, func(b *testing.B) { bench(b, testenv.Postgres(b)) })
}
