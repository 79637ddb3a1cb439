package embedded

import (
	"fmt"
	"io"
	"os"
)

// engineArgument is the hidden first argument that turns this executable into
// the engine's process.
const engineArgument = "__engine"

// aliveDescriptor is the file descriptor of the pipe whose other end the
// parent holds open as long as it lives.
const aliveDescriptor = 3

// EngineMain turns this process into the engine when it was started as one,
// and then never returns; otherwise it returns at once and has done nothing.
// main and TestMain call it first, before anything is read, opened or started.
func EngineMain(args []string) {
	if len(args) < 3 || args[1] != engineArgument {
		return
	}
	go dieWithParent(os.NewFile(aliveDescriptor, "alive"))
	if err := runLibrary(args[2], args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// dieWithParent is the second of two nets under the case that the parent is
// killed: the kernel's parent-death signal is tied to a thread and can be
// lost, a closed pipe cannot.
func dieWithParent(alive *os.File) {
	_, _ = io.Copy(io.Discard, alive)
	killSelf()
}
