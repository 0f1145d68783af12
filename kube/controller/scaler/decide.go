package scaler

import (
	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/elastic"
)

// A verdict is what is to be done about one observation.
type verdict struct {
	elastic.Decision
	Decides  bool // a decision was made; else Desired is what is there
	Acts     bool // it is to be carried out
	Pools    []elastic.PoolTarget
	Unplaced int // replicas that no pool takes

	Returning *v1alpha1.ReturningStatus // a move under way, whose replicas Desired has besides
	Moved     int                       // replicas that a move has brought to another pool now
}

// decideOn decides on what was seen. It is pure.
func decideOn(seen *observation) verdict {
	p := seen.Policy
	stay := verdict{Decision: elastic.Decision{Desired: seen.Current, Wanted: seen.Current, Next: seen.State}}
	if seen.Invalid != nil || seen.TargetErr != nil {
		return stay
	}
	said := verdict{Decision: elastic.Decide(elastic.Input{
		Policy: seen.Declared.Policy, Now: seen.Now, Current: seen.Current - seen.surge(), Ready: min(seen.Ready, seen.Current-seen.surge()),
		Metrics: seen.Metrics, Class: seen.Class, Forecast: seen.Forecast,
		Rollout: seen.Rollout, Guard: seen.Guard, State: seen.State,
	})}
	said.Decides = p.Spec.Mode != v1alpha1.ModeObserve && seen.Paused == "" && (seen.Rival == "" || p.Spec.Mode == v1alpha1.ModePreview)
	said.Acts = said.Decides && p.Spec.Mode == v1alpha1.ModeAuto
	if !said.Decides {
		stay.ByLayer, stay.Next = said.ByLayer, said.Next
		stay.Next.ScaleIn = elastic.Progress{} // nothing is on its way out
		return stay
	}
	if len(seen.Pools) > 0 {
		returnTrip(seen, &said)
		said.Pools, said.Unplaced = elastic.Spread(elastic.SpreadInput{Desired: said.Desired, Need: seen.Horizon, Pools: seen.Pools})
	}
	return said
}

// leaves reports whether replicas may go, so that the quality must be asked for.
func (v verdict) leaves(seen *observation) bool {
	return v.Decides && v.Wanted < seen.Current
}
