package events

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tollway/tollway/pipelines/call"
	eventsv1 "github.com/tollway/tollway/schemas/proto/tollway/events/v1"
	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/testenv"
	"github.com/tollway/tollway/sql"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// letters is a dead-letter topic in memory: the topic itself is not this
// package's.
type letters struct{ all []DeadLetter }

func (l *letters) List(_ context.Context, size int, token string) (Page, error) {
	start := 0
	if token != "" {
		if _, err := fmt.Sscanf(token, "%d", &start); err != nil || start > len(l.all) {
			return Page{}, ErrBadToken
		}
	}
	end := min(start+size, len(l.all))
	page := Page{Letters: l.all[start:end], Waiting: int64(len(l.all))}
	if end < len(l.all) {
		page.Next = fmt.Sprint(end)
	}
	return page, nil
}

func (l *letters) Redrive(_ context.Context, ids []string) ([]Redriven, error) {
	var results []Redriven
	for i, id := range ids {
		r := Redriven{ID: id, Err: errors.New("there is no such dead letter")}
		for _, letter := range l.all {
			if letter.ID == id {
				r = Redriven{ID: id, Partition: letter.OriginPartition, Offset: int64(100 + i)}
			}
		}
		results = append(results, r)
	}
	return results, nil
}

type watermark time.Time

func (w watermark) Watermark(context.Context) (time.Time, error) { return time.Time(w), nil }

var now = time.Date(2025, 10, 20, 12, 0, 0, 0, time.UTC)

// store is the tables that traces read, as the service may read them.
type store struct {
	Store
	shards []*clickhouse.DB
}

// layouts runs a test on one engine and on two shards.
func layouts(t *testing.T, test func(t *testing.T, db store)) {
	testenv.Layouts(t, func(t *testing.T, cfg clickhouse.Config) {
		if _, err := clickhouse.Migrate(t.Context(), cfg, sql.ClickHouseMigrations, sql.ClickHouseVariables(false, 20000, 20000)); err != nil {
			t.Fatal(err)
		}
		reader := testenv.Open(t, testenv.AsReader(cfg.AllShards(), testenv.Engine(t)))
		test(t, store{ClickHouse(reader), testenv.OpenShards(t, cfg)})
	})
}

func insert(t *testing.T, db store, table, columns, selected string, id call.ID, received time.Time, offset int64) {
	t.Helper()
	err := db.shards[id.Partition(len(db.shards))].Exec(t.Context(), "INSERT INTO "+table+" (id, time, received_at, partition, offset, row, "+columns+") SELECT toFixedString(unhex({id:String}), 16), "+
		"fromUnixTimestamp64Micro({at:Int64}, 'UTC'), fromUnixTimestamp64Micro({at:Int64}, 'UTC'), 3, {offset:Int64}, 7, "+selected,
		map[string]any{"id": id.String(), "at": received.UnixMicro(), "offset": offset})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTrace(t *testing.T) { layouts(t, trace) }

func trace(t *testing.T, db store) {
	dead := &letters{all: []DeadLetter{
		{ID: "0-1", Reason: "not an Arrow stream", OriginPartition: 2, OriginOffset: 9},
		{ID: "0-2", Reason: "column time is missing", Source: "edge", EventID: "dead", OriginPartition: 2, OriginOffset: 10},
	}}
	s := New(Deps{Store: db, DeadLetters: dead, Watermark: watermark(now.Add(-2 * time.Second)),
		Now: func() time.Time { return now }, Log: zerolog.Nop()})

	const callColumns, callValues = "source, account, product, status, total_us", "'edge', 'acme', 'pay', 201, 1500"
	const discardColumns = "source, fate, reason"
	stored := call.NewID("edge", "stored")
	insert(t, db, "calls", callColumns, callValues, stored, now.Add(-time.Hour), 41)
	insert(t, db, "calls", callColumns, callValues, stored, now.Add(-time.Hour), 41) // the same row again is the same row
	insert(t, db, "discards", discardColumns, "'edge', 'duplicate', 'already stored'", stored, now.Add(-time.Minute), 77)
	insert(t, db, "discards", discardColumns, "'edge', 'quarantined', 'time is in the future'", call.NewID("edge", "future"), now, 78)
	insert(t, db, "discards", discardColumns, "'edge', 'duplicate', 'already stored'", call.NewID("edge", "old"), now, 79)

	cases := []struct {
		id     string
		fate   eventsv1.Fate
		copies string
		text   string
	}{
		{"stored", eventsv1.Fate_STORED, "STORED@41 DUPLICATE@77", "It came 1 more time(s)"},
		{"future", eventsv1.Fate_QUARANTINED, "QUARANTINED@78", "time is in the future"},
		{"old", eventsv1.Fate_DUPLICATE, "DUPLICATE@79", "past the retention"},
		{"dead", eventsv1.Fate_DEAD_LETTERED, "DEAD_LETTERED@10", "column time is missing"},
		{"never' OR 1=1", eventsv1.Fate_NOT_SEEN, "", "(2s ago)"},
	}
	for _, c := range cases {
		answer, err := s.TraceEvent(t.Context(), &eventsv1.TraceEventRequest{Source: "edge", Id: c.id})
		if err != nil {
			t.Fatalf("%s: %v", c.id, err)
		}
		var copies []string
		for _, one := range answer.Copies {
			copies = append(copies, fmt.Sprintf("%s@%d", one.Fate, one.Provenance.Offset))
		}
		if answer.Fate != c.fate || strings.Join(copies, " ") != c.copies || !strings.Contains(answer.Explanation, c.text) {
			t.Errorf("%s: %s, copies %v, %q; want %s, %s, %q", c.id, answer.Fate, copies, answer.Explanation, c.fate, c.copies, c.text)
		}
		if answer.CallId != call.NewID("edge", c.id).String() || answer.Lag.AsDuration() != 2*time.Second {
			t.Errorf("%s: call %s, lag %v", c.id, answer.CallId, answer.Lag)
		}
		if (answer.Call != nil) != (c.fate == eventsv1.Fate_STORED) {
			t.Errorf("%s: call %v", c.id, answer.Call)
		}
		if c.fate == eventsv1.Fate_STORED {
			one := answer.Copies[0]
			if answer.Call.Account != "acme" || answer.Call.Status != 201 || answer.Call.TotalUs != 1500 ||
				one.Provenance.Partition != 3 || one.Provenance.Row != 7 || !one.ReceiveTime.AsTime().Equal(now.Add(-time.Hour)) {
				t.Errorf("%s: %v %v", c.id, answer.Call, one)
			}
		}
	}
	byCall, err := s.TraceEvent(t.Context(), &eventsv1.TraceEventRequest{CallId: stored.String()})
	if err != nil || byCall.Fate != eventsv1.Fate_STORED || len(byCall.Copies) != 2 || byCall.CallId != stored.String() {
		t.Errorf("by its identity: %v, %v", byCall, err)
	}
	unknown, err := s.TraceEvent(t.Context(), &eventsv1.TraceEventRequest{CallId: call.NewID("edge", "dead").String()})
	if err != nil || unknown.Fate != eventsv1.Fate_NOT_SEEN || unknown.WaitingDeadLetters != 2 {
		t.Errorf("an identity that is not stored: %v, %v", unknown, err)
	}
	for _, r := range []*eventsv1.TraceEventRequest{
		{Source: "edge"}, {Id: "x"}, {Source: "edge", Id: strings.Repeat("x", 2000)},
		{CallId: "ab"}, {CallId: strings.Repeat("x", 32)}, {CallId: stored.String(), Source: "edge"},
	} {
		if _, err := s.TraceEvent(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%.40v: %v, want invalid argument", r, err)
		}
	}
	if err := db.shards[0].Exec(t.Context(), "DROP TABLE discards SYNC", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.TraceEvent(t.Context(), &eventsv1.TraceEventRequest{Source: "edge", Id: "stored"}); status.Code(err) != codes.Unavailable {
		t.Errorf("without a table: %v, want unavailable and not half an answer", err)
	}
}

func TestFindCalls(t *testing.T) { layouts(t, findCalls) }

func findCalls(t *testing.T, db store) {
	s := New(Deps{Store: db, Log: zerolog.Nop()})
	const columns = "source, gateway, path, method, status, total_us"
	ids := map[string]string{}
	for i, values := range []string{
		"'envoy/edge', 'edge-1', '/v1/orders/1', 'GET', 200, 1500",
		"'envoy/edge', 'edge-2', '/v1/orders/2', 'GET', 503, 2500",
		"'envoy/edge', 'edge-1', '/v1/users/\\'1', 'PUT', 200, 3500",
		"'checkout', 'edge-1', '/v1/orders/3', 'POST', 503, 4500",
	} {
		id := call.NewID("test", fmt.Sprint(i))
		ids[id.String()] = fmt.Sprint(i)
		for range 2 { // copies that are not merged away
			insert(t, db, "calls", columns, values, id, now.Add(time.Duration(i)*time.Minute), int64(i))
		}
	}
	find := func(r *eventsv1.FindCallsRequest) string {
		if r.StartTime == nil {
			r.StartTime, r.EndTime = timestamppb.New(now), timestamppb.New(now.Add(time.Hour))
		}
		answer, err := s.FindCalls(t.Context(), r)
		if err != nil {
			t.Errorf("%v: %v", r, err)
		}
		var found []string
		for _, c := range answer.GetCalls() {
			found = append(found, ids[c.CallId])
		}
		return strings.Join(found, " ")
	}
	for _, c := range []struct {
		r    *eventsv1.FindCallsRequest
		want string
	}{
		{&eventsv1.FindCallsRequest{}, "3 2 1 0"},
		{&eventsv1.FindCallsRequest{Limit: 2}, "3 2"},
		{&eventsv1.FindCallsRequest{Source: "envoy/edge", PathPrefix: "/v1/orders"}, "1 0"},
		{&eventsv1.FindCallsRequest{Status: 503}, "3 1"},
		{&eventsv1.FindCallsRequest{PathPrefix: "/v1/users/'"}, "2"},
		{&eventsv1.FindCallsRequest{PathPrefix: "' OR 1=1 --"}, ""},
		{&eventsv1.FindCallsRequest{StartTime: timestamppb.New(now.Add(time.Minute)), EndTime: timestamppb.New(now.Add(3 * time.Minute))}, "2 1"},
	} {
		if got := find(c.r); got != c.want {
			t.Errorf("%v finds %q, want %q", c.r, got, c.want)
		}
	}
	answer, err := s.FindCalls(t.Context(), &eventsv1.FindCallsRequest{StartTime: timestamppb.New(now), EndTime: timestamppb.New(now.Add(time.Second))})
	if err != nil || len(answer.Calls) != 1 {
		t.Fatalf("%v, %v", answer, err)
	}
	if c := answer.Calls[0]; c.Source != "envoy/edge" || c.Gateway != "edge-1" || c.Path != "/v1/orders/1" || !c.EventTime.AsTime().Equal(now) ||
		c.Call.Method != http.MethodGet || c.Call.Status != 200 || c.Call.TotalUs != 1500 {
		t.Errorf("found %v", c)
	}
	hour := timestamppb.New(now.Add(time.Hour))
	for _, r := range []*eventsv1.FindCallsRequest{
		{}, {StartTime: timestamppb.New(now)}, {EndTime: hour}, {StartTime: hour, EndTime: timestamppb.New(now)},
		{StartTime: timestamppb.New(now), EndTime: timestamppb.New(now.Add(25 * time.Hour))},
		{StartTime: timestamppb.New(now), EndTime: hour, Status: 1000}, {StartTime: timestamppb.New(now), EndTime: hour, Limit: -1},
	} {
		if _, err := s.FindCalls(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v, want invalid argument", r, err)
		}
	}
}

func TestDeadLetters(t *testing.T) {
	dead := &letters{}
	for i := range 5 {
		dead.all = append(dead.all, DeadLetter{ID: fmt.Sprintf("0-%d", i), Reason: "no magic", Time: now, OriginTopic: "calls", OriginPartition: i, Bytes: 10})
	}
	s := New(Deps{DeadLetters: dead, Log: zerolog.Nop()})
	var ids []string
	token := ""
	for {
		page, err := s.ListDeadLetters(t.Context(), &eventsv1.ListDeadLettersRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range page.DeadLetters {
			ids = append(ids, l.Id)
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if got := strings.Join(ids, " "); got != "0-0 0-1 0-2 0-3 0-4" {
		t.Errorf("pages hold %s", got)
	}
	answer, err := s.RedriveDeadLetters(t.Context(), &eventsv1.RedriveDeadLettersRequest{Ids: []string{"0-3", "9-9"}})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := answer.Results[0], answer.Results[1]; a.Error != "" || a.Provenance.Partition != 3 || a.Provenance.Offset != 100 || b.Error == "" || b.Provenance != nil {
		t.Errorf("redriven %v", answer.Results)
	}
	for name, err := range map[string]error{
		"bad token":  second(s.ListDeadLetters(t.Context(), &eventsv1.ListDeadLettersRequest{PageToken: "x"})),
		"bad size":   second(s.ListDeadLetters(t.Context(), &eventsv1.ListDeadLettersRequest{PageSize: -1})),
		"no letters": second(s.RedriveDeadLetters(t.Context(), &eventsv1.RedriveDeadLettersRequest{})),
	} {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want invalid argument", name, err)
		}
	}
	none := New(Deps{Log: zerolog.Nop()})
	if _, err := none.ListDeadLetters(t.Context(), &eventsv1.ListDeadLettersRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("without a topic: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }
