package delivery

import (
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/tollway/tollway/pipelines/call"
)

// state is what a partition's committed metadata says: what has been promised
// to be stored beyond the committed offset.
//
// As text: "v1|done|epoch" when nothing is promised, "v1|a|b|epoch|n|hash" for
// the intent to store [a,b) as n rows whose identities hash to hash.
type state struct {
	epoch    uint32
	pending  bool
	from, to int64
	rows     int
	hash     uint64
}

const stateVersion = "v1"

func (s state) String() string {
	if !s.pending {
		return fmt.Sprintf("%s|done|%d", stateVersion, s.epoch)
	}
	return fmt.Sprintf("%s|%d|%d|%d|%d|%016x", stateVersion, s.from, s.to, s.epoch, s.rows, s.hash)
}

var errMetadata = errors.New("the group's committed metadata is not of this program")

func parseState(text string) (state, error) {
	if text == "" {
		return state{}, nil
	}
	f := strings.Split(text, "|")
	if f[0] != stateVersion {
		return state{}, fmt.Errorf("%w: %q", errMetadata, call.Clean(text, 64))
	}
	switch {
	case len(f) == 3 && f[1] == "done":
		epoch, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			return state{}, fmt.Errorf("%w: epoch: %w", errMetadata, err)
		}
		return state{epoch: uint32(epoch)}, nil
	case len(f) == 6:
		from, err1 := strconv.ParseInt(f[1], 10, 64)
		to, err2 := strconv.ParseInt(f[2], 10, 64)
		epoch, err3 := strconv.ParseUint(f[3], 10, 32)
		rows, err4 := strconv.Atoi(f[4])
		hash, err5 := strconv.ParseUint(f[5], 16, 64)
		if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
			return state{}, fmt.Errorf("%w: %w", errMetadata, err)
		}
		if from < 0 || to <= from || rows < 0 {
			return state{}, fmt.Errorf("%w: range %d to %d of %d rows", errMetadata, from, to, rows)
		}
		return state{epoch: uint32(epoch), pending: true, from: from, to: to, rows: rows, hash: hash}, nil
	}
	return state{}, fmt.Errorf("%w: %q", errMetadata, call.Clean(text, 64))
}

// hashOf is what an intent says of its rows, so that a replay can tell that it
// decoded the same.
func hashOf(b *call.Batch) uint64 {
	h := fnv.New64a()
	for i := range b.ID {
		_, _ = h.Write(b.ID[i][:8])
	}
	return h.Sum64()
}
