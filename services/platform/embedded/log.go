package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kfake"
)

// LogConfig says where the log keeps its records and for how long.
type LogConfig struct {
	// DataDir is created if missing; one process at a time may use it.
	DataDir string `yaml:"data_dir"`
	// Port on loopback; zero takes that of the last run if it is free, else
	// any free one.
	Port int `yaml:"port"`
	// Partitions is what a topic gets whose creator does not say.
	Partitions int `yaml:"partitions"`
	// AutoCreateTopics makes a topic when a client asks for one that is missing.
	AutoCreateTopics bool `yaml:"auto_create_topics"`
	// Retention and RetentionBytes (per partition) are defaults that a topic's
	// own retention.ms and retention.bytes override. Zero RetentionBytes means
	// no bound by size. While it runs the log keeps only an index in memory,
	// but its first start after a crash reads every record of every partition
	// into memory at once: what all partitions may hold together must fit.
	Retention      time.Duration `yaml:"retention"`
	RetentionBytes int64         `yaml:"retention_bytes"`
	// SegmentBytes is the grain in which old records leave the disk.
	SegmentBytes int `yaml:"segment_bytes"`
	// MaxMessageBytes bounds one batch of records.
	MaxMessageBytes int `yaml:"max_message_bytes"`
	// CleanInterval is how often retention and compaction are applied.
	CleanInterval time.Duration `yaml:"clean_interval"`

	// Open lets everyone on this machine in, for tests. The log holds hashes of
	// tokens, which processes believe: who can write to it can be anybody.
	Open bool `yaml:"-"`

	Log zerolog.Logger `yaml:"-"`
}

// LogUser has the password that Log.Password says, by SCRAM-SHA-256.
const LogUser = "tollway"

// DefaultLogConfig keeps a week, at most half a GiB per partition.
func DefaultLogConfig() LogConfig {
	return LogConfig{
		Partitions:      4,
		Retention:       7 * 24 * time.Hour,
		RetentionBytes:  512 << 20,
		SegmentBytes:    32 << 20,
		MaxMessageBytes: 8 << 20,
		CleanInterval:   time.Minute,
		Log:             zerolog.Nop(),
	}
}

// Validate names the field that is wrong.
func (c LogConfig) Validate() error {
	switch {
	case c.DataDir == "":
		return errors.New("log: data_dir is empty")
	case c.Port < 0 || c.Port > 65535:
		return fmt.Errorf("log: port is %d, want 0 to 65535", c.Port)
	case c.Partitions < 1 || c.Partitions > 1024:
		return fmt.Errorf("log: partitions is %d, want 1 to 1024", c.Partitions)
	case c.Retention < time.Minute:
		return fmt.Errorf("log: retention is %s, want at least a minute", c.Retention)
	case c.RetentionBytes < 0:
		return fmt.Errorf("log: retention_bytes is %d, want 0 or more", c.RetentionBytes)
	case c.SegmentBytes < 1<<20:
		return fmt.Errorf("log: segment_bytes is %d, want at least %d", c.SegmentBytes, 1<<20)
	case c.MaxMessageBytes < 1<<10:
		return fmt.Errorf("log: max_message_bytes is %d, want at least %d", c.MaxMessageBytes, 1<<10)
	case c.CleanInterval <= 0:
		return errors.New("log: clean_interval must be positive")
	}
	return nil
}

// Log is a Kafka-protocol broker inside this process that keeps its records on
// disk and acknowledges them when they are there.
type Log struct {
	cluster *kfake.Cluster
	addr    string
	state   logState
	lock    *os.File
	cancel  context.CancelFunc
	done    chan struct{}
	close   sync.Once
}

// StartLog returns when the broker listens. It stops when ctx ends.
func StartLog(ctx context.Context, cfg LogConfig) (*Log, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("start log: %w", err)
	}
	lock, err := lockFolder(filepath.Join(cfg.DataDir, "log.lock"))
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("the data folder %s is in use by another Tollway; stop that one or choose another folder", cfg.DataDir)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the data folder %s: %w", cfg.DataDir, err)
	}
	state, err := loadLogState(cfg.DataDir)
	if err != nil {
		lock.Close()
		return nil, err
	}
	cluster, err := openCluster(cfg, state)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("start log: %w", err)
	}
	// What the start after a crash has read is garbage now.
	debug.FreeOSMemory()
	ctx, cancel := context.WithCancel(ctx)
	l := &Log{cluster: cluster, addr: cluster.ListenAddrs()[0], state: state, lock: lock, cancel: cancel, done: make(chan struct{})}
	if err := state.save(cfg.DataDir, l.addr); err != nil {
		cluster.Close()
		cancel()
		lock.Close()
		return nil, fmt.Errorf("start log: %w", err)
	}
	go l.clean(ctx, cfg.CleanInterval)
	cfg.Log.Info().Str("address", l.addr).Msg("embedded log is up")
	return l, nil
}

func openCluster(cfg LogConfig, state logState) (*kfake.Cluster, error) {
	port := cfg.Port
	if port == 0 {
		var err error
		if port, err = choosePort(0, state.lastPort()); err != nil {
			return nil, err
		}
	}
	records := filepath.Join(cfg.DataDir, "records")
	// What the broker has stored of its users would win over the options below.
	if err := os.Remove(filepath.Join(records, "sasl.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	retentionBytes := int64(-1)
	if cfg.RetentionBytes > 0 {
		retentionBytes = cfg.RetentionBytes
	}
	options := []kfake.Opt{
		kfake.ClusterID("tollway"),
		kfake.Ports(port),
		kfake.DataDir(records),
		kfake.SyncWrites(),
		kfake.DefaultNumPartitions(cfg.Partitions),
		kfake.WithLogger(brokerLogger{cfg.Log}),
		kfake.BrokerConfigs(map[string]string{
			"default.replication.factor": "1",
			"min.insync.replicas":        "1",
			"log.retention.ms":           strconv.FormatInt(cfg.Retention.Milliseconds(), 10),
			"log.retention.bytes":        strconv.FormatInt(retentionBytes, 10),
			"log.segment.bytes":          strconv.Itoa(cfg.SegmentBytes),
			"message.max.bytes":          strconv.Itoa(cfg.MaxMessageBytes),
			// A record is as old as the time it arrived, so that a back-dated
			// one is not past the retention at once.
			"log.message.timestamp.type": "LogAppendTime",
		}),
	}
	if !cfg.Open {
		// Not PLAIN: the broker takes an empty password for that of a user whom it
		// does not know, and whoever listens on the port of a log that was killed
		// would be told the password.
		options = append(options, kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", LogUser, state.Password))
	}
	if cfg.AutoCreateTopics {
		options = append(options, kfake.AllowAutoTopicCreation())
	}
	return kfake.NewCluster(options...)
}

// clean applies retention, which the broker by itself does only for topics
// that set their own.
func (l *Log) clean(ctx context.Context, interval time.Duration) {
	defer close(l.done)
	defer l.lock.Close()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			l.cluster.Close()
			return
		case <-ticker.C:
			l.cluster.Compact()
		}
	}
}

// Addr is where the broker listens, host:port.
func (l *Log) Addr() string { return l.addr }

// Password is LogUser's. It stays the same for a data folder.
func (l *Log) Password() string { return l.state.Password }

// Done is closed when the broker has stopped.
func (l *Log) Done() <-chan struct{} { return l.done }

// Close stops the broker and waits until its files are closed.
func (l *Log) Close() error {
	l.close.Do(l.cancel)
	<-l.done
	return nil
}

type logState struct {
	Port     int    `json:"port"`
	Password string `json:"password"`
}

// loadLogState reads what the last run has left. The port is a convenience and no
// reason to refuse; the password is made anew where there is none.
func loadLogState(dataDir string) (logState, error) {
	var state logState
	path := filepath.Join(dataDir, "log.json")
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return state, fmt.Errorf("read the log's state: %w", err)
	}
	if err != nil || json.Unmarshal(raw, &state) != nil {
		state = logState{}
	}
	if state.Password == "" {
		state.Password = randomPassword()
	}
	return state, nil
}

// lastPort is zero when there was no last run or its port is unreadable.
func (s logState) lastPort() int {
	if s.Port < 1 || s.Port > 65535 {
		return 0
	}
	return s.Port
}

func (s logState) save(dataDir, addr string) error {
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if s.Port, err = strconv.Atoi(text); err != nil {
		return err
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return writeSecret(filepath.Join(dataDir, "log.json"), raw)
}

// brokerLogger passes on what an operator should see.
type brokerLogger struct{ log zerolog.Logger }

func (b brokerLogger) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		b.log.Error().Msgf(format, args...)
	case kfake.LogLevelWarn:
		b.log.Warn().Msgf(format, args...)
	}
}
