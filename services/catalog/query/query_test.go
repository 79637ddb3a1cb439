package query

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

var sample = &catalogv1.PlanVersion{
	Name: "products/p/plans/q/versions/1", State: catalogv1.PlanVersionState_PUBLISHED, Labels: map[string]string{"tier": "gold", "a.b": "c"},
	StartTime: timestamppb.New(time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)), Currency: "EUR",
	Charges: []*catalogv1.Charge{{Id: "calls", Meter: "meters/calls"}, {Id: "bytes", Meter: "meters/bytes"}},
	Quotas:  []*catalogv1.QuotaLimit{{Id: "daily", Limit: 5000, Operations: []string{"apis/a", "apis/b"}}},
}

var descriptor = sample.ProtoReflect().Descriptor()

func TestFilter(t *testing.T) {
	for text, want := range map[string]bool{
		``:                                             true,
		`currency = EUR`:                               true,
		`currency != EUR`:                              false,
		`currency = "E*"`:                              true,
		`currency = "*U*"`:                             true,
		`currency = "*X"`:                              false,
		`currency >= EUR AND currency < F`:             true,
		`currency:(USD OR EUR)`:                        true,
		`labels.tier = gold`:                           true,
		`labels.tier != gold`:                          false,
		`labels.none != gold`:                          true,
		`labels.none = ""`:                             false,
		`labels.a.b = c`:                               true,
		`labels.tier:*`:                                true,
		`labels.none:*`:                                false,
		`account = ""`:                                 true,
		`account:*`:                                    false,
		`state = PUBLISHED`:                            true,
		`state:(DRAFT, ARCHIVED)`:                      false,
		`NOT state = DRAFT`:                            true,
		`start_time > 2026-01-01T00:00:00`:             false, // refused, see below
		`start_time > "2026-01-01T00:00:00Z"`:          true,
		`start_time = "2026-01-02T01:00:00+01:00"`:     true,
		`update_time < "2027-01-01T00:00:00Z"`:         false,
		`NOT update_time:*`:                            true,
		`charges.meter = meters/bytes`:                 true,
		`charges.meter = meters/none`:                  false,
		`quotas.limit > 4999 AND quotas.limit <= 5000`: true,
		`quotas.operations = apis/b`:                   true,
		`quotas.operations:(apis/x OR apis/y)`:         false,
		`charges:*`:                                    true,
		`currency = USD OR state = PUBLISHED`:          true,
	} {
		m, err := Filter(descriptor, text)
		if strings.Contains(text, "00:00:00") && !strings.Contains(text, `"`) {
			if err == nil {
				t.Errorf("%s is accepted", text)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := m(sample.ProtoReflect()); got != want {
			t.Errorf("%s is %v", text, got)
		}
	}
	for text, want := range map[string]string{
		`nothing = 1`: `column 1: "nothing" is no field`, `currency = EUR AND labels = x`: `column 20: "labels" needs a key`, `labels. = x`: `needs a key`,
		`currency.x = 1`: "is no field", `state = GOLD`: "is one of PLAN_VERSION_STATE_UNSPECIFIED, DRAFT", `state > DRAFT`: "knows = and != only",
		`quotas.limit = x`: "is a whole number", `start_time = yesterday`: "is a time such as", `charges = x`: "cannot be compared", `currency = "a*b"`: "beginning or the end",
		`start_time.seconds = 1`: "is no field", `(`: "column 2",
	} {
		if _, err := Filter(descriptor, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestOrder(t *testing.T) {
	for text, ok := range map[string]bool{
		"": true, "name": true, "name desc": true, "currency asc": true, "start_time desc": true, "labels.tier": true, "state": true,
		"nothing": false, "currency up": false, "currency, state": false, "charges": false, "charges.id": false, "labels": false, "quotas.limit": false,
	} {
		if _, err := ParseOrder(descriptor, text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Keys of numbers compare as the numbers do.
func TestSortable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := time.UnixMicro(rapid.Int64Range(-1<<50, 1<<50).Draw(t, "at")).UTC()
		if back, err := KeyTime(TimeKey(at)); err != nil || !back.Equal(at) {
			t.Fatalf("%s comes back as %s, %v", at, back, err)
		}
		a, b := rapid.Int64().Draw(t, "a"), rapid.Int64().Draw(t, "b")
		if cmp.Compare(sortable(a), sortable(b)) != cmp.Compare(a, b) {
			t.Fatalf("%d and %d: %s, %s", a, b, sortable(a), sortable(b))
		}
	})
}

// TestTop: pages of a list in any order are the sorted list, cut.
func TestTop(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		desc := rapid.Bool().Draw(t, "desc")
		size := rapid.IntRange(1, 4).Draw(t, "size")
		keys := rapid.SliceOfN(rapid.SampledFrom([]string{"", "a", "b"}), 0, 12).Draw(t, "keys")
		all := make([]Place, len(keys))
		for i, k := range keys {
			all[i] = Place{Key: k, Name: fmt.Sprintf("%02d", i)}
		}
		want := slices.Clone(all)
		slices.SortFunc(want, func(a, b Place) int {
			c := cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Name, b.Name))
			if desc {
				return -c
			}
			return c
		})
		var got []Place
		var after *Place
		for {
			top := NewTop[Place](size, desc, after)
			for _, p := range rapid.Permutation(all).Draw(t, "order") {
				top.Add(p, p)
			}
			page, places := top.Items()
			if !slices.Equal(page, places) {
				t.Fatal("an item has another's place")
			}
			got = append(got, page...)
			if len(page) < size {
				break
			}
			after = &places[len(places)-1]
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

func TestPageToken(t *testing.T) {
	p := Place{Key: "k", Parent: "p", Name: "n"}
	if got, err := ReadToken(p.Token("a", "b"), "a", "b"); err != nil || got != p {
		t.Errorf("%v %v", got, err)
	}
	for _, parts := range [][]string{{"a"}, {"ab", ""}, {"a", "b", ""}, {"b", "a"}} {
		if _, err := ReadToken(p.Token("a", "b"), parts...); err == nil {
			t.Errorf("taken for the query %v", parts)
		}
	}
	if got, err := ReadToken("", "a"); err != nil || got != (Place{}) {
		t.Errorf("empty: %v %v", got, err)
	}
}

// FuzzFilter: any text is refused, or judges a message without failing.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{`currency = EUR`, `labels.a.b:* OR NOT quotas.limit > 1`, `charges.tiers.up_to = "*"`, `start_time < "2026-01-01T00:00:00Z"`} {
		f.Add(seed)
	}
	f.Fuzz(func(_ *testing.T, text string) {
		if m, err := Filter(descriptor, text); err == nil {
			m(sample.ProtoReflect())
			m((&catalogv1.PlanVersion{}).ProtoReflect())
		}
	})
}

// FuzzToken: any text is refused or is a place.
func FuzzToken(f *testing.F) {
	f.Add(Place{Name: "x"}.Token("q"))
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := ReadToken(text, "q"); err == nil && text != "" && p.Token("q") == "" {
			t.Errorf("%q is %v", text, p)
		}
	})
}
