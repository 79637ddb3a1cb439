package kafkaio_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/tollway/tollway/services/platform/kafkaio"
)

// suite is what every broker that speaks the protocol must show.
var suite = []struct {
	name string
	run  func(t *testing.T, c *cluster)
}{
	{"produce and fetch", testProduceFetch},
	{"large batches are split", testSplit},
	{"start positions and gaps at the start", testStartPositions},
	{"offset metadata round trip", testOffsets},
	{"stale generation is fenced", testFencing},
	{"two members rebalance", testRebalance},
	{"topic is checked", testEnsureTopic},
	{"cancelled calls return at once", testCancel},
	{"broker goes and comes back", testBrokerBack},
}

func TestFake(t *testing.T) {
	for _, tc := range suite {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, fakeCluster(t, 1)) })
	}
}

func TestReal(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a real broker")
	}
	c := realCluster(t)
	for _, tc := range suite {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, c) })
	}
}

func testProduceFetch(t *testing.T, c *cluster) {
	reg := prometheus.NewRegistry()
	client := c.open(t, kafkaio.WithRegisterer(reg))
	topic := c.topic(t, client, 3)
	ctx := deadline(t)
	for _, compression := range []string{"lz4", "zstd", "snappy", "gzip", "none"} {
		p, err := kafkaio.NewProducer(client, kafkaio.ProducerConfig{Compression: compression, MaxRequestBytes: 900_000})
		if err != nil {
			t.Fatal(err)
		}
		for partition := range 3 {
			err := p.Produce(ctx, topic, partition, []kafkaio.Message{
				{Key: []byte("k"), Value: fmt.Appendf(nil, "%s-%d", compression, partition), Headers: []kafkaio.Header{{Key: "content-type", Value: []byte("text/plain")}}},
				{Value: bytes.Repeat([]byte("0123456789abcdef"), 20_000)},
				{Key: []byte("gone")},
				{Value: []byte{}},
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for partition := range int32(3) {
		got := readUntil(t, kafkaio.NewFetcher(client, topic, partition, 0, kafkaio.FetchConfig{}), 20)
		for i, compression := range []string{"lz4", "zstd", "snappy", "gzip", "none"} {
			m := got[4*i : 4*i+4]
			if want := fmt.Sprintf("%s-%d", compression, partition); string(m[0].Value) != want || string(m[0].Key) != "k" || m[0].Offset != int64(4*i) {
				t.Errorf("message %d is %q %q, want %q", m[0].Offset, m[0].Key, m[0].Value, want)
			}
			if len(m[0].Headers) != 1 || m[0].Headers[0].Key != "content-type" || string(m[0].Headers[0].Value) != "text/plain" {
				t.Errorf("headers %v", m[0].Headers)
			}
			if !bytes.Equal(m[1].Value, bytes.Repeat([]byte("0123456789abcdef"), 20_000)) || m[1].Key != nil {
				t.Error("a large value changed on its way")
			}
			if m[2].Value != nil || string(m[2].Key) != "gone" {
				t.Errorf("a tombstone came back as %v", m[2].Value)
			}
			if m[3].Value == nil || len(m[3].Value) != 0 {
				t.Errorf("an empty value came back as %v", m[3].Value)
			}
			if d := time.Since(m[0].Time); d < 0 || d > time.Minute {
				t.Errorf("message time is %s ago", d)
			}
		}
	}
	want := fmt.Sprintf(`
# HELP tollway_kafkaio_produced_messages_total Messages acknowledged by all in-sync replicas.
# TYPE tollway_kafkaio_produced_messages_total counter
tollway_kafkaio_produced_messages_total{topic=%q} 60
# HELP tollway_kafkaio_fetched_messages_total Messages fetched and handed on.
# TYPE tollway_kafkaio_fetched_messages_total counter
tollway_kafkaio_fetched_messages_total{topic=%q} 60
`, topic, topic)
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "tollway_kafkaio_produced_messages_total", "tollway_kafkaio_fetched_messages_total"); err != nil {
		t.Error(err)
	}
}

func testSplit(t *testing.T, c *cluster) {
	client := c.open(t)
	topic := c.topic(t, client, 1)
	p, err := kafkaio.NewProducer(client, kafkaio.ProducerConfig{Compression: "none", MaxRequestBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	ctx := deadline(t)
	msgs := make([]kafkaio.Message, 12)
	for i := range msgs {
		msgs[i].Value = bytes.Repeat([]byte{byte('a' + i)}, 300_000)
	}
	if err := p.Produce(ctx, topic, 0, msgs); err != nil {
		t.Fatalf("a batch above the broker's limit must be halved: %v", err)
	}
	for i, m := range readUntil(t, kafkaio.NewFetcher(client, topic, 0, kafkaio.FirstOffset, kafkaio.FetchConfig{}), 12) {
		if m.Offset != int64(i) || !bytes.Equal(m.Value, msgs[i].Value) {
			t.Errorf("message %d differs", i)
		}
	}
	err = p.Produce(ctx, topic, 0, []kafkaio.Message{{Value: make([]byte, 3<<20)}})
	if !errors.Is(err, kafkaio.ErrMessageTooLarge) {
		t.Errorf("one message above the limit: %v", err)
	}
}

func testStartPositions(t *testing.T, c *cluster) {
	client := c.open(t)
	topic := c.topic(t, client, 1)
	p := producer(t, client)
	ctx := deadline(t)
	batch := []kafkaio.Message{{Value: []byte("0")}, {Value: []byte("1")}, {Value: []byte("2")}, {Value: []byte("3")}}
	if err := p.Produce(ctx, topic, 0, batch); err != nil {
		t.Fatal(err)
	}
	// One compressed batch holds offsets 0 to 3: asking for 2 must not show 0 and 1.
	got := readUntil(t, kafkaio.NewFetcher(client, topic, 0, 2, kafkaio.FetchConfig{}), 2)
	if len(got) != 2 || got[0].Offset != 2 || string(got[1].Value) != "3" {
		t.Errorf("from offset 2: %v", got)
	}

	last := kafkaio.NewFetcher(client, topic, 0, kafkaio.LastOffset, kafkaio.FetchConfig{MaxWait: 20 * time.Millisecond})
	res, err := last.Next(ctx)
	if err != nil || len(res.Messages) != 0 || res.NextOffset != 4 || res.HighWatermark != 4 {
		t.Errorf("at the end: %+v, %v", res, err)
	}

	for _, offset := range []int64{5, 1000} {
		f := kafkaio.NewFetcher(client, topic, 0, offset, kafkaio.FetchConfig{})
		for range 2 {
			if _, err := f.Next(ctx); !errors.Is(err, kafkaio.ErrOffsetOutOfRange) || f.Offset() != offset || f.LastError() == nil {
				t.Errorf("offset %d: %v, fetcher is at %d", offset, err, f.Offset())
			}
		}
	}
	ranges, err := client.Offsets(ctx, topic)
	if err != nil || ranges[0] != (kafkaio.OffsetRange{First: 0, Last: 4}) {
		t.Errorf("offsets %v, %v", ranges, err)
	}
	if c.deleteBefore == nil {
		return
	}
	c.deleteBefore(topic, 0, 3)
	if _, err := kafkaio.NewFetcher(client, topic, 0, 1, kafkaio.FetchConfig{}).Next(ctx); !errors.Is(err, kafkaio.ErrOffsetOutOfRange) {
		t.Errorf("an offset lost to retention: %v", err)
	}
	f := kafkaio.NewFetcher(client, topic, 0, kafkaio.FirstOffset, kafkaio.FetchConfig{})
	res, err = f.Next(ctx)
	if err != nil || len(res.Messages) != 1 || res.Messages[0].Offset != 3 || res.LogStart != 3 {
		t.Errorf("after retention: %+v, %v", res, err)
	}
}

func testCancel(t *testing.T, c *cluster) {
	client := c.open(t)
	topic := c.topic(t, client, 1)
	ctx, cancel := context.WithCancel(deadline(t))
	f := kafkaio.NewFetcher(client, topic, 0, 0, kafkaio.FetchConfig{MaxWait: 30 * time.Second})
	done := make(chan error)
	go func() {
		_, err := f.Next(ctx)
		done <- err
	}()
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("a cancelled fetch did not return before its long poll was over")
	}
	if err := producer(t, client).Produce(ctx, topic, 0, []kafkaio.Message{{Value: []byte("x")}}); !errors.Is(err, context.Canceled) {
		t.Errorf("produce with a cancelled context: %v", err)
	}
}

func testBrokerBack(t *testing.T, c *cluster) {
	client := c.open(t)
	topic := c.topic(t, client, 4)
	p := producer(t, client)
	ctx := deadline(t)
	stored := make([]int, 4)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for partition := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				if err := p.Produce(ctx, topic, partition, []kafkaio.Message{{Value: fmt.Appendf(nil, "%d", i)}}); err != nil {
					errs <- err
					return
				}
				stored[partition] = i + 1
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
	f := kafkaio.NewFetcher(client, topic, 0, 0, kafkaio.FetchConfig{MaxWait: 50 * time.Millisecond})
	readUntil(t, f, 10)
	c.stop()
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	for {
		if _, err := f.Next(short); err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("fetch from a broker that is down: %v", err)
			}
			break
		}
	}
	if f.LastError() == nil {
		t.Error("the reason why nothing is fetched is not shown")
	}
	c.start()
	readUntil(t, f, 10)
	if f.LastError() != nil {
		t.Errorf("the last error stays after a success: %v", f.LastError())
	}
	close(stop)
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	for partition, n := range stored {
		seen := map[string]bool{}
		ranges, err := client.Offsets(ctx, topic)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range readUntil(t, kafkaio.NewFetcher(client, topic, int32(partition), 0, kafkaio.FetchConfig{}), int(ranges[int32(partition)].Last)) {
			seen[string(m.Value)] = true
		}
		for i := range n {
			if !seen[fmt.Sprint(i)] {
				t.Errorf("partition %d lost acknowledged message %d", partition, i)
			}
		}
	}
}

func testEnsureTopic(t *testing.T, c *cluster) {
	client := c.open(t)
	topic := c.topic(t, client, 2)
	ctx := deadline(t)
	spec := func(partitions, replication int, config map[string]string) kafkaio.TopicSpec {
		return kafkaio.TopicSpec{Name: topic, Partitions: partitions, ReplicationFactor: replication, Config: config}
	}
	for _, tc := range []struct {
		name string
		spec kafkaio.TopicSpec
		want string
	}{
		{"the same again", spec(2, 1, map[string]string{"cleanup.policy": "delete"}), ""},
		{"fewer partitions wanted", spec(1, 1, nil), ""},
		{"more partitions wanted", spec(6, 1, nil), "has 2 partitions, 6 are configured: lower the configured number to 2, or add partitions"},
		{"compaction wanted", spec(2, 1, map[string]string{"cleanup.policy": "compact"}), "has cleanup.policy=delete, compact is needed: change it with kafka-configs"},
		{"create time wanted", spec(2, 1, map[string]string{"message.timestamp.type": "CreateTime"}), "has message.timestamp.type=LogAppendTime, CreateTime is needed"},
		{"no partitions", spec(0, 1, nil), "must be given"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := client.EnsureTopic(ctx, tc.spec)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	err := client.EnsureTopic(ctx, kafkaio.TopicSpec{Name: topic + "-wide", Partitions: 1, ReplicationFactor: 7})
	if err == nil || !strings.Contains(err.Error(), "replication factor 7 is more than the cluster has brokers") {
		t.Errorf("too many replicas: %v", err)
	}
	partitions, err := client.Partitions(ctx, topic)
	if err != nil || len(partitions) != 2 || partitions[0] != 0 || partitions[1] != 1 {
		t.Errorf("partitions %v, %v", partitions, err)
	}
}

func TestLeaderMoves(t *testing.T) {
	c := fakeCluster(t, 3)
	client := c.open(t)
	topic := c.topic(t, client, 1)
	p := producer(t, client)
	ctx := deadline(t)
	f := kafkaio.NewFetcher(client, topic, 0, 0, kafkaio.FetchConfig{MaxWait: 50 * time.Millisecond})
	for i := range 9 {
		if err := c.fake.MoveTopicPartition(topic, 0, int32(i%3)); err != nil {
			t.Fatal(err)
		}
		if err := p.Produce(ctx, topic, 0, []kafkaio.Message{{Value: fmt.Appendf(nil, "%d", i)}}); err != nil {
			t.Fatal(err)
		}
		if got := readUntil(t, f, 1); len(got) != 1 || string(got[0].Value) != fmt.Sprint(i) {
			t.Fatalf("after move %d: %v", i, got)
		}
	}
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	c := fakeCluster(t, 1)
	before := goleak.IgnoreCurrent()
	client := c.open(t)
	topic := c.topic(t, client, 2)
	ctx, cancel := context.WithCancel(deadline(t))
	if err := producer(t, client).Produce(ctx, topic, 0, []kafkaio.Message{{Value: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	group, err := client.JoinGroup(groupConfig("leak", topic))
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := group.Run(ctx, func(ctx context.Context, _ kafkaio.Generation) {
			close(started)
			f := kafkaio.NewFetcher(client, topic, 0, 0, kafkaio.FetchConfig{MaxWait: 30 * time.Second})
			for ctx.Err() == nil {
				_, _ = f.Next(ctx)
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-started
	cancel()
	wg.Wait()
	client.Close()
	eventually(t, "all goroutines end", func() bool { return goleak.Find(before) == nil })
	if err := client.EnsureTopic(deadline(t), kafkaio.TopicSpec{Name: "x", Partitions: 1, ReplicationFactor: 1}); !errors.Is(err, kafkaio.ErrClosed) {
		t.Errorf("a closed client: %v", err)
	}
}

func TestConfigValidate(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*kafkaio.Config)
		want   string
	}{
		{"default", func(*kafkaio.Config) {}, ""},
		{"no brokers", func(c *kafkaio.Config) { c.Brokers = nil }, "brokers is empty, at least one host:port is needed"},
		{"no port", func(c *kafkaio.Config) { c.Brokers = []string{"kafka"} }, `brokers: "kafka" is not host:port`},
		{"no timeout", func(c *kafkaio.Config) { c.RequestTimeout = 0 }, "request_timeout is 0s, must be above zero"},
		{"backoff", func(c *kafkaio.Config) { c.RetryBackoffMax = 1 }, "retry_backoff_max 1ns is below retry_backoff 20ms"},
		{"tls off with files", func(c *kafkaio.Config) { c.TLS.CAFile = "ca.pem" }, "tls: files are given but enabled is false"},
		{"half a pair", func(c *kafkaio.Config) { c.TLS = kafkaio.TLSConfig{Enabled: true, CertFile: "c"} }, "tls: cert_file and key_file go together"},
		{"sasl name", func(c *kafkaio.Config) { c.SASL.Mechanism = "gssapi" }, `sasl: mechanism is "gssapi", must be plain, scram-sha-256 or scram-sha-512`},
		{"sasl password", func(c *kafkaio.Config) { c.SASL = kafkaio.SASLConfig{Mechanism: "plain", Username: "u"} }, "sasl: mechanism plain needs username and password"},
		{"sasl forgotten", func(c *kafkaio.Config) { c.SASL.Username = "u" }, "sasl: username or password is given but mechanism is empty"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := kafkaio.DefaultConfig()
			tc.change(&cfg)
			got := ""
			if err := cfg.Validate(); err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
