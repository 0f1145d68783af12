package colocate

import (
	"fmt"
	"time"
)

// A Verdict says whether a task may begin now.
type Verdict struct {
	Fits bool
	// Until says when the first step begins that has no room for it; zero if all have.
	Until time.Time
	// Short is what is missing there, and Room what there is beside the tasks that
	// still run then.
	Short, Room Room
	Why         string // one sentence for people; empty if it fits
}

// Admit says whether a task fits beside those that run, in every step of the
// curve from now to its expected end. Those that run count until their own
// expected ends.
//
// A task that runs longer than the curve reaches is held against all of it.
func Admit(c Curve, now time.Time, asks Task, running []Task) Verdict {
	i := max(c.Index(now), 0)
	if i >= c.Steps() {
		return Verdict{Until: now, Short: asks.Need, Why: "nobody says what this machine may lend; its batch capacity has run out or was never given"}
	}
	end := now.Add(asks.Remaining(now))
	for at := now; ; at = c.Begin(i) {
		room := c.room(i)
		for _, t := range running {
			if now.Add(t.Remaining(now)).After(at) {
				room = room.Sub(t.Need)
			}
		}
		if !asks.Need.Fits(room) {
			v := Verdict{Until: at, Short: asks.Need.Sub(room).Max(Room{}), Room: room.Max(Room{})}
			when := "now"
			if at.After(now) {
				when = fmt.Sprintf("from %s on, and it would run until %s", at.UTC().Format("15:04"), end.UTC().Format("15:04"))
			}
			v.Why = fmt.Sprintf("short of %s %s (UTC)", v.Short, when)
			if at.Equal(now) {
				v.Why = fmt.Sprintf("short of %s now", v.Short)
			}
			return v
		}
		if i++; i >= c.Steps() || !c.Begin(i).Before(end) {
			return Verdict{Fits: true}
		}
	}
}

// String returns the room for people, such as "1.5 cores and 2048 MiB".
func (r Room) String() string {
	switch {
	case r.MemoryMiB == 0:
		return cores(r.CPUMilli)
	case r.CPUMilli == 0:
		return fmt.Sprintf("%d MiB", r.MemoryMiB)
	}
	return fmt.Sprintf("%s and %d MiB", cores(r.CPUMilli), r.MemoryMiB)
}

func cores(milli int64) string { return fmt.Sprintf("%.4g cores", float64(milli)/1000) }
