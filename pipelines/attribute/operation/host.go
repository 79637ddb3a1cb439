package operation

import (
	"errors"
	"regexp"
	"strings"
	"unsafe"
)

// maxHost is the longest name there is; nothing longer is compared.
const maxHost = 255

// site returns the most specific site of a host.
func (m *Matcher) site(host string) *site {
	if len(m.names) == 0 && len(m.suffixes) == 0 {
		return m.any
	}
	if s := m.names[host]; s != nil {
		return s
	}
	host = withoutPort(host)
	if len(host) > maxHost {
		return m.any
	}
	for i := range len(host) {
		if 'A' <= host[i] && host[i] <= 'Z' {
			return m.siteUpper(host)
		}
	}
	return m.siteLower(host)
}

func (m *Matcher) siteUpper(host string) *site {
	var space [maxHost]byte
	lower := space[:len(host)]
	for i := range len(host) {
		lower[i] = host[i]
		if 'A' <= host[i] && host[i] <= 'Z' {
			lower[i] += 'a' - 'A'
		}
	}
	// The string lives no longer than the call, and nobody writes to the bytes.
	return m.siteLower(unsafe.String(unsafe.SliceData(lower), len(lower)))
}

func (m *Matcher) siteLower(host string) *site {
	if s := m.names[host]; s != nil {
		return s
	}
	return m.suffixSite(host)
}

// suffixSite returns the site of the longest suffix below which a host is.
func (m *Matcher) suffixSite(host string) *site {
	if len(m.suffixes) == 0 {
		return m.any
	}
	for i := 1; i < len(host); i++ {
		if host[i] == '.' {
			if s := m.suffixes[host[i:]]; s != nil {
				return s
			}
		}
	}
	return m.any
}

// withoutPort cuts off the port and the dot of the root.
func withoutPort(host string) string {
	// The colons of an address are in brackets.
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		host = host[:i]
	}
	return strings.TrimSuffix(host, ".")
}

var (
	hostName = regexp.MustCompile(`^([a-z0-9_-]+\.)*[a-z0-9_-]+$|^\[[0-9a-f:.]+\]$`)
	portText = regexp.MustCompile(`:[0-9]+$`)
)

// parseHost returns the form of a rule's host that calls are compared with; a
// suffix begins with *. and any host is *.
func parseHost(text string) (string, error) {
	if text == "*" {
		return text, nil
	}
	host := portText.ReplaceAllString(strings.ToLower(text), "")
	host = strings.TrimSuffix(host, ".")
	name := strings.TrimPrefix(host, "*.")
	if len(host) > maxHost || !hostName.MatchString(name) {
		return "", errors.New("must be a host name, an address (with an IPv6 one in brackets), or *.suffix; " +
			"international names are written as xn--")
	}
	return host, nil
}
