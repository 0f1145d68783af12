package cli

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/host/netbench"
	"github.com/neap-dev/neap/internal/benchreport"
)

func newBenchNetCommand() *cobra.Command {
	opts := netbench.Options{}
	var format string
	var seconds, warm int
	var megabits float64
	cmd := &cobra.Command{
		Use:   "net",
		Short: "Measure what an online service's calls feel of a bulk sender on the same uplink",
		Long: `Measure what an online service's calls feel of a bulk sender on the same uplink.

Two network namespaces are made, and a link of --megabits between them that ends
behind a buffer as switches have. Calls are sent over it at random times, open loop,
beside a bulk sender that takes what it gets. The arms are:
  solo  no bulk sender
  none  nothing is done about it
  htb   the usual fixed classes: 40, 30 and 30 % of the link, each up to all of it
  neap  what the agent does: online first, bulk within a budget that follows online

Arms run in random order in every round; p99Ratio is to the round's own solo. A row in
which the caller itself was late, or calls failed, is measured again, up to three times.
This needs root. Nothing of the machine's own network is touched.`,
		Example: `  neap bench net
  neap bench net --arms solo,neap --rounds 1 --seconds 5 --format json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkFormat(format, "table", "json"); err != nil {
				return err
			}
			for _, arm := range opts.Arms {
				if !slices.Contains(netbench.Arms(), arm) {
					return usagef("--arms %s is not one of %s", arm, strings.Join(netbench.Arms(), ", "))
				}
			}
			for flag, v := range map[string]float64{"rounds": float64(opts.Rounds), "seconds": float64(seconds), "megabits": megabits,
				"calls": opts.Calls, "bytes": float64(opts.Bytes), "streams": float64(opts.Streams)} {
				if !(v > 0 && v <= 1e6) {
					return usagef("--%s %v is not more than 0 and at most a million", flag, v)
				}
			}
			if carried := opts.Calls * float64(opts.Bytes) * 8 / 1e6; carried > 0.8*megabits {
				return usagef("--calls %v of --bytes %d are %.0f Mbit/s: more than 80 %% of --megabits %v leaves nothing to share", opts.Calls, opts.Bytes, carried, megabits)
			}
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			opts.Self = func(role string, args ...string) *exec.Cmd {
				return exec.Command(exe, append([]string{"bench", netRole, role}, args...)...)
			}
			opts.Bits = int64(megabits * 1e6)
			opts.Time, opts.Warm = time.Duration(seconds)*time.Second, time.Duration(warm)*time.Second
			opts.Say = func(f string, a ...any) { fmt.Fprintf(cmd.ErrOrStderr(), f+"\n", a...) }
			arms := len(opts.Arms)
			opts.Say("%d rows, about %v", opts.Rounds*arms, (time.Duration(opts.Rounds*arms) * (opts.Time + opts.Warm + time.Second)).Round(time.Second))
			rows, err := netbench.Run(cmd.Context(), opts)
			if err != nil {
				return err
			}
			report := benchreport.Report{Machine: benchreport.ThisMachine(), Bars: netBars(rows)}
			for _, r := range rows {
				report.Rows = append(report.Rows, r)
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
	f := cmd.Flags()
	f.StringVar(&format, "format", "table", "table or json")
	f.StringSliceVar(&opts.Arms, "arms", netbench.Arms(), "measure these arms")
	f.IntVar(&opts.Rounds, "rounds", 5, "how often each arm is measured")
	f.IntVar(&seconds, "seconds", 10, "how long an arm is measured")
	f.IntVar(&warm, "warm", 12, "seconds before that, in which a budget rises")
	f.Float64Var(&megabits, "megabits", 100, "what the link carries in a second")
	f.Float64Var(&opts.Calls, "calls", 500, "calls a second")
	f.IntVar(&opts.Bytes, "bytes", 4096, "bytes of a call")
	f.IntVar(&opts.Streams, "streams", 4, "connections of the bulk sender")
	f.Uint64Var(&opts.Seed, "seed", 1, "of the order of arms and the times of calls")
	return cmd
}

// netBars are medians over the rounds: of p99 to the round's solo, and of what bulk
// got of the rest.
func netBars(rows []netbench.Row) []benchreport.Bar {
	ratio, rest, beside := map[string][]float64{}, map[string][]float64{}, map[string]float64{}
	for _, r := range rows {
		if !r.OK {
			continue
		}
		if r.P99Ratio > 0 {
			ratio[r.Arm] = append(ratio[r.Arm], r.P99Ratio)
		}
		rest[r.Arm] = append(rest[r.Arm], r.RestShare*100)
	}
	for arm, v := range ratio {
		beside[arm] = median(v)
	}
	var bars []benchreport.Bar
	if len(rest) == 0 {
		return []benchreport.Bar{benchreport.AtLeast("rows that count", 0, "", 1)}
	}
	if len(ratio[netbench.Neap]) > 0 {
		bars = append(bars, benchreport.AtMost("p99 beside bulk, to alone", beside[netbench.Neap], "x", 1.3))
	}
	if v := rest[netbench.Neap]; len(v) > 0 {
		bars = append(bars, benchreport.AtLeast("bulk, of what online leaves", median(v), "%", 80))
	}
	for _, arm := range []string{netbench.None, netbench.HTB} {
		if len(ratio[arm]) > 0 && len(ratio[netbench.Neap]) > 0 {
			bars = append(bars, benchreport.Below("p99 to that of "+arm, beside[netbench.Neap]/beside[arm], "x", 1))
		}
	}
	return bars
}

func median(of []float64) float64 {
	v := slices.Sorted(slices.Values(of))
	if len(v) == 0 {
		return math.NaN()
	}
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// netRole is the hidden command that plays a part of neap bench net.
const netRole = "net-role"

func newBenchNetRoleCommand() *cobra.Command {
	return &cobra.Command{Use: netRole + " ROLE [ARGUMENT…]", Short: "Play a part of neap bench net", Hidden: true,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return netbench.Role(args[0], args[1:]) }}
}
