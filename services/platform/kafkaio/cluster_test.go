package kafkaio_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/testenv"
)

// cluster is the log under test: the embedded broker or a real one.
type cluster struct {
	addrs       []string
	replication int
	stop, start func()
	// deleteBefore removes the messages of a partition before an offset; nil where
	// the broker cannot be asked for it from here.
	deleteBefore func(topic string, partition int32, offset int64)
	fake         *kfake.Cluster
}

func fakeCluster(t *testing.T, brokers int) *cluster {
	t.Helper()
	dir := t.TempDir()
	var ports []int
	c := &cluster{replication: 1}
	c.start = func() {
		opts := []kfake.Opt{kfake.NumBrokers(brokers), kfake.DataDir(dir), kfake.SyncWrites(),
			kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"})}
		if ports != nil {
			opts = append(opts, kfake.Ports(ports...))
		}
		var err error
		eventually(t, "start the broker", func() bool {
			c.fake, err = kfake.NewCluster(opts...)
			return err == nil
		})
		ports = ports[:0]
		for _, a := range c.fake.ListenAddrs() {
			_, p, _ := net.SplitHostPort(a)
			n, _ := strconv.Atoi(p)
			ports = append(ports, n)
		}
		c.addrs = c.fake.ListenAddrs()
	}
	c.stop = func() { c.fake.Close() }
	c.deleteBefore = func(topic string, p int32, o int64) {
		if err := c.fake.DeleteRecords(topic, p, o); err != nil {
			t.Fatal(err)
		}
	}
	c.start()
	t.Cleanup(func() { c.fake.Close() })
	return c
}

func realCluster(t *testing.T) *cluster {
	k := testenv.Kafka(t, 1)
	return &cluster{addrs: k.Addrs(), replication: 1, stop: func() { k.Kill(0) }, start: func() { k.Start(0) }}
}

func (c *cluster) open(t *testing.T, opts ...kafkaio.Option) *kafkaio.Client {
	t.Helper()
	cfg := kafkaio.DefaultConfig()
	cfg.Brokers = c.addrs
	client, err := kafkaio.Open(cfg, zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func (c *cluster) topic(t *testing.T, client *kafkaio.Client, partitions int) string {
	t.Helper()
	name := "calls-" + strings.NewReplacer("/", "-", "#", "-").Replace(t.Name())
	err := client.EnsureTopic(deadline(t), kafkaio.TopicSpec{
		Name: name, Partitions: partitions, ReplicationFactor: c.replication,
		Config: map[string]string{"message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func producer(t *testing.T, client *kafkaio.Client) *kafkaio.Producer {
	t.Helper()
	p, err := kafkaio.NewProducer(client, kafkaio.DefaultProducerConfig())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// deadline is a context that ends long before the test binary's own limit.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(60 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("gave up waiting: %s\n%s", what, buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// readUntil fetches from an offset up to the high watermark.
func readUntil(t *testing.T, f *kafkaio.Fetcher, n int) []kafkaio.Fetched {
	t.Helper()
	ctx := deadline(t)
	var out []kafkaio.Fetched
	for len(out) < n {
		res, err := f.Next(ctx)
		if err != nil {
			t.Fatalf("after %d of %d messages: %v", len(out), n, err)
		}
		out = append(out, res.Messages...)
	}
	return out
}

func isFenced(err error) bool { return errors.Is(err, kafkaio.ErrFenced) }
