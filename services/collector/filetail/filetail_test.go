package filetail

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/publish"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a log in memory, shared by the tailers that run one after another.
type memory struct {
	mu   sync.Mutex
	rows *call.Batch
}

func (m *memory) Produce(_ context.Context, _ string, _ int, messages []publish.Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, msg := range messages {
		if _, err := m.rows.AppendMessage(msg.Value, 0); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) ids() map[call.ID]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := map[call.ID]int{}
	for _, id := range m.rows.ID {
		ids[id]++
	}
	return ids
}

var start = time.Date(2026, 11, 24, 5, 0, 0, 0, time.UTC)

func text(i int) string {
	return fmt.Sprintf(`{"start_time":"%s","stream_id":"s-%d","method":"GET","path":"/v1/orders/%d?key=secret","status":200,"duration_us":%d,"upstream_cluster":"outbound|80|v2|orders.default.svc.cluster.local","details":"via_upstream","request_id":null,"peer_uri":"-"}`+"\n",
		start.Add(time.Duration(i)*time.Microsecond).Format("2006-01-02T15:04:05.000000Z"), i, i, 1000+i)
}

func id(i int) call.ID {
	return call.NewID("edge-1", fmt.Sprintf("s-%d", i), fmt.Sprint(start.UnixMicro()+int64(i)))
}

func config(dir, path string) Config {
	cfg := DefaultConfig()
	cfg.Files = []File{{Path: filepath.Join(dir, path), Node: "edge-1", Cluster: "edge"}}
	cfg.Checkpoint = filepath.Join(dir, "access.log.checkpoint")
	cfg.PollInterval, cfg.CheckpointInterval, cfg.RotateGrace = 2*time.Millisecond, time.Millisecond, 60*time.Millisecond
	cfg.MaxLineBytes = 1024
	return cfg
}

type running struct {
	*Tailer
	stop func()
}

func run(t testing.TB, cfg Config, log publish.Log) *running {
	require.NoError(t, cfg.Validate())
	reg := prometheus.NewRegistry()
	pc := publish.DefaultConfig()
	pc.AckLinger = 0
	pub := publish.New(pc, 2, log, time.Now, reg, zerolog.Nop())
	tailer, err := New(cfg, Deps{Publisher: pub, Clock: func() time.Time { return time.Now().Add(start.Sub(began)) }, Registry: reg, Logger: zerolog.Nop()})
	require.NoError(t, err)
	// The clock runs from the lines' own time; modification times do not, so
	// files of these tests look as if they were always new.
	pubCtx, pubStop := context.WithCancel(context.Background())
	ctx, cancel := context.WithCancel(context.Background())
	published, done := make(chan struct{}), make(chan error, 1)
	go func() { defer close(published); _ = pub.Run(pubCtx) }()
	go func() { done <- tailer.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		pubStop()
		<-published
	})
	t.Cleanup(stop)
	return &running{tailer, stop}
}

var began = time.Now()

const (
	waitFor = 15 * time.Second
	tick    = 5 * time.Millisecond
)

func expect(t testing.TB, log *memory, from, to int) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		ids := log.ids()
		for i := from; i < to; i++ {
			if ids[id(i)] == 0 {
				c.Errorf("line %d is not stored; %d are", i, len(ids))
				return
			}
		}
	}, waitFor, tick)
}

func appendTo(t testing.TB, path, s string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	_, err = f.WriteString(s)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func texts(from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		b.WriteString(text(i))
	}
	return b.String()
}

func TestReadsWhatEnvoySays(t *testing.T) {
	dir, log := t.TempDir(), &memory{rows: call.NewBatch()}
	appendTo(t, filepath.Join(dir, "access.log"), text(7))
	r := run(t, config(dir, "access.log"), log)
	expect(t, log, 7, 8)
	r.stop()
	b := log.rows
	require.Equal(t, start.UnixMicro()+7, b.Time[0])
	require.Equal(t, "envoy/edge", b.Strings[call.Source].Value(0))
	require.Equal(t, "edge-1", b.Strings[call.Gateway].Value(0))
	require.Equal(t, "/v1/orders/7", b.Path.Value(0))
	require.Equal(t, "v2", b.Strings[call.Version].Value(0))
	require.Equal(t, "none", b.Strings[call.Fault].Value(0))
	require.EqualValues(t, 1007, b.Latency[call.Total][0])
	require.EqualValues(t, 200, b.Status[0])
	require.EqualValues(t, 1, testutil.ToFloat64(r.counters.In))
	require.EqualValues(t, 1, testutil.ToFloat64(r.counters.Out))
}

func TestRotationUnderWriting(t *testing.T) {
	for name, copied := range map[string]bool{"rename": false, "copy and truncate": true} {
		t.Run(name, func(t *testing.T) {
			dir, log := t.TempDir(), &memory{rows: call.NewBatch()}
			path := filepath.Join(dir, "access.log")
			run(t, config(dir, "access.log"), log)
			const rounds, each = 6, 300
			f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			require.NoError(t, err)
			n := 0
			writeLines := func(lines int) {
				for range lines {
					// In two pieces, so that a line is seen half written.
					s := text(n)
					_, err := f.WriteString(s[:50])
					require.NoError(t, err)
					_, err = f.WriteString(s[50:])
					require.NoError(t, err)
					n++
				}
			}
			for round := range rounds {
				writeLines(each)
				rotated := fmt.Sprintf("%s.%d", path, round+1)
				if copied {
					// What is written between copy and truncation is lost to
					// everybody; the test does not write there.
					src, err := os.Open(path)
					require.NoError(t, err)
					dst, err := os.Create(rotated)
					require.NoError(t, err)
					_, err = io.Copy(dst, src)
					require.NoError(t, err)
					require.NoError(t, src.Close())
					require.NoError(t, dst.Close())
					require.NoError(t, f.Truncate(0))
					continue
				}
				require.NoError(t, os.Rename(path, rotated))
				writeLines(each) // the writer still has the old file open
				require.NoError(t, f.Close())
				f, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
				require.NoError(t, err)
			}
			writeLines(each)
			require.NoError(t, f.Close())
			expect(t, log, 0, n)
			require.Len(t, log.ids(), n)
		})
	}
}

// Stopped, crashed with an older checkpoint, rotated twice while away: every
// line arrives, under the same identity.
func TestRestart(t *testing.T) {
	dir, log := t.TempDir(), &memory{rows: call.NewBatch()}
	path, cfg := filepath.Join(dir, "access.log"), config(dir, "access.log")
	appendTo(t, path, texts(0, 500)+text(500)[:40])
	r := run(t, cfg, log)
	expect(t, log, 0, 500)
	r.stop()
	old, err := os.ReadFile(cfg.Checkpoint)
	require.NoError(t, err)

	appendTo(t, path, text(500)[40:]+texts(501, 900))
	r = run(t, cfg, log)
	expect(t, log, 0, 900)
	r.stop()
	require.Len(t, log.ids(), 900)
	require.Len(t, log.rows.ID, 900, "a clean stop repeats nothing")

	require.NoError(t, os.WriteFile(cfg.Checkpoint, old, 0o600))
	appendTo(t, path, texts(900, 1000))
	require.NoError(t, os.Rename(path, path+".2"))
	appendTo(t, path, texts(1000, 1100))
	require.NoError(t, os.Rename(path, path+".1"))
	appendTo(t, path, texts(1100, 1200))
	run(t, cfg, log)
	expect(t, log, 0, 1200)
	require.Len(t, log.ids(), 1200)
}

func TestTruncationAndShorterFile(t *testing.T) {
	dir, log := t.TempDir(), &memory{rows: call.NewBatch()}
	path := filepath.Join(dir, "access.log")
	appendTo(t, path, texts(0, 100))
	run(t, config(dir, "*.log"), log)
	expect(t, log, 0, 100)
	require.NoError(t, os.WriteFile(path, []byte(texts(100, 110)), 0o600))
	expect(t, log, 100, 110)
	// As long as what was there before: only its first line tells.
	require.NoError(t, os.WriteFile(path, []byte(texts(110, 120)), 0o600))
	expect(t, log, 110, 120)
	appendTo(t, filepath.Join(dir, "second.log"), texts(120, 130))
	expect(t, log, 120, 130)
}

func TestLastLineWithoutItsEnd(t *testing.T) {
	dir, log := t.TempDir(), &memory{rows: call.NewBatch()}
	path := filepath.Join(dir, "access.log")
	appendTo(t, path, texts(0, 3)+strings.TrimSuffix(text(3), "\n"))
	run(t, config(dir, "access.log"), log)
	expect(t, log, 0, 3)
	require.Zero(t, log.ids()[id(3)], "it may still be written")
	require.NoError(t, os.Rename(path, path+".1"))
	expect(t, log, 3, 4)
}

// A writer that stops in the middle of a line for longer than a rotated file is
// watched loses nothing; the half line is reported once.
func TestTornLineIsReadWholeOnceItEnds(t *testing.T) {
	dir, log := t.TempDir(), &memory{rows: call.NewBatch()}
	path := filepath.Join(dir, "access.log")
	r := run(t, config(dir, "access.log"), log)
	appendTo(t, path, texts(0, 3)+text(3)[:40])
	expect(t, log, 0, 3)
	require.NoError(t, os.Rename(path, path+".1"))
	torn := r.counters.Rejected("torn")
	require.Eventually(t, func() bool { return testutil.ToFloat64(torn) == 1 }, waitFor, tick)
	appendTo(t, path+".1", text(3)[40:]+text(4))
	expect(t, log, 3, 5)
	require.EqualValues(t, 1, testutil.ToFloat64(torn))
}

func TestRejectedLines(t *testing.T) {
	dir, log := t.TempDir(), &memory{rows: call.NewBatch()}
	cfg := config(dir, "access.log")
	bad := []struct{ line, reason string }{
		{"not json", "malformed"},
		{`{"stream_id":"x"}`, "missing"},
		{`{"start_time":"yesterday"}`, "field"},
		{`{"start_time":"2020-01-01T00:00:00Z","stream_id":"x"}`, "past"},
		{`{"start_time":"2030-01-01T00:00:00Z","stream_id":"x"}`, "future"},
		{`{"start_time":"2026-11-24T05:00:00Z","status":-1}`, "field"},
		{strings.Repeat("y", 1500), "too_long"},
		{strings.Repeat("z", 5000), "too_long"},
	}
	var b strings.Builder
	b.WriteString(text(0))
	for i, c := range bad {
		b.WriteString(c.line + "\n" + text(i+1))
	}
	b.WriteString(`{"start_time":"2026-11-24T05:00:00Z","stream_id":"x","access_log_type":"DownstreamPeriodic"}` + "\n\n")
	appendTo(t, filepath.Join(dir, "access.log"), b.String())
	r := run(t, cfg, log)
	expect(t, log, 0, len(bad)+1)
	r.stop()
	require.Len(t, log.ids(), len(bad)+1)
	kept, err := os.ReadFile(cfg.Checkpoint + ".rejected")
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(kept)), "\n")
	require.Len(t, lines, len(bad))
	for i, c := range bad {
		require.Contains(t, lines[i], `"reason":"`+c.reason+`"`)
		require.Contains(t, lines[i], fmt.Sprintf(`"offset":%d`, strings.Index(b.String(), c.line)))
	}
	require.EqualValues(t, 1, testutil.ToFloat64(r.counters.Rejected("intermediate")))
	require.EqualValues(t, 2, testutil.ToFloat64(r.counters.Rejected("too_long")))
	require.EqualValues(t, len(bad)+len(bad)+2, testutil.ToFloat64(r.counters.In))
}

func TestRejectedFileIsBounded(t *testing.T) {
	r := rejects{path: filepath.Join(t.TempDir(), "rejected"), max: 2000}
	defer r.close()
	for i := range 100 {
		require.NoError(t, r.add("f", int64(i), "malformed", bytes.Repeat([]byte("x"), 100)))
	}
	for _, name := range []string{r.path, r.path + ".1"} {
		info, err := os.Stat(name)
		require.NoError(t, err)
		require.LessOrEqual(t, info.Size(), int64(2000))
		require.NotZero(t, info.Size())
	}
}

// Lines without an id get theirs from the file and the offset, the same each
// time they are read.
func TestLinesWithoutAnID(t *testing.T) {
	dir, log := t.TempDir(), &memory{rows: call.NewBatch()}
	cfg := config(dir, "access.log")
	line := `{"start_time":"2026-11-24T05:00:00Z","verb":"PUT","status":"204"}` + "\n"
	cfg.Files[0].Fields = map[string]string{"verb": "method"}
	appendTo(t, filepath.Join(dir, "access.log"), strings.Repeat(line, 50))
	for range 2 {
		r := run(t, cfg, log)
		require.Eventually(t, func() bool { return testutil.ToFloat64(r.counters.Out) == 50 }, 10*time.Second, time.Millisecond)
		r.stop()
		require.NoError(t, os.Remove(cfg.Checkpoint))
	}
	require.Len(t, log.ids(), 50)
	require.Len(t, log.rows.ID, 100)
	require.Equal(t, "PUT", log.rows.Strings[call.Method].Value(0))
	require.EqualValues(t, 204, log.rows.Status[0])
}

func TestConfigNamesTheField(t *testing.T) {
	good := config("/var/log", "access.log")
	for field, change := range map[string]func(*Config){
		"checkpoint":         func(c *Config) { c.Checkpoint = "" },
		"poll_interval":      func(c *Config) { c.PollInterval = 0 },
		"max_line_bytes":     func(c *Config) { c.MaxLineBytes = 0 },
		"files[0]: path":     func(c *Config) { c.Files = []File{{Path: "["}} },
		`unknown field "no"`: func(c *Config) { c.Files = []File{{Path: "x", Fields: map[string]string{"a": "no"}}} },
		"envoy: client_ip":   func(c *Config) { c.Envoy.ClientIP = "some" },
	} {
		cfg := good
		change(&cfg)
		require.ErrorContains(t, cfg.Validate(), field)
	}
	require.NoError(t, good.Validate())
	require.NoError(t, DefaultConfig().Validate())
}

func TestDamagedCheckpointIsSaid(t *testing.T) {
	cfg := config(t.TempDir(), "access.log")
	require.NoError(t, os.WriteFile(cfg.Checkpoint, []byte("{"), 0o600))
	_, err := load(cfg.Checkpoint)
	require.ErrorContains(t, err, "remove it")
}

func BenchmarkParse(b *testing.B) {
	tailer, err := New(config(b.TempDir(), "access.log"), Deps{Clock: time.Now, Registry: prometheus.NewRegistry(), Logger: zerolog.Nop()})
	require.NoError(b, err)
	line := []byte(text(1))
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if err := tailer.parsers[0].parse(line, "f", 1, start, &tailer.call); err != nil {
			b.Fatal(err)
		}
	}
}
