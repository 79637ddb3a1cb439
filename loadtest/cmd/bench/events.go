//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tollway/tollway/loadtest/gen"
	"github.com/tollway/tollway/loadtest/oracle"
	"github.com/tollway/tollway/loadtest/proc"
)

// kafkaFetched tells whether deploy/real/kafka/fetch.sh has put Kafka into the
// cache folder.
func kafkaFetched() bool {
	cache := os.Getenv("TOLLWAY_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return false
		}
		cache = filepath.Join(base, "tollway")
	}
	found, err := filepath.Glob(filepath.Join(cache, "kafka-*", "stamp"))
	return err == nil && len(found) > 0
}

// chain is a Tollway whose services run apart, on a real Kafka.
type chain struct {
	proc.Tollway
	kafka                       *proc.Kafka
	store, collector, pipelines *proc.Service
	config                      proc.Config
}

func (c *chain) stop() error {
	var errs []error
	for _, s := range []*proc.Service{c.collector, c.pipelines, c.store} {
		if s != nil {
			errs = append(errs, s.Stop())
		}
	}
	if c.kafka != nil {
		c.kafka.Stop()
	}
	return errors.Join(errs...)
}

func (c *chain) start(ctx context.Context, dir string) (err error) {
	run := func(name string, args ...string) (*proc.Service, error) {
		s, err := c.Command(name, args...)
		if err != nil {
			return nil, err
		}
		return s, s.Start()
	}
	if c.store, err = run("embedded", "serve", "embedded"); err != nil {
		return err
	}
	if c.kafka, err = proc.NewKafka(dir, 1); err != nil {
		return err
	}
	if err := c.kafka.Start(); err != nil {
		return err
	}
	if c.config, err = c.Embedded(ctx, c.store.Process); err != nil {
		return err
	}
	c.config.Kafka.Brokers, c.config.Kafka.Replication, c.config.Kafka.SASL = c.kafka.Addresses, 1, proc.SASL{}
	client := &kafka.Client{Addr: kafka.TCP(c.kafka.Addresses...), Timeout: 2 * time.Second}
	if err := wait(ctx, func() (bool, error) {
		meta, err := client.Metadata(ctx, &kafka.MetadataRequest{})
		return err == nil && len(meta.Brokers) == 1, err
	}); err != nil {
		return fmt.Errorf("start Kafka: %w", err)
	}
	file := filepath.Join(dir, "apart.yaml")
	if err := c.config.Write(file); err != nil {
		return err
	}
	if c.collector, err = run("collector", "serve", "collector", "--config", file); err != nil {
		return err
	}
	if err := ready(ctx, c.collector.Process); err != nil {
		return err
	}
	if c.pipelines, err = run("pipelines", "serve", "pipelines", "--config", file); err != nil {
		return err
	}
	return ready(ctx, c.pipelines.Process)
}

// events measures the whole chain over HTTP on a real Kafka, every service in
// a process of its own.
func (b *bench) events(ctx context.Context) (err error) {
	b.say("")
	b.say("## CloudEvents over HTTP, batches of %d, each service in its own process, real Kafka", batchEvents)
	if !kafkaFetched() {
		b.say("")
		b.say("Not measured: no Kafka is fetched (make kafka).")
		return nil
	}
	dir := filepath.Join(b.dir, "apart")
	c := &chain{Tollway: proc.Tollway{Binary: b.binary, Data: dir, Env: []string{fmt.Sprintf("TOLLWAY_KAFKA_PARTITIONS=%d", b.partitions)}}}
	defer func() { err = errors.Join(err, c.stop()) }()
	if err := c.start(ctx, dir); err != nil {
		return err
	}
	engine, err := proc.Engine(c.store.PID())
	if err != nil {
		return err
	}
	w, err := newWatch(ctx, map[string]int{
		"collector": c.collector.PID(), "pipelines": c.pipelines.PID(), "engine": engine, "Kafka": c.kafka.Brokers[0].PID(),
	})
	if err != nil {
		return err
	}
	defer w.stop()
	begin := time.Now()
	accepted, size, err := b.post(ctx, c)
	if err != nil {
		return err
	}
	took := time.Since(begin)
	drained := time.Now()
	place := target(c.config)
	if err := wait(ctx, func() (bool, error) {
		progress, err := place.ReadProgress(ctx)
		return err == nil && oracle.Done(progress), err
	}); err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	drain := time.Since(drained)
	needs, err := w.end()
	if err != nil {
		return err
	}
	stored, err := countCalls(ctx, place)
	if err != nil {
		return err
	}
	if stored != uint64(accepted) {
		return fmt.Errorf("%d events were accepted and %d are stored", accepted, stored)
	}
	pause(ctx, b.idle)
	w.after(needs)
	b.say("")
	b.say("Accepted and stored %d events of %d bytes in %s over %d connections: %.0f events/s accepted, %.0f events/s until all were stored (%s after the last answer).",
		accepted, size, took.Round(time.Second), b.connections, float64(accepted)/took.Seconds(), float64(accepted)/(took+drain).Seconds(), drain.Round(10*time.Millisecond))
	b.table(needs, accepted)
	return nil
}

func countCalls(ctx context.Context, t oracle.Target) (n uint64, err error) {
	db, err := t.Open()
	if err != nil {
		return 0, err
	}
	defer db.Close()
	return n, db.QueryRow(ctx, "SELECT count() FROM calls FINAL").Scan(&n)
}

const batchEvents = 1000

// post posts batches as fast as they are taken.
func (b *bench) post(ctx context.Context, c *chain) (accepted int64, size int, err error) {
	token, err := c.GatewayToken()
	if err != nil {
		return 0, 0, err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: b.connections, WriteBufferSize: 64 << 10}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	ctx, cancel := context.WithTimeout(ctx, b.httpFor)
	defer cancel()
	whole := context.WithoutCancel(ctx)
	var total, refused atomic.Int64
	var length atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, b.connections)
	for i := range b.connections {
		wg.Go(func() {
			bodies := gen.NewBodies(fmt.Sprintf("c%d-", i), batchEvents, uint64(i))
			for ctx.Err() == nil {
				body := bodies.Next(time.Now())
				length.Store(int64(len(body) / batchEvents))
				for {
					answer, err := gen.Post(whole, client, "http://"+c.collector.HTTP, token, body)
					if err == nil {
						total.Add(answer.Accepted)
						break
					}
					// Told to come back later; anything else would show as a
					// difference between accepted and stored.
					if refused.Add(1) > 10_000 {
						errs[i] = err
						return
					}
					time.Sleep(50 * time.Millisecond)
					if ctx.Err() != nil {
						errs[i] = err
						return
					}
				}
			}
		})
	}
	wg.Wait()
	return total.Load(), int(length.Load()), errors.Join(errs...)
}
