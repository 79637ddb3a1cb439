package filetail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tollway/tollway/services/collector/publish"
)

// read takes the whole lines that a file has more than before, up to a buffer
// full. It reports whether there were any.
func (t *Tailer) read(ctx context.Context, s *source) (bool, error) {
	n, err := s.file.ReadAt(t.buf, s.pos)
	if err != nil && err != io.EOF {
		return false, fmt.Errorf("read %s: %w", s.path, err)
	}
	if n == 0 {
		return false, nil
	}
	// Looked at after reading: had the file been begun anew before, what was
	// read would be in the middle of something else.
	if print, err := fingerprint(s.file); err != nil || print != s.place.Fingerprint {
		return false, err
	}
	data, start := t.buf[:n], s.pos
	if s.skip >= 0 {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			s.pos += int64(n)
			s.grown = t.deps.Clock()
			return true, nil
		}
		t.tooLong(s)
		data, start = data[i+1:], start+int64(i+1)
		s.grown = t.deps.Clock()
	}
	end := bytes.LastIndexByte(data, '\n') + 1
	switch {
	case end == 0 && len(data) == len(t.buf):
		s.skip, s.head = s.pos, append([]byte(nil), data[:min(len(data), keptLine)]...)
		s.pos += int64(n)
		return true, nil
	case end == 0 && start == s.pos:
		return false, nil // a line that is being written
	}
	s.pos = start
	s.grown = t.deps.Clock()
	return true, t.push(ctx, s, data[:end], start+int64(end))
}

func (t *Tailer) tooLong(s *source) {
	t.counters.In.Inc()
	t.reject(s, s.skip, "too_long", s.head)
	s.skip, s.head = -1, nil
}

func (t *Tailer) reject(s *source, offset int64, reason string, text []byte) {
	t.counters.Rejected(reason).Inc()
	if err := t.rejects.add(s.path, offset, reason, text); err != nil {
		t.deps.Logger.Error().Err(err).Str("file", s.path).Int64("offset", offset).Str("reason", reason).Msg("rejected line is not kept")
	}
}

// push gives the lines of data, which starts at s.pos, to the publisher.
func (t *Tailer) push(ctx context.Context, s *source, data []byte, end int64) error {
	if err := t.settle(ctx, maxPending-1); err != nil {
		return err
	}
	c := chunk{source: s, delivery: publish.NewDelivery(), end: end, tail: tailBefore(s.file, end)}
	offset, now := s.pos, t.deps.Clock()
	for rest := data; len(rest) > 0; {
		text := rest
		if i := bytes.IndexByte(rest, '\n'); i >= 0 {
			text, rest = rest[:i], rest[i+1:]
		} else {
			rest = nil
		}
		taken, err := t.take(ctx, &c, text, offset, now)
		if err != nil {
			return err
		}
		c.calls += taken
		offset += int64(len(text) + 1)
	}
	s.pos = end
	t.pending = append(t.pending, c)
	return nil
}

// take gives one line to the publisher.
func (t *Tailer) take(ctx context.Context, c *chunk, text []byte, offset int64, now time.Time) (int, error) {
	whole := text
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return 0, nil
	}
	t.counters.In.Inc()
	s := c.source
	if len(whole) > t.cfg.MaxLineBytes {
		t.reject(s, offset, "too_long", whole)
		return 0, nil
	}
	err := s.parser.parse(text, s.place.Fingerprint, offset, now, &t.call)
	if errors.Is(err, errIntermediate) {
		// No loss: the call is logged again when it ends.
		t.counters.Rejected("intermediate").Inc()
		return 0, nil
	}
	if err != nil {
		t.reject(s, offset, reason(err), whole)
		return 0, nil
	}
	if err := t.deps.Publisher.AppendWait(ctx, c.delivery, &t.call); err != nil {
		return 0, fmt.Errorf("give line to the log: %w", err)
	}
	return 1, nil
}

// settle waits until no more than so many chunks are on their way. A chunk that
// the log did not take ends the tailer; started again, it reads it again.
func (t *Tailer) settle(ctx context.Context, most int) error {
	for len(t.pending) > most {
		c := t.pending[0]
		err := c.delivery.Wait(ctx)
		if err != nil {
			return fmt.Errorf("lines of %s: %w", c.source.path, err)
		}
		t.pending = append(t.pending[:0], t.pending[1:]...)
		t.counters.Out.Add(float64(c.calls))
		c.source.place.Offset, c.source.place.Tail = c.end, c.tail
		t.dirty = true
	}
	return nil
}
