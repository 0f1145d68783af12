package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/sim/autoscale"
)

// elasticReplay is what `neap replay elastic` was asked for.
type elasticReplay struct {
	series, policies []string
	starts           []int
	trainDays        int
	perPod           float64
	price            string
	workers          int

	prometheus, query, window, token, ca string
	timeout                              time.Duration
}

func newReplayElasticCommand() *cobra.Command {
	var format, out, currency string
	e := elasticReplay{}
	var policies strings.Builder
	for _, name := range autoscale.Policies() {
		fmt.Fprintf(&policies, "  %-22s %s\n", name, autoscale.Explain(name))
	}
	cmd := &cobra.Command{
		Use:   "elastic --series FILE… | --prometheus URL --query PROMQL",
		Short: "Replay autoscalers over recorded load: how often too small, and at what cost",
		Long: `Replay autoscalers over recorded load: how often too small, and at what cost.

The model is one of minutes. A pod serves 1 unit; target use is 60 %; the demand
is scaled so that its 99.9th percentile is 100 (or as --per-pod says); a decision
knows the demand up to the minute before; a pod asked for is ready --start-minutes
later. Shown is, over the days after --train-days: under, the share of minutes in
which the demand was above what the ready pods carry; unmet, the share of the
demand above it; cost, pod-minutes (ready and starting) ÷ those of the ideal,
ceil(demand ÷ 0.6) each minute; of a forecast for the minute a pod asked for gets
ready: how often its 90 % band held the demand, its pinball loss relative to the
mean demand, and whether the load was ever called periodic.

Policies:
` + policies.String() + `
A series is a CSV file with a first line ts,value or timestamp,value (Unix
seconds, or times in UTC) at a step of 1 to 30 minutes. Points between which
nothing is missing are joined by straight lines, gaps stay gaps: minutes in them
are not counted.

--format json prints {"rows":[{"series","policy","startMinutes","underPercent",
"unmetPercent","costRatio","coverage90","pinball","periodic"}…]}: coverage90 is 0
to 1; it and pinball are null without a forecast. With --price, costNano and
idealNano are what the test's days cost, in 10⁻⁹ of the currency.`,
		Example: `  D=../shared/data/load/crane
  neap replay elastic --series $D/input0.csv,$D/input2.csv --start-minutes 5
  neap replay elastic --series $D/input2.csv --start-minutes 2,5,10 --policy neap,hpa,seasonal-q90 --price 0.04
  neap replay elastic --series load.csv --start-minutes 5 --train-days 8 --format json --out rows.json
  neap replay elastic --prometheus http://localhost:9090 --query 'sum(rate(http_requests_total{app="shop"}[2m]))' --window -15d --per-pod 50`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"table", "json"}, format) {
				return usagef("--format %s is not one of table, json", format)
			}
			if err := mayWrite(out); err != nil {
				return err
			}
			begun := time.Now()
			x, err := e.matrix(cmd.Context(), cmd.ErrOrStderr(), begun)
			if err != nil {
				return err
			}
			x.Done = func(done, of int, r autoscale.Row) {
				fmt.Fprintf(cmd.ErrOrStderr(), "neap: %d of %d: %s %s, %d min\n", done, of, printable(r.Series), r.Policy, r.StartMinutes)
			}
			rows, err := x.Run(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "neap: replayed %d rows in %.1f s\n", len(rows), time.Since(begun).Seconds())
			return writeOut(out, cmd.OutOrStdout(), func(w io.Writer) error {
				if format == "json" {
					return writeJSON(w, map[string]any{"rows": rows})
				}
				return writeElasticTable(w, rows, currency)
			})
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&e.series, "series", nil, "files with a series each (CSV)")
	f.IntSliceVar(&e.starts, "start-minutes", []int{5}, "how long a pod takes to get ready, 0 to 120")
	f.StringSliceVar(&e.policies, "policy", []string{"neap", "hpa", "ehpa", "seasonal", "oracle"}, "any of the policies")
	f.IntVar(&e.trainDays, "train-days", 0, "days to learn from before the test (default 8, or half of a series of less than 12 days)")
	f.Float64Var(&e.perPod, "per-pod", 0, "demand that one pod carries, in the series' unit, instead of scaling to 100 pods")
	f.StringVar(&e.price, "price", "", "price of a pod for an hour, such as 0.04, to show what the days cost")
	f.StringVar(&currency, "currency", "USD", "currency of the price")
	f.StringVar(&e.prometheus, "prometheus", "", "replay the history of this Prometheus, such as http://localhost:9090")
	f.StringVar(&e.query, "query", "", "what its load is: PromQL that gives one series")
	f.StringVar(&e.window, "window", "-16d", "which time of it: START/END, START/DURATION, or back from now")
	f.StringVar(&e.token, "prometheus-token-file", "", "file with a bearer token for Prometheus")
	f.StringVar(&e.ca, "prometheus-ca-file", "", "file with the certificates to trust for Prometheus")
	f.DurationVar(&e.timeout, "timeout", 30*time.Second, "give up on a request to Prometheus after this long")
	f.IntVar(&e.workers, "workers", runtime.GOMAXPROCS(0), "at most so many replays at once")
	f.StringVar(&format, "format", "table", "table (with a line of means) or json")
	f.StringVar(&out, "out", "", "write to this file instead of standard output")
	return cmd
}

// matrix checks what was asked for and reads the series, before anything is
// replayed.
func (e *elasticReplay) matrix(ctx context.Context, progress io.Writer, now time.Time) (*autoscale.Matrix, error) {
	x := &autoscale.Matrix{Policies: e.policies, Starts: e.starts, Workers: e.workers}
	switch {
	case len(e.series) == 0 && e.prometheus == "":
		return nil, usagef("there is no load to replay; give --series FILE, or --prometheus URL and --query PROMQL")
	case len(e.series) > 0 && e.prometheus != "":
		return nil, usagef("--series and --prometheus are two sources; give one of them")
	case (e.prometheus == "") != (e.query == ""):
		return nil, usagef("--prometheus and --query belong together: where to ask, and what the load is")
	case e.workers < 1:
		return nil, usagef("--workers must be at least 1")
	case e.trainDays < 0:
		return nil, usagef("--train-days %d is not a number of days above 0", e.trainDays)
	case e.perPod < 0 || math.IsNaN(e.perPod) || math.IsInf(e.perPod, 0):
		return nil, usagef("--per-pod %v is not a demand above 0", e.perPod)
	case len(e.policies) == 0 || len(e.starts) == 0:
		return nil, usagef("--policy and --start-minutes name nothing")
	}
	for i, p := range e.policies {
		if !slices.Contains(autoscale.Policies(), p) {
			return nil, usagef("--policy %s is not one of %s", p, strings.Join(autoscale.Policies(), ", "))
		}
		if slices.Contains(e.policies[:i], p) {
			return nil, usagef("--policy names %s twice", p)
		}
	}
	for i, s := range e.starts {
		if s < 0 || s > 120 {
			return nil, usagef("--start-minutes %d is not within 0 to 120", s)
		}
		if slices.Contains(e.starts[:i], s) {
			return nil, usagef("--start-minutes names %d twice", s)
		}
	}
	if e.price != "" {
		p, err := money.Parse(e.price)
		if err != nil || p <= 0 {
			return nil, usagef("--price %q is not an amount above 0, such as 0.04", e.price)
		}
		x.Price = p
	}
	var all []*autoscale.Series
	if e.prometheus != "" {
		s, err := e.ask(ctx, progress, now)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	for i, path := range e.series {
		if slices.Contains(e.series[:i], path) {
			return nil, usagef("--series names %s twice", path)
		}
		s, err := autoscale.ReadFile(path)
		if err != nil {
			return nil, unread(err, "--series")
		}
		all = append(all, s)
	}
	names := autoscale.Names(e.series)
	for i, s := range all {
		for _, n := range s.Notes {
			fmt.Fprintf(progress, "neap: %s: %s\n", printable(s.Name), n)
		}
		w, err := autoscale.Prepare(s, autoscale.Preparation{TrainDays: e.trainDays, PerPod: e.perPod})
		if err != nil {
			return nil, err
		}
		if len(names) > 0 {
			w.Name = names[i]
		}
		x.Workloads = append(x.Workloads, w)
	}
	return x, nil
}

// ask reads the series from Prometheus, a day at a time: a Prometheus gives no
// more than 11,000 points at once.
func (e *elasticReplay) ask(ctx context.Context, progress io.Writer, now time.Time) (*autoscale.Series, error) {
	w, err := parseWindow(e.window, now.UTC().Truncate(time.Minute))
	if err != nil {
		return nil, usagef("--window: %s", err)
	}
	const most = 366 * 24 * time.Hour
	if w.To.Sub(w.From) > most {
		return nil, usagef("--window %s is longer than a year; give a shorter one", e.window)
	}
	remote, err := metrics.NewRemote(e.prometheus, metrics.RemoteOptions{Timeout: e.timeout, BearerTokenFile: e.token, CAFile: e.ca})
	if err != nil {
		return nil, err
	}
	return historyByDay(ctx, remote, e.query, w, progress)
}

// historyByDay reads one series of a window, a day at a time.
func historyByDay(ctx context.Context, source metrics.Source, query string, w span, progress io.Writer) (*autoscale.Series, error) {
	var points []autoscale.Sample
	days := int(math.Ceil(w.To.Sub(w.From).Hours() / 24))
	warned := false
	for from := w.From; from.Before(w.To); from = from.Add(24 * time.Hour) {
		to := from.Add(24*time.Hour - time.Minute)
		if to.After(w.To) {
			to = w.To
		}
		got, err := source.Range(ctx, query, from, to, time.Minute)
		if err != nil {
			if !metrics.Partial(err) {
				return nil, err
			}
			if !warned {
				fmt.Fprintf(progress, "neap: %s\n", sentence(err))
			}
			warned = true
		}
		if len(got) > 1 {
			return nil, fmt.Errorf("query %q gives %d series on %s; a replay is of one, so add them up: sum(…)", query, len(got), from.Format(time.DateOnly))
		}
		for _, s := range got {
			for _, p := range s.Points {
				points = append(points, autoscale.Sample{T: p.T, V: p.V})
			}
		}
		fmt.Fprintf(progress, "neap: read %d of %d days\n", int(from.Sub(w.From).Hours()/24)+1, days)
	}
	if len(points) == 0 {
		return nil, fmt.Errorf("query %q has no points from %s to %s; see whether it is right and how long that Prometheus keeps its data", query, stamp(w.From), stamp(w.To))
	}
	return autoscale.Grid(query, points)
}

// writeElasticTable writes the rows for a person, and the means over the series.
func writeElasticTable(w io.Writer, rows []autoscale.Row, currency string) error {
	buf := bufio.NewWriter(w)
	columns := []string{"series", "policy", ">start min", ">under %", ">unmet %", ">cost ×", ">coverage", ">pinball", "periodic"}
	priced := len(rows) > 0 && rows[0].CostNano != nil
	if priced {
		columns = append(columns, ">"+currency+"/day", ">over ideal")
	}
	t := newTable(columns...)
	fixed := func(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }
	optional := func(v *float64, digits int) string {
		if v == nil {
			return "–"
		}
		return fixed(*v, digits)
	}
	add := func(r autoscale.Row, mean bool) {
		cells := []string{printable(r.Series), r.Policy, strconv.Itoa(r.StartMinutes), fixed(r.UnderPercent, 2), fixed(r.UnmetPercent, 2), fixed(r.CostRatio, 3),
			optional(r.Coverage90, 3), optional(r.Pinball, 4)}
		switch {
		case mean:
			cells = append(cells, "")
		case r.Periodic:
			cells = append(cells, "yes")
		default:
			cells = append(cells, "no")
		}
		if priced {
			days := float64(max(r.Minutes, 1)) / (24 * 60)
			perDay := func(nano int64) money.Amount { return money.Amount(math.Round(float64(nano) / days)) }
			d := moneyScale(perDay(*r.CostNano))
			cells = append(cells, showMoney(perDay(*r.CostNano), d), showMoney(perDay(*r.CostNano-*r.IdealNano), d))
		}
		t.add(cells...)
	}
	for _, r := range rows {
		add(r, false)
	}
	for _, m := range autoscale.Means(rows) {
		add(m, true)
	}
	t.write(buf, "")
	return buf.Flush()
}
