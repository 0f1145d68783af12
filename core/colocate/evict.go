package colocate

import (
	"slices"
	"time"
)

// Evict returns which of the running tasks end so that at least need is freed, with
// the least work lost: indices into running, in the order in which they should go.
// It ends none that is not needed. If all of them are not enough, it is all that
// free anything of what is short.
func Evict(running []Task, need Room, now time.Time) []int {
	here := make([]int, len(running))
	for i := range running {
		here[i] = i
	}
	return cheapest(running, here, Room{}.Sub(need.Max(Room{})), now)
}

// MayEvict reports whether one more eviction is within perHour in any hour, and how
// long to wait if not. past are the times of those before, in any order. Evictions
// that a clock puts into the future count: whoever set it back gains none.
func MayEvict(past []time.Time, now time.Time, perHour int64) (wait time.Duration, ok bool) {
	if perHour <= 0 {
		return time.Hour, false
	}
	var recent []time.Time
	for _, at := range past {
		if at.Add(time.Hour).After(now) {
			recent = append(recent, at)
		}
	}
	if int64(len(recent)) < perHour {
		return 0, true
	}
	slices.SortFunc(recent, time.Time.Compare)
	return min(recent[int64(len(recent))-perHour].Add(time.Hour).Sub(now), time.Hour), false
}

// A Freeze is how one pod has been frozen; the zero Freeze is a pod that never was.
type Freeze struct {
	At   time.Duration // when it last was frozen
	Till time.Duration // when it last was let go; before At while it is frozen
}

// MayFreeze reports whether a pod that may be frozen for most may be frozen now, or
// stay so. One that was let go runs at least as long as it may be frozen, before it
// is frozen again.
func (f Freeze) MayFreeze(now, most time.Duration) bool {
	switch {
	case most <= 0 || now < f.At:
		return false
	case f.At == 0 && f.Till == 0:
		return true
	case f.Till < f.At: // it is frozen
		return now-f.At < most
	}
	return now-f.Till >= most
}
