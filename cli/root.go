// Package cli holds the commands of neap: one file per command with its flags,
// its help and one call inward.
//
// [Main] runs a command line and returns the exit status: 0 if all went well,
// 1 if the command failed, 2 if the command line itself was wrong. Every
// failure is one sentence on standard error that says what, where, and what to
// do; results go to standard output and nothing else does.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// Exit statuses of [Main].
const (
	exitFailed = 1
	exitUsage  = 2
)

// commands makes every command of neap, in the order of the help text. A new
// command is a file of its own and a line here.
var commands = []func() *cobra.Command{
	newBillCommand,
	newUpCommand,
	newElasticCommand,
	newColocateCommand,
	newGPUCommand,
	newNodeCommand,
	newTimetableCommand,
	newReplayCommand,
	newBenchCommand,
	newVersionCommand,
}

// Main runs neap with args (without the program's name) and returns its exit
// status. Results are written to stdout, progress and errors to stderr. When
// ctx ends, the command stops what it started and returns.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root, started := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)

	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var usage usageError
	if errors.As(err, &usage) || !*started {
		fmt.Fprintf(stderr, "neap: %s\n", sentence(err))
		return exitUsage
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		fmt.Fprintln(stderr, "neap: stopped by a signal")
		return exitFailed
	}
	fmt.Fprintf(stderr, "neap: %s\n", sentence(err))
	return exitFailed
}

// newRoot returns the command tree, and whether a command's own code was
// reached: until then every error is one of usage.
func newRoot() (*cobra.Command, *bool) {
	started := new(bool)
	root := &cobra.Command{
		Use:   "neap",
		Short: "Say where every unit of a Kubernetes bill goes, and why it changed",
		Long: `neap says where every unit of the money spent on a Kubernetes cluster went,
and why the bill changed: by module, namespace, pool, machine type or label,
with every idle unit in exactly one named box.`,
		Example: `  # the bill of the last 24 hours of the cluster your kubeconfig points to (read-only)
  neap bill

  # the same from the store of the local cluster, as JSON
  neap bill --store ~/.local/state/neap --format json

  # why did it change between yesterday and the day before?
  neap bill diff --from -48h/24h --to -24h/24h`,
		SilenceUsage:     true,
		SilenceErrors:    true,
		Args:             onlyCommands,
		RunE:             func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRun: func(*cobra.Command, []string) { *started = true },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%v; see %s --help", err, cmd.CommandPath())
	})
	for _, make := range commands {
		root.AddCommand(make())
	}
	return root, started
}

// group makes a command that only holds others: alone it prints its help, and
// anything unknown below it gets a hint.
func group(cmd *cobra.Command, below ...*cobra.Command) *cobra.Command {
	cmd.Args = onlyCommands
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.AddCommand(below...)
	return cmd
}

// onlyCommands refuses what is not the name of a command below cmd.
func onlyCommands(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	return nil
}

// noArgs refuses arguments to commands that take none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usagef("%s takes no arguments but was given %q; see %[1]s --help", cmd.CommandPath(), args[0])
}

func unknownCommand(cmd *cobra.Command, name string) error {
	path := cmd.CommandPath()
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		return usagef("there is no `%s %s`; did you mean `%s %s`?", path, name, path, near[0])
	}
	var known []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			known = append(known, c.Name())
		}
	}
	return usagef("there is no `%s %s`; `%s` has the commands %s", path, name, path, strings.Join(known, ", "))
}

// A usageError says that the command line was wrong: exit status 2.
type usageError struct{ message string }

func (e usageError) Error() string { return e.message }

// usagef returns an error that ends neap with the status of wrong usage.
func usagef(format string, args ...any) error {
	return usageError{fmt.Sprintf(format, args...)}
}

// sentence returns err's text on one line.
func sentence(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}

// stateDir is where `neap up` keeps its state unless told otherwise:
// $XDG_STATE_HOME/neap, else ~/.local/state/neap.
func stateDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "neap"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the home folder: %w; set XDG_STATE_HOME or name the folder with a flag", err)
	}
	return filepath.Join(home, ".local", "state", "neap"), nil
}
