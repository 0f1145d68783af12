package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/host/interference"
	"github.com/neap-dev/neap/internal/benchreport"
)

func newBenchReactionCommand() *cobra.Command {
	var f interferenceFlags
	var arms []string
	var runs, retries int
	var low, high float64
	var waves []time.Duration
	var wave time.Duration
	cmd := &cobra.Command{
		Use:   "reaction",
		Short: "Measure how soon batch makes room when online load steps up, and whether it flaps",
		Long: `Measure how soon batch makes room when online load steps up, and whether it
flaps. Needs root and a machine with nothing else to do.

Step: the service's load goes from --low to --high percent of the machine. The
time is until the batch's ceiling (its group's quota) and what the service uses
from then on fit the machine together, and stay so.

Wave: the load goes to and fro between the two with each of the --waves as its
period. A reversal is a turn of the ceiling by more than a hundredth of the
machine; those beyond the load's own changes count, per minute.`,
		Example: `  neap bench reaction --arms neap,koordinator --runs 10
  neap bench reaction --runs 3 --waves 2s,10s,60s --wave-time 2m --format json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			var loops []interference.Arm
			for _, name := range arms {
				a, err := interference.NewArm(name)
				if err != nil {
					return usagef("--arms: %v", err)
				}
				if bare, _, _ := strings.Cut(name, "@"); bare != "neap" && bare != "koordinator" {
					return usagef("--arms %s has no loop that could react; give neap, koordinator", name)
				}
				loops = append(loops, a)
			}
			if !(low >= 1 && low < high && high <= 95) {
				return usagef("--low %g and --high %g are not 1 ≤ low < high ≤ 95", low, high)
			}
			if runs < 0 || retries < 0 || wave <= 0 {
				return usagef("--runs and --retries are 0 or more, --wave-time more")
			}
			for _, w := range waves {
				if w < 200*time.Millisecond || w > time.Hour {
					return usagef("--waves %v: give periods of 200ms to 1h", w)
				}
			}
			h, err := f.harness(interference.Options{Seconds: 1})
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if err := h.Calibrate(ctx); err != nil {
				return err
			}
			const settle, stay = 6 * time.Second, 4 * time.Second
			long := time.Duration(len(loops)) * time.Duration(runs) * (settle + stay + 2*time.Second)
			for _, w := range waves {
				long += time.Duration(len(loops)) * (max(wave, w) + 2*time.Second)
			}
			log := func(format string, a ...any) { fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", a...) }
			log("about %v on a quiet machine", long.Round(time.Second))
			report := benchreport.Report{Machine: benchreport.ThisMachine()}
			for _, arm := range loops {
				var took []float64
				for run := 1; run <= runs; run++ {
					for try := 0; ; try++ {
						r, err := h.React(ctx, arm, run, low, high, settle, stay)
						if err != nil {
							return err
						}
						log("step %d of %d  %-14s ceiling %.2f to %.2f cores in %.0f ms beside %.2f online; %s", run, runs, arm.Name, r.BeforeCores, r.AfterCores, r.Millis, r.OnlineCores, orFine(r.Why))
						report.Rows = append(report.Rows, r)
						if r.OK {
							took = append(took, r.Millis)
						}
						if r.OK || try >= retries {
							break
						}
					}
				}
				if len(took) > 0 && arm.Name == ours {
					report.Bars = append(report.Bars,
						benchreport.AtMost("step until the ceiling is in place, median", interference.SpreadOf(took).Median, "ms", 200),
						benchreport.AtMost("step until the ceiling is in place, slowest", slices.Max(took), "ms", 200))
				}
				worst, any := 0.0, false
				for _, w := range waves {
					for try := 0; ; try++ {
						r, err := h.Wave(ctx, arm, low, high, w, wave)
						if err != nil {
							return err
						}
						log("wave of %v  %-14s %d changes, %d reversals in %.1f min, ceiling %.2f to %.2f cores, batch %.2f; %s", w, arm.Name, r.Changes, r.Reversals, r.Minutes, r.LowestCores, r.HighestCores, r.BatchCores, orFine(r.Why))
						report.Rows = append(report.Rows, r)
						if r.OK {
							worst, any = max(worst, r.BeyondPerMin), true
						}
						if r.OK || try >= retries {
							break
						}
					}
				}
				if any && arm.Name == ours {
					report.Bars = append(report.Bars, benchreport.AtMost("reversals beyond the load's changes, worst wave", worst, "1/min", 1))
				}
			}
			if err := report.Write(cmd.OutOrStdout(), f.format); err != nil {
				return err
			}
			if missed := report.Missed(); len(missed) > 0 {
				return fmt.Errorf("bars missed: %q", missed)
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().StringSliceVar(&arms, "arms", []string{ours, "koordinator"}, "the loops to measure")
	cmd.Flags().IntVar(&runs, "runs", 10, "how often the load steps up")
	cmd.Flags().IntVar(&retries, "retries", 2, "how often a disturbed measurement is made again")
	cmd.Flags().Float64Var(&low, "low", 20, "percent of the machine before the step")
	cmd.Flags().Float64Var(&high, "high", 80, "percent of the machine after it")
	cmd.Flags().DurationSliceVar(&waves, "waves", []time.Duration{2 * time.Second, 6 * time.Second, 20 * time.Second, 60 * time.Second}, "periods of the square waves; none: --waves=")
	cmd.Flags().DurationVar(&wave, "wave-time", time.Minute, "how long each wave lasts; a whole period at least")
	return cmd
}

func orFine(why string) string {
	if why == "" {
		return "fine"
	}
	return "not counted: " + why
}
