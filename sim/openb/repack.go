package openb

import (
	"context"
	"fmt"

	"github.com/neap-dev/neap/core/gpu"
)

// A RepackResult is what giving machines back showed.
type RepackResult struct {
	Plan gpu.Plan
	// LeastGPUs is a lower bound of the GPUs on the machines that any placement of
	// the same pods uses, 0 if it was not asked for.
	LeastGPUs int64
	Pods      int
}

// Repack places the published arrivals up to a level by a policy, then plans to give
// machines back ([gpu.Empty]), wherever neap would put the pods that move. The plan is
// verified. A machine's price is its GPUs.
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
		s.Tenants = append(s.Tenants, gpu.Tenant{Demands: []gpu.Demand{p.Demand}, Spot: spot})
	}
	stage.fleet.Rescore(gpu.NewNeap(stage.machines, MixOf(t.Pods), 0))
	r := &RepackResult{Pods: len(s.Tenants)}
	if r.Plan, err = gpu.Repack(s, gpu.Empty, limits); err != nil {
		return nil, err
	}
	if err := r.Plan.Verify(s, gpu.Empty, limits); err != nil {
		return nil, fmt.Errorf("the plan is wrong: %w", err)
	}
	if bound {
		prices := make([]int64, len(stage.machines))
		for i := range prices {
			prices[i] = int64(stage.machines[i].GPUs)
		}
		var shares []gpu.Share
		for i := range s.Tenants {
			shares = append(shares, gpu.Share{Demand: s.Tenants[i].Demands[0], Count: 1})
		}
		r.LeastGPUs = gpu.Fewest(stage.machines, prices, shares, boundSteps)
	}
	return r, ctx.Err()
}
