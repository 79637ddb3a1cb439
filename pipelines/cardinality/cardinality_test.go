package cardinality

import (
	"strconv"
	"testing"

	"github.com/tollway/tollway/pipelines/call"
)

func batch(day int64, operations ...string) *call.Batch {
	b := call.NewBatch()
	for _, o := range operations {
		var c call.Call
		c.Reset()
		c.ReceivedAt = day * 24 * 3600 * 1e6
		c.Strings[call.Operation] = o
		b.Append(&c)
	}
	return b
}

func values(b *call.Batch) (out []string) {
	for i := range b.Rows() {
		out = append(out, b.Strings[call.Operation].Value(i))
	}
	return out
}

func TestValuesBeyondTheCapReadOther(t *testing.T) {
	c := New(3)
	for _, step := range []struct {
		day      int64
		in, want []string
		changed  int
	}{
		{1, []string{"a", "b", "a", ""}, []string{"a", "b", "a", ""}, 0},
		{1, []string{"c", "d", "a", "d", "e"}, []string{"c", Other, "a", Other, Other}, 3},
		{1, []string{"d", "b", Other}, []string{Other, "b", Other}, 1},
		{2, []string{"d", "e", "f", "a"}, []string{"d", "e", "f", Other}, 1},
	} {
		b := batch(step.day, step.in...)
		changed := c.Apply(b)[call.Operation]
		if got := values(b); changed != step.changed || !equal(got, step.want) {
			t.Errorf("%v became %v (%d changed), want %v (%d)", step.in, got, changed, step.want, step.changed)
		}
	}
}

func equal(a, b []string) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return len(a) == len(b)
}

func TestTotalsStayExactAndTheBatchEncodes(t *testing.T) {
	c, b := New(100), call.NewBatch()
	for i := range 10_000 {
		var one call.Call
		one.Reset()
		one.Strings[call.Operation] = strconv.Itoa(i)
		b.Append(&one)
	}
	if changed := c.Apply(b)[call.Operation]; changed != 9_900 || b.Rows() != 10_000 {
		t.Fatalf("%d changed of %d rows", changed, b.Rows())
	}
	if _, err := call.Encode(nil, b); err != nil {
		t.Fatal(err)
	}
}

// Who called is found out by the credential, however many there are.
func TestCredentialsAreNotCapped(t *testing.T) {
	b := call.NewBatch()
	for _, credential := range []string{"a/b/1", "a/b/2", "a/b/3"} {
		var c call.Call
		c.Reset()
		c.Strings[call.Credential] = credential
		b.Append(&c)
	}
	if changed := New(1).Apply(b); len(changed) > 0 || b.Strings[call.Credential].Value(2) != "a/b/3" {
		t.Errorf("changed %v", changed)
	}
}
