package autoscale

import (
	"math"
	"time"

	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/forecast"
)

// UnderCost is how many times dearer a pod short is than one too many, as an
// ElasticPolicy has it by default.
const UnderCost = 10

// Neap is the product: [forecast.Fit] once an hour on fifteen days of what was
// seen, [elastic.Decide] each minute. Nothing else decides.
type Neap struct {
	// Policy is what is declared; its zero value is one pod or more and the
	// defaults.
	Policy elastic.Policy
	// UnderCost, if not 0, replaces the constant.
	UnderCost float64
	// RefitMinutes, if not 0, replaces the hour between two fits.
	RefitMinutes int
	// Blind makes no forecast; Waits forgets what will not come back, so that
	// scale-in waits out its stabilisation; Requests follows the demand itself
	// instead of what the pods use. They are for seeing what a part is worth.
	Blind, Waits, Requests bool
	// Class, if set, says what the timetable says of a minute; nil: no timetable.
	Class func(now time.Time, horizon time.Duration) elastic.Class

	model    *forecast.Model
	fitted   int // minute of the last fit
	observed int // minutes of demand that the model knows
	state    elastic.State
	pods     []elastic.PodFigure
	expected Quantiles
	made     bool
	periodic bool
	decision elastic.Decision
}

const (
	neapRefit   = 60       // minutes between two fits
	neapHistory = 15 * day // minutes of history that a fit learns from
)

// Decide implements [Policy].
func (n *Neap) Decide(s Seen) int {
	// 1. Learn, then hear what is new. Pods asked for at the next decision will be
	// ready a minute after those asked for now.
	horizon := time.Duration(s.StartMinutes+1) * time.Minute
	begin := s.Now.Add(-time.Duration(s.Minute) * time.Minute)
	refit := n.RefitMinutes
	if refit == 0 {
		refit = neapRefit
	}
	if n.model == nil || s.Minute >= n.fitted+refit {
		from := max(0, len(s.Demand)-neapHistory)
		n.model = forecast.Fit(forecast.Series{Start: begin.Add(time.Duration(from) * time.Minute), Step: time.Minute, Values: s.Demand[from:]},
			forecast.Options{Horizon: horizon, Previous: n.model})
		n.fitted, n.observed = s.Minute, len(s.Demand)
		n.periodic = n.periodic || n.model.Periodic()
	}
	for ; n.observed < len(s.Demand); n.observed++ {
		n.model.Observe(begin.Add(time.Duration(n.observed)*time.Minute), s.Demand[n.observed])
	}
	// 2. Foretell and decide.
	policy := n.Policy
	if policy.Max == 0 {
		policy = elastic.Defaults(1, MaxPods)
	}
	policy.Unit, policy.Carries = Target, 1
	cost := n.UnderCost
	if cost == 0 {
		cost = UnderCost
	}
	in := elastic.Input{
		Policy: policy, Now: s.Now, Current: s.Ready + s.Starting, Ready: s.Ready, State: n.state,
		Metrics:  []elastic.Metric{n.use(s)},
		Forecast: policy.Foretell(n.model, s.Now, horizon, forecast.Newsvendor(cost, 1), n.model.Skill().Reason),
	}
	if n.Blind {
		in.Forecast = elastic.Forecast{}
	}
	if n.Waits {
		in.Forecast.Return = 0
	}
	if n.Class != nil {
		in.Class = n.Class(s.Now, horizon)
	}
	n.decision = elastic.Decide(in)
	n.state = n.decision.Next
	// 3. Say what was expected, to be judged.
	n.made = true
	for tau, q := range map[float64]*float64{0.05: &n.expected.Q05, 0.5: &n.expected.Q50, 0.95: &n.expected.Q95} {
		v, ok := n.model.Quantile(s.Now, time.Duration(s.StartMinutes)*time.Minute, tau)
		*q, n.made = v, n.made && ok
	}
	return n.decision.Desired
}

// use is what the HPA sees too: how much of its capacity each ready pod uses,
// which is all of it at most, and which pods are not ready yet.
func (n *Neap) use(s Seen) elastic.Metric {
	pod := elastic.PodFigure{Value: s.Last(), Target: Target, Ready: true}
	if s.Ready > 0 {
		pod.Value = min(pod.Value/float64(s.Ready), 1)
	}
	n.pods = n.pods[:0]
	if n.Requests {
		return elastic.Metric{Name: "demand", At: s.Now.Add(-Delay * time.Minute), Total: s.Last(), PerReplica: Target}
	}
	for range s.Ready {
		n.pods = append(n.pods, pod)
	}
	for range s.Starting {
		n.pods = append(n.pods, elastic.PodFigure{Value: math.NaN(), Target: Target})
	}
	return elastic.Metric{Name: "use", At: s.Now.Add(-Delay * time.Minute), Pods: n.pods}
}

// Forecast implements [Forecaster].
func (n *Neap) Forecast() (Quantiles, bool) { return n.expected, n.made }

// Periodic implements [Forecaster]: whether the workload was ever called
// periodic.
func (n *Neap) Periodic() bool { return n.periodic }

// Decision is the last decision, with what every layer said.
func (n *Neap) Decision() elastic.Decision { return n.decision }
