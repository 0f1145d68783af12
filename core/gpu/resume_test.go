package gpu

import (
	"math/rand"
	"slices"
	"strings"
	"testing"
)

// What is left of a plan after its first moves were made is a plan; and made again
// from the start it is the whole of it.
func FuzzResume(f *testing.F) {
	for seed := range int64(100) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed int64) {
		rng := rand.New(rand.NewSource(seed))
		s := anySituation(rng)
		opts := Options{Horizon: 1 << 40, Parallel: 1 + rng.Intn(3)}
		for _, goal := range []Goal{Admit, Empty, Evacuate} {
			p, err := Repack(s, goal, opts)
			if err != nil {
				t.Fatal(err)
			}
			whole, err := Resume(s, goal, opts, p.Moves, p.Places)
			if err != nil {
				t.Fatalf("goal %d: the whole plan: %v\n%+v", goal, err, p)
			}
			if whole.Gain != p.Gain || whole.Cost != p.Cost || whole.After != p.After || !slices.Equal(whole.Freed, p.Freed) {
				t.Fatalf("goal %d: %+v resumed from the start is %+v", goal, p, whole)
			}
			// The first so many moves are made.
			made := rng.Intn(len(p.Moves) + 1)
			now := *s
			now.Fleet, now.Tenants, now.Groups = s.Fleet.Clone(), slices.Clone(s.Tenants), slices.Clone(s.Groups)
			for _, m := range p.Moves[:made] {
				at := &now.Tenants[m.Tenant]
				if err := now.Fleet.Place(at.Demands[m.Demand], m.To); err != nil {
					t.Fatal(err)
				}
				if err := now.Fleet.Remove(at.Demands[at.Now], at.Spot); err != nil {
					t.Fatal(err)
				}
				at.Spot, at.Now = m.To, m.Demand
			}
			rest, places := slices.Clone(p.Moves[made:]), slices.Clone(p.Places)
			for i := range rest {
				rest[i].After = max(0, rest[i].After-made)
			}
			for i := range places {
				places[i].After = max(0, places[i].After-made)
			}
			if _, err := Resume(&now, goal, opts, rest, places); err != nil && !strings.Contains(err.Error(), "not worth") {
				t.Fatalf("goal %d: the rest after %d of %d moves: %v", goal, made, len(p.Moves), err)
			}
		}
	})
}

func TestResumeRefusesWhatIsNotThere(t *testing.T) {
	d := Demand{Devices: 1, Milli: 500}
	machines := []Machine{{CPU: 1000, GPUs: 1, Idle: [MaxDevices]int16{Whole}}, {CPU: 1000, GPUs: 1, Idle: [MaxDevices]int16{Whole}}}
	fleet := NewFleet(machines, Fragmentation{NewMix([]Share{{Demand: d, Count: 1}})})
	if err := fleet.Place(d, Spot{0, 1}); err != nil {
		t.Fatal(err)
	}
	s := &Situation{Fleet: fleet, Tenants: []Tenant{{Demands: []Demand{d}, Spot: Spot{0, 1}}}, Pending: [][]Demand{{d}}, Leave: []Spot{{Machine: 0}}}
	for name, tc := range map[string]struct {
		moves  []Move
		places []Place
		want   string
	}{
		"a tenant":               {moves: []Move{{Tenant: 7}}, want: "no tenant 7"},
		"where it is":            {moves: []Move{{Tenant: 0, From: Spot{1, 1}, To: Spot{0, 1}}}, want: "tenant 0 is on"},
		"a machine":              {moves: []Move{{Tenant: 0, From: Spot{0, 1}, To: Spot{5, 1}}}, want: "no machine 5"},
		"a demand":               {moves: []Move{{Tenant: 0, From: Spot{0, 1}, To: Spot{1, 1}, Demand: 3}}, want: "no demand 3"},
		"a place on no machine":  {places: []Place{{Pending: 0, Spot: Spot{9, 1}}}, want: "is not there"},
		"a place for no pending": {places: []Place{{Pending: 3, Spot: Spot{1, 1}}}, want: "pending 3"},
	} {
		t.Run(name, func(t *testing.T) {
			if p, err := Resume(s, Evacuate, Options{}, tc.moves, tc.places); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v and %+v, want %q", err, p, tc.want)
			}
		})
	}
	if p, err := Resume(s, Evacuate, Options{}, nil, nil); err != nil || !slices.Equal(p.Left, []int{0}) || !slices.Equal(p.Refused, []int{0}) {
		t.Errorf("nothing left to do: %+v, %v", p, err)
	}
}
