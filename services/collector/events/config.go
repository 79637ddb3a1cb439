package events

import (
	"errors"
	"fmt"
	"time"

	"github.com/tollway/tollway/services/collector/scan"
)

// Config bounds what is taken.
type Config struct {
	// MaxBodyBytes bounds a body, before and after decompression.
	MaxBodyBytes int64 `yaml:"max_body_bytes"`
	// MaxBufferedBytes bounds the bodies held at one time.
	MaxBufferedBytes int64 `yaml:"max_buffered_bytes"`
	// MaxItems bounds the items of a request.
	MaxItems int `yaml:"max_items"`
	// Types are the CloudEvents types that are calls.
	Types []string `yaml:"types"`
	// MaxFuture and MaxAge bound a call's time against the collector's clock.
	MaxFuture time.Duration `yaml:"max_future"`
	MaxAge    time.Duration `yaml:"max_age"`
	// AckTimeout is how long a request waits for the log.
	AckTimeout time.Duration `yaml:"ack_timeout"`
	// ClientIP says how much of a client's address is kept.
	ClientIP scan.Network `yaml:"client_ip"`
}

// DefaultConfig is right for most.
func DefaultConfig() Config {
	return Config{
		MaxBodyBytes:     8 << 20,
		MaxBufferedBytes: 128 << 20,
		MaxItems:         20_000,
		Types:            []string{"tollway.call.v1"},
		MaxFuture:        5 * time.Minute,
		MaxAge:           35 * 24 * time.Hour,
		AckTimeout:       10 * time.Second,
		ClientIP:         scan.DefaultNetwork(),
	}
}

// Validate names the first field that cannot work.
func (c Config) Validate() error {
	switch {
	case c.MaxBodyBytes < 1:
		return errors.New("max_body_bytes: must be positive")
	case c.MaxBufferedBytes < c.MaxBodyBytes:
		return errors.New("max_buffered_bytes: must be at least max_body_bytes")
	case c.MaxItems < 1:
		return errors.New("max_items: must be positive")
	case len(c.Types) == 0:
		return errors.New("types: at least one CloudEvents type is needed")
	case c.MaxFuture < 0:
		return errors.New("max_future: must not be negative")
	case c.MaxAge <= 0:
		return errors.New("max_age: must be positive")
	case c.AckTimeout <= 0:
		return errors.New("ack_timeout: must be positive")
	}
	if err := c.ClientIP.Validate(); err != nil {
		return fmt.Errorf("client_ip: %w", err)
	}
	return nil
}
