package cli

import (
	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/host/interference"
)

// newBenchInterfereCommand makes the command that the children of neap bench
// colocate and reaction are: the service, the sender and the batch.
func newBenchInterfereCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "interfere ROLE",
		Short:              "Be a child of neap bench colocate",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return interference.Main(cmd.Context(), args, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
