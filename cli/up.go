package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/neap-dev/neap/local"
	"github.com/neap-dev/neap/sim/scenario"
)

func newUpCommand() *cobra.Command {
	var (
		name, seriesDir, dir, until, reportFile string
		speed                                   string
		o                                       local.Options
		headless                                bool
	)
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a cluster on this machine for a simulated day, and its dashboard",
		Long: `Run a cluster on this machine for a simulated day, and its dashboard.

A real Kubernetes control plane and scheduler run here; machines, pods and load
are simulated, and say so everywhere. Every hour of the day is billed to the
last unit. Ctrl-C stops all of it; the next start goes on where it stopped, even
after kill -9.

A scenario is a file, or one of those built in: ` + strings.Join(scenario.Builtin(), ", ") + `.`,
		Example: `  # the school day, an hour a minute
  neap up

  # a small day on a laptop, as fast as it goes
  neap up --scenario small --speed 600

  # for a script: six hours, the report, and an exit status
  neap up --scenario small --speed 600 --headless --until 6h --report out.json

  # this machine as a real node besides (root, Linux): a kubelet and real pods
  sudo neap up --join-host

  # the recorded load instead of the generated one
  neap up --series-dir ../shared/data/load`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Speed, err = strconv.ParseFloat(speed, 64); err != nil || !(o.Speed >= 1 && o.Speed <= local.MaxSpeed) {
				return usagef("--speed %s is not a number from 1 to %d", speed, local.MaxSpeed)
			}
			if o.Prometheus != "" && !cmd.Flags().Changed("speed") {
				o.Speed = 1
			}
			if until != "" {
				var ok bool
				if o.Until, ok = parseDuration(until); !ok || o.Until <= 0 {
					return usagef("--until %s is not a duration above 0, such as 24h", until)
				}
			}
			if reportFile != "" && o.Until == 0 {
				return usagef("--report is written when the day ends; say when with --until")
			}
			if err := mayWrite(reportFile); err != nil {
				return err
			}
			if dir == "" {
				if dir, err = stateDir(); err != nil {
					return err
				}
			}
			o.Dir = dir
			if o.Scenario, err = loadScenario(name, seriesDir, cmd.ErrOrStderr()); err != nil {
				return err
			}
			if err := o.Validate(); err != nil {
				return usagef("%s", strings.TrimPrefix(err.Error(), "up: "))
			}
			o.Out = cmd.ErrOrStderr()
			if f, ok := o.Out.(*os.File); ok && !headless {
				o.Bar = term.IsTerminal(int(f.Fd()))
			}
			report, err := local.Up(cmd.Context(), o)
			if errors.Is(err, context.Canceled) && o.Until == 0 {
				err = nil // nobody said when it ends: Ctrl-C is how
			}
			if err != nil || report == nil {
				return err
			}
			if o.Until > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s of %s in %.1f s: bill %s %s, allocated %s, %d decisions\n",
					showDuration(report.To.Sub(report.From)), report.Scenario, report.WallSeconds,
					report.Bill.BillNano, report.Bill.Currency, report.Bill.AllocatedNano, report.Decisions)
			}
			if reportFile == "" && !headless {
				return nil
			}
			if o.Until == 0 {
				return nil
			}
			return writeOut(reportFile, cmd.OutOrStdout(), func(w io.Writer) error { return writeJSON(w, report) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "scenario", "school-day", "file of a scenario, or the name of a built-in one")
	f.StringVar(&speed, "speed", "60", "simulated seconds per second, 1 to "+strconv.Itoa(local.MaxSpeed))
	f.StringVar(&seriesDir, "series-dir", "", "play the recorded series in this folder instead of generated load")
	f.StringVar(&o.Prometheus, "prometheus", "", "use this Prometheus, which scrapes /metrics of the dashboard's address, instead of the embedded one; the day then is the real one")
	f.StringVar(&o.Listen, "listen", "", fmt.Sprintf("address of the dashboard, on the loopback interface (default 127.0.0.1:%d, or a free port)", local.DefaultPort))
	f.BoolVar(&o.JoinHost, "join-host", false, "make this machine a real node of the cluster besides, with a kubelet, containerd and runc; needs root and Linux, and what make node installs")
	f.StringVar(&dir, "dir", "", "folder of the state (default $XDG_STATE_HOME/neap, else ~/.local/state/neap)")
	f.BoolVar(&o.Fresh, "fresh", false, "remove the day that an earlier run left in the folder, and begin again")
	f.BoolVar(&headless, "headless", false, "plain lines only; with --until the report goes to standard output unless --report names a file")
	f.StringVar(&until, "until", "", "end when so much of the day has passed since its beginning, such as 24h")
	f.StringVar(&reportFile, "report", "", "write the report as JSON to this file when the day ends")
	return cmd
}
