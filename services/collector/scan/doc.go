// Package scan reads JSON in one pass and without allocation: what the events
// API and the access-log tailer spend their time on.
//
// In: a buffer. Out: keys, strings and numbers that alias the buffer, unescaped
// into a scratch buffer only where there is an escape; and the values that calls
// are made of: times, decimals, client addresses. It accepts exactly the texts
// that encoding/json accepts, down to a nesting of MaxDepth. The package is
// pure; a crash loses nothing here.
package scan
