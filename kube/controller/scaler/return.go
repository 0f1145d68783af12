package scaler

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/quality"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/kube/convert"
)

const (
	// returnShare is how much of the replicas moves at once: a part in so many, and one at least.
	returnShare = 20
	// returnRisk is what a move may cost beyond two replicas running for a start:
	// as much as the dear one costs in so long.
	returnRisk = 5 * time.Minute
	// returnGivesUp is how long new replicas may take to be ready.
	returnGivesUp = 15 * time.Minute
)

// returnTrip decides whether replicas move from a serverless pool to a cheaper
// one that has room, and changes what was said accordingly: more replicas while
// those that move are started, and fewer again once they are ready. What leaves
// then is the last pool's, by the order in which replicas leave. It is pure.
func returnTrip(seen *observation, said *verdict) {
	under := seen.Policy.Status.Returning
	from, to := -1, -1
	for i, p := range seen.Pools {
		switch {
		case p.Serverless && p.Pods > 0:
			from = i
		case !p.Serverless && (p.Room > 0 || under != nil && under.To == p.Name) && to < 0:
			to = i
		}
	}
	rule := seen.Policy.Spec.ScaleIn
	wants := rule == nil || rule.Return == nil || *rule.Return
	if !said.Acts || !wants || from < 0 || to < 0 || to > from || seen.Rollout || said.Desired != seen.Current-seen.surge() {
		return // what was started goes again, as the layers say
	}
	a, b := seen.Pools[from], seen.Pools[to]
	both := money.Amount(a.Price+b.Price).Scale(int64(max(b.Start, time.Second)), int64(time.Hour))
	in := elastic.ReturnInput{
		Now: seen.Now, PriceFrom: a.Price, PriceTo: b.Price,
		StartCost: both, Risk: a.Price.Scale(int64(returnRisk), int64(time.Hour)),
		RoomSince: seen.roomSince[b.Name], RoomUntil: seen.Class.Next,
		Held:  said.Gate != elastic.GateNone || seen.Guard != "" && seen.Guard != quality.Met || seen.GuardErr != nil,
		Surge: seen.surge(), NewReady: seen.Ready >= seen.Current,
	}
	step, why := elastic.Return(in)
	moves := in.Surge
	switch step {
	case elastic.ReturnSurge:
		moves = min(a.Pods, b.Room, max(1, said.Desired/returnShare))
		said.Returning = &v1alpha1.ReturningStatus{Replicas: int32(moves), From: a.Name, To: b.Name, Since: metav1.NewTime(seen.Now)}
	case elastic.ReturnWait:
		if seen.Now.Sub(under.Since.Time) > returnGivesUp {
			return
		}
		said.Returning = under
	case elastic.ReturnDrain:
		said.Moved = moves
		said.Reason += fmt.Sprintf("; %d moved from %s to %s", moves, a.Name, b.Name)
		return
	default:
		return
	}
	said.Desired += moves
	said.Reason += fmt.Sprintf("; %d more to move from %s to %s: %s", moves, a.Name, b.Name, why)
}

// surge is how many replicas are there only because they move.
func (seen *observation) surge() int {
	if r := seen.Policy.Status.Returning; r != nil {
		return min(int(r.Replicas), seen.Current)
	}
	return 0
}

// lookAtPrices finds what a replica costs in each pool, and since when there has
// been room. Without prices nothing is moved.
func (s *Scaler) lookAtPrices(w *world, st *state, seen *observation) {
	seen.roomSince = map[string]time.Time{}
	for i := range seen.Pools {
		p := &seen.Pools[i]
		since := st.roomSince[p.Name]
		switch {
		case p.Room == 0 || p.Room == elastic.None:
			delete(st.roomSince, p.Name)
			continue
		case since.IsZero() || since.After(w.now):
			st.roomSince[p.Name] = w.now
		}
		seen.roomSince[p.Name] = st.roomSince[p.Name]
	}
	if s.o.Prices == nil || !st.replica.known {
		return
	}
	book := s.o.Prices()
	for i := range seen.Pools {
		p := &seen.Pools[i]
		pool, ok := w.pools.Get(p.Name)
		if !ok || book == nil {
			continue
		}
		if pool.Kind == v1alpha1.PoolServerless {
			if price, err := book.At(pool.Type, st.replica.vector, w.now); err == nil {
				p.Price = money.Amount(price.Effective)
			}
			continue
		}
		for j := range w.nodes {
			if w.poolOf[w.nodes[j].Name] != p.Name {
				continue
			}
			m := convert.Machine(&w.nodes[j], w.pools)
			price, err := book.At(m.Type, m.Capacity, w.now)
			if err != nil {
				break
			}
			// The replica's part of the machine, resource by resource.
			shares := money.Split(money.Amount(price.Effective), price.Weights[:])
			for _, k := range resource.All {
				if m.Allocatable[k] > 0 {
					p.Price += shares[k].Scale(min(st.replica.vector[k], m.Allocatable[k]), m.Allocatable[k])
				}
			}
			break
		}
	}
}
