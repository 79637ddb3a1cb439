//go:build faults && linux

package loadtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tollway/tollway/loadtest/gen"
	"github.com/tollway/tollway/loadtest/oracle"
	"github.com/tollway/tollway/loadtest/proc"
)

// binary is the program with seams, built once.
var binary string

func TestMain(m *testing.M) { os.Exit(main(m)) }

func main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tollway-faults")
	if err == nil {
		defer os.RemoveAll(dir)
		binary, err = proc.Build(context.Background(), dir, "faults")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// The load of each run: modest, because what is judged is not speed.
const (
	loadTime   = 8 * time.Second
	loadRate   = 3000
	partitions = 4
	// sessionTimeout is short so that a dead member is missed soon.
	sessionTimeout = 6 * time.Second
)

// stage is one run: a Tollway under load.
type stage struct {
	t       *testing.T
	ctx     context.Context
	seed    uint64
	random  *rand.Rand
	tollway proc.Tollway
	config  string // of processes that run apart
	target  oracle.Target

	kafka     *proc.Kafka   // a real one, or nil
	store     *proc.Service // embedded log and engine; `up` where all run together
	collector *proc.Service
	pipelines *proc.Service
	inserts   chan struct{} // one for each insert that begins, while somebody waits
}

// layout says which processes a stage has.
type layout struct {
	together bool          // everything in `tollway up`
	brokers  int           // real Kafka brokers, 0 for the embedded log
	proxy    bool          // inserts go through a proxy that tells of them
	cut      float64       // share of inserts whose answer is lost on the way
	late     bool          // pipelines are not started
	pipeline []string      // variables of the first start of pipelines
	broken   string        // what the program leaves out
	load     time.Duration // loadTime if 0
}

// fault runs one fault with every seed; disturb does the harm while the load
// goes on.
func fault(t *testing.T, l layout, disturb func(s *stage) error) {
	t.Helper()
	eachSeed(t, func(t *testing.T, seed uint64) {
		report := play(t, l, seed, disturb)
		if !report.OK() {
			t.Errorf("seed %d: %s", seed, report)
		}
	})
}

// control runs a program that lacks a protection: the oracle must see it.
func control(t *testing.T, l layout, check string) {
	t.Helper()
	eachSeed(t, func(t *testing.T, seed uint64) {
		report := play(t, l, seed, func(s *stage) error { return s.restartAfterDeath() })
		if !report.Has(check) {
			t.Errorf("seed %d: the oracle did not find %q in a program without the protection: %s", seed, check, report)
		}
	})
}

func eachSeed(t *testing.T, run func(t *testing.T, seed uint64)) {
	seeds := 2
	if text := os.Getenv("TOLLWAY_FAULT_SEEDS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("TOLLWAY_FAULT_SEEDS is %q, must be a number above zero", text)
		}
		seeds = n
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed%d", seed+1), func(t *testing.T) { run(t, uint64(seed+1)) })
	}
}

// play runs a stage from its start to the report.
func play(t *testing.T, l layout, seed uint64, disturb func(s *stage) error) *oracle.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	s := &stage{t: t, ctx: ctx, seed: seed, random: rand.New(rand.NewPCG(seed, 7)), inserts: make(chan struct{})}
	s.begin(l)

	journalDir := t.TempDir()
	journal, err := oracle.Create(journalDir)
	s.must(err)
	token, err := s.tollway.GatewayToken()
	s.must(err)
	load, stopLoad := context.WithTimeout(ctx, cmp.Or(l.load, loadTime))
	defer stopLoad()
	type result struct {
		sent gen.Sent
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		sent, err := gen.HTTP{
			URL: "http://" + s.collector.HTTP, Token: token, Connections: 4, Batch: 50, Rate: loadRate,
			Seed: seed, Name: fmt.Sprintf("s%d", seed), Mix: gen.Mix{Duplicates: 0.05, Late: 0.02}, Journal: journal, Abandon: 0.3,
		}.Run(load)
		ended <- result{sent, err}
	}()
	s.must(disturb(s))
	end := <-ended
	s.must(end.err)
	s.must(journal.Close())
	if end.sent.Acked == 0 {
		t.Fatal("nothing was acknowledged")
	}
	drained := time.Now()
	s.drain()
	recovered := time.Since(drained)

	history, err := oracle.Read(journalDir)
	s.must(err)
	stored, err := oracle.ReadStore(ctx, s.target)
	s.must(err)
	report := oracle.Check(history, stored)
	t.Logf("%d requests failed, %d events given up; drained %s after the load: attempted %d, acknowledged %d, stored %d, discarded %d, physical copies %d",
		end.sent.Failures, end.sent.Abandoned, recovered.Round(10*time.Millisecond), report.Attempted, report.Acked, report.Stored, report.Discarded, report.Collapsed)
	return report
}

func (s *stage) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) begin(l layout) {
	s.t.Helper()
	s.tollway = proc.Tollway{Binary: binary, Data: s.t.TempDir(), Env: []string{
		fmt.Sprintf("TOLLWAY_KAFKA_PARTITIONS=%d", partitions),
		"TOLLWAY_DELIVERY_GROUP_SESSION_TIMEOUT=" + sessionTimeout.String(),
		"TOLLWAY_DELIVERY_GROUP_HEARTBEAT_INTERVAL=1s",
	}}
	if l.broken != "" {
		s.tollway.Env = append(s.tollway.Env, "TOLLWAY_BROKEN="+l.broken)
	}
	if l.together {
		s.store = s.start("up", nil, "up")
		s.collector, s.pipelines = s.store, s.store
	} else {
		s.store = s.start("embedded", nil, "serve", "embedded")
	}
	found, err := s.tollway.Embedded(s.ctx, s.store.Process)
	s.must(err)
	if l.brokers > 0 {
		s.startKafka(l.brokers)
		found.Kafka.Brokers, found.Kafka.Replication, found.Kafka.SASL = s.kafka.Addresses, l.brokers, proc.SASL{}
	}
	ch := &found.ClickHouse
	s.target = oracle.Target{
		Brokers: found.Kafka.Brokers, Login: oracle.Login{Username: found.Kafka.SASL.Username, Password: found.Kafka.SASL.Password},
		Native: ch.Addresses, Username: ch.Username, Password: ch.Password,
		Database: ch.Database, Topic: oracle.Topic, Group: oracle.Group,
	}
	if l.together {
		s.must(s.store.Ready(s.ctx))
		return
	}
	if l.proxy || l.cut > 0 {
		ch.HTTPAddresses = []string{s.throughProxy(ch.HTTPAddresses[0], l.cut)}
	}
	s.config = filepath.Join(s.tollway.Data, "apart.yaml")
	s.must(found.Write(s.config))
	s.collector = s.start("collector", nil, "serve", "collector", "--config", s.config)
	s.must(s.collector.Ready(s.ctx))
	if !l.late {
		s.startPipelines(l.pipeline...)
	}
}

func (s *stage) startPipelines(variables ...string) {
	s.t.Helper()
	s.pipelines = s.start("pipelines", variables, "serve", "pipelines", "--config", s.config)
	if len(variables) == 0 {
		s.must(s.pipelines.Ready(s.ctx)) // one that is to die may do so before
	}
}

// start starts a process that ends with the test.
func (s *stage) start(name string, variables []string, args ...string) *proc.Service {
	s.t.Helper()
	p, err := s.tollway.Command(name, args...)
	s.must(err)
	s.must(p.Start(variables...))
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("the end of the log of %s:\n%s", name, p.Tail(3000))
			// Kept with `go test -artifacts`.
			if err := os.WriteFile(filepath.Join(s.t.ArtifactDir(), name+".log"), []byte(p.Tail(1<<24)), 0o600); err != nil {
				s.t.Log(err)
			}
		}
		if p.Running() {
			_ = p.Signal(syscall.SIGCONT)
			_ = p.KillTree()
		}
	})
	return p
}

func (s *stage) startKafka(brokers int) {
	s.t.Helper()
	k, err := proc.NewKafka(s.t.TempDir(), brokers)
	s.must(err)
	s.kafka = k
	s.t.Cleanup(func() {
		for _, b := range k.Brokers {
			if b.Running() {
				_ = b.KillTree()
			}
		}
	})
	s.must(k.Start())
	s.eventually(func() error {
		client := &kafka.Client{Addr: kafka.TCP(k.Addresses[0]), Timeout: 2 * time.Second}
		meta, err := client.Metadata(s.ctx, &kafka.MetadataRequest{})
		if err == nil && len(meta.Brokers) < brokers {
			err = fmt.Errorf("%d of %d brokers", len(meta.Brokers), brokers)
		}
		return err
	})
}

// throughProxy stands before the engine's HTTP port. It tells of inserts that
// begin, and loses the answer to some, after they were done.
func (s *stage) throughProxy(address string, share float64) string {
	target := &url.URL{Scheme: "http", Host: address}
	var inserts atomic.Int64
	insert := func(r *http.Request) bool { return strings.Contains(r.URL.RawQuery, "INSERT") }
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			if insert(r.In) {
				select {
				case s.inserts <- struct{}{}:
				default:
				}
			}
		},
		ModifyResponse: func(res *http.Response) error {
			if insert(res.Request) && cuts(s.seed, inserts.Add(1), share) {
				return errors.New("cut")
			}
			return nil
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	server := httptest.NewServer(proxy)
	s.t.Cleanup(server.Close)
	s.t.Cleanup(func() {
		if inserts.Load() == 0 && !s.t.Failed() {
			s.t.Error("no insert went through the proxy")
		}
	})
	return server.Listener.Addr().String()
}

// inInsert waits until a number of inserts have begun, and a little longer, so
// that the last of them is under way or just done.
func (s *stage) inInsert(number int) error {
	for range number {
		select {
		case <-s.inserts:
		case <-time.After(2 * loadTime):
			return errors.New("there were too few inserts")
		}
	}
	s.wait(0, 25*time.Millisecond)
	return nil
}

func cuts(seed uint64, n int64, share float64) bool {
	return rand.New(rand.NewPCG(seed, uint64(n))).Float64() < share
}

// eventually tries until it succeeds.
func (s *stage) eventually(try func() error) {
	s.t.Helper()
	deadline := time.Now().Add(proc.Patience)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) || s.ctx.Err() != nil {
			s.t.Fatalf("after %s still: %v", proc.Patience, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// drain waits until everything in the log is stored and committed as done.
func (s *stage) drain() {
	s.t.Helper()
	s.eventually(func() error {
		ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
		defer cancel()
		progress, err := s.target.ReadProgress(ctx)
		if err == nil && !oracle.Done(progress) {
			err = fmt.Errorf("not drained: %+v", progress)
		}
		return err
	})
}

// wait lets the load go on for a random time.
func (s *stage) wait(from, to time.Duration) {
	select {
	case <-s.ctx.Done():
	case <-time.After(from + time.Duration(s.random.Int64N(int64(to-from)))):
	}
}

// restartAfterDeath waits until the pipelines died at their seam, and starts
// them again.
func (s *stage) restartAfterDeath() error {
	select {
	case <-s.pipelines.Done():
	case <-time.After(loadTime):
		return errors.New("the pipelines did not reach the seam at which they were to die")
	}
	return s.pipelines.Start()
}
