package extauthz

import (
	"errors"
	"slices"
	"strings"
)

// Config says where credentials are found and what they must be good for.
type Config struct {
	// KeyHeaders are the request headers in which API keys come, in lower case.
	KeyHeaders []string `yaml:"key_headers"`
	// KeyParameters are the query parameters in which API keys come.
	KeyParameters []string `yaml:"key_parameters"`
	// BearerPrefix is how an API key in "Authorization: Bearer" begins; any other
	// bearer is a JWT. Empty: every bearer is a JWT.
	BearerPrefix string `yaml:"bearer_prefix"`
	// RequireSubscription refuses calls of products that the caller has no active
	// subscription to, and calls of what is in no product.
	RequireSubscription bool `yaml:"require_subscription"`
	// Environment is where the gateways are that do not say it themselves, by a
	// context extension named environment. Empty: anywhere.
	Environment string `yaml:"environment"`
}

// DefaultConfig takes keys in x-api-key, api_key and as bearers.
func DefaultConfig() Config {
	return Config{KeyHeaders: []string{"x-api-key"}, KeyParameters: []string{"api_key"}, BearerPrefix: "tk_", RequireSubscription: true}
}

// Validate names the field that is wrong.
func (c Config) Validate() error {
	for _, h := range c.KeyHeaders {
		if h == "" || h != strings.ToLower(h) || strings.ContainsAny(h, ": ") {
			return errors.New("key_headers: names must be in lower case, without a colon")
		}
	}
	if slices.Contains(c.KeyHeaders, "authorization") {
		return errors.New("key_headers: authorization is read as a bearer, see bearer_prefix")
	}
	if slices.Contains(c.KeyParameters, "") {
		return errors.New("key_parameters: names must not be empty")
	}
	return nil
}
