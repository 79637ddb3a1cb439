//go:build linux

package main

import (
	"context"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/tollway/tollway/loadtest/proc"
)

// watched is a process whose needs are measured.
type watched struct {
	name  string
	pid   int
	begin proc.Usage
	peak  int64 // bytes
}

// watch reads what processes use, every half second, until stop.
type watch struct {
	list []*watched
	stop context.CancelFunc
	done sync.WaitGroup
}

// newWatch begins with the processes named, and with this one as the
// generator.
func newWatch(ctx context.Context, pids map[string]int) (*watch, error) {
	w := &watch{}
	for name, pid := range pids {
		w.list = append(w.list, &watched{name: name, pid: pid})
	}
	slices.SortFunc(w.list, func(a, b *watched) int { return a.pid - b.pid })
	w.list = append(w.list, &watched{name: "generator", pid: os.Getpid()})
	for _, p := range w.list {
		var err error
		if p.begin, err = proc.ReadUsage(p.pid); err != nil {
			return nil, err
		}
	}
	ctx, w.stop = context.WithCancel(ctx)
	w.done.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, p := range w.list {
				if u, err := proc.ReadUsage(p.pid); err == nil {
					p.peak = max(p.peak, u.RSSBytes)
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return w, nil
}

// need is what a process used for a load.
type need struct {
	name      string
	cpu       time.Duration
	peak, now int64 // bytes
}

// end stops watching; CPU is counted up to here.
func (w *watch) end() ([]need, error) {
	w.stop()
	w.done.Wait()
	var out []need
	for _, p := range w.list {
		u, err := proc.ReadUsage(p.pid)
		if err != nil {
			return nil, err
		}
		out = append(out, need{name: p.name, cpu: u.CPU - p.begin.CPU, peak: p.peak})
	}
	return out, nil
}

// after reads the memory again.
func (w *watch) after(needs []need) {
	for i, p := range w.list {
		if u, err := proc.ReadUsage(p.pid); err == nil {
			needs[i].now = u.RSSBytes
		}
	}
}

// table prints needs, per event.
func (b *bench) table(needs []need, events int64) {
	b.say("")
	b.say("| process | CPU-µs per event | memory at most | memory %s after |", b.idle)
	b.say("|---|---|---|---|")
	var all, product time.Duration
	for _, n := range needs {
		all += n.cpu
		if n.name != "generator" {
			product += n.cpu
		}
		b.say("| %s | %.2f | %d MB | %d MB |", n.name, perEvent(n.cpu, events), n.peak>>20, n.now>>20)
	}
	b.say("| all but the generator | %.2f | | |", perEvent(product, events))
	b.say("| all | %.2f | | |", perEvent(all, events))
}

func perEvent(d time.Duration, events int64) float64 {
	return float64(d.Microseconds()) / float64(max(events, 1))
}

// percentile of sorted values.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))].Round(time.Millisecond)
}
