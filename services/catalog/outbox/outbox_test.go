package outbox_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog"
	"github.com/tollway/tollway/services/catalog/feed"
	"github.com/tollway/tollway/services/catalog/outbox"
	"github.com/tollway/tollway/services/platform/auth"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
	"github.com/tollway/tollway/sql"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == childArg {
		child(os.Args[2:])
	}
	testenv.Main(m)
}

const topic = feed.Topic

var admin = auth.WithPrincipal(context.Background(), auth.Principal{Name: "tokens/admin", Role: auth.Admin})

// kafka connects to a log and makes the topic.
func kafka(ctx context.Context, address string) (*kafkaio.Client, *kafkaio.Producer, error) {
	cfg := kafkaio.DefaultConfig()
	cfg.Brokers = []string{address}
	client, err := kafkaio.Open(cfg, zerolog.Nop())
	if err != nil {
		return nil, nil, err
	}
	if err := client.EnsureTopic(ctx, kafkaio.TopicSpec{Name: topic, Partitions: 1, ReplicationFactor: 1, Config: map[string]string{"cleanup.policy": "compact"}}); err != nil {
		return nil, nil, err
	}
	producer, err := kafkaio.NewProducer(client, kafkaio.DefaultProducerConfig())
	return client, producer, err
}

func openKafka(t *testing.T) (*kafkaio.Client, *kafkaio.Producer) {
	t.Helper()
	client, producer, err := kafka(t.Context(), testenv.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client, producer
}

func newCatalog(t *testing.T, db *ledger.DB, changed func()) *catalog.Service {
	t.Helper()
	cfg := catalog.DefaultConfig()
	cfg.HashKeyFile = filepath.Join(t.TempDir(), "hash.key")
	s, err := catalog.New(cfg, catalog.Deps{Ledger: db, Changed: changed, Log: zerolog.Nop(), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func newPublisher(t *testing.T, db *ledger.DB, p outbox.Producer, topics outbox.Topics) (*outbox.Publisher, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	publisher, err := outbox.New(outbox.DefaultConfig(), outbox.Deps{Ledger: db, Producer: p, Topics: topics, Log: zerolog.Nop(), Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	return publisher, registry
}

// start runs a publisher until the function that it returns is called.
func start(t *testing.T, p *outbox.Publisher) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func account(t *testing.T, s *catalog.Service, id, name string) *catalogv1.Account {
	t.Helper()
	a, err := s.UpdateAccount(admin, &catalogv1.UpdateAccountRequest{Account: &catalogv1.Account{Name: "accounts/" + id, DisplayName: name}, AllowMissing: true})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// message is one of the topic, decoded.
type message struct {
	name     string
	sequence int64
	record   *catalogv1.Record // nil for a deletion
}

// read returns what is in the topic.
func read(t *testing.T, client *kafkaio.Client) []message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	offsets, err := client.Offsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	var out []message
	fetcher := kafkaio.NewFetcher(client, topic, 0, kafkaio.FirstOffset, kafkaio.DefaultFetchConfig())
	for fetcher.Offset() < offsets[0].Last {
		result, err := fetcher.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range result.Messages {
			out = append(out, decode(t, m))
		}
	}
	return out
}

func decode(t *testing.T, m kafkaio.Fetched) message {
	t.Helper()
	d := message{name: string(m.Key)}
	for _, h := range m.Headers {
		if h.Key == feed.SequenceHeader {
			d.sequence, _ = strconv.ParseInt(string(h.Value), 10, 64)
		}
	}
	if m.Value == nil {
		return d
	}
	d.record = &catalogv1.Record{}
	if err := proto.Unmarshal(m.Value, d.record); err != nil {
		t.Fatal(err)
	}
	if d.record.GetSequence() != d.sequence {
		t.Errorf("the header says %d and the record %d", d.sequence, d.record.GetSequence())
	}
	return d
}

// await reads until the topic has so many messages.
func await(t *testing.T, client *kafkaio.Client, n int) []message {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		all := read(t, client)
		if len(all) >= n || time.Now().After(deadline) {
			if len(all) != n {
				t.Fatalf("%d messages, want %d: %v", len(all), n, all)
			}
			return all
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestRealPublish(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		client, producer := openKafka(t)
		publisher, registry := newPublisher(t, db, producer, client)
		s := newCatalog(t, db, publisher.Wake)
		stop := start(t, publisher)
		account(t, s, "acme", "Acme")
		changed := account(t, s, "acme", "Acme Corp")
		account(t, s, "globex", "Globex")
		if _, err := s.DeleteAccount(admin, &catalogv1.DeleteAccountRequest{Name: "accounts/acme"}); err != nil {
			t.Fatal(err)
		}
		all := await(t, client, 4)
		stop()
		var names []string
		for i, m := range all {
			names = append(names, m.name)
			if i > 0 && m.sequence <= all[i-1].sequence {
				t.Errorf("sequence %d comes after %d", m.sequence, all[i-1].sequence)
			}
		}
		if !slices.Equal(names, []string{"accounts/acme", "accounts/acme", "accounts/globex", "accounts/acme"}) {
			t.Errorf("order %v", names)
		}
		if got := all[1].record.GetResource().GetAccount(); !proto.Equal(got, changed) {
			t.Errorf("published %v, want %v", got, changed)
		}
		if all[3].record != nil {
			t.Errorf("deleted, but %v", all[3].record)
		}
		if n, err := testutil.GatherAndCount(registry, "tollway_outbox_published_versions_total"); n != 1 || err != nil {
			t.Errorf("metric: %d %v", n, err)
		}
	})
}

// Of transactions at the same time the one with the lower sequence may be the
// last to commit: it is published all the same, and versions of one resource stay
// in order.
func TestRealManyWriters(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		client, producer := openKafka(t)
		publisher, _ := newPublisher(t, db, producer, client)
		s := newCatalog(t, db, publisher.Wake)
		stop := start(t, publisher)
		const writers, changes = 6, 15
		var group sync.WaitGroup
		for w := range writers {
			group.Go(func() {
				for i := range changes {
					_, err := s.UpdateAccount(admin, &catalogv1.UpdateAccountRequest{
						Account: &catalogv1.Account{Name: fmt.Sprint("accounts/w", w), DisplayName: fmt.Sprint(i)}, AllowMissing: true,
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		all := await(t, client, writers*changes)
		stop()
		next, last := map[string]int{}, map[string]int64{}
		for _, m := range all {
			if got := m.record.GetResource().GetAccount().GetDisplayName(); got != fmt.Sprint(next[m.name]) || m.sequence <= last[m.name] {
				t.Errorf("%s: version %q with sequence %d after %d", m.name, got, m.sequence, last[m.name])
			}
			next[m.name]++
			last[m.name] = m.sequence
		}
	})
}

// A second process takes over when the first one ends, and not before.
func TestRealOnePublishes(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		client, producer := openKafka(t)
		first, _ := newPublisher(t, db, producer, client)
		second, _ := newPublisher(t, db, producer, client)
		s := newCatalog(t, db, nil)
		stopFirst, stopSecond := start(t, first), start(t, second)
		for i := range 20 {
			account(t, s, fmt.Sprint("a", i), "A")
		}
		await(t, client, 20)
		settled(t, db) // what is not marked yet would come again
		stopFirst()
		for i := range 20 {
			account(t, s, fmt.Sprint("b", i), "B")
		}
		await(t, client, 40)
		stopSecond()
		await(t, client, 40)
	})
}

// faulty stores messages, or not, and says that it did not.
type faulty struct {
	outbox.Producer
	fail  atomic.Int32 // how many calls are still to fail
	store bool
}

func (f *faulty) Produce(ctx context.Context, topic string, partition int, msgs []kafkaio.Message) error {
	if f.fail.Add(-1) < 0 {
		return f.Producer.Produce(ctx, topic, partition, msgs)
	}
	if f.store {
		if err := f.Producer.Produce(ctx, topic, partition, msgs); err != nil {
			return err
		}
	}
	return errors.New("the answer was lost")
}

func TestProduceErrors(t *testing.T) {
	for _, stored := range []bool{false, true} {
		t.Run(fmt.Sprint("stored=", stored), func(t *testing.T) {
			db := testenv.Ledger(t)
			client, producer := openKafka(t)
			f := &faulty{Producer: producer, store: stored}
			publisher, registry := newPublisher(t, db, f, client)
			s := newCatalog(t, db, publisher.Wake)
			account(t, s, "acme", "Acme")
			account(t, s, "globex", "Globex")
			f.fail.Store(1)
			stop := start(t, publisher)
			want := 2
			if stored {
				want = 4
			}
			all := await(t, client, want)
			stop()
			// Whoever follows the sequence has each version once.
			last := map[string]int64{}
			versions := 0
			for _, m := range all {
				if m.sequence > last[m.name] {
					last[m.name] = m.sequence
					versions++
				}
			}
			if versions != 2 {
				t.Errorf("%d versions in %v", versions, all)
			}
			if err := testutil.GatherAndCompare(registry, strings.NewReader("# HELP tollway_outbox_failures_total Attempts to publish that did not succeed.\n# TYPE tollway_outbox_failures_total counter\ntollway_outbox_failures_total 1\n"), "tollway_outbox_failures_total"); err != nil {
				t.Error(err)
			}
		})
	}
}

// settled waits until everything in the outbox is marked as published.
func settled(t *testing.T, db *ledger.DB) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for waiting := 1; waiting > 0; time.Sleep(10 * time.Millisecond) {
		err := db.Read(t.Context(), func(tx *ledger.Tx) error {
			return tx.QueryRow(t.Context(), `SELECT count(*) FROM outbox WHERE published_at IS NULL`).Scan(&waiting)
		})
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%d versions are waiting, %v", waiting, err)
		}
	}
}

// A topic that was lost, or put back, is filled again from the ledger.
func TestRealTopicLost(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		client, producer := openKafka(t)
		publisher, _ := newPublisher(t, db, producer, client)
		s := newCatalog(t, db, publisher.Wake)
		stop := start(t, publisher)
		account(t, s, "acme", "Acme")
		account(t, s, "acme", "Acme Corp")
		account(t, s, "gone", "Gone")
		if _, err := s.DeleteAccount(admin, &catalogv1.DeleteAccountRequest{Name: "accounts/gone"}); err != nil {
			t.Fatal(err)
		}
		before := await(t, client, 4)
		settled(t, db)
		stop()

		other, producer2 := openKafka(t)
		publisher2, _ := newPublisher(t, db, producer2, other)
		stop = start(t, publisher2)
		after := await(t, other, 2)
		if after[0].sequence != before[1].sequence || after[0].record.GetResource().GetAccount().GetDisplayName() != "Acme Corp" || after[1].record != nil || after[1].name != "accounts/gone" {
			t.Errorf("published again: %v", after)
		}
		// And on demand, while a publisher is running.
		settled(t, db)
		if n, err := publisher2.Resync(t.Context()); n != 2 || err != nil {
			t.Errorf("again: %d, %v", n, err)
		}
		await(t, other, 4)
		settled(t, db)
		stop()
		stop = start(t, publisher2)
		account(t, s, "acme", "Acme Inc")
		await(t, other, 5)
		stop()
	})
}

const childArg = "outbox-test-child"

// child is a process that changes the catalog and publishes until it is killed.
// It prints the name of every account that was committed.
func child(args []string) {
	ctx := context.Background()
	run := func() error {
		cfg := ledger.DefaultConfig()
		cfg.Path = args[0]
		db, err := ledger.Open(ctx, cfg, zerolog.Nop())
		if err != nil {
			return err
		}
		client, producer, err := kafka(ctx, args[1])
		if err != nil {
			return err
		}
		ccfg := catalog.DefaultConfig()
		ccfg.HashKeyFile = args[0] + ".key"
		publisher, err := outbox.New(outbox.DefaultConfig(), outbox.Deps{Ledger: db, Producer: producer, Topics: client, Log: zerolog.Nop(), Registerer: prometheus.NewRegistry()})
		if err != nil {
			return err
		}
		s, err := catalog.New(ccfg, catalog.Deps{Ledger: db, Changed: publisher.Wake, Log: zerolog.Nop(), Registerer: prometheus.NewRegistry()})
		if err != nil {
			return err
		}
		if err := s.Prepare(ctx); err != nil {
			return err
		}
		go func() { _ = publisher.Run(ctx) }()
		for {
			a, err := s.CreateAccount(admin, &catalogv1.CreateAccountRequest{Account: &catalogv1.Account{DisplayName: "X"}})
			if err != nil {
				return err
			}
			fmt.Println(a.GetName())
		}
	}
	fmt.Fprintln(os.Stderr, run())
	os.Exit(1)
}

// TestKill kills the process that writes and publishes, several times: whatever
// was committed is in the topic, and each version has one sequence.
func TestKill(t *testing.T) {
	db := testenv.LedgerConfig(t)
	migrated := testenv.OpenLedger(t, db)
	migrate(t, migrated)
	address := testenv.Log(t)
	var committed []string
	for i := range 3 {
		committed = append(committed, killedChild(t, db.Path, address, 20+30*i)...)
	}
	client, producer, err := kafka(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	publisher, _ := newPublisher(t, migrated, producer, client)
	for {
		n, err := publisher.Publish(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
	}
	sequences := map[string]int64{}
	for _, m := range read(t, client) {
		if was, there := sequences[m.name]; there && was != m.sequence {
			t.Errorf("%s has the sequences %d and %d", m.name, was, m.sequence)
		}
		sequences[m.name] = m.sequence
	}
	for _, name := range committed {
		if sequences[name] == 0 {
			t.Errorf("%s was committed and never published", name)
		}
	}
	// What was committed just before a kill was not printed any more.
	if extra := len(sequences) - len(committed); extra < 0 || extra > 3 {
		t.Errorf("%d names are in the topic, %d were printed", len(sequences), len(committed))
	}
}

func migrate(t *testing.T, db *ledger.DB) {
	t.Helper()
	if _, err := db.Migrate(t.Context(), sql.LedgerMigrations); err != nil {
		t.Fatal(err)
	}
}

// killedChild runs a child until it has printed n names, and kills it.
func killedChild(t *testing.T, path, address string, n int) []string {
	t.Helper()
	cmd := exec.Command(os.Args[0], childArg, path, address)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		names = append(names, lines.Text())
		if len(names) == n {
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	_ = cmd.Wait() // it was killed
	if len(names) < n {
		t.Fatalf("the child ended after %d names", len(names))
	}
	return names
}
