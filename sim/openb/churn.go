package openb

import (
	"context"
	"fmt"
	"math/rand"

	"github.com/neap-dev/neap/core/gpu"
)

// ChurnOptions says what [Churn] plays.
type ChurnOptions struct {
	Options
	OfferedPercent int // of the fleet's GPUs, held throughout
	Arrivals       int // after the fleet is filled
	// MovesPerThousand is how many moves a thousand arrivals allow. What is not used
	// is kept for later, up to a thousand arrivals' worth.
	MovesPerThousand int
}

// A ChurnResult is what one run of churn showed.
type ChurnResult struct {
	Arrivals, Rejected           int     // pods
	ArrivedMilli, RejectedMilli  int64   // of GPUs
	HeldPercent, FragmentPercent float64 // of the fleet's GPUs, means over the arrivals
	Moves                        int
	MovedMilli                   int64
	Admitted                     int     // pods that had no place until others moved
	AdmittedMilli                int64   // of GPUs
	BoundHeldPercent             float64 // no placement of what was offered in the end holds more
}

// A client is a pod that wants to run, and where it does.
type client struct {
	demand gpu.Demand
	spot   gpu.Spot
	runs   bool
}

// Churn fills the fleet with the published arrivals up to a level, then lets pods
// come and go. One of the pod list comes, drawn evenly; before it, clients drawn evenly
// go until what is offered stays at the level. One that fits nowhere is rejected
// and, until it goes, wants no more. So what is offered is the same for every policy
// and budget.
//
// With moves left, a pod that fits nowhere waits while others make room for it
// ([gpu.Admit]).
func Churn(ctx context.Context, t *Trace, opts ChurnOptions) (*ChurnResult, error) {
	stage, err := newStage(t, opts.Options)
	if err != nil {
		return nil, err
	}
	if stage.grouped != nil {
		return nil, fmt.Errorf("policy %s remembers what ran where and knows no departures", opts.Policy)
	}
	fleet := stage.fleet
	want := stage.capacity * int64(opts.OfferedPercent) / 100
	var clients []client
	var offered, held int64
	r := &ChurnResult{}
	place := func(c *client, spot gpu.Spot) error {
		c.spot, c.runs = spot, true
		held += c.demand.GPU()
		return fleet.Place(c.demand, spot)
	}
	for _, p := range stage.pods {
		if offered+p.Demand.GPU() > want {
			break
		}
		offered += p.Demand.GPU()
		c := client{demand: p.Demand}
		if spot, ok := stage.pick(p.Demand); ok {
			if err := place(&c, spot); err != nil {
				return nil, err
			}
		}
		clients = append(clients, c)
	}
	rng := rand.New(rand.NewSource(opts.Seed))
	budget := 0 // in thousandths of moves
	for i := range opts.Arrivals {
		if i%256 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		c := client{demand: t.Pods[rng.Intn(len(t.Pods))].Demand}
		for len(clients) > 0 && offered+c.demand.GPU() > want {
			k := rng.Intn(len(clients))
			gone := clients[k]
			clients[k] = clients[len(clients)-1]
			clients = clients[:len(clients)-1]
			offered -= gone.demand.GPU()
			if gone.runs {
				held -= gone.demand.GPU()
				if err := fleet.Remove(gone.demand, gone.spot); err != nil {
					return nil, err
				}
			}
		}
		offered += c.demand.GPU()
		r.Arrivals++
		r.ArrivedMilli += c.demand.GPU()
		budget += opts.MovesPerThousand
		spot, ok := stage.pick(c.demand)
		if !ok && budget >= 1000 {
			if spot, ok, err = r.makeRoom(fleet, clients, c.demand, &budget); err != nil {
				return nil, err
			}
		}
		if ok {
			if err := place(&c, spot); err != nil {
				return nil, err
			}
		} else {
			r.Rejected++
			r.RejectedMilli += c.demand.GPU()
		}
		clients = append(clients, c)
		r.HeldPercent += 100 * float64(held) / float64(stage.capacity)
	}
	r.HeldPercent /= float64(max(1, r.Arrivals))
	return r, nil
}

// makeRoom moves clients until d has a place.
func (r *ChurnResult) makeRoom(fleet *gpu.Fleet, clients []client, d gpu.Demand, budget *int) (gpu.Spot, bool, error) {
	s := &gpu.Situation{Fleet: fleet, Pending: [][]gpu.Demand{{d}}}
	var who []int
	for i := range clients {
		if c := &clients[i]; c.runs {
			s.Tenants = append(s.Tenants, gpu.Tenant{Demands: []gpu.Demand{c.demand}, Spot: c.spot})
			who = append(who, i)
		}
	}
	p, err := gpu.Repack(s, gpu.Admit, gpu.Options{MaxMoves: *budget / 1000, Steps: 3_000_000})
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
		r.MovedMilli += c.demand.GPU()
	}
	r.Moves += len(p.Moves)
	*budget -= 1000 * len(p.Moves)
	r.Admitted++
	r.AdmittedMilli += d.GPU()
	return p.Places[0].Spot, true, nil
}

