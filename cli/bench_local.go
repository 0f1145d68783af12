package cli

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/internal/benchreport"
	"github.com/neap-dev/neap/local"
	"github.com/neap-dev/neap/local/controlplane"
)

// A localMeasure is one part of `neap bench local`. It adds its rows and bars.
type localMeasure struct {
	name string
	do   func(ctx context.Context, r *benchreport.Report, bin string, log func(string, ...any)) error
}

var localMeasures = []localMeasure{
	{"control-plane", measureControlPlane},
	{"scale", measureScale},
	{"day", measureDay},
	{"cron", measureCron},
	{"pools", measurePools},
	{"gpu", measureGPU},
}

func newBenchLocalCommand() *cobra.Command {
	var format, bin, only string
	var names []string
	for _, m := range localMeasures {
		names = append(names, m.name)
	}
	cmd := &cobra.Command{
		Use:   "local",
		Short: "Measure the cluster that runs on this machine",
		Long: `Measure the cluster that runs on this machine.

control-plane  Starts etcd, kube-apiserver and kube-controller-manager in an
               empty folder, measures how long that takes and how much memory
               they use with nothing in them, kills them in the midst of writes,
               and counts what was acknowledged and is gone.
scale          Fills a simulated fleet of 500 machines with 10,000 pods and lets
               a minute pass at real speed.
day            Plays the first two hours of the school day at 60 times real
               speed, and replays the same hours.
cron           Lets 3,000 of 10,000 CronJobs come due at one second zero, on a
               simulated serverless pool with warm sandboxes, and then 300 on a
               cold one whose provider creates 20 pods a second.
pools          Scales a workload from 0 to 300 and back to 3 over bought machines,
               spare CPU of GPU machines and serverless capacity, then ten at once
               while the scheduler is killed; counts pods that left before those
               that should have left first, and pods beyond what a pool may hold.
gpu            Lets the scheduler find 3,000 pods with GPUs waiting on 1,213 machines
               in openb's shapes, in turns with Kubernetes' own plugins alone.

All of it takes some twenty minutes. The folders are temporary ones; a cluster that
runs is not touched.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if only != "" && !slices.Contains(names, only) {
				return usagef("--only %s is not one of %s", only, strings.Join(names, ", "))
			}
			log := func(f string, a ...any) { fmt.Fprintf(cmd.ErrOrStderr(), f+"\n", a...) }
			report := benchreport.Report{Machine: benchreport.ThisMachine()}
			for _, m := range localMeasures {
				if only != "" && only != m.name {
					continue
				}
				if err := m.do(cmd.Context(), &report, bin, log); err != nil {
					return err
				}
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
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	cmd.Flags().StringVar(&bin, "bin", "", "folder of neap-cluster and neap-scheduler (default: beside neap, else bin)")
	cmd.Flags().StringVar(&only, "only", "", "measure only this: "+strings.Join(names, ", "))
	return cmd
}

func measureControlPlane(ctx context.Context, report *benchreport.Report, bin string, log func(string, ...any)) error {
	rows, err := controlplane.Measure(ctx, controlplane.MeasureOptions{BinDir: bin, Log: log})
	if err != nil {
		return err
	}
	var ready, resident float64
	gone := 0
	for _, r := range rows {
		ready, resident, gone = max(ready, r.ReadySeconds), max(resident, r.ResidentMiB), gone+r.Lost
		report.Rows = append(report.Rows, r)
	}
	report.Bars = append(report.Bars,
		benchreport.Below("control plane ready, slowest start", ready, "s", 15),
		benchreport.Below("control plane resident, nothing in it", resident, "MiB", 700),
		benchreport.Equal("acknowledged writes lost to kill -9", float64(gone), "writes", 0),
	)
	return nil
}

func measureScale(ctx context.Context, report *benchreport.Report, bin string, log func(string, ...any)) error {
	m, err := local.MeasureScale(ctx, local.MeasureOptions{BinDir: bin, Log: log})
	if err != nil {
		return err
	}
	report.Rows = append(report.Rows, m)
	report.Bars = append(report.Bars,
		benchreport.AtLeast("pods ready on 500 machines", float64(m.Pods), "pods", 10_000),
		benchreport.AtMost("cores they take at real speed", m.Cores, "cores", 2),
		benchreport.AtMost("how far the physics are behind", m.BehindSeconds, "s", 60),
	)
	return nil
}

func measureDay(ctx context.Context, report *benchreport.Report, bin string, log func(string, ...any)) error {
	m, err := local.MeasureDay(ctx, local.MeasureOptions{BinDir: bin, Log: log})
	if err != nil {
		return err
	}
	report.Rows = append(report.Rows, m)
	report.Bars = append(report.Bars,
		benchreport.Below("neap up, page and API server answer", m.AddressSeconds, "s", 15),
		benchreport.AtMost("live bill against replay, school day", m.Apart, "%", 2),
	)
	return nil
}

func measurePools(ctx context.Context, report *benchreport.Report, bin string, log func(string, ...any)) error {
	rows, err := local.MeasurePools(ctx, local.MeasureOptions{BinDir: bin, Log: log})
	if err != nil {
		return err
	}
	var violations int64
	beyond, judged := 0, 0
	for _, r := range rows {
		violations, beyond, judged = max(violations, r.Violations), max(beyond, r.Beyond), max(judged, r.Judged)
		report.Rows = append(report.Rows, r)
	}
	report.Bars = append(report.Bars,
		benchreport.Equal("pods that left before those that should have left first", float64(violations), "pods", 0),
		benchreport.AtLeast("workloads whose scale-in was judged", float64(judged), "workloads", 11),
		benchreport.Equal("pods beyond what a pool may hold, creates racing", float64(beyond), "pods", 0),
		benchreport.Equal("pods left on owned machines after 0, 300, 3", float64(rows[1].Owned), "pods", 3),
	)
	return nil
}

func measureGPU(ctx context.Context, report *benchreport.Report, bin string, log func(string, ...any)) error {
	rows, err := local.MeasureGPU(ctx, local.MeasureOptions{BinDir: bin, Log: log})
	if err != nil {
		return err
	}
	slowest := math.Inf(1)
	for _, r := range rows {
		report.Rows = append(report.Rows, r)
		if r.DecisionMicrosP50 > 0 {
			slowest = min(slowest, r.PodsPerSecond)
		}
	}
	report.Bars = append(report.Bars, benchreport.AtLeast("pods with GPUs bound, the slower round", slowest, "pods/s", 300))
	return nil
}

func measureCron(ctx context.Context, report *benchreport.Report, bin string, log func(string, ...any)) error {
	o := local.MeasureOptions{BinDir: bin, Log: log}
	warm, err := local.MeasureCron(ctx, o, local.CronOptions{})
	if err != nil {
		return err
	}
	cold, err := local.MeasureCron(ctx, o, local.CronOptions{CronJobs: 1000, Due: 300, Cold: true})
	if err != nil {
		return err
	}
	report.Rows = append(report.Rows, warm, cold)
	report.Bars = append(report.Bars,
		benchreport.Equal("CronJobs started, of 3,000 due at once", float64(warm.Started), "pods", float64(warm.Due)),
		benchreport.Below("from a pod's creation to running, p99, warm", warm.StartP99, "s", 3),
		benchreport.Equal("cron pods on owned machines", float64(warm.OnMachines+cold.OnMachines), "pods", 0),
		benchreport.AtMost("online p99 during the burst, against before", warm.OnlineP99During/warm.OnlineP99Before, "×", 1.05),
		benchreport.Equal("CronJobs started, of 300 due at once, cold", float64(cold.Started), "pods", float64(cold.Due)),
		benchreport.Equal("pods that the paced provider refused", float64(cold.Refused), "pods", 0),
	)
	return nil
}
