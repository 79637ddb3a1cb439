package publish

// Message is what one produce carries per batch. No key: the partition is
// named, and holds every copy of a call by the call's ID.
type Message struct {
	Key     []byte
	Value   []byte
	Headers []Header
}

// Header is a message header.
type Header struct {
	Key   string
	Value []byte
}
