package oracle

import (
	"fmt"
	"maps"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tollway/tollway/loadtest/gen"
)

// world is a history and a store that agree: 2,000 calls in 4 partitions, some
// sent twice, some late, some without an acknowledgement.
func world() (History, *Store) {
	h := History{Attempted: map[gen.ID]gen.Event{}, Acked: map[gen.ID]struct{}{}}
	s := &Store{Log: map[Place]gen.ID{}, Rollups: map[string]Rollup{}}
	source := gen.NewSource("test", 1, gen.Mix{Duplicates: 0.05, Late: 0.02})
	at := time.Date(2026, 3, 1, 11, 58, 0, 0, time.UTC)
	var next [4]Place
	for i := range 2000 {
		e := source.Next(at.Add(time.Duration(i) * 100 * time.Millisecond))
		id := e.Identity()
		_, again := h.Attempted[id]
		h.Attempted[id] = e
		if i%10 != 0 {
			h.Acked[id] = struct{}{}
		}
		n := int(id[0]) % len(next)
		place := next[n]
		place.Partition = n
		if next[n].Row++; next[n].Row == 20 {
			next[n] = Place{Offset: place.Offset + 1}
		}
		s.Log[place] = id
		if again {
			s.Discards = append(s.Discards, Discard{ID: id, Place: place, Fate: "duplicate"})
			continue
		}
		e.ID = ""
		s.Calls = append(s.Calls, Stored{ID: id, Event: e, Place: place})
	}
	s.CallRows = uint64(len(s.Calls))
	for n, p := range next {
		s.Partition = append(s.Partition, Progress{Partition: n, End: p.Offset + 1, Committed: p.Offset + 1, Metadata: "v1|done|0"})
	}
	for _, t := range Tiers {
		s.Rollups[t.Table] = t.recompute(s.Calls)
	}
	return h, s
}

func TestAgreementPasses(t *testing.T) {
	h, s := world()
	// A row that counts nothing is what a repair leaves behind.
	s.Rollups["traffic_1h"]["left over"] = Sums{TotalMaxUS: 7}
	if r := Check(h, s); !r.OK() {
		t.Fatal(r)
	}
	if len(s.Discards) < 50 {
		t.Fatalf("only %d duplicates: the test shows little", len(s.Discards))
	}
}

func TestTamperedStoreIsFound(t *testing.T) {
	change := func(table string, change func(*Sums)) func(History, *Store) {
		return func(_ History, s *Store) {
			key := slices.Sorted(maps.Keys(s.Rollups[table]))[0]
			sums := s.Rollups[table][key]
			sums.Total, sums.Upstream = maps.Clone(sums.Total), maps.Clone(sums.Upstream)
			change(&sums)
			s.Rollups[table][key] = sums
		}
	}
	// tiers makes rollups say what calls say, so that nothing else is wrong.
	tiers := func(s *Store) {
		for _, tier := range Tiers {
			s.Rollups[tier.Table] = tier.recompute(s.Calls)
		}
	}
	for name, tc := range map[string]struct {
		tamper func(History, *Store)
		want   []string
	}{
		"a call lost, and from rollups too": {func(h History, s *Store) {
			i := pick(h, s, true)
			s.Calls = slices.Delete(s.Calls, i, i+1)
			tiers(s)
		}, []string{Lost, NoFate}},
		"a call without acknowledgement lost after the log": {func(h History, s *Store) {
			i := pick(h, s, false)
			s.Calls = slices.Delete(s.Calls, i, i+1)
			tiers(s)
		}, []string{NoFate}},
		"a call that nobody sent": {func(_ History, s *Store) {
			c := s.Calls[0]
			c.ID, c.Place = gen.IdentityOf("x", "y"), Place{Partition: 0, Offset: 999}
			s.Calls, s.Log[c.Place] = append(s.Calls, c), c.ID
			tiers(s)
		}, []string{Phantom}},
		"a field changed":    {func(_ History, s *Store) { s.Calls[3].Event.ResponseBytes++; tiers(s) }, []string{Altered}},
		"a time changed":     {func(_ History, s *Store) { s.Calls[3].Event.TimeUS++; tiers(s) }, []string{Altered}},
		"an account changed": {func(_ History, s *Store) { s.Calls[3].Event.Account = "other"; tiers(s) }, []string{Altered}},
		"a duplicate stored": {func(_ History, s *Store) {
			d := s.Discards[0]
			s.Discards = s.Discards[1:]
			i := slices.IndexFunc(s.Calls, func(c Stored) bool { return c.ID == d.ID })
			c := s.Calls[i]
			c.Place = d.Place
			s.Calls = append(s.Calls, c)
			tiers(s)
		}, []string{Doubled}},
		"a row stored twice from one place": {func(_ History, s *Store) {
			s.Calls = append(s.Calls, s.Calls[0])
			tiers(s)
		}, []string{Doubled, TwoFates}},
		"a discard missing": {func(_ History, s *Store) { s.Discards = s.Discards[1:] }, []string{NoFate}},
		"a discard of what is not stored": {func(h History, s *Store) {
			i := pick(h, s, true)
			s.Discards = append(s.Discards, Discard{ID: s.Calls[i].ID, Place: s.Calls[i].Place, Fate: "quarantined"})
			s.Calls = slices.Delete(s.Calls, i, i+1)
			tiers(s)
		}, []string{Lost, Discarded}},
		"stored from nowhere":        {func(_ History, s *Store) { s.Calls[0].Place.Row = 4711 }, []string{NoFate, NotInLog}},
		"a minute counts one more":   {change("traffic_1m", func(s *Sums) { s.Calls++ }), []string{RolledUp + ", traffic_1m"}},
		"an hour has one byte less":  {change("traffic_1h", func(s *Sums) { s.RequestBytes-- }), []string{RolledUp + ", traffic_1h"}},
		"a day has another maximum":  {change("traffic_1d", func(s *Sums) { s.TotalMaxUS++ }), []string{RolledUp + ", traffic_1d"}},
		"usage counts one less":      {change("usage_15m", func(s *Sums) { s.Calls-- }), []string{RolledUp + ", usage_15m"}},
		"a call in the next bucket":  {change("traffic_1m", shift), []string{RolledUp + ", traffic_1m"}},
		"a key that should not be":   {func(_ History, s *Store) { s.Rollups["usage_15m"]["x"] = Sums{Calls: 1} }, []string{RolledUp + ", usage_15m"}},
		"a key missing":              {func(_ History, s *Store) { dropOne(s.Rollups["traffic_1d"]) }, []string{RolledUp + ", traffic_1d"}},
		"a partition with lag":       {func(_ History, s *Store) { s.Partition[1].Committed-- }, []string{Pending}},
		"a partition with an intent": {func(_ History, s *Store) { s.Partition[1].Metadata = "v1|1|2|0|5|00" }, []string{Pending}},
	} {
		t.Run(name, func(t *testing.T) {
			h, s := world()
			tc.tamper(h, s)
			r := Check(h, s)
			var got []string
			for _, f := range r.Findings {
				got = append(got, f.Check)
				if f.Count == 0 || len(f.First) == 0 || len(f.First) > maxExamples {
					t.Errorf("finding without examples: %+v", f)
				}
			}
			slices.Sort(got)
			want := slices.Sorted(slices.Values(tc.want))
			if !slices.Equal(got, want) {
				t.Errorf("found %q, want %q\n%s", got, want, r)
			}
		})
	}
}

// pick finds a call that was sent once, acknowledged or not.
func pick(h History, s *Store, acked bool) int {
	return slices.IndexFunc(s.Calls, func(c Stored) bool {
		_, ok := h.Acked[c.ID]
		return ok == acked && !slices.ContainsFunc(s.Discards, func(d Discard) bool { return d.ID == c.ID })
	})
}

// shift moves one call to the neighbouring bucket: all sums stay equal.
func shift(s *Sums) {
	bucket := slices.Min(slices.Collect(maps.Keys(s.Upstream)))
	if s.Upstream[bucket]--; s.Upstream[bucket] == 0 {
		delete(s.Upstream, bucket)
	}
	s.Upstream[bucket+1]++
}

func dropOne(r Rollup) { delete(r, slices.Sorted(maps.Keys(r))[0]) }

// A value lies in bucket b when 2^((b-1)/32) < v <= 2^(b/32), which is decided
// here in whole numbers: v^32 against powers of two.
func TestBucketEdges(t *testing.T) {
	values := []int64{2, 3, 4, 5, 7, 8, 100, 1000, 1023, 1024, 1025, 65535, 1 << 20, 1<<20 + 1, 3_600_000_000, 1<<40 - 1}
	for v := int64(2); v < 5000; v++ {
		values = append(values, v)
	}
	for _, v := range values {
		b := uint(bucketOf(v))
		power := new(big.Int).Exp(big.NewInt(v), big.NewInt(32), nil)
		upper, lower := new(big.Int).Lsh(big.NewInt(1), b), new(big.Int).Lsh(big.NewInt(1), b-1)
		if power.Cmp(upper) > 0 || power.Cmp(lower) <= 0 {
			t.Fatalf("%d is not in bucket %d", v, b)
		}
	}
	if bucketOf(0) != 0 || bucketOf(1) != 0 || bucketOf(-1) != math.MaxUint16 {
		t.Fatal("edges of the scale")
	}
}

func TestDone(t *testing.T) {
	done := Progress{End: 5, Committed: 5, Metadata: "v1|done|0"}
	for want, cases := range map[bool][][]Progress{
		true:  {{done}, {done, {End: 0, Committed: -1}}},
		false: {{done, {End: 5, Committed: 4, Metadata: "v1|done|0"}}, {{End: 5, Committed: 5, Metadata: "v1|5|6|0|1|00"}}, {{End: 5, Committed: -1}}},
	} {
		for _, c := range cases {
			if Done(c) != want {
				t.Errorf("Done(%+v) is not %v", c, want)
			}
		}
	}
}

func TestJournal(t *testing.T) {
	dir := t.TempDir()
	j, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	source := gen.NewSource("journal", 3, gen.Mix{})
	var events []gen.Event
	for range 100 {
		events = append(events, source.Next(time.Unix(1_700_000_000, 0)))
	}
	for _, err := range []error{j.Attempted(events[:60]), j.Attempted(events[60:]), j.Acked(events[:60]), j.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// A crash tears the last line.
	f, err := os.OpenFile(filepath.Join(dir, "attempted.ndjson"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, `{"id":"torn`)
	f.Close()
	h, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Attempted) != 100 || len(h.Acked) != 60 {
		t.Fatalf("read %d attempted and %d acked", len(h.Attempted), len(h.Acked))
	}
	for i, e := range events {
		if h.Attempted[e.Identity()] != e {
			t.Fatalf("event %d read as %+v", i, h.Attempted[e.Identity()])
		}
		if _, acked := h.Acked[e.Identity()]; acked != (i < 60) {
			t.Fatalf("event %d acked: %v", i, acked)
		}
	}
}
