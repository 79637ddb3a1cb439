package envoy

import (
	"fmt"
	"time"
)

// ClientIPMode is how much of a client's address is kept.
type ClientIPMode string

// The modes.
const (
	ClientIPTruncated ClientIPMode = "truncated" // /24 of IPv4, /48 of IPv6
	ClientIPFull      ClientIPMode = "full"
	ClientIPNone      ClientIPMode = "none"
)

// Config is how entries become calls; the Envoy sources share it.
type Config struct {
	// Source names the source of every call; empty: "envoy/" and the node's
	// cluster.
	Source string `yaml:"source"`
	// Environment is the environment of calls that bring none themselves.
	Environment string `yaml:"environment"`
	// KeepQuery keeps the query in the path, without the values of parameters that
	// are named as credentials are, such as api_key. Queries often hold secrets.
	KeepQuery bool `yaml:"keep_query"`
	// ClientIP is truncated, full or none.
	ClientIP ClientIPMode `yaml:"client_ip"`
	// MaxFuture is how far ahead of the collector's clock a call may start.
	MaxFuture time.Duration `yaml:"max_future"`
	// MaxAge is how long ago a call may have started: what the store keeps.
	MaxAge time.Duration `yaml:"max_age"`
}

// DefaultConfig is what is used where nothing is configured.
func DefaultConfig() Config {
	return Config{ClientIP: ClientIPTruncated, MaxFuture: 5 * time.Minute, MaxAge: 35 * 24 * time.Hour}
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	switch c.ClientIP {
	case ClientIPTruncated, ClientIPFull, ClientIPNone:
	default:
		return fmt.Errorf("client_ip: %q is not one of truncated, full, none", c.ClientIP)
	}
	if c.MaxFuture <= 0 {
		return fmt.Errorf("max_future: %v is not a positive duration", c.MaxFuture)
	}
	if c.MaxAge <= 0 {
		return fmt.Errorf("max_age: %v is not a positive duration", c.MaxAge)
	}
	return nil
}
