package call

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/apache/arrow/go/v15/arrow/decimal128"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func genCall(t *rapid.T) Call {
	var c Call
	c.Reset()
	text := rapid.SampledFrom([]string{"", "a", "GET", "orders", "ä€😀", "x\xff", strings.Repeat("é", 200)})
	copy(c.ID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
	c.Time = rapid.Int64Range(0, 4e15).Draw(t, "time")
	c.ReceivedAt = c.Time + rapid.Int64Range(-1e6, 1e9).Draw(t, "received")
	for i := range c.Strings {
		c.Strings[i] = text.Draw(t, stringNames[i])
	}
	c.Path = rapid.String().Draw(t, "path")
	c.ClientIP = text.Draw(t, "ip")
	c.Status = rapid.Uint16Range(0, 599).Draw(t, "status")
	c.GRPCStatus = rapid.Int16Range(-1, 16).Draw(t, "grpc")
	c.Attempts = rapid.Uint16Range(0, 3).Draw(t, "attempts")
	for i := range c.Latency {
		c.Latency[i] = rapid.Int64Range(-1, math.MaxInt32*4).Draw(t, "latency")
	}
	c.RequestBytes = rapid.Int64Min(0).Draw(t, "in")
	c.ResponseBytes = rapid.Int64Min(0).Draw(t, "out")
	for range rapid.IntRange(0, 3).Draw(t, "measures") {
		c.Measures = append(c.Measures, Measure{text.Draw(t, "k"), decimal128.FromI64(rapid.Int64().Draw(t, "v"))})
	}
	for range rapid.IntRange(0, 3).Draw(t, "attributes") {
		c.Attributes = append(c.Attributes, Attribute{text.Draw(t, "k"), text.Draw(t, "v")})
	}
	return c
}

// at reads a row back, an independent way to compare batches.
func at(b *Batch, i int) Call {
	var c Call
	c.Reset()
	c.ID, c.Time, c.ReceivedAt = b.ID[i], b.Time[i], b.ReceivedAt[i]
	for k := range c.Strings {
		c.Strings[k] = b.Strings[k].Value(i)
	}
	c.ClientIP, c.Path = b.ClientIP.Value(i), b.Path.Value(i)
	c.Status, c.GRPCStatus, c.Attempts = b.Status[i], b.GRPCStatus[i], b.Attempts[i]
	for k := range c.Latency {
		c.Latency[k] = b.Latency[k][i]
	}
	c.RequestBytes, c.ResponseBytes = b.RequestBytes[i], b.ResponseBytes[i]
	for k := b.Measures.Offsets[i]; k < b.Measures.Offsets[i+1]; k++ {
		c.Measures = append(c.Measures, Measure{b.Measures.Keys.Value(int(k)), b.Measures.Values[k]})
	}
	for k := b.Attributes.Offsets[i]; k < b.Attributes.Offsets[i+1]; k++ {
		c.Attributes = append(c.Attributes, Attribute{b.Attributes.Keys.Value(int(k)), b.AttributeValues.Values[b.Attributes.Values[k]]})
	}
	return c
}

func cleaned(c Call) Call {
	for i, s := range c.Strings {
		c.Strings[i] = Clean(s, MaxString)
	}
	c.ClientIP, c.Path = Clean(c.ClientIP, MaxClientIP), Clean(c.Path, MaxPath)
	for i, m := range c.Measures {
		c.Measures[i].Name = Clean(m.Name, MaxString)
	}
	for i, a := range c.Attributes {
		c.Attributes[i] = Attribute{Clean(a.Name, MaxString), Clean(a.Value, MaxString)}
	}
	return c
}

func TestCallsSurviveTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want []Call
		joined := NewBatch()
		for m := range rapid.IntRange(1, 3).Draw(t, "messages") {
			b := NewBatch()
			for range rapid.IntRange(0, 5).Draw(t, "rows") {
				c := genCall(t)
				b.Append(&c)
				want = append(want, cleaned(c))
			}
			value, err := Encode(nil, b)
			if err != nil {
				t.Fatal(err)
			}
			rows, err := joined.AppendMessage(value, int64(m+7))
			if err != nil || rows != b.Rows() {
				t.Fatalf("%d rows of %d: %v", rows, b.Rows(), err)
			}
			for i := range rows {
				k := joined.Rows() - rows + i
				if joined.Offset[k] != int64(m+7) || joined.Row[k] != uint32(i) {
					t.Fatalf("provenance of row %d is (%d,%d)", i, joined.Offset[k], joined.Row[k])
				}
			}
		}
		kept := make([]bool, len(want))
		var left []Call
		for i := range want {
			if diff := cmp.Diff(want[i], at(joined, i), comparing...); diff != "" {
				t.Fatalf("row %d: %s", i, diff)
			}
			if kept[i] = rapid.Bool().Draw(t, "keep"); kept[i] {
				left = append(left, want[i])
			}
		}
		selected := joined.Select(kept)
		joined.Keep(kept)
		if !slices.Equal(selected.Offset, joined.Offset) {
			t.Fatal("provenance of selected rows")
		}
		for i := range left {
			if diff := cmp.Diff(left[i], at(selected, i), comparing...); diff != "" {
				t.Fatalf("selected row %d: %s", i, diff)
			}
			if diff := cmp.Diff(left[i], at(joined, i), comparing...); diff != "" {
				t.Fatalf("kept row %d: %s", i, diff)
			}
		}
		if joined.Rows() != len(left) {
			t.Fatalf("kept %d rows of %d", joined.Rows(), len(left))
		}
	})
}

func TestMalformedMessageLeavesTheBatchUnchanged(t *testing.T) {
	good := encoded(t, 20)
	rapid.Check(t, func(t *rapid.T) {
		bad := append([]byte(nil), good...)
		// Most of a message is its schema; half of the time that is spared.
		from := rapid.SampledFrom([]int{0, len(current().schema) + 8}).Draw(t, "from")
		for range rapid.IntRange(1, 4).Draw(t, "flips") {
			bad[rapid.IntRange(from, len(bad)-1).Draw(t, "at")] ^= rapid.ByteRange(1, 255).Draw(t, "bits")
		}
		if rapid.Bool().Draw(t, "short") {
			bad = bad[:rapid.IntRange(0, len(bad)).Draw(t, "cut")]
		}
		b := NewBatch()
		if _, err := b.AppendMessage(good, 1); err != nil {
			t.Fatal(err)
		}
		rows, err := b.AppendMessage(bad, 2)
		if err != nil && (!errors.Is(err, ErrMalformed) || rows != 0 || b.Rows() != 20) {
			t.Fatalf("%d rows, batch of %d: %v", rows, b.Rows(), err)
		}
	})
}

func FuzzAppendMessage(f *testing.F) {
	f.Add(encoded(f, 3))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, value []byte) {
		b := NewBatch()
		rows, err := b.AppendMessage(value, 1)
		if err != nil && b.Rows() != 0 {
			t.Fatal("rows of a malformed message were kept")
		}
		for i := range rows {
			at(b, i)
		}
	})
}

func encoded(t testing.TB, rows int) []byte {
	b := NewBatch()
	for i := range rows {
		c := typical(i)
		b.Append(&c)
	}
	value, err := Encode(nil, b)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func typical(i int) Call {
	var c Call
	c.Reset()
	c.ID = NewID("test", strconv.Itoa(i))
	c.Time = 1_700_000_000_000_000 + int64(i)
	c.ReceivedAt = c.Time + 1000
	c.Strings[Source], c.Strings[Method], c.Strings[API] = "envoy/edge", "GET", "orders"
	c.Strings[Operation], c.Strings[Upstream], c.Strings[Version] = "/v1/orders/{id}", "orders-stable", "v1"
	c.Path, c.ClientIP = "/v1/orders/17", "10.1.2.0"
	c.Status = 200
	c.Latency[Total] = int64(1000 + i)
	return c
}

func TestBucketAgainstExactArithmetic(t *testing.T) {
	// v is in bucket b when 2^(b-1) < v^32 <= 2^b.
	within := func(v int64, b uint16) bool {
		p := new(big.Int).Exp(big.NewInt(v), big.NewInt(32), nil)
		upper := new(big.Int).Lsh(big.NewInt(1), uint(b))
		if p.Cmp(upper) > 0 {
			return false
		}
		return b == 0 || p.Cmp(new(big.Int).Lsh(big.NewInt(1), uint(b)-1)) > 0
	}
	for v := int64(1); v < 5000; v++ {
		if !within(v, Bucket(v)) {
			t.Fatalf("%d is not in bucket %d", v, Bucket(v))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Int64Min(1).Draw(t, "v")
		if !within(v, Bucket(v)) {
			t.Fatalf("%d is not in bucket %d", v, Bucket(v))
		}
		if err := math.Abs(BucketMiddle(Bucket(v))-float64(v)) / float64(v); err > 0.011 && v > 40 {
			t.Fatalf("%d reads as %f", v, BucketMiddle(Bucket(v)))
		}
	})
	if Bucket(0) != 0 || Bucket(-1) != NoBucket {
		t.Fatal("edges")
	}
}

func TestParseDecimal(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"0", "0"}, {"12", "12"}, {"-0.5", "-0.5"}, {"1.25e3", "1250"}, {"0.000000001", "0.000000001"},
		{"99999999999999999999999999999.999999999", "99999999999999999999999999999.999999999"},
	} {
		n, err := ParseDecimal(c.in)
		if err != nil || FormatDecimal(n) != c.out {
			t.Errorf("%s reads as %s: %v", c.in, FormatDecimal(n), err)
		}
	}
	for _, bad := range []string{"", "x", "1/3", "0.0000000001", "1e30", "1e999999999", "0x10", "Inf", "NaN", "100000000000000000000000000000"} {
		if n, err := ParseDecimal(bad); err == nil {
			t.Errorf("%q reads as %s", bad, FormatDecimal(n))
		}
	}
}

func TestCleanIsValidAndShort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		max := rapid.IntRange(4, 40).Draw(t, "max")
		out := Clean(in, max)
		if !utf8.ValidString(out) || len(out) > max {
			t.Fatalf("%q", out)
		}
	})
}

func TestIDSpreadsOverPartitions(t *testing.T) {
	var n [6]int
	for i := range 60000 {
		n[NewID("envoy/edge", "stream", strconv.Itoa(i)).Partition(6)]++
	}
	for p, k := range n {
		if k < 9500 || k > 10500 {
			t.Errorf("partition %d has %d of 60000", p, k)
		}
	}
	if NewID("a", "b", "c") == NewID("a", "bc") || NewID("ab", "c") == NewID("a", "bc") {
		t.Error("parts run into each other")
	}
}

func BenchmarkEncode1000(b *testing.B) {
	batch := NewBatch()
	for i := range 1000 {
		c := typical(i)
		batch.Append(&c)
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = Encode(buf[:0], batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/call")
	b.ReportMetric(float64(len(buf))/1000, "B/call")
}

func BenchmarkAppend(b *testing.B) {
	batch := NewBatch()
	c := typical(1)
	b.ReportAllocs()
	for b.Loop() {
		if batch.Rows() == 1000 {
			batch.Reset()
		}
		batch.Append(&c)
	}
}

// Calls as they come, of many accounts and operations.
func BenchmarkAppendMixed(b *testing.B) {
	batch := NewBatch()
	calls := make([]Call, 1024)
	for i := range calls {
		r := rand.New(rand.NewPCG(uint64(i), 1))
		c := typical(i)
		c.Strings[Account], c.Strings[Product] = fmt.Sprintf("account-%03d", r.IntN(200)), fmt.Sprintf("product-%d", r.IntN(4))
		c.Strings[API], c.Strings[Host] = fmt.Sprintf("api%d", r.IntN(3)), fmt.Sprintf("api%d.example.com", r.IntN(3))
		c.Strings[Operation], c.Strings[UpstreamHost] = fmt.Sprintf("/v1/things%d/{id}", r.IntN(5)), fmt.Sprintf("10.2.0.%d:8080", r.IntN(8))
		c.Strings[Method], c.Strings[Version] = []string{"GET", "GET", "POST"}[r.IntN(3)], []string{"v1", "v2"}[r.IntN(2)]
		calls[i] = c
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if batch.Rows() == 1000 {
			batch.Reset()
		}
		batch.Append(&calls[i%len(calls)])
	}
}

func BenchmarkJoin1000(b *testing.B) {
	value := encoded(b, 1000)
	batch := NewBatch()
	b.ReportAllocs()
	for b.Loop() {
		if batch.Rows() >= 100_000 {
			batch.Reset()
		}
		if _, err := batch.AppendMessage(value, 1); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/call")
}

var comparing = []cmp.Option{cmpopts.EquateComparable(decimal128.Num{}), cmpopts.EquateEmpty()}
