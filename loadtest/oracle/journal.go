// Package oracle decides whether every call that was acknowledged is stored
// exactly once, in raw and in every rollup.
//
// In: a journal of what was attempted and acknowledged, the log and the
// tables, read directly. Out: a report with the first differences. It knows
// nothing of how the product works but the meaning of its columns: identities,
// histogram buckets and sums are computed here again. A crash of the process
// that writes the journal leaves what was attempted on disk.
package oracle

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/tollway/tollway/loadtest/gen"
)

// Journal is two files: attempted.ndjson, synced before anything is sent, and
// acked.ndjson, the ids that were acknowledged.
type Journal struct {
	mu        sync.Mutex
	attempted *os.File
	acked     *os.File
	buf       []byte
}

// Create begins a journal in a folder.
func Create(dir string) (*Journal, error) {
	j := &Journal{}
	var err error
	if j.attempted, err = os.Create(filepath.Join(dir, "attempted.ndjson")); err != nil {
		return nil, err
	}
	if j.acked, err = os.Create(filepath.Join(dir, "acked.ndjson")); err != nil {
		j.attempted.Close()
		return nil, err
	}
	return j, nil
}

// Attempted notes events that are about to be sent.
func (j *Journal) Attempted(events []gen.Event) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.write(j.attempted, events, func(e gen.Event) any { return e })
}

// Acked notes events that were acknowledged.
func (j *Journal) Acked(events []gen.Event) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.write(j.acked, events, func(e gen.Event) any { return [2]string{e.Source, e.ID} })
}

func (j *Journal) write(f *os.File, events []gen.Event, line func(gen.Event) any) error {
	j.buf = j.buf[:0]
	for _, e := range events {
		text, err := json.Marshal(line(e))
		if err != nil {
			return err
		}
		j.buf = append(append(j.buf, text...), '\n')
	}
	if _, err := f.Write(j.buf); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return f.Sync()
}

// Close ends the journal.
func (j *Journal) Close() error { return errors.Join(j.attempted.Close(), j.acked.Close()) }

// History is a journal read back.
type History struct {
	Attempted map[gen.ID]gen.Event
	Acked     map[gen.ID]struct{}
}

// Read reads the journal in a folder.
func Read(dir string) (History, error) {
	h := History{Attempted: map[gen.ID]gen.Event{}, Acked: map[gen.ID]struct{}{}}
	err := readLines(filepath.Join(dir, "attempted.ndjson"), func(line []byte) error {
		var e gen.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		h.Attempted[e.Identity()] = e
		return nil
	})
	if err != nil {
		return h, err
	}
	return h, readLines(filepath.Join(dir, "acked.ndjson"), func(line []byte) error {
		var names [2]string
		if err := json.Unmarshal(line, &names); err != nil {
			return err
		}
		h.Acked[gen.IdentityOf(names[0], names[1])] = struct{}{}
		return nil
	})
}

func readLines(path string, use func([]byte) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<16)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil // a torn last line was not sent
		}
		if err != nil {
			return err
		}
		if err := use(line); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
}
