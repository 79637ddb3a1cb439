package envoy

// Point is a time point of a call that Envoy measures from the first byte it
// received from the client.
type Point int

// The time points, in the order in which they usually happen, and the duration
// of the whole call.
const (
	LastRx Point = iota // last byte of the request from the client
	FirstUpstreamTx
	LastUpstreamTx
	FirstUpstreamRx
	LastUpstreamRx
	FirstDownstreamTx
	LastDownstreamTx
	Duration

	points int = iota
)

// Span is a duration as the wire has it: a point that was not measured is not
// Set.
type Span struct {
	Seconds int64
	Nanos   int32
	Set     bool
}

// Tag is a custom tag of the access logger that fills a column.
type Tag int

// The tags, by the names in tagNames.
const (
	TagAPI Tag = iota
	TagOperation
	TagVersion
	TagTrack
	TagEnvironment
	TagProduct
	TagAccount
	TagApp
	TagPlan
	TagSubscription
	TagCredential

	tags int = iota
)

var tagNames = [tags]string{
	"api", "operation", "version", "track", "environment",
	"product", "account", "app", "plan", "subscription", "credential",
}

// TagByName finds the tag of a name.
func TagByName(name string) (Tag, bool) {
	for i, n := range tagNames {
		if n == name {
			return Tag(i), true
		}
	}
	return 0, false
}

// MetaKey is a key of the dynamic metadata that a quota or authorization
// service answers.
type MetaKey int

// The metadata keys, by the names in metaNames.
const (
	MetaKeyID MetaKey = iota
	MetaSubject
	MetaPlan
	MetaAccount
	MetaApp
	MetaProduct
	MetaSubscription
	MetaDecision
	MetaAPI
	MetaOperation

	metaKeys int = iota
)

var metaNames = [metaKeys]string{
	"key_id", "subject", "plan", "account", "app", "product", "subscription", "decision",
	"api", "operation",
}

// MetaByName finds the metadata key of a name.
func MetaByName(name string) (MetaKey, bool) {
	for i, n := range metaNames {
		if n == name {
			return MetaKey(i), true
		}
	}
	return 0, false
}

// Metadata is what one service answered about a call.
type Metadata [metaKeys]string

// Namespaces of dynamic metadata that are read.
const (
	RateLimitNamespace = "envoy.filters.http.ratelimit"
	ExtAuthzNamespace  = "envoy.filters.http.ext_authz"
	JWTNamespace       = "envoy.filters.http.jwt_authn"
)

// JWT is what is kept of a token's payload.
type JWT struct{ Issuer, ClientID, AZP, Sub string }

// Entry is one access-log entry in Envoy's terms. Strings may alias the buffer
// they were decoded from. The zero value is an entry that says nothing.
type Entry struct {
	TCP  bool
	Type int32 // envoy.data.accesslog.v3.AccessLogType
	// Intermediate is the older way to say that the call has not ended.
	Intermediate bool

	StreamID  string
	RequestID string
	Start     Span // since the Unix epoch
	Points    [points]Span

	ClientAddress string // after X-Forwarded-For
	PeerAddress   string // of the socket
	PeerURI       string // first URI name in the client's certificate

	Protocol        string
	Method          string
	Authority       string
	Path            string
	OriginalPath    string
	UserAgent       string
	Route           string
	Cluster         string
	UpstreamAddress string
	UpstreamPort    uint32
	Attempts        uint32
	Flags           Flags
	Status          uint32
	Details         string // response code details
	HeaderGRPC      string
	TrailerGRPC     string
	RequestHeader   uint64 // bytes
	RequestBody     uint64 // bytes
	ResponseHeader  uint64 // bytes
	ResponseBody    uint64 // bytes
	Tags            [tags]string
	RateLimit       Metadata
	ExtAuthz        Metadata
	JWT             JWT
}

// Values of Type, of envoy.data.accesslog.v3.AccessLogType.
const (
	TypeNotSet           = 0
	TypeTCPConnectionEnd = 3
	TypeDownstreamEnd    = 6
	TypeUDPSessionEnd    = 13
)

var typeNames = [...]string{
	"not_set", "tcp_upstream_connected", "tcp_periodic", "tcp_connection_end",
	"downstream_start", "downstream_periodic", "downstream_end",
	"upstream_pool_ready", "upstream_periodic", "upstream_end",
	"downstream_tunnel_established", "udp_tunnel_upstream_connected",
	"udp_periodic", "udp_session_end",
}

// TypeName names the entry's type for a metric; it is one of a fixed set.
func (e *Entry) TypeName() string {
	if e.Type == TypeNotSet && e.Intermediate {
		return "intermediate"
	}
	if e.Type < 0 || int(e.Type) >= len(typeNames) {
		return "other"
	}
	return typeNames[e.Type]
}

// Ended says whether the entry is the one that a call is counted by. A call
// may have many: one when it starts, one for each interval, one for its end.
func (e *Entry) Ended() bool {
	switch e.Type {
	case TypeNotSet:
		return !e.Intermediate
	case TypeDownstreamEnd:
		return true
	case TypeTCPConnectionEnd, TypeUDPSessionEnd:
		return e.TCP
	}
	return false
}
