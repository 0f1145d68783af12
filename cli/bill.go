package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func newBillCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "bill",
		Short: "Show what the cluster cost and where the money went",
		Args:  noArgs,
		RunE:  func(*cobra.Command, []string) error { return errors.New("not built yet") },
	}
}
