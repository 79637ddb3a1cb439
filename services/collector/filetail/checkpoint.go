package filetail

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// place is how far a file has been acknowledged.
type place struct {
	Path        string `json:"path"`
	Device      uint64 `json:"device"`
	Inode       uint64 `json:"inode"` // 0 once the file was truncated: only copies match
	Fingerprint string `json:"fingerprint"`
	Offset      int64  `json:"offset"`
	Tail        string `json:"tail"` // hash of what is right before the offset
	// Torn is the size of a rotated file whose last line had no end and made no
	// sense: unless it grows there is no use in opening it again.
	Torn int64 `json:"torn,omitempty"`
}

// tailBytes is how much before the offset is looked at to know a copy.
const tailBytes = 256

// tailBefore hashes what is right before an offset; it is empty if that cannot
// be read, and then matches nothing.
func tailBefore(f io.ReaderAt, offset int64) string {
	buf := make([]byte, min(tailBytes, offset))
	if n, _ := f.ReadAt(buf, offset-int64(len(buf))); n < len(buf) {
		return ""
	}
	sum := sha256.Sum256(buf)
	return hex.EncodeToString(sum[:16])
}

// continues says whether f, whose first line is the one of p, holds all that p
// says was read: then it is the file or a copy of it.
func (p *place) continues(f io.ReaderAt, size int64) bool {
	return size >= p.Offset && p.Tail != "" && tailBefore(f, p.Offset) == p.Tail
}

// checkpoint is what survives a restart.
type checkpoint struct {
	Version int       `json:"version"`
	Scanned time.Time `json:"scanned"` // when the folders were last looked at
	Places  []place   `json:"places"`
}

func load(path string) (checkpoint, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return checkpoint{Version: 1}, nil
	}
	if err != nil {
		return checkpoint{}, fmt.Errorf("read checkpoint: %w", err)
	}
	var c checkpoint
	if err := json.Unmarshal(text, &c); err != nil {
		return checkpoint{}, fmt.Errorf("read checkpoint %s: %w; remove it to read all files from their start", path, err)
	}
	if c.Version != 1 {
		return checkpoint{}, fmt.Errorf("read checkpoint %s: version %d is not known", path, c.Version)
	}
	return c, nil
}

// save replaces the checkpoint so that a crash leaves the old or the new one.
func save(path string, c checkpoint) (err error) {
	text, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// fingerprintBytes is how much of a first line is looked at.
const fingerprintBytes = 1024

// fingerprint hashes the first line, or as much of it as is looked at. Without
// a whole first line a file has none yet: it might still become any file.
func fingerprint(f io.ReaderAt) (string, error) {
	buf := make([]byte, fingerprintBytes)
	n, err := f.ReadAt(buf, 0)
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read first line: %w", err)
	}
	buf = buf[:n]
	if i := bytes.IndexByte(buf, '\n'); i >= 0 {
		buf = buf[:i+1]
	} else if n < fingerprintBytes {
		return "", nil
	}
	sum := sha256.Sum256(buf)
	return hex.EncodeToString(sum[:16]), nil
}
