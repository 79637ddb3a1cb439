package kafkaio

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/tollway/tollway/services/platform/config"
)

// Config says where the brokers are and how to talk to them.
type Config struct {
	// Brokers are the host:port addresses to start from; the others are learnt.
	Brokers []string `yaml:"brokers"`
	// ClientID names this program in the brokers' logs and quotas.
	ClientID string `yaml:"client_id"`

	TLS  TLSConfig  `yaml:"tls"`
	SASL SASLConfig `yaml:"sasl"`

	// DialTimeout limits connecting, the TLS and the SASL exchange included.
	DialTimeout time.Duration `yaml:"dial_timeout"`
	// RequestTimeout limits one request; a request that ran into it is repeated.
	RequestTimeout time.Duration `yaml:"request_timeout"`
	// MetadataTTL is how old cached cluster metadata may become when nothing
	// fails. After an error it is fetched again at once.
	MetadataTTL time.Duration `yaml:"metadata_ttl"`
	// RetryBackoff and RetryBackoffMax bound the growing pause between attempts.
	RetryBackoff    time.Duration `yaml:"retry_backoff"`
	RetryBackoffMax time.Duration `yaml:"retry_backoff_max"`
}

// TLSConfig turns on encrypted connections. Without files the system's trusted
// roots are used and no client certificate is sent.
type TLSConfig struct {
	Enabled    bool   `yaml:"enabled"`
	CAFile     string `yaml:"ca_file"`
	CertFile   string `yaml:"cert_file"`
	KeyFile    string `yaml:"key_file"`
	ServerName string `yaml:"server_name"`
}

// SASLConfig is a user name and a password. An empty mechanism means none.
type SASLConfig struct {
	// Mechanism is plain, scram-sha-256, scram-sha-512 or empty.
	Mechanism string        `yaml:"mechanism"`
	Username  string        `yaml:"username"`
	Password  config.Secret `yaml:"password"`
}

// DefaultConfig talks to one broker on this machine.
func DefaultConfig() Config {
	return Config{
		Brokers:         []string{"127.0.0.1:9092"},
		ClientID:        "tollway",
		DialTimeout:     3 * time.Second,
		RequestTimeout:  10 * time.Second,
		MetadataTTL:     5 * time.Second,
		RetryBackoff:    20 * time.Millisecond,
		RetryBackoffMax: 500 * time.Millisecond,
	}
}

// Validate reports every setting that cannot work.
func (c Config) Validate() error {
	var errs []error
	if len(c.Brokers) == 0 {
		errs = append(errs, errors.New("brokers is empty, at least one host:port is needed"))
	}
	for _, b := range c.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			errs = append(errs, fmt.Errorf("brokers: %q is not host:port", b))
		}
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"dial_timeout", c.DialTimeout}, {"request_timeout", c.RequestTimeout}, {"metadata_ttl", c.MetadataTTL},
		{"retry_backoff", c.RetryBackoff}, {"retry_backoff_max", c.RetryBackoffMax},
	} {
		if d.d <= 0 {
			errs = append(errs, fmt.Errorf("%s is %s, must be above zero", d.name, d.d))
		}
	}
	if c.RetryBackoffMax < c.RetryBackoff {
		errs = append(errs, fmt.Errorf("retry_backoff_max %s is below retry_backoff %s", c.RetryBackoffMax, c.RetryBackoff))
	}
	errs = append(errs, c.TLS.validate(), c.SASL.validate())
	return errors.Join(errs...)
}

func (c TLSConfig) validate() error {
	if !c.Enabled && (c.CAFile != "" || c.CertFile != "" || c.KeyFile != "") {
		return errors.New("tls: files are given but enabled is false")
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("tls: cert_file and key_file go together")
	}
	return nil
}

func (c SASLConfig) validate() error {
	switch c.Mechanism {
	case "":
		if c.Username != "" || c.Password != "" {
			return errors.New("sasl: username or password is given but mechanism is empty")
		}
		return nil
	case "plain", "scram-sha-256", "scram-sha-512":
		if c.Username == "" || c.Password == "" {
			return fmt.Errorf("sasl: mechanism %s needs username and password", c.Mechanism)
		}
		return nil
	}
	return fmt.Errorf("sasl: mechanism is %q, must be plain, scram-sha-256 or scram-sha-512", c.Mechanism)
}

func (c TLSConfig) build() (*tls.Config, error) {
	if !c.Enabled {
		return nil, nil
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read tls ca_file: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls ca_file %s holds no PEM certificate", c.CAFile)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read tls cert_file and key_file: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

func (c SASLConfig) build() (sasl.Mechanism, error) {
	switch c.Mechanism {
	case "plain":
		return plain.Mechanism{Username: c.Username, Password: c.Password.Reveal()}, nil
	case "scram-sha-256":
		return scram.Mechanism(scram.SHA256, c.Username, c.Password.Reveal())
	case "scram-sha-512":
		return scram.Mechanism(scram.SHA512, c.Username, c.Password.Reveal())
	}
	return nil, nil
}
