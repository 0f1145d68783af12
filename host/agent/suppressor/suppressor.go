// Package suppressor holds batch pods to what online pods leave of the CPU, many
// times a second.
//
// A tick reads what the pods' groups and the machine used since the one before,
// asks [colocate.Budget] for the ceiling, and writes it as the quota of batch's
// group when it moved. Four files are read and seldom one is written, however many
// pods there are: online is what all pods use less what batch uses.
//
//	online = all pods − batch + guests        guests are online pods in batch's group
//	system = machine − all pods
//
// Where cpu.idle stands before online, batch may also make up in one period of the
// quota for what online kept it from in the periods before (the kernel's burst, Linux
// 5.14): its mean is the ceiling, and not what noise leaves of it.
//
// [New] with a [Plan], then [Suppressor.Run]; whoever keeps the time himself calls
// [Suppressor.Tick]. It knows groups and numbers, and nothing of Kubernetes.
//
// Not here: the law of the ceiling (core/colocate), who owns the files
// (host/cgroup), what online pods feel (host/agent/slackwatcher).
package suppressor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/cgroup"
)

// Every is the usual time between ticks.
const Every = 100 * time.Millisecond

// A Hand makes knobs of groups hold values. A [cgroup.Ledger] is one.
type Hand interface {
	Set(wants ...cgroup.Want) error
}

// A Plan is what a suppressor works with; it may be changed at any time.
type Plan struct {
	Pods   cgroup.Group   // all pods are in it
	Batch  cgroup.Group   // within Pods: what the ceiling is for
	Guests []cgroup.Group // groups in Batch that are online's
	Rule   colocate.BudgetRule
	// Restraint is what the slack of online pods allows.
	Restraint colocate.Restraint
	// Write has the ceiling written; without it it is only told.
	Write bool
}

// Options say what a suppressor works with.
type Options struct {
	Tree *cgroup.Tree // required
	Hand Hand         // required
	Plan Plan         // to begin with
	// InForce is the ceiling that stands, in thousandths of a core; negative if none
	// does, and the first tick sets one.
	InForce int64
	Log     *slog.Logger // nil logs nothing
}

// A State is what a suppressor saw and did at its last tick.
type State struct {
	At  time.Duration // since the suppressor began
	Use colocate.Use
	// BatchMilli is what batch pods used, GuestMilli online pods in their group.
	BatchMilli, GuestMilli int64
	Ceiling                colocate.Ceiling
	QuotaMilli             int64 // what was last written; Unlimited if nothing was
	BurstMicros            int64 // and the burst, of each period
	Reversals              int64
	Ticks, Writes          int64
	BatchCPU               time.Duration // that batch used since the suppressor began
	Err                    error         // what went wrong at the last tick, nil if nothing did
}

// A Suppressor is the fast loop of one machine. Tick and Run are for one goroutine
// at a time; the other methods may be called from any.
type Suppressor struct {
	opts   Options
	began  time.Time
	budget *colocate.Budget
	gauges map[cgroup.Group]*gauge
	guests [10]int64 // milli, of the last ticks
	plain  bool      // the kernel has no burst

	mu    sync.Mutex
	plan  Plan
	state State
}

// New returns a suppressor. [Suppressor.Close] ends it.
func New(opts Options) *Suppressor {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Suppressor{
		opts: opts, plan: opts.Plan, began: time.Now(), budget: colocate.NewBudget(opts.Plan.Rule, opts.InForce),
		gauges: map[cgroup.Group]*gauge{}, state: State{QuotaMilli: cgroup.Unlimited},
	}
}

// Follow makes change part of the plan from the next tick on.
func (s *Suppressor) Follow(change func(*Plan)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan.Guests = slices.Clone(s.plan.Guests) // a tick may be reading the old ones
	change(&s.plan)
}

// State returns what the last tick saw and did.
func (s *Suppressor) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Run ticks until ctx ends.
func (s *Suppressor) Run(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		s.Tick()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Close gives the meters back. What was written stays: it is the hand's.
func (s *Suppressor) Close() {
	for g := range s.gauges {
		s.drop(g)
	}
}

// Tick looks once and writes the ceiling if it moved.
func (s *Suppressor) Tick() State {
	s.mu.Lock()
	plan, state := s.plan, s.state
	s.mu.Unlock()

	// 1. Look.
	state.At = time.Since(s.began)
	state.Ticks++
	known, err := s.look(plan, &state)
	if state.Err = err; err == nil && !known {
		s.keep(state) // rates take two looks
		return state
	}

	// 2. Decide.
	s.budget.Rule(plan.Rule)
	state.Ceiling = s.budget.Next(state.Use, plan.Restraint)
	state.Reversals = s.budget.Reversals()

	// 3. Write.
	s.guests[state.Ticks%int64(len(s.guests))] = state.GuestMilli
	quota := cgroup.Unlimited
	if plan.Write {
		quota = state.Ceiling.Milli + s.roomOfGuests(plan)
	}
	if quota != state.QuotaMilli || state.Ceiling.Moved && plan.Write || plan.Rule.Exposed && state.BurstMicros > 0 {
		if err := s.write(plan, quota, &state); err != nil {
			state.Err = errors.Join(state.Err, fmt.Errorf("hold batch to %d thousandths of a core: %w", quota, err))
			quota = state.QuotaMilli - 1 // tried again at the next tick
		} else {
			state.Writes++
		}
		state.QuotaMilli = quota
	}
	s.keep(state)
	return state
}

// write writes a quota, and the burst that goes with it.
func (s *Suppressor) write(plan Plan, quota int64, state *State) error {
	reason := string(state.Ceiling.Reason)
	wants := []cgroup.Want{{Group: plan.Batch, Knob: cgroup.Quota, Value: quota, Reason: reason}}
	burst := int64(0)
	if quota != cgroup.Unlimited && !plan.Rule.Exposed && !s.plain {
		if period, err := s.opts.Tree.Get(plan.Batch, cgroup.Period); err == nil {
			burst = quota * period / 1000
		}
	}
	if burst == 0 && state.BurstMicros == 0 {
		return s.opts.Hand.Set(wants...)
	}
	err := s.opts.Hand.Set(append(wants, cgroup.Want{Group: plan.Batch, Knob: cgroup.Burst, Value: burst, Reason: reason})...)
	if errors.Is(err, cgroup.ErrAbsent) {
		s.plain, state.BurstMicros = true, 0
		return s.opts.Hand.Set(wants...)
	}
	if err == nil {
		state.BurstMicros = burst
	}
	return err
}

func (s *Suppressor) keep(state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
}

// roomOfGuests is what batch's group gets for the online pods in it: the most they
// used lately, in steps that are worth a write.
func (s *Suppressor) roomOfGuests(plan Plan) int64 {
	if len(plan.Guests) == 0 {
		return 0
	}
	step := max(plan.Rule.CapacityMilli/50, 1)
	return (slices.Max(s.guests[:])/step + 1) * step
}

// look puts what was used since the tick before into state. It is not known when a
// group was seen for the first time.
func (s *Suppressor) look(plan Plan, state *State) (known bool, err error) {
	state.Use = colocate.Use{At: state.At}
	wanted := map[cgroup.Group]bool{"/": true, plan.Pods: true, plan.Batch: true}
	for _, g := range plan.Guests {
		wanted[g] = true
	}
	for g := range s.gauges {
		if !wanted[g] {
			s.drop(g)
		}
	}
	machine, err1 := s.rate("/")
	pods, err2 := s.rate(plan.Pods)
	batch, err3 := s.rate(plan.Batch)
	var guests int64
	var errGuests error
	for _, g := range plan.Guests {
		r, err := s.rate(g)
		if errors.Is(err, cgroup.ErrGone) {
			continue // its pod has ended
		}
		if err != nil {
			errGuests = errors.Join(errGuests, err)
		}
		guests += r.milli
	}
	if errors.Is(err3, cgroup.ErrGone) {
		batch, err3 = rate{known: true}, nil // there has been no batch pod yet
	}
	if err := errors.Join(err1, err2, err3, errGuests); err != nil {
		state.Use.Lost = true
		return false, err
	}
	if !machine.known || !pods.known || !batch.known {
		return false, nil
	}
	state.GuestMilli = min(guests, batch.milli)
	state.BatchMilli = batch.milli - state.GuestMilli
	state.BatchCPU += max(batch.used, 0)
	state.Use.OnlineMilli = max(pods.milli-batch.milli, 0) + state.GuestMilli
	state.Use.SystemMilli = max(machine.milli-pods.milli, 0)
	return true, nil
}

// A gauge tells the rate of one group.
type gauge struct {
	meter *cgroup.Meter
	at    time.Time
	cpu   time.Duration
	known bool // at and cpu hold
}

// A rate is what a group used since the tick before.
type rate struct {
	known bool
	milli int64
	used  time.Duration
}

// rate reads a group. A group that is new, or was made anew, has no rate yet.
func (s *Suppressor) rate(g cgroup.Group) (rate, error) {
	m := s.gauges[g]
	if m == nil {
		meter, err := s.opts.Tree.Meter(g)
		if err != nil {
			return rate{}, err
		}
		m = &gauge{meter: meter}
		s.gauges[g] = m
	}
	use, err := m.meter.ReadCPU()
	if err != nil {
		s.drop(g)
		return rate{}, err
	}
	now := time.Now() // of this reading: a tick may be held up between two
	before := *m
	m.at, m.cpu, m.known = now, use.CPU, true
	gone := now.Sub(before.at)
	if !before.known || use.CPU < before.cpu || gone <= 0 {
		return rate{}, nil
	}
	used := use.CPU - before.cpu
	return rate{known: true, milli: int64(1000 * used.Seconds() / gone.Seconds()), used: used}, nil
}

func (s *Suppressor) drop(g cgroup.Group) {
	if m := s.gauges[g]; m != nil {
		if err := m.meter.Close(); err != nil {
			s.opts.Log.Debug("a meter does not close", "group", g, "error", err)
		}
		delete(s.gauges, g)
	}
}
