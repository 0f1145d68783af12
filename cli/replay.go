package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/sim/replay"
	"github.com/neap-dev/neap/sim/scenario"
)

func newReplayCommand() *cobra.Command {
	var (
		dir, store, until string
		by, format, out   string
		compare, ratios   []string
		top               int
	)
	cmd := &cobra.Command{
		Use:   "replay [SCENARIO]",
		Short: "Simulate a scenario's day in seconds and show its bill",
		Long: `Simulate a scenario in seconds, without a cluster: the same machines, load,
physics, placement and bill as neap up, as a discrete-event simulation.
Everything it shows is simulated. Equal scenarios give equal results.

SCENARIO is a file or the name of a built-in one: ` + strings.Join(scenario.Builtin(), ", ") + `.
Without it, school-day is replayed.

With --format json the result carries "bill" (as neap bill --format json shows
it), the fleet hour by hour, the day's curves, what the users of every module
met, and the decisions.

--compare plays the same day in several ways and shows them side by side, with
the money of each pool and every promise broken: "reserved" (every replica of
the busiest time all day, on owned machines of its kind), "spare" (the same with
the spare CPU of GPU machines), "scheduled" (replicas and schedules as written)
and "elastic" (the scenario's policies). Reserved days own as few machines as
hold them. --price-ratio adds the break-even curve: at each ratio of the
serverless to the owned price, the number of owned machines with which the
policies are cheapest and keep every promise; that takes some dozens of replays.`,
		Example: `  neap replay                                      # the built-in school day
  neap replay small --until 6h --format json --out small.json
  neap replay --series-dir ../shared/data/load     # recorded load instead of generated
  neap replay my.yaml --store ./day && neap bill --store ./day
  neap replay --compare reserved,scheduled,elastic
  neap replay school-day --compare reserved,elastic --price-ratio 1,2,3,4 --format json --out curve.json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes one scenario but was given %d; see %[1]s --help", cmd.CommandPath(), len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			grouping, err := parseBy(by)
			if err != nil {
				return err
			}
			if !slices.Contains([]string{"table", "json"}, format) {
				return usagef("--format %s is not one of table, json", format)
			}
			span, ok := time.Duration(0), true
			if until != "" {
				if span, ok = parseDuration(until); !ok || span <= 0 {
					return usagef("--until %s is not a duration above 0, such as 24h", until)
				}
			}
			cases, err := parseCases(compare)
			if err != nil {
				return err
			}
			prices, err := parseRatios(ratios)
			if err != nil {
				return err
			}
			switch {
			case len(prices) > 0 && len(cases) == 0:
				return usagef("--price-ratio is for --compare, such as --compare reserved,elastic")
			case len(cases) > 0 && store != "":
				return usagef("--store keeps one day, and --compare plays several; leave one out")
			}
			if err := mayWrite(out); err != nil {
				return err
			}
			path := ""
			if len(args) == 1 {
				path = args[0]
			}
			s, err := loadScenario(path, dir, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if len(cases) > 0 {
				return compareReplays(ctx, s, replay.CompareOptions{Cases: cases, Ratios: prices, Until: span}, format,
					func(f func(io.Writer) error) error { return writeOut(out, cmd.OutOrStdout(), f) }, cmd.ErrOrStderr())
			}
			opts := replay.Options{Until: span, By: grouping}
			var keep *replayStore
			if store != "" {
				if keep, err = openReplayStore(ctx, store, s); err != nil {
					return err
				}
				defer keep.Close()
				opts.Sink = keep
			}
			begun := time.Now()
			r, err := replay.Run(ctx, s, opts)
			if err != nil {
				return err
			}
			if keep != nil {
				if err := keep.finish(ctx, r); err != nil {
					return err
				}
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "neap: simulated %s of %s in %.1f s: %d pods created, at most %d at once\n",
				showDuration(r.To.Sub(r.From)), r.Scenario, time.Since(begun).Seconds(), r.Counts.PodsCreated, r.Counts.PodsMost)
			return writeOut(out, cmd.OutOrStdout(), func(w io.Writer) error {
				if format == "json" {
					return writeJSON(w, r)
				}
				return writeReplayTable(w, r, top)
			})
		},
	}
	cmd.AddCommand(newReplayGPUCommand(), newReplayElasticCommand(), newReplayTimetableCommand(), newReplayColocateCommand())
	f := cmd.Flags()
	f.StringVar(&dir, "series-dir", "", "play the recorded series in this folder instead of generated load")
	f.StringVar(&store, "store", "", "keep the facts in this store, for neap bill --store")
	f.StringVar(&until, "until", "", "how long to simulate (default: the scenario's length)")
	f.StringVar(&by, "by", "module", "one line for each module, namespace, pool, machine-type, feature or label:KEY")
	f.StringSliceVar(&compare, "compare", nil, "play the day in these ways, side by side: reserved, spare, scheduled, elastic")
	f.StringSliceVar(&ratios, "price-ratio", nil, "with --compare, the break-even curve at these ratios of serverless to owned price")
	f.StringVar(&format, "format", "table", "table or json")
	f.StringVar(&out, "out", "", "write to this file instead of standard output")
	f.IntVar(&top, "top", 30, "show at most so many lines in the table; 0 shows all")
	return cmd
}

// loadScenario reads a scenario. If it is wrong, every mistake is a line of
// its own on stderr, and the error says how many there are.
func loadScenario(path, seriesDir string, stderr io.Writer) (*scenario.Scenario, error) {
	s, err := scenario.Load(path, scenario.Options{SeriesDir: seriesDir})
	var wrong scenario.Errors
	if !errors.As(err, &wrong) {
		return s, unread(err, "")
	}
	if len(wrong) == 1 {
		return nil, wrong[0]
	}
	for _, e := range wrong {
		fmt.Fprintf(stderr, "neap: %s\n", sentence(e))
	}
	return nil, fmt.Errorf("the scenario has %d mistakes; nothing was started", len(wrong))
}

// writeReplayTable writes a replay for a person: the day, then the bill.
func writeReplayTable(w io.Writer, r *replay.Result, top int) error {
	buf := bufio.NewWriter(w)
	load := "generated load"
	if r.RealSeries {
		load = "recorded load"
	}
	fmt.Fprintf(buf, "%s, simulated with %s, seed %d\n\n", printable(r.Scenario), load, r.Seed)
	t := newTable("hour", ">"+r.Bill.Currency, ">used cores", ">requested", ">bought", ">used %", "")
	for _, h := range r.Hours {
		d := moneyScale(money.Amount(h.BillNano))
		t.add(h.From.Format("Mon 15:04"), showMoney(money.Amount(h.BillNano), d), cores(h.Total.UsedMilli), cores(h.Total.RequestedMilli), cores(h.Total.BoughtMilli),
			strconv.FormatFloat(100*h.Total.Utilisation, 'f', 1, 64), strings.Repeat("█", int(20*h.Total.Utilisation+0.5)))
	}
	t.write(buf, "")
	fmt.Fprintln(buf)
	if err := buf.Flush(); err != nil {
		return err
	}
	if err := writeBillTable(w, r.Bill, "simulated", top); err != nil {
		return err
	}
	writeNotes(w, r.Notes)
	return nil
}

func cores(milli int64) string { return strconv.FormatFloat(float64(milli)/1000, 'f', 0, 64) }
