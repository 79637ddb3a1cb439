package kafkaio_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tollway/tollway/services/platform/kafkaio"
)

func groupConfig(id string, topics ...string) kafkaio.GroupConfig {
	cfg := kafkaio.DefaultGroupConfig()
	cfg.GroupID, cfg.Topics = id, topics
	cfg.HeartbeatInterval = 100 * time.Millisecond
	cfg.SessionTimeout = 30 * time.Second
	return cfg
}

// member runs one group member in the background and shows its generations.
type member struct {
	stop        func()
	generations chan kafkaio.Generation

	mu    sync.Mutex
	ended []error
}

func join(t *testing.T, client *kafkaio.Client, cfg kafkaio.GroupConfig) *member {
	t.Helper()
	g, err := client.JoinGroup(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{generations: make(chan kafkaio.Generation, 100)}
	var wg sync.WaitGroup
	wg.Go(func() {
		err := g.Run(ctx, func(ctx context.Context, gen kafkaio.Generation) {
			m.generations <- gen
			<-ctx.Done()
			m.mu.Lock()
			defer m.mu.Unlock()
			m.ended = append(m.ended, context.Cause(ctx))
		})
		if err != nil {
			t.Error(err)
		}
	})
	m.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(m.stop)
	return m
}

func (m *member) next(t *testing.T) kafkaio.Generation {
	t.Helper()
	select {
	case gen := <-m.generations:
		return gen
	case <-time.After(60 * time.Second):
		t.Fatal("no generation came")
		return kafkaio.Generation{}
	}
}

// until waits for a generation that gave this member n partitions.
func (m *member) until(t *testing.T, topic string, n int) kafkaio.Generation {
	t.Helper()
	for {
		if gen := m.next(t); len(gen.Assignments[topic]) == n {
			return gen
		}
	}
}

func testOffsets(t *testing.T, c *cluster) {
	client := c.open(t)
	topic := c.topic(t, client, 3)
	ctx := deadline(t)
	id := "g-" + topic
	got, err := client.FetchOffsets(ctx, id, topic, []int32{0, 1, 2})
	if err != nil || len(got) != 3 || got[0] != (kafkaio.Committed{Offset: -1}) {
		t.Fatalf("before the first commit: %v, %v", got, err)
	}
	m := join(t, client, groupConfig(id, topic))
	gen := m.until(t, topic, 3)
	want := kafkaio.Committed{Offset: 42, Metadata: "v1|42|99|0|1000|deadbeef"}
	if err := client.CommitOffset(ctx, id, gen.ID, gen.MemberID, topic, 1, want.Offset, want.Metadata); err != nil {
		t.Fatal(err)
	}
	got, err = client.FetchOffsets(ctx, id, topic, []int32{0, 1})
	if err != nil || got[1] != want || got[0].Offset != -1 {
		t.Errorf("got %v, %v", got, err)
	}
	if err := client.CommitOffset(ctx, id, gen.ID, gen.MemberID, topic, 1, 43, ""); err != nil {
		t.Fatal(err)
	}
	got, err = client.FetchOffsets(ctx, id, topic, []int32{1})
	if err != nil || got[1] != (kafkaio.Committed{Offset: 43}) {
		t.Errorf("metadata must be replaced with the offset: %v, %v", got, err)
	}
}

func testFencing(t *testing.T, c *cluster) {
	client := c.open(t)
	topic := c.topic(t, client, 2)
	ctx := deadline(t)
	id := "g-" + topic
	m := join(t, client, groupConfig(id, topic))
	gen := m.until(t, topic, 2)
	commit := func(generation int32, member string, offset int64) error {
		return client.CommitOffset(ctx, id, generation, member, topic, 0, offset, "")
	}
	if err := commit(gen.ID, gen.MemberID, 1); err != nil {
		t.Fatal(err)
	}
	if err := commit(gen.ID-1, gen.MemberID, 2); !isFenced(err) {
		t.Errorf("an older generation: %v", err)
	}
	if err := commit(gen.ID, "somebody-else", 3); !isFenced(err) {
		t.Errorf("an unknown member: %v", err)
	}
	m.stop()
	m2 := join(t, client, groupConfig(id, topic))
	m2.until(t, topic, 2)
	if err := commit(gen.ID, gen.MemberID, 4); !isFenced(err) {
		t.Errorf("the member that left: %v", err)
	}
	got, err := client.FetchOffsets(ctx, id, topic, []int32{0})
	if err != nil || got[0].Offset != 1 {
		t.Errorf("a refused commit was stored: %v, %v", got, err)
	}
}

func testRebalance(t *testing.T, c *cluster) {
	first, second := c.open(t), c.open(t)
	topic := c.topic(t, first, 4)
	id := "g-" + topic
	a := join(t, first, groupConfig(id, topic))
	alone := a.until(t, topic, 4)

	b := join(t, second, groupConfig(id, topic))
	genA, genB := a.until(t, topic, 2), b.until(t, topic, 2)
	if genA.ID != genB.ID || genA.ID <= alone.ID {
		t.Errorf("generations %d and %d after %d", genA.ID, genB.ID, alone.ID)
	}
	owners := map[int32]string{}
	for _, gen := range []kafkaio.Generation{genA, genB} {
		for _, p := range gen.Assignments[topic] {
			if who, ok := owners[p.Partition]; ok {
				t.Errorf("partition %d is owned by %s and %s", p.Partition, who, gen.MemberID)
			}
			owners[p.Partition] = gen.MemberID
		}
	}
	if len(owners) != 4 {
		t.Errorf("owners %v", owners)
	}
	start := time.Now()
	b.stop()
	a.until(t, topic, 4)
	if d := time.Since(start); d > 25*time.Second {
		t.Errorf("it took %s: the member did not leave, it timed out", d)
	}
	a.stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.ended); n < 3 || !errors.Is(a.ended[0], kafkaio.ErrGenerationEnded) || !errors.Is(a.ended[n-1], context.Canceled) {
		t.Errorf("generations ended with %v", a.ended)
	}
}

// A commit is still taken while the group waits for its members to come back: a
// callback can finish what it began.
func TestCommitDuringRebalance(t *testing.T) {
	c := fakeCluster(t, 1)
	client := c.open(t)
	topic := c.topic(t, client, 2)
	id := "g-" + topic
	g, err := client.JoinGroup(groupConfig(id, topic))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(deadline(t))
	begun := make(chan int32, 10)
	commits := make(chan error, 10)
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = g.Run(ctx, func(genCtx context.Context, gen kafkaio.Generation) {
			begun <- gen.ID
			<-genCtx.Done()
			commits <- client.CommitOffset(context.WithoutCancel(genCtx), id, gen.ID, gen.MemberID, topic, 0, int64(gen.ID), "")
		})
	})
	<-begun
	other := join(t, client, groupConfig(id, topic))
	other.until(t, topic, 1)
	<-begun
	if err := <-commits; err != nil {
		t.Errorf("commit while the rebalance begins: %v", err)
	}
	cancel()
	wg.Wait()
	if err := <-commits; err != nil {
		t.Errorf("commit while stopping: %v", err)
	}
}

func TestCallbackGivesUp(t *testing.T) {
	c := fakeCluster(t, 1)
	client := c.open(t)
	topic := c.topic(t, client, 1)
	g, err := client.JoinGroup(groupConfig("quitter", topic))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(deadline(t))
	var ids []int32
	err = g.Run(ctx, func(_ context.Context, gen kafkaio.Generation) {
		if ids = append(ids, gen.ID); len(ids) == 3 {
			cancel()
		}
	})
	if err != nil || len(ids) != 3 || ids[2] <= ids[0] {
		t.Errorf("generations %v, %v", ids, err)
	}
}

func TestGroupSurvivesBroker(t *testing.T) {
	c := fakeCluster(t, 1)
	client := c.open(t)
	topic := c.topic(t, client, 2)
	m := join(t, client, groupConfig("survivor", topic))
	m.until(t, topic, 2)
	c.stop()
	c.start()
	gen := m.until(t, topic, 2)
	if err := client.CommitOffset(deadline(t), "survivor", gen.ID, gen.MemberID, topic, 0, 7, "x"); err != nil {
		t.Error(err)
	}
}

func TestStopBeforeBrokerIsThere(t *testing.T) {
	c := fakeCluster(t, 1)
	client := c.open(t)
	c.stop()
	defer c.start()
	g, err := client.JoinGroup(groupConfig("early", "t"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := g.Run(ctx, func(context.Context, kafkaio.Generation) { t.Error("joined without a broker") }); err != nil {
		t.Errorf("a stop is not an error: %v", err)
	}
}

func TestGroupConfigValidate(t *testing.T) {
	cfg := kafkaio.DefaultGroupConfig()
	cfg.HeartbeatInterval = 9 * time.Second
	want := "group_id is empty\ntopics is empty\nheartbeat_interval 9s must be above zero and at most a third of session_timeout 10s"
	if got := fmt.Sprint(cfg.Validate()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
