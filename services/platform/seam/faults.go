//go:build faults

// Package seam marks the places between two effects where a crash is worth
// testing. This is the variant for fault tests: it dies or misbehaves as the
// environment says.
//
// In: names of seams; the environment variables TOLLWAY_SEAM ("name:n": kill
// the process with SIGKILL at the n-th passage) and TOLLWAY_BROKEN (names of
// protections to leave out, separated by commas). Out: nothing, or the end of
// the process.
package seam

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var (
	name, count, _ = strings.Cut(os.Getenv("TOLLWAY_SEAM"), ":")
	wanted, _      = strconv.ParseInt(count, 10, 64)
	broken         = strings.Split(os.Getenv("TOLLWAY_BROKEN"), ",")
	passed         atomic.Int64
)

// Point kills the process at the wanted passage of the wanted seam, without
// any chance to clean up.
func Point(seam string) {
	if seam == name && passed.Add(1) == wanted {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// Broken tells whether a protection is to be left out.
func Broken(protection string) bool {
	for _, b := range broken {
		if b == protection {
			return true
		}
	}
	return false
}
