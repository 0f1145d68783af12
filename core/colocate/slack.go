package colocate

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// How much slack is how much, in thousandths of the target.
const (
	slackFine   = 200   // batch may come back
	slackFair   = 100   // less: batch does not rise
	slackScarce = 50    // less: batch gives up a fifth
	slackMeets  = 0     // less: the target is missed, and batch goes to its floor
	slackGross  = -1000 // less: it is missed by so much that one look is enough
)

// firstCool is how long batch stays down after the first target missed, where cpu.idle
// stands before online; twice as long each time it comes back too soon, and the rule's
// CoolDown at most.
const firstCool = 30 * time.Second

// unheard is for how long a workload is not heard that was acquitted for the first
// time; twice as long each time after, and unheardMost at most.
const (
	unheard     = time.Minute
	unheardMost = time.Hour
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
	// Exposed says that no cpu.idle stands before online. Where it does, batch takes no
	// CPU time from online: a target must be missed twice in a row, or by far, before
	// batch pays for it, and scarce slack takes nothing from it.
	Exposed bool
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
	Missed    bool   // a target is missed, and batch held back for it
	// Stronger says that batch at its floor did not help for as many looks as
	// patience lasts: what it takes is not CPU time, and the Ladder goes on.
	Stronger bool
	// Acquitted are the workloads, sorted, whose trouble batch does not cause: nothing
	// changed for them when it was held back. They count again once they are fine and
	// have not been heard for a while, longer each time.
	Acquitted []string
	Why       string // one sentence for people
}

// Slack is the slower loop of one machine, which listens to what online workloads
// feel. It is not safe for use from several goroutines.
type Slack struct {
	rule      SlackRule
	capped    bool
	most      int64 // while capped
	had       int64 // what batch had when it was put to its floor
	coolUntil time.Duration
	offences  int              // in a row: targets missed soon after batch came back
	misses    int              // looks in a row with a target missed
	looks     int              // of them with batch at its floor
	began     map[string]int64 // what those felt who missed their target, before that
	acquitted map[string]acquittal
}

// An acquittal is of a workload whose trouble batch did not cause.
type acquittal struct {
	holds bool
	times int           // how often
	until time.Duration // it holds so long at least
}

// NewSlack returns a loop that restrains nothing yet.
func NewSlack(rule SlackRule) *Slack {
	s := &Slack{began: map[string]int64{}, acquitted: map[string]acquittal{}}
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
	counted, known := s.heard(at, signals)
	v := SlackVerdict{}
	slack := int64(1000)
	if len(counted) > 0 {
		v.Worst, slack = counted[0], counted[0].Slack()
	}
	if slack >= slackMeets {
		if s.looks > 0 { // it helped: whoever was acquitted before is heard as at first
			for name := range s.began {
				delete(s.acquitted, name)
			}
		}
		s.misses, s.looks = 0, 0
		clear(s.began)
	}
	scarce, fair := int64(slackScarce), int64(slackFair)
	if !s.rule.Exposed {
		scarce, fair = slackMeets, slackMeets
	}
	switch {
	case slack < slackMeets:
		s.misses++
		for _, g := range counted {
			if began, yes := s.began[g.Workload]; g.Slack() < slackMeets && (!yes || s.looks == 0 && g.Value < began) {
				s.began[g.Workload] = g.Value
			}
		}
		v.Why = fmt.Sprintf("%s misses its target by its %s: %d, at most %d", v.Worst.Workload, v.Worst.Kind, v.Worst.Value, v.Worst.Target)
		if !s.rule.Exposed && s.misses == 1 && slack >= slackGross {
			v.NoGrowth = true
			v.Why += ", for the first time: batch does not rise"
			break
		}
		if s.looks++; s.looks == 1 {
			s.had = min(max(ceiling, s.rule.FloorMilli), s.rule.CapacityMilli)
			if s.offences++; s.coolUntil == 0 || at > s.coolUntil+2*s.rule.CoolDown {
				s.offences = 0
			}
		}
		s.restrain(s.rule.FloorMilli)
		cool := s.rule.CoolDown
		if !s.rule.Exposed {
			cool = min(firstCool<<min(s.offences, 10), cool)
		}
		s.coolUntil = at + cool
		v.Missed = true
		v.Stronger = s.looks > s.rule.Patience
		if s.looks > 2*s.rule.Patience && !s.rule.Culprit && s.acquit(at, counted) {
			s.capped, s.misses, s.looks, s.coolUntil = false, 0, 0, 0
			v.Missed, v.Stronger = false, false
			v.Why += ", with batch at its floor as before: it is not batch that it feels"
		}
	case slack < scarce:
		s.restrain(max(min(max(ceiling, 0), s.rule.CapacityMilli)*4/5, s.rule.FloorMilli))
		v.NoGrowth = true
		v.Why = fmt.Sprintf("%s has %d ‰ of slack by its %s: batch gives up a fifth", v.Worst.Workload, slack, v.Worst.Kind)
	case slack < fair:
		v.NoGrowth = true
		v.Why = fmt.Sprintf("%s has %d ‰ of slack by its %s: batch does not rise", v.Worst.Workload, slack, v.Worst.Kind)
	case s.capped && known == 0:
		v.NoGrowth = true
		v.Why = "what online workloads feel cannot be told: batch does not rise"
	case s.capped && at < s.coolUntil:
		v.NoGrowth = true
		v.Why = "a target was missed a while ago: batch waits"
	case slack >= slackFine && s.capped:
		s.rise()
	}
	if v.Capped = s.capped; s.capped {
		v.CapMilli = s.most
	}
	for name, a := range s.acquitted {
		if a.holds {
			v.Acquitted = append(v.Acquitted, name)
		}
	}
	slices.Sort(v.Acquitted)
	return v
}

// heard returns the signals that count, the least slack first, and how many workloads
// there are.
func (s *Slack) heard(at time.Duration, signals []Signal) (counted []Signal, workloads int) {
	known := map[string]bool{}
	for _, g := range signals {
		if g.Target <= 0 || known[g.Workload] {
			continue
		}
		known[g.Workload] = true
		a := s.acquitted[g.Workload]
		if a.holds && g.Slack() >= slackFine && at >= a.until {
			a.holds = false
			s.acquitted[g.Workload] = a
		}
		if !a.holds {
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
	return counted, len(known)
}

// rise gives batch more: twice as much up to half of what it had when a target was
// missed, a twentieth of the machine at a time beyond.
func (s *Slack) rise() {
	s.most = max(min(2*s.most, s.had/2), s.most+max(s.rule.CapacityMilli/20, 1))
	if s.most >= s.rule.CapacityMilli {
		s.capped = false
	}
}

// restrain makes milli the most that batch has.
func (s *Slack) restrain(milli int64) {
	if !s.capped || milli < s.most {
		s.capped, s.most = true, milli
	}
}

// acquit lets go of the workloads that feel what they felt before batch was held
// back: it is not batch that they feel. It tells whether nobody else is left who
// misses a target.
func (s *Slack) acquit(at time.Duration, counted []Signal) (all bool) {
	all = true
	for _, g := range counted {
		if g.Slack() >= slackMeets {
			continue
		}
		began, yes := s.began[g.Workload]
		if !yes || float64(g.Value) <= float64(began)*(1000-clearlyLess)/1000 {
			all = false
			continue
		}
		a := s.acquitted[g.Workload]
		a.holds, a.until = true, at+min(unheard<<min(a.times, 10), unheardMost)
		a.times++
		s.acquitted[g.Workload] = a
		delete(s.began, g.Workload)
	}
	return all
}
