//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/tollway/tollway/loadtest/gen"
	"github.com/tollway/tollway/loadtest/oracle"
	"github.com/tollway/tollway/loadtest/proc"
)

// accessLogs measures the whole chain over access logs: `tollway up` with its
// embedded log and engine.
func (b *bench) accessLogs(ctx context.Context) (err error) {
	t := proc.Tollway{Binary: b.binary, Data: filepath.Join(b.dir, "up"), Env: []string{fmt.Sprintf("TOLLWAY_KAFKA_PARTITIONS=%d", b.partitions)}}
	up, err := t.Command("up", "up")
	if err != nil {
		return err
	}
	if err := up.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, up.Stop()) }()
	if err := ready(ctx, up.Process); err != nil {
		return err
	}
	config, err := t.Embedded(ctx, up.Process)
	if err != nil {
		return err
	}
	db, err := target(config).Open()
	if err != nil {
		return err
	}
	defer db.Close()
	token, err := t.GatewayToken()
	if err != nil {
		return err
	}
	engine, err := proc.Engine(up.PID())
	if err != nil {
		return err
	}
	b.say("")
	b.say("## Access logs over gRPC, everything in one process tree, embedded log and engine")
	for _, s := range b.steps {
		load := gen.ALS{
			Address: up.GRPC, Token: token, Streams: b.streams, Rate: s.rate, Seed: 1,
			Node: fmt.Sprintf("node-%d", int(s.rate)), Entries: max(1, min(1000, int(s.rate)/50/b.streams)),
		}
		if err := b.hold(ctx, s, load, db, up.Process, map[string]int{"tollway up": up.PID(), "engine": engine}); err != nil {
			return fmt.Errorf("%g calls/s: %w\n%s", s.rate, err, up.Tail(2000))
		}
	}
	return nil
}

func ready(ctx context.Context, p *proc.Process) error { return within(ctx, p.Ready) }

// within gives a part no more time than it may need.
func within(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, proc.Patience)
	defer cancel()
	return do(ctx)
}

func target(c proc.Config) oracle.Target {
	ch := c.ClickHouse
	return oracle.Target{
		Brokers: c.Kafka.Brokers, Login: oracle.Login{Username: c.Kafka.SASL.Username, Password: c.Kafka.SASL.Password},
		Native: ch.Addresses, Username: ch.Username, Password: ch.Password,
		Database: ch.Database, Topic: oracle.Topic, Group: oracle.Group,
	}
}

// hold holds a rate for a while, with markers on a stream of their own.
func (b *bench) hold(ctx context.Context, s step, load gen.ALS, db driver.Conn, up *proc.Process, pids map[string]int) error {
	w, err := newWatch(ctx, pids)
	if err != nil {
		return err
	}
	defer w.stop()
	held, cancel := context.WithTimeout(ctx, s.time)
	defer cancel()
	m := markers{db: db, account: "marker-" + load.Node, every: pollEvery(s.rate), sent: map[int64]time.Time{}, seen: map[int64]time.Duration{}}
	var wg sync.WaitGroup
	var markersErr error
	wg.Go(func() { markersErr = m.run(held, load) })
	begin := time.Now()
	sent, err := load.Run(held)
	if err != nil {
		return err
	}
	took := time.Since(begin)
	wg.Wait()
	if markersErr != nil {
		return markersErr
	}
	drained := time.Now()
	if err := wait(ctx, func() (bool, error) {
		var stored uint64
		err := db.QueryRow(ctx, "SELECT count() FROM calls WHERE startsWith(gateway, ?)", load.Node+"-").Scan(&stored)
		return stored >= uint64(sent), err
	}); err != nil {
		return fmt.Errorf("%d calls were sent and are not all stored: %w", sent, err)
	}
	drain := time.Since(drained)
	if err := within(ctx, up.Drained); err != nil {
		return err
	}
	needs, err := w.end()
	if err != nil {
		return err
	}
	pause(ctx, b.idle)
	w.after(needs)
	delays := slices.Sorted(maps.Values(m.seen))
	b.say("")
	b.say("### %d calls/s for %s", int(s.rate), s.time)
	b.say("")
	b.say("Sent and stored %d calls, %.0f calls/s; all were stored %s after the load.",
		sent, float64(sent)/took.Seconds(), drain.Round(10*time.Millisecond))
	b.say("From the start of a call to its row in a query, polled every %s: p50 %s, p99 %s, longest %s (%d markers, %d not seen).",
		m.every, percentile(delays, 0.5), percentile(delays, 0.99), percentile(delays, 1), len(m.sent), len(m.sent)-len(m.seen))
	b.table(needs, sent)
	b.say("")
	b.say("The engine's share includes the queries that look for markers.")
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// wait polls until it is so.
func wait(ctx context.Context, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, proc.Patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := so()
		if ok && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}

// markers are single calls of an account of their own, among the load, and
// when each was seen in a query first.
type markers struct {
	db      driver.Conn
	account string
	every   time.Duration // how often to look

	mu   sync.Mutex
	sent map[int64]time.Time // by start, µs
	seen map[int64]time.Duration
}

const markEvery = 50 * time.Millisecond

// pollEvery looks less often where the delay is seconds: the queries take their
// share of the same two cores.
func pollEvery(rate float64) time.Duration {
	if rate > 10_000 {
		return 250 * time.Millisecond
	}
	return 50 * time.Millisecond
}

// run sends markers until ctx ends and looks for them for a while longer.
func (m *markers) run(ctx context.Context, load gen.ALS) error {
	load.Node, load.Account, load.Streams, load.Entries = "marker", m.account, 1, 1
	load.Rate = 1 / markEvery.Seconds()
	load.Sent = func(_ int, at time.Time) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.sent[at.UnixMicro()] = at
	}
	looking, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	var lookErr error
	wg.Go(func() { lookErr = m.look(looking) })
	_, err := load.Run(ctx)
	if err == nil {
		err = wait(looking, func() (bool, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			return len(m.seen) == len(m.sent), nil
		})
	}
	stop()
	wg.Wait()
	return errors.Join(err, lookErr)
}

// oldestUnseen is the start of the first call that is still looked for, in µs.
func (m *markers) oldestUnseen() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	oldest := time.Now().UnixMicro()
	for us := range m.sent {
		if _, ok := m.seen[us]; !ok {
			oldest = min(oldest, us)
		}
	}
	return oldest
}

func (m *markers) look(ctx context.Context) error {
	tick := time.NewTicker(m.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		var starts []int64
		err := m.db.QueryRow(ctx, "SELECT groupArray(toUnixTimestamp64Micro(time)) FROM calls WHERE account = ? AND time >= fromUnixTimestamp64Micro(?)",
			m.account, m.oldestUnseen()).Scan(&starts)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		now := time.Now()
		m.mu.Lock()
		for _, us := range starts {
			if at, ok := m.sent[us]; ok {
				if _, before := m.seen[us]; !before {
					m.seen[us] = now.Sub(at)
				}
			}
		}
		m.mu.Unlock()
	}
}
