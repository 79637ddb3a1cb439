package gen

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/protobuf/proto"
)

func TestIdentity(t *testing.T) {
	// sha256 of 01 61 02 62 63.
	id := IdentityOf("a", "bc")
	if got := hex.EncodeToString(id[:]); got != "ea1cc672b17a5c99d273503a298965ef" {
		t.Errorf("identity is %s", got)
	}
	if IdentityOf("ab", "c") == id {
		t.Error("identities run together")
	}
}

func TestSourceIsDeterministic(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	make := func(seed uint64) (events []Event) {
		s := NewSource("s", seed, Mix{Duplicates: 0.05, Late: 0.02})
		for range 5000 {
			events = append(events, s.Next(at))
		}
		return events
	}
	one := make(1)
	if !slices.Equal(one, make(1)) || slices.Equal(one, make(2)) {
		t.Fatal("events do not follow from the seed")
	}
	seen, repeated, late := map[string]Event{}, 0, 0
	for _, e := range one {
		if before, again := seen[e.ID]; again {
			repeated++
			if before != e {
				t.Fatalf("repeated with other fields: %+v, %+v", before, e)
			}
		}
		seen[e.ID] = e
		if e.TimeUS == at.Add(-Late).UnixMicro() {
			late++
		}
	}
	if repeated < 150 || repeated > 350 || late < 50 || late > 200 {
		t.Fatalf("%d repeated and %d late of %d", repeated, late, len(one))
	}
}

func TestBatchIsJSON(t *testing.T) {
	s := NewSource("json", 1, Mix{})
	events := []Event{s.Next(time.UnixMicro(1_700_000_000_000_001)), s.Next(time.Unix(1_700_000_000, 0))}
	var got []struct {
		SpecVersion, ID, Source, Type, Time string
		Data                                map[string]any
	}
	if err := json.Unmarshal(AppendBatch(nil, events), &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Time != "2023-11-14T22:13:20.000001Z" || got[0].ID != events[0].ID || got[0].Source != events[0].Source {
		t.Fatalf("%+v", got)
	}
	if n := len(got[1].Data); n != 13 || got[1].Data["total_us"] != float64(events[1].TotalUS) {
		t.Fatalf("%d members: %v", n, got[1].Data)
	}
}

type notes struct {
	mu               sync.Mutex
	attempted, acked map[string]bool
}

func (n *notes) Attempted(events []Event) error { return n.note(n.attempted, events) }
func (n *notes) Acked(events []Event) error     { return n.note(n.acked, events) }
func (n *notes) note(m map[string]bool, events []Event) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range events {
		m[e.ID] = true
	}
	return nil
}

// A server that fails every other request: what is acknowledged is what it
// took, and it took nothing that was not attempted before.
func TestLoadRepeatsWhatFails(t *testing.T) {
	n := &notes{attempted: map[string]bool{}, acked: map[string]bool{}}
	took, requests := map[string]bool{}, 0
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if requests++; requests%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		body, err := io.ReadAll(r.Body)
		var events []struct{ ID string }
		if err != nil || json.Unmarshal(body, &events) != nil || r.Header.Get("Authorization") != "Bearer secret" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, e := range events {
			if !n.attempted[e.ID] {
				t.Errorf("%s was sent before it was noted", e.ID)
			}
			took[e.ID] = true
		}
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, `{"accepted":%d}`, len(events))
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for {
			n.mu.Lock()
			enough := len(n.acked) > 200
			n.mu.Unlock()
			if enough {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	sent, err := HTTP{URL: server.URL, Token: "secret", Connections: 2, Batch: 10, Rate: 5000, Seed: 1, Name: "l", Journal: n}.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(took) != len(n.acked) || len(n.attempted) != len(n.acked) || sent.Failures == 0 || int(sent.Acked) != len(n.acked) {
		t.Fatalf("took %d, acknowledged %d, attempted %d, %+v", len(took), len(n.acked), len(n.attempted), sent)
	}
}

// Entries that were changed in place are read by the general decoder.
func TestMessageIsAccessLog(t *testing.T) {
	m, err := ALS{Node: "n", Entries: 50, Seed: 1}.message(3)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_770_000_000, 42_000)
	m.change(at, 0xabc0)
	var got alsv3.StreamAccessLogsMessage
	if err := proto.Unmarshal(append(m.bytes, m.identifier...), &got); err != nil {
		t.Fatal(err)
	}
	entries := got.GetHttpLogs().GetLogEntry()
	if len(entries) != 50 || got.GetIdentifier().GetNode().GetId() != "n-3" {
		t.Fatalf("%d entries of %v", len(entries), got.GetIdentifier())
	}
	for i, e := range entries {
		c := e.GetCommonProperties()
		if want := fmt.Sprintf("%016x", 0xabc0+i); c.GetStreamId() != want || !c.GetStartTime().AsTime().Equal(at) {
			t.Fatalf("entry %d is %s at %s, want %s", i, c.GetStreamId(), c.GetStartTime().AsTime(), want)
		}
	}
}

func TestBodiesAreBatches(t *testing.T) {
	b := NewBodies("p", 1000, 1)
	seen := map[string]bool{}
	for range 2 {
		var got []struct{ ID, Time string }
		body := b.Next(time.UnixMicro(1_700_000_000_000_001))
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(err)
		}
		if size := len(body) / 1000; size < 200 || size > 240 {
			t.Errorf("%d bytes an event", size)
		}
		for _, e := range got {
			seen[e.ID] = true
			if e.Time != "2023-11-14T22:13:20.000001Z" {
				t.Fatalf("time %s", e.Time)
			}
		}
	}
	if len(seen) != 2000 {
		t.Fatalf("%d ids of 2000 events", len(seen))
	}
}
