package repacker

import (
	"fmt"
	"slices"
	"time"

	"github.com/neap-dev/neap/api/v1alpha1"
)

// Seen is what is known now of one move that is under way.
type Seen struct {
	Now      time.Time
	Deadline time.Time // when the replacement has to be ready
	Abort    bool      // the plan is given up

	Old   OldPod
	Surge SurgePod
	Set   Set
}

// An OldPod is the pod that is to move.
type OldPod struct {
	There   bool // it exists, and is the same one still
	Leaving bool // it is being deleted
	Marked  bool // its deletion cost says that it goes first
}

// A SurgePod is the replacement.
type SurgePod struct {
	There   bool
	Leaving bool   // it is being deleted
	Over    bool   // it has ended by itself
	Ready   bool   // it could serve
	At      string // where it is, if not where it should be
	Placed  bool   // it is where it should be
	Counts  bool   // Services and budgets find it
	Handed  bool   // its ReplicaSet finds it, too
	Adopted bool   // and has it
}

// A Set is the ReplicaSet that both belong to.
type Set struct {
	There    bool
	Outdated bool   // it is not its workload's newest, or has no replicas any more
	Unsteady bool   // it has not as many pods as it should
	Unready  string // a pod of it, neither of the two, that is not ready; "" if none
}

// A Step is what is done next for a move.
type Step string

// The steps.
const (
	StepWait   Step = "Wait"
	StepCreate Step = "Create" // make the replacement
	StepCount  Step = "Count"  // give it the labels by which Services and budgets find it
	StepHand   Step = "Hand"   // ask the budget, mark the old pod, let the ReplicaSet have the new one
	StepEvict  Step = "Evict"  // ask the old one to go
	StepEnd    Step = "End"    // nothing is left to do but to write it down
	StepUndo   Step = "Undo"   // take replacement and mark away, and end
)

// A Verdict is what is done next for a move and how far it is then.
type Verdict struct {
	Step    Step
	State   v1alpha1.RepackMoveState
	Message string
}

// Next says what to do for a move that has begun. It is pure.
func Next(seen Seen) Verdict {
	undo := func(state v1alpha1.RepackMoveState, format string, args ...any) Verdict {
		return Verdict{StepUndo, state, fmt.Sprintf(format, args...)}
	}
	old, surge, set := seen.Old, seen.Surge, seen.Set

	// 1. The ReplicaSet was given the replacement: there is no way back. It takes
	// the old pod away itself, unless it took another one that was not ready.
	if surge.There && surge.Handed {
		switch {
		case !set.There:
			return undo(v1alpha1.MoveSkipped, "its ReplicaSet is gone")
		case surge.Leaving && old.There && !old.Leaving:
			return undo(v1alpha1.MoveFailed, "the replacement was taken away by somebody else, and the old pod stays")
		case !old.There && surge.Adopted:
			return Verdict{Step: StepEnd, State: v1alpha1.MoveDone}
		case !old.There:
			return Verdict{StepWait, v1alpha1.MoveLeaving, "the ReplicaSet has yet to take the replacement"}
		case old.Leaving:
			return Verdict{StepWait, v1alpha1.MoveLeaving, "the old pod is ending"}
		case seen.Abort:
			return undo(v1alpha1.MoveFailed, "the plan was aborted while both pods served; the old one stays")
		}
		return Verdict{Step: StepEvict, State: v1alpha1.MoveLeaving}
	}

	// 2. Everything else can be taken back.
	switch {
	case seen.Abort:
		return undo(v1alpha1.MoveUndone, "the plan was aborted; the old pod stays")
	case !old.There || old.Leaving:
		return undo(v1alpha1.MoveSkipped, "the old pod went by itself")
	case !set.There:
		return undo(v1alpha1.MoveSkipped, "its ReplicaSet is gone")
	case set.Outdated:
		return undo(v1alpha1.MoveSkipped, "its ReplicaSet is not its workload's newest, or has no replicas any more")
	case surge.Over:
		return undo(v1alpha1.MoveFailed, "the replacement ended instead of serving")
	case surge.At != "":
		return undo(v1alpha1.MoveFailed, "the scheduler put the replacement on %s: does its place not fit any more, or is the pod not scheduled by Neap's scheduler?", surge.At)
	case seen.Now.After(seen.Deadline):
		return undo(v1alpha1.MoveFailed, "the move was not over in time: %s", waiting(surge, set))
	case surge.Leaving:
		return Verdict{StepWait, v1alpha1.MoveSurging, "the replacement is being deleted by somebody else and is made anew"}
	case !surge.There:
		return Verdict{Step: StepCreate, State: v1alpha1.MoveSurging}
	case !surge.Placed || !surge.Ready:
		return Verdict{StepWait, v1alpha1.MoveSurging, waiting(surge, set)}
	case set.Unsteady || set.Unready != "":
		// One pod too many, it would take the one that is not ready, not the old one.
		return Verdict{StepWait, v1alpha1.MoveSwitching, waiting(surge, set)}
	case !surge.Counts:
		return Verdict{Step: StepCount, State: v1alpha1.MoveSwitching}
	}
	return Verdict{Step: StepHand, State: v1alpha1.MoveSwitching}
}

func waiting(surge SurgePod, set Set) string {
	switch {
	case !surge.There:
		return "the replacement is not there"
	case !surge.Placed:
		return "the replacement has no place yet"
	case !surge.Ready:
		return "the replacement is not ready yet"
	case set.Unsteady:
		return "its ReplicaSet is adding or removing pods"
	case set.Unready != "":
		return fmt.Sprintf("pod %s of the same ReplicaSet is not ready", set.Unready)
	}
	return "its disruption budget does not let the old pod go"
}

// NextEvicted says what to do for a move that has begun of a pod that has no
// replacement first. back says that its successor serves. It is pure.
func NextEvicted(seen Seen, back bool) Verdict {
	switch old := seen.Old; {
	case old.There && !old.Leaving && seen.Abort:
		return Verdict{StepEnd, v1alpha1.MoveUndone, "the plan was aborted; the pod stays"}
	case old.There && !old.Leaving && seen.Now.After(seen.Deadline):
		return Verdict{StepEnd, v1alpha1.MoveFailed, "its disruption budget did not let it go in time"}
	case old.There && !old.Leaving:
		return Verdict{Step: StepEvict, State: v1alpha1.MoveLeaving}
	case old.There:
		return Verdict{StepWait, v1alpha1.MoveLeaving, "the pod is ending"}
	case back:
		return Verdict{Step: StepEnd, State: v1alpha1.MoveDone}
	case seen.Now.After(seen.Deadline):
		return Verdict{StepEnd, v1alpha1.MoveFailed, "its successor is not ready in time"}
	}
	return Verdict{StepWait, v1alpha1.MoveLeaving, "its successor is not ready yet"}
}

// A Start says whether a move may begin.
type Start struct {
	OK    bool
	Until time.Time // when it may, if that is known
	Why   string
}

// MayStart reports whether a move of a service may begin now, given all moves
// that were begun by any plan. It is pure.
func MayStart(now time.Time, service string, made []v1alpha1.RepackMove, perHour int, cooldown time.Duration) Start {
	var recent []time.Time
	var cool time.Time
	for i := range made {
		m := &made[i]
		if m.StartedAt == nil {
			continue
		}
		if t := m.StartedAt.Time; now.Sub(t) < time.Hour {
			recent = append(recent, t)
		}
		if m.Service != service || m.State == v1alpha1.MoveSkipped || m.State == v1alpha1.MoveUndone {
			continue
		}
		until := now.Add(cooldown) // under way: at least that
		if m.EndedAt != nil {
			until = m.EndedAt.Add(cooldown)
		} else if cooldown == 0 {
			continue
		}
		if until.After(now) && until.After(cool) {
			cool = until
		}
	}
	if !cool.IsZero() {
		return Start{Until: cool, Why: fmt.Sprintf("%s was moved less than %s ago", service, cooldown)}
	}
	if len(recent) >= perHour {
		// The hour has room again when so many of the oldest have left it.
		slices.SortFunc(recent, time.Time.Compare)
		return Start{Until: recent[len(recent)-perHour].Add(time.Hour), Why: fmt.Sprintf("%d moves have begun within the hour, which is the limit", len(recent))}
	}
	return Start{OK: true}
}
