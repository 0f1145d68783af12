package gpu

import "slices"

// Resume returns the plan that is left: these moves, in this order, and these
// places in the situation as it is now, whatever a plan was made for. Of the moves
// the tenant, From, To, Demand and After count, of the places all; what they cost
// and come to is worked out anew. The error says why the rest works no more, or is
// not worth its cost any more.
func Resume(s *Situation, goal Goal, opts Options, moves []Move, places []Place) (Plan, error) {
	if err := s.validate(); err != nil {
		return Plan{}, err
	}
	if err := opts.validate(); err != nil {
		return Plan{}, err
	}
	p := Plan{Moves: slices.Clone(moves), Places: slices.Clone(places), Stopped: Done}
	o := opts.defaults()
	at := make([]Spot, len(s.Tenants))
	for i := range s.Tenants {
		at[i] = s.Tenants[i].Spot
	}
	for i := range p.Moves {
		m := &p.Moves[i]
		if m.Tenant < 0 || m.Tenant >= len(s.Tenants) || m.Demand < 0 || m.Demand >= len(s.Tenants[m.Tenant].Demands) ||
			m.To.Machine < 0 || m.To.Machine >= s.Fleet.Len() || m.From != at[m.Tenant] {
			return Plan{}, p.Verify(s, goal, opts) // says which is not there
		}
		t := &s.Tenants[m.Tenant]
		m.Seconds, m.Cost = t.Seconds, s.moveCost(t, &t.Demands[m.Demand], m.To.Machine, &o)
		at[m.Tenant] = m.To
	}
	for i := range s.Pending {
		if !slices.ContainsFunc(p.Places, func(a Place) bool { return a.Pending == i }) {
			p.Refused = append(p.Refused, i)
		}
	}
	for _, a := range p.Places {
		if a.Pending < 0 || a.Pending >= len(s.Pending) || a.Demand < 0 || a.Demand >= len(s.Pending[a.Pending]) || a.Spot.Machine < 0 || a.Spot.Machine >= s.Fleet.Len() {
			return Plan{}, p.Verify(s, goal, opts)
		}
	}
	for t := range at {
		if goal == Evacuate && slices.ContainsFunc(s.Leave, func(l Spot) bool { return at[t].on(l) }) {
			p.Left = append(p.Left, t)
		}
	}
	p.figures(s, goal, &o)
	if err := p.Verify(s, goal, opts); err != nil {
		return Plan{}, err
	}
	return p, nil
}
