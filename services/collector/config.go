package collector

import (
	"errors"
	"fmt"
	"time"

	"github.com/tollway/tollway/services/collector/events"
	"github.com/tollway/tollway/services/collector/filetail"
	"github.com/tollway/tollway/services/collector/publish"
)

// Config is the collector's part of the configuration; sources that are added
// have their own.
type Config struct {
	HTTP    HTTP            `yaml:"http"`
	Publish publish.Config  `yaml:"publish"`
	Events  events.Config   `yaml:"events"`
	Files   filetail.Config `yaml:"files"`
	// MaxUnacknowledged is how long the log may be silent before the collector
	// says that it is not ready.
	MaxUnacknowledged time.Duration `yaml:"max_unacknowledged"`
}

// HTTP is where and how the HTTP sources are served.
type HTTP struct {
	Address     string        `yaml:"address"`
	ReadTimeout time.Duration `yaml:"read_timeout"`
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	StopTimeout time.Duration `yaml:"stop_timeout"`
}

// DefaultConfig takes events on loopback, and no files.
func DefaultConfig() Config {
	return Config{
		HTTP: HTTP{
			Address:     "127.0.0.1:8085",
			ReadTimeout: 30 * time.Second,
			IdleTimeout: 2 * time.Minute,
			StopTimeout: 15 * time.Second,
		},
		Publish:           publish.DefaultConfig(),
		Events:            events.DefaultConfig(),
		Files:             filetail.DefaultConfig(),
		MaxUnacknowledged: 15 * time.Second,
	}
}

// Validate names the first field that cannot work.
func (c Config) Validate() error {
	switch {
	case c.HTTP.Address == "":
		return errors.New("http.address: must not be empty")
	case c.HTTP.ReadTimeout <= 0 || c.HTTP.IdleTimeout <= 0 || c.HTTP.StopTimeout <= 0:
		return errors.New("http: read_timeout, idle_timeout and stop_timeout must be positive")
	case c.MaxUnacknowledged <= 0:
		return errors.New("max_unacknowledged: must be positive")
	}
	for _, part := range []struct {
		name string
		err  error
	}{{"publish", c.Publish.Validate()}, {"events", c.Events.Validate()}, {"files", c.Files.Validate()}} {
		if part.err != nil {
			return fmt.Errorf("%s.%w", part.name, part.err)
		}
	}
	return nil
}
