// Package call is the record of one API call and its Arrow encoding: what a
// collector writes to the log and what the pipelines load into ClickHouse.
//
// In: calls, one at a time (Call), as the sources decode them. Out: columns
// (Batch), their encoding as one Arrow IPC stream for one Kafka message, and
// the same columns joined from many messages for one ClickHouse insert. The
// package is pure: no clock, no network, no store. A crash loses nothing here,
// because nothing here is acknowledged.
//
// A new field is added at the end of its group in columns.go and never changed
// afterwards. Messages are read only in a schema that frames.go knows to the
// byte; whoever adds a field keeps the schema before it known there, in which
// the column reads as missing.
package call

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"unsafe"

	"github.com/apache/arrow/go/v15/arrow/decimal128"
)

// ID is the identity of a call: the first 128 bits of a SHA-256 over the
// source and what the source calls the call. Copies of one call have one ID
// whichever way they came.
type ID [16]byte

// NewID hashes source and the caller's parts. Every part is preceded by its
// length, so ("ab","c") and ("a","bc") differ.
func NewID(source string, parts ...string) ID {
	var buf [512]byte
	b := buf[:0]
	b = binary.AppendUvarint(b, uint64(len(source)))
	b = append(b, source...)
	for _, p := range parts {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	sum := sha256.Sum256(b)
	return ID(sum[:16])
}

// Partition is the partition that holds every copy of the call.
func (id ID) Partition(partitions int) int {
	return int(binary.LittleEndian.Uint64(id[:8]) % uint64(partitions))
}

// String is the hexadecimal form.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads the hexadecimal form.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 32 {
		return id, hex.ErrLength
	}
	_, err := hex.Decode(id[:], []byte(s))
	return id, err
}

// NotMeasured is a duration that the source did not report.
const NotMeasured int64 = -1

// NotSet is what reports print for a value that is missing.
const NotSet = "(not set)"

// Call is one API call. Strings may alias the buffer they were decoded from:
// Batch.Append copies what it keeps. Use Reset before reuse.
type Call struct {
	ID         ID
	Time       int64 // start of the call, µs since the Unix epoch, UTC
	ReceivedAt int64 // when the collector took it, µs since the Unix epoch, UTC

	Strings  [StringColumns]string
	ClientIP string
	Path     string

	Status     uint16 // HTTP status; 0 when there was none
	GRPCStatus int16  // gRPC status; -1 when there was none
	Attempts   uint16 // upstream attempts; 0 when unknown

	Latency       [LatencyColumns]int64 // µs, NotMeasured when unknown
	RequestBytes  int64
	ResponseBytes int64

	Measures   []Measure
	Attributes []Attribute
}

// Measure is a priced quantity of a call, such as tokens or rows.
type Measure struct {
	Name  string
	Value decimal128.Num // scaled by 10^-9
}

// Attribute is a custom dimension of a call.
type Attribute struct{ Name, Value string }

// Reset makes c an empty call: no strings, nothing measured.
func (c *Call) Reset() {
	measures, attributes := c.Measures[:0], c.Attributes[:0]
	*c = Call{GRPCStatus: -1, Measures: measures, Attributes: attributes}
	for i := range c.Latency {
		c.Latency[i] = NotMeasured
	}
}

// Alias views b as a string without copying. The string is valid as long as b
// is not changed.
func Alias(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	return unsafe.String(&b[0], len(b))
}
