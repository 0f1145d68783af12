package forecast

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// A Series is demand over time: Values[i] is the mean over the Step that begins
// at Start + i·Step. NaN, infinite and negative values are values not known.
type Series struct {
	Start  time.Time
	Step   time.Duration // 1 to 60 minutes, whole minutes
	Values []float64
}

// End is the end of the last step.
func (s Series) End() time.Time {
	return s.Start.Add(time.Duration(len(s.Values)) * s.Step)
}

// Options say what to fit for.
type Options struct {
	// Horizon is how far ahead capacity must be asked for: the workload's own
	// start time and the delay of its metric. Zero means five minutes.
	Horizon time.Duration
	// Location is the zone in which days begin; nil means UTC.
	Location *time.Location
	// DayKind tells days apart that differ beyond working day and weekend, such
	// as "holiday" or "makeup". Nil, or an empty answer, means that Monday to
	// Friday are working days.
	DayKind func(day time.Time) string
	// Previous is the model that this one is to replace, if there is one: what
	// was learnt about the width of its band goes on.
	Previous *Model
}

// A Skill is why a model may be believed, or why not.
type Skill struct {
	Periodic    bool
	Period      time.Duration // a day or a week; 0 if not periodic
	Horizon     time.Duration // at which the losses were measured
	Loss        float64       // pinball loss of the model's quantiles, share of mean demand
	Naive       float64       // of the same minute one period ago with its own residuals
	Persistence float64       // of the last known value with its own residuals
	Coverage    float64       // share of rolling-origin forecasts inside their 90 % band
	Reason      string        // one sentence for people
}

const day = 24 * 60 // minutes

// A Model is what was learnt from one series. It is not safe for concurrent use.
type Model struct {
	skill    Skill
	horizon  int // minutes
	location *time.Location
	dayKind  func(time.Time) string

	origin int64     // the minute of value[0] since 1970
	value  []float64 // one a minute; NaN is not known
	log    []float32 // of value + small
	mean   float64   // of what is known
	small  float64   // demand that is next to nothing
	usual  float64   // demand at busy times
	// inertia is how much of what is above or below its analogue now stays so: 1
	// follows what is now, 0 what was then.
	inertia float64
	within  int // minutes around the time of the day in which the band's analogues lie

	slots []slot   // half hours from origin
	kinds []string // of days, by slot.kind
	views [3]view  // of one minute; of what to provide for; of a peak

	low, high side               // of the band
	pending   map[int]forecasted // by the minute they are about
}

// A slot is half an hour of a zone's clock.
type slot struct {
	kind   uint8
	offset int // of the zone from UTC, minutes
}

// Fit learns from the history. It never fails: too little, constant or
// senseless history gives a model without skill, whose Skill says why.
func Fit(history Series, opts Options) *Model {
	m := &Model{horizon: max(int(opts.Horizon/time.Minute), 0), location: opts.Location, dayKind: opts.DayKind, pending: map[int]forecasted{}}
	if opts.Horizon == 0 {
		m.horizon = 5
	}
	m.horizon = min(m.horizon, day/2)
	if m.location == nil {
		m.location = time.UTC
	}
	m.read(history)
	p := opts.Previous
	m.learn(p != nil && p.skill.Periodic)
	if p != nil && p.skill.Periodic && m.skill.Periodic && p.horizon == m.horizon {
		m.low, m.high = p.low, p.high
		for at, f := range p.pending { // each is judged by itself: order is of no matter
			if at += int(p.origin - m.origin); at >= len(m.value) {
				m.pending[at] = f
			}
		}
	}
	return m
}

// read puts the last days of the history onto the grid of minutes.
func (m *Model) read(h Series) {
	step := int(h.Step / time.Minute)
	if step < 1 || step > 60 {
		return
	}
	begin := floorMinute(h.Start)
	from := max(0, len(h.Values)-(memory*day+step-1)/step)
	for from < len(h.Values) && math.IsNaN(sane(h.Values[from])) {
		from++ // the history of a young workload is short, not full of gaps
	}
	m.origin = begin + int64(from*step)
	values := h.Values[from:]
	for i, v := range values {
		v = sane(v)
		next := math.NaN()
		if i+1 < len(values) {
			next = sane(values[i+1])
		}
		for j := range step {
			// Within a step the demand moves in a straight line.
			u := float64(j) / float64(step)
			switch {
			case j == 0 || next != next:
				m.value = append(m.value, v)
			default:
				m.value = append(m.value, v*(1-u)+next*u)
			}
		}
	}
	m.maskOutages()
	known := 0
	for _, v := range m.value {
		if v == v {
			m.mean += v
			known++
		}
	}
	m.mean /= max(float64(known), 1)
	m.small = 0.02*m.mean + 1e-12
	m.log = make([]float32, len(m.value), len(m.value)+day)
	for i, v := range m.value {
		m.log[i] = float32(math.Log(v + m.small))
	}
}

// sane is v, or NaN if it is no demand.
func sane(v float64) float64 {
	if !(v >= 0 && v < 1e150) {
		return math.NaN()
	}
	return v
}

func floorMinute(t time.Time) int64 {
	s := t.Unix()
	return (s - ((s%60)+60)%60) / 60
}

// maskOutages takes stretches of nothing for unknown where the same minutes of
// most other days have demand: then it was not the demand that was gone.
func (m *Model) maskOutages() {
	sum, n := 0.0, 0
	for _, v := range m.value {
		if v > 0 {
			sum += v
			n++
		}
	}
	if n == 0 {
		return
	}
	some := 0.1 * sum / float64(n)
	var mask []int
	for i, v := range m.value {
		if v != 0 {
			continue
		}
		with, without := 0, 0
		for j := i % day; j < len(m.value); j += day {
			switch {
			case m.value[j] > some:
				with++
			case m.value[j] == m.value[j]:
				without++
			}
		}
		if with >= 3*without {
			mask = append(mask, i)
		}
	}
	for _, i := range mask {
		m.value[i] = math.NaN()
	}
}

// slot returns the half hour of minute i.
func (m *Model) slot(i int) slot {
	n := i/30 + 1 // slots[0] is the half hour before value[0]
	if i < 0 {
		n = 0
	}
	for len(m.slots) <= n {
		t := time.Unix((m.origin+int64(len(m.slots)-1)*30)*60, 0).In(m.location)
		kind := ""
		if m.dayKind != nil {
			kind = m.dayKind(t)
		}
		if kind == "" {
			kind = "workday"
			if w := t.Weekday(); w == time.Saturday || w == time.Sunday {
				kind = "weekend"
			}
		}
		k := slices.Index(m.kinds, kind)
		if k < 0 {
			k = len(m.kinds)
			m.kinds = append(m.kinds, kind)
		}
		_, offset := t.Zone()
		m.slots = append(m.slots, slot{uint8(k), offset / 60})
	}
	return m.slots[n]
}

// Calibration returns of m what Options.Previous needs: a small model that may be
// used while m goes on observing elsewhere. Nil has none.
func (m *Model) Calibration() *Model {
	if m == nil {
		return nil
	}
	return &Model{skill: m.skill, horizon: m.horizon, origin: m.origin, low: m.low, high: m.high, pending: maps.Clone(m.pending)}
}

// Skill says whether the model may be believed, and why.
func (m *Model) Skill() Skill { return m.skill }

// Periodic reports whether the series repeats well enough to be forecast.
func (m *Model) Periodic() bool { return m.skill.Periodic }

// Observe tells the model the mean demand of the minute that begins at t. NaN
// says that it is not known. Values must come in order of time; one that is
// not later than the last is ignored, and after a gap longer than its memory
// the model knows nothing more.
func (m *Model) Observe(t time.Time, value float64) {
	if !m.skill.Periodic {
		return
	}
	i := int(floorMinute(t) - m.origin)
	if i < len(m.value) {
		return
	}
	if i > len(m.value)+memory*day {
		m.skill.Periodic = false
		m.skill.Reason = fmt.Sprintf("nothing is known of the %d days before %s", memory, t.UTC().Format(time.DateTime))
		return
	}
	for len(m.value) < i {
		m.value, m.log = append(m.value, math.NaN()), append(m.log, float32(math.NaN()))
	}
	value = sane(value)
	m.value, m.log = append(m.value, value), append(m.log, float32(math.Log(value+m.small)))
	m.judge(i, value)
	m.expect(i)
	if len(m.value) > (memory+2)*day {
		m.forget(day)
	}
}

// forget drops the oldest minutes, a whole number of days.
func (m *Model) forget(n int) {
	m.value, m.log = slices.Delete(m.value, 0, n), slices.Delete(m.log, 0, n)
	m.origin += int64(n)
	m.slots, m.views = m.slots[:0], [3]view{}
	moved := make(map[int]forecasted, len(m.pending))
	for at, f := range m.pending {
		moved[at-n] = f
	}
	m.pending = moved
}

// at returns the last minute that is known at t, and how many later t is.
func (m *Model) at(t time.Time) (s, late int, ok bool) {
	if !m.skill.Periodic || len(m.value) == 0 {
		return 0, 0, false
	}
	late = int(floorMinute(t)-m.origin) - len(m.value)
	return len(m.value) - 1, late, late > -day && late < day
}

// Quantile returns the tau-quantile of the demand in the minute that begins at
// t+horizon, as seen from t, when the minutes before t are known. ok is false
// when the model has no skill, or remembers nothing like that minute.
func (m *Model) Quantile(t time.Time, horizon time.Duration, tau float64) (demand float64, ok bool) {
	s, late, ok := m.at(t)
	if !ok {
		return 0, false
	}
	h := max(1, late+1+int(horizon/time.Minute))
	return m.between(s, h, h, tau)
}

// Peak returns the tau-quantile of the highest demand in the minutes that begin
// from t+from until before t+to, as seen from t. ok is false as for [Model.Quantile].
func (m *Model) Peak(t time.Time, from, to time.Duration, tau float64) (demand float64, ok bool) {
	s, late, ok := m.at(t)
	if !ok {
		return 0, false
	}
	a := max(1, late+1+int(from/time.Minute))
	return m.between(s, a, max(a, late+int(to/time.Minute)), tau)
}

// between returns the tau-quantile of what may come between a and b minutes after
// minute s.
func (m *Model) between(s, a, b int, tau float64) (demand float64, ok bool) {
	all := m.look(s, a, b, false)
	if len(all) == 0 {
		return 0, false
	}
	return m.band(all, tau), true
}

// Provide returns the capacity that is worth having in the minutes that begin
// from t+from until before t+to:
//
//	the c that makes c + ShortMinute · under/over · mean · P(highest demand > c) least
//
// where tau = [Newsvendor](under, over). Dear moments, when little more capacity
// avoids much risk, so get a higher quantile than cheap ones. ok is false as for
// [Model.Quantile].
func (m *Model) Provide(t time.Time, from, to time.Duration, tau float64) (capacity float64, ok bool) {
	s, late, ok := m.at(t)
	if !ok {
		return 0, false
	}
	a := max(1, late+1+int(from/time.Minute))
	all := m.look(s, a, max(a, late+int(to/time.Minute)), true)
	if len(all) == 0 {
		return 0, false
	}
	worth := ShortMinute * m.mean * tau / max(1-tau, 1e-9)
	total := 0.0
	for _, p := range all {
		total += p.weight
	}
	least, sum := math.Inf(1), 0.0
	for _, p := range all {
		sum += p.weight
		if cost := p.demand + worth*max(0, total-sum)/total; cost < least {
			least, capacity = cost, p.demand
		}
	}
	return capacity, true
}

// Usual returns the demand of busy times: nineteen minutes of twenty had less. It
// is 0 when the model has no skill.
func (m *Model) Usual() float64 { return m.usual }

// ShortMinute is how many minutes of the mean demand a minute counts for in
// which there is not capacity for all: who is turned away in it is slowed for
// longer, and so are those who are not.
const ShortMinute = 60

// Newsvendor is the quantile to provide for when a unit that is missing costs
// under and a unit that idles costs over:
//
//	tau = under / (under + over)
func Newsvendor(under, over float64) float64 {
	if !(under > 0) {
		return 0
	}
	if !(over > 0) {
		return 1
	}
	return under / (under + over)
}
