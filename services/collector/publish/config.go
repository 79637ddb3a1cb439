package publish

import (
	"errors"
	"fmt"
	"time"
)

// Config says when batches are sent and how much may be held.
type Config struct {
	Topic string `yaml:"topic"`

	// A partition's batch is sent at the first of these.
	FlushRows     int           `yaml:"flush_rows"`
	FlushBytes    int           `yaml:"flush_bytes"`
	FlushInterval time.Duration `yaml:"flush_interval"`
	// AckLinger is how long a batch stays open after a source began to wait
	// for its acknowledgement.
	AckLinger time.Duration `yaml:"ack_linger"`

	// MaxInFlightBytes bounds what is held: open batches and those the log has
	// not acknowledged.
	MaxInFlightBytes int64 `yaml:"max_in_flight_bytes"`
	// MaxProduceBytes bounds the messages of one produce request; it has to
	// stay below the topic's max.message.bytes.
	MaxProduceBytes int `yaml:"max_produce_bytes"`

	// A produce that failed is tried again after RetryMin, doubling to RetryMax.
	RetryMin time.Duration `yaml:"retry_min"`
	RetryMax time.Duration `yaml:"retry_max"`
	// ProduceTimeout bounds one attempt.
	ProduceTimeout time.Duration `yaml:"produce_timeout"`
	// StopTimeout is how long a stop waits for acknowledgements.
	StopTimeout time.Duration `yaml:"stop_timeout"`
}

// DefaultConfig is right for most.
func DefaultConfig() Config {
	return Config{
		Topic:            "tollway.calls.v1",
		FlushRows:        1000,
		FlushBytes:       512 << 10,
		FlushInterval:    200 * time.Millisecond,
		AckLinger:        10 * time.Millisecond,
		MaxInFlightBytes: 64 << 20,
		MaxProduceBytes:  900 << 10,
		RetryMin:         50 * time.Millisecond,
		RetryMax:         2 * time.Second,
		ProduceTimeout:   15 * time.Second,
		StopTimeout:      10 * time.Second,
	}
}

// maxRows is the most a message may hold; see call.MaxBatchRows.
const maxRows = 1 << 16

// Validate names the first field that cannot work.
func (c Config) Validate() error {
	switch {
	case c.Topic == "":
		return errors.New("topic: must not be empty")
	case c.FlushRows < 1 || c.FlushRows > maxRows:
		return fmt.Errorf("flush_rows: %d is not between 1 and %d", c.FlushRows, maxRows)
	case c.FlushBytes < 1:
		return errors.New("flush_bytes: must be positive")
	case c.FlushInterval <= 0:
		return errors.New("flush_interval: must be positive")
	case c.AckLinger < 0 || c.AckLinger > c.FlushInterval:
		return errors.New("ack_linger: must be between 0 and flush_interval")
	case c.MaxInFlightBytes < int64(c.FlushBytes):
		return errors.New("max_in_flight_bytes: must be at least flush_bytes")
	case c.MaxProduceBytes < c.FlushBytes:
		return errors.New("max_produce_bytes: must be at least flush_bytes")
	case c.RetryMin <= 0 || c.RetryMax < c.RetryMin:
		return errors.New("retry_min, retry_max: must be positive and in order")
	case c.ProduceTimeout <= 0:
		return errors.New("produce_timeout: must be positive")
	case c.StopTimeout < 0:
		return errors.New("stop_timeout: must not be negative")
	}
	return nil
}
