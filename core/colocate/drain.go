package colocate

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// A Fate is what becomes of a task when the curve falls.
type Fate uint8

// The fates.
const (
	Stay   Fate = iota // there is room for it to its expected end
	Finish             // it is expected to be done before the room is gone
	Leave              // it must leave, at Departure.At
)

// String returns the lower-case name of the fate.
func (f Fate) String() string { return [...]string{"stay", "finish", "leave"}[f] }

// A Departure is what becomes of one task.
type Departure struct {
	Task Task
	Fate Fate
	// At is when it has to be asked to leave, if it does.
	At time.Time
	// Lost is the work that goes with it: thousandths of a core times seconds.
	Lost int64
	Why  string // one sentence for people
}

// A Leaving says how tasks leave.
type Leaving struct {
	// Notice is how long before the room is gone a task is asked: its grace period
	// and what eviction takes. Zero means a minute.
	Notice time.Duration
	// PerHour is how many may be asked to leave in an hour; 0 means any number.
	PerHour int64
}

// Drain says for every task that runs what becomes of it as the curve falls, in
// the order given. Who can finish, finishes; of those for whom there is no room
// those with the least work to lose leave, as late as their notice and the rate
// of leaving allow, for a task may be done sooner than was thought.
func Drain(c Curve, now time.Time, running []Task, how Leaving) []Departure {
	out := make([]Departure, len(running))
	ends := make([]time.Time, len(running))
	for i, t := range running {
		out[i] = Departure{Task: t, Fate: Stay}
		ends[i] = now.Add(t.Remaining(now))
	}
	if how.Notice == 0 {
		how.Notice = time.Minute
	}
	var leavers []int
	first := max(c.Index(now), 0)
	for i := first; i < c.Steps(); i++ {
		at := c.Begin(i)
		if at.Before(now) {
			at = now
		}
		room := c.room(i)
		var here []int
		for k, t := range running {
			if out[k].Fate != Leave && ends[k].After(at) {
				room = room.Sub(t.Need)
				here = append(here, k)
			}
		}
		if room.CPUMilli >= 0 && room.MemoryMiB >= 0 {
			continue
		}
		for _, k := range cheapest(running, here, room, at) {
			out[k].Fate, out[k].At = Leave, at.Add(-how.Notice)
			out[k].Why = fmt.Sprintf("there is no room from %s on (UTC), and it would run until %s", at.UTC().Format("15:04"), ends[k].UTC().Format("15:04"))
			leavers = append(leavers, k)
		}
	}
	pace(out, leavers, now, how.PerHour)
	gone := outgrown(c, first, running)
	for k := range out {
		switch d := &out[k]; {
		case d.Fate == Leave:
			d.Lost = d.Task.Lost(d.At)
		case !ends[k].After(gone):
			d.Fate = Finish
			d.Why = fmt.Sprintf("it is expected to be done at %s (UTC)", ends[k].UTC().Format("15:04"))
		}
	}
	return out
}

// cheapest returns who leaves so that room is no longer negative: those with the
// least work to lose for what they free, less those that turn out not to be needed.
func cheapest(running []Task, here []int, room Room, at time.Time) []int {
	lost := func(k int) int64 { return running[k].Lost(at) }
	slices.SortFunc(here, func(a, b int) int {
		return cmp.Or(cmp.Compare(lost(a), lost(b)), cmp.Compare(running[a].Name, running[b].Name), cmp.Compare(a, b))
	})
	fits := func(r Room) bool { return r.CPUMilli >= 0 && r.MemoryMiB >= 0 }
	var chosen []int
	for _, k := range here {
		if fits(room) {
			break
		}
		need := running[k].Need
		if room.CPUMilli < 0 && need.CPUMilli > 0 || room.MemoryMiB < 0 && need.MemoryMiB > 0 {
			room = room.Add(need)
			chosen = append(chosen, k)
		}
	}
	for i := len(chosen) - 1; i >= 0; i-- { // the dearest first
		if without := room.Sub(running[chosen[i]].Need); fits(without) {
			room = without
			chosen = slices.Delete(chosen, i, i+1)
		}
	}
	return chosen
}

// pace moves departures to earlier times so that no hour has more than perHour,
// and none lies in the past.
func pace(out []Departure, leavers []int, now time.Time, perHour int64) {
	slices.SortStableFunc(leavers, func(a, b int) int { return out[b].At.Compare(out[a].At) }) // latest first
	if perHour > 0 {
		gap := time.Hour / time.Duration(perHour)
		for i := 1; i < len(leavers); i++ {
			if latest := out[leavers[i-1]].At.Add(-gap); out[leavers[i]].At.After(latest) {
				out[leavers[i]].At = latest
			}
		}
	}
	for _, k := range leavers {
		if out[k].At.Before(now) {
			out[k].At = now
		}
	}
}

// outgrown is the first time at which there is no room for all tasks, were they to
// run for ever; the zero time if there always is.
func outgrown(c Curve, first int, running []Task) time.Time {
	all := Room{}
	for _, t := range running {
		all = all.Add(t.Need)
	}
	for i := first; i < c.Steps(); i++ {
		if !all.Fits(c.room(i)) {
			return c.Begin(i)
		}
	}
	return time.Time{}
}
