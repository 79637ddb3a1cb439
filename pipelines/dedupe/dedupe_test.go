package dedupe

import (
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/tollway/tollway/pipelines/call"
)

// The set against a map that never forgets: what the set says above its
// horizon is what the map says, whatever was added in whichever order.
func TestAnswersAboveTheHorizonAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, all := New(64), map[call.ID]int64{}
		s.Forget(rapid.Int64Range(0, 50).Draw(t, "start"))
		for range rapid.IntRange(0, 600).Draw(t, "calls") {
			n := rapid.IntRange(0, 1000).Draw(t, "n")
			id, time := call.NewID("t", strconv.Itoa(n)), int64(n/7*7%1000)
			if n == 0 {
				id = call.ID{}
			}
			if _, stored := all[id]; time >= s.Horizon() && s.Contains(id) != stored {
				t.Fatalf("call %d at %d, horizon %d: stored %v", n, time, s.Horizon(), stored)
			}
			if s.Contains(id) {
				if _, stored := all[id]; !stored {
					t.Fatalf("call %d was never stored", n)
				}
				continue
			}
			// A call below the start is not in the set though it may be stored.
			if time >= s.Horizon() || rapid.Bool().Draw(t, "late") {
				s.Add(id, time)
				all[id] = time
			}
		}
	})
}

func TestMemoryIsBoundedAndThePastFades(t *testing.T) {
	s := New(1000)
	for i := range 100_000 {
		s.Add(call.NewID("t", strconv.Itoa(i)), int64(i))
	}
	if h := s.Horizon(); h < 97_000 || h > 99_500 {
		t.Fatalf("horizon %d", h)
	}
	for i := int(s.Horizon()); i < 100_000; i++ {
		if !s.Contains(call.NewID("t", strconv.Itoa(i))) {
			t.Fatalf("call %d is forgotten above the horizon %d", i, s.Horizon())
		}
	}
}

func BenchmarkContainsThenAdd(b *testing.B) {
	s := New(4 << 20)
	ids := make([]call.ID, 1<<20)
	for i := range ids {
		ids[i] = call.NewID("t", strconv.Itoa(i))
	}
	i := 0
	for b.Loop() {
		id := ids[i&(1<<20-1)]
		if !s.Contains(id) {
			s.Add(id, int64(i))
		}
		i++
	}
}
