package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"gopkg.in/yaml.v3"

	"github.com/tollway/tollway/pipelines/reconcile"
	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/testenv"
)

// usage is a migrated store in which each shard has a partition with 300 calls
// of one minute.
type usage struct {
	config string // file
	shards []*clickhouse.DB
	minute time.Time
}

func newUsage(t *testing.T, db clickhouse.Config) *usage {
	t.Helper()
	u := &usage{config: filepath.Join(t.TempDir(), "tollway.yaml"), minute: time.Now().UTC().Truncate(24 * time.Hour).Add(-16 * time.Hour)}
	text, err := yaml.Marshal(map[string]any{"clickhouse": map[string]any{
		"addresses": db.Addresses, "http_addresses": db.HTTPAddresses, "cluster": db.Cluster, "database": db.Database,
		"username": db.Username, "password": db.Password.Reveal(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(u.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, newMigrateCommand(), "--config", u.config, "--data", t.TempDir()); err != nil || strings.HasPrefix(out, "Applied 0 ") || !strings.Contains(out, " to the ledger") {
		t.Fatalf("migrate: %q, %v", out, err)
	}
	u.shards = testenv.OpenShards(t, db)
	for i, shard := range u.shards {
		err := shard.Exec(t.Context(), `INSERT INTO calls (id, source, time, received_at, gateway, operation, status, total_us, total_bucket, upstream_bucket, partition, row)
			SELECT MD5(concat(toString({p:UInt16}), '-', toString(number))), 'als', fromUnixTimestamp64Micro({at:Int64} + number * 190000, 'UTC') AS time, time,
				'edge-1', 'op', 200, 1000, 300, 65535, {p:UInt16}, number
			FROM numbers(300)`, map[string]any{"p": i, "at": u.minute.UnixMicro()}, clickhouse.WithSettings(map[string]any{"async_insert": 0}))
		if err != nil {
			t.Fatal(err)
		}
	}
	return u
}

func (u *usage) calls() int64 { return 300 * int64(len(u.shards)) }

// Complete is the watermark: everything is stored.
func (u *usage) Complete(context.Context) (time.Time, error) { return time.Now(), nil }

func (u *usage) seal(t *testing.T) {
	t.Helper()
	sealer, err := reconcile.New(reconcile.DefaultConfig(), reconcile.Deps{Shards: u.shards, Watermark: u, Metrics: prometheus.NewRegistry(), Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	if err := sealer.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// says stores that a gateway had served that many calls by the end of a minute.
func (u *usage) says(t *testing.T, gateway string, minute time.Time, total int64) {
	t.Helper()
	record := reconcile.Served{Minute: minute.Unix(), Node: gateway, Prefix: "edge", Total: uint64(total)}
	if err := reconcile.StoreServed(t.Context(), u.shards[0], []reconcile.Served{record}); err != nil {
		t.Fatal(err)
	}
}

func (u *usage) reconcile(t *testing.T, more ...string) (string, error) {
	t.Helper()
	hour := u.minute.Truncate(time.Hour)
	return run(t, newReconcileCommand(), append([]string{"--config", u.config, "--from", hour.Format(time.RFC3339), "--to", hour.Add(time.Hour).Format(time.RFC3339)}, more...)...)
}

// line is the line of a text that has a word in it, its blanks made single.
func line(text, word string) string {
	for l := range strings.Lines(text) {
		if strings.Contains(l, word) {
			return strings.Join(strings.Fields(l), " ")
		}
	}
	return ""
}

func TestReconcileCommand(t *testing.T) {
	testenv.Layouts(t, func(t *testing.T, db clickhouse.Config) { reconcileCommand(t, newUsage(t, db)) })
}

func reconcileCommand(t *testing.T, u *usage) {
	out, err := u.reconcile(t)
	if err != nil || !strings.Contains(out, "No gateway said what it served in this range") || !strings.Contains(out, "No hour of the range is sealed yet.") {
		t.Errorf("of nothing: %q, %v", out, err)
	}
	u.says(t, "edge-1", u.minute, 1000)
	out, err = u.reconcile(t)
	if err != nil || !strings.Contains(out, "edge-1 reported for the first time in this range") || strings.Contains(out, "No gateway") {
		t.Errorf("of a first report: %q, %v", out, err)
	}
	u.says(t, "edge-1", u.minute.Add(-time.Minute), 1000)
	u.says(t, "edge-1", u.minute, 1000+u.calls())
	u.seal(t)
	out, err = u.reconcile(t)
	calls := integer(u.calls())
	if got, want := line(out, "edge-1"), u.minute.Format("2006-01-02T15:04Z")+" edge-1 "+calls+" "+calls+" 0 100.000 % 0 0"; err != nil || got != want {
		t.Errorf("all arrived: %q, want %q, error %v", got, want, err)
	}
	if got, want := line(out, "als"), u.minute.Format("2006-01-02T15:04Z")+" als "+calls+" 0 0 "+calls+" "+calls+" no "; !strings.HasPrefix(got, want) {
		t.Errorf("the sealed hour is %q, want %q", got, want)
	}

	u.says(t, "edge-1", u.minute, 1007+u.calls())
	out, err = u.reconcile(t)
	if exitCode(err) != exitMissing || !strings.Contains(out, "edge-1: at least 7 calls are missing; its own count of dropped entries tells of 0.") {
		t.Errorf("7 are missing: %q, %v", out, err)
	}
	out, err = u.reconcile(t, "-o", "json")
	var answer reconciled
	if failed := json.Unmarshal([]byte(out), &answer); failed != nil {
		t.Fatal(failed)
	}
	if exitCode(err) != exitMissing || answer.Missing != 7 || len(answer.Minutes) != 1 || answer.Minutes[0].Arrived != u.calls() ||
		len(answer.Sealed) != 1 || answer.Sealed[0].Stored != uint64(u.calls()) {
		t.Errorf("as JSON: %+v, %v", answer, err)
	}
	out, err = u.reconcile(t, "-o", "csv")
	records, failed := csv.NewReader(strings.NewReader(out)).ReadAll()
	if exitCode(err) != exitMissing || failed != nil || len(records) != 5 {
		t.Errorf("as CSV: %v, %v, %v", records, failed, err)
	}
	if _, err := u.reconcile(t, "-o", "xml"); exitCode(err) != exitUsage {
		t.Errorf("as XML: %v", err)
	}
}

func TestRebuildCommand(t *testing.T) {
	testenv.Layouts(t, func(t *testing.T, db clickhouse.Config) { rebuildCommand(t, newUsage(t, db)) })
}

func rebuildCommand(t *testing.T, u *usage) {
	rebuild := func(more ...string) (string, error) {
		hour := u.minute.Truncate(time.Hour)
		return run(t, newRebuildCommand(), append([]string{"--config", u.config, "--from", hour.Format(time.RFC3339), "--to", hour.Add(time.Hour).Format(time.RFC3339)}, more...)...)
	}
	if out, err := rebuild(); err != nil || out != "Every rollup equals raw.\n" {
		t.Errorf("of what is right: %q, %v", out, err)
	}
	for _, shard := range u.shards {
		if err := shard.Exec(t.Context(), "TRUNCATE TABLE usage_15m", nil); err != nil {
			t.Fatal(err)
		}
	}
	change := u.minute.Format("2006-01-02T15:04Z") + " usage_15m " + integer(int64(len(u.shards))) + " keys, +" + integer(u.calls()) + " calls"
	for _, step := range []struct{ flag, verdict string }{
		{"--dry-run", "1 stretch(es) of rollups differ from raw; nothing was changed."},
		{"--table=usage_15m", "1 stretch(es) of rollups were made equal to raw."},
	} {
		out, err := rebuild(step.flag)
		if got := line(out, "usage_15m"); err != nil || got != change || !strings.Contains(out, step.verdict) {
			t.Errorf("%s: %q, %v; want %q", step.flag, out, err, change)
		}
	}
	if out, err := rebuild(); err != nil || out != "Every rollup equals raw.\n" {
		t.Errorf("once more: %q, %v", out, err)
	}
	if _, err := rebuild("--table=calls"); err == nil || !strings.Contains(err.Error(), "no rollup") {
		t.Errorf("of raw: %v", err)
	}
	if _, err := run(t, newRebuildCommand(), "--data", t.TempDir(), "--from", "2026-11-01"); err == nil || !strings.Contains(err.Error(), "no ClickHouse is configured") {
		t.Errorf("without a store: %v", err)
	}
}
