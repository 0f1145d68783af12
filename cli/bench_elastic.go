package cli

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/forecast"
	"github.com/neap-dev/neap/internal/benchreport"
	"github.com/neap-dev/neap/sim/autoscale"
)

// elasticRow is one raw measurement of `neap bench elastic`.
type elasticRow struct {
	What string `json:"what"` // periodic, control, classes, held-out, refit or minute
	autoscale.Row
	Workloads int     `json:"workloads,omitempty"`
	Seconds   float64 `json:"seconds,omitempty"`
}

// elasticParts are the parts of the measurement, in their order.
var elasticParts = []string{"series", "classes", "held-out", "refit"}

func newBenchElasticCommand() *cobra.Command {
	var format, data string
	var only []string
	var workloads int
	cmd := &cobra.Command{
		Use:   "elastic",
		Short: "Measure how often capacity is too small, at what cost, and how fast a thousand workloads are refitted",
		Long: `Measure how often capacity is too small, at what cost, and how fast a thousand
workloads are refitted.

The parts are:
  series    recorded series with and without a daily shape, beside the HPA (needs --data)
  classes   a week of classes with its timetable (needs --data)
  held-out  made series on which nothing was tuned
  refit     a forecast for each of --workloads fitted on two cores, then a
            minute's decisions for all of them on one

--data is the folder of the load series: crane/input*.csv, nab/*.csv, and
education/ with a timetable and counts. Without it the first two are left out.
neap replay elastic and neap replay timetable show single series.`,
		Example: `  neap bench elastic --data ../shared/data/load
  neap bench elastic --only refit`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, part := range only {
				if !slices.Contains(elasticParts, part) {
					return usagef("--only %s is not one of %s", part, strings.Join(elasticParts, ", "))
				}
			}
			if workloads < 1 || workloads > 100_000 {
				return usagef("--workloads %d is not within 1 to 100000", workloads)
			}
			if data == "" && (slices.Contains(only, "series") || slices.Contains(only, "classes")) {
				return usagef("--only %s needs --data, the folder of the load series", strings.Join(only, ","))
			}
			b := &elasticBench{data: data, report: benchreport.Report{Machine: benchreport.ThisMachine()},
				log: func(f string, a ...any) { fmt.Fprintf(cmd.ErrOrStderr(), f+"\n", a...) }}
			for _, part := range elasticParts {
				if len(only) > 0 && !slices.Contains(only, part) || data == "" && (part == "series" || part == "classes") {
					continue
				}
				var err error
				switch part {
				case "series":
					err = b.series(cmd.Context())
				case "classes":
					err = b.classes(cmd.Context())
				case "held-out":
					err = b.heldOut(cmd.Context())
				case "refit":
					err = b.refit(cmd.Context(), workloads)
				}
				if err != nil {
					return err
				}
			}
			if err := b.report.Write(cmd.OutOrStdout(), format); err != nil {
				return err
			}
			if missed := b.report.Missed(); len(missed) > 0 {
				return fmt.Errorf("bars missed: %q", missed)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	cmd.Flags().StringVar(&data, "data", "", "folder of the load series, such as ../shared/data/load")
	cmd.Flags().StringSliceVar(&only, "only", nil, "measure only these parts")
	cmd.Flags().IntVar(&workloads, "workloads", 1000, "how many are refitted")
	return cmd
}

// elasticBench collects what is measured.
type elasticBench struct {
	data   string
	report benchreport.Report
	log    func(format string, a ...any)
}

func (b *elasticBench) bar(bars ...benchreport.Bar) { b.report.Bars = append(b.report.Bars, bars...) }

// replay plays policies over workloads and keeps the rows.
func (b *elasticBench) replay(ctx context.Context, what string, all []*autoscale.Workload, starts []int, policies ...string) ([]autoscale.Row, error) {
	x := autoscale.Matrix{Workloads: all, Starts: starts, Policies: policies, Workers: runtime.GOMAXPROCS(0),
		Done: func(done, of int, r autoscale.Row) {
			b.log("%s: %d of %d: %s %s, %d min: under %.2f %% at %.3f", what, done, of, r.Series, r.Policy, r.StartMinutes, r.UnderPercent, r.CostRatio)
		}}
	rows, err := x.Run(ctx)
	for _, r := range rows {
		b.report.Rows = append(b.report.Rows, elasticRow{What: what, Row: r})
	}
	return rows, err
}

func (b *elasticBench) load(paths ...string) ([]*autoscale.Workload, error) {
	var all []*autoscale.Workload
	for _, p := range paths {
		s, err := autoscale.ReadFile(filepath.Join(b.data, p))
		if err != nil {
			return nil, unread(err, "--data")
		}
		w, err := autoscale.Prepare(s, autoscale.Preparation{})
		if err != nil {
			return nil, err
		}
		w.Name = strings.TrimSuffix(filepath.Base(p), ".csv")
		all = append(all, w)
	}
	return all, nil
}

// series are the recorded ones: five with a daily shape, and four without.
func (b *elasticBench) series(ctx context.Context) error {
	daily, err := b.load("crane/input0.csv", "crane/input1.csv", "crane/input2.csv", "crane/input8.csv", "crane/input9.csv")
	if err != nil {
		return err
	}
	rows, err := b.replay(ctx, "periodic", daily, []int{5, 10}, "neap", "hpa", "ehpa", "seasonal", "seasonal-q90", "seasonal-q95", "oracle")
	if err != nil {
		return err
	}
	for _, m := range autoscale.Means(rows) {
		b.report.Rows = append(b.report.Rows, elasticRow{What: "periodic", Row: m})
		under, cost := 0.10, 1.20
		if m.StartMinutes == 10 {
			under, cost = 0.15, 1.25
		}
		if m.Policy == "neap" {
			name := fmt.Sprintf("daily series, pods ready in %d min, ", m.StartMinutes)
			b.bar(benchreport.AtMost(name+"minutes too small", m.UnderPercent, "%", under), benchreport.AtMost(name+"cost to ideal", m.CostRatio, "x", cost))
		}
	}
	controls, err := b.load("crane/input5.csv", "crane/input6.csv", "crane/input10.csv", "nab/ec2_cpu_utilization_77c1ca.csv")
	if err != nil {
		return err
	}
	against, err := b.replay(ctx, "control", controls, []int{5, 10}, "neap", "hpa", "ehpa")
	if err != nil {
		return err
	}
	called, dearer, worse := 0, math.Inf(-1), math.Inf(-1)
	for _, r := range against {
		if r.Policy != "neap" {
			continue
		}
		if r.Periodic {
			called++
		}
		hpa := rowOf(against, r.Series, "hpa", r.StartMinutes)
		dearer, worse = max(dearer, math.Abs(r.CostRatio/hpa.CostRatio-1)*100), max(worse, r.UnderPercent-hpa.UnderPercent)
	}
	b.bar(benchreport.Equal("controls called periodic", float64(called), "series", 0),
		benchreport.AtMost("controls, cost away from HPA's, most", dearer, "%", 2),
		benchreport.AtMost("controls, minutes too small above HPA's, most", worse, "points", 0))
	b.coverage(append(rows, against...))
	return nil
}

// coverage holds the 90 % bands of the series with skill.
func (b *elasticBench) coverage(rows []autoscale.Row) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, r := range rows {
		if r.Policy == "neap" && r.Coverage90 != nil {
			low, high = min(low, *r.Coverage90*100), max(high, *r.Coverage90*100)
		}
	}
	if low <= high {
		b.bar(benchreport.AtLeast("90 % band covers, least of the series with skill", low, "%", 88),
			benchreport.AtMost("90 % band covers, most of the series with skill", high, "%", 92))
	}
}

func rowOf(rows []autoscale.Row, series, policy string, start int) autoscale.Row {
	for _, r := range rows {
		if r.Series == series && r.Policy == policy && r.StartMinutes == start {
			return r
		}
	}
	return autoscale.Row{}
}

// classes is the week of classes.
func (b *elasticBench) classes(ctx context.Context) error {
	dir := filepath.Join(b.data, "education")
	r := timetableReplay{timetable: filepath.Join(dir, "ucd_timetable_clean.csv"), counts: filepath.Join(dir, "ucd_wifi_clients_5min.csv"),
		zone: "UTC", start: 10, policies: autoscale.ClassPolicies()}
	if err := r.read(os.Stderr); err != nil {
		return unread(err, "--data")
	}
	rows, err := r.run(ctx, os.Stderr)
	if err != nil {
		return err
	}
	for _, row := range rows {
		b.report.Rows = append(b.report.Rows, elasticRow{What: "classes", Row: row})
		if row.Policy == "neap" {
			b.bar(benchreport.AtMost("week of classes, pods ready in 10 min, minutes too small", row.UnderPercent, "%", 0.30),
				benchreport.AtMost("week of classes, pods ready in 10 min, cost to ideal", row.CostRatio, "x", 1.30))
		}
	}
	return nil
}

// heldOut are the made series.
func (b *elasticBench) heldOut(ctx context.Context) error {
	var all []*autoscale.Workload
	daily := map[string]bool{}
	for _, s := range autoscale.HeldOut() {
		w, err := autoscale.Prepare(s.Series, autoscale.Preparation{})
		if err != nil {
			return err
		}
		all = append(all, w)
		daily[s.Name] = s.Daily
	}
	rows, err := b.replay(ctx, "held-out", all, []int{5}, "neap", "hpa", "seasonal", "seasonal-q90", "oracle")
	if err != nil {
		return err
	}
	called := 0
	for _, r := range rows {
		if r.Policy == "neap" && r.Periodic && !daily[r.Series] {
			called++
		}
	}
	b.bar(benchreport.Equal("held-out series without a day called periodic", float64(called), "series", 0))
	return nil
}

// refit fits a forecast for each of so many workloads on two cores, and then
// decides one minute for all of them on one.
func (b *elasticBench) refit(ctx context.Context, workloads int) error {
	const history, horizon = 15 * 24 * 60, 6 * time.Minute
	made := autoscale.HeldOut()
	now := made[0].From.Add(history * time.Minute)
	models := make([]*forecast.Model, workloads)
	before := runtime.GOMAXPROCS(2)
	defer runtime.GOMAXPROCS(before)
	begun := time.Now()
	var wg sync.WaitGroup
	next := make(chan int)
	for range 2 {
		wg.Go(func() {
			for i := range next {
				s := made[i%len(made)]
				models[i] = forecast.Fit(forecast.Series{Start: s.From, Step: time.Minute, Values: s.Value[:history]}, forecast.Options{Horizon: horizon})
			}
		})
	}
	for i := range models {
		if ctx.Err() == nil {
			next <- i
		}
	}
	close(next)
	wg.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	fitted := time.Since(begun).Seconds()
	b.log("refit: %d workloads in %.1f s", workloads, fitted)

	runtime.GOMAXPROCS(1)
	policy := elastic.Defaults(1, 1000)
	policy.Unit = autoscale.Target
	states := make([]elastic.State, workloads)
	longest := 0.0
	for minute := range 5 {
		at := now.Add(time.Duration(minute) * time.Minute)
		begun = time.Now()
		for i, m := range models {
			value := made[i%len(made)].Value[history-1+minute]
			m.Observe(at.Add(-time.Minute), value)
			d := elastic.Decide(elastic.Input{Policy: policy, Now: at, Current: 100, Ready: 100, State: states[i],
				Metrics:  []elastic.Metric{{Name: "demand", At: at.Add(-time.Minute), Total: value, PerReplica: autoscale.Target}},
				Forecast: policy.Foretell(m, at, horizon, forecast.Newsvendor(autoscale.UnderCost, 1), m.Skill().Reason)})
			states[i] = d.Next
		}
		longest = max(longest, time.Since(begun).Seconds())
	}
	b.log("decide: %d workloads in %.3f s", workloads, longest)
	b.report.Rows = append(b.report.Rows, elasticRow{What: "refit", Workloads: workloads, Seconds: fitted}, elasticRow{What: "minute", Workloads: workloads, Seconds: longest})
	b.bar(benchreport.Below(fmt.Sprintf("forecasts of %d workloads fitted on two cores", workloads), fitted, "s", 60),
		benchreport.Below(fmt.Sprintf("a minute's decisions for %d workloads on one core, longest of five", workloads), longest, "s", 1))
	return nil
}
