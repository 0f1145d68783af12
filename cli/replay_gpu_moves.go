package cli

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/neap-dev/neap/sim/openb"
)

// gpuMoves is what `neap replay gpu` was asked for about pods that come, go and move.
type gpuMoves struct {
	churn, moves string
	from         []string
	arrivals     int
}

func (g *gpuMoves) flags(f *pflag.FlagSet) {
	f.StringVar(&g.churn, "churn", "", "let pods come and go; what is offered in percent of all GPUs, such as 90,95")
	f.StringVar(&g.moves, "moves", "0", "moves that a thousand arrivals of --churn may cost, such as 0,10,100; with --repack-from the most moves, 0 for as many as it takes")
	f.IntVar(&g.arrivals, "arrivals", 24_000, "how many pods come in --churn once the fleet is filled")
	f.StringSliceVar(&g.from, "repack-from", nil, "plan to give machines back from where these policies left them at the levels --at")
}

// The most that flags may ask for.
const (
	maxChurnPercent = 200
	maxGPUMoves     = 1_000_000
	maxArrivals     = 10_000_000
)

// runMoves plays --churn or --repack-from.
func (g *gpuReplay) runMoves(cmd *cobra.Command, format, out string) error {
	policies, flag, levels, name := g.policies, "--policy", g.churn, "--churn"
	high := int64(maxChurnPercent)
	switch {
	case g.compare != "":
		return usagef("--compare is not for --churn and --repack-from: the benchmark's authors moved nothing")
	case g.churn != "" && len(g.from) > 0:
		return usagef("--churn and --repack-from are two replays; ask for one of them")
	case g.churn != "" && cmd.Flags().Changed("at"):
		return usagef("--at is for arrivals without departures; --churn names its own levels")
	case len(g.from) > 0 && cmd.Flags().Changed("policy"):
		return usagef("--repack-from names the policies; --policy is not for it")
	case len(g.from) > 0 && cmd.Flags().Changed("arrivals"):
		return usagef("--arrivals is for --churn")
	case g.arrivals < 1 || g.arrivals > maxArrivals:
		return usagef("--arrivals %d is not between 1 and %d", g.arrivals, maxArrivals)
	case len(g.from) > 0:
		policies, flag, levels, name, high = g.from, "--repack-from", g.at, "--at", openb.MaxLevel
		if !cmd.Flags().Changed("at") {
			levels = "80"
		}
	}
	if err := g.check(policies, flag); err != nil {
		return err
	}
	if g.churn != "" && slices.Contains(policies, "clustering") {
		return usagef("--policy clustering knows no departures, so --churn cannot play it")
	}
	x := openb.MovesMatrix{Policies: policies, Arrivals: g.arrivals, Bound: g.bound, Workers: g.workers}
	numbers := func(flag, s string, high int64) ([]int, error) {
		spans, err := parseSpans(flag, s, 0, high)
		all := make([]int, len(spans))
		for i, v := range spans {
			all[i] = int(v)
		}
		return all, err
	}
	var err error
	if x.Levels, err = numbers(name, levels, high); err != nil {
		return err
	}
	if x.Moves, err = numbers("--moves", g.moves, maxGPUMoves); err != nil {
		return err
	}
	if len(g.from) > 0 && len(x.Moves) > 1 {
		return usagef("--moves: --repack-from takes one number, the most moves")
	}
	if x.Seeds, err = parseSpans("--seeds", g.seeds, 0, 1<<31-1); err != nil {
		return err
	}
	if x.Traces, err = g.traces(); err != nil {
		return err
	}
	begun, runs := time.Now(), 0
	x.Done = func(run string) {
		runs++
		fmt.Fprintf(cmd.ErrOrStderr(), "neap: %s (%.0f s)\n", run, time.Since(begun).Seconds())
	}
	if g.churn != "" {
		rows, err := x.Churn(cmd.Context())
		if err != nil {
			return err
		}
		return writeOut(out, cmd.OutOrStdout(), func(w io.Writer) error {
			if format == "json" {
				return writeJSON(w, map[string]any{"rows": rows})
			}
			return writeChurnTable(w, openb.ChurnMeans(rows), g.bound)
		})
	}
	rows, err := x.Repack(cmd.Context())
	if err != nil {
		return err
	}
	return writeOut(out, cmd.OutOrStdout(), func(w io.Writer) error {
		if format == "json" {
			return writeJSON(w, map[string]any{"rows": rows})
		}
		return writeRepackTable(w, openb.RepackMeans(rows), g.bound)
	})
}

func fixed(v float64, digits int) string {
	if math.IsNaN(v) {
		return "–"
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

func writeChurnTable(w io.Writer, means []openb.ChurnMean, bound bool) error {
	buf := bufio.NewWriter(w)
	columns := []string{"trace", "policy", ">offered %", ">moves per 1000", ">seeds", ">rejected %"}
	if bound {
		columns = append(columns, ">bound %")
	}
	t := newTable(append(columns, ">rejected pods", ">held %", ">moves", ">pods admitted by them", ">GPUs per move", ">GPU-hours held twice")...)
	for _, m := range means {
		cells := []string{printable(m.Trace), m.Policy, strconv.Itoa(m.OfferedPercent), strconv.Itoa(m.MovesPerThousand), strconv.Itoa(m.Seeds), fixed(m.RejectedPercent, 2)}
		if bound {
			cells = append(cells, fixed(m.Floor, 2))
		}
		won := "–"
		if m.MovesMean > 0 {
			won = fixed(m.WonPerMove, 2)
		}
		t.add(append(cells, fixed(m.PodsMean, 1), fixed(m.HeldPercent, 2), fixed(m.MovesMean, 0), fixed(m.AdmittedMean, 1), won, fixed(m.DoubleGPUHours, 2))...)
	}
	t.write(buf, "")
	return buf.Flush()
}

func writeRepackTable(w io.Writer, means []openb.RepackMean, bound bool) error {
	buf := bufio.NewWriter(w)
	columns := []string{"trace", "from", ">arrived %", ">seeds", ">machines", ">after"}
	if bound {
		columns = append(columns, ">bound")
	}
	columns = append(columns, ">their GPUs", ">after")
	if bound {
		columns = append(columns, ">bound")
	}
	t := newTable(append(columns, ">machines freed", ">moves", ">moves per GPU freed", ">GPU-hours held twice")...)
	for _, m := range means {
		cells := []string{printable(m.Trace), m.From, strconv.Itoa(m.ArrivedPercent), strconv.Itoa(m.Seeds), fixed(m.MachinesBefore, 1), fixed(m.MachinesAfter, 1)}
		if bound {
			cells = append(cells, fixed(m.BoundMachines, 1))
		}
		cells = append(cells, fixed(m.GPUsBefore, 1), fixed(m.GPUsAfter, 1))
		if bound {
			cells = append(cells, fixed(m.BoundGPUs, 1))
		}
		per := math.NaN()
		if freed := m.GPUsBefore - m.GPUsAfter; freed > 0 {
			per = m.Moves / freed
		}
		t.add(append(cells, fixed(m.Freed, 1), fixed(m.Moves, 1), fixed(per, 2), fixed(m.GPUHours, 2))...)
	}
	t.write(buf, "")
	return buf.Flush()
}
