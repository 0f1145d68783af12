package openb

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/gpu"
)

// MaxLevel is the highest level of arrivals, in percent of the fleet's GPUs.
const MaxLevel = inflatedPercent

// A Trace is a fleet and a workload. It is read by many runs at once.
type Trace struct {
	Name  string
	Nodes []Node
	Pods  []Pod
}

// Options says what one run plays.
type Options struct {
	Policy string // one of [Policies]
	Seed   int64
}

// A Result is what one run showed.
type Result struct {
	Levels [MaxLevel + 1]Level
	// DecisionMicros is the median time in which a machine was chosen. It is
	// measured: the only figure that differs between equal runs.
	DecisionMicros float64
	DecisionP99    float64 // as DecisionMicros, the 99th percentile
	Placed         int
	Rejected       int
}

// A Level is what a run showed while so many percent had arrived.
type Level struct {
	Arrivals    int     // in this level; with none the other figures are zero
	Unallocated float64 // percent of the fleet's GPUs; the mean over the arrivals
	Fragments   float64 // percent of the fleet's GPUs; the mean over the arrivals
	Empty       int     // machines that run nothing, at the first arrival that reaches the level in full, or the last one
}

// A stage is a fleet with nothing on it, a policy, and the pods that will come.
type stage struct {
	machines []gpu.Machine // empty
	capacity int64         // milli
	pods     []Pod         // in the order of arrival
	mix      *gpu.Mix
	fleet    *gpu.Fleet
	grouped  *clustering // if that is the policy
	dice     *random     // if that is the policy
}

func newStage(t *Trace, opts Options) (*stage, error) {
	i := slices.IndexFunc(policies, func(p policyInfo) bool { return p.name == opts.Policy })
	if i < 0 {
		return nil, fmt.Errorf("there is no policy %q; there are %s", opts.Policy, strings.Join(Policies(), ", "))
	}
	pods, nodes, rng := arrivals(t.Nodes, t.Pods, opts.Seed)
	s := &stage{pods: pods, mix: gpu.NewMix(gpu.Typical(MixOf(t.Pods), typicalPercent))}
	for _, n := range nodes {
		s.machines = append(s.machines, n.Machine)
		s.capacity += int64(n.Machine.GPUs) * gpu.Whole
	}
	var scorer gpu.Scorer
	if make := policies[i].scorer; make != nil {
		scorer = make(t, s.mix, s.machines)
	} else {
		s.dice, scorer = &random{rng: rng}, bestFit{} // the latter for those that are moved
	}
	s.grouped, _ = scorer.(*clustering)
	s.fleet = gpu.NewFleet(s.machines, scorer)
	return s, nil
}

func (s *stage) pick(d gpu.Demand) (gpu.Spot, bool) {
	if s.dice != nil {
		return s.dice.pick(s.fleet, d)
	}
	return s.fleet.Pick(d)
}

// Run plays a trace.
func Run(ctx context.Context, t *Trace, opts Options) (*Result, error) {
	stage, err := newStage(t, opts)
	if err != nil {
		return nil, err
	}
	pods, machines, capacity, mix, fleet := stage.pods, stage.machines, stage.capacity, stage.mix, stage.fleet

	var fragments int64 // in milli × the mix's total
	for i := range machines {
		fragments += mix.Fragment(&machines[i])
	}
	r := &Result{}
	took := make([]time.Duration, 0, len(pods))
	var arrived, used int64
	empty, full := len(machines), 0
	for i, p := range pods {
		if i%512 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		arrived += p.Demand.GPU()
		began := time.Now()
		spot, ok := stage.pick(p.Demand)
		took = append(took, time.Since(began))
		if ok {
			m := fleet.Machine(spot.Machine)
			if m.Pods == 0 {
				empty--
			}
			fragments -= mix.Fragment(m)
			if err := fleet.Place(p.Demand, spot); err != nil {
				return nil, fmt.Errorf("place %s by %s: %w", p.Name, opts.Policy, err)
			}
			fragments += mix.Fragment(m)
			used += p.Demand.GPU()
			if stage.grouped != nil {
				stage.grouped.placed(m.ID, &p.Demand)
			}
			r.Placed++
		} else {
			r.Rejected++
		}
		level := int(math.Round(100 * float64(arrived) / float64(capacity)))
		if level > MaxLevel {
			break
		}
		l := &r.Levels[level]
		l.Arrivals++
		l.Unallocated += 100 - math.Round(1e4*float64(used)/float64(capacity))/100
		l.Fragments += 100 * float64(fragments) / float64(mix.Total()) / float64(capacity)
		if reached := int(100 * arrived / capacity); l.Arrivals == 1 || reached < level || full < level {
			l.Empty = empty
			full = reached
		}
	}
	for i := range r.Levels {
		if l := &r.Levels[i]; l.Arrivals > 0 {
			l.Unallocated /= float64(l.Arrivals)
			l.Fragments /= float64(l.Arrivals)
		}
	}
	slices.Sort(took)
	if n := len(took); n > 0 {
		r.DecisionMicros = float64(took[n/2]) / 1e3
		r.DecisionP99 = float64(took[n*99/100]) / 1e3
	}
	return r, nil
}
