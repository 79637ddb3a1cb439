package keys

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/tollway/tollway/pipelines/call"
)

func TestNew(t *testing.T) {
	shape := regexp.MustCompile(`^tk_[0-9A-Za-z]{8}_[0-9A-Za-z]{27}$`)
	seen := map[string]bool{}
	for range 1000 {
		key, prefix, err := New()
		if err != nil {
			t.Fatal(err)
		}
		// What the record of a call keeps of a key is the prefix.
		if got := call.ShownKey(key); got != prefix {
			t.Fatalf("of %s… is kept %q", prefix, got)
		}
		if !shape.MatchString(key) || !strings.HasPrefix(key, prefix+"_") {
			t.Fatalf("key has a wrong shape, prefix %s", prefix)
		}
		if seen[key] || seen[prefix] {
			t.Fatal("a key came twice")
		}
		seen[key], seen[prefix] = true, true
	}
}

func TestHash(t *testing.T) {
	// RFC 4231, test case 2.
	if got := HashKey("Jefe").Hash("what do ya want for nothing?"); !bytes.HasPrefix(got, []byte{0x5b, 0xdc, 0xc1, 0x46, 0xbf}) {
		t.Errorf("hash is %x", got)
	}
	if HashKey("a").Check() == HashKey("b").Check() {
		t.Error("two keys have the same check value")
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "hash.key")
	keys := make([]HashKey, 8)
	var group sync.WaitGroup
	for i := range keys {
		group.Go(func() {
			key, err := Load(path)
			if err != nil {
				t.Error(err)
			}
			keys[i] = key
		})
	}
	group.Wait()
	for _, key := range keys {
		if len(key) != hashKeySize || !bytes.Equal(key, keys[0]) {
			t.Fatal("processes that start together have different keys")
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	for _, text := range []string{"", "abc", strings.Repeat("00", 31), strings.Repeat("zz", 32)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "is no hash key") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
