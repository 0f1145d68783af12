package colocate

import "time"

// A Room is an amount of what batch pods share.
type Room struct {
	CPUMilli  int64 // thousandths of a core
	MemoryMiB int64
}

// Add returns r+s.
func (r Room) Add(s Room) Room { return Room{r.CPUMilli + s.CPUMilli, r.MemoryMiB + s.MemoryMiB} }

// Sub returns r−s, which may be negative.
func (r Room) Sub(s Room) Room { return Room{r.CPUMilli - s.CPUMilli, r.MemoryMiB - s.MemoryMiB} }

// Min returns the smaller of r and s, kind by kind.
func (r Room) Min(s Room) Room {
	return Room{min(r.CPUMilli, s.CPUMilli), min(r.MemoryMiB, s.MemoryMiB)}
}

// Max returns the larger of r and s, kind by kind.
func (r Room) Max(s Room) Room {
	return Room{max(r.CPUMilli, s.CPUMilli), max(r.MemoryMiB, s.MemoryMiB)}
}

// Fits reports whether r fits into s in both kinds.
func (r Room) Fits(s Room) bool { return r.CPUMilli <= s.CPUMilli && r.MemoryMiB <= s.MemoryMiB }

// A Curve is what batch pods may have in all on one machine, step by step: step i
// begins at Start + i·Step. The zero Curve lends nothing.
type Curve struct {
	Start     time.Time
	Step      time.Duration
	CPUMilli  []int64
	MemoryMiB []int64 // as many as CPUMilli
}

// Steps is how many steps the curve has: as many as both kinds have.
func (c Curve) Steps() int {
	if c.Step <= 0 {
		return 0
	}
	return min(len(c.CPUMilli), len(c.MemoryMiB))
}

// End is the end of the last step.
func (c Curve) End() time.Time { return c.Start.Add(time.Duration(c.Steps()) * c.Step) }

// Begin is when step i begins.
func (c Curve) Begin(i int) time.Time { return c.Start.Add(time.Duration(i) * c.Step) }

// Index returns the step in which t lies. Before the curve it is −1, and behind
// it Steps().
func (c Curve) Index(t time.Time) int {
	switch {
	case t.Before(c.Start):
		return -1
	case !t.Before(c.End()):
		return c.Steps()
	}
	return int(t.Sub(c.Start) / c.Step)
}

// room returns what step i lends, never less than nothing.
func (c Curve) room(i int) Room { return Room{c.CPUMilli[i], c.MemoryMiB[i]}.Max(Room{}) }

// At returns what may be used at t. Behind the curve that is nothing: a curve
// that nobody renewed lends no more. A time before its start counts as its start,
// for clocks differ.
func (c Curve) At(t time.Time) Room {
	i := max(c.Index(t), 0)
	if i >= c.Steps() {
		return Room{}
	}
	return c.room(i)
}

// Least returns what may be used from from until before to without a break: the
// least of all steps in between, kind by kind. A stretch that goes on behind the
// curve is held against the steps there are; one that begins behind it gets
// nothing. At least the step of from counts.
func (c Curve) Least(from, to time.Time) Room {
	i, end := max(c.Index(from), 0), c.Steps()
	if i >= end {
		return Room{}
	}
	least := c.room(i)
	for i++; i < end && c.Begin(i).Before(to); i++ {
		least = least.Min(c.room(i))
	}
	return least
}

// A Task is a batch pod that runs, or asks to.
type Task struct {
	Name string // tells tasks apart; ties are broken by it
	Need Room   // what it asks for, as long as it runs
	// Started is when it began; zero for one that asks to.
	Started time.Time
	// RunTime is how long it is expected to run in all: declared, or learnt from
	// those before it.
	RunTime time.Duration
	// Saved is when it last kept its work; zero means never.
	Saved time.Time
}

// overdue is the share of the time it has run that a task which outran its run
// time is expected to go on: long runs are long.
const overdue = 0.25

// Remaining is how much longer the task is expected to run from now on.
func (t Task) Remaining(now time.Time) time.Duration {
	if t.Started.IsZero() {
		return max(t.RunTime, 0)
	}
	ran := max(now.Sub(t.Started), 0)
	return max(t.RunTime-ran, time.Duration(overdue*float64(ran)), 0)
}

// Lost is the work that is gone if the task ends at t before it is done: thousandths
// of a core times the seconds since it began or last kept its work.
func (t Task) Lost(at time.Time) int64 {
	since := t.Started
	if t.Saved.After(since) {
		since = t.Saved
	}
	if t.Started.IsZero() || !at.After(since) {
		return 0
	}
	return t.Need.CPUMilli * int64(at.Sub(since)/time.Second)
}
