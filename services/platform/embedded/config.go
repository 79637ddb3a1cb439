package embedded

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/rs/zerolog"
)

// Node is one replica of a shard: the native address and the account that other
// engines log in with to read from it. That of ReaderUser is enough: Tollway
// writes to each shard itself.
type Node struct {
	Host     string `yaml:"host"`
	Port     int    `yaml:"port"`
	Username string `yaml:"username"`
	Password string `yaml:"password"`
}

// Shard is the replicas that hold the same rows.
type Shard []Node

// EngineConfig says where the engine keeps its data and what it may use.
type EngineConfig struct {
	// Library is the path of libchdb.so; empty means the cache folder.
	Library string `yaml:"library"`
	// DataDir is created if missing; one engine at a time may use it.
	DataDir string `yaml:"data_dir"`
	// NativePort and HTTPPort are on loopback. Zero takes the ports of the
	// last run if they are free, else any free ones.
	NativePort int `yaml:"native_port"`
	HTTPPort   int `yaml:"http_port"`
	// ReadableDatabases are what the reader account may select from; a name
	// may end in * to mean every database that begins so.
	ReadableDatabases []string `yaml:"readable_databases"`
	// MemoryLimitBytes bounds all queries, merges and caches together.
	MemoryLimitBytes int64 `yaml:"memory_limit_bytes"`
	// BackgroundThreads is how many merges may run at once.
	BackgroundThreads int `yaml:"background_threads"`
	// Clusters are made known to the engine as remote_servers.
	Clusters map[string][]Shard `yaml:"clusters"`
	// Passwords replaces the random ones of the data folder; the nodes of one
	// cluster need the same. Empty fields keep the folder's own.
	Passwords Passwords `yaml:"-"`
	// StartTimeout is how long the first answer may take. Loading many parts
	// after a crash takes a while.
	StartTimeout time.Duration `yaml:"start_timeout"`
	// StopTimeout is how long a clean stop may take before the engine is killed.
	StopTimeout time.Duration `yaml:"stop_timeout"`

	Log zerolog.Logger `yaml:"-"`
}

// Passwords are the secrets of the two accounts.
type Passwords struct {
	Tollway string `json:"tollway"`
	Reader  string `json:"reader"`
}

// String keeps passwords out of logs and error messages.
func (Passwords) String() string { return "[redacted]" }

// GoString does the same for %#v.
func (Passwords) GoString() string { return "[redacted]" }

// DefaultEngineConfig suits a laptop that has other things to do.
func DefaultEngineConfig() EngineConfig {
	return EngineConfig{
		ReadableDatabases: []string{"tollway"},
		MemoryLimitBytes:  4 << 30,
		BackgroundThreads: 2,
		StartTimeout:      time.Minute,
		StopTimeout:       5 * time.Second,
		Log:               zerolog.Nop(),
	}
}

var databasePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*\*?$`)
var clusterPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Validate names the field that is wrong.
func (c EngineConfig) Validate() error {
	if c.DataDir == "" {
		return errors.New("engine: data_dir is empty")
	}
	for name, port := range map[string]int{"native_port": c.NativePort, "http_port": c.HTTPPort} {
		if port < 0 || port > 65535 {
			return fmt.Errorf("engine: %s is %d, want 0 to 65535", name, port)
		}
	}
	for _, database := range c.ReadableDatabases {
		if !databasePattern.MatchString(database) {
			return fmt.Errorf("engine: readable_databases has %q, want letters, digits and _", database)
		}
	}
	if c.MemoryLimitBytes < 512<<20 {
		return fmt.Errorf("engine: memory_limit_bytes is %d, want at least %d", c.MemoryLimitBytes, 512<<20)
	}
	if c.BackgroundThreads < 1 || c.BackgroundThreads > 64 {
		return fmt.Errorf("engine: background_threads is %d, want 1 to 64", c.BackgroundThreads)
	}
	if c.StartTimeout <= 0 || c.StopTimeout <= 0 {
		return errors.New("engine: start_timeout and stop_timeout must be positive")
	}
	return validateClusters(c.Clusters)
}

func validateClusters(clusters map[string][]Shard) error {
	for name, shards := range clusters {
		if !clusterPattern.MatchString(name) {
			return fmt.Errorf("engine: clusters has %q, want letters, digits and _", name)
		}
		if len(shards) == 0 {
			return fmt.Errorf("engine: cluster %s has no shard", name)
		}
		for i, shard := range shards {
			if len(shard) == 0 {
				return fmt.Errorf("engine: cluster %s: shard %d has no node", name, i+1)
			}
			for _, node := range shard {
				if node.Host == "" || node.Port < 1 || node.Port > 65535 {
					return fmt.Errorf("engine: cluster %s: shard %d: node %q port %d is no address", name, i+1, node.Host, node.Port)
				}
			}
		}
	}
	return nil
}
