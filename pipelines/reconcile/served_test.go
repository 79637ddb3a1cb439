package reconcile

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/tollway/tollway/services/collector/served"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/testenv"
)

// envoy counts what it serves, like a gateway does, and says so each minute.
type envoy struct {
	total, dropped uint64
	restarts       uint32
}

func (e *envoy) minute(at time.Time, ended uint64) Served {
	e.total += ended
	return Served{Minute: at.Unix(), Node: "edge-1", Prefix: "edge", Total: e.total + 3, Active: 3, Ended: int64(ended), Restarts: e.restarts, LogsDropped: e.dropped, Reports: 12}
}

func TestCompareServedFindsWhatDroppedCountersHide(t *testing.T) {
	layouts(t, compareServedFindsWhatDroppedCountersHide)
}

func compareServedFindsWhatDroppedCountersHide(t *testing.T, w *world) {
	eight := yesterday.Add(8 * time.Hour)
	e := &envoy{total: 1000}
	first := e.minute(eight.Add(-time.Minute), 0)
	first.First = true
	records := []Served{first}
	// 100 calls a minute; in the fourth a connection breaks and swallows 37 of
	// them, of which the gateway's own counter knows nothing.
	for i := range 6 {
		at := eight.Add(time.Duration(i) * time.Minute)
		records = append(records, e.minute(at, 100))
		arrived := ints(i*100, i*100+100)
		if i == 3 {
			arrived = arrived[37:]
		}
		w.load(int32(i%2), at, 59*time.Second, arrived...)
	}
	for range 2 { // at least once
		if err := StoreServed(t.Context(), w.shards[0], records); err != nil {
			t.Fatal(err)
		}
	}
	c, err := CompareServed(t.Context(), w.db, eight, eight.Add(10*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Minutes) != 6 || len(c.Hours) != 1 || len(c.Totals) != 1 {
		t.Fatalf("got %+v", c)
	}
	for i, m := range c.Minutes {
		want := Minute{Gateway: "edge-1", Minute: eight.Add(time.Duration(i) * time.Minute), Served: 100, Arrived: 100}
		if i == 3 {
			want.Arrived = 63
		}
		if i >= 3 {
			want.Behind = 37
		}
		if m != want {
			t.Errorf("got %+v, want %+v", m, want)
		}
	}
	want := Total{Gateway: "edge-1", From: eight, To: eight.Add(6 * time.Minute), Served: 600, Arrived: 563, Missing: 37}
	if c.Totals[0] != want || c.Hours[0] != want {
		t.Errorf("got %+v and %+v, want %+v", c.Totals[0], c.Hours[0], want)
	}
	if c.Missing() != 37 || c.Totals[0].LogsDropped != 0 {
		t.Errorf("%d are missing and %d dropped", c.Missing(), c.Totals[0].LogsDropped)
	}
	// Another gateway says for the first time where its counters stand.
	other := first
	other.Node, other.Minute = "edge-2", eight.Unix()
	if err := StoreServed(t.Context(), w.shards[0], []Served{other}); err != nil {
		t.Fatal(err)
	}
	for minutes, want := range map[time.Duration]string{time.Minute: "[edge-2]", 0: "[]"} {
		c, err := CompareServed(t.Context(), w.db, eight.Add(time.Minute-minutes), eight.Add(10*time.Minute))
		if err != nil || fmt.Sprint(c.ReportedOnce) != want || len(c.Totals) != 1 {
			t.Errorf("got %v and %d totals, %v; want %s", c.ReportedOnce, len(c.Totals), err, want)
		}
	}
	// The calls come after all.
	w.load(0, eight.Add(3*time.Minute), 59*time.Second, ints(300, 337)...)
	if c, err = CompareServed(t.Context(), w.db, eight, eight.Add(10*time.Minute)); err != nil || c.Missing() != 0 {
		t.Errorf("%d are missing after all came: %v", c.Missing(), err)
	}
}

func at(minute int) time.Time { return yesterday.Add(time.Duration(minute) * time.Minute) }

func TestServedIsTheDifferenceOfCounters(t *testing.T) {
	row := func(minute int, served uint64, ended int64, first bool, restarts uint32) sample {
		return sample{gateway: "g", prefix: "p", minute: at(minute), served: served, ended: ended, first: first, restarts: restarts}
	}
	for name, c := range map[string]struct {
		samples []sample
		first   int
		want    map[int]int64
	}{
		"steady": {[]sample{row(0, 10, 0, true, 0), row(1, 15, 5, false, 0), row(2, 22, 7, false, 0)}, 1, map[int]int64{1: 5, 2: 7}},
		"a record is lost": {
			[]sample{row(0, 10, 0, true, 0), row(2, 22, 7, false, 0)}, 1, map[int]int64{2: 12}},
		"the collector is a new one": {
			[]sample{row(0, 10, 0, true, 0), row(1, 15, 2, true, 0)}, 1, map[int]int64{1: 5}},
		"the gateway restarts while watched": {
			[]sample{row(0, 10, 0, true, 0), row(1, 4, 9, false, 1), row(2, 6, 2, false, 1)}, 1, map[int]int64{1: 9, 2: 2}},
		"the gateway restarts unwatched": {
			[]sample{row(0, 10, 0, true, 0), row(1, 4, 0, true, 0)}, 1, map[int]int64{1: 4}},
		"the sample before is older than the range": {
			[]sample{row(-3, 10, 0, true, 0), row(0, 20, 3, false, 0), row(1, 21, 1, false, 0)}, -2, map[int]int64{0: 10, 1: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			got := byGateway(c.samples, at(0))
			if len(got) != 1 || !got[0].first.Equal(at(c.first)) || len(got[0].served) != len(c.want) {
				t.Fatalf("got %+v", got)
			}
			for minute, n := range c.want {
				if got[0].served[at(minute)] != n {
					t.Errorf("minute %d has %d, want %d", minute, got[0].served[at(minute)], n)
				}
			}
		})
	}
}

func TestServedNamesAreDataOnly(t *testing.T) {
	w := newWorld(t)
	name := "a'b\\c\"d,[\n]\tü"
	minute := yesterday.Unix()
	err := StoreServed(t.Context(), w.shards[0], []Served{{Minute: minute, Node: name, Prefix: name, Total: 5}, {Minute: minute, Node: "x", Prefix: "y", Total: 5, Restarts: 1, First: true, Ended: -2}})
	if err != nil {
		t.Fatal(err)
	}
	var got string
	if err := w.db.QueryRow(t.Context(), "SELECT gateway FROM served WHERE prefix != 'y'", nil).Scan(&got); err != nil || got != name {
		t.Errorf("got %q, %v", got, err)
	}
	if n := w.number("SELECT ended FROM served WHERE prefix = 'y' AND first AND restarts = 1 AND served = 5"); n != -2 {
		t.Errorf("ended %d", n)
	}
}

// What the collector writes is what is read here.
func TestServedRunner(t *testing.T) {
	w := newWorld(t)
	cfg := kafkaio.DefaultConfig()
	cfg.Brokers = []string{testenv.Log(t)}
	client, err := kafkaio.Open(cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.EnsureTopic(t.Context(), kafkaio.TopicSpec{Name: served.Topic, Partitions: 2, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	record := served.Served{Minute: yesterday.Unix(), Node: "edge-1", Cluster: "edge", Prefix: "edge", Total: 30, Active: 1, Ended: 20, First: true, Reports: 2, LogsDropped: 4}
	value, err := served.Encode(record)
	if err != nil {
		t.Fatal(err)
	}
	producer, err := kafkaio.NewProducer(client, kafkaio.DefaultProducerConfig())
	if err != nil {
		t.Fatal(err)
	}
	for partition, v := range [][]byte{value, []byte("{"), []byte(`{"minute":61,"node":"x"}`)} {
		if err := producer.Produce(t.Context(), served.Topic, partition%2, []kafkaio.Message{{Key: record.Key(), Value: v}}); err != nil {
			t.Fatal(err)
		}
	}
	if served.Topic != DefaultServedConfig().Topic {
		t.Errorf("the collector writes to %s", served.Topic)
	}
	r, err := NewServedRunner(DefaultServedConfig(), ServedDeps{Client: client, DB: w.shards[0], Metrics: prometheus.NewRegistry(), Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline) && testutil.ToFloat64(r.stored)+testutil.ToFloat64(r.broken) < 3; {
		time.Sleep(10 * time.Millisecond)
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		committed, err := client.FetchOffsets(t.Context(), DefaultServedConfig().Group, served.Topic, []int32{0, 1})
		if err == nil && committed[0].Offset == 2 && committed[1].Offset == 1 {
			break
		}
	}
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if stored, broken := testutil.ToFloat64(r.stored), testutil.ToFloat64(r.broken); stored != 1 || broken != 2 {
		t.Errorf("%v stored, %v passed over", stored, broken)
	}
	n := w.number("SELECT count() FROM served WHERE gateway = 'edge-1' AND prefix = 'edge' AND served = 29 AND dropped = 4 AND ended = 20 AND first")
	if n != 1 {
		t.Errorf("%d such records are stored", n)
	}
	committed, err := client.FetchOffsets(t.Context(), DefaultServedConfig().Group, served.Topic, []int32{0, 1})
	if err != nil || committed[0].Offset != 2 || committed[1].Offset != 1 {
		t.Errorf("committed %+v, %v", committed, err)
	}
}
