package kafkaio_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/testenv"
)

// One of three brokers dies under load: every call still ends well, everything
// acknowledged is there, and the pause is logged.
func TestRealBrokerKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three real brokers")
	}
	k := testenv.Kafka(t, 3)
	c := &cluster{addrs: k.Addrs(), replication: 3}
	client := c.open(t)
	topic := c.topic(t, client, 6)
	p := producer(t, client)
	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
	defer cancel()
	var stop atomic.Bool
	var acked [6]int
	var pause [6]time.Duration
	var wg sync.WaitGroup
	for partition := range 6 {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				start := time.Now()
				if err := p.Produce(ctx, topic, partition, []kafkaio.Message{{Value: fmt.Appendf(nil, "%d", i)}}); err != nil {
					t.Errorf("partition %d: %v", partition, err)
					return
				}
				pause[partition] = max(pause[partition], time.Since(start))
				acked[partition] = i + 1
			}
		})
	}
	fetchers := make([]*kafkaio.Fetcher, 6)
	for i := range fetchers {
		fetchers[i] = kafkaio.NewFetcher(client, topic, int32(i), 0, kafkaio.FetchConfig{})
		readUntil(t, fetchers[i], 50)
	}
	k.Kill(0)
	killed := time.Now()
	for _, f := range fetchers {
		readUntil(t, f, 200)
	}
	t.Logf("all partitions were read on %s after the kill", time.Since(killed).Round(time.Millisecond))
	stop.Store(true)
	wg.Wait()
	t.Logf("longest call of each partition: %v", pause)
	ranges, err := client.Offsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	for partition, n := range acked {
		seen := map[string]bool{}
		last := int(ranges[int32(partition)].Last)
		for _, m := range readUntil(t, kafkaio.NewFetcher(client, topic, int32(partition), 0, kafkaio.FetchConfig{}), last) {
			seen[string(m.Value)] = true
		}
		for i := range n {
			if !seen[fmt.Sprint(i)] {
				t.Errorf("partition %d lost acknowledged message %d", partition, i)
			}
		}
		t.Logf("partition %d: %d acknowledged, %d stored", partition, n, last)
	}
}

func BenchmarkProduce(b *testing.B) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "bench"))
	if err != nil {
		b.Fatal(err)
	}
	defer fake.Close()
	cfg := kafkaio.DefaultConfig()
	cfg.Brokers = fake.ListenAddrs()
	client, err := kafkaio.Open(cfg, zerolog.Nop())
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	p, err := kafkaio.NewProducer(client, kafkaio.DefaultProducerConfig())
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{500, 200_000} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			value := make([]byte, size)
			for i := range value {
				value[i] = byte(i * i >> 4)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Produce(context.Background(), "bench", 0, []kafkaio.Message{{Value: value}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
