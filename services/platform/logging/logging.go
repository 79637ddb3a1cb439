// Package logging makes the process's logger. In goes a level and a format,
// out comes a zerolog.Logger that everything else receives by argument: there is
// no global logger. Lines are written to stderr as they come; nothing is
// buffered, so nothing is lost in a crash.
package logging

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// Config chooses what is logged and how it looks.
type Config struct {
	// Level is trace, debug, info, warn or error.
	Level string `yaml:"level"`
	// Format is json, for machines, or console, for people.
	Format string `yaml:"format"`
}

// DefaultConfig logs info and above as JSON.
func DefaultConfig() Config { return Config{Level: "info", Format: "json"} }

// Validate checks the level and the format.
func (c Config) Validate() error {
	if _, err := c.level(); err != nil {
		return err
	}
	if c.Format != "json" && c.Format != "console" {
		return fmt.Errorf("format is %q, must be json or console", c.Format)
	}
	return nil
}

func (c Config) level() (zerolog.Level, error) {
	switch strings.ToLower(c.Level) {
	case "trace", "debug", "info", "warn", "error":
		return zerolog.ParseLevel(strings.ToLower(c.Level))
	}
	return zerolog.NoLevel, fmt.Errorf("level is %q, must be trace, debug, info, warn or error", c.Level)
}

// New makes a logger that writes to stderr.
func New(c Config) (zerolog.Logger, error) { return NewTo(os.Stderr, c) }

// NewTo makes a logger that writes to w. A line is one Write.
func NewTo(w io.Writer, c Config) (zerolog.Logger, error) {
	if err := c.Validate(); err != nil {
		return zerolog.Nop(), fmt.Errorf("logging: %w", err)
	}
	level, err := c.level()
	if err != nil {
		return zerolog.Nop(), fmt.Errorf("logging: %w", err)
	}
	if c.Format == "console" {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000", NoColor: !isTerminal(w)}
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger(), nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// Sampled returns a logger that lets through burst lines in each period and
// drops the rest, for errors that can happen once per call. Whoever uses it also
// counts what happened in a metric, because the log no longer tells how often.
func Sampled(log zerolog.Logger, burst uint32, period time.Duration) zerolog.Logger {
	return log.Sample(&zerolog.BurstSampler{Burst: burst, Period: period})
}
