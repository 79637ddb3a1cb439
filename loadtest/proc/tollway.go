//go:build linux

package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"gopkg.in/yaml.v3"
)

// Root is the folder of the repository, found from the working folder upwards.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.work above the working folder")
		}
		dir = parent
	}
}

// Build builds the program into a folder, with build tags.
func Build(ctx context.Context, dir, tags string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "tollway")
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", tags, "-o", path, "./cmd/tollway")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return path, nil
}

// Tollway is a built program and its data folder.
type Tollway struct {
	Binary string
	Data   string
	Env    []string // of every process
}

// Service is a process of the program and where it listens.
type Service struct {
	*Process
	GRPC, HTTP string
}

// Command prepares a process; it is not started.
func (t Tollway) Command(name string, args ...string) (*Service, error) {
	ports, err := Ports(3)
	if err != nil {
		return nil, err
	}
	s := &Service{GRPC: Address(ports[0]), HTTP: Address(ports[1])}
	admin := Address(ports[2])
	s.Process = &Process{
		Name: name, Admin: admin, LogFile: filepath.Join(t.Data, name+".log"), path: t.Binary,
		args: append(args, "--data", t.Data),
		env: append([]string{
			"TOLLWAY_LISTEN_GRPC=" + s.GRPC, "TOLLWAY_LISTEN_HTTP=" + s.HTTP, "TOLLWAY_LISTEN_ADMIN=" + admin,
		}, t.Env...),
	}
	return s, os.MkdirAll(t.Data, 0o700)
}

// GatewayToken is what gateways show.
func (t Tollway) GatewayToken() (string, error) { return t.token("gateway.token") }

// AdminToken is what administrators show.
func (t Tollway) AdminToken() (string, error) { return t.token("admin.token") }

func (t Tollway) token(file string) (string, error) {
	text, err := os.ReadFile(filepath.Join(t.Data, file))
	return strings.TrimSpace(string(text)), err
}

// Config is what the program writes about its embedded stores, and reads as
// its configuration.
type Config struct {
	Kafka struct {
		Brokers     []string `yaml:"brokers"`
		Partitions  int      `yaml:"partitions"`
		Replication int      `yaml:"replication"`
		SASL        SASL     `yaml:"sasl,omitempty"`
	} `yaml:"kafka"`
	ClickHouse struct {
		Addresses      []string `yaml:"addresses"`
		HTTPAddresses  []string `yaml:"http_addresses"`
		Database       string   `yaml:"database"`
		Username       string   `yaml:"username"`
		Password       string   `yaml:"password"`
		ReaderUsername string   `yaml:"reader_username"`
		ReaderPassword string   `yaml:"reader_password"`
	} `yaml:"clickhouse"`
}

// SASL is how to log in at the log; all is empty for a cluster of one's own.
type SASL struct {
	Mechanism string `yaml:"mechanism"`
	Username  string `yaml:"username"`
	Password  string `yaml:"password"`
}

// EmbeddedFile is where the program writes about its embedded stores.
func (t Tollway) EmbeddedFile() string { return filepath.Join(t.Data, "embedded.yaml") }

// Embedded waits until a process has written about its embedded stores.
func (t Tollway) Embedded(ctx context.Context, p *Process) (Config, error) {
	var c Config
	return c, p.poll(ctx, func() error {
		text, err := os.ReadFile(t.EmbeddedFile())
		if err != nil {
			return err
		}
		return yaml.Unmarshal(text, &c)
	})
}

// Write writes a configuration file.
func (c Config) Write(path string) error {
	text, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// Kafka is a real cluster of one or more brokers.
type Kafka struct {
	Brokers   []*Process
	Addresses []string
}

// NewKafka prepares brokers; none is started.
func NewKafka(dir string, brokers int) (*Kafka, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	ports, err := Ports(2 * brokers)
	if err != nil {
		return nil, err
	}
	k := &Kafka{}
	var pairs []string
	for i := range brokers {
		pairs = append(pairs, fmt.Sprintf("%d:%d", ports[2*i], ports[2*i+1]))
		k.Addresses = append(k.Addresses, Address(ports[2*i]))
	}
	for i := range brokers {
		folder := filepath.Join(dir, fmt.Sprintf("broker%d", i+1))
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
		k.Brokers = append(k.Brokers, &Process{
			Name: fmt.Sprintf("broker %d", i+1), LogFile: folder + ".log",
			path: filepath.Join(root, "deploy/real/kafka/broker.sh"),
			args: []string{folder, fmt.Sprint(i + 1), strings.Join(pairs, ",")},
		})
	}
	return k, nil
}

// Start starts all brokers.
func (k *Kafka) Start() error {
	for _, b := range k.Brokers {
		if err := b.Start(); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends all brokers, at the same time.
func (k *Kafka) Stop() {
	var wg sync.WaitGroup
	for _, b := range k.Brokers {
		wg.Go(func() { _ = b.Stop() }) // one that had to be killed is as gone as the others
	}
	wg.Wait()
}

// Patience is how long parts may take to start or to drain.
const Patience = 90 * time.Second
