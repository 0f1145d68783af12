package colocation

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/neap-dev/neap/core/colocate"
)

// Seen is what a policy knows when it decides, a minute after the newest value.
type Seen struct {
	Minute int
	Now    time.Time
	// Online is what is known of the use, one value a minute up to the minute
	// before; NaN where nothing is known. It must not be changed.
	Online []float64
}

// A Lender decides which jobs may run on a machine.
type Lender interface {
	// Look is called every minute.
	Look(Seen)
	// Fits says whether a job may begin beside those that run.
	Fits(now time.Time, asks colocate.Task, running []colocate.Task) bool
	// Leave names jobs that are to be evicted now, if any, by their index.
	Leave(now time.Time, running []colocate.Task) []int
}

// A Result is how a lender did on one machine over the minutes that count. All
// hours are core-hours.
type Result struct {
	Minutes      int     `json:"minutes"`
	OfferedHours float64 `json:"offeredHours"` // promised to jobs
	GotHours     float64 `json:"gotHours"`     // of which they could use
	LostHours    float64 `json:"lostHours"`    // of which was lost with those evicted
	EvictedJobs  int     `json:"evictedJobs"`
	DoneJobs     int     `json:"doneJobs"`
	DoneMinutes  float64 `json:"doneMinutes"` // of run time of the jobs that were done
	// Violations are minutes in which more was promised than free, ViolatedHours
	// by how much.
	Violations    int     `json:"violatedMinutes"`
	ViolatedHours float64 `json:"violatedHours"`
	// Hasty are jobs that were evicted before a window opened and would have been
	// done by then.
	Hasty int `json:"hasty,omitempty"`
	// WindowHours were promised while a window was open.
	WindowHours float64 `json:"windowHours,omitempty"`
}

// add adds s to r.
func (r *Result) add(s Result) {
	r.Minutes += s.Minutes
	r.OfferedHours += s.OfferedHours
	r.GotHours += s.GotHours
	r.LostHours += s.LostHours
	r.EvictedJobs += s.EvictedJobs
	r.DoneJobs += s.DoneJobs
	r.DoneMinutes += s.DoneMinutes
	r.Violations += s.Violations
	r.ViolatedHours += s.ViolatedHours
	r.Hasty += s.Hasty
	r.WindowHours += s.WindowHours
}

// The thresholds at which jobs are evicted, as Koordinator's documentation
// recommends them.
const (
	evictBelow  = 0.6
	evictUntil  = 0.8
	evictRounds = 5 // minutes
)

// A player is one lender at work.
type player struct {
	lender Lender
	jobs   []running
	tasks  []colocate.Task
	next   int // id
	hungry int // minutes in a row
	result [2]Result
}

// play plays lenders over a machine in lockstep; results are by half of the
// test.
func play(ctx context.Context, m *Machine, mix Mix, seed uint64, hours []colocate.Hours, lenders []Lender) ([][2]Result, error) {
	players := make([]player, len(lenders))
	for i, l := range lenders {
		players[i].lender = l
	}
	var queue []Job
	windows := colocate.Windows(hours, m.From, m.From.Add(time.Duration(len(m.Online))*time.Minute))
	middle := m.Test + (len(m.Online)-m.Test)/2
	for t := max(m.Test-day/2, 1); t < len(m.Online); t++ { // half a day to fill up
		if t%day == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		now := m.From.Add(time.Duration(t) * time.Minute)
		seen := Seen{Minute: t, Now: now, Online: m.Online[:t]}
		queue = mix.waiting(seed, t, queue)
		line, opens := float64(Line), math.Inf(1) // minutes until a window opens
		for _, w := range windows {
			if !now.Before(w.From) && now.Before(w.To) {
				line = min(line, float64(w.CPUPercent))
			}
			if until := w.From.Sub(now).Minutes(); until >= 0 {
				opens = min(opens, until)
			}
		}
		free := max(0, m.Milli*line/100-m.Online[t])
		half := 0
		if t >= middle {
			half = 1
		}
		for i := range players {
			r := &Result{}
			if t >= m.Test && known(free) {
				r = &players[i].result[half]
			}
			players[i].minute(seen, queue, sky{free, opens, line < Line}, r)
		}
	}
	out := make([][2]Result, len(players))
	for i := range players {
		out[i] = players[i].result
	}
	return out, nil
}

// A sky is what all lenders on a machine live under in one minute.
type sky struct {
	free  float64 // thousandths of a core
	opens float64 // minutes until a window opens
	open  bool    // a window is
}

// minute plays one minute: the lender looks, jobs leave and begin, and all of
// them run with what is free.
func (p *player) minute(seen Seen, queue []Job, over sky, r *Result) {
	free := over.free
	p.lender.Look(seen)
	leave := p.lender.Leave(seen.Now, p.tasks)
	slices.Sort(leave)
	for _, i := range slices.Backward(leave) {
		if j := p.jobs[i]; over.opens > 0 && j.Work-j.done <= over.opens {
			r.Hasty++
		}
		p.evict(i, r)
	}
	for _, j := range queue {
		t := colocate.Task{Name: strconv.Itoa(p.next), Need: colocate.Room{CPUMilli: j.Milli}, RunTime: j.Expected}
		if !p.lender.Fits(seen.Now, t, p.tasks) {
			continue
		}
		t.Started = seen.Now
		p.jobs = append(p.jobs, running{Job: j, id: p.next})
		p.tasks = append(p.tasks, t)
		p.next++
	}
	promised := 0.0
	for _, j := range p.jobs {
		promised += float64(j.Milli)
	}
	if !known(free) { // nobody knows: they run as they were promised
		free = promised
	}
	got := min(promised, free)
	r.Minutes++
	r.OfferedHours += promised / 60e3
	r.GotHours += got / 60e3
	if over.open {
		r.WindowHours += promised / 60e3
	}
	if promised > free {
		r.Violations++
		r.ViolatedHours += (promised - free) / 60e3
	}
	if promised == 0 {
		p.hungry = 0
		return
	}
	speed := got / promised
	for i := len(p.jobs) - 1; i >= 0; i-- {
		j := &p.jobs[i]
		if j.done += speed; j.done >= j.Work {
			r.DoneJobs++
			r.DoneMinutes += j.Work
			p.remove(i)
		}
	}
	if speed >= evictBelow {
		p.hungry = 0
		return
	}
	if p.hungry++; p.hungry < evictRounds {
		return
	}
	p.hungry = 0
	promised = 0
	order := make([]int, len(p.jobs))
	for i, j := range p.jobs {
		order[i] = i
		promised += float64(j.Milli)
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(p.jobs[a].done*float64(p.jobs[a].Milli), p.jobs[b].done*float64(p.jobs[b].Milli)), cmp.Compare(p.jobs[a].id, p.jobs[b].id))
	})
	n := 0
	for ; n < len(order) && promised*evictUntil > free; n++ {
		promised -= float64(p.jobs[order[n]].Milli)
	}
	gone := order[:n]
	slices.Sort(gone)
	for _, i := range slices.Backward(gone) {
		p.evict(i, r)
	}
}

func (p *player) evict(i int, r *Result) {
	r.EvictedJobs++
	r.LostHours += p.jobs[i].done * float64(p.jobs[i].Milli) / 60e3
	p.remove(i)
}

func (p *player) remove(i int) {
	p.jobs = slices.Delete(p.jobs, i, i+1)
	p.tasks = slices.Delete(p.tasks, i, i+1)
}
