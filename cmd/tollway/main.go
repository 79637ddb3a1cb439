// Command tollway is every part of Tollway in one binary: what runs for long
// (up, serve) and what asks a running one (report, events, …).
//
// In: a command line, a configuration file, environment variables. Out: the
// services of the other packages, wired by hand in process.go, and answers on
// standard output. It keeps nothing of its own, so a crash loses nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tollway/tollway/services/platform/embedded"
)

var version = "development"

func main() {
	embedded.EngineMain(os.Args)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRootCommand().ExecuteContext(ctx)
	stop()
	if err != nil && !errors.Is(err, errSilent) {
		fmt.Fprintln(os.Stderr, "Error:", err)
	}
	os.Exit(exitCode(err))
}

func exitCode(err error) int {
	var coded interface{ ExitCode() int }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coded):
		return coded.ExitCode()
	}
	return exitFailed
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "tollway",
		Short:         "Meter API calls: collect them once, report them, bill them, limit them",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError("%w; see `%s --help`", err, cmd.CommandPath())
	})
	events := newEventsCommand()
	events.AddCommand(newResumeCommand())
	root.AddCommand(
		newUpCommand(), newServeCommand(), newMigrateCommand(), newCheckCommand(),
		newReportCommand(), events, newReconcileCommand(), newRebuildCommand(), newRepublishCommand(),
	)
	root.AddCommand(newCatalogCommands()...)
	return root
}
