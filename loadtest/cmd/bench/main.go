//go:build linux

// Command bench measures a whole Tollway from outside, on this machine: how
// many calls it takes and for how long, how late a report knows of a call, and
// what each process needs for it.
//
// In: the repository, the engine and, if fetched, Kafka. Out: a text on
// standard output and the same in loadtest/results. Everything that it starts
// it ends; its data is in a temporary folder.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tollway/tollway/loadtest/proc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run of the command.
type bench struct {
	out     io.Writer
	results strings.Builder
	binary  string
	dir     string
	keep    bool

	steps       []step
	streams     int
	httpFor     time.Duration
	connections int
	partitions  int
	idle        time.Duration
}

// step is a rate of calls and how long it is held.
type step struct {
	rate float64
	time time.Duration
}

func parseSteps(text string) ([]step, error) {
	var out []step
	for part := range strings.SplitSeq(text, ",") {
		rate, length, ok := strings.Cut(part, "x")
		n, err := strconv.ParseFloat(rate, 64)
		d, err2 := time.ParseDuration(length)
		if err := errors.Join(err, err2); err != nil || !ok || n <= 0 || d <= 0 {
			return nil, fmt.Errorf("step %q must be like 60000x1m", part)
		}
		out = append(out, step{n, d})
	}
	return out, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	b := &bench{out: out}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	als := flags.String("als", "1000x20s,60000x1m,150000x20s", "rates over access logs and how long each is held; empty for none")
	flags.IntVar(&b.streams, "streams", 4, "access log streams")
	flags.DurationVar(&b.httpFor, "http", 20*time.Second, "how long events are posted on a real Kafka; 0 for not at all")
	flags.IntVar(&b.connections, "connections", 4, "connections that post events")
	flags.IntVar(&b.partitions, "partitions", 4, "partitions of the log")
	flags.DurationVar(&b.idle, "idle", 10*time.Second, "how long to wait before memory is read again after a load")
	compare := flags.Bool("ratios", true, "run the product's benchmarks that print a ratio")
	flags.BoolVar(&b.keep, "keep", false, "keep the temporary folder")
	results := flags.String("results", "", "folder of the results (default loadtest/results)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *als != "" {
		var err error
		if b.steps, err = parseSteps(*als); err != nil {
			return err
		}
	}
	// Nothing here takes this long; a part that hangs is not waited for.
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()

	root, err := proc.Root()
	if err != nil {
		return err
	}
	if *results == "" {
		*results = filepath.Join(root, "loadtest", "results")
	}
	if b.dir, err = os.MkdirTemp("", "tollway-bench"); err != nil {
		return err
	}
	if !b.keep {
		defer os.RemoveAll(b.dir)
	}
	if b.binary, err = proc.Build(ctx, b.dir, ""); err != nil {
		return err
	}
	b.machine()
	if *compare {
		if err := b.compare(ctx, root); err != nil {
			return err
		}
	}
	if len(b.steps) > 0 {
		if err := b.accessLogs(ctx); err != nil {
			return fmt.Errorf("access logs: %w", err)
		}
	}
	if b.httpFor > 0 {
		if err := b.events(ctx); err != nil {
			return fmt.Errorf("events: %w", err)
		}
	}
	return b.write(*results)
}

// say prints a line of the results.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.out, format+"\n", args...)
	fmt.Fprintf(&b.results, format+"\n", args...)
}

func (b *bench) write(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	path := filepath.Join(folder, time.Now().UTC().Format("2006-01-02")+".md")
	if err := os.WriteFile(path, []byte(b.results.String()), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "\nwritten to %s\n", path)
	return nil
}

// machine says what the numbers are measured on.
func (b *bench) machine() {
	b.say("# Measured on %s", time.Now().UTC().Format("2 January 2006"))
	b.say("")
	b.say("%s, %d cores, %s of memory, Linux %s, %s. Everything runs on this machine, the generator too.",
		field("/proc/cpuinfo", "model name"), runtime.NumCPU(), memory(), kernel(), runtime.Version())
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		first, _, _ := strings.Cut(string(load), " ")
		b.say("Load of the machine when the run began: %s.", first)
	}
}

func field(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func memory() string {
	kib, err := strconv.Atoi(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"))
	if err != nil {
		return "an unknown amount"
	}
	return fmt.Sprintf("%d GiB", (kib+1<<19)>>20)
}

func kernel() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "of unknown version"
	}
	return strings.TrimSpace(string(text))
}
