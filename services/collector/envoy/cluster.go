package envoy

import "strings"

// Cluster splits the name of an upstream cluster into the upstream and its
// version. Istio's names are direction|port|subset|host, or the same joined by
// "_." where they also serve as server names; other names are their own
// upstream. An inbound cluster has no host and keeps its name.
func Cluster(name string) (upstream, version string) {
	sep := "|"
	rest, ok := cutDirection(name, sep)
	if !ok {
		sep = "_."
		if rest, ok = cutDirection(name, sep); !ok {
			return name, ""
		}
	}
	port, rest, ok := strings.Cut(rest, sep)
	if !ok || !digits(port) {
		return name, ""
	}
	subset, host, ok := strings.Cut(rest, sep)
	if !ok || host == "" || strings.Contains(host, sep) {
		return name, ""
	}
	return host, subset
}

func cutDirection(name, sep string) (string, bool) {
	for _, direction := range [...]string{"outbound", "inbound"} {
		if rest, ok := strings.CutPrefix(name, direction); ok {
			return strings.CutPrefix(rest, sep)
		}
	}
	return "", false
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
