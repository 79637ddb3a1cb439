package filetail

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/tollway/tollway/services/collector/envoy"
)

// Config is what is followed, and how.
type Config struct {
	// Files are followed together; without any the source is off.
	Files []File `yaml:"files"`
	// Checkpoint is the file that remembers how far each file was read.
	Checkpoint string `yaml:"checkpoint"`
	// PollInterval is how often files are looked at.
	PollInterval time.Duration `yaml:"poll_interval"`
	// CheckpointInterval is how often the checkpoint is written at most.
	CheckpointInterval time.Duration `yaml:"checkpoint_interval"`
	// RotateGrace is how long a renamed file is still watched: writers keep it
	// open for a while.
	RotateGrace time.Duration `yaml:"rotate_grace"`
	// MaxLineBytes bounds a line; longer ones are rejected.
	MaxLineBytes int `yaml:"max_line_bytes"`
	// MaxRejectedBytes bounds the file of rejected lines, and the one before it.
	MaxRejectedBytes int64 `yaml:"max_rejected_bytes"`
	// Envoy is how entries become calls.
	Envoy envoy.Config `yaml:"envoy"`
}

// File is a path or glob, and what its lines do not say themselves.
type File struct {
	Path    string `yaml:"path"`
	Node    string `yaml:"node"`
	Cluster string `yaml:"cluster"`
	Region  string `yaml:"region"`
	Zone    string `yaml:"zone"`
	// Trusted keeps account, app, product and the like that lines name.
	Trusted bool `yaml:"trusted"`
	// Fields maps JSON keys to fields (see FieldNames); it adds to the default,
	// in which every key is the field of its name. Other keys are left out.
	Fields map[string]string `yaml:"fields"`
}

// DefaultConfig follows nothing.
func DefaultConfig() Config {
	return Config{
		PollInterval:       250 * time.Millisecond,
		CheckpointInterval: time.Second,
		RotateGrace:        10 * time.Second,
		MaxLineBytes:       256 << 10,
		MaxRejectedBytes:   16 << 20,
		Envoy:              envoy.DefaultConfig(),
	}
}

// Validate names the first field that cannot work.
func (c Config) Validate() error {
	if len(c.Files) == 0 {
		return nil
	}
	switch {
	case c.Checkpoint == "":
		return errors.New("checkpoint: a file is needed to remember what was read")
	case c.PollInterval <= 0:
		return errors.New("poll_interval: must be positive")
	case c.CheckpointInterval < 0:
		return errors.New("checkpoint_interval: must not be negative")
	case c.RotateGrace < 0:
		return errors.New("rotate_grace: must not be negative")
	case c.MaxLineBytes < 1024:
		return errors.New("max_line_bytes: must be at least 1024")
	case c.MaxRejectedBytes < 0:
		return errors.New("max_rejected_bytes: must not be negative")
	}
	for i, f := range c.Files {
		if err := f.validate(); err != nil {
			return fmt.Errorf("files[%d]: %w", i, err)
		}
	}
	if err := c.Envoy.Validate(); err != nil {
		return fmt.Errorf("envoy: %w", err)
	}
	return nil
}

func (f File) validate() error {
	if f.Path == "" {
		return errors.New("path: must not be empty")
	}
	if _, err := filepath.Match(f.Path, ""); err != nil {
		return fmt.Errorf("path: %q: %w", f.Path, err)
	}
	for _, key := range slices.Sorted(maps.Keys(f.Fields)) {
		if _, ok := setters[f.Fields[key]]; !ok {
			return fmt.Errorf("fields: %q: unknown field %q", key, f.Fields[key])
		}
	}
	return nil
}
