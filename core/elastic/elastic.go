package elastic

import (
	"fmt"
	"math"
	"time"

	"github.com/neap-dev/neap/core/quality"
)

// A Layer is who wants a number of replicas.
type Layer string

// The layers, in the order in which claims are listed; of equal claims the first
// wins. LayerBounds are the policy's Min and Max; LayerHold is what keeps replicas
// that no layer wants.
const (
	LayerManual    Layer = "manual"
	LayerCron      Layer = "cron"
	LayerTimetable Layer = "timetable"
	LayerReactive  Layer = "reactive"
	LayerPanic     Layer = "panic"
	LayerForecast  Layer = "forecast"
	LayerBounds    Layer = "bounds"
	LayerHold      Layer = "hold"
)

// None is the Floor or Cap of a claim that says nothing about it.
const None = -1

// A Claim is what one layer wants now.
type Claim struct {
	Layer Layer
	Name  string // of the layer's entry, if it has one

	Floor int  // the fewest replicas; None says nothing
	Cap   int  // the most replicas; None says nothing
	Hard  bool // the cap wins over every floor; a soft one only over what is measured or foretold
	Pin   bool // Floor is the number of replicas, whatever the others say

	Until  time.Time // when it ends; zero means that this is not known
	Reason string    // a clause that says why, such as "cron evening has a floor of 30"
}

// A ManualEntry is what a person decided.
type ManualEntry struct {
	Name            string
	Pin, Floor, Cap int // exactly one is not None
	From, Until     time.Time
	Reason, By      string
}

// At returns the entry's claim, if it holds at t.
func (m ManualEntry) At(t time.Time) (c Claim, ok bool) {
	if t.Before(m.From) || !m.Until.IsZero() && !t.Before(m.Until) {
		return Claim{}, false
	}
	c = Claim{Layer: LayerManual, Name: m.Name, Floor: m.Floor, Cap: m.Cap, Hard: true, Until: m.Until}
	by := m.By
	if by == "" {
		by = "somebody"
	}
	switch {
	case m.Pin != None:
		c.Floor, c.Pin = m.Pin, true
		c.Reason = fmt.Sprintf("%s pinned it to %d", by, m.Pin)
	case m.Floor != None:
		c.Reason = fmt.Sprintf("%s set a floor of %d", by, m.Floor)
	default:
		c.Reason = fmt.Sprintf("%s set a cap of %d", by, m.Cap)
	}
	if !m.Until.IsZero() {
		c.Reason += " until " + clock(m.Until)
	}
	if m.Reason != "" {
		c.Reason += " (" + m.Reason + ")"
	}
	return c, true
}

// A Policy is what the operator declared. Validate tells what is wrong with one;
// Defaults returns one with the house's own choices.
type Policy struct {
	Min, Max int // nothing but a pin goes beyond Max

	// Unit is how much demand one replica is to be given: what it carries times
	// the target. 0 means that demand is not known, so that forecast and timetable
	// say nothing.
	Unit float64
	// Carries is how much demand one replica carries when fully used; 0 means Unit.
	Carries float64

	Manual    []ManualEntry // of several pins that hold the last counts
	Schedules []Schedule
	Calendar  Calendar // nil: Saturdays and Sundays are weekends, the rest workdays

	Reactive Reactive
	Forecast ForecastRule
	ScaleIn  ScaleIn
}

// A ForecastRule bounds what a forecast may do.
type ForecastRule struct {
	MaxLift   float64       // × what the load needs, now or at its usual busy times, outside of classes; 0 means 3
	Tolerance Tolerance     // a change smaller than this is not made
	Stabilize time.Duration // how long it must have been lower before replicas go; 0: not at all
}

// Defaults returns a policy of min to max replicas with the house's own choices:
// HPA's, but a tolerance of 7 % up and 10 % down, and the panic rule. (With 5 % up a
// load that nobody can forecast costs up to 2.7 % more than with HPA's 10 %.)
func Defaults(min, max int) Policy {
	return Policy{
		Min: min, Max: max,
		Reactive: Reactive{
			Tolerance: Tolerance{Up: 0.07, Down: 0.10},
			Up: Behavior{Rates: []Rate{
				{Pods: 4, Period: 15 * time.Second},
				{Share: 1, Period: 15 * time.Second},
			}},
			Down:        Behavior{Stabilize: 5 * time.Minute},
			PanicShare:  2,
			PanicWindow: time.Minute,
		},
		Forecast: ForecastRule{MaxLift: 3},
		ScaleIn:  ScaleIn{HoldIfNeededWithin: 10 * time.Minute},
	}
}

// Validate says in one sentence what is wrong with p, if anything.
func (p Policy) Validate() error {
	switch {
	case p.Min < 0 || p.Max < max(p.Min, 1) || p.Max > most:
		return fmt.Errorf("the bounds are %d to %d; min must be 0 or more, and max 1 or more, not below min and at most %d", p.Min, p.Max, most)
	case !known(p.Unit):
		return fmt.Errorf("one replica is given %v of the demand; it must be above 0, or 0 if demand is not measured", p.Unit)
	case p.Carries != 0 && !(known(p.Carries) && p.Carries >= p.Unit):
		return fmt.Errorf("one replica carries %v and is given %v of it; the first must not be less", p.Carries, p.Unit)
	case p.Forecast.MaxLift != 0 && !(p.Forecast.MaxLift >= 1 && known(p.Forecast.MaxLift)):
		return fmt.Errorf("maxLift is %v; it must be 1 or more", p.Forecast.MaxLift)
	case p.Forecast.Stabilize < 0:
		return fmt.Errorf("the forecast is stabilised for %v; it must not be below 0", p.Forecast.Stabilize)
	}
	names := map[string]bool{}
	for _, m := range p.Manual {
		set := 0
		for _, n := range []int{m.Pin, m.Floor, m.Cap} {
			if n != None {
				set++
			}
			if n < None || n > most {
				return fmt.Errorf("manual %q names %d replicas; it must be between 0 and %d", m.Name, n, most)
			}
		}
		if set != 1 {
			return fmt.Errorf("manual %q must have exactly one of pin, floor and cap", m.Name)
		}
		if !m.Until.IsZero() && !m.From.Before(m.Until) {
			return fmt.Errorf("manual %q ends before it begins; from must be before until", m.Name)
		}
		if names[m.Name] {
			return fmt.Errorf("manual %q is there twice; give each entry a name of its own", m.Name)
		}
		names[m.Name] = true
	}
	clear(names)
	for _, s := range p.Schedules {
		if err := s.Validate(); err != nil {
			return err
		}
		if names[s.Name] {
			return fmt.Errorf("cron %q is there twice; give each entry a name of its own", s.Name)
		}
		names[s.Name] = true
	}
	if err := p.Forecast.Tolerance.validate("the forecast"); err != nil {
		return err
	}
	if err := p.Reactive.validate(); err != nil {
		return err
	}
	return p.ScaleIn.validate()
}

// A Class is what the timetable says now, in the unit of demand.
type Class struct {
	Demand float64   // what must be ready at the horizon; NaN or 0 says nothing
	In     bool      // a class is on, or its students are about to come: MaxLift does not hold
	Ended  time.Time // when the last class ended; the load of before is no reason to wait
	Next   time.Time // when the next demand begins; zero: none known
	Needs  float64   // what it will need
	Reason string    // a clause that names the classes
}

// near reports whether there are classes about: one is on, the last has ended not
// long ago, or the next is known.
func (c Class) near() bool { return c.In || !c.Ended.IsZero() || !c.Next.IsZero() }

// A Forecast is what is foretold now, in the unit of demand. 0 and NaN say nothing.
type Forecast struct {
	Demand float64 // what must be ready at the horizon
	Return float64 // the most that may come back within the stabilisation: what was higher is over
	Soon   float64 // what is to be expected within ScaleIn.HoldIfNeededWithin
	Usual  float64 // demand at the busy times: MaxLift counts from it where the load needs less
	Reason string  // a clause: what it rests on

	// Announced counts instead of Demand and Return, if it is above 0, while
	// classes are near: what comes at once then comes with them, and their own
	// floor provides for it.
	Announced float64
}

// An Input is what was seen of one workload in one minute.
type Input struct {
	Policy  Policy
	Now     time.Time
	Current int // replicas that it asks for
	Ready   int // of these, those that are ready

	Metrics  []Metric // empty: the policy follows none
	Class    Class
	Forecast Forecast

	Rollout bool           // two revisions are there: nothing is taken away
	Guard   quality.Status // empty: there is no guard; Unknown: a target could not be judged
	State   State          // Next of the last decision; the zero State begins anew
}

// A Decision is how many replicas a workload should have, and why.
type Decision struct {
	Desired int     // what to ask for
	Wanted  int     // what the layers want, before the gates of scale-in
	Soon    int     // the most that is known to be wanted within ScaleIn.HoldIfNeededWithin
	Winner  Layer   // who decided Desired
	Name    string  // the winner's entry, if it has one
	Reason  string  // one sentence
	ByLayer []Claim // what every layer said, in the order of the layers

	Gate   Gate  // why not all that no layer wants is taken away; GateNone if it is
	Stage  Stage // of the scale-in
	CutOff int   // how many of the replicas that leave next are to get no traffic

	Next State // to be handed to the next decision
}

// A State is what a decision must know of the ones before. Losing it costs a
// stabilisation window, not a different end.
type State struct {
	At      time.Time // of the last decision
	Current int       // what it saw
	Desired int       // what it said

	Reactive History
	Foretold []Recommendation // oldest first
	ScaleIn  Progress
}

// Decide decides for one workload and one minute. It is pure, and asked again
// with what it answered it answers the same.
func Decide(in Input) Decision {
	// 1. What was before, as far as the clock lets us believe it.
	before := in.State.believed(in)
	if in.Forecast.Announced > 0 && in.Class.near() {
		in.Forecast.Demand, in.Forecast.Return = in.Forecast.Announced, in.Forecast.Announced
	}
	next := State{At: in.Now, Current: in.Current}

	// 2. What every layer wants.
	claims, seen := in.declared(), in.measured(before)
	next.Reactive, next.Foretold = seen.next, seen.foretold
	claims = append(claims, seen.claims...)
	claims = append(claims, Claim{
		Layer: LayerBounds, Floor: in.Policy.Min, Cap: in.Policy.Max, Hard: true,
		Reason: fmt.Sprintf("the policy allows %d to %d", in.Policy.Min, in.Policy.Max),
	})

	// 3. The highest floor, below the caps.
	won, hard := settle(claims)
	d := Decision{Desired: won.Floor, Wanted: won.Floor, Soon: min(in.soon(), hard.Cap), Winner: won.Layer, Name: won.Name, ByLayer: claims}

	// 4. Nothing goes but what the gates let go. A person's pin and hard caps are
	// not asked to wait.
	switch {
	case won.Floor < in.Current && !won.Pin:
		d.leave(in, before, seen, hard, &next.ScaleIn)
	case before.ScaleIn.Stage == StageRollback:
		next.ScaleIn = before.ScaleIn // its time goes on
	}
	switch {
	case d.Gate == GateNone || d.Desired <= won.Floor:
	case d.Desired == hard.Cap && hard.Cap < in.Current:
		d.Winner, d.Name = hard.Layer, hard.Name
	default:
		d.Winner, d.Name = LayerHold, ""
	}

	// 5. Why.
	d.explain(in, won, hard, seen.gone)
	next.Desired = d.Desired
	d.Next = next
	return d
}

// declared returns the claims that rest on no measurement.
func (in Input) declared() []Claim {
	var claims []Claim
	for _, m := range in.Policy.Manual {
		if c, ok := m.At(in.Now); ok {
			claims = append(claims, c)
		}
	}
	for _, s := range in.Policy.Schedules {
		if c, ok := s.At(in.Now, in.Policy.Calendar); ok {
			claims = append(claims, c)
		}
	}
	if n := in.units(in.Class.Demand); n > 0 {
		reason := in.Class.Reason
		if reason == "" {
			reason = "classes bring " + amount(in.Class.Demand)
		}
		claims = append(claims, Claim{
			Layer: LayerTimetable, Floor: n, Cap: None,
			Reason: fmt.Sprintf("%s, which needs %d", reason, n),
		})
	}
	return claims
}

// A sight is what the layers that measure say.
type sight struct {
	following
	foretold []Recommendation
}

// measured asks the reactive layer, its panic rule and the forecast.
func (in Input) measured(before State) sight {
	p := in.Policy
	var s sight
	if len(in.Metrics) > 0 {
		mayReturn := most
		if known(in.Forecast.Return) && in.Forecast.Return > 0 && p.Unit > 0 {
			mayReturn = in.units(in.Forecast.Return)
		}
		s.following = p.Reactive.follow(in, before.Reactive, in.Class.Ended, mayReturn)
	}
	n := in.units(in.Forecast.Demand)
	if n == 0 {
		return s
	}
	// The forecast counts as one metric more, with a tolerance and a stabilisation
	// of its own, and lifts what is measured by a bounded factor.
	n = p.Forecast.Tolerance.replicas(in.Forecast.Demand, p.Unit, in.Current)
	raw := Recommendation{in.Now, n}
	for _, rec := range before.Foretold {
		if in.Now.Sub(rec.At) < p.Forecast.Stabilize && rec.At.Before(in.Now) && !rec.At.Before(in.Class.Ended) {
			s.foretold = append(s.foretold, rec)
			n = max(n, rec.Replicas)
		}
	}
	s.foretold = append(s.foretold, raw)
	reason := in.Forecast.Reason
	if reason == "" {
		reason = "the forecast expects " + amount(in.Forecast.Demand)
	}
	reason = fmt.Sprintf("%s, which needs %d", reason, n)
	if len(in.Metrics) > 0 && !in.Class.In {
		lift := p.Forecast.MaxLift
		if lift == 0 {
			lift = 3
		}
		base := max(s.next.Last, in.units(in.Forecast.Usual), p.Min, 1)
		if bound := int(min(lift*float64(base), most)); n > bound {
			n = bound
			reason += fmt.Sprintf(", but may lift to no more than %d (%v × %d)", bound, lift, base)
		}
	}
	s.claims = append(s.claims, Claim{Layer: LayerForecast, Floor: n, Cap: None, Reason: reason})
	return s
}

// units is how many replicas a demand needs; 0 if that cannot be said.
func (in Input) units(demand float64) int {
	if !known(demand) || !(in.Policy.Unit > 0) {
		return 0
	}
	return replicas(demand, in.Policy.Unit)
}

// settle returns the claim that decides, with Floor as the number wanted, and
// the claim with the lowest hard cap.
func settle(claims []Claim) (won, hard Claim) {
	// A pin is the whole answer; of several the last in the list.
	for i := range claims {
		if claims[i].Pin {
			won = claims[i]
		}
	}
	if won.Pin {
		return won, Claim{Cap: most}
	}
	soft := Claim{Cap: most}
	hard = Claim{Cap: most}
	for _, c := range claims {
		switch {
		case c.Cap == None:
		case c.Hard && c.Cap < hard.Cap:
			hard = c
		case !c.Hard && c.Cap < soft.Cap:
			soft = c
		}
	}
	won.Floor = None
	for _, c := range claims {
		if c.Layer.measured() && c.Floor > soft.Cap {
			c, c.Floor = soft, soft.Cap
		}
		if c.Floor > won.Floor {
			won = c
		}
	}
	if won.Floor > hard.Cap {
		won = hard
		won.Floor = hard.Cap
	}
	return won, hard
}

// measured reports whether the layer's claims rest on measurements.
func (l Layer) measured() bool {
	return l == LayerReactive || l == LayerPanic || l == LayerForecast
}

// believed returns the state as far as the clock and the workload bear it out.
// Whatever lies in the future was said by a clock that has been put back.
func (s State) believed(in Input) State {
	future := func(t time.Time) bool { return t.After(in.Now) }
	recs := func(all []Recommendation) (out []Recommendation) {
		for _, r := range all {
			if !future(r.At) {
				out = append(out, r)
			}
		}
		return out
	}
	h := s.Reactive
	h.Recommended, s.Foretold = recs(h.Recommended), recs(s.Foretold)
	var changes []Change
	for _, c := range h.Changes {
		if age := in.Now.Sub(c.At); age >= 0 && age < time.Hour {
			changes = append(changes, c)
		}
	}
	// Replicas that changed since: ordered by us then, or by somebody else by now.
	if delta := in.Current - s.Current; !s.At.IsZero() && delta != 0 {
		at := in.Now
		if in.Current == s.Desired && !future(s.At) {
			at = s.At
		}
		changes = append(changes, Change{at, delta})
	}
	h.Changes = changes
	s.Reactive = h
	s.ScaleIn = s.ScaleIn.believed(in, s.At)
	return s
}

// explain says in one sentence who decided and why.
func (d *Decision) explain(in Input, won, hard Claim, gone string) {
	switch {
	case d.Gate != GateNone && d.Winner == hard.Layer && d.Desired == hard.Cap && d.Desired < in.Current:
		d.Reason = fmt.Sprintf("from %d to %s: %s; no fewer, for %s", in.Current, count(d.Desired), hard.Reason, d.held(gone))
	case d.Gate == GateMetrics: // what the other layers want says little
		d.Reason = fmt.Sprintf("keep %s: %s", count(d.Desired), d.held(gone))
	case d.Gate == GateNone && d.Desired == in.Current:
		d.Reason = fmt.Sprintf("keep %s: %s", count(d.Desired), won.Reason)
	case d.Gate == GateNone:
		d.Reason = fmt.Sprintf("from %d to %s: %s", in.Current, count(d.Desired), won.Reason)
	case d.Desired == in.Current:
		d.Reason = fmt.Sprintf("keep %s, though %s: %s", count(d.Desired), won.Reason, d.held(gone))
	default:
		d.Reason = fmt.Sprintf("from %d to %s, though %s: %s", in.Current, count(d.Desired), won.Reason, d.held(gone))
	}
}

func count(n int) string {
	if n == 1 {
		return "1 replica"
	}
	return fmt.Sprintf("%d replicas", n)
}

// amount prints a demand.
func amount(demand float64) string {
	if demand >= 100 && demand < 1e9 {
		return fmt.Sprintf("%.0f", math.Ceil(demand))
	}
	return fmt.Sprintf("%.3g", demand)
}
