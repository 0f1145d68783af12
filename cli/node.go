package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/probe"
)

func newNodeCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "node",
		Short: "Look at the machine that neap runs on",
	}, newNodeProbeCommand())
}

func newNodeProbeCommand() *cobra.Command {
	var opts probe.Options
	var format string
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Say what this machine's kernel, hardware and kubelet can do for colocation",
		Long: `Say what this machine's kernel, hardware and kubelet can do for colocation.

What is absent is said to be, and what cannot be told is unknown: as root more can be
told. Nothing is changed, but trying a kind of network queue may load its kernel
module. The agent writes the same on its node, as annotation neap.dev/probe.

It exits with 1 if batch may not run beside online here.`,
		Example: `  sudo neap node probe
  sudo neap node probe --format json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkFormat(format, "table", "json"); err != nil {
				return err
			}
			opts.Now = time.Now()
			p := probe.Look(opts)
			ok, reason, message := p.Verdict()
			out := cmd.OutOrStdout()
			if format == "json" {
				if err := writeIndented(out, struct {
					colocate.Probe
					Able    bool   `json:"able"`
					Reason  string `json:"reason"`
					Message string `json:"message"`
				}{p, ok, reason, message}); err != nil {
					return err
				}
			} else {
				fmt.Fprintf(out, "kernel %s, cgroups %s, kubelet's driver %s\n\n", p.Kernel, p.Cgroup, orDash(p.Driver))
				t := newTable("FEATURE", "HERE", "FOR", "")
				for _, f := range p.Features {
					t.add(f.Name, string(f.State), f.Use, f.Detail)
				}
				t.write(out, "")
				if ok {
					fmt.Fprintf(out, "\n%s.\n", message)
				}
			}
			if !ok {
				return fmt.Errorf("batch may not run beside online here: %s", message)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	cmd.Flags().StringVar(&opts.Parent, "cgroup-root", "", "the kubelet's --cgroup-root, if it has one")
	return cmd
}
