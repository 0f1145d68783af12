package gpu

import (
	"math/rand"
	"reflect"
	"slices"
	"strings"
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

// startsWhenItSays books every move on a fleet as its After allows: what has ended is
// given back, what has begun is held twice.
func startsWhenItSays(t *testing.T, s *Situation, p *Plan) {
	for i, m := range p.Moves {
		f := s.Fleet.Clone()
		for _, h := range s.Holds {
			if err := f.Place(h.Demand, h.Spot); err != nil {
				t.Fatal(err)
			}
		}
		now := map[int]int{}
		take := func(k int) { // with After kept by those before, all of this has room
			o := p.Moves[k]
			if err := f.Record(s.Tenants[o.Tenant].Demands[o.Demand], o.To); err != nil {
				t.Fatal(err)
			}
		}
		for k := range i {
			take(k)
			if o := p.Moves[k]; k < m.After {
				was, moved := now[o.Tenant]
				if !moved {
					was = s.Tenants[o.Tenant].Now
				}
				if err := f.Remove(s.Tenants[o.Tenant].Demands[was], o.From); err != nil {
					t.Fatal(err)
				}
				now[o.Tenant] = o.Demand
			}
		}
		for _, a := range p.Places {
			if a.After <= i {
				if err := f.Record(s.Pending[a.Pending][a.Demand], a.Spot); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := f.Place(s.Tenants[m.Tenant].Demands[m.Demand], m.To); err != nil {
			t.Fatalf("move %d, when %d have ended: %v", i, m.After, err)
		}
	}
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
			startsWhenItSays(t, s, &p)
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

// chain is three machines of one GPU, each of another model, on which a pod for the
// first one finds room only if two others move.
func chain() *Situation {
	machines := []Machine{machine(10, 10, 1, 0), machine(10, 10, 1, 1), machine(10, 10, 1, 2)}
	only := func(milli int64, models ...Model) Demand {
		d := Demand{CPU: 1, Devices: 1, Milli: milli}
		for _, m := range models {
			d.Models = d.Models.With(m)
		}
		return d
	}
	a, b, c := only(600, 0, 1), only(500, 1, 2), only(300, 2)
	s := &Situation{
		Fleet:   NewFleet(machines, Fragmentation{NewMix([]Share{{Demand: a, Count: 1}, {Demand: b, Count: 1}, {Demand: c, Count: 1}})}),
		Tenants: []Tenant{{Demands: []Demand{a}, Spot: Spot{0, 1}, Seconds: 40}, {Demands: []Demand{b}, Spot: Spot{1, 1}, Seconds: 20}, {Demands: []Demand{c}, Spot: Spot{2, 1}}},
		Pending: [][]Demand{{only(1000, 0)}},
	}
	for _, t := range s.Tenants {
		if err := s.Fleet.Place(t.Demands[0], t.Spot); err != nil {
			panic(err)
		}
	}
	return s
}

func TestAdmitMakesRoomByChains(t *testing.T) {
	cases := map[string]struct {
		change func(*Situation, *Options)
		want   Stop
		moves  []int // tenants
	}{
		"those that make room make room for one another": {func(*Situation, *Options) {}, Done, []int{1, 0}},
		"one may have another demand where it goes":      {func(s *Situation, _ *Options) { s.Tenants[1].Demands = append(s.Tenants[1].Demands, Demand{}) }, Done, []int{1, 0}},
		"a chain is not longer than allowed":             {func(_ *Situation, o *Options) { o.Depth = 1 }, NoMore, nil},
		"there are not more moves than allowed":          {func(_ *Situation, o *Options) { o.MaxMoves = 1 }, NoMore, nil},
		"no move at all":                                 {func(_ *Situation, o *Options) { o.MaxMoves = -1 }, MoveLimit, nil},
		"there is no more work than allowed":             {func(_ *Situation, o *Options) { o.Steps = 3 }, StepLimit, nil},
		"what is fixed stays":                            {func(s *Situation, _ *Options) { s.Tenants[1].Fixed = true }, NoMore, nil},
		"a hold is nobody's room":                        {func(s *Situation, _ *Options) { s.Holds = []Hold{{Demand{Devices: 1, Milli: 300}, Spot{2, 1}}} }, NoMore, nil},
		"a service that cools down stays":                {func(s *Situation, _ *Options) { s.Groups = []Group{{0, 9}}; s.Tenants[0].Groups = []int{0} }, NoMore, nil},
		"a disruption budget with one missing is kept":   {func(s *Situation, _ *Options) { s.Groups = []Group{{9, -1}}; s.Tenants[0].Groups = []int{0} }, NoMore, nil},
		"one that stops needs another one to serve meanwhile": {func(s *Situation, _ *Options) {
			s.Groups = []Group{{9, 0}}
			s.Tenants[0].Groups, s.Tenants[0].Stops = []int{0}, true
		}, NoMore, nil},
		"one that does not stop is replaced first":     {func(s *Situation, _ *Options) { s.Groups = []Group{{9, 0}}; s.Tenants[0].Groups = []int{0} }, Done, []int{1, 0}},
		"moves that cost more than the place is worth": {func(_ *Situation, o *Options) { o.MoveCost, o.Horizon = 600, 3600 }, NotWorth, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s, opts := chain(), Options{}
			tc.change(s, &opts)
			p, err := Repack(s, Admit, opts)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Verify(s, Admit, opts); err != nil {
				t.Fatal(err)
			}
			var moves []int
			for _, m := range p.Moves {
				moves = append(moves, m.Tenant)
			}
			if p.Stopped != tc.want || !slices.Equal(moves, tc.moves) || (len(p.Places) == 1) != (tc.want == Done) {
				t.Errorf("got %+v, want %s and moves of %v", p, tc.want, tc.moves)
			}
		})
	}
}

func TestPlansAreProvenStepByStep(t *testing.T) {
	s := chain()
	good, err := Repack(s, Admit, Options{})
	if err != nil || len(good.Moves) != 2 {
		t.Fatalf("%+v, %v", good, err)
	}
	// Both hold two places when they move: 600 and 500 milli, one after the other.
	if good.Peak.Milli != good.Before.Milli+600 || good.Gain != 1000 || good.Moves[1].After != 1 || good.Places[0].After != 2 || good.Cost != 600*40/3600+500*20/3600 {
		t.Errorf("got %+v", good)
	}
	for want, spoil := range map[string]func(*Plan){
		"move 0: device 0 of machine 1": func(p *Plan) { p.Moves[0], p.Moves[1] = p.Moves[1], p.Moves[0]; p.Moves[0].After = 0 },
		"is not there":                  func(p *Plan) { p.Places[0].After = 3 },
		"place of pending 0":            func(p *Plan) { p.Places[0].After = 1 },
		"move 1: has no room":           func(p *Plan) { p.Moves[1].After = 0 },
		"pending 0 is forgotten":        func(p *Plan) { p.Places = nil },
		"there twice":                   func(p *Plan) { p.Refused = []int{0} },
		"are wrong":                     func(p *Plan) { p.Moves[0].Cost++ },
		"the figures are":               func(p *Plan) { p.Gain++ },
		"tenant 1 is on":                func(p *Plan) { p.Moves[0].From.Machine = 2 },
	} {
		t.Run(want, func(t *testing.T) {
			p := good
			p.Moves, p.Places = slices.Clone(p.Moves), slices.Clone(p.Places)
			spoil(&p)
			if err := p.Verify(s, Admit, Options{}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v", err)
			}
		})
	}
	if err := good.Verify(s, Admit, Options{MaxMoves: 1}); err == nil {
		t.Error("more moves than allowed are accepted")
	}
}

func TestEmptyStopsWhenItDoesNotPay(t *testing.T) {
	d := Demand{CPU: 1, Devices: 1, Milli: 400}
	s := &Situation{Fleet: NewFleet([]Machine{machine(9, 9, 1, 0), machine(9, 9, 1, 0), machine(9, 9, 1, 0)}, Fragmentation{NewMix([]Share{{Demand: d, Count: 1}})}), Prices: []int64{3600, 7200, 3600}}
	for i := range 3 {
		s.Tenants = append(s.Tenants, Tenant{Demands: []Demand{d}, Spot: Spot{i, 1}, Seconds: 100, Stops: i == 1})
		if err := s.Fleet.Place(d, Spot{i, 1}); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		opts  Options
		freed []int
		stop  Stop
	}{
		"the dearest is given back":                   {Options{}, []int{1}, NoMore},
		"an hour pays for 40 units a hundred seconds": {Options{Horizon: 3600, MoveCost: 7000}, []int{1}, NotWorth},
		"but not for more":                            {Options{Horizon: 3600, MoveCost: 7200}, nil, NotWorth},
		"a saving that is too small is none":          {Options{MinSaving: 7201}, nil, NotWorth},
		"no moves":                                    {Options{MaxMoves: -1}, nil, MoveLimit},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Repack(s, Empty, tc.opts)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Verify(s, Empty, tc.opts); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(p.Freed, tc.freed) || p.Stopped != tc.stop || len(tc.freed) > 0 && (p.Gain != 7200 || p.LostSeconds != 100 || p.Cost != 40+tc.opts.MoveCost) {
				t.Errorf("got %+v", p)
			}
		})
	}
}

func TestEvacuateLeavesWhatIsSick(t *testing.T) {
	d := Demand{CPU: 1, Devices: 1, Milli: 600}
	s := &Situation{Fleet: NewFleet([]Machine{machine(9, 9, 2, 0), machine(9, 9, 1, 0)}, Fragmentation{NewMix([]Share{{Demand: d, Count: 1}})})}
	for k, spot := range []Spot{{0, 1}, {1, 1}} {
		s.Tenants = append(s.Tenants, Tenant{Demands: []Demand{d}, Spot: spot, Fixed: k == 1})
		if err := s.Fleet.Place(d, spot); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		leave []Spot
		to    []Spot
		left  []int
	}{
		"a device for another one of the machine": {[]Spot{{0, 1}}, []Spot{{0, 2}}, nil},
		"a machine, and nowhere to go":            {[]Spot{{Machine: 0}}, nil, []int{0}},
		"what may not be moved":                   {[]Spot{{1, 1}}, nil, []int{1}},
		"a device with nothing on it":             {[]Spot{{0, 2}}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s.Leave = tc.leave
			p, err := Repack(s, Evacuate, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Verify(s, Evacuate, Options{}); err != nil {
				t.Fatal(err)
			}
			var to []Spot
			for _, m := range p.Moves {
				to = append(to, m.To)
			}
			if !slices.Equal(to, tc.to) || !slices.Equal(p.Left, tc.left) || (p.Stopped == Done) != (tc.left == nil) {
				t.Errorf("got %+v", p)
			}
			p.Left = nil
			if err := p.Verify(s, Evacuate, Options{}); (err == nil) != (tc.left == nil) {
				t.Errorf("what is left behind may go unsaid: %v", err)
			}
		})
	}
}

// Two change places by way of a third machine: no order of two moves does.
func TestCirclesAreBrokenByAStop(t *testing.T) {
	d, e := Demand{CPU: 1, Devices: 1, Milli: 600}, Demand{CPU: 2, Devices: 1, Milli: 700}
	s := &Situation{Fleet: NewFleet([]Machine{machine(9, 9, 1, 0), machine(9, 9, 1, 0), machine(9, 9, 1, 0)}, Fragmentation{NewMix([]Share{{Demand: d, Count: 1}})})}
	for i, d := range []Demand{d, e} {
		s.Tenants = append(s.Tenants, Tenant{Demands: []Demand{d}, Spot: Spot{i, 1}})
		if err := s.Fleet.Place(d, Spot{i, 1}); err != nil {
			t.Fatal(err)
		}
	}
	r := newRepacker(s, Options{}.defaults())
	r.shift(0, 0, Spot{2, 1})
	r.shift(1, 0, Spot{0, 1})
	r.shift(0, 0, Spot{1, 1})
	p := r.plan(Evacuate)
	if err := p.Verify(s, Evacuate, Options{}); err != nil || len(p.Moves) != 3 {
		t.Errorf("%+v: %v", p, err)
	}
	// A detour that no circle needs is left out.
	r = newRepacker(s, Options{}.defaults())
	r.shift(0, 0, Spot{2, 1})
	r.shift(0, 0, Spot{0, 1})
	r.shift(1, 0, Spot{2, 1})
	if p = r.plan(Evacuate); len(p.Moves) != 1 || p.Verify(s, Evacuate, Options{}) != nil {
		t.Errorf("%+v", p)
	}
}

func TestRepackRefusesWhatContradictsItself(t *testing.T) {
	for want, change := range map[string]func(*Situation, *Options){
		"there is no fleet":                           func(s *Situation, _ *Options) { s.Fleet = nil },
		"1 prices for 3 machines":                     func(s *Situation, _ *Options) { s.Prices = []int64{1} },
		"price -1 of machine 1":                       func(s *Situation, _ *Options) { s.Prices = []int64{1, -1, 1} },
		"tenant 0 holds demand 1 of 1":                func(s *Situation, _ *Options) { s.Tenants[0].Now = 1 },
		"tenant 0: there is no group 2":               func(s *Situation, _ *Options) { s.Tenants[0].Groups = []int{2} },
		"tenant 1: there is no machine 9":             func(s *Situation, _ *Options) { s.Tenants[1].Spot.Machine = 9 },
		"tenant 2: cpu -1 is negative":                func(s *Situation, _ *Options) { s.Tenants[2].Demands = []Demand{{CPU: -1}} },
		"tenant 0: -1 seconds":                        func(s *Situation, _ *Options) { s.Tenants[0].Seconds = -1 },
		"pending 0: 99 GPUs are not between 0 and 16": func(s *Situation, _ *Options) { s.Pending = [][]Demand{{{Devices: 99, Milli: 1}}} },
		"hold 0: device 0 of machine 0":               func(s *Situation, _ *Options) { s.Holds = []Hold{{Demand{Devices: 1, Milli: 500}, Spot{0, 1}}} },
		"leave 0: there is no machine -1":             func(s *Situation, _ *Options) { s.Leave = []Spot{{Machine: -1}} },
		"only MaxMoves may be negative":               func(_ *Situation, o *Options) { o.Horizon = -1 },
	} {
		t.Run(want, func(t *testing.T) {
			s, opts := chain(), Options{}
			change(s, &opts)
			if _, err := Repack(s, Admit, opts); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := Repack(chain(), 0, Options{}); err == nil {
		t.Error("no goal is a goal")
	}
}
