package clickhouse

import (
	"errors"
	"net"
	"strings"
	"testing"
)

func TestOnceReaderLetsGoOfTheCallersReader(t *testing.T) {
	callers := strings.NewReader("some text")
	r := &onceReader{reader: callers}
	if r.isStarted() || r.size() != 9 {
		t.Errorf("started %v, size %d before the first read", r.isStarted(), r.size())
	}
	if n, err := r.Read(make([]byte, 4)); n != 4 || err != nil || !r.isStarted() {
		t.Errorf("read %d, error %v, started %v", n, err, r.isStarted())
	}
	r.stop()
	if n, err := r.Read(make([]byte, 4)); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("after stop: read %d, error %v", n, err)
	}
	if callers.Len() != 5 {
		t.Errorf("%d bytes are left to the caller, want 5", callers.Len())
	}
}
