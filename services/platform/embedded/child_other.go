//go:build !(linux && amd64)

package embedded

import (
	"errors"
	"os"
	"os/exec"
)

var errPlatform = errors.New("the embedded engine runs on Linux x86-64 only")

func runLibrary(string, []string) error { return errPlatform }

func killSelf() { os.Exit(1) }

func tieToParent(*exec.Cmd) {}

func lockFolder(string) (*os.File, error) { return nil, errPlatform }
