package place

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/neap-dev/neap/core/resource"
)

func cores(n int64) resource.Vector { return resource.Vector{n * 1000, n * resource.GiB, 0} }

func fleetOf(machines ...Machine) *Fleet {
	var f Fleet
	for _, m := range machines {
		f.Add(m)
	}
	return &f
}

func TestFit(t *testing.T) {
	open := Machine{Name: "m", Pool: "p", Domain: "z1", Allocatable: cores(8), MaxPods: 3}
	cases := map[string]struct {
		machine func(*Machine)
		bound   []Pod
		pod     Pod
		want    Reason
	}{
		"a pod that fills the machine fits":          {pod: Pod{Request: cores(8)}, want: Fits},
		"a pod too large for what is left does not":  {bound: []Pod{{Request: cores(7)}}, pod: Pod{Request: cores(2)}, want: TooLittleCPU},
		"memory counts apart":                        {pod: Pod{Request: resource.Vector{1, 9 * resource.GiB, 0}}, want: TooLittleMem},
		"a GPU is not there":                         {pod: Pod{Request: resource.Vector{0, 0, 1000}}, want: TooFewGPU},
		"declared spare is kept free":                {machine: func(m *Machine) { m.Spare = cores(2) }, pod: Pod{Request: cores(7)}, want: TooLittleCPU},
		"a pod without requests fits a full machine": {bound: []Pod{{Request: cores(9)}}, pod: Pod{}, want: Fits},
		"there is a limit of pods":                   {bound: []Pod{{}, {}, {}}, pod: Pod{}, want: TooManyPods},
		"a closed machine takes none":                {machine: func(m *Machine) { m.Closed = true }, pod: Pod{}, want: Closed},
		"a closed machine takes its daemons":         {machine: func(m *Machine) { m.Closed = true }, pod: Pod{Daemon: true}, want: Fits},
		"another pool":                               {pod: Pod{Pools: []string{"q"}}, want: WrongPool},
		"one of several pools":                       {pod: Pod{Pools: []string{"q", "p"}}, want: Fits},
		"two of a group that wants to be alone":      {bound: []Pod{{Alone: "a"}}, pod: Pod{Alone: "a"}, want: NotAlone},
		"another group":                              {bound: []Pod{{Alone: "a"}}, pod: Pod{Alone: "b"}, want: Fits},
		"more than its share in one domain":          {bound: []Pod{{Spread: "s", Domains: 1}}, pod: Pod{Spread: "s", Domains: 1}, want: Uneven},
		"its share in one domain":                    {bound: []Pod{{Spread: "s", Domains: 2}}, pod: Pod{Spread: "s", Domains: 2}, want: Fits},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			m := open
			if tc.machine != nil {
				tc.machine(&m)
			}
			f := fleetOf(m, Machine{Name: "n", Domain: "z2", Closed: true})
			for i, p := range tc.bound {
				f.Bind(fmt.Sprint(i), p, "m")
			}
			if got := f.Fit(tc.pod, "m"); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestPickSpreadsSiblingsAndBalances(t *testing.T) {
	f := fleetOf(
		Machine{Name: "a", Domain: "z1", Allocatable: cores(8)}, Machine{Name: "b", Domain: "z1", Allocatable: cores(8)},
		Machine{Name: "c", Domain: "z2", Allocatable: cores(8)}, Machine{Name: "g", Domain: "z2", Allocatable: resource.Vector{64000, 64 * resource.GiB, 8000}},
	)
	var got []string
	for i := range 6 {
		p := Pod{Request: cores(1), Owner: "web"}
		m, why := f.Pick(p)
		if m == "" {
			t.Fatal(why)
		}
		f.Bind(fmt.Sprint(i), p, m)
		got = append(got, m)
	}
	if diff := cmp.Diff([]string{"a", "c", "b", "c", "a", "b"}, got); diff != "" {
		t.Errorf("picked (-want +got):\n%s", diff)
	}
	if m, _ := f.Pick(Pod{Request: resource.Vector{0, 0, 1000}}); m != "g" {
		t.Errorf("a GPU pod goes to %q", m)
	}
	m, why := f.Pick(Pod{Request: cores(100)})
	if m != "" || why[TooLittleCPU] != 4 {
		t.Errorf("an impossible pod goes to %q: %v", m, why)
	}
}

// FuzzFleet binds, unbinds and removes at random: what is free must always be
// what the bound pods leave, and a picked machine must fit.
func FuzzFleet(f *testing.F) {
	f.Add(int64(1))
	f.Fuzz(func(t *testing.T, seed int64) {
		dice := rand.New(rand.NewSource(seed))
		var fleet Fleet
		type where struct {
			pod Pod
			on  string
		}
		pods := map[string]where{}
		machines := map[string]Machine{}
		for step := range 60 {
			name, uid := fmt.Sprint("m", dice.Intn(5)), fmt.Sprint("u", dice.Intn(20))
			switch dice.Intn(5) {
			case 0:
				m := Machine{Name: name, Domain: fmt.Sprint("z", dice.Intn(2)), Allocatable: cores(dice.Int63n(16)), Spare: cores(dice.Int63n(3)), MaxPods: dice.Intn(6)}
				fleet.Add(m)
				machines[name] = m
			case 1:
				if dice.Intn(4) == 0 {
					var want []string
					for u, w := range pods {
						if w.on == name {
							want = append(want, u)
							delete(pods, u)
						}
					}
					slices.Sort(want)
					if got := fleet.Remove(name); !slices.Equal(got, want) {
						t.Fatalf("removing %s frees %v, want %v", name, got, want)
					}
					delete(machines, name)
				}
			case 2:
				fleet.Unbind(uid)
				delete(pods, uid)
			default:
				p := Pod{Request: cores(dice.Int63n(4)), Owner: fmt.Sprint(dice.Intn(3)), Alone: []string{"", "x", "y"}[dice.Intn(3)], Domains: dice.Intn(3)}
				delete(pods, uid)
				fleet.Unbind(uid)
				m, why := fleet.Pick(p)
				if m == "" {
					n := 0
					for _, c := range why {
						n += c
					}
					if n != len(machines) {
						t.Fatalf("step %d: %d machines are ruled out of %d", step, n, len(machines))
					}
					continue
				}
				if r := fleet.Fit(p, m); r != Fits {
					t.Fatalf("step %d: picked %s where it does not fit: %s", step, m, r)
				}
				fleet.Bind(uid, p, m)
				pods[uid] = where{p, m}
			}
			for name, m := range machines {
				want, count := m.Allocatable.Sub(m.Spare), 0
				for _, w := range pods {
					if w.on == name {
						want, count = want.Sub(w.pod.Request), count+1
					}
				}
				if free, n, ok := fleet.Free(name); !ok || free != want || n != count {
					t.Fatalf("step %d: %s has %v free and %d pods, want %v and %d", step, name, free, n, want, count)
				}
			}
			if fleet.Pods() != len(pods) || fleet.Machines() != len(machines) {
				t.Fatalf("step %d: %d pods on %d machines, want %d and %d", step, fleet.Pods(), fleet.Machines(), len(pods), len(machines))
			}
		}
	})
}
