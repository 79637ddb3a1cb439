package envoy

import (
	"net/netip"

	"github.com/tollway/tollway/pipelines/call"
)

// identity fills the columns that say who called and what was called. Custom
// tags are what the operator wrote down and come first; then what the quota
// service answered, then the authorization service. What Envoy itself has
// verified, a token or a certificate, is a credential that the catalog still has
// to know; it is written as package call says. None of this is believed from a
// stream that may not speak for others: calls are billed by it.
func identity(e *Entry, trusted bool, scratch *Scratch, c *call.Call) {
	s := &c.Strings
	if trusted {
		t, rl, az := &e.Tags, &e.RateLimit, &e.ExtAuthz
		s[call.API] = first(t[TagAPI], rl[MetaAPI], az[MetaAPI])
		s[call.Operation] = first(t[TagOperation], rl[MetaOperation], az[MetaOperation])
		s[call.Product] = first(t[TagProduct], rl[MetaProduct], az[MetaProduct])
		s[call.Account] = first(t[TagAccount], rl[MetaAccount], az[MetaAccount])
		s[call.App] = first(t[TagApp], rl[MetaApp], az[MetaApp])
		s[call.Plan] = first(t[TagPlan], rl[MetaPlan], az[MetaPlan])
		s[call.Subscription] = first(t[TagSubscription], rl[MetaSubscription], az[MetaSubscription])
		s[call.Credential] = first(t[TagCredential], rl[MetaKeyID], az[MetaKeyID])
		if s[call.Credential] == "" {
			s[call.Credential] = first(rl[MetaSubject], az[MetaSubject], "")
		}
		if s[call.Credential] == "" {
			s[call.Credential] = verified(e, scratch)
		}
		if env := value(t[TagEnvironment]); env != "" {
			s[call.Environment] = env
		}
		if v := first(t[TagVersion], t[TagTrack], ""); v != "" {
			s[call.Version] = v
		}
		if track := value(t[TagTrack]); track != "" && track != s[call.Version] {
			c.Attributes = append(c.Attributes, call.Attribute{Name: "track", Value: track})
		}
	}
}

// verified is the credential that Envoy itself has verified. The client of a
// token goes before its subject: of many users of one app, the app is the
// caller.
func verified(e *Entry, scratch *Scratch) string {
	issuer := value(e.JWT.Issuer)
	if client := first(e.JWT.ClientID, e.JWT.AZP, ""); client != "" {
		return scratch.text(func(b []byte) []byte { return call.AppendClient(b, issuer, client) })
	}
	if subject := value(e.JWT.Sub); subject != "" {
		return scratch.text(func(b []byte) []byte { return call.AppendSubject(b, issuer, subject) })
	}
	if e.PeerURI != "" {
		return scratch.text(func(b []byte) []byte { return call.AppendCertificate(b, e.PeerURI) })
	}
	return ""
}

func first(a, b, c string) string {
	if a = value(a); a != "" {
		return a
	}
	if b = value(b); b != "" {
		return b
	}
	return value(c)
}

// value is "" for the ways in which Envoy's configuration says that there is
// none: the usual default value of a tag and the dash of its format strings.
func value(s string) string {
	if s == "-" || s == "none" {
		return ""
	}
	return s
}

// clientIP writes the client's address as far as it may be kept. What is not
// an address cannot be truncated and is left out.
func clientIP(b []byte, address string, mode ClientIPMode) []byte {
	if mode == ClientIPNone || address == "" {
		return b
	}
	ip, err := netip.ParseAddr(address)
	if err != nil {
		withPort, err := netip.ParseAddrPort(address) // of a text log
		if err != nil {
			return b
		}
		ip = withPort.Addr()
	}
	ip = ip.Unmap().WithZone("")
	if mode == ClientIPTruncated {
		bits := 48
		if ip.Is4() {
			bits = 24
		}
		prefix, err := ip.Prefix(bits)
		if err != nil {
			return b
		}
		ip = prefix.Addr()
	}
	return ip.AppendTo(b)
}
