package auth

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"
)

func testChain(parts ...Authenticator) (*Chain, *time.Time) {
	c := NewChain(prometheus.NewRegistry(), parts...)
	clock := time.Now()
	c.now = func() time.Time { return clock }
	return c, &clock
}

func TestLockOut(t *testing.T) {
	c, clock := testChain(Static(map[string]Principal{"good": adminP}))
	from := func(address, token string) error {
		_, err := c.Authenticate(withRemote(context.Background(), address), token)
		return err
	}
	fail := func(address string) {
		t.Helper()
		for range failuresAllowed {
			if err := from(address, "guess"); !errors.Is(err, ErrUnauthenticated) {
				t.Fatal(err)
			}
		}
	}
	locked := func(address string, want time.Duration) {
		t.Helper()
		var locked *LockedOutError
		if err := from(address, "guess"); !errors.As(err, &locked) || locked.RetryAfter != want {
			t.Errorf("%s: %v, want a lock-out of %s", address, err, want)
		}
	}
	fail("192.0.2.1:1234")
	locked("192.0.2.1:999", firstLockOut)
	if err := from("192.0.2.1:1234", "good"); err != nil {
		t.Errorf("a good token from the locked address: %v", err)
	}
	if err := from("192.0.2.1:1234", ""); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("no token: %v", err)
	}
	fail("192.0.2.2:1234")
	// More failures do not make it longer, time does not make it shorter than said.
	*clock = clock.Add(firstLockOut / 4)
	locked("192.0.2.1:1234", firstLockOut*3/4)
	*clock = clock.Add(firstLockOut * 3 / 4)
	for want := 2 * firstLockOut; want < 2*longestLockOut; want *= 2 {
		fail("192.0.2.1:1234")
		locked("192.0.2.1:1234", min(want, longestLockOut))
		*clock = clock.Add(min(want, longestLockOut))
	}
	*clock = clock.Add(longestLockOut)
	fail("192.0.2.1:1234")
	locked("192.0.2.1:1234", firstLockOut)
	// Failures that are far apart are no guessing.
	for range 3 * failuresAllowed {
		*clock = clock.Add(failureWindow / (failuresAllowed - 1))
		if err := from("192.0.2.3:1", "guess"); !errors.Is(err, ErrUnauthenticated) {
			t.Fatal(err)
		}
	}

	// A subscriber has a /64 to choose addresses from.
	fail("[2001:db8::1]:1")
	locked("[2001:db8::ffff:1%eth0]:2", firstLockOut)
	fail("[2001:db8:0:1::1]:1")
	fail("[::ffff:192.0.2.9]:1")
	locked("192.0.2.9:1", firstLockOut)
	// Who cannot be told apart is not locked out.
	fail("")
	fail("")
	fail("@")
	fail("@")
}

func TestLockOutMemory(t *testing.T) {
	f, now := newFailures(), time.Now()
	attacker := netip.MustParsePrefix("192.0.2.1/32")
	for range failuresAllowed + 1 {
		f.add(attacker, now)
	}
	flood := func(first byte) {
		for i := range 2 * maxAddresses {
			ip, _ := netip.AddrFromSlice(net.IPv4(first, byte(i>>16), byte(i>>8), byte(i)).To4())
			f.add(netip.PrefixFrom(ip, 32), now)
		}
	}
	flood(10)
	if n := len(f.addresses); n > maxAddresses {
		t.Errorf("%d addresses are remembered", n)
	}
	if f.add(attacker, now) == 0 {
		t.Error("a flood of addresses lifts a lock-out")
	}
	now = now.Add(2 * longestLockOut)
	flood(11)
	if n := len(f.addresses); n > maxAddresses {
		t.Errorf("%d addresses are remembered", n)
	}
}

// Whatever happens, a lock-out is within its bounds and ends when it was said to.
func TestLockOutBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, now := newFailures(), time.Unix(1_700_000_000, 0)
		addresses := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/64")}
		ends := map[netip.Prefix]time.Time{}
		for range rapid.IntRange(1, 200).Draw(t, "failures") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(90*time.Second)).Draw(t, "pause")))
			a := rapid.SampledFrom(addresses).Draw(t, "address")
			wait := f.add(a, now)
			if wait < 0 || wait > longestLockOut {
				t.Fatalf("locked out for %s", wait)
			}
			if now.Before(ends[a]) && !now.Add(wait).Equal(ends[a]) {
				t.Fatalf("a lock-out until %s ends after %s at %s", ends[a], wait, now)
			}
			if wait > 0 {
				ends[a] = now.Add(wait)
			}
		}
	})
}
