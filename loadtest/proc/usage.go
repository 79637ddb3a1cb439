//go:build linux

package proc

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process has used of the machine.
type Usage struct {
	CPU      time.Duration // user and system, since its start
	RSSBytes int64         // now
}

// ticksPerSecond is USER_HZ, 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// ReadUsage reads /proc of a process.
func ReadUsage(pid int) (Usage, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 22 {
		return Usage{}, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields))
	}
	var n [3]int64
	for i, field := range []int{11, 12, 21} { // utime, stime, rss, counted after the name
		if n[i], err = strconv.ParseInt(fields[field], 10, 64); err != nil {
			return Usage{}, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
		}
	}
	return Usage{
		CPU:      time.Duration(n[0]+n[1]) * time.Second / ticksPerSecond,
		RSSBytes: n[2] * int64(os.Getpagesize()),
	}, nil
}

// Metrics reads the process's metrics: the name with its labels, to the value.
func (p *Process) Metrics(ctx context.Context) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Admin+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	out := map[string]float64{}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		if v, err := strconv.ParseFloat(line[at+1:], 64); err == nil {
			out[line[:at]] = v
		}
	}
	return out, lines.Err()
}

// Sum adds up the metrics of a name over all labels.
func Sum(metrics map[string]float64, name string) (sum float64) {
	for k, v := range metrics {
		if base, _, _ := strings.Cut(k, "{"); base == name {
			sum += v
		}
	}
	return sum
}

// Drained waits until the process's metrics say that everything in its
// partitions of the log is stored and committed as done.
func (p *Process) Drained(ctx context.Context) error {
	return p.poll(ctx, func() error {
		metrics, err := p.Metrics(ctx)
		if err != nil {
			return err
		}
		lag, pending := Sum(metrics, "tollway_delivery_lag_messages"), Sum(metrics, "tollway_delivery_pending_rows")
		if lag != 0 || pending != 0 {
			return fmt.Errorf("%.0f messages of lag, %.0f rows pending", lag, pending)
		}
		return nil
	})
}
