package als

import "google.golang.org/protobuf/encoding/protowire"

// Wire types, the low three bits of a field's key.
const (
	varint  = 0
	fixed64 = 1
	bytes   = 2
)

// field is one field of a message: its key (number<<3 | wire type) and its
// value, in v for a varint and in b for bytes.
type field struct {
	key uint32
	v   uint64
	b   []byte
}

// next reads the first field of b, and how many bytes it takes. A count below
// zero means that b is no message.
func next(b []byte) (field, int) {
	// Nearly all keys of an access log are one or two bytes long, nearly all
	// lengths one or two.
	var key uint64
	n := 1
	switch {
	case len(b) >= 1 && b[0] < 0x80:
		key = uint64(b[0])
	case len(b) >= 2 && b[1] < 0x80:
		key, n = uint64(b[0]&0x7f)|uint64(b[1])<<7, 2
	default:
		if key, n = protowire.ConsumeVarint(b); n < 0 {
			return field{}, -1
		}
	}
	if key>>3 == 0 || key>>3 > uint64(protowire.MaxValidNumber) {
		return field{}, -1
	}
	switch key & 7 {
	case varint:
		v, m := uint64(0), 1
		if len(b) > n && b[n] < 0x80 {
			v = uint64(b[n])
		} else if v, m = protowire.ConsumeVarint(b[n:]); m < 0 {
			return field{}, -1
		}
		return field{key: uint32(key), v: v}, n + m
	case bytes:
		size, m := uint64(0), 1
		switch {
		case len(b) > n && b[n] < 0x80:
			size = uint64(b[n])
		case len(b) > n+1 && b[n+1] < 0x80:
			size, m = uint64(b[n]&0x7f)|uint64(b[n+1])<<7, 2
		default:
			if size, m = protowire.ConsumeVarint(b[n:]); m < 0 {
				return field{}, -1
			}
		}
		n += m
		if size > uint64(len(b)-n) {
			return field{}, -1
		}
		return field{key: uint32(key), b: b[n : n+int(size)]}, n + int(size)
	}
	m := protowire.ConsumeFieldValue(protowire.Number(key>>3), protowire.Type(key&7), b[n:])
	if m < 0 {
		return field{}, -1
	}
	return field{key: uint32(key)}, n + m
}

// pair reads the entry of a map of strings to strings.
func pair(b []byte) (key, value []byte, ok bool) {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return nil, nil, false
		}
		b = b[n:]
		switch f.key {
		case 1<<3 | bytes:
			key = f.b
		case 2<<3 | bytes:
			value = f.b
		}
	}
	return key, value, true
}

// mapKey finds the key of a map's entry, wherever it stands.
func mapKey(b []byte) ([]byte, bool) {
	key, _, ok := pair(b)
	return key, ok
}
