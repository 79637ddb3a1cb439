package call

// StringColumn names a string column of low cardinality; it is kept as a
// dictionary. The numbers index Call.Strings and Batch.Strings.
type StringColumn int

// The string columns, in the groups of DESIGN.md section 4.
const (
	Source StringColumn = iota
	Environment
	Gateway
	Region
	Zone
	Protocol
	API
	Operation
	Method
	Host
	Route
	Credential
	App
	Account
	Product
	Plan
	Subscription
	Country
	UserAgent
	OS
	Device
	Flags  // Envoy response flags, short codes joined by a comma
	Fault  // see the Fault values
	Denied // "", "quota" or "auth"
	Cache
	Upstream
	UpstreamHost
	Version

	StringColumns int = iota
)

var stringNames = [StringColumns]string{
	"source", "environment", "gateway", "region", "zone", "protocol",
	"api", "operation", "method", "host", "route",
	"credential", "app", "account", "product", "plan", "subscription",
	"country", "user_agent", "os", "device",
	"flags", "fault", "denied", "cache",
	"upstream", "upstream_host", "version",
}

// String is the column's name in Arrow, in ClickHouse and in the events API.
func (c StringColumn) String() string { return stringNames[c] }

// StringColumnByName finds a column by its name.
func StringColumnByName(name string) (StringColumn, bool) {
	for i, n := range stringNames {
		if n == name {
			return StringColumn(i), true
		}
	}
	return 0, false
}

// LatencyColumn names a part of a call's duration; EDGE definitions: see
// docs of each constant. All are microseconds.
type LatencyColumn int

// The latency columns. All but Total and TTFB are parts of Total that do not
// overlap when the source reports all of Envoy's time points.
const (
	Total            LatencyColumn = iota // first byte from the client to last byte to the client
	ClientIn                              // first to last byte of the request from the client
	GatewayIn                             // last request byte received to first byte sent upstream
	UpstreamTime                          // last byte sent upstream to first byte from it
	UpstreamTransfer                      // first to last byte from upstream
	GatewayOut                            // first byte from upstream to first byte to the client
	ClientOut                             // remaining time to the last byte to the client
	TTFB                                  // first byte from the client to first byte to the client

	LatencyColumns int = iota
)

var latencyNames = [LatencyColumns]string{
	"total_us", "client_in_us", "gateway_in_us", "upstream_us",
	"upstream_transfer_us", "gateway_out_us", "client_out_us", "ttfb_us",
}

// String is the column's name, with its unit.
func (c LatencyColumn) String() string { return latencyNames[c] }

// Values of the Fault column: who is to blame for a call that failed.
const (
	FaultNone     = "none"
	FaultClient   = "client"
	FaultGateway  = "gateway"
	FaultPolicy   = "policy"
	FaultUpstream = "upstream"
)

// Limits of one value, in bytes. Longer values are cut at a character border.
const (
	MaxString    = 256
	MaxPath      = 1024
	MaxMapPairs  = 32
	MaxClientIP  = 64
	MaxBatchRows = 1 << 16 // of one message: its dictionaries use 16-bit indexes
)
