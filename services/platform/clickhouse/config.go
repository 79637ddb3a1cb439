package clickhouse

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/tollway/tollway/services/platform/config"
)

// Table engine families.
const (
	MergeTree  = "merge_tree"
	Replicated = "replicated"
)

// Config says which servers to talk to, as whom, and within which limits.
type Config struct {
	// Addresses of the native protocol, host:port.
	Addresses []string `yaml:"addresses"`
	// HTTPAddresses, host:port, are needed for inserts of Arrow streams. With
	// a cluster they stand in the same order as Addresses.
	HTTPAddresses []string      `yaml:"http_addresses"`
	Database      string        `yaml:"database"`
	Username      string        `yaml:"username"`
	Password      config.Secret `yaml:"password"`
	// Cluster is a name from the server's remote_servers; empty means that the
	// addresses are replicas of one another or a single server. With a cluster,
	// Addresses has every node, as remote_servers names it.
	Cluster string `yaml:"cluster"`
	// Engine is merge_tree or replicated.
	Engine string `yaml:"engine"`
	TLS    TLS    `yaml:"tls"`
	// MaxExecutionTime bounds every statement that does not bring its own limit.
	MaxExecutionTime time.Duration `yaml:"max_execution_time"`
	DialTimeout      time.Duration `yaml:"dial_timeout"`
	// MaxConnections bounds the native connections in use at once.
	MaxConnections int `yaml:"max_connections"`
	// MaxInserts bounds the Arrow inserts in flight; further ones wait.
	MaxInserts int `yaml:"max_inserts"`
}

// TLS turns encryption on for both protocols.
type TLS struct {
	Enabled    bool   `yaml:"enabled"`
	CAFile     string `yaml:"ca_file"`
	CertFile   string `yaml:"cert_file"`
	KeyFile    string `yaml:"key_file"`
	ServerName string `yaml:"server_name"`
}

// Default is a single server on this machine.
func Default() Config {
	return Config{
		Addresses:        []string{"127.0.0.1:9000"},
		HTTPAddresses:    []string{"127.0.0.1:8123"},
		Database:         "tollway",
		Username:         "default",
		Engine:           MergeTree,
		MaxExecutionTime: 60 * time.Second,
		DialTimeout:      5 * time.Second,
		MaxConnections:   16,
		MaxInserts:       8,
	}
}

var identifierPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Validate names the field that is wrong.
func (c Config) Validate() error {
	if len(c.Addresses) == 0 {
		return errors.New("clickhouse: addresses is empty")
	}
	for name, list := range map[string][]string{"addresses": c.Addresses, "http_addresses": c.HTTPAddresses} {
		for _, address := range list {
			if _, _, err := net.SplitHostPort(address); err != nil {
				return fmt.Errorf("clickhouse: %s has %q, want host:port", name, address)
			}
		}
	}
	if !identifierPattern.MatchString(c.Database) {
		return fmt.Errorf("clickhouse: database is %q, want letters, digits and _", c.Database)
	}
	if c.Username == "" {
		return errors.New("clickhouse: username is empty")
	}
	if c.Cluster != "" && !identifierPattern.MatchString(c.Cluster) {
		return fmt.Errorf("clickhouse: cluster is %q, want letters, digits and _", c.Cluster)
	}
	if c.Cluster != "" && len(c.HTTPAddresses) > 0 && len(c.HTTPAddresses) != len(c.Addresses) {
		return fmt.Errorf("clickhouse: http_addresses has %d entries and addresses %d; with a cluster they must pair up", len(c.HTTPAddresses), len(c.Addresses))
	}
	if c.Engine != MergeTree && c.Engine != Replicated {
		return fmt.Errorf("clickhouse: engine is %q, want %s or %s", c.Engine, MergeTree, Replicated)
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		return errors.New("clickhouse: tls.cert_file and tls.key_file belong together")
	}
	if c.MaxExecutionTime < time.Second {
		return fmt.Errorf("clickhouse: max_execution_time is %s, want at least 1s", c.MaxExecutionTime)
	}
	if c.DialTimeout <= 0 {
		return fmt.Errorf("clickhouse: dial_timeout is %s, want more than 0", c.DialTimeout)
	}
	if c.MaxConnections < 1 || c.MaxInserts < 1 {
		return errors.New("clickhouse: max_connections and max_inserts must be at least 1")
	}
	return nil
}

// AllShards is the configuration to read what lies on any shard. With a cluster
// it is the database in which a migration makes, on every node, a Distributed
// table for each table of Database, by the same name; without one it is c. What
// is written, and what has to see the tables themselves, goes to a shard:
// OpenShards.
func (c Config) AllShards() Config {
	if c.Cluster != "" {
		c.Database += "_all"
	}
	return c
}

// config is nil when encryption is off.
func (t TLS) config() (*tls.Config, error) {
	if !t.Enabled {
		return nil, nil
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("clickhouse: tls.ca_file: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("clickhouse: tls.ca_file: %s holds no certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("clickhouse: tls.cert_file: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

// Identifier quotes a name for use in a statement.
func Identifier(name string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(name) + "`"
}
