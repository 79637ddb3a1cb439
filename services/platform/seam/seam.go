//go:build !faults

// Package seam marks the places between two effects where a crash is worth
// testing. In a normal build every function is empty and costs nothing; a
// build with the tag "faults" can die or misbehave at a named seam, as the
// environment says.
//
// In: names of seams. Out: nothing. It holds nothing that a crash could lose.
package seam

// Point is a place where a test may kill the process.
func Point(string) {}

// Broken tells whether a protection is to be left out, to prove that the fault
// tests notice.
func Broken(string) bool { return false }
