package envoy

// Reasons why an entry is not stored. They are labels of metrics.
const (
	ReasonMalformed = "malformed" // the bytes are not what the format says
	ReasonMissing   = "missing"   // a call cannot do without the field
	ReasonRange     = "range"     // no true call has this value
	ReasonFuture    = "future"    // starts later than the clock allows
	ReasonPast      = "past"      // is older than the store keeps
	ReasonSize      = "size"      // more bytes than allowed
)

// Reject is why an entry was not stored, and for which field. Field is one of
// a fixed set of names.
type Reject struct{ Reason, Field string }

func (r *Reject) Error() string { return r.Field + " is " + text[r.Reason] }

var text = map[string]string{
	ReasonMalformed: "malformed",
	ReasonMissing:   "missing",
	ReasonRange:     "out of range",
	ReasonFuture:    "in the future",
	ReasonPast:      "before the retention period",
	ReasonSize:      "too large",
}

// Malformed rejects an entry for bytes that cannot be read.
func Malformed(field string) *Reject { return &Reject{ReasonMalformed, field} }
