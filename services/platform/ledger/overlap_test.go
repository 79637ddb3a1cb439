package ledger_test

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

type period struct {
	subject, product string
	start, end       int64
}

func (p period) overlaps(o period) bool {
	return p.subject == o.subject && p.product == o.product && p.start < o.end && o.start < p.end
}

// The database accepts a period exactly if it overlaps none that it has, whether
// it is new or changed.
func TestRealOverlap(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		resource(t, db, "subscriptions/base")
		run := 0
		rapid.Check(t, func(t *rapid.T) {
			run++
			model := map[string]period{}
			for i := range rapid.IntRange(1, 12).Draw(t, "steps") {
				p := drawPeriod(t, run)
				name := drawName(t, run, i, model)
				err := storePeriod(t, db, name, p, model)
				checkPeriod(t, name, p, model, err)
			}
			prefix := fmt.Sprintf("run%d", run)
			if n := countPeriods(t, db, prefix); n != len(model) {
				t.Fatalf("%d periods are stored, want %d", n, len(model))
			}
		})
	})
}

func drawPeriod(t *rapid.T, run int) period {
	// Few values, close together, so that edges meet; and the open end.
	ends := rapid.OneOf(rapid.Int64Range(1, 12), rapid.Just(int64(math.MaxInt64)))
	p := period{
		subject: fmt.Sprintf("run%d/%s", run, rapid.SampledFrom([]string{"a", "b", "a "}).Draw(t, "subject")),
		product: rapid.SampledFrom([]string{"x", "X"}).Draw(t, "product"),
		start:   rapid.Int64Range(-2, 11).Draw(t, "start"),
	}
	p.end = max(ends.Draw(t, "end"), p.start+1)
	return p
}

// drawName is a new name or one that has a period already, which changes then.
func drawName(t *rapid.T, run, step int, model map[string]period) string {
	names := []string{fmt.Sprintf("subscriptions/%d-%d", run, step)}
	for i := range step {
		if name := fmt.Sprintf("subscriptions/%d-%d", run, i); model[name] != (period{}) {
			names = append(names, name)
		}
	}
	return rapid.SampledFrom(names).Draw(t, "name")
}

func storePeriod(t *rapid.T, db *ledger.DB, name string, p period, model map[string]period) error {
	ctx := t.Context()
	if _, there := model[name]; there {
		return execute(ctx, db, `UPDATE subscription_periods SET subject = $1, product = $2, start_time = $3, end_time = $4 WHERE name = $5`,
			p.subject, p.product, p.start, p.end, name)
	}
	return db.Tx(ctx, func(tx *ledger.Tx) error {
		if _, err := tx.Exec(ctx, insertResource, name, "", name); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, insertPeriod, name, p.subject, p.product, p.start, p.end)
		return err
	})
}

func checkPeriod(t *rapid.T, name string, p period, model map[string]period, err error) {
	free := true
	for other, o := range model {
		free = free && (other == name || !p.overlaps(o))
	}
	switch {
	case free && err == nil:
		model[name] = p
	case free:
		t.Fatalf("%+v is free and was refused: %v", p, err)
	case !errors.Is(err, ledger.ErrOverlap):
		t.Fatalf("%+v overlaps and the answer is %v", p, err)
	}
}

func countPeriods(t *rapid.T, db *ledger.DB, prefix string) int {
	var rows []string
	err := db.Read(t.Context(), func(tx *ledger.Tx) (err error) {
		rows, err = ledger.Select(t.Context(), tx, scanText,
			`SELECT subject FROM subscription_periods WHERE subject LIKE $1`, prefix+"/%")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return len(rows)
}
