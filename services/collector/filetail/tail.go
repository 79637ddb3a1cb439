package filetail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/envoy"
	"github.com/tollway/tollway/services/collector/publish"
)

// Publisher takes calls, with back-pressure; services/collector/publish is one.
type Publisher interface {
	AppendWait(ctx context.Context, d *publish.Delivery, c *call.Call) error
}

// Deps is what a tailer works with.
type Deps struct {
	Publisher Publisher
	Clock     func() time.Time
	Registry  prometheus.Registerer
	Logger    zerolog.Logger
}

// Tailer follows the configured files.
type Tailer struct {
	cfg      Config
	deps     Deps
	counters *publish.Counters
	open     prometheus.Gauge
	behind   prometheus.Gauge
	parsers  []*parser
	rejects  rejects

	sources map[identity]*source
	places  []*place // oldest first
	scanned time.Time
	pending []chunk
	buf     []byte
	call    call.Call
	dirty   bool
	saved   time.Time
}

type identity struct{ device, inode uint64 }

// source is an open file.
type source struct {
	file    *os.File
	path    string
	parser  *parser
	place   *place
	pos     int64     // next byte to read
	skip    int64     // start of a line that is too long, or -1
	head    []byte    // of that line
	rotated bool      // no longer under a configured name
	grown   time.Time // when it last had something new
	left    time.Time // when it was first seen to be rotated
}

// chunk is lines on their way to the log.
type chunk struct {
	source   *source
	delivery *publish.Delivery
	end      int64
	calls    int
	tail     string
}

const (
	maxPending   = 8                // chunks on their way
	keptPlaces   = 256              // of files that are not open
	stopTimeout  = 10 * time.Second // for acknowledgements at the end
	siblingPolls = 8                // looks at configured names per look at others
	mtimeSlack   = 2 * time.Second  // coarse clocks of file systems
)

// New makes a tailer.
func New(cfg Config, deps Deps) (*Tailer, error) {
	mapper, err := envoy.NewMapper(cfg.Envoy)
	if err != nil {
		return nil, fmt.Errorf("file source: %w", err)
	}
	t := &Tailer{
		cfg: cfg, deps: deps, counters: publish.NewCounters(deps.Registry, "file"),
		rejects: rejects{path: cfg.Checkpoint + ".rejected", max: cfg.MaxRejectedBytes},
		sources: map[identity]*source{},
		open:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollway_filetail_open_files", Help: "Files being followed."}),
		behind:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollway_filetail_unread_bytes", Help: "Bytes in followed files that are not acknowledged."}),
	}
	deps.Registry.MustRegister(t.open, t.behind)
	for _, f := range cfg.Files {
		t.parsers = append(t.parsers, newParser(mapper, f))
	}
	return t, nil
}

// Run follows the files until ctx ends. The publisher has to run longer.
func (t *Tailer) Run(ctx context.Context) error {
	if len(t.cfg.Files) == 0 {
		<-ctx.Done()
		return nil
	}
	saved, err := load(t.cfg.Checkpoint)
	if err != nil {
		return err
	}
	t.scanned = saved.Scanned
	for _, p := range saved.Places {
		t.places = append(t.places, &p)
	}
	t.buf = make([]byte, t.cfg.MaxLineBytes+1)
	defer t.closeAll()
	for ctx.Err() == nil {
		if err := t.turn(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := t.settle(last, 0); err != nil {
		t.deps.Logger.Warn().Err(err).Msg("file source stops with lines that are not acknowledged; they will be read again")
	}
	return t.save(true)
}

// turn looks for files, reads what is new in each, and rests if nothing is.
func (t *Tailer) turn(ctx context.Context) error {
	if err := t.discover(ctx); err != nil {
		return err
	}
	progress := false
	for _, s := range t.ordered() {
		read, err := t.read(ctx, s)
		if err != nil {
			return err
		}
		progress = progress || read
	}
	if progress {
		return t.save(false)
	}
	if err := t.settle(ctx, 0); err != nil {
		return err
	}
	if err := t.retire(ctx); err != nil {
		return err
	}
	if err := t.save(false); err != nil {
		return err
	}
	timer := time.NewTimer(t.cfg.PollInterval)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// ordered is the open files, so that every turn reads them in the same order.
func (t *Tailer) ordered() []*source {
	return slices.SortedFunc(maps.Values(t.sources), func(a, b *source) int {
		if a.rotated != b.rotated { // what is older first
			if a.rotated {
				return -1
			}
			return 1
		}
		return bytes.Compare([]byte(a.path), []byte(b.path))
	})
}

// discover opens what is new under the configured names, and what was renamed
// or copied from them.
func (t *Tailer) discover(ctx context.Context) error {
	begun := t.deps.Clock()
	all := begun.Sub(t.scanned) >= siblingPolls*t.cfg.PollInterval
	for _, s := range t.sources {
		s.rotated = true // until it is seen under its name
	}
	for _, p := range t.parsers {
		names, err := filepath.Glob(p.file.Path)
		if err != nil {
			return fmt.Errorf("look for %s: %w", p.file.Path, err)
		}
		for _, name := range names {
			if err := t.look(ctx, p, name, false); err != nil {
				return err
			}
		}
		if !all {
			continue
		}
		for _, name := range t.siblings(p.file.Path, names) {
			if err := t.look(ctx, p, name, true); err != nil {
				return err
			}
		}
	}
	for _, s := range t.sources {
		if !s.rotated {
			s.left = time.Time{}
		} else if s.left.IsZero() {
			s.left = begun
		}
	}
	if all {
		t.scanned = begun
	}
	t.open.Set(float64(len(t.sources)))
	return nil
}

// siblings are the names that rotation gives: access.log.1, access.log-20260102.
func (t *Tailer) siblings(pattern string, configured []string) []string {
	if t.scanned.IsZero() {
		return nil // the very first look: what was rotated before is not ours
	}
	var found []string
	for _, suffix := range []string{".*", "-*"} {
		names, _ := filepath.Glob(pattern + suffix) // the pattern was good before
		for _, name := range names {
			if !slices.Contains(configured, name) && !compressed(name) {
				found = append(found, name)
			}
		}
	}
	return found
}

func compressed(name string) bool {
	return slices.Contains([]string{".gz", ".zst", ".xz", ".bz2", ".lz4", ".tmp"}, filepath.Ext(name))
}

// look opens a file, unless it is open or has been read to its end.
func (t *Tailer) look(ctx context.Context, p *parser, name string, sibling bool) error {
	if name == t.cfg.Checkpoint || name == t.rejects.path || name == t.rejects.path+".1" {
		return nil
	}
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() {
		return nil // gone between listing and looking, or not a log
	}
	device, number := inode(info)
	id := identity{device, number}
	if s, ok := t.sources[id]; ok {
		if !sibling {
			s.rotated = false
		}
		s.path = name
		return t.checkTruncated(ctx, id, s, info.Size())
	}
	known := slices.ContainsFunc(t.places, func(p *place) bool {
		return p.Inode != 0 && p.Device == device && p.Inode == number
	})
	if sibling && !known && info.ModTime().Before(t.scanned.Add(-mtimeSlack)) {
		return nil
	}
	return t.follow(p, name, id, sibling)
}

// checkTruncated forgets a file that begins anew. What was unread in it may be
// in a copy: the place stays, without the inode, for the copy to be found by.
func (t *Tailer) checkTruncated(ctx context.Context, id identity, s *source, size int64) error {
	print, err := fingerprint(s.file)
	if err != nil {
		return err
	}
	if size >= s.pos && print == s.place.Fingerprint {
		return nil
	}
	if err := t.settle(ctx, 0); err != nil {
		return err
	}
	t.deps.Logger.Info().Str("file", s.path).Int64("offset", s.place.Offset).Msg("log file was truncated")
	s.place.Inode, s.place.Device = 0, 0
	t.dirty = true
	t.drop(id, s)
	return nil
}

// follow opens a file at the place where it, or its original, was left.
func (t *Tailer) follow(p *parser, name string, id identity, sibling bool) error {
	f, err := os.Open(name)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("open log file: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("open log file: %w", err)
	}
	print, err := fingerprint(f)
	device, number := inode(info)
	if err != nil || print == "" || device != id.device || number != id.inode {
		_ = f.Close()
		return err // without a first line, or replaced meanwhile: next time
	}
	pl := t.placeOf(f, info.Size(), id, print)
	if sibling && pl.Inode == number && (pl.Offset >= info.Size() || pl.Torn == info.Size()) {
		_ = f.Close() // read to its end before
		return nil
	}
	pl.Path = name
	t.sources[id] = &source{file: f, path: name, parser: p, place: pl, pos: pl.Offset, skip: -1, rotated: sibling, grown: t.deps.Clock()}
	t.dirty = true
	t.deps.Logger.Info().Str("file", name).Int64("offset", pl.Offset).Msg("following log file")
	return nil
}

// placeOf finds where the file was left, or begins at its start.
func (t *Tailer) placeOf(f *os.File, size int64, id identity, print string) *place {
	for _, p := range t.places {
		if p.Fingerprint == print && p.Device == id.device && p.Inode == id.inode && size >= p.Offset {
			return p
		}
	}
	fresh := &place{Device: id.device, Inode: id.inode, Fingerprint: print}
	for _, p := range t.places {
		if p.Fingerprint == print && p.Offset > fresh.Offset && p.continues(f, size) {
			fresh.Offset, fresh.Tail = p.Offset, p.Tail
		}
	}
	t.places = append(t.places, fresh)
	return fresh
}

// retire closes files that were renamed or removed and have nothing new for a
// while.
func (t *Tailer) retire(ctx context.Context) error {
	now := t.deps.Clock()
	for id, s := range t.sources {
		if !s.rotated || now.Sub(s.grown) < t.cfg.RotateGrace || now.Sub(s.left) < t.cfg.RotateGrace {
			continue
		}
		if err := t.last(ctx, s); err != nil {
			return err
		}
		if err := t.settle(ctx, 0); err != nil {
			return err
		}
		t.drop(id, s)
	}
	return nil
}

// last takes a last line without its end, if it is a call. If not, it is
// reported, but not passed over: should the writer only have been slow, the
// line is read whole when the file is opened again.
func (t *Tailer) last(ctx context.Context, s *source) error {
	n, _ := s.file.ReadAt(t.buf, s.pos)
	end := s.pos + int64(n)
	if s.skip >= 0 {
		t.tooLong(s)
		return t.push(ctx, s, nil, end)
	}
	if n == 0 {
		return nil
	}
	text := t.buf[:n]
	if err := s.parser.parse(text, s.place.Fingerprint, s.pos, t.deps.Clock(), &t.call); err != nil {
		t.counters.In.Inc()
		t.reject(s, s.pos, "torn", text)
		s.place.Torn, t.dirty = end, true
		return nil
	}
	return t.push(ctx, s, text, end)
}

func (t *Tailer) drop(id identity, s *source) {
	_ = s.file.Close() // it was only read
	delete(t.sources, id)
}

func (t *Tailer) closeAll() {
	for id, s := range t.sources {
		t.drop(id, s)
	}
	t.rejects.close()
}

// save writes the checkpoint, if there is something new to say.
func (t *Tailer) save(now bool) error {
	unread := int64(0)
	for _, s := range t.sources {
		if info, err := s.file.Stat(); err == nil {
			unread += max(0, info.Size()-s.place.Offset)
		}
	}
	t.behind.Set(float64(unread))
	if !now && (!t.dirty || t.deps.Clock().Sub(t.saved) < t.cfg.CheckpointInterval) {
		return nil
	}
	t.prune()
	c := checkpoint{Version: 1, Scanned: t.scanned, Places: make([]place, len(t.places))}
	for i, p := range t.places {
		c.Places[i] = *p
	}
	if err := save(t.cfg.Checkpoint, c); err != nil {
		return err
	}
	t.dirty, t.saved = false, t.deps.Clock()
	return nil
}

// prune forgets the oldest places of files that are not open.
func (t *Tailer) prune() {
	open := map[*place]bool{}
	for _, s := range t.sources {
		open[s.place] = true
	}
	excess := len(t.places) - len(open) - keptPlaces
	t.places = slices.DeleteFunc(t.places, func(p *place) bool {
		if excess > 0 && !open[p] {
			excess--
			return true
		}
		return false
	})
}
