package auth

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tollway/tollway/services/platform/jwks"
)

// Config is who is known besides those with tokens.
type Config struct {
	// OIDC are identity providers whose tokens are accepted.
	OIDC []OIDC `yaml:"oidc"`
	// Certificates are callers that are known by their client certificate. Their
	// listener needs client_ca_file.
	Certificates []Certificate `yaml:"certificates"`
}

// Validate names the entry that is wrong.
func (c Config) Validate() error {
	var errs []error
	issuers, names := map[string]bool{}, map[string]bool{}
	for n, p := range c.OIDC {
		if err := p.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("oidc[%d]: %w", n, err))
		}
		if issuers[p.Issuer] {
			errs = append(errs, fmt.Errorf("oidc[%d]: issuer %q is there twice", n, p.Issuer))
		}
		issuers[p.Issuer] = true
	}
	for n, cert := range c.Certificates {
		if err := cert.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("certificates[%d]: %w", n, err))
		}
		if names[cert.Name] {
			errs = append(errs, fmt.Errorf("certificates[%d]: name %q is there twice", n, cert.Name))
		}
		names[cert.Name] = true
	}
	return errors.Join(errs...)
}

// OIDC is an identity provider.
type OIDC struct {
	Issuer string `yaml:"issuer"`
	// Audience are those of which a token must have one.
	Audience []string `yaml:"audience"`
	// JWKSURL or JWKSFile has the provider's keys.
	JWKSURL    string   `yaml:"jwks_url"`
	JWKSFile   string   `yaml:"jwks_file"`
	Algorithms []string `yaml:"algorithms"` // RS256, ES256 and EdDSA if empty
	// RoleClaim holds a text or a list of texts, such as groups. It is the name of
	// a claim, or the way to one with dots, such as realm_access.roles.
	RoleClaim string `yaml:"role_claim"`
	// RoleMap says which role a text in it stands for. Who has none of them is not
	// let in; who has several gets the first of admin, product_manager, finance,
	// gateway, consumer.
	RoleMap map[string]Role `yaml:"role_map"`
	// AccountClaim holds the account of a consumer, as its id or resource name.
	AccountClaim string `yaml:"account_claim"`
}

func (p OIDC) jwks() jwks.Config {
	return jwks.Config{Issuer: p.Issuer, Audiences: p.Audience, URL: p.JWKSURL, File: p.JWKSFile, Algorithms: p.Algorithms}
}

// Validate names the field that is wrong.
func (p OIDC) Validate() error {
	errs := []error{p.jwks().Validate()}
	if p.RoleClaim == "" || len(p.RoleMap) == 0 {
		errs = append(errs, errors.New("role_claim and role_map must be given, or nobody has a role"))
	}
	for text, role := range p.RoleMap {
		if _, ok := prefixes[role]; !ok {
			errs = append(errs, fmt.Errorf("role_map: %q stands for role %q, must be admin, product_manager, finance, gateway or consumer", text, role))
		}
		if role == Consumer && p.AccountClaim == "" {
			errs = append(errs, errors.New("account_claim must be given, or consumers have no account"))
		}
	}
	return errors.Join(errs...)
}

// Certificate is a caller with a client certificate.
type Certificate struct {
	// Name is a URI (spiffe://…) or DNS name in the certificate, to the letter.
	Name string `yaml:"name"`
	Role Role   `yaml:"role"`
	// Account is a consumer's.
	Account string   `yaml:"account"`
	Scopes  []string `yaml:"scopes"`
}

// Validate names the field that is wrong.
func (c Certificate) Validate() error {
	if c.Name == "" || strings.Contains(c.Name, "*") {
		return fmt.Errorf("name is %q, must be a whole URI or DNS name", c.Name)
	}
	if _, ok := prefixes[c.Role]; !ok {
		return fmt.Errorf("role is %q, must be admin, product_manager, finance, gateway or consumer", c.Role)
	}
	if (c.Role == Consumer) != (c.Account != "") {
		return errors.New("an account belongs to a consumer and to no other")
	}
	for _, scope := range c.Scopes {
		if !scopeName.MatchString(scope) {
			return fmt.Errorf("scope is %q, must be like reports.read", scope)
		}
	}
	return nil
}
