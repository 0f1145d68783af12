package place

import (
	"fmt"
	"math/rand"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/neap-dev/neap/core/resource"
)

func pods(n int, p Pod) []Pod {
	var out []Pod
	for range n {
		out = append(out, p)
	}
	return out
}

func TestRepack(t *testing.T) {
	one := Pod{Request: cores(1)}
	m := func(name string, p ...Pod) Machine {
		return Machine{Name: name, Pool: "p", Domain: "z1", Allocatable: cores(8), Pods: p}
	}
	with := func(m Machine, change func(*Machine)) Machine { change(&m); return m }
	cases := map[string]struct {
		fleet []Machine
		want  []string // waiting/constraint/shape in cores
	}{
		"a full machine has nothing free": {
			[]Machine{m("a", pods(8, one)...)}, []string{"0/0/0"},
		},
		"an empty machine waits": {
			[]Machine{m("a", pods(5, one)...), m("b")}, []string{"0/0/3", "8/0/0"},
		},
		"the least loaded machine is emptied into the fullest": {
			[]Machine{m("a", pods(2, one)...), m("b", pods(5, one)...), m("c", pods(6, one)...)}, []string{"6/0/0", "0/0/3", "2/0/0"},
		},
		"pods too large for any gap are a matter of shape": {
			[]Machine{m("a", pods(1, Pod{Request: cores(5)})...), m("b", pods(1, Pod{Request: cores(5)})...)}, []string{"0/0/3", "0/0/3"},
		},
		"daemons hold no machine": {
			[]Machine{m("a", Pod{Request: cores(1), Daemon: true}), m("b", pods(8, one)...)}, []string{"7/0/0", "0/0/0"},
		},
		"a pinned pod holds its machine": {
			[]Machine{m("a", Pod{Request: cores(1), Pinned: true}), m("b", pods(4, Pod{Request: cores(1), Pinned: true})...)}, []string{"0/7/0", "0/1/3"},
		},
		"a group that wants to be alone holds machines": {
			[]Machine{m("a", Pod{Request: cores(1), Alone: "x"}), m("b", Pod{Request: cores(2), Alone: "x"})}, []string{"0/7/0", "0/1/5"},
		},
		"an even spread over domains holds machines": {
			[]Machine{m("a", Pod{Request: cores(1), Spread: "x", Domains: 1}),
				with(m("b", Pod{Request: cores(2), Spread: "x", Domains: 1}), func(m *Machine) { m.Domain = "z2" })}, []string{"0/7/0", "0/1/5"},
		},
		"pools keep machines apart": {
			[]Machine{m("a", one), with(m("b", pods(4, one)...), func(m *Machine) { m.Pool = "q" })}, []string{"0/7/0", "0/1/3"},
		},
		"unless a pod may use both": {
			[]Machine{m("a", Pod{Request: cores(1), Pools: []string{"p", "q"}}), with(m("b", pods(4, one)...), func(m *Machine) { m.Pool = "q" })}, []string{"7/0/0", "1/0/3"},
		},
		"a closed machine gives room only without rules": {
			[]Machine{m("a", one), with(m("b", pods(4, one)...), func(m *Machine) { m.Closed = true; m.Pods[0].Pinned = true })}, []string{"0/7/0", "0/1/3"},
		},
		"a closed machine can be emptied": {
			[]Machine{with(m("a", one), func(m *Machine) { m.Closed = true }), m("b", pods(4, one)...)}, []string{"7/0/0", "1/0/3"},
		},
		"the limit of pods is no rule that can be lifted": {
			[]Machine{with(m("a", one), func(m *Machine) { m.MaxPods = 1 }), with(m("b", one, one), func(m *Machine) { m.MaxPods = 2 })}, []string{"0/0/7", "0/0/6"},
		},
		"declared spare must fit elsewhere too": {
			[]Machine{with(m("a", one), func(m *Machine) { m.Spare = cores(2) }), m("b", pods(4, one)...)}, []string{"5/0/0", "3/0/1"},
		},
		"a machine with more pods than room has nothing free": {
			[]Machine{m("a", pods(9, one)...)}, []string{"0/0/0"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, l := range Repack(tc.fleet) {
				got = append(got, fmt.Sprintf("%d/%d/%d", l.Waiting[0]/1000, l.Constraint[0]/1000, l.Shape[0]/1000))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("waiting/constraint/shape (-want +got):\n%s", diff)
			}
		})
	}
}

func randomFleet(dice *rand.Rand, machines, podsOn int) []Machine {
	var fleet []Machine
	for i := range machines {
		m := Machine{Name: fmt.Sprintf("m%04d", i), Pool: fmt.Sprint("p", dice.Intn(3)), Domain: fmt.Sprint("z", dice.Intn(3)),
			Allocatable: cores(4 + dice.Int63n(28)), Closed: dice.Intn(10) == 0, MaxPods: dice.Intn(2) * 2 * podsOn}
		if dice.Intn(10) == 0 {
			m.Spare = cores(dice.Int63n(4))
		}
		for range dice.Intn(podsOn + 1) {
			p := Pod{Request: resource.Vector{dice.Int63n(2000), dice.Int63n(2 * resource.GiB), 0}, Pinned: dice.Intn(20) == 0, Daemon: dice.Intn(10) == 0}
			if dice.Intn(6) == 0 {
				p.Alone, p.Domains = fmt.Sprint("g", dice.Intn(20)), dice.Intn(3)
			}
			if dice.Intn(6) == 0 {
				p.Pools = []string{"p0", "p1"}
			}
			m.Pods = append(m.Pods, p)
		}
		fleet = append(fleet, m)
	}
	return fleet
}

// FuzzRepack holds labels to their laws: they add up to what is free, none is
// negative, the fleet is left as it was, the answer is the same twice, and
// without any rule nothing is stranded by one.
func FuzzRepack(f *testing.F) {
	for seed := range int64(40) {
		f.Add(seed, uint8(seed%30), uint8(seed%12))
	}
	f.Fuzz(func(t *testing.T, seed int64, machines, podsOn uint8) {
		dice := rand.New(rand.NewSource(seed))
		fleet := randomFleet(dice, int(machines%40), int(podsOn%20))
		before := fmt.Sprint(fleet)
		labels := Repack(fleet)
		if fmt.Sprint(fleet) != before {
			t.Fatal("the fleet was changed")
		}
		if !reflect.DeepEqual(labels, Repack(fleet)) {
			t.Fatal("the same fleet is labelled differently")
		}
		for i, m := range fleet {
			free := m.Allocatable.Sub(m.Spare)
			for _, p := range m.Pods {
				free = free.Sub(p.Request)
			}
			l := labels[i]
			if got := l.Waiting.Add(l.Constraint).Add(l.Shape); got != free.Max(resource.Vector{}) {
				t.Fatalf("labels of %s add up to %v, free is %v", m.Name, got, free)
			}
			if (resource.Vector{}) != l.Waiting.Min(l.Constraint).Min(l.Shape).Min(resource.Vector{}) {
				t.Fatalf("negative label %+v", l)
			}
		}
		for i := range fleet {
			m := &fleet[i]
			m.Pool, m.Closed = "p", false
			for n := range m.Pods {
				p := &m.Pods[n]
				p.Pools, p.Alone, p.Domains, p.Pinned = nil, "", 0, false
			}
		}
		waiting, constraint := int64(0), int64(0)
		for _, l := range Repack(fleet) {
			waiting, constraint = waiting+l.Waiting[0], constraint+l.Constraint[0]
		}
		if constraint > waiting {
			t.Fatalf("without rules %d are stranded by one, %d wait", constraint, waiting)
		}
	})
}

func BenchmarkRepack25k(b *testing.B) {
	dice := rand.New(rand.NewSource(1))
	fleet := randomFleet(dice, 1000, 50)
	for b.Loop() {
		Repack(fleet)
	}
}

func BenchmarkPick1000(b *testing.B) {
	dice := rand.New(rand.NewSource(1))
	var f Fleet
	for i, m := range randomFleet(dice, 1000, 50) {
		p := m.Pods
		f.Add(m)
		for n := range p {
			f.Bind(fmt.Sprint(i, "-", n), p[n], m.Name)
		}
	}
	for b.Loop() {
		f.Pick(Pod{Request: cores(1), Owner: "x"})
	}
}
