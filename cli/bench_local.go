package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/internal/benchreport"
	"github.com/neap-dev/neap/local/controlplane"
)

func newBenchLocalCommand() *cobra.Command {
	var format, bin string
	cmd := &cobra.Command{
		Use:   "local",
		Short: "Measure the control plane that runs on this machine",
		Long: `Measure the control plane that runs on this machine.

Starts etcd, kube-apiserver and kube-controller-manager in an empty folder,
measures how long that takes and how much memory they use with nothing in them,
kills them in the midst of writes, and counts what was acknowledged and is gone.
The folder is a temporary one; a cluster that runs is not touched.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			rows, err := controlplane.Measure(cmd.Context(), controlplane.MeasureOptions{
				BinDir: bin,
				Log:    func(f string, a ...any) { fmt.Fprintf(cmd.ErrOrStderr(), f+"\n", a...) },
			})
			if err != nil {
				return err
			}
			report := benchreport.Report{Machine: benchreport.ThisMachine()}
			var ready, resident float64
			gone := 0
			for _, r := range rows {
				ready, resident, gone = max(ready, r.ReadySeconds), max(resident, r.ResidentMiB), gone+r.Lost
				report.Rows = append(report.Rows, r)
			}
			report.Bars = []benchreport.Bar{
				benchreport.Below("control plane ready, slowest start", ready, "s", 15),
				benchreport.Below("control plane resident, nothing in it", resident, "MiB", 700),
				benchreport.Equal("acknowledged writes lost to kill -9", float64(gone), "writes", 0),
			}
			if err := report.Write(cmd.OutOrStdout(), format); err != nil {
				return err
			}
			if missed := report.Missed(); len(missed) > 0 {
				return fmt.Errorf("bars missed: %q", missed)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	cmd.Flags().StringVar(&bin, "bin", "", "folder of neap-cluster and neap-scheduler (default: beside neap, else bin)")
	return cmd
}
