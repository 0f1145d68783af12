package leaver

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/neap-dev/neap/core/elastic"
)

// A Pod is one replica as it was last seen before it began to leave.
type Pod struct {
	UID      types.UID
	Name     string
	Revision string // such as the hash of its template
	Ordinal  int    // of a StatefulSet's pod, else 0
	Rank     int    // of its pool; as many as there are pools for a pod outside of all
	Fullness float64
	Bound    bool
	Ready    bool
	Cost     string // of its deletion; "" is none

	Refused   bool // its provider does not create it
	Gated     bool // it has the gate neap.dev/serving
	CutOff    bool // the gate is false
	Undecided bool // the gate is neither: it was not opened yet
}

// An Observation is what is known of one policy's pods now.
type Observation struct {
	Pools    int // that the policy names
	Stateful bool
	Desired  int // replicas, as the scaler decided
	Leaving  int // replicas that are to leave, as the scaler decided
	Pods     []Pod
	Planned  map[int]int // replicas, by rank of the pool
	// Disrupted are pods, of these or already leaving, that somebody takes away by
	// name: evicted, preempted, or on a machine that goes.
	Disrupted []types.UID
	Rival     string // who else orders the pods; "" if nobody
}

// A State is what is remembered between two looks. The zero State begins anew.
type State struct {
	begun   bool
	desired int                // when the pods were as many as desired
	present map[types.UID]Pod  // the pods of the last look
	left    []Pod              // that left since they were as many as desired, but for those disrupted
	late    map[types.UID]bool // that came since the first of them left
	not     map[types.UID]bool // disrupted
}

// A Verdict is what to do.
type Verdict struct {
	Costs map[string]int32 // by name of pod: to be written
	Shut  []string         // pods to be cut off from traffic
	Open  []string         // pods to get traffic
	Drop  []string         // pods that no provider creates, to be made anew elsewhere

	Judged     int // replicas that left in a scale-in that has ended now
	Violations int
	Reason     string // of the first violation
	Ungated    int    // pods that are to be cut off and cannot, for want of the gate
	Rollout    bool
}

// Decide says what to do about what was seen, and what to remember. It is pure.
func Decide(seen Observation, was State) (Verdict, State) {
	v := Verdict{Costs: map[string]int32{}, Rollout: rollout(seen.Pods, was.left)}
	next := was.follow(seen)

	// 1. Gates that nobody has opened yet: a pod is not ready before they are.
	for _, p := range seen.Pods {
		if p.Undecided && p.Bound {
			v.Open = append(v.Open, p.Name)
		}
	}
	if seen.Rival != "" {
		for _, p := range seen.Pods {
			if p.CutOff {
				v.Open = append(v.Open, p.Name)
			}
		}
		next.settle(seen)
		return v, next
	}

	// 2. Costs.
	if !seen.Stateful && seen.Pools > 0 {
		for _, p := range seen.Pods {
			want := elastic.DeletionCost(p.Rank, seen.Pools, p.Fullness)
			if p.Bound && !sameRank(p.Cost, want) {
				v.Costs[p.Name] = want
			}
		}
	}

	// 3. The cut-off: those that leave next, and among equals those that are cut
	// off already. Whoever is not to leave comes back, unless the pods are still
	// too many and about to be deleted.
	leaving := map[types.UID]bool{}
	if seen.Leaving > 0 && !v.Rollout {
		next := slices.Clone(seen.Pods)
		slices.SortFunc(next, func(a, b Pod) int { return before(a, b, seen.Stateful) })
		for _, p := range next[:min(seen.Leaving, len(next))] {
			leaving[p.UID] = true
			switch {
			case !p.Gated:
				v.Ungated++
			case !p.CutOff:
				v.Shut = append(v.Shut, p.Name)
			}
		}
	}
	for _, p := range seen.Pods {
		if p.CutOff && !leaving[p.UID] && (seen.Leaving > 0 || len(seen.Pods) <= seen.Desired) {
			v.Open = append(v.Open, p.Name)
		}
	}

	// 4. Those that a provider refuses and the plan has elsewhere.
	surplus := map[int]int{}
	for _, p := range seen.Pods {
		if p.Bound {
			surplus[p.Rank]++
		}
	}
	for _, p := range seen.Pods {
		if plan, ok := seen.Planned[p.Rank]; ok && p.Refused && surplus[p.Rank] > plan {
			v.Drop = append(v.Drop, p.Name)
			surplus[p.Rank]--
		}
	}

	// 5. The check.
	switch {
	case v.Rollout || !next.begun:
		next.settle(seen)
	case len(seen.Pods) == seen.Desired:
		fewer := next.desired - seen.Desired
		// Where more left than there are fewer, some were replaced: nobody's choice.
		if fewer > 0 && len(next.left) == fewer {
			v.Judged = fewer
			var stayed []elastic.Leaver
			for _, p := range seen.Pods {
				if !next.late[p.UID] {
					stayed = append(stayed, leaver(p))
				}
			}
			var gone []elastic.Leaver
			for _, p := range next.left {
				gone = append(gone, leaver(p))
			}
			v.Violations, v.Reason = elastic.Judge(gone, stayed, seen.Stateful)
		}
		next.settle(seen)
	}
	return v, next
}

// follow returns the state with the pods as they are now.
func (s State) follow(seen Observation) State {
	out := State{
		begun: s.begun, desired: s.desired, present: make(map[types.UID]Pod, len(seen.Pods)),
		late: map[types.UID]bool{}, not: map[types.UID]bool{},
	}
	maps.Copy(out.not, s.not)
	for _, uid := range seen.Disrupted {
		out.not[uid] = true
	}
	for _, p := range seen.Pods {
		out.present[p.UID] = p
	}
	for _, p := range s.left {
		if !out.not[p.UID] {
			out.left = append(out.left, p)
		}
	}
	for uid, p := range s.present {
		if _, there := out.present[uid]; !there && !out.not[uid] {
			out.left = append(out.left, p)
		}
	}
	slices.SortFunc(out.left, func(a, b Pod) int { return strings.Compare(a.Name, b.Name) })
	for uid := range out.present {
		_, known := s.present[uid]
		if s.late[uid] || !known && len(out.left) > 0 {
			out.late[uid] = true
		}
	}
	return out
}

// settle begins anew with the pods as they are.
func (s *State) settle(seen Observation) {
	s.begun, s.desired, s.left, s.late, s.not = true, seen.Desired, nil, nil, nil
}

// rollout reports whether pods of two revisions are there.
func rollout(groups ...[]Pod) bool {
	first := ""
	for _, pods := range groups {
		for _, p := range pods {
			if p.Revision == "" {
				continue
			}
			if first == "" {
				first = p.Revision
			}
			if p.Revision != first {
				return true
			}
		}
	}
	return false
}

// before orders pods as they leave: what is not ready first, then the last pool,
// then the emptiest node; of a StatefulSet the highest ordinal.
func before(a, b Pod, stateful bool) int {
	if stateful {
		return cmp.Compare(b.Ordinal, a.Ordinal)
	}
	return cmp.Or(
		cmp.Compare(number(a.Ready || a.CutOff), number(b.Ready || b.CutOff)),
		cmp.Compare(b.Rank, a.Rank),
		-cmp.Compare(number(a.CutOff), number(b.CutOff)),
		cmp.Compare(cost(a.Cost), cost(b.Cost)),
		strings.Compare(a.Name, b.Name),
	)
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// cost reads what Kubernetes reads: nonsense is 0.
func cost(s string) int32 {
	var n int32
	if _, err := fmt.Sscanf(s, "%d", &n); err != nil {
		return 0
	}
	return n
}

// sameRank reports whether a written cost says the same pool as another; the node
// may have become fuller or emptier since, which is no reason to write again. The
// lowest cost of all says that somebody has decided that this pod goes next, such
// as the repacker, and is left alone.
func sameRank(written string, want int32) bool {
	return written != "" && (cost(written)/1000 == want/1000 || cost(written) == math.MinInt32)
}

func leaver(p Pod) elastic.Leaver {
	return elastic.Leaver{Name: p.Name, Rank: p.Rank, Ready: p.Ready || p.CutOff, Ordinal: p.Ordinal}
}
