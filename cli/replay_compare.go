package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/sim/replay"
	"github.com/neap-dev/neap/sim/scenario"
)

// maxRatios bounds the curve.
const maxRatios = 32

// parseCases reads the list of --compare.
func parseCases(names []string) ([]replay.Case, error) {
	var out []replay.Case
	for _, n := range names {
		c := replay.Case(n)
		switch {
		case !slices.Contains(replay.Cases, c):
			var all []string
			for _, c := range replay.Cases {
				all = append(all, string(c))
			}
			return nil, usagef("--compare %s is not one of %s", n, strings.Join(all, ", "))
		case slices.Contains(out, c):
			return nil, usagef("--compare names %s twice", n)
		}
		out = append(out, c)
	}
	return out, nil
}

// parseRatios reads the list of --price-ratio.
func parseRatios(texts []string) ([]float64, error) {
	var out []float64
	for _, t := range texts {
		v, err := strconv.ParseFloat(t, 64)
		if err != nil || !(v > 0 && v <= 100) {
			return nil, usagef("--price-ratio %s is not a number above 0 and up to 100", t)
		}
		out = append(out, v)
	}
	slices.Sort(out)
	if out = slices.Compact(out); len(out) > maxRatios {
		return nil, usagef("--price-ratio: more than %d ratios", maxRatios)
	}
	return out, nil
}

// compareReplays plays a scenario in several cases and writes them side by side.
func compareReplays(ctx context.Context, s *scenario.Scenario, o replay.CompareOptions, format string, write func(func(io.Writer) error) error, stderr io.Writer) error {
	begun := time.Now()
	o.Scenario, o.Workers = s, runtime.GOMAXPROCS(0)
	o.Progress = func(what string) { fmt.Fprintf(stderr, "neap: replaying %s\n", what) }
	c, err := replay.Compare(ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "neap: compared in %.1f s\n", time.Since(begun).Seconds())
	return write(func(w io.Writer) error {
		if format == "json" {
			return writeJSON(w, c)
		}
		return writeComparison(w, c)
	})
}

func writeComparison(w io.Writer, c *replay.Comparison) error {
	buf := bufio.NewWriter(w)
	load := "generated load"
	if c.RealSeries {
		load = "recorded load"
	}
	fmt.Fprintf(buf, "%s, simulated with %s, seed %d; serverless costs %.2f times what owned capacity costs\n\n", printable(c.Scenario), load, c.Seed, c.PriceRatio)
	columns := []string{"case", ">" + c.Currency}
	for _, r := range c.Rows {
		columns = append(columns, fmt.Sprintf(">below %s %%", r.Case))
	}
	if len(c.Rows) > 0 {
		for _, p := range c.Rows[0].Pools {
			columns = append(columns, ">"+p.Name, ">machines")
		}
	}
	t := newTable(append(columns, ">most pods", ">promises broken", ">guard")...)
	for _, r := range c.Rows {
		cells := []string{string(r.Case), dollars(r.BillNano)}
		for _, o := range c.Rows {
			cells = append(cells, strconv.FormatFloat(r.Saved[o.Case], 'f', 1, 64))
		}
		for _, p := range r.Pools {
			cells = append(cells, dollars(p.BillNano), strconv.Itoa(p.Machines))
		}
		guard := "green"
		if !r.GuardGreen {
			guard = "RED"
		}
		t.add(append(cells, strconv.Itoa(r.PodsMost), fmt.Sprintf("%d of %d h", r.HoursBroken, r.HoursMet+r.HoursBroken), guard)...)
	}
	t.write(buf, "")
	for _, r := range c.Rows {
		if len(r.Winners) > 0 {
			var parts []string
			total := 0
			for _, n := range r.Winners {
				total += n
			}
			for _, l := range slices.Sorted(maps.Keys(r.Winners)) {
				parts = append(parts, fmt.Sprintf("%s %.1f %%", l, 100*float64(r.Winners[l])/float64(total)))
			}
			fmt.Fprintf(buf, "\n%s: who decided: %s; %d replicas moved back to machines, %d left out of turn, %d forecasts have skill\n", r.Case, strings.Join(parts, ", "), r.Moved, r.Violations, r.Skilled)
		}
		for _, b := range r.Broken {
			fmt.Fprintf(buf, "%s: broken promise: %s\n", r.Case, printable(b))
		}
	}
	if len(c.Curve) > 0 {
		fmt.Fprintln(buf)
		columns := []string{">serverless : owned", ">best machines", ">owned", ">serverless", ">" + c.Currency}
		var cases []replay.Case
		for _, r := range c.Rows {
			if _, ok := c.Curve[0].Saved[r.Case]; ok {
				cases = append(cases, r.Case)
				columns = append(columns, fmt.Sprintf(">below %s %%", r.Case))
			}
		}
		t := newTable(columns...)
		for _, x := range c.Curve {
			cells := []string{strconv.FormatFloat(x.PriceRatio, 'f', 2, 64), strconv.Itoa(x.Machines), dollars(x.OwnedNano), dollars(x.ServerlessNano), dollars(x.BillNano)}
			for _, k := range cases {
				cells = append(cells, strconv.FormatFloat(x.Saved[k], 'f', 1, 64))
			}
			t.add(cells...)
		}
		t.write(buf, "")
	}
	fmt.Fprintln(buf)
	if err := buf.Flush(); err != nil {
		return err
	}
	writeNotes(w, c.Notes)
	return nil
}

func dollars(a money.Amount) string { return showMoney(a, 2) }
