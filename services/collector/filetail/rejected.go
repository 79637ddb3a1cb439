package filetail

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/tollway/tollway/pipelines/call"
)

// rejects is the file of lines that are not calls. When it is full it becomes
// the one before, which is replaced: the newest are kept.
type rejects struct {
	path string
	max  int64
	file *os.File
	size int64
}

// keptLine is how much of a rejected line is kept.
const keptLine = 4096

func (r *rejects) add(path string, offset int64, reason string, text []byte) error {
	entry, err := json.Marshal(struct {
		File   string `json:"file"`
		Offset int64  `json:"offset"`
		Reason string `json:"reason"`
		Line   string `json:"line"`
	}{path, offset, reason, call.Clean(string(text[:min(len(text), keptLine)]), keptLine)})
	if err != nil {
		return fmt.Errorf("write rejected line: %w", err)
	}
	entry = append(entry, '\n')
	if int64(len(entry)) > r.max {
		return nil
	}
	if err := r.open(int64(len(entry))); err != nil {
		return fmt.Errorf("write rejected line: %w", err)
	}
	n, err := r.file.Write(entry)
	r.size += int64(n)
	if err != nil {
		return fmt.Errorf("write rejected line: %w", err)
	}
	return nil
}

func (r *rejects) open(need int64) error {
	if r.file != nil && r.size+need > r.max {
		r.close()
		if err := os.Rename(r.path, r.path+".1"); err != nil {
			return err
		}
	}
	if r.file != nil {
		return nil
	}
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return err
	}
	r.file, r.size = f, info.Size()
	if r.size > 0 && r.size+need > r.max {
		return r.open(need)
	}
	return nil
}

func (r *rejects) close() {
	if r.file != nil {
		_ = r.file.Close() // nothing that was counted on is in it
		r.file = nil
	}
}
