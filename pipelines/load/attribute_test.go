package load

import (
	"testing"

	"github.com/tollway/tollway/pipelines/call"
)

// The catalog changes between a crash and its recovery. Calls that are stored
// already are not stored once more under another account, even where the engine
// has forgotten the tokens of its inserts.
func TestRecoverUnderAnotherCatalog(t *testing.T) {
	db, loader := open(t, 1000)
	account := "before"
	loader.attribute = func(b *call.Batch) uint64 {
		d := &b.Strings[call.Account]
		for row := range b.Rows() {
			d.Index[row] = d.Code(account)
		}
		return 1
	}
	p := loader.Open(1)
	if err := p.Warm(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if err := p.db.Exec(t.Context(), "ALTER TABLE calls MODIFY SETTING non_replicated_deduplication_window = 0", nil); err != nil {
		t.Fatal(err)
	}
	load := func(recovering bool) {
		t.Helper()
		b := call.NewBatch()
		message(t, b, 10, now, ints(0, 100)...)
		if err := p.load(t.Context(), rng(10, 11), b, fine, recovering); err != nil {
			t.Fatal(err)
		}
	}
	load(false)
	account = "after"
	load(true)
	agree(t, db, p, 100)
	if n := number(t, db, "(SELECT countIf(account = 'before') FROM calls)"); n != 100 {
		t.Errorf("%d calls belong to the account that they were stored under", n)
	}
}
