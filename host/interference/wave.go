package interference

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/neap-dev/neap/host/cgroup"
)

// A Reaction is how soon a loop made room when online's load stepped up.
type Reaction struct {
	What         string  `json:"what"` // "step"
	Arm          string  `json:"arm"`
	Run          int     `json:"run"`    // from 1
	Millis       float64 `json:"millis"` // from the step until the ceiling was in place, and stayed
	BeforeCores  float64 `json:"beforeCores"`
	AfterCores   float64 `json:"afterCores"`   // the ceiling at the end
	OnlineCores  float64 `json:"onlineCores"`  // that the service used after the step
	BatchCores   float64 `json:"batchCores"`   // and the batch
	OtherCores   float64 `json:"otherCores"`   // and programs that are not of the measurement
	Steal        float64 `json:"steal"`        // cores that the hypervisor took
	OK           bool    `json:"ok"`           // it came in place, and nothing disturbed it
	Why          string  `json:"why"`          // not
	HighestMilli int64   `json:"highestMilli"` // of the ceiling after it was in place
}

// A Wave is how a loop behaved under a square wave of online load.
type Wave struct {
	What          string  `json:"what"` // "wave"
	Arm           string  `json:"arm"`
	PeriodSeconds float64 `json:"periodSeconds"`
	Minutes       float64 `json:"minutes"`
	Changes       int     `json:"changes"`   // of the load
	Reversals     int     `json:"reversals"` // of the ceiling's direction
	BeyondPerMin  float64 `json:"beyondPerMinute"`
	LowestCores   float64 `json:"lowestCores"` // the ceiling, at least and at most
	HighestCores  float64 `json:"highestCores"`
	OnlineCores   float64 `json:"onlineCores"`
	BatchCores    float64 `json:"batchCores"`
	OtherCores    float64 `json:"otherCores"`
	OK            bool    `json:"ok"` // nothing disturbed it
	Why           string  `json:"why"`
}

// A sighting is the batch's ceiling at a moment; noCeiling if there is none.
type sighting struct {
	at    int64 // by the monotonic clock
	milli int64
}

// inPlace is how far above the room a ceiling may be and still be in place, as a
// part of the machine: what the loops themselves take for no change.
const inPlace = 0.01

// React steps the load from low to high percent of the machine, after settle at
// low, and sees when the batch's ceiling was in place: the first moment from which
// on ceiling + what the service uses at high fit the machine.
func (h *Harness) React(ctx context.Context, arm Arm, run int, low, high float64, settle, stay time.Duration) (Reaction, error) {
	r := Reaction{What: "step", Arm: arm.Name, Run: run}
	if _, _, err := h.machine.quiet(ctx, h.options.Foreign, h.options.Patience); err != nil {
		return r, err
	}
	seen, used, step, err := h.drive(ctx, arm, []phase{{h.rate(low), settle}, {h.rate(high), stay}}, h.options.Seed^uint64(run), settle+stay/4, settle+stay)
	if err != nil {
		return r, err
	}
	r.OnlineCores, r.BatchCores, r.OtherCores, r.Steal = used.online, used.batch, used.other, used.steal
	step += int64(settle)
	room := int64(1000 * (float64(h.cores)*(1+inPlace) - used.online))
	var at int64
	for _, s := range seen {
		switch {
		case s.at < step:
			r.BeforeCores = float64(s.milli) / 1000
			r.AfterCores = r.BeforeCores
			continue
		case s.milli > room:
			at = 0
		case at == 0:
			at = s.at
			r.HighestMilli = s.milli
		default:
			r.HighestMilli = max(r.HighestMilli, s.milli)
		}
		r.AfterCores = float64(s.milli) / 1000
	}
	switch {
	case r.OtherCores > h.options.Foreign:
		r.Why = fmt.Sprintf("other programs used %.2f cores", r.OtherCores)
	case r.Steal > h.options.Steal:
		r.Why = fmt.Sprintf("the hypervisor took %.2f cores", r.Steal)
	case r.BeforeCores*1000 <= float64(room):
		r.Why = "the ceiling was there before the step"
	case at == 0:
		r.Why = "the ceiling did not come in place"
	default:
		r.OK = true
	}
	if at != 0 {
		r.Millis = float64(at-step) / 1e6
	}
	return r, nil
}

// Wave drives a square wave between low and high percent of the machine, of this
// period and for so long, and counts how often the ceiling turned.
func (h *Harness) Wave(ctx context.Context, arm Arm, low, high float64, period, long time.Duration) (Wave, error) {
	w := Wave{What: "wave", Arm: arm.Name, PeriodSeconds: period.Seconds()}
	if _, _, err := h.machine.quiet(ctx, h.options.Foreign, h.options.Patience); err != nil {
		return w, err
	}
	var phases []phase
	var all time.Duration
	for all < long {
		phases = append(phases, phase{h.rate(low), period / 2}, phase{h.rate(high), period / 2})
		all += period
	}
	if len(phases) > maxPhases {
		return w, fmt.Errorf("%v of waves of %v have more than %d phases", long, period, maxPhases)
	}
	seen, used, _, err := h.drive(ctx, arm, phases, h.options.Seed, 0, all)
	if err != nil {
		return w, err
	}
	w.Minutes, w.Changes = all.Minutes(), len(phases)-1
	w.OnlineCores, w.BatchCores, w.OtherCores = used.online, used.batch, used.other
	milli := make([]int64, 0, len(seen))
	for _, s := range seen {
		milli = append(milli, s.milli)
	}
	if len(milli) > 0 {
		w.LowestCores, w.HighestCores = float64(slices.Min(milli))/1000, float64(slices.Max(milli))/1000
	}
	w.Reversals = Reversals(milli, int64(10*h.cores))
	w.BeyondPerMin = max(0, float64(w.Reversals-w.Changes)) / w.Minutes
	if w.OK = w.OtherCores <= h.options.Foreign; !w.OK {
		w.Why = fmt.Sprintf("other programs used %.2f cores", w.OtherCores)
	}
	return w, nil
}

// Reversals returns how often a series changed its direction, counting only ways
// of more than small from one turn to the next.
func Reversals(series []int64, small int64) int {
	turns, direction := 0, 0
	var extreme int64
	for i, v := range series {
		if i == 0 {
			extreme = v
			continue
		}
		switch {
		case v-extreme > small && direction <= 0, extreme-v > small && direction >= 0:
			if direction != 0 {
				turns++
			}
			direction = 1
			if v < extreme {
				direction = -1
			}
			extreme = v
		case direction > 0:
			extreme = max(extreme, v)
		case direction < 0:
			extreme = min(extreme, v)
		}
	}
	return turns
}

// drive runs phases of load beside a compute burner and watches the ceiling. It
// says who used what between two moments, and when the load began.
func (h *Harness) drive(ctx context.Context, arm Arm, phases []phase, seed uint64, from, to time.Duration) ([]sighting, cores, int64, error) {
	if !arm.Batch {
		return nil, cores{}, 0, errors.New("without batch there is no ceiling to watch")
	}
	s, err := h.open(ctx, arm, BurnCPU, 0, 1<<16)
	if err != nil {
		return nil, cores{}, 0, err
	}
	defer s.close()
	if err := s.load(ctx, phases, seed); err != nil {
		return nil, cores{}, 0, err
	}
	stop := s.watch()
	used, err := s.between(ctx, from, to)
	seen := stop()
	if err == nil {
		_, _, err = s.finish(ctx)
	}
	return seen, used, s.start, err
}

// watch looks at the batch's ceiling each few milliseconds until it is told to
// stop. Moments without a ceiling count as all the machine.
func (s *session) watch() func() []sighting {
	done := make(chan struct{})
	var all []sighting
	var wait sync.WaitGroup
	wait.Go(func() {
		tick := time.NewTicker(4 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			milli, err := s.stage.Tree.Get(s.stage.Batch, cgroup.Quota)
			if err != nil {
				continue
			}
			if milli == cgroup.Unlimited {
				milli = int64(1000 * s.stage.Cores)
			}
			if n := len(all); n == 0 || all[n-1].milli != milli {
				all = append(all, sighting{s.clock.now(), milli})
			}
		}
	})
	return func() []sighting {
		close(done)
		wait.Wait()
		return all
	}
}
