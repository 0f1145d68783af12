package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/host/cgroup"
	"github.com/neap-dev/neap/host/interference"
	"github.com/neap-dev/neap/internal/benchreport"
)

// ours is the arm that the bars are about.
const ours = "neap"

// interferenceFlags are those that neap bench colocate and reaction share.
type interferenceFlags struct {
	format         string
	foreign, steal float64
	patience       time.Duration
	seed           uint64
}

func (f *interferenceFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.format, "format", "table", "table or json")
	cmd.Flags().Float64Var(&f.foreign, "foreign", 0.15, "reject what was measured while other programs used more cores than this")
	cmd.Flags().Float64Var(&f.steal, "steal", 0.02, "reject what was measured while the hypervisor took more cores than this")
	cmd.Flags().DurationVar(&f.patience, "patience", time.Minute, "wait at most so long for a quiet second, then measure and judge")
	cmd.Flags().Uint64Var(&f.seed, "seed", 1, "of the arrivals and of the order")
}

func (f *interferenceFlags) check() error {
	if f.format != "table" && f.format != "json" {
		return usagef("--format %q is not one of table, json", f.format)
	}
	if !(f.foreign > 0) || !(f.steal > 0) || f.patience <= 0 {
		return usagef("--foreign, --steal and --patience are more than zero")
	}
	return nil
}

// harness opens the machine's cgroups and returns a harness on them.
func (f *interferenceFlags) harness(o interference.Options) (*interference.Harness, error) {
	if runtime.GOOS != "linux" {
		return nil, errors.New("this measurement needs Linux: its cgroups and its scheduler")
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("this measurement makes cgroups and a real-time thread; run it as root")
	}
	tree, err := cgroup.Open("")
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	o.Command = []string{program, "bench", "interfere"}
	o.Foreign, o.Steal, o.Patience, o.Seed = f.foreign, f.steal, f.patience, f.seed
	return interference.New(tree, o)
}

func newBenchColocateCommand() *cobra.Command {
	var f interferenceFlags
	var arms, burners []string
	var online []float64
	var rounds, retries int
	var seconds, promise, late float64
	var within time.Duration
	var path, plot string
	var dry bool
	var help strings.Builder
	names := []string{}
	for _, a := range interference.ArmNames() {
		fmt.Fprintf(&help, "  %-12s %s\n", a[0], a[1])
		names = append(names, a[0])
	}
	cmd := &cobra.Command{
		Use:   "colocate",
		Short: "Measure what batch beside an online service does to its p99, and what each way to prevent it costs",
		Long: `Measure what batch beside an online service does to its p99, and what each way
to prevent it costs. Needs root and a machine with nothing else to do.

A service answers requests of half a millisecond of work; they arrive at random
moments and whether or not earlier ones were answered, and their latency counts
from the moment they were meant to be sent. Beside it a batch keeps every CPU
busy. In each round every arm is measured once at each load, in random order,
with the same arrivals. A row is rejected and measured again when other programs
or the hypervisor disturbed it. The arms are:

` + help.String() + `
quota, koordinator and neap take a percentage behind an @: koordinator@80.

The cpu burner computes and takes nothing but CPU time. The memory burner takes
the shared cache and the memory's bandwidth too, which no arm but the slack of
the service's own p99 can do anything about.

--rows keeps every row in a file as it is measured. The same command with that
file goes on where it was stopped; --within stops it before a time is over.`,
		Example: `  neap bench colocate --arms solo,none,shares2,weight1,idle,slice,quota,koordinator,neap --online 25,50,70 --rounds 5
  neap bench colocate --rows rows.jsonl --within 20m --plot frontier.svg --format json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			plan := interference.Plan{Retries: retries, Path: path}
			for _, name := range arms {
				a, err := interference.NewArm(name)
				if err != nil {
					return usagef("--arms: %v", err)
				}
				if slices.ContainsFunc(plan.Arms, func(b interference.Arm) bool { return b.Name == name }) {
					return usagef("--arms has %s twice", name)
				}
				plan.Arms = append(plan.Arms, a)
			}
			if !slices.Contains(arms, interference.Solo) {
				a, err := interference.NewArm(interference.Solo)
				if err != nil {
					return err
				}
				plan.Arms, arms = slices.Insert(plan.Arms, 0, a), slices.Insert(arms, 0, interference.Solo)
			}
			for i, p := range online {
				if !(p >= 1 && p <= 95) || slices.Contains(online[:i], p) {
					return usagef("--online %g: give different percentages of the machine of 1 to 95", p)
				}
			}
			for i, b := range burners {
				if b != interference.BurnCPU && b != interference.BurnMemory || slices.Contains(burners[:i], b) {
					return usagef("--burner %q is not cpu, memory or cpu,memory", b)
				}
			}
			if rounds < 1 || rounds > 1000 || retries < 0 || !(seconds >= 1 && seconds <= 600) || within < 0 || !(promise == 0 || promise > 1) || !(late > 0) {
				return usagef("give 1 to 1000 --rounds, --retries from 0, --seconds of 1 to 600, a --promise above 1, a --late above 0")
			}
			head, rows, err := interference.Head{}, []interference.Row(nil), error(nil)
			if path != "" {
				if head, rows, err = interference.ReadRows(path); err != nil {
					return unread(err, "--rows")
				}
				if head.Format == "" {
					if err := mayWrite(path); err != nil {
						return err
					}
				}
				if head.Format != "" && (head.Seconds != seconds || head.Seed != f.seed) {
					return usagef("--rows %s was measured with --seconds %g --seed %d; go on with these or name another file", path, head.Seconds, head.Seed)
				}
			}
			if err := mayWrite(plot); err != nil {
				return err
			}
			plan.Cells = interference.Cells(arms, online, burners, rounds, f.seed)
			h, err := f.harness(interference.Options{Seconds: seconds, TargetRatio: promise, Late: late, Head: head})
			if err != nil {
				return err
			}
			log := func(format string, a ...any) { fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", a...) }
			log("%d rows of %g s, about %v on a quiet machine", len(plan.Cells), seconds, h.Time(plan, plan.Cells).Round(time.Second))
			if dry {
				return nil
			}
			if within > 0 {
				plan.Deadline = time.Now().Add(within)
			}
			rows, err = interference.Run(cmd.Context(), h, plan, rows, func(p interference.Progress) { log("%s", progressLine(p)) })
			if err != nil && !errors.Is(err, interference.ErrDeadline) {
				return err
			}
			if err != nil {
				log("%v; the same command with --rows goes on", err)
			}
			report := interferenceReport(rows, arms, runtime.NumCPU())
			if err := report.Write(cmd.OutOrStdout(), f.format); err != nil {
				return err
			}
			summaries := interference.Summarise(rows, arms, runtime.NumCPU())
			if f.format == "table" {
				writeInterferenceTable(cmd.OutOrStdout(), summaries, interference.Frontier(rows, ours, runtime.NumCPU()))
			}
			if plot != "" {
				draw := func(w io.Writer) error { return interference.Plot(w, summaries, ours, runtime.NumCPU()) }
				if err := writeOut(plot, nil, draw); err != nil {
					return err
				}
			}
			if missed := report.Missed(); len(missed) > 0 {
				return fmt.Errorf("bars missed: %q", missed)
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().StringSliceVar(&arms, "arms", names, "what to compare; solo is always there")
	cmd.Flags().Float64SliceVar(&online, "online", []float64{25, 50, 70}, "percent of the machine that the service uses")
	cmd.Flags().StringSliceVar(&burners, "burner", []string{interference.BurnCPU}, "what the batch does: cpu, memory or both")
	cmd.Flags().IntVar(&rounds, "rounds", 5, "how often everything is measured")
	cmd.Flags().Float64Var(&seconds, "seconds", 10, "how long a row is measured, after a second of warm-up (ten for neap)")
	cmd.Flags().IntVar(&retries, "retries", 2, "how often a rejected row is measured again")
	cmd.Flags().Float64Var(&promise, "promise", 1.5, "the service promises so many times its p99 alone, for neap's slack; 0 promises nothing")
	cmd.Flags().Float64Var(&late, "late", 0.1, "reject a row when the sender's own p99 lateness was more than this part of the p99, and than 0.2 ms")
	cmd.Flags().StringVar(&path, "rows", "", "keep rows in this file, and go on with those in it")
	cmd.Flags().DurationVar(&within, "within", 0, "begin no row that would not end within this time")
	cmd.Flags().StringVar(&plot, "plot", "", "draw p99 over batch cores into this file, as SVG")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say how many rows there are and how long they take")
	return cmd
}

func progressLine(p interference.Progress) string {
	r := p.Row
	word := fmt.Sprintf("p99 %.2f ms", r.P99Ms)
	if r.P99Ratio > 0 {
		word += fmt.Sprintf(" (%.2f of alone)", r.P99Ratio)
	}
	line := fmt.Sprintf("%3d of %d  round %d  %-6s %2.0f %%  %-14s %s, batch %.2f, online %.2f, others %.2f cores",
		p.Done, p.All, r.Round, r.Burner, r.OnlinePercent, r.Arm, word, r.BatchCores, r.OnlineCores, r.OtherCores)
	switch {
	case p.TryAgain:
		line += "; rejected, once more: " + r.Why
	case !r.OK:
		line += "; rejected: " + r.Why
	default:
		line += fmt.Sprintf("; %v to go", p.Left.Round(time.Second))
	}
	return line
}

// interferenceReport says which of the promises about colocation rows keep.
func interferenceReport(rows []interference.Row, arms []string, cores int) benchreport.Report {
	report := benchreport.Report{Machine: benchreport.ThisMachine()}
	for _, r := range rows {
		report.Rows = append(report.Rows, r)
	}
	beaten := map[string][]string{}
	for _, r := range interference.Frontier(rows, ours, cores) {
		if r.Beats {
			beaten[r.Burner] = append(beaten[r.Burner], fmt.Sprintf("%s at %g %%", r.Arm, r.OnlinePercent))
		}
	}
	seen := map[string]bool{}
	for _, s := range interference.Summarise(rows, arms, cores) {
		if s.Arm != ours || s.P99Ratio.N == 0 {
			continue
		}
		most := 1.10
		if s.OnlinePercent > 50 {
			most = 1.25
		}
		where := fmt.Sprintf("%s burner, online %g %%", s.Burner, s.OnlinePercent)
		report.Bars = append(report.Bars,
			benchreport.AtMost("p99 ÷ alone, "+where+", median", s.P99Ratio.Median, "", most),
			benchreport.AtLeast("batch of what online leaves, "+where+", median", 100*s.Share.Median, "%", 80))
		if !seen[s.Burner] {
			seen[s.Burner] = true
			name := "arms that beat neap, " + s.Burner + " burner"
			if b := beaten[s.Burner]; len(b) > 0 {
				name += " (" + strings.Join(b, ", ") + ")"
			}
			report.Bars = append(report.Bars, benchreport.Equal(name, float64(len(beaten[s.Burner])), "arms", 0))
		}
	}
	return report
}

func writeInterferenceTable(w io.Writer, summaries []interference.Summary, rivals []interference.Rival) {
	t := newTable("burner", ">online", "arm", ">p99 ÷ alone", ">range", ">95 % of mean", ">batch cores", ">of the rest", ">p99 ms", ">rows", ">rejected")
	for _, s := range summaries {
		t.add(s.Burner, fmt.Sprintf("%g %%", s.OnlinePercent), s.Arm, fmt.Sprintf("%.2f", s.P99Ratio.Median),
			fmt.Sprintf("%.2f–%.2f", s.P99Ratio.Min, s.P99Ratio.Max), fmt.Sprintf("%.2f–%.2f", s.P99Ratio.Low, s.P99Ratio.High),
			fmt.Sprintf("%.2f", s.BatchCores.Median), fmt.Sprintf("%.0f %%", 100*s.Share.Median), fmt.Sprintf("%.2f", s.P99Ms.Median),
			fmt.Sprint(s.P99Ratio.N), fmt.Sprint(s.Rejected))
	}
	fmt.Fprintln(w)
	t.write(w, "")
	if len(rivals) == 0 {
		return
	}
	t = newTable("burner", ">online", "arm", ">its p99 ÷ neap's", ">95 %", ">its batch − neap's", ">95 %", "")
	for _, r := range rivals {
		word := ""
		if r.Beats {
			word = "beats neap"
		}
		t.add(r.Burner, fmt.Sprintf("%g %%", r.OnlinePercent), r.Arm, fmt.Sprintf("%.2f", r.P99.Median), fmt.Sprintf("%.2f–%.2f", r.P99.Low, r.P99.High),
			fmt.Sprintf("%+.2f", r.Batch.Median), fmt.Sprintf("%+.2f…%+.2f", r.Batch.Low, r.Batch.High), word)
	}
	fmt.Fprintln(w)
	t.write(w, "")
}
