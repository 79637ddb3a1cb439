package feed

import (
	"errors"
	"time"
)

// Topic is where the catalog is published: compacted, a resource's name as key
// and a tollway.catalog.v1.Record as value.
const Topic = "tollway.catalog.v1"

// SequenceHeader is the header of every message that says its sequence in decimal
// digits. A deletion has no record to say it.
const SequenceHeader = "sequence"

// Config of a feed.
type Config struct {
	// Topic that is followed.
	Topic string `yaml:"topic"`
	// Settle is how long a change waits for others before a snapshot is made of
	// them together.
	Settle time.Duration `yaml:"settle"`
	// RestartPause is how long to wait before the topic is read again from its
	// beginning, after it was found to be another one.
	RestartPause time.Duration `yaml:"restart_pause"`
}

// DefaultConfig shows a change within a fraction of a second.
func DefaultConfig() Config {
	return Config{Topic: Topic, Settle: 50 * time.Millisecond, RestartPause: time.Second}
}

// Validate names the field that is wrong.
func (c Config) Validate() error {
	var errs []error
	if c.Topic == "" {
		errs = append(errs, errors.New("topic must be given"))
	}
	if c.Settle < 0 || c.Settle > time.Second {
		errs = append(errs, errors.New("settle must be between 0 and 1s: changes have to be seen everywhere within two"))
	}
	if c.RestartPause <= 0 {
		errs = append(errs, errors.New("restart_pause must be above zero"))
	}
	return errors.Join(errs...)
}
