package openb

import (
	"context"
	"fmt"

	"github.com/neap-dev/neap/core/gpu"
)

// A RepackResult is what giving machines back showed.
type RepackResult struct {
	Plan               gpu.Plan
	Pods               int
	DoubleMilliSeconds int64 // milli held twice, times the seconds
	// BoundGPUs and BoundMachines are at most what any placement of the same pods
	// uses: GPUs of the machines that run something, and these machines. They are
	// nil if not asked for.
	BoundGPUs, BoundMachines *int64
}

// Repack places the published arrivals up to a level by a policy, then plans to give
// machines back ([gpu.Empty]), wherever neap would put the pods that move. The plan is
// verified. A machine's price is its GPUs, a thousandth of a unit a milli and hour.
func Repack(ctx context.Context, t *Trace, opts Options, arrivedPercent int, limits gpu.Options, bound bool) (*RepackResult, error) {
	stage, err := newStage(t, opts)
	if err != nil {
		return nil, err
	}
	s := &gpu.Situation{Fleet: stage.fleet}
	var arrived int64
	for _, p := range stage.pods {
		if arrived += p.Demand.GPU(); arrived*100 > stage.capacity*int64(arrivedPercent) {
			break
		}
		spot, ok := stage.pick(p.Demand)
		if !ok {
			continue
		}
		if err := stage.fleet.Place(p.Demand, spot); err != nil {
			return nil, fmt.Errorf("place %s by %s: %w", p.Name, opts.Policy, err)
		}
		if stage.grouped != nil {
			stage.grouped.placed(spot.Machine, &p.Demand)
		}
		s.Tenants = append(s.Tenants, gpu.Tenant{Demands: []gpu.Demand{p.Demand}, Spot: spot, Seconds: loadSeconds(len(s.Tenants))})
	}
	stage.fleet.Rescore(gpu.NewNeap(stage.machines, MixOf(t.Pods), 0))
	r := &RepackResult{Pods: len(s.Tenants)}
	if r.Plan, err = gpu.Repack(s, gpu.Empty, limits); err != nil {
		return nil, err
	}
	if err := r.Plan.Verify(s, gpu.Empty, limits); err != nil {
		return nil, fmt.Errorf("the plan is wrong: %w", err)
	}
	for _, m := range r.Plan.Moves {
		r.DoubleMilliSeconds += m.Seconds * s.Tenants[m.Tenant].Demands[m.Demand].GPU()
	}
	if bound {
		gpus, machines := make([]int64, len(stage.machines)), make([]int64, len(stage.machines))
		for i := range gpus {
			gpus[i], machines[i] = int64(stage.machines[i].GPUs), 1
		}
		shares := make([]gpu.Share, len(s.Tenants))
		for i := range shares {
			shares[i] = gpu.Share{Demand: s.Tenants[i].Demands[0], Count: 1}
		}
		least := func(prices []int64) *int64 {
			v := gpu.Fewest(stage.machines, prices, shares, boundSteps)
			return &v
		}
		r.BoundGPUs, r.BoundMachines = least(gpus), least(machines)
	}
	return r, ctx.Err()
}
