package call

import (
	"encoding/binary"
	"errors"
	"fmt"

	flatbuffers "github.com/google/flatbuffers/go"
)

// checkFrames walks the frames of an Arrow IPC stream before the Arrow reader
// sees it. The reader allocates what the lengths in the stream say; here they
// must fit the message, and compressed bodies, whose lengths cannot be known
// in advance, are refused.
//
// Source: Arrow columnar format, "Encapsulated message format"; Message.fbs.
func checkFrames(value []byte) error {
	for len(value) > 0 {
		if len(value) < 8 || binary.LittleEndian.Uint32(value) != 0xFFFFFFFF {
			return errors.New("arrow stream: no continuation marker")
		}
		size := int(binary.LittleEndian.Uint32(value[4:]))
		value = value[8:]
		if size == 0 {
			return nil // end of stream
		}
		if size < 8 || size > len(value) {
			return fmt.Errorf("arrow stream: metadata of %d bytes in a message with %d left", size, len(value))
		}
		body, err := checkMetadata(value[:size])
		if err != nil {
			return err
		}
		value = value[size:]
		if body > int64(len(value)) {
			return fmt.Errorf("arrow stream: body of %d bytes in a message with %d left", body, len(value))
		}
		value = value[body:]
	}
	return nil
}

// Slots of the flatbuffer tables in Message.fbs: 4 bytes for the vtable head,
// then two for each field in order.
const (
	messageHeaderType        = 6
	messageHeader            = 8
	messageBodyLength        = 10
	batchLength              = 4
	batchCompression         = 10
	dictionaryBatchData      = 6
	headerDictionary    byte = 2
	headerRecordBatch   byte = 3
)

func checkMetadata(metadata []byte) (body int64, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("arrow stream: metadata is not a flatbuffer")
		}
	}()
	message := flatbuffers.Table{Bytes: metadata, Pos: flatbuffers.GetUOffsetT(metadata)}
	body = int64(0)
	if o := message.Offset(messageBodyLength); o != 0 {
		body = message.GetInt64(flatbuffers.UOffsetT(o) + message.Pos)
	}
	if body < 0 {
		return 0, errors.New("arrow stream: negative body length")
	}
	kind := byte(0)
	if o := message.Offset(messageHeaderType); o != 0 {
		kind = message.GetByte(flatbuffers.UOffsetT(o) + message.Pos)
	}
	if kind != headerDictionary && kind != headerRecordBatch {
		return body, nil
	}
	batch, err := child(&message, messageHeader)
	if err != nil {
		return 0, err
	}
	if kind == headerDictionary {
		if batch, err = child(&batch, dictionaryBatchData); err != nil {
			return 0, err
		}
	}
	if batch.Offset(batchCompression) != 0 {
		return 0, errors.New("arrow stream: compressed bodies are not accepted")
	}
	if o := batch.Offset(batchLength); o != 0 {
		if n := batch.GetInt64(flatbuffers.UOffsetT(o) + batch.Pos); n < 0 || n > MaxBatchRows {
			return 0, fmt.Errorf("arrow stream: batch of %d rows", n)
		}
	}
	return body, nil
}

func child(t *flatbuffers.Table, slot flatbuffers.VOffsetT) (flatbuffers.Table, error) {
	o := t.Offset(slot)
	if o == 0 {
		return flatbuffers.Table{}, errors.New("arrow stream: message without a header")
	}
	return flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(flatbuffers.UOffsetT(o) + t.Pos)}, nil
}
