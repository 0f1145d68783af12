package colocation

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/neap-dev/neap/sim/autoscale"
)

// Cores of the machine of a series, and Line, the percentage of any machine that
// may be used.
const (
	Cores = 32
	Line  = 80
)

const day = 24 * 60 // minutes

// A Machine is what its online pods use, by the minute.
type Machine struct {
	Name   string
	From   time.Time
	Milli  float64   // what it has, in thousandths of a core
	Online []float64 // of which so much is used; NaN where nothing is known
	Test   int       // the first minute that counts
	Peak   float64   // 99.9th percentile of Online
	Unit   float64   // thousandths of a core to one unit of the series
}

// Prepare makes a machine of a series: scaled so that its 99.9th percentile is
// peak percent of the machine. At most days days count, after those to learn from;
// 0 means all.
func Prepare(s *autoscale.Series, peak float64, days int) (*Machine, error) {
	top := autoscale.Percentile(s.Value, 0.999)
	if !(top > 0) {
		return nil, fmt.Errorf("%s: the load is 0 nearly all the time; there is nothing to scale", s.Name)
	}
	m := &Machine{Name: s.Name, From: s.From, Milli: Cores * 1000, Online: slices.Clone(s.Value), Unit: Cores * 1000 * peak / 100 / top}
	m.Peak = top * m.Unit
	m.Test = autoscale.DefaultTrainDays(s) * day
	if len(m.Online) < m.Test+4*60 {
		return nil, fmt.Errorf("%s: the series covers %.1f days, and a replay needs at least four hours", s.Name, s.Days())
	}
	if days > 0 && len(m.Online) > m.Test+days*day {
		m.Online = m.Online[:m.Test+days*day]
	}
	for i := range m.Online {
		m.Online[i] = min(m.Online[i]*m.Unit, m.Milli)
	}
	return m, nil
}

func known(v float64) bool { return !math.IsNaN(v) }
