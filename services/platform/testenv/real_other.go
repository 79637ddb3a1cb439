//go:build !linux

package testenv

import (
	"os/exec"
	"syscall"
)

// Other systems cannot tie a child's life to its parent's; Cleanup ends it.
func dieWithParent(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
}
