package colocate

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/neap-dev/neap/core/elastic"
)

// Step is the length of a curve's step, and Steps how many a curve has: a day.
const (
	Step  = 15 * time.Minute
	Steps = 96
)

// A Policy is what an operator allows. The zero Policy lends nothing.
type Policy struct {
	// CPUPercent and MemoryPercent are how much of the machine online pods, the
	// system and batch pods may use together.
	CPUPercent, MemoryPercent int64
	Windows                   []Window // in which they are less
	// Quantile of online's use that is kept free for it. Zero means 0.7: cpu.idle
	// gives online what it needs whatever was lent, so that a promise too many costs
	// batch a slower job, and one too few costs it the machine.
	Quantile float64
	// RunTime is how long a batch pod runs of which nothing is known. Zero means
	// an hour.
	RunTime time.Duration
	// RisePercent is how much of the machine capacity may rise in five minutes.
	// Zero means 10.
	RisePercent int64
	// MinimumMilli is the CPU below which nothing is lent.
	MinimumMilli int64
}

// A Window is a stretch of time in which less of the machine may be used: from
// From until before To.
type Window struct {
	Name                      string
	From, To                  time.Time
	CPUPercent, MemoryPercent int64 // 0 means that batch is out
}

// Hours are windows that repeat: on each of their days, from when its clocks show
// From until they show To. To at or before From is on the day after. What clocks show
// twice, because they are set back, counts in full.
type Hours struct {
	Name string
	Days []time.Weekday // none means every day
	// WorkingDays takes only days that are worked, by the Calendar, or by the week
	// if there is none.
	WorkingDays               bool
	Calendar                  elastic.Calendar
	From, To                  time.Duration  // as clocks show it
	Location                  *time.Location // nil means UTC
	CPUPercent, MemoryPercent int64
}

// Windows returns the windows of hours that touch the time from from until to, in
// order of their beginning.
func Windows(hours []Hours, from, to time.Time) []Window {
	var all []Window
	for _, h := range hours {
		zone := h.Location
		if zone == nil {
			zone = time.UTC
		}
		until := h.To
		if until <= h.From {
			until += 24 * time.Hour
		}
		y, m, d := from.In(zone).Date()
		for day := time.Date(y, m, d-1, 0, 0, 0, 0, time.UTC); ; day = day.AddDate(0, 0, 1) {
			begin, _ := shown(day.Add(h.From), zone)
			if !begin.Before(to) {
				break
			}
			_, end := shown(day.Add(until), zone)
			if h.on(day) && begin.Before(end) && from.Before(end) {
				all = append(all, Window{Name: h.Name, From: begin, To: end, CPUPercent: h.CPUPercent, MemoryPercent: h.MemoryPercent})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Window) int { return a.From.Compare(b.From) })
	return all
}

// shown returns when clocks in a zone show what clock shows in UTC: the first and the
// last time, which are two where clocks are set back over it. Where they are set
// forward over it, it is when that happens.
func shown(clock time.Time, zone *time.Location) (first, last time.Time) {
	by := func(near time.Duration) (t time.Time, is bool) { // with the offset that holds near it
		_, offset := clock.Add(near).In(zone).Zone()
		t = clock.Add(-time.Duration(offset) * time.Second).In(zone)
		_, holds := t.Zone()
		return t, holds == offset
	}
	first, before := by(-24 * time.Hour)
	last, after := by(24 * time.Hour)
	switch {
	case before && after:
		return first, last
	case before:
		return first, first
	case after:
		return last, last
	}
	gap, _ := first.ZoneBounds()
	return gap, gap
}

// on reports whether the hours hold on a day.
func (h Hours) on(day time.Time) bool {
	if len(h.Days) > 0 && !slices.Contains(h.Days, day.Weekday()) {
		return false
	}
	if !h.WorkingDays {
		return true
	}
	kind := elastic.Workday
	switch w := day.Weekday(); {
	case h.Calendar != nil:
		kind = h.Calendar.DayType(day)
	case w == time.Saturday || w == time.Sunday:
		kind = elastic.Weekend
	}
	return kind == elastic.Workday || kind == elastic.MakeUp
}

// An Observation is what is known of one machine.
type Observation struct {
	Now     time.Time
	Machine Room // what pods may use of it (allocatable, before batch)
	// Past is what online pods and the system used until now; nil means that
	// nothing is known, and nothing is lent.
	Past *Past
	// Requests is what online pods ask for in all: what a machine of whose past
	// little is known keeps free for them.
	Requests Room
	// Unmeasured is what pods ask for that run and are not in Past, because they
	// have just come or have no metrics.
	Unmeasured Room
	// Last is the offer before this one; the zero Offer if there was none.
	Last Offer
}

// Terms are the parts of what is lent now: Allowed − Online − Unmeasured, held by
// Risen. They are those of the step in which least CPU is left.
type Terms struct {
	Machine    Room  // what there is
	Percent    int64 // of its CPU that may be used in the step that binds
	Allowed    Room  // which is so much
	Online     Room  // highest use of online pods and system foreseen in that step
	Unmeasured Room  // what pods ask for that are not measured
	Risen      Room  // how high capacity may have risen by now
	Days       int64 // of which something is known
}

// A Bound names what keeps a capacity from being more.
type Bound string

// The bounds.
const (
	BoundThreshold Bound = "threshold" // the share that may be used
	BoundOnline    Bound = "online"    // what online pods will use
	BoundWindow    Bound = "window"    // a window that is open, or opens before a run is over
	BoundRise      Bound = "rise"      // it may not rise faster
	BoundUnknown   Bound = "unknown"   // metrics are lost, or too little is known
	BoundMinimum   Bound = "minimum"   // there is less than is worth lending
)

// An Offer is what a machine lends batch pods over the day to come, and why.
type Offer struct {
	At    time.Time // when it was decided
	Curve Curve
	// Online is the highest use of online pods and system foreseen in each step.
	Online Curve
	// Peak is what windows leave to batch beside online pods, as far as something is
	// known of these, and the whole machine where there is no window: the curve for
	// [Drain].
	Peak Curve
	// Now is what is lent to a pod of the policy's run time that begins now: the
	// least over that time.
	Now   Room
	Terms Terms
	Binds Bound
	When  time.Time // the step that binds
	Why   string    // one sentence for people
}

const (
	// memoryMargin is what is added to the highest memory of a day, for memory
	// cannot be taken back.
	memoryMargin = 1.10
	// A measurement counts in full until it is fresh old; then what is lent shrinks
	// to nothing when it is stale.
	fresh, stale = 3 * time.Minute, 10 * time.Minute
)

// Capacity returns the offer of one machine. Equal arguments give equal offers.
func Capacity(seen Observation, allow Policy) Offer {
	allow = allow.sane()
	start := seen.Now.Truncate(Step)
	empty := func() Curve {
		return Curve{Start: start, Step: Step, CPUMilli: make([]int64, Steps), MemoryMiB: make([]int64, Steps)}
	}
	o := Offer{At: seen.Now, Curve: empty(), Online: empty(), Peak: empty(), When: seen.Now}
	machine := seen.Machine.Max(Room{})
	days := seen.Past.Days()
	online := foreseen(seen, allow, machine, days)
	trust := trusted(seen)
	risen := func(ahead time.Duration) Room { return machine }
	if !seen.Last.At.IsZero() {
		lent := seen.Last.Curve.At(seen.Last.At)
		risen = func(ahead time.Duration) Room {
			fives := max(seen.Now.Sub(seen.Last.At)+ahead, 0).Minutes() / 5
			return lent.Add(machine.scale(min(float64(allow.RisePercent)/100*fives, 1)))
		}
	}
	for k := range Steps {
		begin := o.Curve.Begin(k)
		share, window := allow.share(begin, begin.Add(Step))
		allowed := machine.percent(share)
		o.Online.set(k, online[k])
		o.Peak.set(k, machine)
		switch {
		case window != "" && days < 1: // that little is known is no reason to lose work
			o.Peak.set(k, allowed)
		case window != "":
			o.Peak.set(k, allowed.Sub(online[k]).Max(Room{}))
		}
		room := allowed.Sub(online[k]).Sub(seen.Unmeasured.Max(Room{})).Max(Room{}).scale(trust)
		room = room.Min(risen(max(begin.Sub(seen.Now), 0)))
		if room.CPUMilli < max(allow.MinimumMilli, 1) {
			room = Room{}
		}
		o.Curve.set(k, room)
	}
	o.Now = o.Curve.Least(seen.Now, seen.Now.Add(allow.RunTime))

	// The step that binds is the first of the least.
	k := max(o.Curve.Index(seen.Now), 0)
	for o.Curve.CPUMilli[k] > o.Now.CPUMilli {
		k++
	}
	if begin := o.Curve.Begin(k); begin.After(seen.Now) {
		o.When = begin
	}
	share, window := allow.share(o.Curve.Begin(k), o.Curve.Begin(k+1))
	o.Terms = Terms{
		Machine: machine, Percent: share.CPUMilli, Allowed: machine.percent(share), Online: online[k],
		Unmeasured: seen.Unmeasured.Max(Room{}), Risen: risen(max(o.Curve.Begin(k).Sub(seen.Now), 0)), Days: days,
	}
	o.explain(seen, allow, trust, window)
	return o
}

// explain says what binds, in a sentence.
func (o *Offer) explain(seen Observation, allow Policy, trust float64, window string) {
	t := o.Terms
	left := max(t.Allowed.Sub(t.Online).Sub(t.Unmeasured).CPUMilli, 0)
	clock := "now"
	if o.When.After(seen.Now) {
		clock = "at " + o.When.Format("15:04")
	}
	sum := fmt.Sprintf("%d %% of %s, less %s that online pods and the system are foreseen to use %s", t.Percent, cores(t.Machine.CPUMilli), cores(t.Online.CPUMilli), clock)
	if t.Unmeasured.CPUMilli > 0 {
		sum += fmt.Sprintf(", less %s for pods that are not measured", cores(t.Unmeasured.CPUMilli))
	}
	switch {
	case trust == 0:
		o.Binds, o.Why = BoundUnknown, "nothing is lent: what online pods use is not measured"
	case trust < 1:
		o.Binds = BoundUnknown
		o.Why = fmt.Sprintf("%s are lent: what online pods use was last measured %s ago, and less is lent until it is again", cores(o.Now.CPUMilli), seen.Now.Sub(seen.Past.Measured()).Round(time.Second))
	case o.Now.CPUMilli == 0 && left > 0 && left < allow.MinimumMilli:
		o.Binds = BoundMinimum
		o.Why = fmt.Sprintf("nothing is lent: %s leaves less than the %s that are worth lending", sum, cores(allow.MinimumMilli))
	case t.Risen.CPUMilli < left:
		o.Binds = BoundRise
		o.Why = fmt.Sprintf("%s are lent, for capacity rises by at most %d %% of the machine in five minutes; later it will be %s: %s", cores(o.Now.CPUMilli), allow.RisePercent, cores(left), sum)
	case t.Days < 1:
		o.Binds = BoundUnknown
		o.Why = fmt.Sprintf("%s are lent: %s; less than a day is known, so that they count as what they ask for", cores(o.Now.CPUMilli), sum)
	case window != "":
		o.Binds = BoundWindow
		o.Why = fmt.Sprintf("%s are lent: in the window %s %s", cores(o.Now.CPUMilli), window, sum)
	case t.Online.Add(t.Unmeasured).CPUMilli > 0:
		o.Binds = BoundOnline
		o.Why = fmt.Sprintf("%s are lent: %s", cores(o.Now.CPUMilli), sum)
	default:
		o.Binds = BoundThreshold
		o.Why = fmt.Sprintf("%s are lent: %s", cores(o.Now.CPUMilli), sum)
	}
}

// foreseen is the highest use of online pods and system in each step.
func foreseen(seen Observation, allow Policy, machine Room, days int64) (online [Steps]Room) {
	memory, highest, cpu := math.NaN(), math.NaN(), &[Steps]float64{}
	if seen.Past != nil {
		highest = seen.Past.most(0, seen.Now)
		memory = seen.Past.most(1, seen.Now) * memoryMargin
	}
	if days >= 1 {
		cpu = seen.Past.outlook(seen.Now, allow.Quantile)
	}
	for k := range online {
		use := cpu[k]
		if days < 1 { // what was highest so far may come again, and so may what is asked for
			use = highest
		}
		online[k] = Room{whole(use, machine.CPUMilli), whole(memory, machine.MemoryMiB)}
		if days < 1 {
			online[k] = online[k].Max(seen.Requests)
		}
	}
	return online
}

// whole is v rounded up; what is not known is all there is.
func whole(v float64, all int64) int64 {
	if !(v >= 0 && v < 1e15) {
		return all
	}
	return int64(math.Ceil(v))
}

// trusted is how far the newest measurement counts: 1 to 0 as it grows old.
func trusted(seen Observation) float64 {
	measured := seen.Past.Measured()
	if measured.IsZero() {
		return 0
	}
	return min(max(float64(stale-seen.Now.Sub(measured))/float64(stale-fresh), 0), 1)
}

// sane is the policy with its defaults and within its bounds.
func (p Policy) sane() Policy {
	bound := func(percent int64) int64 { return min(max(percent, 0), 100) }
	p.CPUPercent, p.MemoryPercent = bound(p.CPUPercent), bound(p.MemoryPercent)
	if !(p.Quantile > 0 && p.Quantile <= 1) {
		p.Quantile = 0.7
	}
	if p.RunTime <= 0 {
		p.RunTime = time.Hour
	}
	if p.RisePercent <= 0 {
		p.RisePercent = 10
	}
	return p
}

// share is the least percentage of CPU and memory that may be used from from until
// to, and the window that makes it so.
func (p Policy) share(from, to time.Time) (least Room, window string) {
	least = Room{p.CPUPercent, p.MemoryPercent}
	for _, w := range p.Windows {
		if !w.From.Before(to) || !from.Before(w.To) {
			continue
		}
		in := Room{max(w.CPUPercent, 0), max(w.MemoryPercent, 0)}
		if in.CPUMilli < least.CPUMilli || in.MemoryMiB < least.MemoryMiB {
			window = w.Name
			if window == "" {
				window = "without a name"
			}
		}
		least = least.Min(in)
	}
	return least, window
}

// percent is so many percent of r, kind by kind.
func (r Room) percent(p Room) Room {
	return Room{r.CPUMilli * p.CPUMilli / 100, r.MemoryMiB * p.MemoryMiB / 100}
}

// scale is r times a share of 0 to 1.
func (r Room) scale(share float64) Room {
	return Room{int64(share * float64(r.CPUMilli)), int64(share * float64(r.MemoryMiB))}
}

func (c Curve) set(i int, r Room) { c.CPUMilli[i], c.MemoryMiB[i] = r.CPUMilli, r.MemoryMiB }
