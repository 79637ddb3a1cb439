package clickhouse_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
	"pgregory.net/rapid"

	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/testenv"
)

// Whatever a caller passes comes back as it was and is never read as SQL.
func TestParametersAreValues(t *testing.T) {
	db := testenv.ClickHouse(t)
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.String().Draw(rt, "text")
		list := rapid.SliceOfN(rapid.String(), 0, 5).Draw(rt, "list")
		number := rapid.Int64().Draw(rt, "number")
		moment := time.UnixMicro(rapid.Int64Range(1e15, 4e15).Draw(rt, "micros")).UTC()
		var gotText string
		var gotList []string
		var gotNumber int64
		var gotMoment time.Time
		err := db.QueryRow(t.Context(), "SELECT {text:String}, {list:Array(String)}, {number:Int64}, {moment:DateTime64(6, 'UTC')}",
			map[string]any{"text": text, "list": list, "number": number, "moment": moment}).
			Scan(&gotText, &gotList, &gotNumber, &gotMoment)
		if err != nil {
			rt.Fatal(err)
		}
		if gotText != text || fmt.Sprint(gotList) != fmt.Sprint(list) || len(gotList) != len(list) || gotNumber != number || !gotMoment.Equal(moment) {
			rt.Fatalf("sent %q %q %d %v, got %q %q %d %v", text, list, number, moment, gotText, gotList, gotNumber, gotMoment)
		}
	})
}

func TestParameterThatTheTextDoesNotHave(t *testing.T) {
	db := testenv.ClickHouse(t)
	params := map[string]any{"a": "x' OR 1"}
	_, err := db.Query(t.Context(), "SELECT @a", params)
	for _, err := range []error{
		err, db.Exec(t.Context(), "SELECT 1", params), db.QueryRow(t.Context(), "SELECT 1", params).Scan(),
		db.Select(t.Context(), nil, "SELECT 1", params),
	} {
		if err == nil || !strings.Contains(err.Error(), "no parameter {a:…}") {
			t.Errorf("error is %v", err)
		}
	}
}

func TestQueryRowsAndSettings(t *testing.T) {
	db := testenv.ClickHouse(t)
	rows, err := db.Query(t.Context(), "SELECT number, getSetting('max_threads') FROM numbers(5)", nil,
		clickhouse.WithSettings(map[string]any{"max_threads": 1}), clickhouse.WithQueryID("a-name"))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	sum := uint64(0)
	for rows.Next() {
		var number uint64
		var threads uint8
		if err := rows.Scan(&number, &threads); err != nil || threads != 1 {
			t.Fatalf("error %v, %d threads", err, threads)
		}
		sum += number
	}
	if rows.Err() != nil || sum != 10 {
		t.Errorf("sum %d, error %v", sum, rows.Err())
	}
	var list []struct {
		N uint64 `ch:"n"`
	}
	if err := db.Select(t.Context(), &list, "SELECT number AS n FROM numbers(3)", nil); err != nil || len(list) != 3 {
		t.Errorf("%v, error %v", list, err)
	}
	if err := db.QueryRow(t.Context(), "SELECT 1 WHERE 0", nil).Scan(new(uint8)); !errors.Is(err, clickhouse.ErrNoRows) {
		t.Errorf("no row: %v", err)
	}
}

func TestLimits(t *testing.T) {
	db := testenv.ClickHouse(t)
	for code, test := range map[int]struct {
		limits clickhouse.Limits
		sql    string
	}{
		158: {clickhouse.Limits{ReadRows: 10}, "SELECT sum(number) FROM numbers(1000)"},
		307: {clickhouse.Limits{ReadBytes: 10}, "SELECT sum(number) FROM numbers(1000)"},
		396: {clickhouse.Limits{ResultRows: 10}, "SELECT number FROM numbers(1000)"},
		241: {clickhouse.Limits{MemoryBytes: 1 << 20}, "SELECT groupArray(number) FROM numbers(1000000)"},
		159: {clickhouse.Limits{Time: time.Second}, "SELECT count() FROM numbers(100) WHERE sleepEachRow(0.1) = 0 SETTINGS max_block_size = 1"},
	} {
		rows, err := db.Query(t.Context(), test.sql, nil, clickhouse.WithLimits(test.limits))
		if err == nil {
			for rows.Next() {
			}
			err = rows.Err()
			rows.Close()
		}
		if clickhouse.Code(err) != code {
			t.Errorf("%+v: %v, want code %d", test.limits, err, code)
		}
	}
}

func TestErrorsOfQueries(t *testing.T) {
	db := testenv.ClickHouse(t)
	err := db.Exec(t.Context(), "SELECT nonsense", nil)
	if clickhouse.Code(err) != 47 || clickhouse.IsRetryable(err) || clickhouse.IsUnknownOutcome(err) {
		t.Errorf("an error in the statement: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err = db.Exec(ctx, "SELECT sleep(3)", nil)
	if !errors.Is(err, context.DeadlineExceeded) || !clickhouse.IsRetryable(err) || !clickhouse.IsUnknownOutcome(err) {
		t.Errorf("a deadline: %v", err)
	}
	cancelled, stop := context.WithCancel(t.Context())
	stop()
	if err := db.Exec(cancelled, "SELECT 1", nil); err == nil || clickhouse.IsRetryable(err) {
		t.Errorf("the caller's own cancel: %v", err)
	}

	engine := testenv.NewEngine(t)
	cfg := testenv.ConfigFor(engine)
	cfg.Database = "default"
	own := testenv.Open(t, cfg)
	if err := own.Exec(t.Context(), "SELECT 1", nil); err != nil {
		t.Fatal(err)
	}
	engine.Close()
	if err := own.Exec(t.Context(), "SELECT 1", nil); !clickhouse.IsRetryable(err) {
		t.Errorf("a server that is gone: %v", err)
	}
	if _, err := clickhouse.Open(t.Context(), cfg); !clickhouse.IsRetryable(err) || clickhouse.IsUnknownOutcome(err) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestSecretDoesNotShowItself(t *testing.T) {
	cfg := clickhouse.Default()
	cfg.Password = "hush"
	asJSON, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(asJSON), string(asYAML), fmt.Sprintf("%v %+v %#v %s", cfg, cfg, cfg, cfg.Password)} {
		if strings.Contains(text, "hush") {
			t.Errorf("the password shows itself: %s", text)
		}
	}
	var read clickhouse.Config
	if err := yaml.Unmarshal([]byte("password: hush"), &read); err != nil || read.Password.Reveal() != "hush" {
		t.Errorf("read from YAML: %q, error %v", read.Password.Reveal(), err)
	}
}

func TestConfigNamesTheWrongField(t *testing.T) {
	if err := clickhouse.Default().Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*clickhouse.Config){
		"addresses is empty":   func(c *clickhouse.Config) { c.Addresses = nil },
		"http_addresses has":   func(c *clickhouse.Config) { c.HTTPAddresses = []string{"host"} },
		"must pair up":         func(c *clickhouse.Config) { c.Cluster, c.HTTPAddresses = "c", []string{"a:1", "b:1"} },
		"database":             func(c *clickhouse.Config) { c.Database = "a-b" },
		"username":             func(c *clickhouse.Config) { c.Username = "" },
		"cluster is":           func(c *clickhouse.Config) { c.Cluster = "a'b" },
		"engine":               func(c *clickhouse.Config) { c.Engine = "log" },
		"tls.cert_file":        func(c *clickhouse.Config) { c.TLS.CertFile = "x" },
		"max_execution_time":   func(c *clickhouse.Config) { c.MaxExecutionTime = time.Millisecond },
		"dial_timeout":         func(c *clickhouse.Config) { c.DialTimeout = 0 },
		"max_connections and ": func(c *clickhouse.Config) { c.MaxInserts = 0 },
	} {
		cfg := clickhouse.Default()
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v", want, err)
		}
	}
}
