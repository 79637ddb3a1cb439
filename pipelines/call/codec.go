package call

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"unsafe"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// Headers of a Kafka message that carries calls.
const (
	ContentTypeHeader = "content-type"
	ContentType       = "application/vnd.apache.arrow.stream"
	SchemaHeader      = "schema"
)

// SchemaVersion is in the metadata of every encoded schema under the key
// "tollway.schema".
const SchemaVersion = "1"

// SchemaFingerprint names the exact schema that Encode writes; consumers
// report it when a message cannot be read.
func SchemaFingerprint() string { return fingerprint }

var (
	decimalType = &arrow.Decimal128Type{Precision: DecimalPrecision, Scale: DecimalScale}
	timeType    = &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}
	idType      = &arrow.FixedSizeBinaryType{ByteWidth: len(ID{})}

	messageSchema = newSchema(arrow.PrimitiveTypes.Uint16, nil)
	insertSchema  = newSchema(arrow.PrimitiveTypes.Uint32, []arrow.Field{
		{Name: "total_bucket", Type: arrow.PrimitiveTypes.Uint16},
		{Name: "upstream_bucket", Type: arrow.PrimitiveTypes.Uint16},
		{Name: "catalog_version", Type: arrow.PrimitiveTypes.Uint64},
		{Name: "epoch", Type: arrow.PrimitiveTypes.Uint32},
		{Name: "partition", Type: arrow.PrimitiveTypes.Uint16},
		{Name: "offset", Type: arrow.PrimitiveTypes.Int64},
		{Name: "row", Type: arrow.PrimitiveTypes.Uint32},
	})
	fingerprint = func() string {
		h := fnv.New64a()
		_, _ = io.WriteString(h, messageSchema.String())
		return hex.EncodeToString(h.Sum(nil))
	}()
)

func newSchema(index arrow.DataType, provenance []arrow.Field) *arrow.Schema {
	dictionary := &arrow.DictionaryType{IndexType: index, ValueType: arrow.BinaryTypes.String}
	fields := []arrow.Field{
		{Name: "id", Type: idType},
		{Name: "time", Type: timeType},
		{Name: "received_at", Type: timeType},
	}
	for _, name := range stringNames {
		fields = append(fields, arrow.Field{Name: name, Type: dictionary})
	}
	fields = append(fields,
		arrow.Field{Name: "client_ip", Type: arrow.BinaryTypes.String},
		arrow.Field{Name: "path", Type: arrow.BinaryTypes.String},
		arrow.Field{Name: "status", Type: arrow.PrimitiveTypes.Uint16},
		arrow.Field{Name: "grpc_status", Type: arrow.PrimitiveTypes.Int16},
		arrow.Field{Name: "attempts", Type: arrow.PrimitiveTypes.Uint16},
	)
	for _, name := range latencyNames {
		fields = append(fields, arrow.Field{Name: name, Type: arrow.PrimitiveTypes.Int64})
	}
	fields = append(fields,
		arrow.Field{Name: "request_bytes", Type: arrow.PrimitiveTypes.Int64},
		arrow.Field{Name: "response_bytes", Type: arrow.PrimitiveTypes.Int64},
		arrow.Field{Name: "measures", Type: mapOf(dictionary, decimalType)},
		arrow.Field{Name: "attributes", Type: mapOf(dictionary, dictionary)},
	)
	metadata := arrow.MetadataFrom(map[string]string{"tollway.schema": SchemaVersion})
	return arrow.NewSchema(append(fields, provenance...), &metadata)
}

func mapOf(key, value arrow.DataType) *arrow.MapType {
	m := arrow.MapOf(key, value)
	m.SetItemNullable(false)
	return m
}

// InsertColumns are the columns that EncodeInsert writes, in its order.
func InsertColumns() []string {
	names := make([]string, insertSchema.NumFields())
	for i, f := range insertSchema.Fields() {
		names[i] = f.Name
	}
	return names
}

// Provenance tells where in the log the rows of an insert came from, and which
// catalog they were attributed with.
type Provenance struct {
	Epoch          uint32
	Partition      uint16
	CatalogVersion uint64
}

// Encode appends b as one Arrow IPC stream, without compression: the log
// compresses.
func Encode(dst []byte, b *Batch) ([]byte, error) {
	if b.Rows() > MaxBatchRows {
		return dst, fmt.Errorf("encode %d calls: more than %d in one message", b.Rows(), MaxBatchRows)
	}
	for i := range b.Strings {
		if n := len(b.Strings[i].Values); n > MaxBatchRows {
			return dst, fmt.Errorf("encode column %s: %d distinct values", stringNames[i], n)
		}
	}
	return encode(dst, b, messageSchema, nil)
}

// EncodeInsert appends b as one Arrow IPC stream with one record batch, so
// that ClickHouse makes one block of it, including provenance and histogram
// buckets.
func EncodeInsert(dst []byte, b *Batch, p Provenance) ([]byte, error) {
	if len(b.Offset) != b.Rows() {
		return dst, fmt.Errorf("encode %d calls: %d of them have a provenance", b.Rows(), len(b.Offset))
	}
	return encode(dst, b, insertSchema, &p)
}

func encode(dst []byte, b *Batch, schema *arrow.Schema, p *Provenance) ([]byte, error) {
	out := bytes.NewBuffer(dst)
	w := ipc.NewWriter(out, ipc.WithSchema(schema), ipc.WithAllocator(memory.DefaultAllocator))
	e := encoder{rows: b.Rows(), schema: schema}
	e.add(fixed(b.ID))
	e.add(raw(b.Time))
	e.add(raw(b.ReceivedAt))
	for i := range b.Strings {
		e.dict(&b.Strings[i])
	}
	e.text(&b.ClientIP)
	e.text(&b.Path)
	e.add(raw(b.Status))
	e.add(raw(b.GRPCStatus))
	e.add(raw(b.Attempts))
	for i := range b.Latency {
		e.add(raw(b.Latency[i]))
	}
	e.add(raw(b.RequestBytes))
	e.add(raw(b.ResponseBytes))
	e.pairs(b.Measures.Offsets, &b.Measures.Keys, func(t arrow.DataType) *array.Data {
		return array.NewData(t, len(b.Measures.Values), []*memory.Buffer{nil, raw(b.Measures.Values)}, nil, 0, 0)
	})
	values := Dict{Index: b.Attributes.Values, Values: b.AttributeValues.Values}
	e.pairs(b.Attributes.Offsets, &b.Attributes.Keys, func(t arrow.DataType) *array.Data {
		return dictionaryData(t.(*arrow.DictionaryType), &values)
	})
	if p != nil {
		e.add(raw(buckets(b.Latency[Total])))
		e.add(raw(buckets(b.Latency[UpstreamTime])))
		e.add(raw(repeat(p.CatalogVersion, b.Rows())))
		e.add(raw(repeat(p.Epoch, b.Rows())))
		e.add(raw(repeat(p.Partition, b.Rows())))
		e.add(raw(b.Offset))
		e.add(raw(b.Row))
	}
	record := array.NewRecord(schema, e.columns, int64(b.Rows()))
	defer record.Release()
	if err := w.Write(record); err != nil {
		return dst, fmt.Errorf("encode calls: %w", err)
	}
	if err := w.Close(); err != nil {
		return dst, fmt.Errorf("encode calls: %w", err)
	}
	return out.Bytes(), nil
}

// encoder lays the batch's own memory out as Arrow arrays, without copying
// the columns: record builders cost four times as much.
type encoder struct {
	rows    int
	schema  *arrow.Schema
	columns []arrow.Array
}

func (e *encoder) next() arrow.DataType { return e.schema.Field(len(e.columns)).Type }

func (e *encoder) add(values *memory.Buffer) {
	e.data(array.NewData(e.next(), e.rows, []*memory.Buffer{nil, values}, nil, 0, 0))
}

func (e *encoder) data(d *array.Data) { e.columns = append(e.columns, array.MakeFromData(d)) }

func (e *encoder) dict(d *Dict) { e.data(dictionaryData(e.next().(*arrow.DictionaryType), d)) }

func (e *encoder) text(t *Text) {
	e.data(array.NewData(e.next(), e.rows, []*memory.Buffer{nil, raw(offsets(t.Offsets)), memory.NewBufferBytes(t.Bytes)}, nil, 0, 0))
}

func (e *encoder) pairs(off []int32, keys *Dict, values func(arrow.DataType) *array.Data) {
	t := e.next().(*arrow.MapType)
	n := len(keys.Index)
	entries := array.NewData(t.Elem(), n, []*memory.Buffer{nil},
		[]arrow.ArrayData{dictionaryData(t.KeyType().(*arrow.DictionaryType), keys), values(t.ItemType())}, 0, 0)
	e.data(array.NewData(t, e.rows, []*memory.Buffer{nil, raw(offsets(off))}, []arrow.ArrayData{entries}, 0, 0))
}

func dictionaryData(t *arrow.DictionaryType, d *Dict) *array.Data {
	var index *memory.Buffer
	if t.IndexType.ID() == arrow.UINT16 {
		short := make([]uint16, len(d.Index))
		for i, v := range d.Index {
			short[i] = uint16(v)
		}
		index = raw(short)
	} else {
		index = raw(d.Index)
	}
	off := make([]int32, 1, len(d.Values)+1)
	var text []byte
	for _, v := range d.Values {
		text = append(text, v...)
		off = append(off, int32(len(text)))
	}
	values := array.NewData(arrow.BinaryTypes.String, len(d.Values), []*memory.Buffer{nil, raw(off), memory.NewBufferBytes(text)}, nil, 0, 0)
	return array.NewDataWithDictionary(t, len(d.Index), []*memory.Buffer{nil, index}, 0, 0, values)
}

func fixed(ids []ID) *memory.Buffer { return raw(ids) }

// raw views a column's memory as bytes. Arrow and this package both require
// little-endian machines.
func raw[T any](column []T) *memory.Buffer {
	if len(column) == 0 {
		return memory.NewBufferBytes(nil)
	}
	var zero T
	return memory.NewBufferBytes(unsafe.Slice((*byte)(unsafe.Pointer(&column[0])), len(column)*int(unsafe.Sizeof(zero))))
}

func offsets(off []int32) []int32 {
	if len(off) == 0 {
		return []int32{0}
	}
	return off
}

func buckets(us []int64) []uint16 {
	out := make([]uint16, len(us))
	for i, v := range us {
		out[i] = Bucket(v)
	}
	return out
}

func repeat[T any](v T, n int) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = v
	}
	return out
}

// ErrMalformed is wrapped by every error of AppendMessage: the message can
// never be read, whatever is retried.
var ErrMalformed = errors.New("malformed message")

// AppendMessage decodes the value of one Kafka message and appends its calls
// to b, with offset and row number as provenance. On error b is unchanged.
func (b *Batch) AppendMessage(value []byte, offset int64) (rows int, err error) {
	before := b.Rows()
	m, err := decode(value)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	defer m.release()
	for _, record := range m.records {
		b.appendRecord(record)
	}
	rows = b.Rows() - before
	for i := range rows {
		b.Offset = append(b.Offset, offset)
		b.Row = append(b.Row, uint32(i))
	}
	return rows, nil
}

// message is a decoded and checked message: every column that appendRecord
// touches has the right type, length and bounds.
type message struct {
	records []arrow.Record
	reader  *ipc.Reader
}

func (m *message) release() {
	for _, r := range m.records {
		r.Release()
	}
	m.reader.Release()
}

func decode(value []byte) (m *message, err error) {
	// The Arrow reader trusts its input and panics on much of what is
	// malformed; here that is an error like any other.
	defer func() {
		if r := recover(); r != nil {
			m, err = nil, fmt.Errorf("arrow stream: %v", r)
		}
	}()
	if err := checkFrames(value); err != nil {
		return nil, err
	}
	reader, err := ipc.NewReader(bytes.NewReader(value), ipc.WithAllocator(memory.DefaultAllocator))
	if err != nil {
		return nil, fmt.Errorf("arrow stream: %w", err)
	}
	m = &message{reader: reader}
	rows := 0
	for reader.Next() {
		record := reader.Record()
		if rows += int(record.NumRows()); rows > MaxBatchRows {
			return nil, fmt.Errorf("more than %d rows", MaxBatchRows)
		}
		if err := check(record); err != nil {
			return nil, err
		}
		record.Retain()
		m.records = append(m.records, record)
	}
	if err := reader.Err(); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("arrow stream: %w", err)
	}
	return m, nil
}

// check looks into the columns of a record of the right schema.
func check(record arrow.Record) error {
	for i, f := range record.Schema().Fields() {
		column := record.Column(i)
		if column.NullN() != 0 {
			return fmt.Errorf("column %s has nulls", f.Name)
		}
		if column.Len() != int(record.NumRows()) {
			return fmt.Errorf("column %s has %d rows of %d", f.Name, column.Len(), record.NumRows())
		}
		if err := checkBounds(column); err != nil {
			return fmt.Errorf("column %s: %w", f.Name, err)
		}
	}
	return nil
}

func checkBounds(column arrow.Array) error {
	switch c := column.(type) {
	case *array.Dictionary:
		values, ok := c.Dictionary().(*array.String)
		if !ok {
			return errors.New("dictionary is not of strings")
		}
		if err := checkBounds(values); err != nil {
			return err
		}
		for _, v := range c.Indices().(*array.Uint16).Uint16Values() {
			if int(v) >= values.Len() {
				return fmt.Errorf("index %d of %d values", v, values.Len())
			}
		}
	case *array.String:
		return checkOffsets(c.ValueOffsets(), len(c.ValueBytes()), c.Len())
	case *array.Map:
		if err := checkOffsets(c.Offsets(), c.Keys().Len(), c.Len()); err != nil {
			return err
		}
		if c.Keys().Len() != c.Items().Len() || c.Keys().NullN() != 0 || c.Items().NullN() != 0 {
			return errors.New("map keys and values do not match")
		}
		if err := checkBounds(c.Keys()); err != nil {
			return err
		}
		return checkBounds(c.Items())
	case *array.FixedSizeBinary:
		if c.Len() > 0 {
			_ = c.Value(c.Len() - 1)
		}
	}
	return nil
}

func checkOffsets(off []int32, size, rows int) error {
	if rows == 0 {
		return nil
	}
	if len(off) < rows+1 {
		return errors.New("offsets are missing")
	}
	for i := 1; i <= rows; i++ {
		if off[i] < off[i-1] {
			return errors.New("offsets go back")
		}
	}
	if off[0] != 0 || int(off[rows]) > size {
		return errors.New("offsets are out of bounds")
	}
	return nil
}

// appendRecord joins a checked record onto the batch. Dictionaries are joined
// by remapping indexes, one lookup per distinct value.
func (b *Batch) appendRecord(r arrow.Record) {
	n := int(r.NumRows())
	column := func(name string) arrow.Array {
		if i := r.Schema().FieldIndices(name); len(i) == 1 {
			return r.Column(i[0])
		}
		return nil
	}
	ids := column("id").(*array.FixedSizeBinary)
	for i := range n {
		b.ID = append(b.ID, ID(ids.Value(i)))
	}
	b.Time = appendTimes(b.Time, column("time"))
	b.ReceivedAt = appendTimes(b.ReceivedAt, column("received_at"))
	for i, name := range stringNames {
		b.Strings[i].join(column(name), n)
	}
	b.ClientIP.join(column("client_ip"), n)
	b.Path.join(column("path"), n)
	b.Status = appendUint16(b.Status, column("status"), n)
	if c, ok := column("grpc_status").(*array.Int16); ok {
		b.GRPCStatus = append(b.GRPCStatus, c.Int16Values()...)
	} else {
		b.GRPCStatus = append(b.GRPCStatus, repeat[int16](-1, n)...)
	}
	b.Attempts = appendUint16(b.Attempts, column("attempts"), n)
	for i, name := range latencyNames {
		b.Latency[i] = appendInt64(b.Latency[i], column(name), n, NotMeasured)
	}
	b.RequestBytes = appendInt64(b.RequestBytes, column("request_bytes"), n, 0)
	b.ResponseBytes = appendInt64(b.ResponseBytes, column("response_bytes"), n, 0)

	joinPairs(&b.Measures, column("measures"), n, func(items arrow.Array, from, to int) {
		values := items.(*array.Decimal128)
		for i := from; i < to; i++ {
			b.Measures.Values = append(b.Measures.Values, values.Value(i))
		}
	})
	joinPairs(&b.Attributes, column("attributes"), n, func(items arrow.Array, from, to int) {
		values := items.(*array.Dictionary)
		text := values.Dictionary().(*array.String)
		for i := from; i < to; i++ {
			b.Attributes.Values = append(b.Attributes.Values, b.AttributeValues.Code(text.Value(values.GetValueIndex(i))))
		}
	})
}

func (d *Dict) join(column arrow.Array, n int) {
	c, ok := column.(*array.Dictionary)
	if !ok {
		code := d.Code("")
		d.Index = append(d.Index, repeat(code, n)...)
		return
	}
	values := c.Dictionary().(*array.String)
	codes := make([]uint32, values.Len())
	for i := range codes {
		codes[i] = d.Code(values.Value(i))
	}
	for _, v := range c.Indices().(*array.Uint16).Uint16Values() {
		d.Index = append(d.Index, codes[v])
	}
}

func (t *Text) join(column arrow.Array, n int) {
	c, ok := column.(*array.String)
	for i := range n {
		if ok {
			t.Append(c.Value(i))
		} else {
			t.Append("")
		}
	}
}

func joinPairs[V any](p *Pairs[V], column arrow.Array, n int, values func(items arrow.Array, from, to int)) {
	p.begin()
	c, ok := column.(*array.Map)
	if !ok {
		p.Offsets = append(p.Offsets, repeat(int32(len(p.Values)), n)...)
		return
	}
	keys := c.Keys().(*array.Dictionary)
	text := keys.Dictionary().(*array.String)
	off := c.Offsets()
	for i := range n {
		for k := off[i]; k < off[i+1]; k++ {
			p.Keys.Append(text.Value(keys.GetValueIndex(int(k))))
		}
		values(c.Items(), int(off[i]), int(off[i+1]))
		p.end()
	}
}

func appendTimes(dst []int64, column arrow.Array) []int64 {
	for _, v := range column.(*array.Timestamp).TimestampValues() {
		dst = append(dst, int64(v))
	}
	return dst
}

func appendUint16(dst []uint16, column arrow.Array, n int) []uint16 {
	if c, ok := column.(*array.Uint16); ok {
		return append(dst, c.Uint16Values()...)
	}
	return append(dst, repeat[uint16](0, n)...)
}

func appendInt64(dst []int64, column arrow.Array, n int, missing int64) []int64 {
	if c, ok := column.(*array.Int64); ok {
		return append(dst, c.Int64Values()...)
	}
	return append(dst, repeat(missing, n)...)
}
