package forecast

import (
	"math"
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

// A Model is what was learnt from one series. It is not safe for concurrent use.
type Model struct {
	skill Skill
	step  time.Duration
	last  float64
}

// Fit learns from the history. It never fails: too little, constant or
// senseless history gives a model without skill, whose Skill says why.
func Fit(history Series, opts Options) *Model {
	return &Model{skill: Skill{Horizon: opts.Horizon, Reason: "nothing learnt yet"}, step: history.Step, last: math.NaN()}
}

// Skill says whether the model may be believed, and why.
func (m *Model) Skill() Skill { return m.skill }

// Periodic reports whether the series repeats well enough to be forecast.
func (m *Model) Periodic() bool { return m.skill.Periodic }

// Observe tells the model the mean demand of the minute that begins at t. NaN
// says that it is not known. Values must come in order of time; one that is
// not later than the last is ignored.
func (m *Model) Observe(t time.Time, value float64) { m.last = value }

// Quantile returns the tau-quantile of the demand in the minute that begins at
// t+horizon, as seen from t. ok is false when the model has no skill.
func (m *Model) Quantile(t time.Time, horizon time.Duration, tau float64) (demand float64, ok bool) {
	return 0, false
}

// Peak returns the tau-quantile of the highest demand in the minutes from
// t+from to t+to, as seen from t. ok is false when the model has no skill.
func (m *Model) Peak(t time.Time, from, to time.Duration, tau float64) (demand float64, ok bool) {
	return 0, false
}

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
