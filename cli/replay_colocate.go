package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/sim/autoscale"
	"github.com/neap-dev/neap/sim/colocation"
)

// colocateReplay is what `neap replay colocate` was asked for.
type colocateReplay struct {
	seriesDir, scenario, window string
	only, policies              []string
	shares                      []int
	made                        bool
	peak, median, belief        float64
	days, learnDays, workers    int
	seed                        uint64
}

func newReplayColocateCommand() *cobra.Command {
	var format, out string
	c := colocateReplay{}
	var policies strings.Builder
	for _, name := range colocation.Policies() {
		what, parameter, standard := colocation.Explain(name)
		fmt.Fprintf(&policies, "  %-12s %s;\n  %-12s swept: %s (ships with %g)\n", name, what, "", parameter, standard)
	}
	cmd := &cobra.Command{
		Use:   "colocate --series-dir DIR | --made | --scenario FILE",
		Short: "Replay batch beside recorded load: core-hours offered, lost, and promised twice",
		Long: `Replay batch jobs beside recorded online load: how many core-hours each way of
reckoning batch capacity offers, how many of these are lost with jobs that are
evicted, and how often the online pods' reserve was promised away.

Every series of a folder is what online pods use of a machine of 32 cores, scaled
so that its 99.9th percentile is --peak percent of it; 80 % may be used. The queue
of jobs is endless and the same for all; run times are log-normal. What is promised
and not free slows jobs down; below 60 % for five minutes jobs leave, least work
lost first, and what they did is lost. The physics is one for all; see
go doc github.com/neap-dev/neap/sim/colocation.

Each policy is a curve over its own safety parameter. The first table reads all
curves where they offer the same: so many percent of what the oracle offers, who
knows what online pods will use. The second has the points, * for the one that
the policy ships with.

Policies:
` + policies.String() + `
--scenario replays a scenario instead, learns for --learn-days and keeps batch out
of the --window of the day after; peers know of no window. Shown is besides what
was promised in it, and hasty: jobs evicted before it that would have been done.

--format json prints {"machines","points","atOffered","rows"}.`,
		Example: `  neap replay colocate --series-dir ../shared/data/load
  neap replay colocate --series-dir ../shared/data/load --only crane/input2,nab/nyc_taxi --days 3
  neap replay colocate --made --policies neap,koordinator,oracle
  neap replay colocate --scenario school-day --window 18:00-22:30
  neap replay colocate --series-dir ../shared/data/load --format json --out bench/colocate-replay.json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"table", "json"}, format) {
				return usagef("--format %s is not one of table, json", format)
			}
			if err := mayWrite(out); err != nil {
				return err
			}
			begun := time.Now()
			r, err := c.run(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "neap: replayed %d rows in %.1f s\n", len(r.Rows), time.Since(begun).Seconds())
			return writeOut(out, cmd.OutOrStdout(), func(w io.Writer) error {
				if format == "json" {
					return writeJSON(w, r)
				}
				return writeColocateReplay(w, r)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.seriesDir, "series-dir", "", "folder with series (CSV), read with all that is below it")
	f.StringSliceVar(&c.only, "only", nil, "only these series, by their path below the folder")
	f.BoolVar(&c.made, "made", false, "replay made series instead, on which nothing was tuned")
	f.StringVar(&c.scenario, "scenario", "", "replay the machines of a scenario instead: a file, or a built-in one such as school-day")
	f.StringVar(&c.window, "window", "18:00-22:30", "with --scenario, when batch is out, on the scenario's clock")
	f.IntVar(&c.learnDays, "learn-days", 3, "with --scenario, days to learn from before the day that counts")
	f.StringSliceVar(&c.policies, "policies", colocation.Policies(), "any of the policies")
	f.IntSliceVar(&c.shares, "at", []int{40, 50, 60, 70, 80, 90, 95}, "compare where policies offer so many percent of what the oracle offers")
	f.Float64Var(&c.peak, "peak", 70, "99.9th percentile of the online use, in percent of the machine")
	f.IntVar(&c.days, "days", 14, "at most so many days of a series count; 0 means all")
	f.Float64Var(&c.median, "run-minutes", colocation.DefaultMix.MedianMinutes, "median run time of a job")
	f.Float64Var(&c.belief, "belief", colocation.DefaultMix.Belief, "how wrong the run times are that are declared or learnt (standard deviation of their logarithm)")
	f.Uint64Var(&c.seed, "seed", 1, "seed of the jobs")
	f.IntVar(&c.workers, "workers", runtime.GOMAXPROCS(0), "at most so many machines at once")
	f.StringVar(&format, "format", "table", "table or json")
	f.StringVar(&out, "out", "", "write to this file instead of standard output")
	return cmd
}

// A colocateReplayed is what the command prints.
type colocateReplayed struct {
	Machines  []string            `json:"machines"`
	LeftOut   []string            `json:"leftOut,omitempty"`
	Day       *colocateReplayDay  `json:"day,omitempty"`
	AtOffered []colocateAtOffered `json:"atOffered"`
	Points    []colocation.Point  `json:"points"`
	Rows      []colocation.Row    `json:"rows"`
}

// A colocateReplayDay is the scenario's day and how its services did.
type colocateReplayDay struct {
	Scenario    string    `json:"scenario"`
	From        time.Time `json:"from"`
	To          time.Time `json:"to"`
	Window      string    `json:"window"`
	HoursMet    int       `json:"hoursMet"`
	HoursBroken int       `json:"hoursBroken"`
}

// A colocateAtOffered is a policy where its curve offers so much.
type colocateAtOffered struct {
	Half         int    `json:"half"` // of the test; 0 is all of it
	SharePercent int    `json:"sharePercent"`
	Policy       string `json:"policy"`
	Offers       bool   `json:"offers"` // it does offer so much at some value
	colocation.Result
}

func (c *colocateReplay) run(ctx context.Context, progress io.Writer) (*colocateReplayed, error) {
	sources := 0
	for _, given := range []bool{c.seriesDir != "", c.made, c.scenario != ""} {
		if given {
			sources++
		}
	}
	switch {
	case sources != 1:
		return nil, usagef("give one of --series-dir DIR, --made and --scenario FILE: what online pods use")
	case !(c.peak >= 1 && c.peak <= 100):
		return nil, usagef("--peak %v is not a percentage from 1 to 100", c.peak)
	case c.days < 0 || c.learnDays < 1 || c.learnDays > 30:
		return nil, usagef("--days must be 0 or above, and --learn-days 1 to 30")
	case !(c.median >= 1 && c.median <= 600) || !(c.belief >= 0 && c.belief <= 3):
		return nil, usagef("--run-minutes must be 1 to 600 and --belief 0 to 3")
	case c.workers < 1:
		return nil, usagef("--workers must be at least 1")
	case len(c.policies) == 0:
		return nil, usagef("--policies names nothing")
	}
	for _, share := range c.shares {
		if share < 1 || share > 100 {
			return nil, usagef("--at %d is not a percentage from 1 to 100", share)
		}
	}
	for _, p := range c.policies {
		if !slices.Contains(colocation.Policies(), p) {
			return nil, usagef("--policies %s is not one of %s", p, strings.Join(colocation.Policies(), ", "))
		}
	}
	mix := colocation.DefaultMix
	mix.MedianMinutes, mix.Belief = c.median, c.belief
	x := &colocation.Sweep{Policies: c.policies, Mix: mix, Seed: c.seed, Workers: c.workers}
	r := &colocateReplayed{}
	if c.scenario != "" {
		if err := c.day(ctx, progress, x, r); err != nil {
			return nil, err
		}
	} else if err := c.series(progress, x, r); err != nil {
		return nil, err
	}
	for _, m := range x.Machines {
		r.Machines = append(r.Machines, m.Name)
	}
	x.Done = func(done, of int, m *colocation.Machine) {
		fmt.Fprintf(progress, "neap: %d of %d: %s\n", done, of, printable(m.Name))
	}
	rows, err := x.Run(ctx)
	if err != nil {
		return nil, err
	}
	r.Rows = rows
	for half := range 3 {
		points := colocation.Points(rows, half)
		oracle := colocation.Standard(points, "oracle")
		for _, share := range c.shares {
			if oracle.OfferedHours == 0 {
				break // it was not asked for
			}
			for _, name := range c.policies {
				at, ok := colocation.AtOffered(points, name, float64(share)/100*oracle.OfferedHours)
				r.AtOffered = append(r.AtOffered, colocateAtOffered{Half: half, SharePercent: share, Policy: name, Offers: ok, Result: at})
			}
		}
		if half == 0 {
			r.Points = points
		}
	}
	return r, nil
}

// series reads the machines of a folder, or makes them.
func (c *colocateReplay) series(progress io.Writer, x *colocation.Sweep, r *colocateReplayed) error {
	var all []*autoscale.Series
	if c.made {
		for _, s := range autoscale.HeldOut() {
			all = append(all, s.Series)
		}
	} else {
		var err error
		if all, r.LeftOut, err = colocation.ReadDir(c.seriesDir); err != nil {
			return unread(err, "--series-dir")
		}
	}
	for _, name := range c.only {
		if !slices.ContainsFunc(all, func(s *autoscale.Series) bool { return s.Name == name }) {
			return usagef("--only %s: no series is called so", name)
		}
	}
	for _, s := range all {
		if len(c.only) > 0 && !slices.Contains(c.only, s.Name) {
			continue
		}
		m, err := colocation.Prepare(s, c.peak, c.days)
		if err != nil {
			return err
		}
		for _, n := range s.Notes {
			fmt.Fprintf(progress, "neap: %s: %s\n", printable(s.Name), n)
		}
		x.Machines = append(x.Machines, m)
	}
	return nil
}

// day replays the scenario for its machines.
func (c *colocateReplay) day(ctx context.Context, progress io.Writer, x *colocation.Sweep, r *colocateReplayed) error {
	from, to, ok := strings.Cut(c.window, "-")
	a, errA := time.Parse("15:04", from)
	b, errB := time.Parse("15:04", to)
	if !ok || errA != nil || errB != nil {
		return usagef("--window %s is not two times of a day such as 18:00-22:30", c.window)
	}
	s, err := loadScenario(c.scenario, "", progress)
	if err != nil {
		return err
	}
	midnight := a.Truncate(24 * time.Hour)
	x.Hours = []colocate.Hours{{Name: "peak", From: a.Sub(midnight), To: b.Sub(midnight), Location: s.Start.Location()}}
	hours := 0
	d, err := colocation.Record(ctx, s, c.learnDays, func(time.Time) {
		if hours++; hours%24 == 0 {
			fmt.Fprintf(progress, "neap: simulated %d of %d days of %s\n", hours/24, c.learnDays+1, printable(s.Name))
		}
	})
	if err != nil {
		return err
	}
	x.Machines = d.Machines
	r.Day = &colocateReplayDay{Scenario: d.Scenario, From: d.From, To: d.To, Window: c.window, HoursMet: d.HoursMet, HoursBroken: d.HoursBroken}
	return nil
}

// writeColocateReplay writes the report for a person.
func writeColocateReplay(w io.Writer, r *colocateReplayed) error {
	buf := bufio.NewWriter(w)
	fixed := func(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }
	if d := r.Day; d != nil {
		fmt.Fprintf(buf, "%s from %s to %s, SIMULATED: %d machines; the services' quality held in %d hours and broke in %d; batch is out %s\n\n",
			printable(d.Scenario), stamp(d.From), stamp(d.To), len(r.Machines), d.HoursMet, d.HoursBroken, d.Window)
	}
	t := newTable(">of oracle %", "policy", ">offered core-h", ">lost core-h", ">violated core-h", ">violated min", ">lost, 1st half", ">2nd half", ">violated, 1st", ">2nd")
	for _, a := range r.AtOffered {
		if a.Half != 0 {
			continue
		}
		cells := []string{strconv.Itoa(a.SharePercent), a.Policy}
		if !a.Offers {
			t.add(append(cells, "–", "–", "–", "–", "", "", "", "")...)
			continue
		}
		cells = append(cells, fixed(a.OfferedHours, 0), fixed(a.LostHours, 1), fixed(a.ViolatedHours, 1), strconv.Itoa(a.Violations))
		for _, pick := range []func(colocation.Result) float64{
			func(x colocation.Result) float64 { return x.LostHours }, func(x colocation.Result) float64 { return x.ViolatedHours },
		} {
			for half := 1; half <= 2; half++ {
				cell := "–"
				for _, b := range r.AtOffered {
					if b.Half == half && b.SharePercent == a.SharePercent && b.Policy == a.Policy && b.Offers {
						cell = fixed(pick(b.Result), 1)
					}
				}
				cells = append(cells, cell)
			}
		}
		t.add(cells...)
	}
	if len(r.AtOffered) > 0 {
		t.write(buf, "")
		fmt.Fprintln(buf)
	}
	columns := []string{"policy", ">value", ">offered core-h", ">got core-h", ">lost core-h", ">violated core-h", ">violated min", ">evicted", ">done", ">mean run min"}
	if r.Day != nil {
		columns = append(columns, ">in window core-h", ">hasty")
	}
	t = newTable(columns...)
	for _, p := range r.Points {
		value := strconv.FormatFloat(p.Value, 'f', -1, 64)
		if p.Standard {
			value += "*"
		}
		run := "–"
		if p.DoneJobs > 0 {
			run = fixed(p.DoneMinutes/float64(p.DoneJobs), 1)
		}
		cells := []string{p.Policy, value, fixed(p.OfferedHours, 0), fixed(p.GotHours, 0), fixed(p.LostHours, 1), fixed(p.ViolatedHours, 1),
			strconv.Itoa(p.Violations), strconv.Itoa(p.EvictedJobs), strconv.Itoa(p.DoneJobs), run}
		if r.Day != nil {
			cells = append(cells, fixed(p.WindowHours, 1), strconv.Itoa(p.Hasty))
		}
		t.add(cells...)
	}
	t.write(buf, "")
	return buf.Flush()
}
