package warden

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/colocate"
)

// feel asks what online pods feel since it was asked last.
func (w *Warden) feel(ctx context.Context, world World) {
	w.felt = nil
	if w.opts.Signals != nil {
		w.felt = w.opts.Signals(ctx, world.Spec.Slack, w.feelers(world))
	}
	if w.trial.Pause == "" { // else it is not how things are
		w.signals = w.felt
	}
}

// seek says whether to look for a culprit before the ladder is climbed.
func (w *Warden) seek(at time.Duration, world World, batch []Pod, short bool) bool {
	ladder := world.Spec.Ladder
	return ladder.Attribute && ladder.Freeze && w.verdict.Stronger && !short && w.rung < colocate.RungFreeze && len(w.culprits) == 0 &&
		w.attribution.Seek(at, w.verdict.Worst, w.signals, w.suspects(batch))
}

// attribute has one batch pod stand still until the next round, or nobody, and tells
// what was found.
func (w *Warden) attribute(at time.Duration, batch []Pod) {
	w.trial = colocate.Trial{}
	if w.seeking {
		w.trial = w.attribution.Next(at, w.felt, w.suspects(batch))
		if w.seeking = w.trial.Busy && w.trial.Finding != colocate.FindingCulprit; !w.seeking {
			w.lookedAt = at // the next look is a whole one
		}
	}
	event := func(reason string) {
		for _, p := range batch {
			if p.UID == w.trial.Suspect.UID {
				w.opts.Event(p.Object, reason, w.trial.Why)
			}
		}
	}
	if w.trial.Pause != "" && w.trial.Pause != w.tried {
		w.tried = w.trial.Pause
		event("BatchPaused")
	}
	if f := w.trial.Finding; f != colocate.FindingNone {
		w.opts.Log.Info("attribution", "pod", w.trial.Suspect.Name, "verdict", f, "why", w.trial.Why)
		if f == colocate.FindingCulprit {
			w.named = w.trial.Why
			event("BatchCulprit")
		}
		w.mu.Lock()
		w.counts.attributions[f]++
		w.mu.Unlock()
	}
	if err := w.freezer.Pause(w.freezable(batch), w.trial.Pause, w.trial.Why); err != nil {
		w.wanting = append(w.wanting, err)
	}
}

// suspects are the batch pods that may stand still, those first that would be evicted
// first.
func (w *Warden) suspects(batch []Pod) []colocate.Suspect {
	batch = slices.Clone(batch)
	now := w.opts.Now()
	slices.SortFunc(batch, func(a, b Pod) int {
		return cmp.Or(cmp.Compare(a.Task.Lost(now), b.Task.Lost(now)), strings.Compare(a.Name, b.Name))
	})
	var out []colocate.Suspect
	for _, p := range batch {
		if w.held[p.UID] != "" && p.Freeze > 0 && !p.Leaving {
			out = append(out, colocate.Suspect{UID: p.UID, Name: p.Name})
		}
	}
	return out
}

// guilty are the batch pods that online suffers from, as far as is known: they are
// frozen and evicted instead of all.
func (w *Warden) guilty(at time.Duration, world World, batch []Pod) map[string]bool {
	out := map[string]bool{}
	for _, p := range batch {
		if world.Spec.Ladder.Attribute && w.attribution.Guilty(at, p.UID) {
			out[p.UID] = true
		}
	}
	return out
}
