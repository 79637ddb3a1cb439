package catalog

import (
	"errors"
	"fmt"

	"github.com/tollway/tollway/services/catalog/outbox"
)

// Registration is who may make an account without being asked.
type Registration string

// What Register does.
const (
	Closed   Registration = "closed"   // nothing
	Approval Registration = "approval" // makes an account that waits for approval
	Open     Registration = "open"     // makes an account
)

// Config is the catalog's part of the configuration.
type Config struct {
	Registration Registration `yaml:"registration"`
	// RegistrationsPerMinute bounds what strangers can make.
	RegistrationsPerMinute int `yaml:"registrations_per_minute"`
	// HashKeyFile holds the key of the hashes of API keys. Where there is none,
	// one is made. All processes of an installation need the same.
	HashKeyFile string `yaml:"hash_key_file"`
	// What an account's own people can make at most.
	MaxApps          int           `yaml:"max_apps"`
	MaxCredentials   int           `yaml:"max_credentials"` // of one app
	MaxSubscriptions int           `yaml:"max_subscriptions"`
	Outbox           outbox.Config `yaml:"outbox"`
}

// DefaultConfig lets nobody register.
func DefaultConfig() Config {
	return Config{
		Registration: Closed, RegistrationsPerMinute: 10, HashKeyFile: "data/hash.key",
		MaxApps: 50, MaxCredentials: 20, MaxSubscriptions: 200,
		Outbox: outbox.DefaultConfig(),
	}
}

// Validate names the field that is wrong.
func (c Config) Validate() error {
	switch c.Registration {
	case Closed, Approval, Open:
	default:
		return fmt.Errorf("catalog: registration is %q, must be closed, approval or open", c.Registration)
	}
	if c.HashKeyFile == "" {
		return errors.New("catalog: hash_key_file is empty")
	}
	for name, n := range map[string]int{
		"registrations_per_minute": c.RegistrationsPerMinute, "max_apps": c.MaxApps,
		"max_credentials": c.MaxCredentials, "max_subscriptions": c.MaxSubscriptions,
	} {
		if n < 1 {
			return fmt.Errorf("catalog: %s must be at least 1", name)
		}
	}
	if err := c.Outbox.Validate(); err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	return nil
}
