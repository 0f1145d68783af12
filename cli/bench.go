package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

// benches makes every measurement, in the order of the help text. A new one is
// a file bench_NAME.go and a line here.
var benches = []func() *cobra.Command{
	newBenchLocalCommand,
	newBenchBillCommand,
	newBenchPageCommand,
	newBenchElasticCommand,
	newBenchColocateCommand,
	newBenchReactionCommand,
	newBenchInterfereCommand,
	newBenchNetCommand,
	newBenchNetRoleCommand,
}

func newBenchCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "bench",
		Short: "Measure what neap promises, on this machine",
		Long: `Measure what neap promises, on this machine.

Every measurement prints its bars: what was measured, what was promised, and
whether it was kept. With --format json it prints
{"machine":…, "bars":[{"name","value","unit","bar","met"}…], "rows":[…]},
the rows being the raw measurements. It exits with 1 if a bar was missed.`,
	})
	for _, make := range benches {
		cmd.AddCommand(make())
	}
	list := cmd.Flags().Bool("list", false, "print the measurements' names, one a line")
	help := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !*list {
			return help(cmd, args)
		}
		for _, b := range cmd.Commands() {
			if b.IsAvailableCommand() {
				fmt.Fprintln(cmd.OutOrStdout(), b.Name())
			}
		}
		return nil
	}
	return cmd
}
