package elastic

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// A Tolerance is how far from its target a figure may be, as a share: 0.1 is 10 %.
type Tolerance struct{ Up, Down float64 }

// within reports whether a ratio of what is to what should be is near enough to 1.
func (t Tolerance) within(ratio float64) bool { return 1-t.Down <= ratio && ratio <= 1+t.Up }

// A Rate allows a change within a period: Pods if it is not 0, else Share of the
// replicas at the period's start (1 is 100 %).
type Rate struct {
	Pods   int
	Share  float64
	Period time.Duration
}

// A Behavior is how fast the reactive layer moves in one direction.
type Behavior struct {
	Stabilize time.Duration // the gentlest recommendation of this long counts
	Rates     []Rate        // none: no bound
	Least     bool          // the rate that allows least counts, not the one that allows most
	Off       bool          // no change in this direction
}

// Reactive follows the load as autoscaling/v2 does:
//
//	ratio = Σ figure / Σ target          unchanged within the tolerance
//	wants = ceil(ratio · pods measured)  the metric that wants most counts
//
// A missing pod counts as fully used on the way in and as idle on the way out, a
// pod that is not ready as idle on the way out; where that would turn the
// direction, nothing changes. A metric that is gone lets nothing go.
type Reactive struct {
	Tolerance Tolerance
	Up, Down  Behavior

	PanicShare  float64       // burst ÷ what the ready are given that starts the panic; 0: no panic
	PanicWindow time.Duration // how long after the last such burst it ends; 0 means a minute

	MaxAge time.Duration // a metric older than this is gone; 0 means 5 minutes
}

// A Metric is a figure that the reactive layer follows: either Total over the
// whole workload, or Pods, figure by figure.
type Metric struct {
	Name string
	At   time.Time // when it was true; zero: now

	Total      float64 // NaN: gone
	Burst      float64 // the same of the last moments, for the panic rule; NaN or 0: not known
	PerReplica float64 // how much of it one replica should have

	Pods []PodFigure // used instead of Total if it is not empty
}

// A PodFigure is one pod's share of a metric.
type PodFigure struct {
	Value   float64 // NaN: missing
	Target  float64 // what it should have: request × utilisation, or the average value
	Request float64 // what a missing pod is taken to use on the way in; 0 means Target
	Ready   bool    // false: not ready yet, or in its initialisation period
}

// A Recommendation is what a layer wanted at one time.
type Recommendation struct {
	At       time.Time
	Replicas int
}

// A Change is replicas added (or taken away, below 0) at one time.
type Change struct {
	At    time.Time
	Delta int
}

// A History is what the reactive layer must know of the minutes before.
type History struct {
	Recommended []Recommendation // oldest first
	Changes     []Change         // oldest first
	PanicUntil  time.Time
	PanicFloor  int
	Last        int // the most that the load needed within the stabilisation before it was last measured; 0: never
}

// most bounds every count of replicas, so that sums cannot overflow.
const most = 1 << 24

// replicas is ceil(demand / perReplica), forgiving what floating point adds.
func replicas(demand, perReplica float64) int {
	n := demand / perReplica
	if !(n > 0) { // also NaN
		return 0
	}
	return int(math.Ceil(min(n*(1-1e-9), most)))
}

// known reports whether x is a figure at all.
func known(x float64) bool { return x >= 0 && !math.IsInf(x, 1) }

// Follow says how many replicas one metric wants now, when there are current. ok
// is false when the metric is gone, late or not a number.
func (r Reactive) Follow(m Metric, now time.Time, current int) (want int, ok bool) {
	age := r.MaxAge
	if age == 0 {
		age = 5 * time.Minute
	}
	if !m.At.IsZero() && now.Sub(m.At).Abs() > age {
		return 0, false
	}
	if len(m.Pods) > 0 {
		return r.byPod(m.Pods, current)
	}
	if !known(m.Total) || !known(m.PerReplica) || m.PerReplica == 0 {
		return 0, false
	}
	return r.Tolerance.replicas(m.Total, m.PerReplica, current), true
}

// replicas is how many a demand needs, or current where that is near enough.
func (t Tolerance) replicas(demand, perReplica float64, current int) int {
	if current > 0 && t.within(demand/(perReplica*float64(current))) {
		return current
	}
	return replicas(demand, perReplica)
}

// byPod follows HPA's GetResourceReplicas step by step.
func (r Reactive) byPod(pods []PodFigure, current int) (want int, ok bool) {
	// 1. Ready pods that are measured say in which direction it goes.
	var value, target float64
	var ready, unready, missing int
	for _, p := range pods {
		if !known(p.Target) || p.Target == 0 {
			return 0, false
		}
		switch {
		case !p.Ready:
			unready++
		case !known(p.Value):
			missing++
		default:
			ready++
			value += p.Value
			target += p.Target
		}
	}
	if ready == 0 || math.IsInf(value, 1) {
		return 0, false
	}
	ratio := value / target
	outWithUnready := unready > 0 && ratio > 1
	if !outWithUnready && missing == 0 {
		if r.Tolerance.within(ratio) {
			return current, true
		}
		return replicas(ratio*float64(ready), 1), true
	}
	// 2. What is not known is taken to be what moves least.
	counted := ready
	for _, p := range pods {
		switch {
		case !p.Ready:
			if outWithUnready {
				counted++
				target += p.Target
			}
		case !known(p.Value) && ratio < 1:
			counted++
			target += p.Target
			value += max(p.Request, p.Target)
		case !known(p.Value) && ratio > 1:
			counted++
			target += p.Target
		}
	}
	again := value / target
	if r.Tolerance.within(again) || ratio < 1 && again > 1 || ratio > 1 && again < 1 {
		return current, true
	}
	want = replicas(again*float64(counted), 1)
	if again < 1 && want > current || again > 1 && want < current {
		return current, true
	}
	return want, true
}

// A following is what the reactive layer says in one minute.
type following struct {
	claims []Claim // reactive, panic
	lost   bool    // a metric is gone, and what is left wants fewer
	gone   string  // its name
	idle   bool    // everything is measured, and nothing is asked for
	next   History
}

// follow asks every metric, and steadies the answer. Recommendations from before
// since do not count, nor do they above what may return.
func (r Reactive) follow(in Input, h History, since time.Time, mayReturn int) following {
	out := following{next: h, idle: true}
	raw, from := None, ""
	for _, m := range in.Metrics {
		want, ok := r.Follow(m, in.Now, in.Current)
		if !ok {
			out.lost, out.gone = true, m.Name
			continue
		}
		if want > raw {
			raw, from = want, m.Name
		}
		out.idle = out.idle && len(m.Pods) == 0 && m.Total == 0
	}
	if raw == None || out.lost && raw < in.Current {
		out.idle = false
	} else {
		out.lost = false
		recent := h.recent(r, in)
		want, lately := r.steady(in, h, recent, raw, since, mayReturn)
		if rec := (Recommendation{in.Now, raw}); recent[len(recent)-1] != rec {
			recent = append(recent, rec)
		}
		out.next.Recommended, out.next.Last = recent, lately
		reason := fmt.Sprintf("the load (%s) needs %d", from, raw)
		switch {
		case want > raw:
			reason = fmt.Sprintf("the load (%s) needed %d within the last %v and needs %d now", from, lately, r.Down.Stabilize, raw)
		case want < raw:
			reason = fmt.Sprintf("the load (%s) needs %d, and no faster than to %d is allowed", from, raw, want)
		}
		out.claims = append(out.claims, Claim{Layer: LayerReactive, Name: from, Floor: want, Cap: None, Reason: reason})
	}
	if c, ok := r.panic(in, &out.next); ok {
		out.claims = append(out.claims, c)
	}
	return out
}

// steady bounds a raw recommendation by what was recommended before and by the
// rates, as HPA does with spec.behavior. What was said exactly so long ago counts
// still: HPA, which asks every 15 s, keeps a minute's figure for that long too.
// down is the most that was recommended and may return, whatever is there now.
func (r Reactive) steady(in Input, h History, recent []Recommendation, raw int, since time.Time, mayReturn int) (want, down int) {
	up, down := raw, raw
	for _, rec := range recent {
		age := in.Now.Sub(rec.At)
		if r.Up.Stabilize > 0 && age <= r.Up.Stabilize {
			up = min(up, rec.Replicas)
		}
		if r.Down.Stabilize > 0 && age <= r.Down.Stabilize && !rec.At.Before(since) {
			down = max(down, min(rec.Replicas, mayReturn))
		}
	}
	want = min(max(in.Current, up), down)
	if want > in.Current {
		want = min(want, r.Up.limit(h.Changes, in.Now, in.Current, 1))
	}
	if want < in.Current && r.Down.Off {
		want = in.Current
	}
	return want, down
}

// recent returns the recommendations that count still. Where there are none, such
// as after a restart, the replicas that are there count as one, so that nothing is
// taken away at once.
func (h History) recent(r Reactive, in Input) []Recommendation {
	keep := max(r.Up.Stabilize, r.Down.Stabilize)
	var recs []Recommendation
	for _, rec := range h.Recommended {
		if in.Now.Sub(rec.At) <= keep {
			recs = append(recs, rec)
		}
	}
	if len(recs) == 0 {
		recs = []Recommendation{{in.Now, in.Current}}
	}
	return recs
}

// limit is how far the rates let replicas go from current, up (sign 1) or down
// (sign −1).
func (b Behavior) limit(changes []Change, now time.Time, current, sign int) int {
	if b.Off {
		return current
	}
	if len(b.Rates) == 0 {
		return sign * most
	}
	var limits []int
	for _, rate := range b.Rates {
		start := current
		for _, c := range changes {
			if now.Sub(c.At) < rate.Period {
				start -= c.Delta
			}
		}
		switch {
		case rate.Pods != 0:
			limits = append(limits, start+sign*rate.Pods)
		case sign > 0:
			limits = append(limits, replicas(float64(start)*(1+rate.Share), 1))
		default:
			limits = append(limits, int(float64(start)*(1-rate.Share)))
		}
	}
	if (sign > 0) != b.Least {
		return pastCurrent(slices.Max(limits), current, sign)
	}
	return pastCurrent(slices.Min(limits), current, sign)
}

// pastCurrent keeps a limit from asking for the opposite direction.
func pastCurrent(limit, current, sign int) int {
	if sign > 0 {
		return max(limit, current)
	}
	return max(min(limit, current), 0)
}

// panic is Knative's rule: when the last moments ask for PanicShare times what is
// ready, replicas are only added until a window after the last such moment.
func (r Reactive) panic(in Input, h *History) (Claim, bool) {
	window := r.PanicWindow
	if window == 0 {
		window = time.Minute
	}
	burst := 0
	for _, m := range in.Metrics {
		if known(m.Burst) && m.PerReplica > 0 {
			burst = max(burst, replicas(m.Burst, m.PerReplica))
		}
	}
	if r.PanicShare > 0 && float64(burst) >= r.PanicShare*float64(max(in.Ready, 1)) {
		h.PanicUntil = in.Now.Add(window)
	}
	if last := in.Now.Add(window); h.PanicUntil.After(last) {
		h.PanicUntil = last // the clock was put back
	}
	if !in.Now.Before(h.PanicUntil) {
		h.PanicUntil, h.PanicFloor = time.Time{}, 0
		return Claim{}, false
	}
	h.PanicFloor = max(h.PanicFloor, burst)
	return Claim{
		Layer: LayerPanic, Floor: h.PanicFloor, Cap: None, Until: h.PanicUntil,
		Reason: fmt.Sprintf("a burst asked for %d, %v times or more what is ready", h.PanicFloor, r.PanicShare),
	}, true
}

func (t Tolerance) validate(whose string) error {
	if !(t.Up >= 0 && t.Up <= 1 && t.Down >= 0 && t.Down < 1) {
		return fmt.Errorf("%s tolerates %v up and %v down; both must be shares from 0 to 1", whose, t.Up, t.Down)
	}
	return nil
}

func (r Reactive) validate() error {
	if err := r.Tolerance.validate("the reactive layer"); err != nil {
		return err
	}
	for _, b := range []Behavior{r.Up, r.Down} {
		if b.Stabilize < 0 || b.Stabilize > time.Hour {
			return fmt.Errorf("the reactive layer is stabilised for %v; it must be between 0 and 1h", b.Stabilize)
		}
		for _, rate := range b.Rates {
			if rate.Period <= 0 || rate.Period > 30*time.Minute || rate.Pods < 0 || !(rate.Share >= 0 && known(rate.Share)) {
				return fmt.Errorf("a rate allows %d pods or a share of %v in %v; it must not be below 0, in a period above 0 and up to 30m", rate.Pods, rate.Share, rate.Period)
			}
		}
	}
	if r.PanicShare != 0 && !(r.PanicShare > 1 && known(r.PanicShare)) {
		return fmt.Errorf("panic begins at %v of what is ready; it must be above 1, or 0 for no panic", r.PanicShare)
	}
	if r.PanicWindow < 0 || r.PanicWindow > time.Hour || r.MaxAge < 0 {
		return fmt.Errorf("panic lasts %v and a metric counts for %v; neither may be below 0, nor panic above 1h", r.PanicWindow, r.MaxAge)
	}
	return nil
}
