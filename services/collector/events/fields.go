package events

import "github.com/tollway/tollway/pipelines/call"

// kind says how a member of a call is read.
type kind uint8

const (
	unknown  kind = iota
	text          // a string column
	assigned      // a string column that only a trusted source may set
	choice        // a string column of few values
	latency
	clientIP
	path
	status
	grpcStatus
	attempts
	requestBytes
	responseBytes
	measures
	attributes

	// Only where a call is flat; in a CloudEvent these are attributes of the
	// event.
	flatID
	flatSource
	flatTime
)

// field is a member of a call by its name in JSON.
type field struct {
	name string
	kind kind
	col  int // string or latency column
}

// fields finds a field by its name without hashing all of it: names differ in
// length, ends and middle. It is filled once, from the call's own column names.
var fields = newTable()

type table struct{ slots [512]field }

func newTable() *table {
	t := &table{}
	for c := range call.StringColumns {
		column := call.StringColumn(c)
		f := field{name: column.String(), kind: text, col: c}
		switch column {
		case call.Source:
			f.kind = flatSource
		case call.Credential, call.Account, call.App, call.Product, call.Plan, call.Subscription, call.API, call.Operation:
			f.kind = assigned
		case call.Fault, call.Denied:
			f.kind = choice
		}
		t.add(f)
	}
	for c := range call.LatencyColumns {
		t.add(field{name: call.LatencyColumn(c).String(), kind: latency, col: c})
	}
	for name, k := range map[string]kind{
		"id": flatID, "time": flatTime, "client_ip": clientIP, "path": path, "status": status, "grpc_status": grpcStatus,
		"attempts": attempts, "request_bytes": requestBytes, "response_bytes": responseBytes,
		"measures": measures, "attributes": attributes,
	} {
		t.add(field{name: name, kind: k})
	}
	return t
}

func slot(name string) int {
	n := len(name)
	return (n*131 + int(name[0])*7 + int(name[n/2])*31 + int(name[n-1])*3) & 511
}

func (t *table) add(f field) {
	i := slot(f.name)
	for t.slots[i].kind != unknown {
		i = (i + 1) & 511
	}
	t.slots[i] = f
}

// find returns a field of kind unknown if there is none of the name.
func (t *table) find(name string) *field {
	if name == "" {
		return &none
	}
	i := slot(name)
	for t.slots[i].kind != unknown && t.slots[i].name != name {
		i = (i + 1) & 511
	}
	return &t.slots[i]
}

var none field

// choices are the values of a column that reports rely on.
func chosen(c call.StringColumn, value string) bool {
	switch value {
	case "":
		return true
	case call.FaultNone, call.FaultClient, call.FaultGateway, call.FaultPolicy, call.FaultUpstream:
		return c == call.Fault
	case "quota", "auth":
		return c == call.Denied
	}
	return false
}
