//go:build linux && amd64

package embedded

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/ebitengine/purego"
)

// runLibrary loads libchdb.so and runs its command line until the query ends,
// which for a server is when the process is told to stop.
func runLibrary(library string, args []string) error {
	handle, err := purego.Dlopen(library, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return fmt.Errorf("load the engine: %w", err)
	}
	var run func(argc int32, argv **byte) uintptr
	var resultError func(result uintptr) string
	purego.RegisterLibFunc(&run, handle, "chdb_query_cmdline")
	purego.RegisterLibFunc(&resultError, handle, "chdb_result_error")

	argv := cStrings(append([]string{"clickhouse"}, args...))
	result := run(int32(len(argv)-1), &argv[0])
	runtime.KeepAlive(argv)
	if result == 0 {
		return errors.New("the engine gave no result")
	}
	if text := resultError(result); text != "" {
		return errors.New(text)
	}
	return nil
}

// cStrings makes a null-terminated argv.
func cStrings(args []string) []*byte {
	argv := make([]*byte, 0, len(args)+1)
	for _, arg := range args {
		b := append([]byte(arg), 0)
		argv = append(argv, &b[0])
	}
	return append(argv, nil)
}

func killSelf() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// tieToParent asks the kernel to kill the child when the thread that starts it
// ends, and keeps a Ctrl-C of the terminal away from it: the parent stops it
// when its own work is done.
func tieToParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// lockFolder takes an exclusive lock that the kernel drops when this process
// ends.
func lockFolder(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, err
	}
	return file, nil
}
