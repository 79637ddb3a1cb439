package call

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCredential(t *testing.T) {
	if got := string(AppendClient([]byte("x"), "https://issuer", "shop")); got != "xclient:https://issuer#shop" {
		t.Error(got)
	}
	if got := string(AppendSubject(nil, "https://issuer", "a#b")); got != "subject:https://issuer#a#b" {
		t.Error(got)
	}
	if got := string(AppendCertificate(nil, "spiffe://x/y")); got != "certificate:spiffe://x/y" {
		t.Error(got)
	}
	long := strings.Repeat("i", MaxString)
	if got := string(AppendClient(nil, long, "shop")); len(got) > MaxString || !strings.HasPrefix(got, "client:sha256:") {
		t.Error(got)
	}
}

// Different credentials have different texts, which the column does not cut.
func TestCredentialsDiffer(t *testing.T) {
	part := rapid.StringMatching(`[ab#]{0,3}(x{250})?`)
	append := []func([]byte, string, string) []byte{AppendClient, AppendSubject, func(b []byte, uri, _ string) []byte { return AppendCertificate(b, uri) }}
	rapid.Check(t, func(t *rapid.T) {
		k1, k2 := rapid.IntRange(0, 2).Draw(t, "kind"), rapid.IntRange(0, 2).Draw(t, "kind")
		a1, a2 := part.Draw(t, "issuer"), part.Draw(t, "issuer")
		b1, b2 := "c"+part.Draw(t, "id"), "c"+part.Draw(t, "id")
		if k1 == 2 {
			b1 = ""
		}
		if k2 == 2 {
			b2 = ""
		}
		one, other := string(append[k1](nil, a1, b1)), string(append[k2](nil, a2, b2))
		if len(one) > MaxString {
			t.Fatalf("%q is cut", one)
		}
		if (one == other) != (k1 == k2 && a1 == a2 && b1 == b2) {
			t.Fatalf("%d %q %q and %d %q %q: %q and %q", k1, a1, b1, k2, a2, b2, one, other)
		}
	})
}

// What of a key comes into a batch is what may be shown of it.
func TestKeyInClear(t *testing.T) {
	var c Call
	c.Reset()
	c.Strings[Credential] = "tk_01234567_abcdefghijklmnopqrstuvwxyz0"
	b := NewBatch()
	b.Append(&c)
	column := &b.Strings[Credential]
	if got := column.Values[column.Index[0]]; got != "tk_01234567" {
		t.Errorf("the column holds %q", got)
	}
	for _, other := range []string{"", "tk_", "tk_01234567", "acme/web/main", "client:tk_#x"} {
		if got := ShownKey(other); got != other {
			t.Errorf("%q becomes %q", other, got)
		}
	}
}
