package publish

import "github.com/tollway/tollway/services/platform/kafkaio"

// Message is what one produce carries per batch. It has no key: the partition
// is named, and holds every copy of a call by the call's ID.
type Message = kafkaio.Message

// Header is a message header.
type Header = kafkaio.Header
