//go:build linux

package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// ratio is a benchmark of the product that compares two ways in one run.
type ratio struct {
	benchmark, pkg, time, what string
}

var ratios = []ratio{
	{"BenchmarkEntry", "./services/collector/als", "2s", "access log entry, our decoder to a whole call against proto.Unmarshal of the same bytes alone (4 is asked for)"},
	{"BenchmarkLoadAgainstInsertSelect", "./pipelines/load", "5x", "load of 100,000 calls against INSERT … SELECT of the same rows into the same tables (0.4 is asked for)"},
}

// compare runs the product's benchmarks that print a ratio.
func (b *bench) compare(ctx context.Context, root string) error {
	b.say("")
	b.say("## Ratios, each taken in one run")
	b.say("")
	for _, r := range ratios {
		cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^"+r.benchmark+"$", "-benchtime", r.time, r.pkg)
		cmd.Dir = root
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", r.benchmark, err, out)
		}
		value, rest, ok := metric(string(out), r.benchmark, "ratio")
		if !ok {
			return fmt.Errorf("%s printed no ratio:\n%s", r.benchmark, out)
		}
		b.say("- %s: **%s** (%s)", r.what, value, rest)
	}
	return nil
}

// metric finds a value by its unit in the line of a benchmark, and the others.
func metric(output, benchmark, unit string) (value, rest string, ok bool) {
	for line := range strings.Lines(output) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(fields[0], benchmark) {
			continue
		}
		var others []string
		for i := 2; i+1 < len(fields); i += 2 {
			switch {
			case fields[i+1] == unit:
				value, ok = fields[i], true
			case fields[i+1] != "ns/op" || fields[i] != "0":
				others = append(others, fields[i]+" "+fields[i+1])
			}
		}
		return value, strings.Join(others, ", "), ok
	}
	return "", "", false
}
