package kafkaio

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	kafka "github.com/segmentio/kafka-go"
)

// GroupConfig describes one member of a consumer group.
type GroupConfig struct {
	GroupID string   `yaml:"group_id"`
	Topics  []string `yaml:"topics"`
	// SessionTimeout is how long the coordinator waits for a heartbeat before it
	// gives this member's partitions away.
	SessionTimeout    time.Duration `yaml:"session_timeout"`
	HeartbeatInterval time.Duration `yaml:"heartbeat_interval"`
	// RebalanceTimeout is how long the callback may take to finish its generation
	// when a rebalance begins.
	RebalanceTimeout time.Duration `yaml:"rebalance_timeout"`
	// PartitionWatchInterval is how often new partitions are looked for.
	PartitionWatchInterval time.Duration `yaml:"partition_watch_interval"`
}

// DefaultGroupConfig notices a rebalance within a second.
func DefaultGroupConfig() GroupConfig {
	return GroupConfig{
		SessionTimeout:         10 * time.Second,
		HeartbeatInterval:      time.Second,
		RebalanceTimeout:       30 * time.Second,
		PartitionWatchInterval: 10 * time.Second,
	}
}

// Validate checks that the times fit each other.
func (c GroupConfig) Validate() error {
	var errs []error
	if c.GroupID == "" {
		errs = append(errs, errors.New("group_id is empty"))
	}
	if len(c.Topics) == 0 {
		errs = append(errs, errors.New("topics is empty"))
	}
	if c.HeartbeatInterval <= 0 || 3*c.HeartbeatInterval > c.SessionTimeout {
		errs = append(errs, fmt.Errorf("heartbeat_interval %s must be above zero and at most a third of session_timeout %s", c.HeartbeatInterval, c.SessionTimeout))
	}
	if c.RebalanceTimeout < time.Second {
		errs = append(errs, fmt.Errorf("rebalance_timeout is %s, must be at least 1s", c.RebalanceTimeout))
	}
	if c.PartitionWatchInterval <= 0 {
		errs = append(errs, fmt.Errorf("partition_watch_interval is %s, must be above zero", c.PartitionWatchInterval))
	}
	return errors.Join(errs...)
}

// PartitionAssignment is one partition that a generation gave to this member.
type PartitionAssignment struct{ Partition int32 }

// Generation is one period in which the group's partitions stay where they are.
// Commits carry ID and MemberID, and the coordinator refuses those of an older
// generation.
type Generation struct {
	ID          int32
	MemberID    string
	Assignments map[string][]PartitionAssignment
}

// Group is one member of a consumer group.
type Group struct {
	client *Client
	cfg    GroupConfig
	conns  *connTracker
	// brokers is turned by one after each failure, since the library always asks
	// the first one for the coordinator.
	brokers  []string
	memberID string
}

// JoinGroup makes a member; Run joins.
func (c *Client) JoinGroup(cfg GroupConfig) (*Group, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("group config: %w", err)
	}
	return &Group{client: c, cfg: cfg, conns: newConnTracker(c.metrics), brokers: slices.Clone(c.cfg.Brokers)}, nil
}

// stopGrace is how long a stop waits for a join that is under way before it
// breaks the connection.
const stopGrace = time.Second

// Run is a member of the group until the context ends, and then leaves it. For
// each generation it calls fn and waits for it to return before it joins the next
// one. The context that fn gets is cancelled when the generation ends (cause
// ErrGenerationEnded) or when Run is to stop; during the rebalance timeout after
// that, commits of this generation are still accepted, so fn can finish what it
// has begun. If fn returns earlier, this member gives up its generation and joins
// again. Run returns nil after a stop, and an error when the group cannot be
// joined at all, for example for lack of rights.
func (g *Group) Run(ctx context.Context, fn func(ctx context.Context, gen Generation)) error {
	defer g.conns.closeForGood()
	b := g.client.newBackoff()
	for ctx.Err() == nil {
		err := g.session(ctx, fn, func() { b = g.client.newBackoff() })
		if ctx.Err() != nil {
			break
		}
		if err != nil && !retriable(err) && !fenced(err) {
			return fmt.Errorf("group %s: %w", g.cfg.GroupID, err)
		}
		g.client.metrics.retries.WithLabelValues("group", reason(err)).Inc()
		g.client.sampled.Warn().Err(err).Str("group", g.cfg.GroupID).Msg("group is joined again")
		g.brokers = append(g.brokers[1:], g.brokers[0])
		_ = b.wait(ctx) // the loop's condition tells the end of the context
	}
	g.leave(ctx)
	return nil
}

// session runs generations until one cannot be made. It always returns with the
// library's own goroutines ended.
func (g *Group) session(ctx context.Context, fn func(context.Context, Generation), joined func()) error {
	cg, err := kafka.NewConsumerGroup(g.libraryConfig())
	if err != nil {
		return err
	}
	defer g.close(cg)
	for {
		gen, err := cg.Next(ctx)
		if errors.Is(err, kafka.RebalanceInProgress) {
			continue // the library keeps its membership and asks again
		}
		if err != nil {
			return err
		}
		joined()
		g.memberID = gen.MemberID
		g.client.metrics.generations.WithLabelValues(g.cfg.GroupID).Inc()
		if gaveUp := g.generation(ctx, cg, gen, fn); gaveUp && ctx.Err() == nil {
			b := backoff{next: g.client.cfg.RetryBackoffMax, max: g.client.cfg.RetryBackoffMax}
			_ = b.wait(ctx)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// generation runs fn for one generation and returns when fn has returned. It
// tells whether fn gave up while the generation was still alive.
func (g *Group) generation(ctx context.Context, cg *kafka.ConsumerGroup, gen *kafka.Generation, fn func(context.Context, Generation)) (gaveUp bool) {
	out := Generation{ID: gen.ID, MemberID: gen.MemberID, Assignments: map[string][]PartitionAssignment{}}
	for topic, list := range gen.Assignments {
		for _, a := range list {
			out.Assignments[topic] = append(out.Assignments[topic], PartitionAssignment{Partition: int32(a.ID)})
		}
	}
	log := g.client.log.With().Str("group", g.cfg.GroupID).Int32("generation", gen.ID).Logger()
	log.Info().Interface("assignments", out.Assignments).Msg("group generation begins")

	done := make(chan struct{})
	gen.Start(func(genCtx context.Context) {
		defer close(done)
		fnCtx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			select {
			case <-genCtx.Done():
				cancel(ErrGenerationEnded)
			case <-fnCtx.Done():
			}
		}()
		fn(fnCtx, out)
		gaveUp = fnCtx.Err() == nil
		cancel(nil)
		<-ended
		if ctx.Err() != nil {
			// Tell the library to leave before this generation counts as over;
			// otherwise it would join the next one first.
			go cg.Close()
			<-genCtx.Done()
		}
	})
	<-done
	log.Info().Bool("gave_up", gaveUp).Msg("group generation is over")
	return gaveUp
}

// close ends the library's group. A join that waits for other members is not
// waited for: its connection is broken after a moment.
func (g *Group) close(cg *kafka.ConsumerGroup) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		cg.Close()
	}()
	t := time.NewTicker(stopGrace)
	defer t.Stop()
	for {
		select {
		case <-done:
			return
		case <-t.C:
			g.conns.closeAll()
		}
	}
}

// leave tells the coordinator once more that this member is gone, in case the
// library's own message was cut off. Without it the others would wait for the
// session timeout.
func (g *Group) leave(ctx context.Context) {
	if g.memberID == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	res, err := g.client.kafka.LeaveGroup(ctx, &kafka.LeaveGroupRequest{
		GroupID: g.cfg.GroupID, Members: []kafka.LeaveGroupRequestMember{{ID: g.memberID}},
	})
	if err == nil {
		err = res.Error
	}
	if err != nil && !errors.Is(err, kafka.UnknownMemberId) {
		g.client.log.Warn().Err(err).Str("group", g.cfg.GroupID).Msg("group was not left, the coordinator will notice after the session timeout")
	}
}

func (g *Group) libraryConfig() kafka.ConsumerGroupConfig {
	return kafka.ConsumerGroupConfig{
		ID:      g.cfg.GroupID,
		Brokers: slices.Clone(g.brokers),
		Topics:  g.cfg.Topics,
		Dialer: &kafka.Dialer{
			ClientID: g.client.cfg.ClientID, Timeout: g.client.cfg.DialTimeout, DialFunc: g.conns.dial,
			TLS: g.client.transport.TLS, SASLMechanism: g.client.mechanism,
		},
		GroupBalancers:         []kafka.GroupBalancer{kafka.RangeGroupBalancer{}},
		HeartbeatInterval:      g.cfg.HeartbeatInterval,
		SessionTimeout:         g.cfg.SessionTimeout,
		RebalanceTimeout:       g.cfg.RebalanceTimeout,
		JoinGroupBackoff:       g.client.cfg.RetryBackoffMax,
		WatchPartitionChanges:  true,
		PartitionWatchInterval: g.cfg.PartitionWatchInterval,
		StartOffset:            kafka.FirstOffset,
		Timeout:                5 * time.Second,
	}
}
