package gpu

// perSpare is what it weighs to take away room for large demands if the whole mix
// were of them, in points of the spared scorer's: of [Neap] and [Fragmentation] a
// hundred are the most that fragments can.
const perSpare = 1_500

// A Spare is a scorer that spares what only few machines have: room for demands of
// several devices. Where pods come and go, small ones would take every machine that
// a large one leaves, and the large ones would starve. What a spot takes away from
// a larger demand weighs against it by that demand's part of the mix's milli.
//
// It wraps [Neap]. Where nothing ever leaves it is of no use.
type Spare struct {
	scorer Scorer
	large  []Share // of several devices; the count is the weight
}

// NewSpare returns the scorer for these shares of demands.
func NewSpare(scorer Scorer, shares []Share) *Spare {
	s := &Spare{scorer: scorer}
	var all int64
	for _, c := range shares {
		all = plus(all, max(0, c.Count)*c.Demand.GPU())
	}
	for _, c := range shares {
		if c.Demand.Devices > 1 && c.Count > 0 && c.Demand.Validate() == nil {
			c.Count = mulDiv(perSpare*tieBase, c.Count*c.Demand.GPU(), all)
			s.large = append(s.large, c)
		}
	}
	return s
}

// Score implements [Scorer].
func (s *Spare) Score(m *Machine, d *Demand) (int64, Devices) {
	score, on := s.scorer.Score(m, d)
	after := *m
	after.take(d, on)
	for i := range s.large {
		l := &s.large[i].Demand
		if l.GPU() > d.GPU() && m.Fits(l) && !after.Fits(l) {
			score -= s.large[i].Count
		}
	}
	return score, on
}
