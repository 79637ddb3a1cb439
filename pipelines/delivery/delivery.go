// Package delivery takes calls from the log to a store exactly once.
//
// In: messages of one topic, through a consumer group in which every partition
// has one owner. Out: ranges of calls, handed to a store in order, and
// messages that cannot be read, to the dead-letter topic. A crash loses
// nothing: before a range is stored, the intent to store exactly that range is
// committed to the group as metadata beside the offset, and whoever owns the
// partition next replays it to the same end.
//
// Per partition:
//
//  1. Read the committed offset and metadata. With an intent [a,b) there,
//     fetch exactly [a,b) again and let the store recover it.
//  2. Choose the next range by rows, bytes or time.
//  3. Commit offset a with the intent [a,b). A member that is fenced stores
//     nothing. In steady state this commit is also the one that says that the
//     range before is done.
//  4. Store the range. Until it is stored, the partition waits.
package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/pipelines/load"
	"github.com/tollway/tollway/services/platform/kafkaio"
)

// Config of a consumer.
type Config struct {
	Topic           string              `yaml:"topic"`
	DeadLetterTopic string              `yaml:"dead_letter_topic"`
	Group           kafkaio.GroupConfig `yaml:"group"`
	Fetch           kafkaio.FetchConfig `yaml:"fetch"`
	// A range is stored when it has BatchRows calls or BatchBytes bytes, or
	// FlushInterval after its first message came. The interval becomes longer,
	// up to FlushIntervalMax, while the store takes long for a range.
	BatchRows        int           `yaml:"batch_rows"`
	BatchBytes       int           `yaml:"batch_bytes"`
	FlushInterval    time.Duration `yaml:"flush_interval"`
	FlushIntervalMax time.Duration `yaml:"flush_interval_max"`
	// StallTimeout is how long a partition with lag may make no progress before
	// readiness fails.
	StallTimeout time.Duration `yaml:"stall_timeout"`
}

// DefaultConfig is for the topics that the collector writes.
func DefaultConfig() Config {
	group := kafkaio.DefaultGroupConfig()
	group.GroupID = "tollway-pipelines"
	group.Topics = []string{"tollway.calls.v1"}
	fetch := kafkaio.DefaultFetchConfig()
	fetch.MaxWait = 100 * time.Millisecond
	return Config{
		Topic:            "tollway.calls.v1",
		DeadLetterTopic:  "tollway.calls.dlq.v1",
		Group:            group,
		Fetch:            fetch,
		BatchRows:        100_000,
		BatchBytes:       32 << 20,
		FlushInterval:    150 * time.Millisecond,
		FlushIntervalMax: 1500 * time.Millisecond,
		StallTimeout:     time.Minute,
	}
}

// Validate names the field that is wrong.
func (c Config) Validate() error {
	var errs []error
	if c.Topic == "" || c.DeadLetterTopic == "" {
		errs = append(errs, errors.New("topic and dead_letter_topic must not be empty"))
	}
	if c.BatchRows < 1 || c.BatchBytes < 1 {
		errs = append(errs, errors.New("batch_rows and batch_bytes must be above zero"))
	}
	if c.FlushInterval <= 0 || c.StallTimeout <= 0 {
		errs = append(errs, errors.New("flush_interval and stall_timeout must be above zero"))
	}
	if c.FlushIntervalMax < c.FlushInterval {
		errs = append(errs, fmt.Errorf("flush_interval_max is %s, must be at least flush_interval", c.FlushIntervalMax))
	}
	if err := c.Group.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("group: %w", err))
	}
	if err := c.Fetch.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("fetch: %w", err))
	}
	return errors.Join(errs...)
}

// Store is where ranges go; *load.Partition is one. Load and Recover return
// only when the range is stored, with the error of valid, or when ctx ends.
type Store interface {
	Recover(ctx context.Context, r load.Range, b *call.Batch, valid func() error) error
	Warm(ctx context.Context, now time.Time) error
	Load(ctx context.Context, r load.Range, b *call.Batch, valid func() error) error
}

// Consumer is one member of the group.
type Consumer struct {
	cfg     Config
	client  *kafkaio.Client
	letters *kafkaio.Producer
	open    func(partition int32) Store
	metrics *metrics
	log     zerolog.Logger

	mu    sync.Mutex
	owned map[int32]*partition
}

// New makes a consumer; open is called for every partition that it is given.
func New(cfg Config, client *kafkaio.Client, letters *kafkaio.Producer, open func(partition int32) Store, reg prometheus.Registerer, log zerolog.Logger) *Consumer {
	return &Consumer{
		cfg: cfg, client: client, letters: letters, open: open,
		metrics: newMetrics(reg), log: log, owned: make(map[int32]*partition),
	}
}

// Run consumes until ctx ends, then stores what it has begun, commits and
// leaves the group.
func (c *Consumer) Run(ctx context.Context) error {
	group, err := c.client.JoinGroup(c.cfg.Group)
	if err != nil {
		return err
	}
	return group.Run(ctx, c.generation)
}

// generation owns its partitions until gctx ends.
func (c *Consumer) generation(gctx context.Context, gen kafkaio.Generation) {
	var wg sync.WaitGroup
	for _, a := range gen.Assignments[c.cfg.Topic] {
		p := &partition{Consumer: c, number: a.Partition, gen: gen, progress: time.Now()}
		c.own(p)
		wg.Go(func() {
			defer c.disown(p)
			p.run(gctx)
		})
	}
	c.log.Info().Int32("generation", gen.ID).Int("partitions", len(gen.Assignments[c.cfg.Topic])).Msg("consuming")
	wg.Wait()
	if gctx.Err() == nil && len(gen.Assignments[c.cfg.Topic]) == 0 {
		<-gctx.Done() // a spare member waits for its turn
	}
}

func (c *Consumer) own(p *partition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owned[p.number] = p
}

func (c *Consumer) disown(p *partition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owned[p.number] == p {
		delete(c.owned, p.number)
		c.metrics.forget(p.number)
	}
}

// Ready fails when a partition with lag makes no progress, or has stopped.
func (c *Consumer) Ready(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, p := range c.owned {
		errs = append(errs, p.ready(time.Now()))
	}
	return errors.Join(errs...)
}
