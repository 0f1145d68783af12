package leaver

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/neap-dev/neap/core/elastic"
)

// pods returns ready pods with their right costs, as many as said in each of three pools.
func pods(perPool ...int) []Pod {
	var out []Pod
	for rank, n := range perPool {
		for i := range n {
			name := fmt.Sprintf("p%d-%02d", rank, i)
			out = append(out, Pod{
				UID: types.UID(name), Name: name, Revision: "a", Rank: rank, Bound: true, Ready: true,
				Cost: fmt.Sprint(elastic.DeletionCost(rank, 3, 0.5)), Fullness: 0.5,
			})
		}
	}
	return out
}

func without(all []Pod, names ...string) []Pod {
	return slices.DeleteFunc(slices.Clone(all), func(p Pod) bool { return slices.Contains(names, p.Name) })
}

func TestDecide(t *testing.T) {
	change := func(all []Pod, name string, f func(*Pod)) []Pod {
		all = slices.Clone(all)
		for i := range all {
			if all[i].Name == name {
				f(&all[i])
			}
		}
		return all
	}
	gated := func(all []Pod) []Pod {
		all = slices.Clone(all)
		for i := range all {
			all[i].Gated = true
		}
		return all
	}
	none := map[string]int32{}
	all := pods(1, 1, 2)
	cases := map[string]struct {
		looks []Observation // one after the other; the last counts
		want  Verdict
	}{
		"nothing happens": {
			[]Observation{{Pools: 3, Desired: 4, Pods: all}, {Pools: 3, Desired: 4, Pods: all}},
			Verdict{Costs: none},
		},
		"a bound pod without a cost gets one, a pod without a machine does not": {
			[]Observation{{Pools: 3, Desired: 2, Pods: []Pod{{Name: "new", UID: "new", Rank: 3}, {Name: "bound", UID: "bound", Rank: 1, Bound: true}}}},
			Verdict{Costs: map[string]int32{"bound": 1000}},
		},
		"a cost of the same pool is not written again": {
			[]Observation{{Pools: 3, Desired: 4, Pods: change(all, "p1-00", func(p *Pod) { p.Fullness = 0.9 })}},
			Verdict{Costs: none},
		},
		"a cost of another order is": {
			[]Observation{{Pools: 3, Desired: 4, Pods: change(all, "p1-00", func(p *Pod) { p.Rank = 0 })}},
			Verdict{Costs: map[string]int32{"p1-00": 2499}},
		},
		"a pod that is the next to go by somebody's decision stays so": {
			[]Observation{{Pools: 3, Desired: 4, Pods: change(all, "p0-00", func(p *Pod) { p.Cost = "-2147483648" })}},
			Verdict{Costs: none},
		},
		"a StatefulSet has no costs": {
			[]Observation{{Pools: 3, Stateful: true, Desired: 1, Pods: []Pod{{Name: "db-0", UID: "0", Bound: true}}}},
			Verdict{Costs: none},
		},
		"a scale-in in order": {
			[]Observation{{Pools: 3, Desired: 4, Pods: all}, {Pools: 3, Desired: 2, Pods: all}, {Pools: 3, Desired: 2, Pods: pods(1, 1, 0)}},
			Verdict{Costs: none, Judged: 2},
		},
		"a scale-in that is seen before it is decided": {
			[]Observation{{Pools: 3, Desired: 4, Pods: all}, {Pools: 3, Desired: 4, Pods: pods(1, 1, 0)}, {Pools: 3, Desired: 2, Pods: pods(1, 1, 0)}},
			Verdict{Costs: none, Judged: 2},
		},
		"a scale-in out of order": {
			[]Observation{{Pools: 3, Desired: 4, Pods: all}, {Pools: 3, Desired: 2, Pods: without(all, "p0-00", "p2-00")}},
			Verdict{Costs: none, Judged: 2, Violations: 1, Reason: "p0-00 left while p2-01 of a dearer pool stayed"},
		},
		"who was evicted did not leave by the order": {
			[]Observation{
				{Pools: 3, Desired: 4, Pods: all},
				{Pools: 3, Desired: 4, Pods: without(all, "p0-00"), Disrupted: []types.UID{"p0-00"}},
				{Pools: 3, Desired: 3, Pods: without(all, "p0-00")},
			},
			Verdict{Costs: none},
		},
		"who was replaced neither": {
			[]Observation{
				{Pools: 3, Desired: 4, Pods: all},
				{Pools: 3, Desired: 4, Pods: without(all, "p0-00")},
				{Pools: 3, Desired: 4, Pods: append(without(all, "p0-00"), Pod{Name: "p0-10", UID: "p0-10", Revision: "a", Rank: 3})},
			},
			Verdict{Costs: none},
		},
		"a rollout is not judged": {
			[]Observation{
				{Pools: 3, Desired: 4, Pods: all},
				{Pools: 3, Desired: 2, Pods: change(without(all, "p0-00", "p1-00"), "p2-00", func(p *Pod) { p.Revision = "b" })},
			},
			Verdict{Costs: none, Rollout: true},
		},
		"a StatefulSet leaves by ordinal": {
			[]Observation{
				{Pools: 1, Stateful: true, Desired: 3, Pods: []Pod{{Name: "db-0", UID: "0"}, {Name: "db-1", UID: "1", Ordinal: 1}, {Name: "db-2", UID: "2", Ordinal: 2}}},
				{Pools: 1, Stateful: true, Desired: 2, Pods: []Pod{{Name: "db-0", UID: "0"}, {Name: "db-2", UID: "2", Ordinal: 2}}},
			},
			Verdict{Costs: none, Judged: 1, Violations: 1, Reason: "db-1 left while db-2 with a higher ordinal stayed"},
		},
		"those that leave next are cut off": {
			[]Observation{{Pools: 3, Desired: 4, Leaving: 3, Pods: gated(all)}},
			Verdict{Costs: none, Shut: []string{"p2-00", "p2-01", "p1-00"}},
		},
		"and stay so": {
			[]Observation{{Pools: 3, Desired: 4, Leaving: 1, Pods: change(gated(all), "p2-01", func(p *Pod) { p.CutOff, p.Ready = true, false })}},
			Verdict{Costs: none},
		},
		"when the guard breaks they come back": {
			[]Observation{{Pools: 3, Desired: 4, Pods: change(gated(all), "p2-01", func(p *Pod) { p.CutOff, p.Ready = true, false })}},
			Verdict{Costs: none, Open: []string{"p2-01"}},
		},
		"when they are about to be deleted they do not": {
			[]Observation{{Pools: 3, Desired: 3, Pods: change(gated(all), "p2-01", func(p *Pod) { p.CutOff, p.Ready = true, false })}},
			Verdict{Costs: none},
		},
		"a rollout begins, and they come back": {
			[]Observation{{Pools: 3, Desired: 4, Leaving: 1, Pods: append(change(gated(all), "p2-01", func(p *Pod) { p.CutOff, p.Ready = true, false }), Pod{Name: "new", UID: "new", Revision: "b"})}},
			Verdict{Costs: none, Open: []string{"p2-01"}, Rollout: true},
		},
		"pods without the gate cannot be cut off, and it is said": {
			[]Observation{{Pools: 3, Desired: 4, Leaving: 2, Pods: all}},
			Verdict{Costs: none, Ungated: 2},
		},
		"a gate that nobody has opened is opened": {
			[]Observation{{Pools: 3, Desired: 4, Pods: change(gated(all), "p0-00", func(p *Pod) { p.Undecided = true })}},
			Verdict{Costs: none, Open: []string{"p0-00"}},
		},
		"what a provider refuses is made anew where the plan has a place for it": {
			[]Observation{{Pools: 3, Desired: 4, Planned: map[int]int{0: 2, 1: 1, 2: 1}, Pods: change(change(all, "p2-00", func(p *Pod) { p.Refused = true }), "p2-01", func(p *Pod) { p.Refused = true })}},
			Verdict{Costs: none, Drop: []string{"p2-00"}},
		},
		"where somebody else orders the pods, nothing is written": {
			[]Observation{{Pools: 3, Desired: 4, Rival: "theirs", Pods: []Pod{{Name: "bound", UID: "bound", Rank: 1, Bound: true}}}},
			Verdict{Costs: none},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var s State
			var v Verdict
			for _, seen := range tc.looks {
				v, s = Decide(seen, s)
			}
			if diff := cmp.Diff(tc.want, v); diff != "" {
				t.Errorf("verdict (-want +got):\n%s", diff)
			}
		})
	}
}
