package colocate

import (
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
	// Quantile of online's use that is kept free for it, such as 0.95. Zero means
	// that.
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

// Hours are windows that repeat: on each day that On accepts, from From until To
// after its midnight. To at or before From is on the day after.
type Hours struct {
	Name string
	Days []time.Weekday // none means every day
	// WorkingDays takes only days that are worked, by the Calendar, or by the week
	// if there is none.
	WorkingDays               bool
	Calendar                  elastic.Calendar
	From, To                  time.Duration  // since midnight
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
		length := h.To - h.From
		if length <= 0 {
			length += 24 * time.Hour
		}
		y, m, d := from.In(zone).AddDate(0, 0, -1).Date()
		for day := time.Date(y, m, d, 0, 0, 0, 0, zone); day.Before(to); day = day.AddDate(0, 0, 1) {
			if !h.on(day) {
				continue
			}
			begin := day.Add(h.From)
			w := Window{Name: h.Name, From: begin, To: begin.Add(length), CPUPercent: h.CPUPercent, MemoryPercent: h.MemoryPercent}
			if w.From.Before(to) && from.Before(w.To) {
				all = append(all, w)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Window) int { return a.From.Compare(b.From) })
	return all
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

// Terms are the parts of a capacity: Machine · share − Online − Unmeasured, and
// what the limit of rising and the minimum left of it.
type Terms struct {
	Machine    Room  // what there is
	Allowed    Room  // what may be used of it in the step that binds
	Online     Room  // highest use foreseen in the step that binds, with the system's
	Unmeasured Room  // what pods ask for that are not measured
	Risen      Room  // how high it may have risen by now
	Days       int64 // of which something is known
}

// A Bound names what keeps a capacity from being more.
type Bound string

// The bounds.
const (
	BoundNothing Bound = ""          // all of what is allowed is lent
	BoundOnline  Bound = "online"    // what online pods will use
	BoundWindow  Bound = "window"    // a window has begun, or will before a run is over
	BoundRise    Bound = "rise"      // it may not rise faster
	BoundUnknown Bound = "unknown"   // too little is known, or metrics are lost
	BoundMinimum Bound = "minimum"   // less than what is worth lending
	BoundPercent Bound = "threshold" // the share that may be used
)

// An Offer is what a machine lends batch pods over the day to come, and why.
type Offer struct {
	At     time.Time // when it was decided
	Curve  Curve
	Online Curve // the highest use of online pods and system foreseen in each step
	// Now is what is lent to a pod of the policy's run time that begins now: the
	// least over that time.
	Now   Room
	Terms Terms     // of Now's CPU
	Binds Bound     // of Now's CPU
	When  time.Time // the step that binds
	Why   string    // one sentence for people
}

// memoryMargin is what is added to the highest memory of a day: memory cannot be
// taken back.
const memoryMargin = 1.10

// stale is how old a measurement may be before nothing is lent.
const stale = 5 * time.Minute

// Capacity returns the offer of one machine. It is pure: equal arguments give
// equal offers.
func Capacity(seen Observation, allow Policy) Offer {
	start := seen.Now.Truncate(Step)
	empty := func() Curve {
		return Curve{Start: start, Step: Step, CPUMilli: make([]int64, Steps), MemoryMiB: make([]int64, Steps)}
	}
	o := Offer{At: seen.Now, Curve: empty(), Online: empty()}
	o.Terms.Machine, o.Terms.Unmeasured, o.Terms.Days = seen.Machine, seen.Unmeasured, seen.Past.Days()
	if measured := seen.Past.Measured(); measured.IsZero() || seen.Now.Sub(measured) > stale {
		o.Binds, o.When, o.Why = BoundUnknown, seen.Now, "what online pods use is not measured; nothing is lent until it is"
		return o
	}
	risen := seen.Machine
	if !seen.Last.At.IsZero() {
		rise := max(allow.RisePercent, 0)
		if rise == 0 {
			rise = 10
		}
		gone := max(seen.Now.Sub(seen.Last.At), 0)
		more := func(all int64) int64 {
			return int64(float64(all*rise) / 100 * min(gone.Minutes()/5, 1e4))
		}
		risen = seen.Last.Now.Add(Room{more(seen.Machine.CPUMilli), more(seen.Machine.MemoryMiB)})
	}
	o.Terms.Risen = risen
	quantile := allow.Quantile
	if quantile <= 0 || quantile >= 1 {
		quantile = 0.95
	}
	memory := int64(seen.Past.most(seen.Now) * memoryMargin)
	for k := range Steps {
		begin := o.Curve.Begin(k)
		cpu, mem := share(allow, begin, begin.Add(Step))
		online := Room{int64(seen.Past.foresee(seen.Now, k, quantile)), memory}
		if o.Terms.Days < 1 {
			online = online.Max(seen.Requests)
		}
		o.Online.CPUMilli[k], o.Online.MemoryMiB[k] = online.CPUMilli, online.MemoryMiB
		room := Room{seen.Machine.CPUMilli * cpu / 100, seen.Machine.MemoryMiB * mem / 100}.Sub(online).Sub(seen.Unmeasured).Min(risen).Max(Room{})
		o.Curve.CPUMilli[k], o.Curve.MemoryMiB[k] = room.CPUMilli, room.MemoryMiB
	}
	run := allow.RunTime
	if run <= 0 {
		run = time.Hour
	}
	o.Now = o.Curve.Least(seen.Now, seen.Now.Add(run))
	return o
}

// share is the least of what may be used of CPU and memory from from until to.
func share(p Policy, from, to time.Time) (cpu, memory int64) {
	cpu, memory = p.CPUPercent, p.MemoryPercent
	for _, w := range p.Windows {
		if w.From.Before(to) && from.Before(w.To) {
			cpu, memory = min(cpu, w.CPUPercent), min(memory, w.MemoryPercent)
		}
	}
	return min(max(cpu, 0), 100), min(max(memory, 0), 100)
}
