package call

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	flatbuffers "github.com/google/flatbuffers/go"
)

// The Arrow reader trusts a stream: it allocates what lengths say, and reads
// structures by the schema without looking whether they are there. A stream
// from the log is therefore compared first with what Encode writes: the same
// schema to the byte, then frames that have as many nodes and buffers as that
// schema needs, each within the frame's body.
//
// Source: Arrow columnar format, "Encapsulated message format"; Message.fbs.

// Slots of the flatbuffer tables in Message.fbs: 4 bytes for the vtable head,
// then two for each field in order.
const (
	messageHeaderType = 6
	messageHeader     = 8
	messageBodyLength = 10

	batchLength      = 4
	batchNodes       = 6
	batchBuffers     = 8
	batchCompression = 10
	batchVariadic    = 12

	dictionaryBatchData = 6
)

// Kinds of headers.
const (
	headerDictionary  = 2
	headerRecordBatch = 3
)

const (
	structSize = 16                         // of a FieldNode and of a Buffer
	maxEntries = MaxBatchRows * MaxMapPairs // of a map column, over all rows
)

// layout is what a stream of one schema looks like.
type layout struct {
	schema         []byte // metadata of the first frame
	dictionaries   int
	nodes, buffers int // of a record batch
}

// current is the layout that Encode writes.
var current = sync.OnceValue(func() layout {
	b := NewBatch()
	b.Append(&Call{})
	value, err := Encode(nil, b)
	if err != nil {
		panic(err) // a constant that cannot be encoded is a mistake in this package
	}
	var l layout
	err = eachFrame(value, func(metadata []byte, _ int64) error {
		kind, header, err := headerOf(metadata)
		switch {
		case l.schema == nil:
			l.schema = metadata
		case kind == headerDictionary:
			l.dictionaries++
		case kind == headerRecordBatch:
			l.nodes, l.buffers = header.VectorLen(slot(header, batchNodes)), header.VectorLen(slot(header, batchBuffers))
		}
		return err
	})
	if err != nil {
		panic(err)
	}
	return l
})

// ErrSchema is wrapped by the error for a message of another schema than this
// program's: written by a newer collector, it can be read after an upgrade.
var ErrSchema = errors.New("the schema is not one that this version can read")

func checkFrames(value []byte) (err error) {
	// Reads beyond the end of metadata panic in the flatbuffers library.
	defer func() {
		if recover() != nil {
			err = errors.New("arrow stream: metadata is not a flatbuffer of its kind")
		}
	}()
	l, n := current(), 0
	return eachFrame(value, func(metadata []byte, body int64) error {
		n++
		if n == 1 {
			if !bytes.Equal(metadata, l.schema) {
				return ErrSchema
			}
			return nil
		}
		kind, header, err := headerOf(metadata)
		switch {
		case err != nil:
			return err
		case kind == headerDictionary && n <= 1+l.dictionaries:
			return checkBatch(tableAt(header, slot(header, dictionaryBatchData)), body, 1, 3)
		case kind == headerRecordBatch && n > 1+l.dictionaries:
			return checkBatch(header, body, l.nodes, l.buffers)
		}
		return fmt.Errorf("arrow stream: frame %d is of kind %d", n, kind)
	})
}

// eachFrame walks the frames of a stream up to its end.
func eachFrame(value []byte, frame func(metadata []byte, body int64) error) error {
	for len(value) > 0 {
		if len(value) < 8 || binary.LittleEndian.Uint32(value) != 0xFFFFFFFF {
			return errors.New("arrow stream: no continuation marker")
		}
		size := int64(binary.LittleEndian.Uint32(value[4:]))
		value = value[8:]
		if size == 0 {
			return nil // end of stream
		}
		if size < 8 || size > int64(len(value)) {
			return fmt.Errorf("arrow stream: metadata of %d bytes with %d left", size, len(value))
		}
		metadata := value[:size]
		value = value[size:]
		message := &flatbuffers.Table{Bytes: metadata, Pos: flatbuffers.GetUOffsetT(metadata)}
		body := number(message, messageBodyLength)
		if body < 0 || body > int64(len(value)) {
			return fmt.Errorf("arrow stream: body of %d bytes with %d left", body, len(value))
		}
		if err := frame(metadata, body); err != nil {
			return err
		}
		value = value[body:]
	}
	return nil
}

func headerOf(metadata []byte) (kind byte, header *flatbuffers.Table, err error) {
	message := &flatbuffers.Table{Bytes: metadata, Pos: flatbuffers.GetUOffsetT(metadata)}
	o := slot(message, messageHeader)
	if o == 0 {
		return 0, nil, errors.New("arrow stream: frame without a header")
	}
	if k := slot(message, messageHeaderType); k != 0 {
		kind = message.GetByte(k + message.Pos)
	}
	return kind, tableAt(message, o), nil
}

// checkBatch sees to it that there are as many columns as the schema has, and
// that their memory lies within the body.
func checkBatch(t *flatbuffers.Table, body int64, nodes, buffers int) error {
	if slot(t, batchCompression) != 0 || slot(t, batchVariadic) != 0 {
		return errors.New("arrow stream: compressed bodies and views are not accepted")
	}
	if n := number(t, batchLength); n < 0 || n > maxEntries {
		return fmt.Errorf("arrow stream: batch of %d rows", n)
	}
	start, err := vector(t, batchNodes, nodes)
	if err != nil {
		return err
	}
	for i := range nodes {
		at := start + flatbuffers.UOffsetT(i*structSize)
		if length, nulls := t.GetInt64(at), t.GetInt64(at+8); length < 0 || length > maxEntries || nulls != 0 {
			return fmt.Errorf("arrow stream: column of %d values with %d nulls", length, nulls)
		}
	}
	if start, err = vector(t, batchBuffers, buffers); err != nil {
		return err
	}
	for i := range buffers {
		at := start + flatbuffers.UOffsetT(i*structSize)
		if offset, length := t.GetInt64(at), t.GetInt64(at+8); offset < 0 || length < 0 || offset > body || length > body-offset {
			return fmt.Errorf("arrow stream: buffer of %d bytes at %d in a body of %d", length, offset, body)
		}
	}
	return nil
}

// vector is the place of a vector of structs that has n elements.
func vector(t *flatbuffers.Table, field flatbuffers.VOffsetT, n int) (flatbuffers.UOffsetT, error) {
	o := slot(t, field)
	if o == 0 || t.VectorLen(o) != n {
		return 0, errors.New("arrow stream: the columns are not those of the schema")
	}
	return t.Vector(o), nil
}

func slot(t *flatbuffers.Table, field flatbuffers.VOffsetT) flatbuffers.UOffsetT {
	return flatbuffers.UOffsetT(t.Offset(field))
}

func tableAt(t *flatbuffers.Table, o flatbuffers.UOffsetT) *flatbuffers.Table {
	return &flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(o + t.Pos)}
}

func number(t *flatbuffers.Table, field flatbuffers.VOffsetT) int64 {
	o := slot(t, field)
	if o == 0 {
		return 0
	}
	return t.GetInt64(o + t.Pos)
}
