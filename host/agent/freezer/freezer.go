// Package freezer stops batch pods that allow it for a while, and lets them go on.
//
// A frozen pod uses no CPU and touches no memory, and loses no work. It is frozen no
// longer than its annotation neap.dev/batch-freeze says, then runs at least as long
// ([colocate.Freeze]). One that is being deleted is let go at once, for what is
// frozen does not end.
//
// To find a culprit one pod stands still for a moment ([Freezer.Pause]), from one call
// to the next. That takes nothing from how long it may be frozen.
//
// Not here: when to freeze, which the ladder of core/colocate says, and whom to pause,
// which its Attribution says.
package freezer

import (
	"errors"
	"fmt"
	"time"

	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/cgroup"
)

// A Hand makes knobs of groups hold values. A [cgroup.Ledger] is one.
type Hand interface {
	Set(wants ...cgroup.Want) error
}

// A Pod is one that may be frozen.
type Pod struct {
	UID     string
	Group   cgroup.Group
	Most    time.Duration // for how long; 0: not at all
	Leaving bool          // it is being deleted
}

// A Freezer knows which pods of a machine are frozen. It is not safe for use from
// several goroutines.
type Freezer struct {
	hand   Hand
	pods   map[string]colocate.Freeze
	paused *Pod // who stands still for a moment; nil: nobody
}

// New returns a freezer that writes by hand.
func New(hand Hand) *Freezer { return &Freezer{hand: hand, pods: map[string]colocate.Freeze{}} }

// Could tells whether some of the pods could be frozen now, or stay so.
func (f *Freezer) Could(at time.Duration, pods []Pod) bool {
	for _, p := range pods {
		if f.may(at, p) {
			return true
		}
	}
	return false
}

// Keep freezes the pods that may be and are wanted, lets the others go, and forgets
// those that are not among pods. It returns which changed.
func (f *Freezer) Keep(at time.Duration, pods []Pod, wanted func(Pod) bool, why string) (frozen, thawed []Pod, err error) {
	here := map[string]bool{}
	for _, p := range pods {
		here[p.UID] = true
		is := f.Frozen(p.UID)
		want := wanted(p) && f.may(at, p)
		if is == want {
			continue
		}
		if e := f.set(p, want, why); e != nil {
			if !errors.Is(e, cgroup.ErrGone) { // else its pod has ended
				err = errors.Join(err, e)
			}
			continue // tried again at the next look
		}
		if want {
			f.pods[p.UID] = colocate.Freeze{At: at, Till: -1}
			frozen = append(frozen, p)
		} else {
			f.pods[p.UID] = colocate.Freeze{At: f.pods[p.UID].At, Till: at}
			thawed = append(thawed, p)
		}
	}
	for uid := range f.pods {
		if !here[uid] {
			delete(f.pods, uid)
		}
	}
	return frozen, thawed, err
}

// Pause lets go who was paused by the call before, and then has one of pods stand
// still until the next call; an empty uid has nobody. Who is frozen stays so.
func (f *Freezer) Pause(pods []Pod, uid, why string) error {
	if p := f.paused; p != nil {
		if !f.Frozen(p.UID) {
			if err := f.set(*p, false, why); err != nil && !errors.Is(err, cgroup.ErrGone) {
				return err // nobody else is paused before this one goes on
			}
		}
		f.paused = nil
	}
	for _, p := range pods {
		if p.UID != uid || p.Leaving || p.Most <= 0 || f.Frozen(uid) {
			continue
		}
		f.paused = &p // even if it fails: it may have been half of it
		if err := f.set(p, true, why); err != nil && !errors.Is(err, cgroup.ErrGone) {
			return err
		}
	}
	return nil
}

// Frozen tells whether a pod is frozen; who is paused is not.
func (f *Freezer) Frozen(uid string) bool {
	is, known := f.pods[uid]
	return known && is.Till < is.At
}

// Count returns how many pods are frozen.
func (f *Freezer) Count() int {
	n := 0
	for uid := range f.pods {
		if f.Frozen(uid) {
			n++
		}
	}
	return n
}

func (f *Freezer) may(at time.Duration, p Pod) bool {
	return !p.Leaving && f.pods[p.UID].MayFreeze(at, p.Most)
}

func (f *Freezer) set(p Pod, frozen bool, why string) error {
	w := cgroup.Want{Group: p.Group, Knob: cgroup.Freeze, Reason: why}
	if frozen {
		w.Value = 1
	}
	if err := f.hand.Set(w); err != nil {
		return fmt.Errorf("freeze a batch pod (%v): %w", frozen, err)
	}
	return nil
}
