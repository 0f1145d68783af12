package elastic

import (
	"fmt"
	"time"

	"github.com/neap-dev/neap/core/quality"
)

// ScaleIn is how replicas are taken away.
//
//	nothing → cut off from traffic → watched for Watch → deleted
//
// A broken guard takes cut-off replicas back, and so does a need for them.
type ScaleIn struct {
	Watch              time.Duration // how long cut-off replicas are watched before they go; 0: no stages
	Backoff            time.Duration // how long after a breach nothing is cut off; 0 means 5 minutes
	Step               float64       // the most that goes in a minute, as a share; 0 means all
	HoldIfNeededWithin time.Duration // replicas known to be wanted again so soon stay
}

func (s ScaleIn) validate() error {
	switch {
	case s.Watch < 0 || s.Backoff < 0 || s.HoldIfNeededWithin < 0:
		return fmt.Errorf("scale-in watches for %v, backs off for %v and looks ahead for %v; none may be below 0", s.Watch, s.Backoff, s.HoldIfNeededWithin)
	case !(s.Step >= 0 && s.Step <= 1):
		return fmt.Errorf("scale-in goes by a share of %v at once; it must be between 0 and 1", s.Step)
	}
	return nil
}

// A Stage is how far a scale-in has come.
type Stage string

// The stages: nothing goes; replicas were cut off from traffic now; they are
// watched; they are deleted; they were taken back, for the guard was broken.
const (
	StageNone     Stage = ""
	StageCutOff   Stage = "cutoff"
	StageWatch    Stage = "watch"
	StageDelete   Stage = "delete"
	StageRollback Stage = "rollback"
)

// A Gate is why replicas stay that no layer wants.
type Gate string

// The gates.
const (
	GateNone     Gate = ""
	GateMetrics  Gate = "metrics"  // gone, late or not numbers
	GateRollout  Gate = "rollout"  // two revisions are there
	GateGuard    Gate = "guard"    // the quality guard is broken or cannot be judged
	GateSoon     Gate = "soon"     // they are known to be wanted again soon
	GateRate     Gate = "rate"     // no more may go at once
	GateWatch    Gate = "watch"    // they are cut off and being watched
	GateRollback Gate = "rollback" // they were taken back a short while ago
)

// Progress is where a staged scale-in stands.
type Progress struct {
	Stage Stage     // none, watch or rollback
	Since time.Time // when it began
	Cut   int       // replicas cut off
	From  int       // of so many
}

// longestSilence is how far apart two decisions may be for what was cut off to
// count as watched in between.
const longestSilence = 5 * time.Minute

// believed returns the progress as far as the clock and the workload bear it out.
func (p Progress) believed(in Input, last time.Time) Progress {
	switch {
	case p.Stage == StageWatch && p.From != in.Current:
		return Progress{} // they went, or somebody else scaled
	case p.Since.After(in.Now), p.Stage == StageWatch && in.Now.Sub(last) > longestSilence:
		p.Since = in.Now
	}
	return p
}

// leave takes away what the gates let go of what nobody wants.
func (d *Decision) leave(in Input, before State, seen sight, hard Claim, next *Progress) {
	rule, was := in.Policy.ScaleIn, before.ScaleIn

	// 1. A hard cap does not wait.
	current := min(in.Current, hard.Cap)
	if current <= d.Wanted {
		d.Desired = d.Wanted
		d.Stage = StageDelete
		return
	}
	d.Desired = current

	// 2. Gates that hold everything take back what is cut off.
	judged := in.Guard == "" || in.Guard == quality.Met || in.Guard == quality.Unknown && seen.idle && len(in.Metrics) > 0
	backoff := rule.Backoff
	if backoff == 0 {
		backoff = 5 * time.Minute
	}
	switch {
	case in.Guard == quality.Broken && was.Cut > 0:
		*next = Progress{Stage: StageRollback, Since: in.Now}
		d.Gate, d.Stage = GateGuard, StageRollback
		return
	case was.Stage == StageRollback && in.Now.Sub(was.Since) < backoff:
		*next = was
		d.Gate, d.Stage = GateRollback, StageRollback
		return
	case seen.lost:
		d.Gate = GateMetrics
		return
	case in.Rollout:
		d.Gate = GateRollout
		return
	case !judged:
		d.Gate = GateGuard
		return
	}

	// 3. What stays for a need that is known, and what may go at once.
	target := d.Wanted
	if d.Soon > target {
		target = min(d.Soon, current)
		d.Gate = GateSoon
	}
	changes := before.Reactive.Changes
	limit := in.Policy.Reactive.Down.limit(changes, in.Now, in.Current, -1)
	if rule.Step > 0 {
		step := Behavior{Rates: []Rate{{Share: rule.Step, Period: time.Minute}}}
		limit = max(limit, step.limit(changes, in.Now, in.Current, -1))
	}
	if limit > target {
		target = min(limit, current)
		d.Gate = GateRate
	}
	if target >= current {
		return
	}

	// 4. The stages.
	if rule.Watch <= 0 {
		d.Desired, d.Stage = target, StageDelete
		return
	}
	cut := current - target
	switch {
	case was.Stage != StageWatch:
		*next = Progress{Stage: StageWatch, Since: in.Now, Cut: cut, From: in.Current}
		d.Gate, d.Stage, d.CutOff = GateWatch, StageCutOff, cut
	case in.Now.Sub(was.Since) < rule.Watch:
		*next = was
		next.Cut = min(was.Cut, cut)
		d.Gate, d.Stage, d.CutOff = GateWatch, StageWatch, next.Cut
		if was.Since.Equal(in.Now) {
			d.Stage = StageCutOff
		}
	default:
		// Kept until they are seen to be gone, so that a decision that was not
		// carried out is made again.
		*next = was
		next.Cut = min(was.Cut, cut)
		d.Desired, d.Stage, d.CutOff = current-next.Cut, StageDelete, next.Cut
		if d.Desired > target && d.Gate == GateNone {
			d.Gate = GateRate
		}
	}
}

// soon is the most replicas that are known to be wanted within the time for
// which they would be held.
func (in Input) soon() int {
	within := in.Policy.ScaleIn.HoldIfNeededWithin
	if within <= 0 {
		return 0
	}
	limit := in.Now.Add(within)
	need := in.units(in.Forecast.Soon)
	if !in.Class.Next.IsZero() && !in.Class.Next.After(limit) {
		need = max(need, in.units(in.Class.Needs))
	}
	for _, s := range in.Policy.Schedules {
		if floor, _ := s.needs(in.Now, limit, in.Policy.Calendar); floor > need {
			need = floor
		}
	}
	return need
}

// held says why replicas stay.
func (d *Decision) held(gone string) string {
	switch d.Gate {
	case GateMetrics:
		return fmt.Sprintf("the metric %q is gone, late or no number, and nothing is taken away blindly", gone)
	case GateRollout:
		return "a rollout is in progress"
	case GateGuard:
		return "the quality guard is not met"
	case GateSoon:
		return "they are wanted again soon"
	case GateRate:
		return "no more may go at once"
	case GateWatch:
		return fmt.Sprintf("%d are cut off from traffic and being watched", d.CutOff)
	case GateRollback:
		return "the guard was broken a short while ago"
	}
	return ""
}
