package call

import (
	"math"
	"math/big"
	"math/bits"
)

// Latency histograms count calls per logarithmic bucket of base 2^(1/32), the
// OpenTelemetry exponential histogram at scale 5 shifted by one: bucket 0
// holds 0 and 1 µs, bucket b > 0 holds the integers in (2^((b-1)/32), 2^(b/32)]
// µs. Counts are integers and merge by addition, so any order of merging gives
// the same histogram.
//
// Source: OpenTelemetry specification, metrics data model, "Exponential
// Histogram".

// BucketsPerOctave is the number of buckets between a value and its double.
const BucketsPerOctave = 32

// NoBucket marks a duration that was not measured.
const NoBucket uint16 = math.MaxUint16

// edges[k] is floor(2^(k/32) * 2^63), exact.
var edges = func() (e [BucketsPerOctave]uint64) {
	for k := range e {
		// The 32nd root is the square root taken five times; the floor of
		// each keeps the floor of the whole.
		n := new(big.Int).Lsh(big.NewInt(1), uint(k+63*BucketsPerOctave))
		for range 5 {
			n.Sqrt(n)
		}
		e[k] = n.Uint64()
	}
	return e
}()

// Bucket is the histogram bucket of a duration in microseconds.
func Bucket(us int64) uint16 {
	if us < 0 {
		return NoBucket
	}
	if us <= 1 {
		return 0
	}
	exponent := bits.Len64(uint64(us)) - 1
	mantissa := uint64(us) << (63 - exponent)
	lo, hi := 0, BucketsPerOctave
	for lo < hi {
		mid := (lo + hi) / 2
		if edges[mid] < mantissa {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return uint16(exponent*BucketsPerOctave + lo)
}

// BucketUpper is the inclusive upper edge of a bucket, µs.
func BucketUpper(b uint16) float64 { return math.Exp2(float64(b) / BucketsPerOctave) }

// BucketMiddle is the geometric middle of a bucket, µs: the value reported for
// its calls, at most 1.1 % from any of them.
func BucketMiddle(b uint16) float64 {
	if b == 0 {
		return 1
	}
	return math.Exp2((float64(b) - 0.5) / BucketsPerOctave)
}
