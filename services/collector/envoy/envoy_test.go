package envoy

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tollway/tollway/pipelines/call"
)

var now = time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC)

func TestFault(t *testing.T) {
	const up = viaUpstream
	tests := []struct {
		name          string
		entry         Entry
		grpc          int16
		fault, denied string
	}{
		{"success", Entry{Status: 200, Details: up}, -1, call.FaultNone, ""},
		{"grpc success", Entry{Status: 200, Details: up}, 0, call.FaultNone, ""},
		{"grpc not found", Entry{Status: 200, Details: up}, 5, call.FaultClient, ""},
		{"grpc unavailable", Entry{Status: 200, Details: up}, 14, call.FaultUpstream, ""},
		{"bad request", Entry{Status: 400, Details: up}, -1, call.FaultClient, ""},
		{"the upstream's own limit", Entry{Status: 429, Details: up}, -1, call.FaultClient, ""},
		{"the upstream's own check", Entry{Status: 401, Details: up}, -1, call.FaultClient, ""},
		{"error from upstream", Entry{Status: 500, Details: up}, -1, call.FaultUpstream, ""},
		{"error, source unknown", Entry{Status: 503}, -1, call.FaultGateway, ""},
		{"error, from an upstream host", Entry{Status: 503, UpstreamAddress: "10.0.0.1"}, -1, call.FaultUpstream, ""},
		{"client left", Entry{Flags: DownstreamConnectionTermination}, -1, call.FaultClient, ""},
		{"client left during the answer", Entry{Status: 200, Details: up, Flags: DownstreamConnectionTermination}, -1, call.FaultClient, ""},
		{"client left a slow upstream", Entry{Flags: DownstreamConnectionTermination | UpstreamRequestTimeout}, -1, call.FaultClient, ""},
		{"rate limited", Entry{Status: 429, Details: "request_rate_limited", Flags: RateLimited}, -1, call.FaultPolicy, DeniedQuota},
		{"rate limited by the local filter", Entry{Status: 429, Details: "local_rate_limited"}, -1, call.FaultPolicy, DeniedQuota},
		{"denied by authorization", Entry{Status: 403, Details: "ext_authz_denied", Flags: Unauthorized}, -1, call.FaultPolicy, DeniedAuth},
		{"quota by authorization", Entry{Status: 429, Details: "ext_authz_denied", Flags: Unauthorized}, -1, call.FaultPolicy, DeniedQuota},
		{"quota by decision", Entry{Status: 403, Flags: Unauthorized, ExtAuthz: Metadata{MetaDecision: "over_quota"}}, -1, call.FaultPolicy, DeniedQuota},
		{"authorization is away", Entry{Status: 403, Details: "ext_authz_error", Flags: Unauthorized}, -1, call.FaultGateway, ""},
		{"quota service is away", Entry{Status: 500, Details: "rate_limiter_error", Flags: RateLimitServiceError}, -1, call.FaultGateway, ""},
		{"quota service is away, let through", Entry{Status: 200, Details: up, Flags: RateLimitServiceError}, -1, call.FaultNone, ""},
		{"no token", Entry{Status: 401, Details: "jwt_authn_access_denied{Jwt_is_missing}"}, -1, call.FaultPolicy, DeniedAuth},
		{"rbac", Entry{Status: 403, Details: "rbac_access_denied_matched_policy[none]"}, -1, call.FaultPolicy, DeniedAuth},
		{"no route", Entry{Status: 404, Details: "route_not_found", Flags: NoRouteFound}, -1, call.FaultGateway, ""},
		{"no cluster", Entry{Status: 503, Details: "cluster_not_found", Flags: NoClusterFound}, -1, call.FaultGateway, ""},
		{"no healthy upstream", Entry{Status: 503, Details: "no_healthy_upstream", Flags: NoHealthyUpstream}, -1, call.FaultUpstream, ""},
		{"connect failed", Entry{Status: 503, Details: "upstream_reset_before_response_started", Flags: UpstreamConnectionFailure | UpstreamRetryLimitExceeded}, -1, call.FaultUpstream, ""},
		{"timeout", Entry{Status: 504, Details: "upstream_response_timeout", Flags: UpstreamRequestTimeout}, -1, call.FaultUpstream, ""},
		{"upstream full", Entry{Status: 503, Details: "upstream_overflow", Flags: UpstreamOverflow}, -1, call.FaultUpstream, ""},
		{"body too large", Entry{Status: 413, Details: "request_payload_too_large"}, -1, call.FaultClient, ""},
		{"bad protocol", Entry{Status: 400, Details: "http1.codec_error", Flags: DownstreamProtocolError}, -1, call.FaultClient, ""},
		{"overloaded", Entry{Status: 503, Details: "overload", Flags: OverloadManager}, -1, call.FaultGateway, ""},
		{"direct response", Entry{Status: 302, Details: "direct_response"}, -1, call.FaultNone, ""},
		{"no answer, no reason", Entry{}, -1, call.FaultGateway, ""},
		{"tcp", Entry{TCP: true}, -1, call.FaultNone, ""},
		{"tcp, connect failed", Entry{TCP: true, Flags: UpstreamConnectionFailure}, -1, call.FaultUpstream, ""},
		{"tcp, rbac", Entry{TCP: true, Details: "rbac_access_denied_matched_policy[none]"}, -1, call.FaultPolicy, DeniedAuth},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if fault, denied := blame(&tt.entry, tt.grpc); fault != tt.fault || denied != tt.denied {
				t.Errorf("fault %q, denied %q; want %q, %q", fault, denied, tt.fault, tt.denied)
			}
		})
	}
}

func TestFlags(t *testing.T) {
	if got := (UpstreamConnectionFailure | UpstreamRetryLimitExceeded | NoHealthyUpstream).String(); got != "UH,UF,URX" {
		t.Errorf("got %q", got)
	}
	if got := ParseFlags("-") | ParseFlags("") | ParseFlags("XYZ"); got != 0 {
		t.Errorf("got %v", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		f := Flags(rapid.Uint32Range(0, 1<<flagCount-1).Draw(t, "flags"))
		if got := ParseFlags(f.String()); got != f {
			t.Errorf("%v became %v", f, got)
		}
	})
}

func TestCluster(t *testing.T) {
	tests := []struct{ name, upstream, version string }{
		{"orders-canary", "orders-canary", ""},
		{"outbound|8080|v2|reviews.default.svc.cluster.local", "reviews.default.svc.cluster.local", "v2"},
		{"outbound|8080||reviews.default.svc.cluster.local", "reviews.default.svc.cluster.local", ""},
		{"outbound_.8080_.v2_.reviews.default.svc.cluster.local", "reviews.default.svc.cluster.local", "v2"},
		{"inbound|8080||", "inbound|8080||", ""},
		{"outbound|x|v2|host", "outbound|x|v2|host", ""},
		{"outbound|8080|v2", "outbound|8080|v2", ""},
		{"outbound|8080|v2|a|b", "outbound|8080|v2|a|b", ""},
		{"outbound", "outbound", ""},
		{"", "", ""},
	}
	for _, tt := range tests {
		if upstream, version := Cluster(tt.name); upstream != tt.upstream || version != tt.version {
			t.Errorf("%q: %q, %q; want %q, %q", tt.name, upstream, version, tt.upstream, tt.version)
		}
	}
}

func spanOf(us int64) Span { return Span{Seconds: us / 1e6, Nanos: int32(us % 1e6 * 1000), Set: true} }

// When all points are there and in order, the parts cover the call without gap
// or overlap, but for the time in which the request is sent upstream.
func TestLatencyParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e Entry
		var at [points]int64
		us := int64(0)
		for _, p := range []Point{LastRx, FirstUpstreamTx, LastUpstreamTx, FirstUpstreamRx, FirstDownstreamTx, LastUpstreamRx, LastDownstreamTx, Duration} {
			us += rapid.Int64Range(0, 1e7).Draw(t, "step")
			at[p] = us
			e.Points[p] = spanOf(us)
		}
		var l [call.LatencyColumns]int64
		if r := latency(&e, &l); r != nil {
			t.Fatal(r)
		}
		send := at[LastUpstreamTx] - at[FirstUpstreamTx]
		sum := l[call.ClientIn] + l[call.GatewayIn] + send + l[call.UpstreamTime] + l[call.UpstreamTransfer] + l[call.ClientOut]
		if sum != at[LastDownstreamTx] || l[call.Total] != us || l[call.TTFB] != at[FirstDownstreamTx] {
			t.Errorf("points %v, latencies %v", at, l)
		}
	})
}

func TestLatencyIsNeverNegativeAndNeverInvented(t *testing.T) {
	needs := map[call.LatencyColumn][]Point{
		call.ClientIn: {LastRx}, call.GatewayIn: {LastRx, FirstUpstreamTx}, call.UpstreamTime: {LastUpstreamTx, FirstUpstreamRx},
		call.UpstreamTransfer: {FirstUpstreamRx, LastUpstreamRx}, call.GatewayOut: {FirstUpstreamRx, FirstDownstreamTx},
		call.ClientOut: {FirstDownstreamTx, LastDownstreamTx}, call.TTFB: {FirstDownstreamTx},
	}
	rapid.Check(t, func(t *rapid.T) {
		var e Entry
		for p := range e.Points {
			if rapid.Bool().Draw(t, "set") {
				e.Points[p] = spanOf(rapid.Int64Range(-5, 1000).Draw(t, "us"))
			}
		}
		var l [call.LatencyColumns]int64
		if r := latency(&e, &l); r != nil {
			t.Fatal(r)
		}
		for column, points := range needs {
			measured := true
			for _, p := range points {
				measured = measured && e.Points[p].Set
			}
			if measured != (l[column] != call.NotMeasured) || l[column] < call.NotMeasured {
				t.Errorf("%v is %d with points %v", column, l[column], e.Points)
			}
		}
		if measured := e.Points[Duration].Set || e.Points[LastDownstreamTx].Set; measured != (l[call.Total] != call.NotMeasured) {
			t.Errorf("total is %d", l[call.Total])
		}
	})
}

func mapEntry(t *testing.T, cfg Config, e *Entry) (call.Call, error) {
	t.Helper()
	m, err := NewMapper(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var c call.Call
	var s Scratch
	err = m.Map(&Node{ID: "edge-1"}, e, []byte("raw"), true, now.UnixMicro(), &s, &c)
	return c, err
}

func started(at time.Time) Span {
	return Span{Seconds: at.Unix(), Nanos: int32(at.Nanosecond()), Set: true}
}

func TestRejects(t *testing.T) {
	tests := []struct {
		name  string
		entry Entry
		want  Reject
	}{
		{"no start", Entry{}, Reject{ReasonMissing, "start_time"}},
		{"future", Entry{Start: started(now.Add(6 * time.Minute))}, Reject{ReasonFuture, "start_time"}},
		{"past", Entry{Start: started(now.Add(-36 * 24 * time.Hour))}, Reject{ReasonPast, "start_time"}},
		{"no year", Entry{Start: Span{Seconds: 1 << 60, Set: true}}, Reject{ReasonRange, "start_time"}},
		{"no duration", Entry{Start: started(now), Points: [points]Span{Duration: {Seconds: 1 << 60, Set: true}}}, Reject{ReasonRange, "duration"}},
		{"no status", Entry{Start: started(now), Status: 1000}, Reject{ReasonRange, "response_code"}},
		{"no size", Entry{Start: started(now), RequestBody: 1 << 63}, Reject{ReasonRange, "request_bytes"}},
		{"no size back", Entry{Start: started(now), ResponseHeader: 1 << 63}, Reject{ReasonRange, "response_bytes"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := mapEntry(t, DefaultConfig(), &tt.entry)
			var got *Reject
			if !errors.As(err, &got) || *got != tt.want {
				t.Errorf("got %v, want %v", err, &tt.want)
			}
		})
	}
}

func TestClientIP(t *testing.T) {
	tests := []struct {
		mode          ClientIPMode
		address, want string
	}{
		{ClientIPTruncated, "203.0.113.77", "203.0.113.0"},
		{ClientIPTruncated, "::ffff:203.0.113.77", "203.0.113.0"},
		{ClientIPTruncated, "2001:db8:1:2::3", "2001:db8:1::"},
		{ClientIPTruncated, "fe80::1%eth0", "fe80::"},
		{ClientIPTruncated, "203.0.113.77:51022", "203.0.113.0"},
		{ClientIPTruncated, "[2001:db8:1:2::3]:51022", "2001:db8:1::"},
		{ClientIPTruncated, "somebody", ""},
		{ClientIPTruncated, "", ""},
		{ClientIPFull, "203.0.113.77", "203.0.113.77"},
		{ClientIPNone, "203.0.113.77", ""},
	}
	for _, tt := range tests {
		cfg := DefaultConfig()
		cfg.ClientIP = tt.mode
		c, err := mapEntry(t, cfg, &Entry{Start: started(now), ClientAddress: tt.address})
		if err != nil || c.ClientIP != tt.want {
			t.Errorf("%s %q: %q, %v; want %q", tt.mode, tt.address, c.ClientIP, err, tt.want)
		}
	}
}

func TestCredential(t *testing.T) {
	full := Entry{Start: started(now), PeerURI: "spiffe://td/ns/a/sa/b", JWT: JWT{Issuer: "iss", ClientID: "client", AZP: "azp", Sub: "sub"},
		RateLimit: Metadata{MetaKeyID: "rl-key", MetaSubject: "rl-subject"}, ExtAuthz: Metadata{MetaKeyID: "az-key", MetaSubject: "az-subject"},
		Tags: [tags]string{TagCredential: "tag"}}
	// Each step takes away what came first until then.
	steps := []struct {
		want string
		drop func(*Entry)
	}{
		{"tag", func(e *Entry) { e.Tags[TagCredential] = "none" }},
		{"rl-key", func(e *Entry) { e.RateLimit[MetaKeyID] = "" }},
		{"az-key", func(e *Entry) { e.ExtAuthz[MetaKeyID] = "" }},
		{"rl-subject", func(e *Entry) { e.RateLimit[MetaSubject] = "" }},
		{"az-subject", func(e *Entry) { e.ExtAuthz[MetaSubject] = "-" }},
		{"client:iss#client", func(e *Entry) { e.JWT.ClientID = "" }},
		{"client:iss#azp", func(e *Entry) { e.JWT.AZP = "" }},
		{"subject:iss#sub", func(e *Entry) { e.JWT.Sub = "" }},
		{"certificate:spiffe://td/ns/a/sa/b", func(e *Entry) { e.PeerURI = "" }},
		{"", func(*Entry) {}},
	}
	for _, step := range steps {
		c, err := mapEntry(t, DefaultConfig(), &full)
		if err != nil || c.Strings[call.Credential] != step.want {
			t.Errorf("got %q, %v; want %q", c.Strings[call.Credential], err, step.want)
		}
		step.drop(&full)
	}
}

func TestIdentity(t *testing.T) {
	base := Entry{Start: started(now), StreamID: "s", RequestID: "r"}
	a, _ := mapEntry(t, DefaultConfig(), &base)
	if want := call.NewID("edge-1", "s", "1795500000000000"); a.ID != want {
		t.Errorf("got %v, want %v", a.ID, want)
	}
	base.StreamID = ""
	b, _ := mapEntry(t, DefaultConfig(), &base)
	if want := call.NewID("edge-1", "r", "1795500000000000"); b.ID != want {
		t.Errorf("by request id: got %v, want %v", b.ID, want)
	}
	base.RequestID = ""
	c, _ := mapEntry(t, DefaultConfig(), &base)
	if want := call.NewID("edge-1", "raw"); c.ID != want {
		t.Errorf("by content: got %v, want %v", c.ID, want)
	}
}

func TestPathAndHost(t *testing.T) {
	e := Entry{Start: started(now), Path: "/internal?x=1", OriginalPath: "/v1/orders?token=secret", UpstreamAddress: "2001:db8::1", UpstreamPort: 443}
	c, err := mapEntry(t, DefaultConfig(), &e)
	if err != nil || c.Path != "/v1/orders" || c.Strings[call.UpstreamHost] != "[2001:db8::1]:443" {
		t.Errorf("path %q, host %q, %v", c.Path, c.Strings[call.UpstreamHost], err)
	}
	cfg := DefaultConfig()
	cfg.KeepQuery = true
	e.OriginalPath = "/v1/orders?page=2&api_key=secret&API%5fKEY=secret&x&=1#access_token=secret&y=key"
	if c, _ = mapEntry(t, cfg, &e); c.Path != "/v1/orders?page=2&api_key=&API%5fKEY=&x&=1#access_token=&y=key" {
		t.Errorf("path %q", c.Path)
	}
}

// A stream that may not speak for others does not say who called, in whatever
// way.
func TestUntrustedIdentity(t *testing.T) {
	m, err := NewMapper(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []Entry{
		{PeerURI: "spiffe://td/ns/a"}, {JWT: JWT{Issuer: "iss", Sub: "sub"}}, {JWT: JWT{Issuer: "iss", ClientID: "client"}},
		{Tags: [tags]string{TagCredential: "a/b/c"}}, {ExtAuthz: Metadata{MetaKeyID: "a/b/c"}}, {RateLimit: Metadata{MetaSubject: "a/b"}},
	} {
		e.Start = started(now)
		var c call.Call
		if err := m.Map(&Node{}, &e, nil, false, now.UnixMicro(), &Scratch{}, &c); err != nil || c.Strings[call.Credential] != "" {
			t.Errorf("%+v: %q, %v", e, c.Strings[call.Credential], err)
		}
	}
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	for want, change := range map[string]func(*Config){
		`client_ip: "some" is not one of truncated, full, none`: func(c *Config) { c.ClientIP = "some" },
		`max_future: 0s is not a positive duration`:             func(c *Config) { c.MaxFuture = 0 },
		`max_age: -1ns is not a positive duration`:              func(c *Config) { c.MaxAge = -1 },
	} {
		cfg := DefaultConfig()
		change(&cfg)
		if _, err := NewMapper(cfg); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
