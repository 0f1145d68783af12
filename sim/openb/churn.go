package openb

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand"

	"github.com/neap-dev/neap/core/gpu"
)

// ChurnOptions says what [Churn] plays.
type ChurnOptions struct {
	Options
	OfferedPercent   int // of the fleet's GPUs, held throughout
	Arrivals         int // after the fleet is filled
	MovesPerThousand int // moves that a thousand arrivals allow; what is not used is kept
}

// A ChurnResult is what one run of churn showed.
type ChurnResult struct {
	Arrivals, Rejected          int     // pods
	ArrivedMilli, RejectedMilli int64   // of GPUs
	HeldPercent                 float64 // of the fleet's GPUs, mean over the arrivals
	Moves                       int
	MovedMilliSeconds           int64 // milli held twice, times the seconds
	Admitted                    int   // pods that had no place until others moved
	AdmittedMilli               int64 // of GPUs
}

// A client is a pod that wants to run, and where it does.
type client struct {
	demand gpu.Demand
	spot   gpu.Spot
	runs   bool
}

// A crowd is the clients there are. It is the same whatever a policy does with them.
type crowd struct {
	from    []Pod
	rng     *rand.Rand
	want    int64 // milli offered at most
	offered int64
	clients []client
}

// fill lets the published arrivals come up to the level.
func (c *crowd) fill(pods []Pod, comes func(*client) error) error {
	for _, p := range pods {
		if c.offered+p.Demand.GPU() > c.want {
			break
		}
		if err := c.add(p.Demand, comes); err != nil {
			return err
		}
	}
	return nil
}

func (c *crowd) add(d gpu.Demand, comes func(*client) error) error {
	c.offered += d.GPU()
	c.clients = append(c.clients, client{demand: d})
	return comes(&c.clients[len(c.clients)-1])
}

// step lets clients drawn evenly go until one of the pod list, drawn evenly, can
// come.
func (c *crowd) step(goes, comes func(*client) error) error {
	d := c.from[c.rng.Intn(len(c.from))].Demand
	for len(c.clients) > 0 && c.offered+d.GPU() > c.want {
		k, last := c.rng.Intn(len(c.clients)), len(c.clients)-1
		gone := c.clients[k]
		c.clients[k] = c.clients[last]
		c.clients = c.clients[:last]
		c.offered -= gone.demand.GPU()
		if err := goes(&gone); err != nil {
			return err
		}
	}
	return c.add(d, comes)
}

// Churn fills the fleet with the published arrivals up to a level, then lets pods
// come and go. One of the pod list comes, drawn evenly; before it, clients drawn
// evenly go until what is offered stays at the level. One that fits nowhere is rejected
// and, until it would have gone, counts as offered. So what is offered is the same
// for every policy and budget.
//
// With moves left, a pod that fits nowhere waits while others make room for it
// ([gpu.Admit]); the policy chooses where they go, for random bestfit.
func Churn(ctx context.Context, t *Trace, opts ChurnOptions) (*ChurnResult, error) {
	stage, err := newStage(t, opts.Options)
	if err != nil {
		return nil, err
	}
	if stage.grouped != nil {
		return nil, fmt.Errorf("policy %s remembers what ran where and knows no departures", opts.Policy)
	}
	r := &ChurnResult{}
	c := newCrowd(t, stage, opts)
	var held int64
	budget := 0 // in thousandths of moves
	goes := func(gone *client) error {
		if !gone.runs {
			return nil
		}
		held -= gone.demand.GPU()
		return stage.fleet.Remove(gone.demand, gone.spot)
	}
	comes := func(new *client) error {
		spot, ok := stage.pick(new.demand)
		if !ok && budget >= 1000 {
			spot, ok, err = r.makeRoom(stage.fleet, c.clients, new.demand, budget/1000)
			if err != nil {
				return err
			}
		}
		if !ok {
			r.Rejected++
			r.RejectedMilli += new.demand.GPU()
			return nil
		}
		new.spot, new.runs = spot, true
		held += new.demand.GPU()
		return stage.fleet.Place(new.demand, spot)
	}
	if err := c.fill(stage.pods, comes); err != nil {
		return nil, err
	}
	r.Rejected, r.RejectedMilli = 0, 0
	for i := range opts.Arrivals {
		if i%256 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		budget = opts.MovesPerThousand*(i+1) - 1000*r.Moves
		if err := c.step(goes, comes); err != nil {
			return nil, err
		}
		r.Arrivals++
		r.ArrivedMilli += c.clients[len(c.clients)-1].demand.GPU()
		r.HeldPercent += 100 * float64(held) / float64(stage.capacity)
	}
	r.HeldPercent /= float64(max(1, r.Arrivals))
	return r, nil
}

func newCrowd(t *Trace, s *stage, opts ChurnOptions) *crowd {
	return &crowd{from: t.Pods, rng: rand.New(rand.NewSource(opts.Seed)), want: s.capacity * int64(opts.OfferedPercent) / 100}
}

// churnSteps bounds the work of making room for one pod.
const churnSteps = 1_000_000

// makeRoom moves clients until d has a place.
func (r *ChurnResult) makeRoom(fleet *gpu.Fleet, clients []client, d gpu.Demand, moves int) (gpu.Spot, bool, error) {
	s := &gpu.Situation{Fleet: fleet, Pending: [][]gpu.Demand{{d}}}
	var who []int
	for i := range clients {
		if c := &clients[i]; c.runs {
			s.Tenants = append(s.Tenants, gpu.Tenant{Demands: []gpu.Demand{c.demand}, Spot: c.spot, Seconds: loadSeconds(i)})
			who = append(who, i)
		}
	}
	p, err := gpu.Repack(s, gpu.Admit, gpu.Options{MaxMoves: moves, Steps: churnSteps})
	if err != nil || len(p.Places) == 0 {
		return gpu.Spot{}, false, err
	}
	for _, m := range p.Moves {
		c := &clients[who[m.Tenant]]
		if err := fleet.Place(c.demand, m.To); err != nil {
			return gpu.Spot{}, false, err
		}
		if err := fleet.Remove(c.demand, m.From); err != nil {
			return gpu.Spot{}, false, err
		}
		c.spot = m.To
		r.MovedMilliSeconds += m.Seconds * c.demand.GPU()
	}
	r.Moves += len(p.Moves)
	r.Admitted++
	r.AdmittedMilli += d.GPU()
	return p.Places[0].Spot, true, nil
}

// loads are how many seconds it took to load a base model: quantiles of 7,531
// updates in the alibaba GenAI trace of 2026.
var loads = [...]struct{ share, seconds float64 }{{0, 0}, {0.05, 2.287}, {0.5, 22.718}, {0.9, 41.988}, {0.95, 45.449}, {0.99, 51.856}, {1, 79.436}}

// loadSeconds returns how long the i-th pod loads: the quantiles, spread evenly.
func loadSeconds(i int) int64 {
	at := math.Mod(float64(i+1)*math.Phi, 1)
	for k := 1; k < len(loads); k++ {
		if a, b := loads[k-1], loads[k]; at <= b.share {
			return int64(math.Ceil(a.seconds + (b.seconds-a.seconds)*(at-a.share)/(b.share-a.share)))
		}
	}
	return 0
}

// churnBounds is at how many moments [ChurnFloor] looks.
const churnBounds = 4

// ChurnFloor returns the least percent of demand that any placement rejects in the
// same churn, moving whatever it wants: at four moments, evenly spaced, what is
// offered beyond [gpu.Bound], in the mean. That is what must be rejected if those
// rejected stay away as long as others run; rounded down.
func ChurnFloor(t *Trace, opts ChurnOptions) (float64, error) {
	stage, err := newStage(t, Options{Policy: "bestfit", Seed: opts.Seed})
	if err != nil {
		return 0, err
	}
	c := newCrowd(t, stage, opts)
	nothing := func(*client) error { return nil }
	if err := c.fill(stage.pods, nothing); err != nil {
		return 0, err
	}
	var floor float64
	for i := range opts.Arrivals {
		if err := c.step(nothing, nothing); err != nil {
			return 0, err
		}
		if (i+1)*churnBounds/opts.Arrivals == i*churnBounds/opts.Arrivals {
			continue
		}
		shares := make([]gpu.Share, len(c.clients))
		for k := range c.clients {
			shares[k] = gpu.Share{Demand: c.clients[k].demand, Count: 1}
		}
		most := gpu.Bound(stage.machines, shares, boundSteps)
		floor += max(0, 1-float64(most)/float64(cmp.Or(c.offered, 1))) / churnBounds
	}
	return math.Floor(1e5*floor) / 1000, nil
}
