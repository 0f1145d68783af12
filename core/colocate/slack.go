package colocate

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// How much slack is how much, in thousandths of the target.
const (
	slackFine   = 200 // batch may come back
	slackFair   = 100 // less: batch does not rise
	slackScarce = 50  // less: batch gives up a fifth
	slackMeets  = 0   // less: the target is missed, and batch goes to its floor
)

// clearlyLess is the least part by which a signal must fall, in thousandths, for
// batch to have been its cause.
const clearlyLess = 100

// A Signal is what one online workload feels, held against what it may.
type Signal struct {
	Workload string // whose, such as namespace/name
	Kind     string // which signal: p99, runqueue or pressure
	Value    int64  // in the target's unit
	Target   int64  // at most; 0 or less leaves the signal out
	Slow     bool   // Value is of a minute rather than of the time since the look before
}

// Slack is how far the signal is below its target, in thousandths of it: 1000 is
// nothing felt, less than 0 is a target missed.
func (s Signal) Slack() int64 {
	if s.Target <= 0 {
		return 1000
	}
	return 1000 - int64(1000*min(float64(max(s.Value, 0))/float64(s.Target), 1000))
}

// A SlackRule says how a Slack loop answers.
type SlackRule struct {
	CapacityMilli int64 // of the machine
	FloorMilli    int64 // what batch keeps
	// CoolDown is how long batch stays down after a target was missed; zero is none.
	CoolDown time.Duration
	// Patience is in how many looks a means must help before the next one is tried;
	// zero means 2.
	Patience int
	// Culprit says that the batch pod is known that is the cause: nobody's trouble is
	// taken for one that batch does not cause.
	Culprit bool
}

// A SlackVerdict is what the slack loop answers to one look.
type SlackVerdict struct {
	Restraint        // for the Budget
	Worst     Signal // the signal with the least slack; zero without signals
	Missed    bool   // a target is missed that batch may be the cause of
	// Stronger says that batch at its floor did not help for as many looks as
	// patience lasts: what it takes is not CPU time, and the Ladder goes on.
	Stronger bool
	// Acquitted are the workloads, sorted, whose trouble batch does not cause: nothing
	// changed for them when it was held back. They count again once they are fine.
	Acquitted []string
	Why       string // one sentence for people
}

// Slack is the slower loop of one machine, which listens to what online workloads
// feel. It is not safe for use from several goroutines.
type Slack struct {
	rule      SlackRule
	capped    bool
	most      int64 // while capped
	coolUntil time.Duration
	looks     int // in a row with a target missed
	began     map[string]int64
	acquitted map[string]bool
}

// NewSlack returns a loop that restrains nothing yet.
func NewSlack(rule SlackRule) *Slack {
	s := &Slack{began: map[string]int64{}, acquitted: map[string]bool{}}
	s.Rule(rule)
	return s
}

// Rule makes another rule hold from the next look on.
func (s *Slack) Rule(rule SlackRule) {
	rule.CapacityMilli = max(rule.CapacityMilli, 0)
	rule.FloorMilli = min(max(rule.FloorMilli, 0), rule.CapacityMilli)
	rule.Patience = max(cmp.Or(rule.Patience, 2), 1)
	s.rule = rule
}

// Look takes one look at the signals of all online workloads; ceiling is what batch
// may use now. A workload with several signals is told by the first of them: the order given is the
// order of trust. Without signals a restraint stays as it is.
func (s *Slack) Look(at time.Duration, signals []Signal, ceiling int64) SlackVerdict {
	known := map[string]bool{}
	var counted []Signal
	for _, g := range signals {
		if g.Target <= 0 || known[g.Workload] {
			continue
		}
		known[g.Workload] = true
		if g.Slack() >= slackFine {
			delete(s.acquitted, g.Workload)
		}
		if !s.acquitted[g.Workload] {
			counted = append(counted, g)
		}
	}
	for name := range s.acquitted {
		if !known[name] {
			delete(s.acquitted, name)
		}
	}
	slices.SortFunc(counted, func(a, b Signal) int {
		return cmp.Or(cmp.Compare(a.Slack(), b.Slack()), cmp.Compare(a.Workload, b.Workload))
	})
	v := SlackVerdict{}
	slack := int64(1000)
	if len(counted) > 0 {
		v.Worst, slack = counted[0], counted[0].Slack()
	}
	if slack >= slackMeets {
		s.looks = 0
		clear(s.began)
	}
	step := max(s.rule.CapacityMilli/20, 1)
	switch {
	case slack < slackMeets:
		for _, g := range counted {
			if _, yes := s.began[g.Workload]; !yes && g.Slack() < slackMeets {
				s.began[g.Workload] = g.Value
			}
		}
		s.looks++
		s.restrain(s.rule.FloorMilli)
		s.coolUntil = at + s.rule.CoolDown
		v.Missed = true
		v.Stronger = s.looks > s.rule.Patience
		if s.looks > 2*s.rule.Patience && !s.rule.Culprit {
			s.acquit(counted)
		}
		v.Why = fmt.Sprintf("%s misses its target by its %s: %d, at most %d", v.Worst.Workload, v.Worst.Kind, v.Worst.Value, v.Worst.Target)
	case slack < slackScarce:
		s.restrain(max(min(max(ceiling, 0), s.rule.CapacityMilli)*4/5, s.rule.FloorMilli))
		v.NoGrowth = true
		v.Why = fmt.Sprintf("%s has %d ‰ of slack by its %s: batch gives up a fifth", v.Worst.Workload, slack, v.Worst.Kind)
	case slack < slackFair:
		v.NoGrowth = true
		v.Why = fmt.Sprintf("%s has %d ‰ of slack by its %s: batch does not rise", v.Worst.Workload, slack, v.Worst.Kind)
	case s.capped && len(known) == 0:
		v.NoGrowth = true
		v.Why = "what online workloads feel cannot be told: batch does not rise"
	case s.capped && at < s.coolUntil:
		v.NoGrowth = true
		v.Why = "a target was missed a while ago: batch waits"
	case slack >= slackFine && s.capped:
		if s.most += step; s.most >= s.rule.CapacityMilli {
			s.capped = false
		}
	}
	if v.Capped = s.capped; s.capped {
		v.CapMilli = s.most
	}
	for name := range s.acquitted {
		v.Acquitted = append(v.Acquitted, name)
	}
	slices.Sort(v.Acquitted)
	return v
}

// restrain makes milli the most that batch has.
func (s *Slack) restrain(milli int64) {
	if !s.capped || milli < s.most {
		s.capped, s.most = true, milli
	}
}

// acquit lets go of the workloads that feel what they felt before batch was held
// back: it is not batch that they feel.
func (s *Slack) acquit(counted []Signal) {
	for _, g := range counted {
		began, yes := s.began[g.Workload]
		if yes && g.Slack() < slackMeets && float64(g.Value) > float64(began)*(1000-clearlyLess)/1000 {
			s.acquitted[g.Workload] = true
			delete(s.began, g.Workload)
		}
	}
}
