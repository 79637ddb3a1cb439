package envoy

import (
	"net/netip"

	"github.com/tollway/tollway/pipelines/call"
)

// identity fills the columns that say who called and what was called. Custom
// tags are what the operator wrote down and come first; then what the quota
// service answered, then the authorization service. None of them is believed
// from a stream that may not speak for others. What Envoy itself has verified,
// a token or a certificate, is a credential that the catalog still has to know.
func identity(e *Entry, trusted bool, c *call.Call) {
	s := &c.Strings
	if trusted {
		t, rl, az := &e.Tags, &e.RateLimit, &e.ExtAuthz
		s[call.API] = value(t[TagAPI])
		s[call.Operation] = value(t[TagOperation])
		s[call.Product] = first(t[TagProduct], rl[MetaProduct], az[MetaProduct])
		s[call.Account] = first(t[TagAccount], rl[MetaAccount], az[MetaAccount])
		s[call.App] = first(t[TagApp], rl[MetaApp], az[MetaApp])
		s[call.Plan] = first(t[TagPlan], rl[MetaPlan], az[MetaPlan])
		s[call.Subscription] = first(t[TagSubscription], rl[MetaSubscription], az[MetaSubscription])
		s[call.Credential] = first(t[TagCredential], rl[MetaKeyID], az[MetaKeyID])
		if s[call.Credential] == "" {
			s[call.Credential] = first(rl[MetaSubject], az[MetaSubject], "")
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
	if s[call.Credential] == "" {
		s[call.Credential] = first(e.JWT.ClientID, e.JWT.AZP, e.JWT.Sub)
	}
	if s[call.Credential] == "" {
		s[call.Credential] = e.PeerURI
	}
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
