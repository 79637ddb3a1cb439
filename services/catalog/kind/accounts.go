package kind

import (
	"regexp"
	"slices"
	"strings"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

var account = spec{
	kept: []string{"state"},
	normalize: changes(func(a *catalogv1.Account) {
		if a.GetState() == catalogv1.AccountState_ACCOUNT_STATE_UNSPECIFIED {
			a.State = catalogv1.AccountState_ACCOUNT_ACTIVE
		}
		if a.GetTimeZone() == "" {
			a.TimeZone = "UTC"
		}
	}),
	validate: checks(func(a *catalogv1.Account, v *Violations) {
		required(v, "display_name", a.GetDisplayName(), maxDisplayName)
		email(v, "email", a.GetEmail())
		address(v, "billing_address", a.GetBillingAddress())
		length(v, "tax_id", a.GetTaxId(), 64)
		currencyCode(v, "currency", a.GetCurrency())
		timeZone(v, "time_zone", a.GetTimeZone())
	}),
	references: with(func(a *catalogv1.Account) []Reference {
		return []Reference{{"legal_entity", a.GetLegalEntity(), []*Kind{LegalEntity}}}
	}),
}

var app = spec{
	validate: checks(func(a *catalogv1.App, v *Violations) {
		required(v, "display_name", a.GetDisplayName(), maxDisplayName)
		length(v, "description", a.GetDescription(), maxDescription)
	}),
}

// credentialKinds are the fields of which a credential has exactly one.
var credentialKinds = []string{"api_key", "oauth_client", "jwt_subject", "client_certificate"}

var credential = spec{
	immutable:  credentialKinds,
	outputOnly: []string{"revoke_time", "api_key.prefix", "api_key.key"},
	kept:       []string{"expire_time"},
	restored:   []string{"revoke_time"},
	normalize: changes(func(c *catalogv1.Credential) {
		microseconds(c.GetExpireTime())
		microseconds(c.GetRevokeTime())
	}),
	validate: checks(checkCredential),
	uniqueKeys: with(func(c *catalogv1.Credential) []UniqueKey {
		// An issuer has no space in it, so these cannot be read in two ways.
		switch k := c.GetKind().(type) {
		case *catalogv1.Credential_OauthClient:
			return []UniqueKey{{"oauth_client.client_id", "client_id:" + k.OauthClient.GetIssuer() + " " + k.OauthClient.GetClientId(), "the client id"}}
		case *catalogv1.Credential_JwtSubject:
			return []UniqueKey{{"jwt_subject.subject", "jwt:" + k.JwtSubject.GetIssuer() + " " + k.JwtSubject.GetSubject(), "the subject"}}
		case *catalogv1.Credential_ClientCertificate:
			return []UniqueKey{{"client_certificate.uri_san", "san:" + k.ClientCertificate.GetUriSan(), "the URI"}}
		}
		return nil
	}),
}

func checkCredential(c *catalogv1.Credential, v *Violations) {
	length(v, "display_name", c.GetDisplayName(), maxDisplayName)
	moment(v, "expire_time", c.GetExpireTime())
	moment(v, "revoke_time", c.GetRevokeTime())
	switch k := c.GetKind().(type) {
	case nil:
		v.Add("kind", "one of %s is required", strings.Join(credentialKinds, ", "))
	case *catalogv1.Credential_OauthClient:
		issuer(v, "oauth_client.issuer", k.OauthClient.GetIssuer())
		required(v, "oauth_client.client_id", k.OauthClient.GetClientId(), maxText)
	case *catalogv1.Credential_JwtSubject:
		issuer(v, "jwt_subject.issuer", k.JwtSubject.GetIssuer())
		required(v, "jwt_subject.subject", k.JwtSubject.GetSubject(), maxText)
	case *catalogv1.Credential_ClientCertificate:
		uri(v, "client_certificate.uri_san", k.ClientCertificate.GetUriSan())
	}
}

func issuer(v *Violations, field, text string) {
	required(v, field, text, maxURI)
	if strings.ContainsAny(text, " \t\r\n") {
		v.Add(field, "has spaces")
	}
}

// Roles that a token can have.
var tokenRoles = []string{"admin", "product_manager", "finance", "gateway", "consumer"}

const consumer = "consumer"

var scopePattern = regexp.MustCompile(`^[a-z_]{1,40}\.[a-z_]{1,40}$`)

var token = spec{
	immutable:  []string{"role", "account"},
	outputOnly: []string{"token", "last_used_time"},
	normalize: changes(func(t *catalogv1.Token) {
		microseconds(t.GetExpireTime())
	}),
	validate: checks(func(t *catalogv1.Token, v *Violations) {
		length(v, "display_name", t.GetDisplayName(), maxDisplayName)
		moment(v, "expire_time", t.GetExpireTime())
		if !slices.Contains(tokenRoles, t.GetRole()) {
			v.Add("role", "is %q, must be one of %s", t.GetRole(), strings.Join(tokenRoles, ", "))
		}
		if (t.GetRole() == consumer) != (t.GetAccount() != "") {
			v.Add("account", "belongs to a consumer's token, and to no other")
		}
		distinct(v, "scopes", t.GetScopes(), maxScopes)
		for i, s := range t.GetScopes() {
			if !scopePattern.MatchString(s) {
				v.Add(index("scopes", i), "%q is no scope, such as reports.read", s)
			}
		}
	}),
	references: with(func(t *catalogv1.Token) []Reference {
		return []Reference{{"account", t.GetAccount(), []*Kind{Account}}}
	}),
}

var legalEntity = spec{
	normalize: changes(func(e *catalogv1.LegalEntity) {
		e.Iban = strings.ToUpper(strings.ReplaceAll(e.GetIban(), " ", ""))
	}),
	validate: checks(func(e *catalogv1.LegalEntity, v *Violations) {
		length(v, "display_name", e.GetDisplayName(), maxDisplayName)
		required(v, "legal_name", e.GetLegalName(), maxText)
		address(v, "address", e.GetAddress())
		length(v, "tax_id", e.GetTaxId(), 64)
		email(v, "email", e.GetEmail())
		iban(v, "iban", e.GetIban())
		if !invoicePrefix.MatchString(e.GetInvoicePrefix()) {
			v.Add("invoice_prefix", "%q must be capitals, digits and hyphens, at most 12", e.GetInvoicePrefix())
		}
	}),
	uniqueKeys: with(func(e *catalogv1.LegalEntity) []UniqueKey {
		// Two issuers with one prefix would write the same invoice number.
		if e.GetInvoicePrefix() == "" {
			return nil
		}
		return []UniqueKey{{"invoice_prefix", "invoice_prefix:" + e.GetInvoicePrefix(), "the prefix"}}
	}),
}

var invoicePrefix = regexp.MustCompile(`^[A-Z0-9-]{0,12}$`)

// AccountOwn are the fields of an account that its own people may change.
var AccountOwn = []string{"display_name", "email", "billing_address"}
