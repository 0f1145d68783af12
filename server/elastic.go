package server

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/metrics"
)

// The scaler's own metrics: what each layer said, what was decided, and where.
const (
	policyQuery   = `neap_elastic_policy_info`
	replicasQuery = `neap_elastic_replicas`
	winnerQuery   = `neap_elastic_winner`
	demandQuery   = `neap_elastic_needed`
	inPoolQuery   = `neap_elastic_pool_replicas`
	startQuery    = `neap_elastic_start_p95_seconds`
	strayQuery    = `neap_elastic_scale_in_violations_total`
)

// maxElasticDecisions is how many rows of the ledger a workload's day shows.
const maxElasticDecisions = 200

type elasticAnswer struct {
	At       time.Time       `json:"at"`
	Policies []elasticPolicy `json:"policies"`
	Notes    []string        `json:"notes"` // codes: no-metrics, metrics: …
}

// An elasticPolicy is one ElasticPolicy as it stands.
type elasticPolicy struct {
	Name       string             `json:"name"`   // namespace/name
	Target     string             `json:"target"` // namespace/Kind/name, as the bill names it
	Mode       string             `json:"mode"`
	Winner     string             `json:"winner,omitempty"`
	Replicas   map[string]float64 `json:"replicas"` // by layer, and desired, current, ready
	Demand     *float64           `json:"demand"`   // replicas that the load would fill; null if unknown
	Violations int64              `json:"violations"`
}

type elasticDayAnswer struct {
	span
	StepSeconds int64              `json:"stepSeconds"`
	Points      int                `json:"points"`
	Policy      elasticPolicy      `json:"policy"`
	Replicas    map[string]curve   `json:"replicas"` // by layer, and desired, current, ready
	Demand      curve              `json:"demand"`
	Winners     []elasticStretch   `json:"winners"`
	Pools       []elasticPool      `json:"pools"`    // the one that ran something for longest first
	StartP95    map[string]float64 `json:"startP95"` // seconds, by pool
	Known       int                `json:"known"`    // steps for which demand and ready replicas are known
	Under       []elasticStretch   `json:"under"`    // times with more demand than the ready replicas carry
	UnderSteps  int                `json:"underSteps"`
	Unmet       float64            `json:"unmet"` // share of the demand that they could not carry
	Money       []elasticHour      `json:"money"`
	Currency    string             `json:"currency"`
	Decisions   []bill.Decision    `json:"decisions"` // newest first
	Notes       []string           `json:"notes"`
}

// An elasticStretch is a time in which one layer decided, or replicas were short.
type elasticStretch struct {
	span
	Layer string `json:"layer,omitempty"`
}

// An elasticPool is where replicas should be and were.
type elasticPool struct {
	Name    string `json:"name"`
	Planned curve  `json:"planned"`
	Running curve  `json:"running"`
}

// An elasticHour is what the workload cost in one hour, its share of idle included.
type elasticHour struct {
	From     time.Time    `json:"from"`
	CostNano money.Amount `json:"costNano"`
	UsedNano money.Amount `json:"usedNano"`
	Quality  string       `json:"quality"` // met, broken or unknown
}

// now is the cluster's time.
func (s *Server) now() time.Time {
	if s.opts.Live != nil {
		return s.opts.Live.Status().Now.UTC()
	}
	return s.opts.Now().UTC()
}

// elastic answers /api/v1/elastic: every ElasticPolicy as it stands now.
func (s *Server) elastic(r *http.Request) (any, error) {
	a := elasticAnswer{At: s.now(), Policies: []elasticPolicy{}, Notes: []string{}}
	byName := map[string]*elasticPolicy{}
	ask := func(query string) []metrics.Series { return s.instant(r.Context(), query, a.At, &a.Notes) }
	for _, sr := range ask(policyQuery) {
		p := policyOf(sr.Labels)
		byName[p.Name] = &p
	}
	if len(byName) > 0 {
		s.fill(ask, "", byName)
	}
	for _, p := range byName {
		a.Policies = append(a.Policies, *p)
	}
	slices.SortFunc(a.Policies, func(x, y elasticPolicy) int { return strings.Compare(x.Name, y.Name) })
	return a, nil
}

func policyOf(l map[string]string) elasticPolicy {
	return elasticPolicy{
		Name: l["namespace"] + "/" + l["policy"], Target: l["namespace"] + "/" + l["kind"] + "/" + l["target"], Mode: l["mode"],
		Replicas: map[string]float64{},
	}
}

// fill adds to policies what the scaler last said of them. selector narrows the
// questions to one policy.
func (s *Server) fill(ask func(string) []metrics.Series, selector string, policies map[string]*elasticPolicy) {
	last := func(query string, do func(p *elasticPolicy, sr metrics.Series, v float64)) {
		for _, sr := range ask(query + selector) {
			p := policies[sr.Labels["namespace"]+"/"+sr.Labels["policy"]]
			if p != nil && len(sr.Points) > 0 {
				do(p, sr, sr.Points[len(sr.Points)-1].V)
			}
		}
	}
	last(replicasQuery, func(p *elasticPolicy, sr metrics.Series, v float64) { p.Replicas[sr.Labels["layer"]] = v })
	last(winnerQuery, func(p *elasticPolicy, sr metrics.Series, v float64) {
		if v > 0 {
			p.Winner = sr.Labels["layer"]
		}
	})
	last(demandQuery, func(p *elasticPolicy, _ metrics.Series, v float64) {
		if !math.IsNaN(v) {
			p.Demand = &v
		}
	})
	last(strayQuery, func(p *elasticPolicy, _ metrics.Series, v float64) { p.Violations = int64(v) })
}

// instant asks a question that the page can do without.
func (s *Server) instant(ctx context.Context, query string, at time.Time, notes *[]string) []metrics.Series {
	if s.opts.Metrics == nil {
		addNote(notes, "no-metrics")
		return nil
	}
	series, err := s.opts.Metrics.Instant(ctx, query, at)
	if err != nil {
		addNote(notes, "metrics: "+err.Error())
	}
	return series
}

func addNote(notes *[]string, code string) {
	if !slices.Contains(*notes, code) {
		*notes = append(*notes, code)
	}
}

// elasticDay answers /api/v1/elastic/day?policy&from&to: what every layer said
// of one workload, who decided, what was there and what it cost.
func (s *Server) elasticDay(r *http.Request) (any, error) {
	ctx := r.Context()
	name := r.URL.Query().Get("policy")
	namespace, policy, ok := strings.Cut(name, "/")
	if !ok || namespace == "" || policy == "" || strings.ContainsAny(name, "\"\\{}\n") {
		return nil, refuse(http.StatusBadRequest, "policy is %q; it must be namespace/name of an ElasticPolicy, such as live/chat.", name)
	}
	w, step, n, err := s.dayWindow(r)
	if err != nil {
		return nil, err
	}
	a := elasticDayAnswer{
		span: w, StepSeconds: int64(step / time.Second), Points: n, Replicas: map[string]curve{}, Demand: gaps(n),
		Winners: []elasticStretch{}, Pools: []elasticPool{}, StartP95: map[string]float64{}, Under: []elasticStretch{},
		Money: []elasticHour{}, Decisions: []bill.Decision{}, Notes: []string{},
	}
	selector := fmt.Sprintf(`{namespace=%q,policy=%q}`, namespace, policy)
	ask := func(query string) []metrics.Series { return s.instant(ctx, query, minTime(w.To, s.now()), &a.Notes) }
	info := ask(policyQuery + selector)
	if len(info) == 0 {
		if len(a.Notes) > 0 {
			return a, nil
		}
		return nil, refuse(http.StatusNotFound, "There is no ElasticPolicy %s, or its controller has not decided yet; kubectl get elasticpolicies -A lists them.", name)
	}
	a.Policy = policyOf(info[0].Labels)
	s.fill(ask, selector, map[string]*elasticPolicy{name: &a.Policy})
	for _, sr := range ask(startQuery + selector) {
		if len(sr.Points) > 0 {
			a.StartP95[sr.Labels["pool"]] = sr.Points[len(sr.Points)-1].V
		}
	}
	s.elasticCurves(ctx, &a, selector, step)
	a.judge(step)
	return a, s.elasticMoney(ctx, &a)
}

// dayWindow reads from and to of a question, the last 24 hours without them, and the step of
// the curves that answer it, and how many points they have.
func (s *Server) dayWindow(r *http.Request) (w span, step time.Duration, n int, err error) {
	if w.To, err = hourParam(r, "to", s.now().Truncate(time.Minute)); err != nil {
		return w, 0, 0, err
	}
	if w.From, err = hourParam(r, "from", w.To.Add(-24*time.Hour)); err != nil {
		return w, 0, 0, err
	}
	if err := w.check("from", "to"); err != nil {
		return w, 0, 0, err
	}
	if w.To.Sub(w.From) > maxDetail {
		return w, 0, 0, refuse(http.StatusBadRequest, "The window has %d hours; this page shows at most %d, so choose a shorter one.", w.hours(), int(maxDetail/time.Hour))
	}
	step = time.Minute
	for w.To.Sub(w.From)/step > maxPoints {
		step *= 5
	}
	return w, step, max(1, int(w.To.Sub(w.From)/step)), nil
}

// curves asks for a day's curves; a point of one is the step that ends there.
func (s *Server) curves(ctx context.Context, query string, from time.Time, step time.Duration, n int, notes *[]string, do func(labels map[string]string, c curve)) {
	if s.opts.Metrics == nil {
		return
	}
	series, err := s.opts.Metrics.Range(ctx, query, from.Add(step), from.Add(time.Duration(n)*step), step)
	if err != nil {
		addNote(notes, "metrics: "+err.Error())
	}
	for _, sr := range series {
		c := gaps(n)
		for _, p := range sr.Points {
			if i := int(math.Round(p.T.Sub(from).Seconds()/step.Seconds())) - 1; i >= 0 && i < n {
				c[i] = p.V
			}
		}
		do(sr.Labels, c)
	}
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// elasticCurves reads the curves of a policy.
func (s *Server) elasticCurves(ctx context.Context, a *elasticDayAnswer, selector string, step time.Duration) {
	read := func(query string, do func(labels map[string]string, c curve)) {
		s.curves(ctx, query+selector, a.From, step, a.Points, &a.Notes, do)
	}
	read(replicasQuery, func(l map[string]string, c curve) { a.Replicas[l["layer"]] = c })
	read(demandQuery, func(_ map[string]string, c curve) { a.Demand = c })
	won := make([]string, a.Points)
	read(winnerQuery, func(l map[string]string, c curve) {
		for i, v := range c {
			if v > 0 {
				won[i] = l["layer"]
			}
		}
	})
	a.Winners = stretches(a.From, step, won)
	pools := map[string]*elasticPool{}
	read(inPoolQuery, func(l map[string]string, c curve) {
		p := pools[l["pool"]]
		if p == nil {
			p = &elasticPool{Name: l["pool"], Planned: gaps(a.Points), Running: gaps(a.Points)}
			pools[l["pool"]] = p
		}
		if l["state"] == "planned" {
			p.Planned = c
		} else {
			p.Running = c
		}
	})
	for _, p := range pools {
		a.Pools = append(a.Pools, *p)
	}
	slices.SortFunc(a.Pools, func(x, y elasticPool) int {
		return cmp.Or(y.steps()-x.steps(), strings.Compare(x.Name, y.Name))
	})
}

// steps is for how long the pool ran something: the first pool of a policy is
// left last.
func (p *elasticPool) steps() (n int) {
	for _, v := range p.Running {
		if v > 0 {
			n++
		}
	}
	return n
}

// stretches joins equal neighbours; "" is no stretch.
func stretches(from time.Time, step time.Duration, names []string) []elasticStretch {
	out := []elasticStretch{}
	for i, name := range names {
		if name == "" {
			continue
		}
		start, end := from.Add(time.Duration(i)*step), from.Add(time.Duration(i+1)*step)
		if k := len(out) - 1; k >= 0 && out[k].Layer == name && out[k].To.Equal(start) {
			out[k].To = end
		} else {
			out = append(out, elasticStretch{span{start, end}, name})
		}
	}
	return out
}

// judge finds the steps in which the ready replicas, fully used, could not carry
// the load.
func (a *elasticDayAnswer) judge(step time.Duration) {
	ready := a.Replicas["ready"]
	short := make([]string, a.Points)
	var demand, unmet float64
	for i := range a.Points {
		if ready == nil || math.IsNaN(ready[i]) || math.IsNaN(a.Demand[i]) {
			continue
		}
		a.Known++
		demand += a.Demand[i]
		if lack := a.Demand[i] - ready[i]; lack > 0 {
			a.UnderSteps++
			unmet += lack
			short[i] = "under"
		}
	}
	if demand > 0 {
		a.Unmet = unmet / demand
	}
	a.Under = stretches(a.From, step, short)
}

// elasticMoney adds what the closed hours and the ledger say of the workload.
func (s *Server) elasticMoney(ctx context.Context, a *elasticDayAnswer) error {
	hours, err := s.opts.Store.Hours(ctx, a.From.Truncate(time.Hour), a.To)
	if err != nil {
		return err
	}
	for _, h := range hours {
		report, err := s.opts.Store.Report(ctx, h, h.Add(time.Hour), "module")
		if err != nil {
			return err
		}
		a.Currency = report.Currency
		for _, l := range report.Lines {
			if l.Key == a.Policy.Target {
				a.Money = append(a.Money, elasticHour{h.UTC(), l.CostNano, l.UsedNano, l.Quality})
			}
		}
	}
	rows, err := s.opts.Store.Decisions(ctx, a.From, a.To)
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(rows) {
		if d.Lever == "elastic" && d.Subject == a.Policy.Target && len(a.Decisions) < maxElasticDecisions {
			a.Decisions = append(a.Decisions, d)
		}
	}
	return nil
}
