package jwks

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// Config is one issuer of tokens.
type Config struct {
	// Issuer must be the token's iss to the letter.
	Issuer string `yaml:"issuer"`
	// Audiences, one of which must be in the token's aud.
	Audiences []string `yaml:"audiences"`
	// URL or File has the issuer's keys as a JSON Web Key Set. The URL must be
	// https, but on loopback: who can change the answer makes tokens.
	URL  string `yaml:"jwks_url"`
	File string `yaml:"jwks_file"`
	// Algorithms that tokens may be signed with; none means RS256, ES256, EdDSA.
	Algorithms []string `yaml:"algorithms"`
}

// asymmetric are all algorithms that can be configured. With a shared secret
// (HS256 and so on) everyone who can verify tokens could make them, and a public
// key could be taken for such a secret.
var asymmetric = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// Validate names the field that is wrong.
func (c Config) Validate() error {
	var errs []error
	if c.Issuer == "" {
		errs = append(errs, errors.New("issuer must not be empty"))
	}
	if len(c.Audiences) == 0 || slices.Contains(c.Audiences, "") {
		errs = append(errs, errors.New("audiences must name at least one, or tokens for anything else would do"))
	}
	if (c.URL == "") == (c.File == "") {
		errs = append(errs, errors.New("either jwks_url or jwks_file must be given"))
	}
	if c.URL != "" && !safeURL(c.URL) {
		errs = append(errs, fmt.Errorf("jwks_url is %q, must be an https address", c.URL))
	}
	for _, a := range c.Algorithms {
		if !slices.Contains(asymmetric, jose.SignatureAlgorithm(a)) {
			errs = append(errs, fmt.Errorf("algorithm is %q, must be one of %v", a, asymmetric))
		}
	}
	return errors.Join(errs...)
}

func (c Config) algorithms() []jose.SignatureAlgorithm {
	if len(c.Algorithms) == 0 {
		return []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA}
	}
	out := make([]jose.SignatureAlgorithm, len(c.Algorithms))
	for i, a := range c.Algorithms {
		out[i] = jose.SignatureAlgorithm(a)
	}
	return out
}

func safeURL(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	loopback := err == nil && ip.IsLoopback() || u.Hostname() == "localhost"
	return u.Scheme == "https" || u.Scheme == "http" && loopback
}
