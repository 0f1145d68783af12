package gpu

import (
	"math/rand"
	"reflect"
	"testing"
)

// anySituation draws a small fleet with tenants, limits and things that wait.
func anySituation(rng *rand.Rand) *Situation {
	machines, shares := anyMachines(rng, 8), anyShares(rng)
	var scorer Scorer = Fragmentation{NewMix(shares)}
	if rng.Intn(2) == 0 {
		scorer = NewNeap(machines, shares, 0)
	}
	s := &Situation{Fleet: NewFleet(machines, scorer)}
	for range rng.Intn(4) {
		s.Groups = append(s.Groups, Group{Moves: rng.Intn(4), Slack: rng.Intn(3) - 1})
	}
	if rng.Intn(2) == 0 {
		for range machines {
			s.Prices = append(s.Prices, int64(rng.Intn(10_000)))
		}
	}
	draw := func() []Demand {
		demands := []Demand{shares[rng.Intn(len(shares))].Demand}
		for rng.Intn(4) == 0 {
			demands = append(demands, anyDemand(rng))
		}
		return demands
	}
	for range rng.Intn(40) {
		t := Tenant{Demands: draw(), Seconds: int64(rng.Intn(100)), Fixed: rng.Intn(10) == 0, Stops: rng.Intn(5) == 0}
		for g := range s.Groups {
			if rng.Intn(3) == 0 {
				t.Groups = append(t.Groups, g)
			}
		}
		// Anywhere it fits: a state that nobody would have made.
		at := rng.Intn(len(machines))
		for i := range machines {
			m := s.Fleet.Machine((at + i) % len(machines))
			if d := t.Demands[t.Now]; m.Fits(&d) {
				t.Spot = Spot{m.ID, m.Tightest(&d)}
				if err := s.Fleet.Place(d, t.Spot); err != nil {
					panic(err)
				}
				if rng.Intn(10) > 0 { // else it stays, and nobody says what it is
					s.Tenants = append(s.Tenants, t)
				}
				break
			}
		}
	}
	for range rng.Intn(4) {
		s.Pending = append(s.Pending, draw())
	}
	for range rng.Intn(2) {
		if d := anyDemand(rng); d.Validate() == nil {
			if spot, ok := s.Fleet.Pick(d); ok {
				s.Holds = append(s.Holds, Hold{d, spot})
			}
		}
	}
	for range rng.Intn(3) {
		l := Spot{Machine: rng.Intn(len(machines))}
		if rng.Intn(2) == 0 {
			l.Devices = Devices(rng.Intn(16))
		}
		s.Leave = append(s.Leave, l)
	}
	return s
}

func FuzzRepack(f *testing.F) {
	for seed := range int64(300) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed int64) {
		rng := rand.New(rand.NewSource(seed))
		s := anySituation(rng)
		opts := Options{Depth: rng.Intn(4), Parallel: rng.Intn(4)}
		if rng.Intn(2) == 0 {
			opts.MaxMoves = rng.Intn(12) - 1
		}
		if rng.Intn(4) == 0 {
			opts.Steps = rng.Intn(200)
		}
		if rng.Intn(3) == 0 {
			opts.MoveCost, opts.MinSaving, opts.Horizon = int64(rng.Intn(3000)), int64(rng.Intn(3000)), int64(rng.Intn(7200))
		}
		before := s.Fleet.Clone()
		for _, goal := range []Goal{Admit, Empty, Evacuate} {
			p, err := Repack(s, goal, opts)
			if err != nil {
				t.Fatalf("goal %d: %v", goal, err)
			}
			if err := p.Verify(s, goal, opts); err != nil {
				t.Fatalf("goal %d: %v\n%+v", goal, err, p)
			}
			if again, _ := Repack(s, goal, opts); !reflect.DeepEqual(p, again) {
				t.Fatalf("goal %d: %+v, then %+v", goal, p, again)
			}
			if !reflect.DeepEqual(before.machines, s.Fleet.machines) {
				t.Fatalf("goal %d: planning changed the fleet", goal)
			}
			if goal == Empty && p.Gain < 0 {
				t.Fatalf("emptying made the fleet dearer: %+v", p)
			}
		}
	})
}
