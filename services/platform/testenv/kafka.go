package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
)

// kafkaHome is what deploy/real/kafka/fetch.sh makes in the cache folder.
const kafkaHome = "kafka-4.1.0"

// KafkaCluster is a cluster of real Kafka brokers that lives as long as a test.
type KafkaCluster struct {
	t       testing.TB
	script  string
	ports   string // of all nodes, as broker.sh wants them
	brokers []*kafkaBroker
}

type kafkaBroker struct {
	node    int
	addr    string
	folder  string
	process *process // the latest one; nil before the first start
}

// Kafka starts one or three real brokers on loopback and waits until all of
// them know each other. With three, topics get replication 3 and
// min.insync.replicas 2 unless they ask for something else; no topic is made
// by itself. Where no Kafka was fetched the test is skipped, or fails when
// TOLLWAY_REAL=1.
func Kafka(t testing.TB, brokers int) *KafkaCluster {
	t.Helper()
	if brokers != 1 && brokers != 3 {
		t.Fatalf("start Kafka: %d brokers asked for, only 1 or 3 make sense", brokers)
	}
	needPart(t, "Kafka", filepath.Join(kafkaHome, "stamp"))
	if _, err := exec.LookPath("java"); err != nil {
		t.Fatalf("start Kafka: java is missing: install a Java runtime 17 or newer")
	}
	c := &KafkaCluster{t: t, script: repoFile(t, "deploy/real/kafka/broker.sh")}
	ports := loopbackPorts(t, 2*brokers)
	var pairs []string
	base := t.TempDir()
	for i := range brokers {
		pairs = append(pairs, fmt.Sprintf("%d:%d", ports[2*i], ports[2*i+1]))
		c.brokers = append(c.brokers, &kafkaBroker{
			node:   i + 1,
			addr:   fmt.Sprintf("127.0.0.1:%d", ports[2*i]),
			folder: filepath.Join(base, strconv.Itoa(i+1)),
		})
	}
	c.ports = strings.Join(pairs, ",")
	t.Cleanup(c.cleanup)
	// All at once: the first one alone would wait for a majority.
	for _, b := range c.brokers {
		c.launch(b)
	}
	for _, b := range c.brokers {
		c.awaitReady(b)
	}
	return c
}

// Addrs are the addresses of all brokers, running or not.
func (c *KafkaCluster) Addrs() []string {
	addrs := make([]string, 0, len(c.brokers))
	for _, b := range c.brokers {
		addrs = append(addrs, b.addr)
	}
	return addrs
}

// PID is the process id of broker i, for tests that stop it by SIGSTOP or read
// what it used.
func (c *KafkaCluster) PID(i int) int { return c.brokers[i].process.cmd.Process.Pid }

// DeleteTopic deletes a topic and waits until it is gone.
func (c *KafkaCluster) DeleteTopic(topic string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := &kafka.Client{Addr: kafka.TCP(c.Addrs()...), Timeout: 30 * time.Second}
	answer, err := client.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{topic}})
	if err == nil {
		err = answer.Errors[topic]
	}
	if err != nil {
		c.t.Fatalf("delete topic %s: %v", topic, err)
	}
	for {
		answer, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{topic}})
		switch {
		case err == nil && errors.Is(answer.Topics[0].Error, kafka.UnknownTopicOrPartition):
			return
		case ctx.Err() != nil:
			c.t.Fatalf("topic %s was deleted and is still there: %v", topic, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Kill ends broker i at once, as a crash does (SIGKILL).
func (c *KafkaCluster) Kill(i int) {
	c.t.Helper()
	_ = c.brokers[i].process.signal(syscall.SIGKILL, 10*time.Second)
}

// Stop ends broker i in order: it hands over what it leads first.
func (c *KafkaCluster) Stop(i int) {
	c.t.Helper()
	if err := c.brokers[i].process.signal(syscall.SIGTERM, 30*time.Second); err != nil {
		c.t.Errorf("stop Kafka: %v", err)
	}
}

// Start starts broker i again, on its data and its address, and waits until
// the cluster knows it.
func (c *KafkaCluster) Start(i int) {
	c.t.Helper()
	b := c.brokers[i]
	if b.process.running() {
		c.t.Fatalf("start Kafka: broker %d is running", b.node)
	}
	c.launch(b)
	c.awaitReady(b)
}

func (c *KafkaCluster) launch(b *kafkaBroker) {
	c.t.Helper()
	cmd := exec.Command("bash", c.script, b.folder, strconv.Itoa(b.node), c.ports)
	// The quick compiler alone halves the time a broker needs to start, which is
	// most of what a test uses it for.
	cmd.Env = append(os.Environ(), "KAFKA_OPTS=-Xms64m -Xmx320m -XX:+UseSerialGC -XX:TieredStopAtLevel=1")
	var err error
	b.process, err = startProcess("Kafka broker "+strconv.Itoa(b.node), b.folder+".log", cmd)
	if err != nil {
		c.t.Fatalf("start Kafka: %v", err)
	}
}

func (c *KafkaCluster) awaitReady(b *kafkaBroker) {
	c.t.Helper()
	err := b.process.waitFor(90*time.Second, func() error { return c.knowsRunning(b) })
	if err != nil {
		c.t.Fatalf("start Kafka: %v", err)
	}
}

// knowsRunning asks broker b whether it sees every broker that runs.
func (c *KafkaCluster) knowsRunning(b *kafkaBroker) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn, err := kafka.DialContext(ctx, "tcp", b.addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	seen, err := conn.Brokers()
	if err != nil {
		return err
	}
	known := map[int]bool{}
	for _, s := range seen {
		known[s.ID] = true
	}
	for _, other := range c.brokers {
		if other.process.running() && !known[other.node] {
			return fmt.Errorf("broker %d does not see broker %d yet", b.node, other.node)
		}
	}
	return nil
}

// cleanup kills rather than stops: the data goes with the test.
func (c *KafkaCluster) cleanup() {
	for _, b := range c.brokers {
		if b.process == nil {
			continue
		}
		_ = b.process.signal(syscall.SIGKILL, 10*time.Second)
		if c.t.Failed() {
			b.process.showLog(c.t)
		}
	}
}
