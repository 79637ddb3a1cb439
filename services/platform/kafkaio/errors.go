package kafkaio

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"time"

	kafka "github.com/segmentio/kafka-go"
)

var (
	// ErrFenced is what CommitOffset answers to a member that no longer owns the
	// partition: its generation is over, it was removed, or a rebalance has
	// begun. Whatever depended on the commit must not happen.
	ErrFenced = errors.New("fenced: this member's generation is over")

	// ErrOffsetOutOfRange means the broker does not have the wanted offset:
	// retention removed it, or the topic was recreated and is shorter.
	ErrOffsetOutOfRange = errors.New("offset out of range")

	// ErrMessageTooLarge means one message alone is above the broker's limit.
	ErrMessageTooLarge = errors.New("message too large for the broker")

	// ErrGenerationEnded is the cause of a generation's cancelled context when
	// the group goes on without it.
	ErrGenerationEnded = errors.New("group generation ended")

	// ErrClosed is returned by a client that was closed.
	ErrClosed = errors.New("kafka client is closed")
)

// retriable tells whether trying again can help. Everything that is not a clear
// answer of the broker counts as a matter of reaching it: connections break,
// leaders move, metadata is stale.
func retriable(err error) bool {
	if errors.Is(err, ErrClosed) || errors.Is(err, ErrFenced) {
		return false
	}
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) {
		return false
	}
	var code kafka.Error
	if !errors.As(err, &code) {
		return true
	}
	switch code {
	case kafka.BrokerNotAvailable, kafka.ReplicaNotAvailable, kafka.Unknown:
		return true
	}
	return code.Temporary()
}

// fenced tells whether the coordinator refused this member.
func fenced(err error) bool {
	return errors.Is(err, kafka.IllegalGeneration) || errors.Is(err, kafka.UnknownMemberId) ||
		errors.Is(err, kafka.RebalanceInProgress) || errors.Is(err, kafka.FencedInstanceID)
}

// backoff counts attempts and sleeps longer after each, with jitter so that many
// partitions do not knock at the same moment.
type backoff struct {
	next, max time.Duration
}

func (c *Client) newBackoff() backoff {
	return backoff{next: c.cfg.RetryBackoff, max: c.cfg.RetryBackoffMax}
}

// wait sleeps, or returns the context's error when it ends first.
func (b *backoff) wait(ctx context.Context) error {
	d := b.next/2 + rand.N(b.next/2+1)
	b.next = min(2*b.next, b.max)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
