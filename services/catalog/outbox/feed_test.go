package outbox_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/feed"
	"github.com/tollway/tollway/services/platform/embedded"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/testenv"
)

// follow runs a feed until the test ends, and waits until it is ready.
func follow(t *testing.T, client *kafkaio.Client) *feed.Feed {
	t.Helper()
	f, err := feed.New(feed.DefaultConfig(), client, prometheus.NewRegistry(), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f.Run(ctx) // that the context ended
	}()
	t.Cleanup(func() { cancel(); <-done })
	ready, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	if err := f.Wait(ready); err != nil {
		t.Fatal(err)
	}
	return f
}

// eventually polls until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for two minutes: %s", what)
		}
	}
}

// A topic that is made anew while a publisher is running is filled again: when the
// next change comes, and also when none does.
func TestTopicMadeAnew(t *testing.T) {
	for _, change := range []bool{true, false} {
		t.Run(fmt.Sprintf("change=%v", change), func(t *testing.T) { topicMadeAnew(t, change) })
	}
}

func topicMadeAnew(t *testing.T, change bool) {
	port := 0
	begin := func() *embedded.Log {
		return testenv.NewLog(t, func(cfg *embedded.LogConfig) { cfg.Port = port })
	}
	log := begin()
	_, text, err := net.SplitHostPort(log.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if port, err = strconv.Atoi(text); err != nil {
		t.Fatal(err)
	}
	client, producer, err := kafka(t.Context(), log.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	db := testenv.Ledger(t)
	publisher, _ := newPublisher(t, db, producer, client)
	s := newCatalog(t, db, publisher.Wake)
	t.Cleanup(start(t, publisher))
	want := []string{"accounts/acme", "accounts/globex", "accounts/initech"}
	for round := range 3 {
		for _, name := range want {
			account(t, s, name[len("accounts/"):], fmt.Sprint("Round ", round))
		}
	}
	await(t, client, 9)
	settled(t, db)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	again, _, err := kafka(t.Context(), begin().Addr()) // with an empty folder
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	if change {
		account(t, s, "umbrella", "Umbrella")
		want = append(want, "accounts/umbrella")
	}
	eventually(t, "the topic to have the whole catalog", func() bool {
		var names []string
		for _, m := range read(t, again) {
			names = append(names, m.name)
		}
		slices.Sort(names)
		return slices.Equal(slices.Compact(names), want)
	})
}

// TestRealToFeed is the way of changes on Kafka: through compaction, to a feed that
// begins later, and over a topic that is deleted and made again under everyone.
func TestRealToFeed(t *testing.T) {
	if os.Getenv("TOLLWAY_REAL") != "1" {
		t.Skip("takes half a minute: runs with TOLLWAY_REAL=1")
	}
	const accounts = 30
	cluster := testenv.Kafka(t, 1)
	cfg := kafkaio.DefaultConfig()
	cfg.Brokers = cluster.Addrs()
	client, err := kafkaio.Open(cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	makeTopic := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		return client.EnsureTopic(ctx, kafkaio.TopicSpec{Name: topic, Partitions: 1, ReplicationFactor: 1, Config: map[string]string{
			"cleanup.policy": "compact", "delete.retention.ms": "1", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "100",
		}})
	}
	if err := makeTopic(); err != nil {
		t.Fatal(err)
	}
	producer, err := kafkaio.NewProducer(client, kafkaio.DefaultProducerConfig())
	if err != nil {
		t.Fatal(err)
	}
	db := testenv.Ledger(t)
	publisher, _ := newPublisher(t, db, producer, client)
	s := newCatalog(t, db, publisher.Wake)
	t.Cleanup(start(t, publisher))
	running := follow(t, client)

	written := 0
	change := func(id string) {
		written++
		account(t, s, id, fmt.Sprint("Name ", written))
	}
	for range 20 {
		for i := range accounts {
			change(fmt.Sprint("a", i))
		}
	}
	change("gone")
	if _, err := s.DeleteAccount(admin, &catalogv1.DeleteAccountRequest{Name: "accounts/gone"}); err != nil {
		t.Fatal(err)
	}
	written++
	seen := func(f *feed.Feed) func() bool {
		return func() bool {
			return f.Snapshot().Version() == uint64(written) && f.Snapshot().Counts().Accounts == accounts
		}
	}
	eventually(t, "the feed to see every change", seen(running))

	eventually(t, "the log to be compacted", func() bool {
		change("a0") // closes a segment
		time.Sleep(200 * time.Millisecond)
		return len(readSome(t, client)) < written/2
	})
	settled(t, db)
	eventually(t, "a feed that began after compaction", seen(follow(t, client)))

	// Deleted and made again, while nothing changes.
	cluster.DeleteTopic(topic)
	eventually(t, "the topic to be made", func() bool { return makeTopic() == nil })
	eventually(t, "the topic to be filled again", func() bool {
		if n := running.Snapshot().Counts().Accounts; n != accounts {
			t.Fatalf("a feed that was running knows %d accounts", n)
		}
		names := map[string]bool{}
		for _, m := range readSome(t, client) {
			if m.record != nil {
				names[m.name] = true
			}
		}
		return len(names) == accounts
	})
	settled(t, db)
	late := follow(t, client)
	eventually(t, "a feed that began after that", func() bool { return late.Snapshot().Counts().Accounts == accounts })
	change("a1")
	for _, f := range []*feed.Feed{running, late} {
		eventually(t, "a change after that", seen(f))
	}
}

// readSome reads what is in the topic while the cleaner may be at work; an error
// ends it early.
func readSome(t *testing.T, client *kafkaio.Client) []message {
	t.Helper()
	var out []message
	fetcher := kafkaio.NewFetcher(client, topic, 0, kafkaio.FirstOffset, kafkaio.DefaultFetchConfig())
	for {
		quiet, stop := context.WithTimeout(t.Context(), 2*time.Second)
		result, err := fetcher.Next(quiet)
		stop()
		if err != nil {
			return out
		}
		for _, m := range result.Messages {
			out = append(out, decode(t, m))
		}
		if len(result.Messages) == 0 || result.NextOffset >= result.HighWatermark {
			return out
		}
	}
}
