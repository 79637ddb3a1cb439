//go:build linux

package main

import (
	"slices"
	"testing"
	"time"
)

func TestParseSteps(t *testing.T) {
	got, err := parseSteps("1000x20s,60000x1m")
	if err != nil || !slices.Equal(got, []step{{1000, 20 * time.Second}, {60000, time.Minute}}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"1000", "x20s", "1000x", "-1x1s", "1000x0s", "1000x1s,"} {
		if got, err := parseSteps(bad); err == nil {
			t.Errorf("%q read as %v", bad, got)
		}
	}
}

func TestMetric(t *testing.T) {
	const output = "goos: linux\nBenchmarkEntry-2   \t 100\t 0 ns/op\t 520 ns/entry\t 4.5 ratio\nPASS\n"
	value, rest, ok := metric(output, "BenchmarkEntry", "ratio")
	if !ok || value != "4.5" || rest != "520 ns/entry" {
		t.Errorf("%q, %q, %v", value, rest, ok)
	}
	if _, _, ok := metric(output, "BenchmarkEntry", "rows/s"); ok {
		t.Error("found what is not there")
	}
	if _, _, ok := metric(output, "BenchmarkOther", "ratio"); ok {
		t.Error("found another's")
	}
}

func TestPercentile(t *testing.T) {
	var all []time.Duration
	for i := range 100 {
		all = append(all, time.Duration(i+1)*time.Millisecond)
	}
	for p, want := range map[float64]time.Duration{0: time.Millisecond, 0.5: 51 * time.Millisecond, 0.99: 100 * time.Millisecond, 1: 100 * time.Millisecond} {
		if got := percentile(all, p); got != want {
			t.Errorf("p%g is %s, want %s", 100*p, got, want)
		}
	}
	if percentile(nil, 0.5) != 0 {
		t.Error("of nothing")
	}
}
