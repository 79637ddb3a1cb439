package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/sql"
)

// ServedTopic has what gateways say they served, one Served as JSON a message.
const ServedTopic = "tollway.served.v1"

// Served is what one listener of one gateway had served by the end of a minute.
type Served struct {
	Minute int64  `json:"minute"` // its start, seconds since the Unix epoch, UTC
	Node   string `json:"node"`
	Prefix string `json:"prefix"`
	// Total and Active are the gateway's own: calls since it started, and now.
	Total  uint64 `json:"total"`
	Active uint64 `json:"active"`
	// Ended is how many calls ended since the record before; with First there
	// was none. Restarts counts how often the totals began again.
	Ended       int64  `json:"ended"`
	First       bool   `json:"first"`
	Restarts    uint32 `json:"restarts"`
	Reports     uint32 `json:"reports"`
	LogsDropped uint64 `json:"logs_dropped"`
}

// DecodeServed reads a message of ServedTopic.
func DecodeServed(b []byte) (s Served, err error) {
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("decode a record of served calls: %w", err)
	}
	if s.Node == "" || s.Minute <= 0 || s.Minute%60 != 0 || s.Minute > 1<<32-60 {
		return s, fmt.Errorf("decode a record of served calls: node %q, minute %d", s.Node, s.Minute)
	}
	return s, nil
}

// ended is how many calls had ended since the gateway started.
func (s Served) ended() uint64 { return s.Total - min(s.Active, s.Total) }

var queryServedStore = sql.ClickHouseQuery("served_store")

// servedChunk bounds the text of one statement.
const servedChunk = 1000

// StoreServed stores records on one shard, always the same. Storing one again changes nothing; of two for one
// minute, of two collectors that the gateway reported to in turn, the one with
// the higher total stays.
func StoreServed(ctx context.Context, db *clickhouse.DB, records []Served) error {
	for chunk := range slices.Chunk(records, servedChunk) {
		n := len(chunk)
		minutes, ended := make([]int64, n), make([]int64, n)
		gateways, prefixes := make([]string, n), make([]string, n)
		served, dropped, versions := make([]uint64, n), make([]uint64, n), make([]uint64, n)
		first, restarts := make([]bool, n), make([]uint32, n)
		for i, s := range chunk {
			minutes[i], gateways[i], prefixes[i] = s.Minute, s.Node, s.Prefix
			served[i], dropped[i], ended[i] = s.ended(), s.LogsDropped, s.Ended
			first[i], restarts[i], versions[i] = s.First, s.Restarts, s.Total
		}
		err := db.Exec(ctx, queryServedStore, map[string]any{
			"minutes": minutes, "gateways": gateways, "prefixes": prefixes, "served": served, "dropped": dropped,
			"ended": ended, "first": first, "restarts": restarts, "versions": versions,
		}, clickhouse.WithSettings(map[string]any{"async_insert": 0}))
		if err != nil {
			return fmt.Errorf("store what gateways served: %w", err)
		}
	}
	return nil
}

// ServedConfig of a ServedRunner.
type ServedConfig struct {
	Topic string `yaml:"topic"`
	// Group is the consumer group.
	Group string `yaml:"group"`
}

// DefaultServedConfig is what is used where nothing is configured.
func DefaultServedConfig() ServedConfig {
	return ServedConfig{Topic: ServedTopic, Group: "tollway-served"}
}

// Validate names the field that is wrong.
func (c ServedConfig) Validate() error {
	if c.Topic == "" || c.Group == "" {
		return errors.New("topic and group must not be empty")
	}
	return nil
}

// ServedDeps are what a ServedRunner needs from others.
type ServedDeps struct {
	Client *kafkaio.Client
	// DB is the first shard.
	DB      *clickhouse.DB
	Metrics prometheus.Registerer
	Logger  zerolog.Logger
}

// ServedRunner takes records from the log into the store, at least once.
type ServedRunner struct {
	cfg            ServedConfig
	deps           ServedDeps
	stored, broken prometheus.Counter
}

// NewServedRunner makes a runner; Run runs it.
func NewServedRunner(cfg ServedConfig, deps ServedDeps) (*ServedRunner, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &ServedRunner{
		cfg: cfg, deps: deps,
		stored: prometheus.NewCounter(prometheus.CounterOpts{Name: "tollway_reconcile_served_records_total", Help: "Records of what gateways served that were stored."}),
		broken: prometheus.NewCounter(prometheus.CounterOpts{Name: "tollway_reconcile_served_undecodable_total", Help: "Messages that are no record of what a gateway served, and were passed over."}),
	}
	deps.Metrics.MustRegister(r.stored, r.broken)
	return r, nil
}

// Run is a member of the consumer group until ctx ends.
func (r *ServedRunner) Run(ctx context.Context) error {
	group := kafkaio.DefaultGroupConfig()
	group.GroupID, group.Topics = r.cfg.Group, []string{r.cfg.Topic}
	member, err := r.deps.Client.JoinGroup(group)
	if err != nil {
		return fmt.Errorf("join group %s: %w", r.cfg.Group, err)
	}
	return member.Run(ctx, r.generation)
}

// generation reads each partition until the generation ends. When one cannot go
// on, all stop, and the group is joined again.
func (r *ServedRunner) generation(ctx context.Context, gen kafkaio.Generation) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var partitions []int32
	for _, a := range gen.Assignments[r.cfg.Topic] {
		partitions = append(partitions, a.Partition)
	}
	if len(partitions) == 0 {
		<-ctx.Done()
		return
	}
	committed, err := r.deps.Client.FetchOffsets(ctx, r.cfg.Group, r.cfg.Topic, partitions)
	if err != nil {
		r.complain(ctx, err)
		return
	}
	var wait sync.WaitGroup
	for _, p := range partitions {
		wait.Go(func() {
			defer stop()
			r.complain(ctx, r.partition(ctx, gen, p, committed[p].Offset))
		})
	}
	wait.Wait()
}

func (r *ServedRunner) complain(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil && !errors.Is(err, kafkaio.ErrFenced) {
		r.deps.Logger.Error().Err(err).Str("topic", r.cfg.Topic).Msg("records of served calls are read again")
	}
}

func (r *ServedRunner) partition(ctx context.Context, gen kafkaio.Generation, partition int32, offset int64) error {
	if offset < 0 {
		offset = kafkaio.FirstOffset
	}
	fetcher := kafkaio.NewFetcher(r.deps.Client, r.cfg.Topic, partition, offset, kafkaio.DefaultFetchConfig())
	for {
		result, err := fetcher.Next(ctx)
		if errors.Is(err, kafkaio.ErrOffsetOutOfRange) {
			// Retention took them; each record has running totals, so what is
			// left covers the gap.
			r.deps.Logger.Warn().Err(err).Msg("records of served calls are gone, going on with the oldest")
			fetcher = kafkaio.NewFetcher(r.deps.Client, r.cfg.Topic, partition, kafkaio.FirstOffset, kafkaio.DefaultFetchConfig())
			continue
		}
		if err != nil {
			return err
		}
		if len(result.Messages) == 0 {
			continue
		}
		if err := r.store(ctx, result.Messages); err != nil {
			return err
		}
		err = r.deps.Client.CommitOffset(ctx, r.cfg.Group, gen.ID, gen.MemberID, r.cfg.Topic, partition, result.NextOffset, "")
		if err != nil {
			return err
		}
	}
}

func (r *ServedRunner) store(ctx context.Context, messages []kafkaio.Fetched) error {
	var records []Served
	for _, m := range messages {
		s, err := DecodeServed(m.Value)
		if err != nil {
			r.broken.Inc()
			r.deps.Logger.Warn().Err(err).Int64("offset", m.Offset).Msg("a message is passed over")
			continue
		}
		records = append(records, s)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := StoreServed(ctx, r.deps.DB, records); err != nil {
		return err
	}
	r.stored.Add(float64(len(records)))
	return nil
}
