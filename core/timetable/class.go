package timetable

import (
	"time"

	"github.com/neap-dev/neap/core/elastic"
)

// Class returns what the arbiter must know of the classes now, for capacity that
// takes the lead to start.
func (a Attendance) Class(t Timetable, now time.Time, lead time.Duration, opts Options) elastic.Class {
	early := -PriorCurve()[0].At
	horizon := now.Add(max(lead, 0))
	floor := a.Floor(t, now, horizon, opts)
	out := elastic.Class{Demand: floor.Demand, In: floor.Classes > 0, Reason: floor.Reason}
	for _, s := range t.Between(now.Add(-24*time.Hour), horizon.Add(24*time.Hour), early, 0) {
		if _, size := a.expect(s, opts.Module); size == 0 {
			continue
		}
		switch begins := s.Start.Add(-early); {
		case !s.End.After(now):
			if s.End.After(out.Ended) {
				out.Ended = s.End
			}
		case !begins.After(horizon):
			out.In = true
		case out.Next.IsZero() || begins.Before(out.Next):
			out.Next = begins
		}
	}
	if out.In {
		out.Ended = time.Time{}
	}
	if !out.Next.IsZero() {
		out.Needs = a.Floor(t, out.Next, out.Next.Add(early+releaseOf(opts)), opts).Demand
	}
	return out
}

// releaseOf is how long after a class's start its floor may last.
func releaseOf(opts Options) time.Duration {
	if opts.Release > 0 {
		return opts.Release
	}
	return DefaultRelease
}
