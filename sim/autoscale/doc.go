// Package autoscale replays an autoscaler over one recorded day after another
// and says how often it was too small and what it cost.
//
// The model is one of minutes, the same for every policy:
//
//	1 pod serves 1 unit of demand; target use is 60 %
//	demand is scaled so that its 99.9th percentile is 100
//	a policy that decides in minute t knows the demand up to minute t−1
//	a pod asked for in minute t is ready in minute t+start
//	pods leave at once, those that are still starting first
//	ideal(t)  = ceil(demand(t) ÷ 0.6)
//	under     = share of the minutes in which demand > ready pods
//	unmet     = Σ max(0, demand − ready) ÷ Σ demand
//	costRatio = Σ (ready + starting) ÷ Σ ideal
//
// [ReadFile] reads a series onto the grid of minutes, [Replay] plays a [Policy]
// over it. The policies here are the peers', written anew from what they
// publish: [HPA], [EHPA] of Crane, [Seasonal], [Fixed], and an [Oracle] that
// knows the future. Neap's own is [Neap]: core/forecast and core/elastic, called
// each minute, and nothing else.
//
// There is no cluster, no queue and no network in it.
package autoscale
