package forecast

import "math"

// A side is how far one end of the band is moved, in units of its own width, so
// that demand lies beyond it as often as it should (adaptive conformal inference).
type side struct{ shift float64 }

const (
	beyond = 0.05 // share of the demand beyond each end
	learns = 0.03 // how fast a shift follows what is seen
	narrow = 0.02 // the least width, as a share of the median
)

// A forecasted is a band, as it was corrected when it was foretold, that is to be
// judged.
type forecasted struct{ low, high float64 }

// band returns the quantile of samples, corrected. However it is moved, an end
// stays on its side of the median.
func (m *Model) band(all []sample, tau float64) float64 {
	q, mid := quantile(all, tau), quantile(all, 0.5)
	switch {
	case tau < 0.5:
		return max(0, min(q-m.low.shift*m.width(q, mid)*min(1, (0.5-tau)/(0.5-beyond)), mid))
	case tau > 0.5:
		return max(mid, q+m.high.shift*m.width(q, mid)*min(1, (tau-0.5)/(0.5-beyond)))
	}
	return q
}

// width is the unit in which the end at q is moved.
func (m *Model) width(q, mid float64) float64 {
	return max(math.Abs(q-mid), narrow*(mid+m.small))
}

// expect notes what the model expects, seen from minute s.
func (m *Model) expect(s int) {
	all := m.look(s, m.horizon+1, m.horizon+1, false)
	if len(all) == 0 {
		return
	}
	m.pending[s+m.horizon+1] = forecasted{m.band(all, beyond), m.band(all, 1-beyond)}
}

// judge compares what came with what was expected.
func (m *Model) judge(i int, value float64) {
	f, ok := m.pending[i]
	delete(m.pending, i)
	if !ok || value != value {
		return
	}
	m.low.learn(value < f.low)
	m.high.learn(value > f.high)
}

func (s *side) learn(outside bool) {
	if outside {
		s.shift += learns * (1 - beyond)
	} else {
		s.shift -= learns * beyond
	}
	s.shift = min(max(s.shift, -2), 20)
}
