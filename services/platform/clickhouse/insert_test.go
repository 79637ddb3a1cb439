package clickhouse_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// arrowStream is rows of a number and a text.
func arrowStream(t testing.TB, from, rows int) []byte {
	t.Helper()
	schema := arrow.NewSchema([]arrow.Field{{Name: "a", Type: arrow.PrimitiveTypes.Uint64}, {Name: "b", Type: arrow.BinaryTypes.String}}, nil)
	builder := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer builder.Release()
	for i := range rows {
		builder.Field(0).(*array.Uint64Builder).Append(uint64(from + i))
		builder.Field(1).(*array.StringBuilder).Append(fmt.Sprintf("text %d", i%10))
	}
	record := builder.NewRecord()
	defer record.Release()
	var out bytes.Buffer
	writer := ipc.NewWriter(&out, ipc.WithSchema(schema))
	if err := errors.Join(writer.Write(record), writer.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func table(t testing.TB, db *clickhouse.DB, extra string) {
	t.Helper()
	exec(t, db, "CREATE TABLE t (a UInt64, b LowCardinality(String)) ENGINE = MergeTree ORDER BY a "+extra)
}

func exec(t testing.TB, db *clickhouse.DB, sql string) {
	t.Helper()
	if err := db.Exec(t.Context(), sql, nil); err != nil {
		t.Fatal(err)
	}
}

func count(t testing.TB, db *clickhouse.DB, table string) (rows uint64) {
	t.Helper()
	if err := db.QueryRow(t.Context(), "SELECT count() FROM "+table, nil).Scan(&rows); err != nil {
		t.Fatal(err)
	}
	return rows
}

var columns = []string{"a", "b"}

func TestInsertArrow(t *testing.T) {
	db := testenv.ClickHouse(t)
	table(t, db, "SETTINGS non_replicated_deduplication_window = 100")
	settings := map[string]any{"async_insert": 0, "insert_deduplicate": true, "insert_deduplication_token": "a token & more"}
	stream := arrowStream(t, 0, 1000)
	// The same token again, from a reader of known and one of unknown size.
	for _, body := range []io.Reader{bytes.NewReader(stream), io.MultiReader(bytes.NewReader(stream))} {
		if err := db.InsertArrow(t.Context(), "t", columns, settings, body); err != nil {
			t.Fatal(err)
		}
	}
	if rows := count(t, db, "t"); rows != 1000 {
		t.Errorf("%d rows, want 1000", rows)
	}
	settings["insert_deduplication_token"] = "another"
	if err := db.InsertArrow(t.Context(), db.Database()+".t", nil, settings, bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if rows := count(t, db, "t"); rows != 2000 {
		t.Errorf("%d rows after another token, want 2000", rows)
	}
}

func TestInsertArrowTellsWhatWasWrong(t *testing.T) {
	db := testenv.ClickHouse(t)
	table(t, db, "")
	exec(t, db, "CREATE TABLE full (a UInt64, b String) ENGINE = MergeTree ORDER BY a SETTINGS parts_to_throw_insert = 1, parts_to_delay_insert = 0")
	exec(t, db, "SYSTEM STOP MERGES full")
	exec(t, db, "INSERT INTO full VALUES (1, 'x')")
	good := arrowStream(t, 0, 100)
	cut := arrowStream(t, 0, 100_000)
	cut = cut[:len(cut)/2]
	tests := []struct {
		name               string
		table              string
		columns            []string
		settings           map[string]any
		body               []byte
		code               int
		retryable, unknown bool
		text               string
	}{
		{name: "unknown table", table: "nowhere", body: good, code: 60, text: "nowhere"},
		{name: "unknown column", table: "t", columns: []string{"c"}, body: good, code: 16, text: "c"},
		{name: "unknown setting", table: "t", settings: map[string]any{"no_such_setting": 1}, body: good, code: 115, text: "no_such_setting"},
		{name: "not arrow", table: "t", body: []byte("nonsense, and long enough to be read as such"), text: "Arrow"},
		{name: "half a stream", table: "t", body: cut, text: "Arrow"},
		{name: "quoted name", table: "t` VALUES (1)", body: good, code: 60},
		{name: "too many parts", table: "full", body: good, code: 252, retryable: true, unknown: true},
		{name: "memory", table: "t", settings: map[string]any{"max_memory_usage": 1000}, body: good, code: 241, retryable: true, unknown: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := db.InsertArrow(t.Context(), tt.table, tt.columns, tt.settings, bytes.NewReader(tt.body))
			if err == nil {
				t.Fatal("no error")
			}
			if code := clickhouse.Code(err); code == 0 || tt.code != 0 && code != tt.code {
				t.Errorf("code %d, want %d: %v", code, tt.code, err)
			}
			if clickhouse.IsRetryable(err) != tt.retryable || clickhouse.IsUnknownOutcome(err) != tt.unknown {
				t.Errorf("retryable %v, unknown %v; want %v, %v: %v", clickhouse.IsRetryable(err), clickhouse.IsUnknownOutcome(err), tt.retryable, tt.unknown, err)
			}
			if !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), db.Config().Password.Reveal()) {
				t.Errorf("the error does not say %q, or says the password: %v", tt.text, err)
			}
		})
	}
	if rows := count(t, db, "t"); rows != 0 {
		t.Errorf("%d rows of failed inserts are stored", rows)
	}
	// The connections are fit for use after all that.
	if err := db.InsertArrow(t.Context(), "t", columns, nil, bytes.NewReader(good)); err != nil {
		t.Error(err)
	}
}

// relay stands between the client and the server and can lose the answer.
func relay(t *testing.T, target string, handle func(client, server net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err == nil {
				handle(client, server)
				server.Close()
			}
			client.Close()
		}
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return listener.Addr().String()
}

func TestLostAnswerIsUnknownAndTheTokenSettlesIt(t *testing.T) {
	cfg := testenv.ClickHouseConfig(t)
	direct := testenv.Open(t, cfg)
	table(t, direct, "SETTINGS non_replicated_deduplication_window = 100")
	cfg.HTTPAddresses = []string{relay(t, cfg.HTTPAddresses[0], func(client, server net.Conn) {
		go func() { _, _ = io.Copy(server, client) }() // ends with the connections
		_, _ = server.Read(make([]byte, 1))            // the answer begins, and is lost
	})}
	db := testenv.Open(t, cfg)
	stream := arrowStream(t, 0, 1000)
	settings := map[string]any{"async_insert": 0, "insert_deduplication_token": "once"}
	err := db.InsertArrow(t.Context(), "t", columns, settings, bytes.NewReader(stream))
	if err == nil || !clickhouse.IsUnknownOutcome(err) || !clickhouse.IsRetryable(err) {
		t.Fatalf("a lost answer gives %v", err)
	}
	if err := direct.InsertArrow(t.Context(), "t", columns, settings, bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if rows := count(t, direct, "t"); rows != 1000 {
		t.Errorf("%d rows, want 1000", rows)
	}
}

func TestInsertGoesToTheNextAddressOnlyWhenUnsent(t *testing.T) {
	cfg := testenv.ClickHouseConfig(t)
	server := cfg.HTTPAddresses[0]
	table(t, testenv.Open(t, cfg), "")
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()

	cfg.HTTPAddresses = []string{dead.Addr().String(), server}
	if err := testenv.Open(t, cfg).InsertArrow(t.Context(), "t", columns, nil, bytes.NewReader(arrowStream(t, 0, 10))); err != nil {
		t.Fatalf("first address refuses: %v", err)
	}
	cut := relay(t, server, func(client, _ net.Conn) { _, _ = client.Read(make([]byte, 1)) })
	cfg.HTTPAddresses = []string{cut, server}
	db := testenv.Open(t, cfg)
	if err := db.InsertArrow(t.Context(), "t", columns, nil, bytes.NewReader(arrowStream(t, 0, 10))); !clickhouse.IsUnknownOutcome(err) {
		t.Fatalf("first address cuts: %v", err)
	}
	if rows := count(t, db, "t"); rows != 10 {
		t.Errorf("%d rows, want 10", rows)
	}
	cfg.HTTPAddresses = []string{dead.Addr().String()}
	err = testenv.Open(t, cfg).InsertArrow(t.Context(), "t", columns, nil, bytes.NewReader(nil))
	if err == nil || !clickhouse.IsRetryable(err) || clickhouse.IsUnknownOutcome(err) {
		t.Errorf("nobody there: %v", err)
	}
}

// A server that says 200 and then fails, or answers what only a proxy would.
func TestInsertAnswers(t *testing.T) {
	tests := []struct {
		name               string
		status             int
		header             map[string]string
		body               string
		code               int
		ok                 bool
		retryable, unknown bool
	}{
		{name: "stored", status: 200, ok: true},
		{name: "stored, with a body that mentions an error", status: 200, body: "text with Code: 1. in it", ok: true},
		{name: "200 with a code", status: 200, header: map[string]string{"X-ClickHouse-Exception-Code": "241"}, code: 241, retryable: true, unknown: true},
		{name: "exception in the body", status: 200, body: "\r\n__exception__\r\nabcdefgh\r\nCode: 252. DB::Exception: Too many parts. (TOO_MANY_PARTS) (version 1)\r\n70 abcdefgh\r\n__exception__\r\n", code: 252, retryable: true, unknown: true},
		{name: "plain exception", status: 200, body: "Code: 33. DB::Exception: Cannot read all data. (CANNOT_READ_ALL_DATA)", code: 33},
		{name: "marker without a code", status: 200, body: "__exception__\r\ngarbled", retryable: true, unknown: true},
		{name: "server error of a proxy", status: 502, body: "<html>bad gateway</html>", retryable: true, unknown: true},
		{name: "too many requests", status: 429, retryable: true},
		{name: "redirect", status: 307, header: map[string]string{"Location": "/elsewhere"}},
		{name: "forbidden by a proxy", status: 403},
	}
	real := testenv.ClickHouseConfig(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if r.URL.Query().Get("wait_end_of_query") != "1" || strings.Contains(r.URL.String(), real.Password.Reveal()) {
					w.WriteHeader(http.StatusTeapot)
					return
				}
				for name, value := range tt.header {
					w.Header().Set(name, value)
				}
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			}))
			defer server.Close()
			cfg := real
			cfg.HTTPAddresses = []string{server.Listener.Addr().String()}
			err := testenv.Open(t, cfg).InsertArrow(t.Context(), "t", nil, nil, strings.NewReader("x"))
			if (err == nil) != tt.ok || clickhouse.Code(err) != tt.code || clickhouse.IsRetryable(err) != tt.retryable || clickhouse.IsUnknownOutcome(err) != tt.unknown {
				t.Errorf("error %v (code %d, retryable %v, unknown %v)", err, clickhouse.Code(err), clickhouse.IsRetryable(err), clickhouse.IsUnknownOutcome(err))
			}
		})
	}
}

func TestInsertsWaitForASlot(t *testing.T) {
	cfg := testenv.ClickHouseConfig(t)
	cfg.MaxInserts = 1
	arrived, release := make(chan struct{}, 2), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}))
	defer server.Close()
	cfg.HTTPAddresses = []string{server.Listener.Addr().String()}
	db := testenv.Open(t, cfg)
	first := make(chan error, 1)
	go func() {
		first <- db.InsertArrow(t.Context(), "t", nil, nil, strings.NewReader("x"))
	}()
	<-arrived
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := db.InsertArrow(ctx, "t", nil, nil, strings.NewReader("x"))
	if !errors.Is(err, context.DeadlineExceeded) || clickhouse.IsUnknownOutcome(err) {
		t.Errorf("an insert that never left: %v", err)
	}
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if len(arrived) != 0 {
		t.Error("two inserts were in flight")
	}
}

func BenchmarkInsertArrow(b *testing.B) {
	db := testenv.ClickHouse(b)
	table(b, db, "")
	const rows = 100_000
	stream := arrowStream(b, 0, rows)
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		if err := db.InsertArrow(b.Context(), "t", columns, map[string]any{"async_insert": 0}, bytes.NewReader(stream)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
