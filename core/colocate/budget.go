package colocate

import (
	"fmt"
	"math"
	"time"
)

// The constants of the fast loop.
const (
	levelOver  = 3 * time.Second        // the level of online use is its mean over so long
	noiseOver  = 10 * time.Second       // and its noise is learnt over so long
	holdCalm   = 5 * time.Second        // batch rises to what was free all that long
	holdMoving = 60 * time.Second       // and all that long, while online use moves
	jumpOver   = 300 * time.Millisecond // a step is over by then
	spikeOver  = 500 * time.Millisecond // and what was none as well
	lostAfter  = time.Second            // without a sample for so long, batch is at its floor

	sigmas         = 2.0  // deviations of noise that stay free, or that are no change
	jumpSigmas     = 4.0  // a sample so far above the level is a new level
	jumpPart       = 0.05 // of the machine: no smaller sample is a new level
	movingPart     = 0.10 // of the machine: online use has risen when its level did by more
	risePerSecond  = 0.05 // of the machine
	smallestChange = 0.01 // of the machine: less is not worth a write
)

// A BudgetRule says what a Budget works with. All CPU is in thousandths of a core.
type BudgetRule struct {
	CapacityMilli int64 // what the machine has
	Percent       int64 // of it online, system and batch together may use; 0 puts batch at its floor
	GuardMilli    int64 // stays free besides
	FloorMilli    int64 // batch keeps so much whatever happens, to get to where it lets go of locks
	// Exposed says that no cpu.idle stands before online: then every sample counts
	// as online's level, and room for its noise stays free. Otherwise batch gives way
	// moment by moment on its own, and the ceiling only follows the level.
	Exposed bool
}

// Validate names the field that makes no sense.
func (r BudgetRule) Validate() error {
	switch {
	case r.CapacityMilli <= 0:
		return fmt.Errorf("the CapacityMilli is %d; a machine has more than 0", r.CapacityMilli)
	case r.Percent < 0 || r.Percent > 100:
		return fmt.Errorf("the Percent is %d; give 0 to 100", r.Percent)
	case r.GuardMilli < 0:
		return fmt.Errorf("the GuardMilli is %d; give 0 or more", r.GuardMilli)
	case r.FloorMilli < 0 || r.FloorMilli > r.CapacityMilli:
		return fmt.Errorf("the FloorMilli is %d; give 0 to CapacityMilli %d", r.FloorMilli, r.CapacityMilli)
	}
	return nil
}

// bounds returns the rule with nonsense made safe: what is too large or too small
// is cut, never trusted.
func (r BudgetRule) bounds() BudgetRule {
	r.CapacityMilli = max(r.CapacityMilli, 0)
	r.Percent = min(max(r.Percent, 0), 100)
	r.GuardMilli = min(max(r.GuardMilli, 0), r.CapacityMilli)
	r.FloorMilli = min(max(r.FloorMilli, 0), r.CapacityMilli)
	return r
}

// A Use is what a machine's pods used since the sample before, as a rate.
type Use struct {
	At time.Duration // of a clock that only goes forward

	OnlineMilli int64
	SystemMilli int64 // what is no pod's
	Lost        bool  // it could not be told
}

// A Restraint is what the slack of online workloads allows beyond the budget's own
// rule; the zero Restraint allows everything.
type Restraint struct {
	Capped   bool  // CapMilli holds
	CapMilli int64 // batch has at most this
	NoGrowth bool  // batch does not rise
}

// A Reason says why a ceiling is what it is.
type Reason string

// The reasons of a ceiling.
const (
	ReasonFree    Reason = "batch has what online leaves"
	ReasonRising  Reason = "online leaves more, and batch rises to it slowly"
	ReasonSpike   Reason = "online was busy for a moment only: batch has back what it had"
	ReasonHeld    Reason = "online leaves more, and has not done so for long enough"
	ReasonSlack   Reason = "an online workload has too little slack"
	ReasonNothing Reason = "online leaves nothing: batch is at its floor"
	ReasonOut     Reason = "no share of the machine is batch's now: it is at its floor"
	ReasonLost    Reason = "what pods use cannot be told: batch is at its floor"
)

// A Ceiling is how much CPU batch pods may use together, and why.
type Ceiling struct {
	Milli  int64
	Moved  bool // it differs from the one before
	Reason Reason

	// The terms: where cpu.idle stands before online, Milli is within MarginMilli of
	// LimitMilli − BusyMilli; else MarginMilli below it. Or it is at the floor, or held.
	LimitMilli  int64 // the rule's share of the machine, less the guard
	BusyMilli   int64 // level of online and system use
	MarginMilli int64 // of their noise
}

// A Budget is the fast loop of one machine: sample by sample it says how much CPU
// batch may have. See the package comment for the law. It is not safe for use from
// several goroutines.
type Budget struct {
	rule    BudgetRule
	now     int64 // the ceiling in force; −1 before the first sample
	started bool
	jumped  time.Duration // when a sample was a new level
	doubt   *doubt        // about a new level; nil if there is none
	turns   turns
	first   time.Duration // of the samples by which the noise is known
	last    time.Duration // of the last sample that told something
	seen    time.Duration // of the last sample

	level, slow    float64 // of online and system use, over levelOver and noiseOver
	noise, swing   float64 // variances: of samples about the level, of the level about slow
	seconds        [60]peak
	riseAt, fellAt time.Duration
	direction      int // of the last move: 1 up, −1 down
	reversals      int64
}

// A doubt keeps what held before a sample that looked like a new level, for as long as
// it may have been a spike.
type doubt struct {
	at          time.Duration
	level, slow float64
	seconds     [60]peak
	turns       turns
	ceiling     int64
	fellAt      time.Duration
	high        float64 // the highest sample
	sum, n      float64 // of those after the first
}

// turns are those of the level, in steps that count.
type turns struct {
	extreme float64          // the highest or lowest since the last turn
	up      bool             // it has risen since
	rises   [2]time.Duration // when the last ones were, the last one first; 0 is never
}

func (t *turns) learn(level, part float64, at time.Duration) {
	switch {
	case t.up && level < t.extreme-part:
		t.up, t.extreme = false, level
	case !t.up && level > t.extreme+part:
		t.up, t.extreme = true, level
		t.rises = [2]time.Duration{at, t.rises[0]}
	case t.up:
		t.extreme = max(t.extreme, level)
	default:
		t.extreme = min(t.extreme, level)
	}
}

// A peak is the highest level within one second.
type peak struct {
	second int64 // since the clock's start, −1 if empty
	level  float64
}

// NewBudget returns the budget of a machine on which the ceiling inForce stands; if
// that is negative none does, and the first sample sets it.
func NewBudget(rule BudgetRule, inForce int64) *Budget {
	b := &Budget{rule: rule.bounds(), now: inForce}
	if inForce >= 0 {
		b.now = min(max(inForce, b.rule.FloorMilli), max(b.rule.CapacityMilli, b.rule.FloorMilli))
	} else {
		b.now = -1
	}
	for i := range b.seconds {
		b.seconds[i].second = -1
	}
	return b
}

// Rule makes another rule hold from the next sample on.
func (b *Budget) Rule(rule BudgetRule) { b.rule = rule.bounds() }

// Reversals returns how often the ceiling has changed its direction.
func (b *Budget) Reversals() int64 { return b.reversals }

// Next takes a sample and returns the ceiling from now on. A sample that is not
// newer than the one before changes nothing.
func (b *Budget) Next(u Use, r Restraint) Ceiling {
	if b.started && u.At <= b.seen {
		return b.ceiling(b.now, ReasonHeld)
	}
	gap := u.At - b.seen
	b.seen = u.At
	if u.Lost || u.OnlineMilli < 0 || u.SystemMilli < 0 {
		if !b.started || u.At-b.last >= lostAfter {
			b.started = true
			return b.move(b.rule.FloorMilli, u.At, ReasonLost)
		}
		return b.ceiling(b.now, ReasonHeld)
	}
	b.learn(u, gap)
	was, spike := b.settle(u)

	// 1. What is free.
	limit, margin := b.limit(), b.margin()
	step := smallestChange * float64(b.rule.CapacityMilli)
	floor := float64(b.rule.FloorMilli)
	free := limit - b.level
	most := limit - b.highest(u.At) // all through the time that batch must have waited
	down := free                    // where it falls to
	slip := margin                  // by how much it may be above what is free
	switch {
	case b.rule.Exposed: // half the margin will do: what used it up is its rare end, or a step
		most, down, slip = most-margin, free-margin/2, step-margin
	case b.stepping(u.At): // the noise at the new level is not known yet
		down = free - jumpSigmas*math.Sqrt(b.noise)
	}
	why := ReasonFree
	switch {
	case b.rule.Percent == 0:
		free, most, down, why = floor, floor, floor, ReasonOut
	case r.Capped && most >= float64(r.CapMilli):
		why = ReasonSlack
	}
	if r.Capped {
		free, most, down = min(free, float64(r.CapMilli)), min(most, float64(r.CapMilli)), min(down, float64(r.CapMilli))
		slip = min(slip, step)
	}
	if most <= floor && why != ReasonOut {
		why = ReasonNothing
	}
	free, most, down = max(free, floor), max(most, floor), max(down, floor)
	if b.now < 0 { // nothing is in force
		return b.move(int64(most), u.At, why)
	}
	now := float64(b.now)

	// 2. Back to where it was, if that was nothing.
	if spike && !r.NoGrowth && now < min(most, float64(was)) {
		return b.move(int64(min(most, float64(was))), u.At, ReasonSpike)
	}

	// 3. Down at once; what the noise may have done is no change.
	switch {
	case now < floor: // the floor has risen
		return b.move(b.rule.FloorMilli, u.At, why)
	case now > free && (now-free >= slip || free <= floor):
		return b.move(int64(down), u.At, why)
	}

	// 4. Up slowly, to what was free for long enough.
	room, worth := most-now, max(step, margin)
	switch {
	case free-now < worth: // near enough
		return b.ceiling(b.now, why)
	case r.NoGrowth:
		return b.ceiling(b.now, ReasonSlack)
	case room < worth || u.At-b.fellAt < holdCalm:
		return b.ceiling(b.now, ReasonHeld)
	case u.At-b.riseAt < time.Second:
		return b.ceiling(b.now, ReasonRising)
	}
	b.riseAt = u.At
	return b.move(int64(now+min(room, max(step, risePerSecond*float64(b.rule.CapacityMilli)))), u.At, ReasonRising)
}

// learn brings level and noise up to date.
func (b *Budget) learn(u Use, gap time.Duration) {
	// Nobody uses more than there is; a counter that says so is no reason to believe
	// less than all.
	busy := min(float64(u.OnlineMilli)+float64(u.SystemMilli), float64(b.rule.CapacityMilli))
	least := 0.01 * float64(b.rule.CapacityMilli)
	if !b.started || gap > noiseOver { // nothing is known of what was before
		b.level, b.slow = busy, busy
		b.noise, b.swing = square(jumpPart*float64(b.rule.CapacityMilli)), least*least
		b.started, b.first, b.doubt, b.turns, gap = true, u.At, nil, turns{extreme: busy}, 0
	}
	b.last = u.At
	off := busy - b.level
	// What is new is learnt as fast as there is more of it.
	known := min(noiseOver, max(u.At-b.first, time.Second))
	if off > max(jumpSigmas*math.Sqrt(b.noise), jumpPart*float64(b.rule.CapacityMilli)) {
		if b.doubt == nil && !b.rule.Exposed {
			b.doubt = &doubt{at: u.At, level: b.level, slow: b.slow, seconds: b.seconds, turns: b.turns, ceiling: b.now, fellAt: b.fellAt}
		}
		b.level, b.slow, b.jumped = busy, busy, u.At // a step, not noise
	} else {
		fast, slow := part(gap, min(known, levelOver)), part(gap, known)
		b.noise += slow * (square(clip(off, jumpSigmas*max(math.Sqrt(b.noise), least))) - b.noise)
		b.level += fast * off
		b.slow += slow * (busy - b.slow)
		b.swing += slow * (square(clip(b.level-b.slow, jumpSigmas*max(math.Sqrt(b.swing), least))) - b.swing)
		if b.rule.Exposed || b.stepping(u.At) {
			b.level = max(b.level, busy)
		}
	}
	b.turns.learn(b.level, movingPart*float64(b.rule.CapacityMilli), u.At)
	second := int64(u.At / time.Second)
	at := &b.seconds[((second%60)+60)%60]
	if at.second != second {
		*at = peak{second, b.level}
	}
	at.level = max(at.level, b.level)
}

// settle ends a doubt when there is reason to. If the new level was a spike, what held
// before holds again, and was is the ceiling of then.
func (b *Budget) settle(u Use) (was int64, spike bool) {
	d := b.doubt
	if d == nil {
		return 0, false
	}
	busy := float64(u.OnlineMilli + u.SystemMilli)
	if d.high = max(d.high, busy); u.At > d.at {
		d.sum, d.n = d.sum+busy, d.n+1
	}
	if u.At-d.at < spikeOver {
		return 0, false
	}
	b.doubt = nil
	if d.sum/d.n >= (d.level+d.high)/2 {
		return 0, false
	}
	b.level, b.slow, b.seconds, b.turns, b.fellAt, b.jumped = d.level, d.slow, d.seconds, d.turns, d.fellAt, 0
	return d.ceiling, true
}

// stepping tells whether online use has just jumped: the samples since then may have
// seen a part of it only.
func (b *Budget) stepping(at time.Duration) bool { return b.jumped > 0 && at-b.jumped <= jumpOver }

// highest returns the highest level of the time that batch must wait before it rises:
// longer when online use rises again and again.
func (b *Budget) highest(now time.Duration) float64 {
	hold := holdCalm
	if r := b.turns.rises[1]; r > 0 && now-r < 2*holdMoving {
		hold = holdMoving - time.Second
	}
	second, high := int64(now/time.Second), b.level
	for _, e := range b.seconds {
		if age := second - e.second; e.second >= 0 && age >= 0 && age <= int64(hold/time.Second) {
			high = max(high, e.level)
		}
	}
	return high
}

func (b *Budget) limit() float64 {
	return float64(b.rule.CapacityMilli*b.rule.Percent/100 - b.rule.GuardMilli)
}

func (b *Budget) margin() float64 {
	if b.rule.Exposed {
		return sigmas * math.Sqrt(b.noise)
	}
	return max(sigmas*math.Sqrt(b.swing), 2*smallestChange*float64(b.rule.CapacityMilli))
}

// move puts the ceiling at milli.
func (b *Budget) move(milli int64, at time.Duration, why Reason) Ceiling {
	before := b.now
	b.now = max(milli, b.rule.FloorMilli)
	c := b.ceiling(b.now, why)
	if before == b.now {
		return c
	}
	c.Moved = true
	direction := 1
	if b.now < before {
		direction, b.fellAt = -1, at
	}
	if before >= 0 {
		if b.direction == -direction {
			b.reversals++
		}
		b.direction = direction
	}
	return c
}

func (b *Budget) ceiling(milli int64, why Reason) Ceiling {
	return Ceiling{Milli: max(milli, b.rule.FloorMilli), Reason: why,
		LimitMilli: int64(b.limit()), BusyMilli: int64(math.Ceil(b.level)), MarginMilli: int64(math.Ceil(b.margin()))}
}

// part returns how much of a mean over a time a sample is that stands for gap.
func part(gap, over time.Duration) float64 {
	return 1 - math.Exp(-gap.Seconds()/over.Seconds())
}

func clip(x, most float64) float64 { return min(max(x, -most), most) }
func square(x float64) float64     { return x * x }
