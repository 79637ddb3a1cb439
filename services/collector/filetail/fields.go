package filetail

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tollway/tollway/services/collector/envoy"
	"github.com/tollway/tollway/services/collector/scan"
)

// line is what one line says, in Envoy's terms.
type line struct {
	envoy.Entry
	node string // of the line, if it names one
}

// setter puts the text of a value where it belongs. Text logs have numbers in
// quotes too, so all values come as text; "-" and null never come.
type setter func(l *line, value string) error

// setters are the fields a key can be mapped to, by name.
var setters = newSetters()

// FieldNames lists the fields that a key of a line can be mapped to.
func FieldNames() []string { return slices.Sorted(maps.Keys(setters)) }

func newSetters() map[string]setter {
	m := map[string]setter{
		"start_time":      startTime,
		"access_log_type": logType,
		"flags":           func(l *line, v string) error { l.Flags = envoy.ParseFlags(v); return nil },
		"status":          number(func(l *line) *uint32 { return &l.Status }),
		"attempts":        number(func(l *line) *uint32 { return &l.Attempts }),

		"request_header_bytes":  size(func(l *line) *uint64 { return &l.RequestHeader }),
		"request_body_bytes":    size(func(l *line) *uint64 { return &l.RequestBody }),
		"response_header_bytes": size(func(l *line) *uint64 { return &l.ResponseHeader }),
		"response_body_bytes":   size(func(l *line) *uint64 { return &l.ResponseBody }),
	}
	for name, at := range map[string]func(l *line) *string{
		"node":             func(l *line) *string { return &l.node },
		"stream_id":        func(l *line) *string { return &l.StreamID },
		"request_id":       func(l *line) *string { return &l.RequestID },
		"client_address":   func(l *line) *string { return &l.ClientAddress },
		"peer_address":     func(l *line) *string { return &l.PeerAddress },
		"peer_uri":         func(l *line) *string { return &l.PeerURI },
		"protocol":         func(l *line) *string { return &l.Protocol },
		"method":           func(l *line) *string { return &l.Method },
		"authority":        func(l *line) *string { return &l.Authority },
		"path":             func(l *line) *string { return &l.Path },
		"original_path":    func(l *line) *string { return &l.OriginalPath },
		"user_agent":       func(l *line) *string { return &l.UserAgent },
		"route":            func(l *line) *string { return &l.Route },
		"upstream_cluster": func(l *line) *string { return &l.Cluster },
		"upstream_host":    func(l *line) *string { return &l.UpstreamAddress },
		"details":          func(l *line) *string { return &l.Details },
		"grpc_status":      func(l *line) *string { return &l.TrailerGRPC },
		"jwt_iss":          func(l *line) *string { return &l.JWT.Issuer },
		"jwt_client_id":    func(l *line) *string { return &l.JWT.ClientID },
		"jwt_azp":          func(l *line) *string { return &l.JWT.AZP },
		"jwt_sub":          func(l *line) *string { return &l.JWT.Sub },
	} {
		m[name] = func(l *line, v string) error { *at(l) = v; return nil }
	}
	for i, name := range []string{
		"time_to_last_rx_byte", "time_to_first_upstream_tx_byte", "time_to_last_upstream_tx_byte", "time_to_first_upstream_rx_byte",
		"time_to_last_upstream_rx_byte", "time_to_first_downstream_tx_byte", "time_to_last_downstream_tx_byte", "duration",
	} {
		m[name+"_us"] = point(envoy.Point(i), 1)
		m[name+"_ms"] = point(envoy.Point(i), 1000)
	}
	for _, name := range []string{"api", "operation", "version", "track", "environment", "product", "account", "app", "plan", "subscription", "credential"} {
		if tag, ok := envoy.TagByName(name); ok {
			m[name] = func(l *line, v string) error { l.Tags[tag] = v; return nil }
		}
	}
	for _, name := range []string{"key_id", "subject", "plan", "account", "app", "product", "subscription", "decision", "api", "operation"} {
		if key, ok := envoy.MetaByName(name); ok {
			m["ratelimit_"+name] = func(l *line, v string) error { l.RateLimit[key] = v; return nil }
			m["ext_authz_"+name] = func(l *line, v string) error { l.ExtAuthz[key] = v; return nil }
		}
	}
	return m
}

func startTime(l *line, v string) error {
	us, err := scan.Time(v)
	if err != nil {
		return err
	}
	seconds := us / 1e6
	if us%1e6 < 0 {
		seconds--
	}
	l.Start = envoy.Span{Seconds: seconds, Nanos: int32(us-seconds*1e6) * 1000, Set: true}
	return nil
}

// logType reads %ACCESS_LOG_TYPE%.
func logType(l *line, v string) error {
	switch v {
	case "NotSet":
	case "DownstreamEnd":
		l.Type = envoy.TypeDownstreamEnd
	case "TcpConnectionEnd":
		l.Type, l.TCP = envoy.TypeTCPConnectionEnd, true
	case "UdpSessionEnd":
		l.Type, l.TCP = envoy.TypeUDPSessionEnd, true
	default:
		l.Intermediate, l.Type = true, envoy.TypeNotSet
	}
	return nil
}

func number(at func(l *line) *uint32) setter {
	return func(l *line, v string) error {
		n, err := scan.Unsigned(v, 1<<32-1)
		*at(l) = uint32(n)
		return err
	}
}

func size(at func(l *line) *uint64) setter {
	return func(l *line, v string) error {
		n, err := scan.Unsigned(v, 1<<53)
		*at(l) = uint64(n)
		return err
	}
}

// point reads a duration; a fraction of the unit is kept as far as microseconds
// go. Negative ones are how some formats say that there was none.
func point(p envoy.Point, micros int64) setter {
	return func(l *line, v string) error {
		if strings.HasPrefix(v, "-") {
			return nil
		}
		us, err := scan.Unsigned(v, 1<<53/micros)
		us *= micros
		if errors.Is(err, scan.ErrNotInteger) {
			f, bad := strconv.ParseFloat(v, 64)
			if bad != nil || f*float64(micros) > 1<<53 {
				return scan.ErrNotInteger
			}
			us, err = int64(f*float64(micros)), nil
		}
		l.Points[p] = envoy.Span{Seconds: us / 1e6, Nanos: int32(us%1e6) * 1000, Set: err == nil}
		return err
	}
}
