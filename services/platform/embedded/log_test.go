package embedded_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"go.uber.org/goleak"

	"github.com/tollway/tollway/services/platform/embedded"
	"github.com/tollway/tollway/services/platform/testenv"
)

func parentOfLog(dir string) {
	cfg := embedded.DefaultLogConfig()
	cfg.DataDir, cfg.Open = dir, true
	log, err := embedded.StartLog(context.Background(), cfg)
	if err != nil {
		announce(announcement{Err: err.Error()})
	}
	announce(announcement{Pid: os.Getpid(), Addr: log.Addr()})
}

func dialLog(t testing.TB, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner())}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func createTopic(t testing.TB, client *kgo.Client, topic string, partitions int32, config map[string]string) {
	t.Helper()
	request := kmsg.NewPtrCreateTopicsRequest()
	wanted := kmsg.NewCreateTopicsRequestTopic()
	wanted.Topic, wanted.NumPartitions, wanted.ReplicationFactor = topic, partitions, 1
	for name, value := range config {
		entry := kmsg.NewCreateTopicsRequestTopicConfig()
		entry.Name, entry.Value = name, &value
		wanted.Configs = append(wanted.Configs, entry)
	}
	request.Topics = append(request.Topics, wanted)
	response, err := request.RequestWith(t.Context(), client)
	if err != nil || response.Topics[0].ErrorCode != 0 {
		t.Fatalf("create topic: %v %v", err, response)
	}
}

// bounds are the first and the next offset of a partition.
func bounds(t testing.TB, client *kgo.Client, topic string, partition int32) (first, next int64) {
	t.Helper()
	for timestamp, offset := range map[int64]*int64{-2: &first, -1: &next} {
		request := kmsg.NewPtrListOffsetsRequest()
		wanted := kmsg.NewListOffsetsRequestTopic()
		wanted.Topic = topic
		part := kmsg.NewListOffsetsRequestTopicPartition()
		part.Partition, part.Timestamp = partition, timestamp
		wanted.Partitions = append(wanted.Partitions, part)
		request.Topics = append(request.Topics, wanted)
		response, err := request.RequestWith(t.Context(), client)
		if err != nil || response.Topics[0].Partitions[0].ErrorCode != 0 {
			t.Fatalf("list offsets: %v %v", err, response)
		}
		*offset = response.Topics[0].Partitions[0].Offset
	}
	return first, next
}

// readAll returns the keys of a topic's records, in order per partition.
func readAll(t testing.TB, addr, topic string, partitions int32) map[string]int {
	t.Helper()
	plain := dialLog(t, addr)
	left, starts := map[int32]int64{}, map[int32]kgo.Offset{}
	for p := range partitions {
		first, next := bounds(t, plain, topic, p)
		if next > first {
			left[p], starts[p] = next, kgo.NewOffset().At(first)
		}
	}
	keys := map[string]int{}
	if len(left) == 0 {
		return keys
	}
	client := dialLog(t, addr, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: starts}))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("read %s: %v, missing up to %v", topic, err, left)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			keys[string(r.Key)]++
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return keys
}

func TestAcknowledgedRecordsSurviveAKill(t *testing.T) {
	const topic, partitions = "calls", 3
	dir := t.TempDir()
	acknowledged := map[string]bool{}
	var lastAddr string
	for round := range 3 {
		cmd, parent := startParent(t, "log", dir)
		if round > 0 && parent.Addr != lastAddr {
			t.Errorf("address is %s, want that of the last run, %s", parent.Addr, lastAddr)
		}
		lastAddr = parent.Addr
		client := dialLog(t, parent.Addr, kgo.RecordDeliveryTimeout(2*time.Second), kgo.ProducerLinger(0))
		if round == 0 {
			createTopic(t, client, topic, partitions, nil)
		}
		acks := make(chan string, 100_000)
		for i := range 20_000 {
			record := &kgo.Record{Topic: topic, Partition: int32(i % partitions), Key: fmt.Appendf(nil, "%d/%d", round, i), Value: make([]byte, 200)}
			client.Produce(t.Context(), record, func(r *kgo.Record, err error) {
				if err == nil {
					acks <- string(r.Key)
				}
			})
		}
		// Killed in the middle: some are answered and many are on their way.
		for range 2000 {
			acknowledged[<-acks] = true
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		client.Close()
		for len(acks) > 0 {
			acknowledged[<-acks] = true
		}
	}
	log := testenv.NewLog(t, func(c *embedded.LogConfig) { c.DataDir = dir })
	stored := readAll(t, log.Addr(), topic, partitions)
	missing := 0
	for key := range acknowledged {
		if stored[key] != 1 {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d acknowledged records are not stored exactly once", missing, len(acknowledged))
	}
	t.Logf("%d acknowledged, %d stored", len(acknowledged), len(stored))
}

func TestLogKeepsItsPortAndStopsCleanly(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	cfg := embedded.DefaultLogConfig()
	cfg.DataDir = t.TempDir()
	log, err := embedded.StartLog(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.StartLog(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "is in use by another Tollway") {
		t.Errorf("second instance: error is %v", err)
	}
	for range 2 {
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	again, err := embedded.StartLog(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if again.Addr() != log.Addr() {
		t.Errorf("address is %s, want %s again", again.Addr(), log.Addr())
	}
	cancel()
	<-again.Done()
}

// Processes believe the hashes of tokens that they find in the log, so nobody on
// the machine may write to it but who can read the data folder. A folder of a log
// that let everyone in is taken over.
func TestLogAsksForItsPassword(t *testing.T) {
	cfg := embedded.DefaultLogConfig()
	cfg.DataDir, cfg.Open = t.TempDir(), true
	open, err := embedded.StartLog(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	try := func(addr string, mechanism sasl.Mechanism) error {
		opts := []kgo.Opt{kgo.RequestRetries(0), kgo.RetryTimeout(5 * time.Second)}
		if mechanism != nil {
			opts = append(opts, kgo.SASL(mechanism))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		_, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, dialLog(t, addr, opts...))
		return err
	}
	if err := try(open.Addr(), nil); err != nil {
		t.Fatal(err)
	}
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Open = false
	password := ""
	for range 2 {
		log, err := embedded.StartLog(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if password != "" && log.Password() != password {
			t.Error("the password of a data folder changed with a restart")
		}
		password = log.Password()
		if err := try(log.Addr(), scram.Auth{User: embedded.LogUser, Pass: password}.AsSha256Mechanism()); err != nil {
			t.Errorf("with the password: %v", err)
		}
		for name, mechanism := range map[string]sasl.Mechanism{
			"nothing":                          nil,
			"a wrong password":                 scram.Auth{User: embedded.LogUser, Pass: "wrong"}.AsSha256Mechanism(),
			"the broker's default":             scram.Auth{User: "admin", Pass: "admin"}.AsSha256Mechanism(),
			"an unknown user with no password": plain.Auth{User: "nobody", Pass: ""}.AsMechanism(),
			"the password, told in the clear":  plain.Auth{User: embedded.LogUser, Pass: password}.AsMechanism(),
			"a hash that was not asked for":    scram.Auth{User: embedded.LogUser, Pass: password}.AsSha512Mechanism(),
		} {
			if err := try(log.Addr(), mechanism); err == nil {
				t.Errorf("let in with %s", name)
			}
		}
		if info, err := os.Stat(filepath.Join(cfg.DataDir, "log.json")); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file with the password: %v %v", info, err)
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTopicsAreNotMadeUnasked(t *testing.T) {
	for _, auto := range []bool{false, true} {
		log := testenv.NewLog(t, func(c *embedded.LogConfig) { c.AutoCreateTopics = auto })
		client := dialLog(t, log.Addr(), kgo.AllowAutoTopicCreation(), kgo.UnknownTopicRetries(0))
		err := client.ProduceSync(t.Context(), &kgo.Record{Topic: "nobody-asked", Value: []byte("x")}).FirstErr()
		if auto != (err == nil) {
			t.Errorf("auto_create_topics %v: producing to a missing topic gave %v", auto, err)
		}
	}
}

func TestLogAppliesRetention(t *testing.T) {
	log := testenv.NewLog(t, func(c *embedded.LogConfig) {
		c.RetentionBytes, c.SegmentBytes, c.CleanInterval = 2<<20, 1<<20, 20*time.Millisecond
	})
	client := dialLog(t, log.Addr())
	createTopic(t, client, "short", 1, nil)
	createTopic(t, client, "long", 1, map[string]string{"retention.bytes": "-1"})
	for _, topic := range []string{"short", "long"} {
		for range 64 {
			record := &kgo.Record{Topic: topic, Value: make([]byte, 200<<10)}
			if _, err := rand.Read(record.Value); err != nil {
				t.Fatal(err)
			}
			if err := client.ProduceSync(t.Context(), record).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "old records of the bounded topic are dropped", func() bool {
		first, next := bounds(t, client, "short", 0)
		return next == 64 && first >= 50 && first < 64
	})
	if first, next := bounds(t, client, "long", 0); first != 0 || next != 64 {
		t.Errorf("the topic with its own retention holds [%d,%d), want [0,64)", first, next)
	}
}

func TestLogConfigNamesTheWrongField(t *testing.T) {
	for want, change := range map[string]func(*embedded.LogConfig){
		"data_dir":          func(c *embedded.LogConfig) { c.DataDir = "" },
		"port":              func(c *embedded.LogConfig) { c.Port = -1 },
		"partitions":        func(c *embedded.LogConfig) { c.Partitions = 0 },
		"retention":         func(c *embedded.LogConfig) { c.Retention = time.Second },
		"retention_bytes":   func(c *embedded.LogConfig) { c.RetentionBytes = -1 },
		"segment_bytes":     func(c *embedded.LogConfig) { c.SegmentBytes = 1 },
		"max_message_bytes": func(c *embedded.LogConfig) { c.MaxMessageBytes = 1 },
		"clean_interval":    func(c *embedded.LogConfig) { c.CleanInterval = 0 },
	} {
		cfg := embedded.DefaultLogConfig()
		cfg.DataDir = "somewhere"
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v", want, err)
		}
	}
}
