package feed

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/tollway/tollway/pipelines/attribute"
	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/platform/embedded"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// topic is the catalog's topic on some log, and whoever writes to it.
type topic struct {
	t        *testing.T
	client   *kafkaio.Client
	producer *kafkaio.Producer
	patience time.Duration // of feeds that are started; 0 for the usual
}

func newTopic(t *testing.T, config map[string]string, addresses ...string) *topic {
	t.Helper()
	cfg := kafkaio.DefaultConfig()
	cfg.Brokers = addresses
	client, err := kafkaio.Open(cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	producer, err := kafkaio.NewProducer(client, kafkaio.DefaultProducerConfig())
	if err != nil {
		t.Fatal(err)
	}
	p := &topic{t: t, client: client, producer: producer}
	p.ensure(config)
	return p
}

func (p *topic) ensure(config map[string]string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	settings := map[string]string{"cleanup.policy": "compact"}
	for k, v := range config {
		settings[k] = v
	}
	if err := p.client.EnsureTopic(ctx, kafkaio.TopicSpec{Name: Topic, Partitions: 1, ReplicationFactor: 1, Config: settings}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *topic) send(messages ...kafkaio.Message) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := p.producer.Produce(ctx, Topic, 0, messages); err != nil {
		p.t.Fatal(err)
	}
}

func message(t testing.TB, name string, r *catalogv1.Record) kafkaio.Message {
	t.Helper()
	value, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return kafkaio.Message{Key: []byte(name), Value: value}
}

func deletion(name string, sequence int64) kafkaio.Message {
	return kafkaio.Message{Key: []byte(name), Headers: []kafkaio.Header{{Key: SequenceHeader, Value: strconv.AppendInt(nil, sequence, 10)}}}
}

const keyName = "accounts/acme/apps/mobile/credentials/key-1"

func hashOf(key string) [32]byte { return sha256.Sum256([]byte(key)) }

func key(t testing.TB, name, secret string, sequence int64) kafkaio.Message {
	t.Helper()
	hash := hashOf(secret)
	return message(t, name, &catalogv1.Record{Sequence: sequence, SecretHash: hash[:], Resource: &catalogv1.Resource{Kind: &catalogv1.Resource_Credential{
		Credential: &catalogv1.Credential{Name: name, Kind: &catalogv1.Credential_ApiKey{ApiKey: &catalogv1.ApiKey{Prefix: "tk_1234"}}},
	}}})
}

func account(t testing.TB, id string, sequence int64) kafkaio.Message {
	name := "accounts/" + id
	return message(t, name, &catalogv1.Record{Sequence: sequence, Resource: &catalogv1.Resource{Kind: &catalogv1.Resource_Account{
		Account: &catalogv1.Account{Name: name, State: catalogv1.AccountState_ACCOUNT_ACTIVE},
	}}})
}

// start runs a feed until the test ends or stop is called.
func (p *topic) start() (f *Feed, stop func()) {
	p.t.Helper()
	cfg := DefaultConfig()
	cfg.RestartPause = 50 * time.Millisecond
	f, err := New(cfg, p.client, prometheus.NewRegistry(), zerolog.Nop())
	if err != nil {
		p.t.Fatal(err)
	}
	if p.patience > 0 {
		f.patience = p.patience
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; ctx.Err() == nil || err == nil {
			p.t.Errorf("the feed ended with %v", err)
		}
	}
	p.t.Cleanup(stop)
	return f, stop
}

func (p *topic) ready() *Feed {
	p.t.Helper()
	f, _ := p.start()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := f.Wait(ctx); err != nil {
		p.t.Fatal(err)
	}
	if err := f.Ready(ctx); err != nil {
		p.t.Fatal(err)
	}
	return f
}

// await waits until a snapshot is as wanted.
func (p *topic) await(f *Feed, what string, ok func(*attribute.Snapshot) bool) time.Duration {
	p.t.Helper()
	start := time.Now()
	for time.Since(start) < time.Minute {
		if ok(f.Snapshot()) {
			return time.Since(start)
		}
		time.Sleep(2 * time.Millisecond)
	}
	p.t.Fatalf("waited a minute for: %s (version %d)", what, f.Snapshot().Version())
	return 0
}

func version(v uint64) func(*attribute.Snapshot) bool {
	return func(s *attribute.Snapshot) bool { return s.Version() >= v }
}

func TestFeed(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("feed", func(t *testing.T) {
		testFeed(t, newTopic(t, nil, testenv.Log(t)))
	})
}

func TestRealFeed(t *testing.T) {
	testFeed(t, newTopic(t, nil, testenv.Kafka(t, 1).Addrs()...))
}

func testFeed(t *testing.T, p *topic) {
	p.send(account(t, "acme", 1), key(t, keyName, "first", 2), key(t, keyName, "second", 3))
	f := p.ready()
	if _, ok := f.Snapshot().Key(hashOf("first")); ok {
		t.Error("a key that was replaced is known")
	}
	if c, ok := f.Snapshot().Key(hashOf("second")); !ok || c.ID != "acme/mobile/key-1" || c.App.ID != "acme/mobile" {
		t.Errorf("got %+v", c)
	}
	if v := f.Snapshot().Version(); v != 3 {
		t.Errorf("version %d", v)
	}

	p.send(key(t, keyName, "third", 5))
	took := p.await(f, "a new key", func(s *attribute.Snapshot) bool { _, ok := s.Key(hashOf("third")); return ok })
	t.Logf("a change was seen after %s", took)

	// What is older than what is known changes nothing.
	p.send(key(t, keyName, "stale", 4), account(t, "other", 6))
	p.await(f, "the change after an older one", version(6))
	if _, ok := f.Snapshot().Key(hashOf("stale")); ok {
		t.Error("an older record took effect")
	}
	if n := testutil.ToFloat64(f.metrics.records.WithLabelValues("older")); n != 1 {
		t.Errorf("%v records counted as older", n)
	}

	// What cannot be read leaves what is known.
	p.send(kafkaio.Message{Key: []byte(keyName), Value: []byte("no record")}, kafkaio.Message{Key: []byte("accounts/bad"), Value: []byte("nor this")}, account(t, "third", 8))
	p.await(f, "the change after bad records", version(8))
	if _, ok := f.Snapshot().Key(hashOf("third")); !ok {
		t.Error("a record that cannot be read removed a key")
	}
	if n, bad := testutil.ToFloat64(f.metrics.unreadable), testutil.ToFloat64(f.metrics.records.WithLabelValues("unreadable")); n != 2 || bad != 2 {
		t.Errorf("%v names cannot be read, %v records", n, bad)
	}
	if err := f.Ready(t.Context()); err != nil {
		t.Errorf("bad records made the feed not ready: %v", err)
	}

	p.send(deletion(keyName, 9), key(t, keyName, "third", 5), account(t, "fourth", 10))
	p.await(f, "a deletion", version(10))
	if _, ok := f.Snapshot().Key(hashOf("third")); ok {
		t.Error("a deleted key is known")
	}
	if n := testutil.ToFloat64(f.metrics.unreadable); n != 1 {
		t.Errorf("%v names cannot be read after one was deleted", n)
	}

	p.send(kafkaio.Message{Key: []byte("accounts/fourth")}, account(t, "fifth", 12))
	p.await(f, "a deletion without a sequence", version(12))
	if n := f.Snapshot().Counts().Accounts; n != 4 {
		t.Errorf("%d accounts", n)
	}

	// A process that starts now sees the same.
	again := p.ready()
	if a, b := f.Snapshot().Counts(), again.Snapshot().Counts(); a != b || again.Snapshot().Version() != 12 {
		t.Errorf("after a start: %+v at %d, before: %+v", b, again.Snapshot().Version(), a)
	}
}

func TestNotReady(t *testing.T) {
	log := testenv.NewLog(t, nil)
	p := newTopic(t, nil, log.Addr())
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	f, stop := p.start()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := f.Wait(ctx); err == nil {
		t.Error("ready without a log")
	}
	if err := f.Ready(t.Context()); err == nil {
		t.Error("ready without a log")
	}
	if _, ok := f.Lookup(hashOf("x")); ok || f.Snapshot().Version() != 0 {
		t.Error("it knows something")
	}
	stop()
}

// A topic that was made anew is read from its beginning; until it says as much as
// the one before, what was known stays.
func TestAnotherTopic(t *testing.T) {
	f, p := anotherTopic(t, time.Hour)
	p.send(account(t, "a", 19))
	p.await(f, "the first record of the new topic", func(*attribute.Snapshot) bool {
		return testutil.ToFloat64(f.metrics.records.WithLabelValues("applied")) > 20
	})
	if n := f.Snapshot().Counts().Accounts; n != 20 {
		t.Errorf("%d accounts while the new topic is being filled", n)
	}
	p.send(account(t, "b", 100))
	p.await(f, "the new topic", version(100))
	if n := f.Snapshot().Counts().Accounts; n != 2 {
		t.Errorf("%d accounts in the new topic", n)
	}
}

// A topic that never says as much, because the ledger was put back to an older
// state, holds after a while.
func TestOlderTopic(t *testing.T) {
	f, p := anotherTopic(t, 100*time.Millisecond)
	p.send(account(t, "a", 7))
	p.await(f, "the new topic", func(s *attribute.Snapshot) bool { return s.Version() == 7 && s.Counts().Accounts == 1 })
	p.send(account(t, "b", 8))
	p.await(f, "a change in the new topic", func(s *attribute.Snapshot) bool { return s.Version() == 8 })
}

// anotherTopic is one that is empty, after 20 accounts were read from the one
// before.
func anotherTopic(t *testing.T, patience time.Duration) (*Feed, *topic) {
	t.Helper()
	port := 0
	start := func() *embedded.Log {
		return testenv.NewLog(t, func(cfg *embedded.LogConfig) { cfg.Port = port })
	}
	log := start()
	_, text, err := net.SplitHostPort(log.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if port, err = strconv.Atoi(text); err != nil {
		t.Fatal(err)
	}
	p := newTopic(t, nil, log.Addr())
	p.patience = patience
	for i := range 20 {
		p.send(account(t, fmt.Sprint("a", i), int64(i+1)))
	}
	f := p.ready()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	start() // with an empty folder
	p.ensure(nil)
	p.await(f, "the topic to be read again", func(*attribute.Snapshot) bool { return testutil.ToFloat64(f.metrics.restarts) > 0 })
	if n := f.Snapshot().Counts().Accounts; n != 20 {
		t.Errorf("%d accounts while the new topic is empty", n)
	}
	return f, p
}

func TestTokens(t *testing.T) {
	p := newTopic(t, nil, testenv.Log(t))
	hash := hashOf("tw_con_secret")
	p.send(message(t, "tokens/t", &catalogv1.Record{Sequence: 1, SecretHash: hash[:], Resource: &catalogv1.Resource{Kind: &catalogv1.Resource_Token{
		Token: &catalogv1.Token{Name: "tokens/t", Role: "consumer", Account: "accounts/acme", Scopes: []string{"reports.read"}},
	}}}))
	f := p.ready()
	got, ok := f.Lookup(hash)
	if !ok || got.Name != "tokens/t" || got.Role != "consumer" || got.Account != "accounts/acme" || len(got.Scopes) != 1 || !got.NotAfter.IsZero() || got.Revoked {
		t.Errorf("got %+v", got)
	}
	p.send(kafkaio.Message{Key: []byte("tokens/t")})
	p.await(f, "a deleted token", func(*attribute.Snapshot) bool { _, ok := f.Lookup(hash); return !ok })
}

// TestCompacted reads a topic from which the log has removed what is
// superseded, deletions included.
func TestCompacted(t *testing.T) {
	log := testenv.NewLog(t, func(cfg *embedded.LogConfig) { cfg.CleanInterval, cfg.SegmentBytes = 100*time.Millisecond, 1<<20 })
	testCompacted(t, newTopic(t, map[string]string{"delete.retention.ms": "1", "segment.bytes": "100000", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"}, log.Addr()))
}

// TestRealCompacted does the same on Kafka, whose cleaner looks every 15 s.
func TestRealCompacted(t *testing.T) {
	if os.Getenv("TOLLWAY_REAL") != "1" {
		t.Skip("takes half a minute: runs with TOLLWAY_REAL=1")
	}
	p := newTopic(t, map[string]string{"delete.retention.ms": "1", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "100"}, testenv.Kafka(t, 1).Addrs()...)
	testCompacted(t, p)
}

func testCompacted(t *testing.T, p *topic) {
	const names, rounds, all = 50, 40, 50*40 + 3
	for round := range rounds {
		var batch []kafkaio.Message
		for i := range names {
			batch = append(batch, account(t, fmt.Sprint("a", i), int64(round*names+i+1)))
		}
		p.send(batch...)
	}
	p.send(kafkaio.Message{Key: []byte("accounts/a0")}, kafkaio.Message{Key: []byte("accounts/a1")}, account(t, "z", 1_000_000))
	read := func() (n int) {
		fetcher := kafkaio.NewFetcher(p.client, Topic, 0, kafkaio.FirstOffset, kafkaio.DefaultFetchConfig())
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			got, err := fetcher.Next(ctx)
			cancel()
			if errors.Is(err, kafkaio.ErrOffsetOutOfRange) {
				return all // the cleaner was faster; look again
			}
			if err != nil {
				t.Fatal(err)
			}
			n += len(got.Messages)
			if got.NextOffset >= got.HighWatermark || len(got.Messages) == 0 {
				return n
			}
		}
	}
	left := read()
	for deadline := time.Now().Add(90 * time.Second); left > 2*names && time.Now().Before(deadline); left = read() {
		time.Sleep(200 * time.Millisecond)
		p.send(account(t, "z", 1_000_000)) // closes a segment
	}
	t.Logf("%d of %d messages are left", left, all)
	if left > 2*names {
		t.Fatal("the log was not compacted")
	}
	f := p.ready()
	if n := f.Snapshot().Counts().Accounts; n != names-1 {
		t.Errorf("%d accounts, want %d", n, names-1)
	}
	p.send(account(t, "late", 2_000_000))
	p.await(f, "a change after compaction", version(2_000_000))
}

func FuzzRecord(f *testing.F) {
	for _, m := range []kafkaio.Message{key(f, keyName, "x", 1), account(f, "a", 2), deletion("accounts/a", 3)} {
		sequence := []byte(nil)
		if len(m.Headers) > 0 {
			sequence = m.Headers[0].Value
		}
		f.Add(m.Key, m.Value, sequence)
	}
	f.Fuzz(func(t *testing.T, name, value, sequence []byte) {
		b := attribute.NewBuilder()
		if _, err := b.Apply("accounts/before", &catalogv1.Record{Sequence: 1, Resource: &catalogv1.Resource{Kind: &catalogv1.Resource_Account{
			Account: &catalogv1.Account{Name: "accounts/before"},
		}}}, 0); err != nil {
			t.Fatal(err)
		}
		record, at, err := Decode(&kafkaio.Fetched{Key: name, Value: value, Headers: []kafkaio.Header{{Key: SequenceHeader, Value: sequence}}})
		if err == nil {
			_, err = b.Apply(string(name), record, at)
		}
		s := b.Snapshot()
		if s.Version() == 0 || err != nil && s.Version() != 1 {
			t.Errorf("version %d after %v", s.Version(), err)
		}
		if n := s.Counts().Accounts; string(name) != "accounts/before" && n == 0 {
			t.Error("a record took another one away")
		}
		batch := call.NewBatch()
		var c call.Call
		c.Reset()
		c.Path = "/"
		batch.Append(&c)
		s.Attribute(batch)
	})
}

// BenchmarkFeed reads a catalog of 50,000 credentials of 10,000 accounts from an
// embedded log, and then waits for one change.
func BenchmarkFeed(b *testing.B) {
	cfg := kafkaio.DefaultConfig()
	log, err := embedded.StartLog(b.Context(), func() embedded.LogConfig {
		c := embedded.DefaultLogConfig()
		c.DataDir = b.TempDir()
		return c
	}())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = log.Close() })
	cfg.Brokers = []string{log.Addr()}
	client, err := kafkaio.Open(cfg, zerolog.Nop())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = client.Close() })
	if err := client.EnsureTopic(b.Context(), kafkaio.TopicSpec{Name: Topic, Partitions: 1, ReplicationFactor: 1, Config: map[string]string{"cleanup.policy": "compact"}}); err != nil {
		b.Fatal(err)
	}
	producer, err := kafkaio.NewProducer(client, kafkaio.DefaultProducerConfig())
	if err != nil {
		b.Fatal(err)
	}
	sequence := int64(0)
	var batch []kafkaio.Message
	flush := func() {
		if err := producer.Produce(b.Context(), Topic, 0, batch); err != nil {
			b.Fatal(err)
		}
		batch = batch[:0]
	}
	for i := range 60_000 {
		sequence++
		if i < 10_000 {
			batch = append(batch, account(b, fmt.Sprintf("account-%05d", i), sequence))
		} else {
			name := fmt.Sprintf("accounts/account-%05d/apps/app-%d/credentials/key-%05d", i%10_000, i/10_000%2, i)
			batch = append(batch, key(b, name, fmt.Sprint(i), sequence))
		}
		if len(batch) == 5000 {
			flush()
		}
	}
	var load, change time.Duration
	for b.Loop() {
		f, err := New(DefaultConfig(), client, prometheus.NewRegistry(), zerolog.Nop())
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error, 1)
		start := time.Now()
		go func() { done <- f.Run(ctx) }()
		if err := f.Wait(ctx); err != nil {
			b.Fatal(err)
		}
		load += time.Since(start)
		start = time.Now()
		sequence++
		batch = append(batch, key(b, keyName, "changed", sequence))
		flush()
		for f.Snapshot().Version() < uint64(sequence) {
			time.Sleep(time.Millisecond)
		}
		change += time.Since(start)
		cancel()
		if err := <-done; ctx.Err() == nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(load.Seconds()/float64(b.N), "s-to-load")
	b.ReportMetric(change.Seconds()/float64(b.N), "s-to-see")
}
