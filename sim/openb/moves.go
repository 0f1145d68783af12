package openb

import (
	"context"
	"fmt"
	"math"
	"sync"

	"github.com/neap-dev/neap/core/gpu"
)

// A ChurnRow is one run of [Churn], as `neap replay gpu --churn` prints it.
type ChurnRow struct {
	Trace            string   `json:"trace"`
	Policy           string   `json:"policy"`
	Seed             int64    `json:"seed"`
	OfferedPercent   int      `json:"offeredPercent"`
	MovesPerThousand int      `json:"movesPerThousand"` // allowed
	Arrivals         int      `json:"arrivals"`
	RejectedPods     int      `json:"rejectedPods"`
	RejectedPercent  float64  `json:"rejectedPercent"`                // of the GPU demand that arrived
	HeldPercent      float64  `json:"heldPercent"`                    // of the fleet's GPUs
	Moves            int      `json:"moves"`                          // used
	AdmittedPods     int      `json:"admittedPods"`                   // only because others moved
	AdmittedGPUs     float64  `json:"admittedGPUs"`                   // that these ask for
	DoubleGPUHours   float64  `json:"doubleGPUHours"`                 // of GPUs held twice while the moved loaded
	BoundRejected    *float64 `json:"boundRejectedPercent,omitempty"` // only if asked for
}

// A RepackRow is one run of [Repack], as `neap replay gpu --repack-from` prints it.
type RepackRow struct {
	Trace          string  `json:"trace"`
	From           string  `json:"from"` // policy
	Seed           int64   `json:"seed"`
	ArrivedPercent int     `json:"arrivedPercent"`
	Pods           int     `json:"pods"`
	MachinesBefore int     `json:"machinesBefore"` // that run something
	MachinesAfter  int     `json:"machinesAfter"`
	GPUsBefore     int     `json:"gpusBefore"` // of these machines
	GPUsAfter      int     `json:"gpusAfter"`
	Freed          int     `json:"freedMachines"`
	Moves          int     `json:"moves"`
	PeakMachines   int     `json:"peakMachines"` // on the way
	PeakGPUs       float64 `json:"peakGPUs"`     // held on the way beyond those at the start
	DoubleGPUHours float64 `json:"doubleGPUHours"`
	Stopped        string  `json:"stopped"`
	BoundGPUs      *int64  `json:"boundGPUs,omitempty"`     // only if asked for
	BoundMachines  *int64  `json:"boundMachines,omitempty"` // only if asked for
}

// A MovesMatrix is what [MovesMatrix.Churn] and [MovesMatrix.Repack] play: every
// trace with every policy, level and seed.
type MovesMatrix struct {
	Traces   []*Trace
	Seeds    []int64
	Policies []string
	Levels   []int // offered or arrived, in percent of all GPUs
	Moves    []int // allowed for a thousand arrivals of churn; for repacking at most so many, 0: all
	Arrivals int   // of churn
	Bound    bool
	Workers  int          // at most so many runs at once; below 1 means 1
	Done     func(string) // is told of every run; nil: nobody
}

// each calls run with every index of the matrix' traces, policies, levels, moves
// and seeds, the seeds innermost.
func (x *MovesMatrix) each(ctx context.Context, run func(ctx context.Context, at, t, p, l, m, s int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	all := len(x.Traces) * len(x.Policies) * len(x.Levels) * len(x.Moves) * len(x.Seeds)
	jobs := make(chan int)
	var wait sync.WaitGroup
	for range max(1, x.Workers) {
		wait.Go(func() {
			for at := range jobs {
				rest := at
				next := func(n int) int { k := rest % n; rest /= n; return k }
				s, m, l, p := next(len(x.Seeds)), next(len(x.Moves)), next(len(x.Levels)), next(len(x.Policies))
				if err := run(ctx, at, rest, p, l, m, s); err != nil {
					cancel(fmt.Errorf("%s, %s, seed %d: %w", x.Traces[rest].Name, x.Policies[p], x.Seeds[s], err))
				}
			}
		})
	}
feed:
	for at := range all {
		select {
		case jobs <- at:
		case <-ctx.Done():
			break feed
		}
	}
	close(jobs)
	wait.Wait()
	return context.Cause(ctx)
}

// tell reports a run, one at a time.
func (x *MovesMatrix) tell(lock *sync.Mutex, format string, args ...any) {
	if x.Done != nil {
		lock.Lock()
		defer lock.Unlock()
		x.Done(fmt.Sprintf(format, args...))
	}
}

// Churn plays every run of [Churn] and returns its rows by trace, policy, level,
// moves and seed in the order given.
func (x MovesMatrix) Churn(ctx context.Context) ([]ChurnRow, error) {
	rows := make([]ChurnRow, len(x.Traces)*len(x.Policies)*len(x.Levels)*len(x.Moves)*len(x.Seeds))
	type key struct{ t, l, s int }
	floors := map[key]*float64{}
	if x.Bound {
		for t := range x.Traces {
			for l := range x.Levels {
				for s := range x.Seeds {
					if ctx.Err() != nil {
						return nil, ctx.Err()
					}
					floor, err := ChurnFloor(x.Traces[t], ChurnOptions{Options: Options{Seed: x.Seeds[s]}, OfferedPercent: x.Levels[l], Arrivals: x.Arrivals})
					if err != nil {
						return nil, err
					}
					floors[key{t, l, s}] = &floor
				}
			}
		}
	}
	var lock sync.Mutex
	err := x.each(ctx, func(ctx context.Context, at, t, p, l, m, s int) error {
		o := ChurnOptions{Options: Options{Policy: x.Policies[p], Seed: x.Seeds[s]}, OfferedPercent: x.Levels[l], Arrivals: x.Arrivals, MovesPerThousand: x.Moves[m]}
		r, err := Churn(ctx, x.Traces[t], o)
		if err != nil {
			return err
		}
		row := ChurnRow{
			Trace: x.Traces[t].Name, Policy: o.Policy, Seed: o.Seed, OfferedPercent: o.OfferedPercent, MovesPerThousand: o.MovesPerThousand,
			Arrivals: r.Arrivals, RejectedPods: r.Rejected, RejectedPercent: rounded(100 * float64(r.RejectedMilli) / float64(max(1, r.ArrivedMilli))),
			HeldPercent: rounded(r.HeldPercent), Moves: r.Moves, AdmittedPods: r.Admitted, AdmittedGPUs: float64(r.AdmittedMilli) / gpu.Whole,
			DoubleGPUHours: rounded(float64(r.MovedMilliSeconds) / gpu.Whole / 3600), BoundRejected: floors[key{t, l, s}],
		}
		rows[at] = row
		x.tell(&lock, "%s, %s, %d %% offered, %d moves per thousand, seed %d: %.2f %% rejected, %d moves", row.Trace, row.Policy, row.OfferedPercent, row.MovesPerThousand, row.Seed, row.RejectedPercent, row.Moves)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// Repack plays every run of [Repack] and returns its rows by trace, policy, level
// and seed in the order given. Moves has one entry.
func (x MovesMatrix) Repack(ctx context.Context) ([]RepackRow, error) {
	rows := make([]RepackRow, len(x.Traces)*len(x.Policies)*len(x.Levels)*len(x.Moves)*len(x.Seeds))
	var lock sync.Mutex
	err := x.each(ctx, func(ctx context.Context, at, t, p, l, m, s int) error {
		r, err := Repack(ctx, x.Traces[t], Options{Policy: x.Policies[p], Seed: x.Seeds[s]}, x.Levels[l], gpu.Options{MaxMoves: x.Moves[m]}, x.Bound)
		if err != nil {
			return err
		}
		plan := &r.Plan
		row := RepackRow{
			Trace: x.Traces[t].Name, From: x.Policies[p], Seed: x.Seeds[s], ArrivedPercent: x.Levels[l], Pods: r.Pods,
			MachinesBefore: plan.Before.Machines, MachinesAfter: plan.After.Machines, GPUsBefore: plan.Before.GPUs, GPUsAfter: plan.After.GPUs,
			Freed: len(plan.Freed), Moves: len(plan.Moves), PeakMachines: plan.Peak.Machines, PeakGPUs: float64(plan.Peak.Milli-plan.Before.Milli) / gpu.Whole,
			DoubleGPUHours: rounded(float64(r.DoubleMilliSeconds) / gpu.Whole / 3600), Stopped: string(plan.Stopped), BoundGPUs: r.BoundGPUs, BoundMachines: r.BoundMachines,
		}
		rows[at] = row
		x.tell(&lock, "%s, from %s, %d %% arrived, seed %d: %d of %d machines freed by %d moves", row.Trace, row.From, row.ArrivedPercent, row.Seed, row.Freed, row.MachinesBefore, row.Moves)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// A ChurnMean is rows of one trace, policy, level and budget, averaged over the seeds.
type ChurnMean struct {
	ChurnRow
	Seeds        int
	MovesMean    float64
	PodsMean     float64
	AdmittedMean float64
	WonPerMove   float64 // GPUs admitted for each move, 0 without any
	Floor        float64 // −1 if not asked for
}

// ChurnMeans averages rows over their seeds, which follow each other.
func ChurnMeans(rows []ChurnRow) []ChurnMean {
	var means []ChurnMean
	for _, r := range rows {
		n := len(means)
		if n == 0 || means[n-1].Trace != r.Trace || means[n-1].Policy != r.Policy || means[n-1].OfferedPercent != r.OfferedPercent || means[n-1].MovesPerThousand != r.MovesPerThousand {
			means = append(means, ChurnMean{ChurnRow: ChurnRow{Trace: r.Trace, Policy: r.Policy, OfferedPercent: r.OfferedPercent, MovesPerThousand: r.MovesPerThousand, Arrivals: r.Arrivals}})
			n++
		}
		m := &means[n-1]
		m.Seeds++
		m.RejectedPercent += r.RejectedPercent
		m.HeldPercent += r.HeldPercent
		m.PodsMean += float64(r.RejectedPods)
		m.MovesMean += float64(r.Moves)
		m.AdmittedMean += float64(r.AdmittedPods)
		m.AdmittedGPUs += r.AdmittedGPUs
		m.DoubleGPUHours += r.DoubleGPUHours
		if r.BoundRejected != nil {
			m.Floor += *r.BoundRejected
		} else {
			m.Floor--
		}
	}
	for i := range means {
		m := &means[i]
		if m.MovesMean > 0 {
			m.WonPerMove = m.AdmittedGPUs / m.MovesMean
		}
		n := float64(m.Seeds)
		for _, v := range []*float64{&m.RejectedPercent, &m.HeldPercent, &m.PodsMean, &m.MovesMean, &m.AdmittedMean, &m.AdmittedGPUs, &m.DoubleGPUHours, &m.Floor} {
			*v /= n
		}
	}
	return means
}

// A RepackMean is rows of one trace, policy and level, averaged over the seeds.
type RepackMean struct {
	Trace, From                                                                  string
	ArrivedPercent, Seeds                                                        int
	MachinesBefore, MachinesAfter, GPUsBefore, GPUsAfter, Freed, Moves, GPUHours float64
	BoundMachines, BoundGPUs                                                     float64 // NaN if not asked for
}

// RepackMeans averages rows over their seeds, which follow each other.
func RepackMeans(rows []RepackRow) []RepackMean {
	var means []RepackMean
	for _, r := range rows {
		n := len(means)
		if n == 0 || means[n-1].Trace != r.Trace || means[n-1].From != r.From || means[n-1].ArrivedPercent != r.ArrivedPercent {
			means = append(means, RepackMean{Trace: r.Trace, From: r.From, ArrivedPercent: r.ArrivedPercent})
			n++
		}
		m := &means[n-1]
		m.Seeds++
		bound := func(v *int64) float64 {
			if v == nil {
				return math.NaN()
			}
			return float64(*v)
		}
		for _, v := range []struct {
			sum *float64
			add float64
		}{
			{&m.MachinesBefore, float64(r.MachinesBefore)}, {&m.MachinesAfter, float64(r.MachinesAfter)}, {&m.GPUsBefore, float64(r.GPUsBefore)},
			{&m.GPUsAfter, float64(r.GPUsAfter)}, {&m.Freed, float64(r.Freed)}, {&m.Moves, float64(r.Moves)}, {&m.GPUHours, r.DoubleGPUHours},
			{&m.BoundMachines, bound(r.BoundMachines)}, {&m.BoundGPUs, bound(r.BoundGPUs)},
		} {
			*v.sum += (v.add - *v.sum) / float64(m.Seeds) // the mean so far
		}
	}
	return means
}
