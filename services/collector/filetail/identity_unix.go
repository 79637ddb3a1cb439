//go:build unix

package filetail

import (
	"os"
	"syscall"
)

// inode names a file while it exists, whatever its path.
func inode(info os.FileInfo) (device, number uint64) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Dev), st.Ino
	}
	return 0, 0
}
