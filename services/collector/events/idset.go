package events

import (
	"encoding/binary"

	"github.com/tollway/tollway/pipelines/call"
)

// idSet finds copies within one request. IDs are hashes already, so their own
// bits place them; the set is reused without being freed.
type idSet struct {
	ids   []call.ID
	slots []uint32 // index into ids plus one; 0 is empty
}

func (s *idSet) reset() {
	s.ids = s.ids[:0]
	clear(s.slots)
}

// add reports whether id was not there yet.
func (s *idSet) add(id call.ID) bool {
	if 2*len(s.ids) >= len(s.slots) {
		s.grow()
	}
	i := s.find(id)
	if s.slots[i] != 0 {
		return false
	}
	s.ids = append(s.ids, id)
	s.slots[i] = uint32(len(s.ids))
	return true
}

func (s *idSet) find(id call.ID) int {
	mask := len(s.slots) - 1
	i := int(binary.LittleEndian.Uint32(id[8:])) & mask
	for s.slots[i] != 0 && s.ids[s.slots[i]-1] != id {
		i = (i + 1) & mask
	}
	return i
}

func (s *idSet) grow() {
	s.slots = make([]uint32, max(256, 2*len(s.slots)))
	for n, id := range s.ids {
		s.slots[s.find(id)] = uint32(n + 1)
	}
}
