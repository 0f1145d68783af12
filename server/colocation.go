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
)

// colocationGauges are what the machines' agents and the controller say of every
// machine, in thousandths of a core.
var colocationGauges = []struct{ name, query string }{
	{"system", "neap_colocation_system_milli"},
	{"online", "neap_colocation_online_milli"},
	{"batch", "neap_colocation_batch_milli"},
	{"budget", "neap_colocation_budget_milli"},  // what batch may use now
	{"offered", "neap_batch_capacity_milli"},    // what the scheduler may give away
	{"allocated", "neap_batch_allocated_milli"}, // what it has given away
}

// colocationSteps are the rungs of the ladder, the gentlest first.
var colocationSteps = []string{"None", "Idle", "Quota", "Memory", "Freeze", "Evict"}

type colocationAnswer struct {
	At       time.Time         `json:"at"`
	Machines []colocatedNode   `json:"machines"`
	Earned   []colocationMoney `json:"earned"`
	Notes    []string          `json:"notes"` // codes: no-metrics, metrics: …
}

// A colocatedNode is a machine that carries batch work beside online services.
type colocatedNode struct {
	Name   string             `json:"name"`
	Policy string             `json:"policy"`
	Step   string             `json:"step"`
	Milli  map[string]float64 `json:"milli"`  // by gauge
	Frozen int                `json:"frozen"` // pods
	Slack  *float64           `json:"slack"`  // of the service that has least; null if unknown
}

// colocationMoney is what the batch work of a policy's machines is worth an hour.
type colocationMoney struct {
	Policy   string  `json:"policy"`
	Currency string  `json:"currency"`
	PerHour  float64 `json:"perHour"`
}

type colocationDayAnswer struct {
	span
	StepSeconds int64            `json:"stepSeconds"`
	Points      int              `json:"points"`
	Machine     string           `json:"machine"`    // empty for the fleet
	Milli       map[string]curve `json:"milli"`      // by gauge
	Slack       curve            `json:"slack"`      // of the service that has least
	WaitMillis  curve            `json:"waitMillis"` // the 99th percentile of online threads' wait for a CPU
	Steps       []elasticStretch `json:"steps"`
	Short       []elasticStretch `json:"short"` // times in which an online service had no slack
	BatchHours  float64          `json:"batchCoreHours"`
	LostHours   float64          `json:"lostCoreHours"`
	Evictions   float64          `json:"evictions"`
	Currency    string           `json:"currency"`
	Decisions   []bill.Decision  `json:"decisions"` // newest first
	Notes       []string         `json:"notes"`
}

// colocation answers /api/v1/colocation: every machine with batch work beside online
// services as it stands now.
func (s *Server) colocation(r *http.Request) (any, error) {
	a := colocationAnswer{At: s.now(), Machines: []colocatedNode{}, Earned: []colocationMoney{}, Notes: []string{}}
	nodes := map[string]*colocatedNode{}
	last := func(query string, do func(n *colocatedNode, l map[string]string, v float64)) {
		for _, sr := range s.instant(r.Context(), query, a.At, &a.Notes) {
			name := sr.Labels["node"]
			if len(sr.Points) == 0 || name == "" {
				continue
			}
			n := nodes[name]
			if n == nil {
				n = &colocatedNode{Name: name, Step: colocationSteps[0], Milli: map[string]float64{}}
				nodes[name] = n
			}
			do(n, sr.Labels, sr.Points[len(sr.Points)-1].V)
		}
	}
	for _, g := range colocationGauges {
		last(g.query, func(n *colocatedNode, l map[string]string, v float64) {
			n.Milli[g.name] = v
			n.Policy = cmp.Or(n.Policy, l["policy"])
		})
	}
	if len(nodes) > 0 {
		last("neap_colocation_step", func(n *colocatedNode, l map[string]string, v float64) {
			if v > 0 {
				n.Step = l["step"]
			}
		})
		last("neap_colocation_frozen_pods", func(n *colocatedNode, _ map[string]string, v float64) { n.Frozen = int(v) })
		last("min by (node) (neap_colocation_slack)", func(n *colocatedNode, _ map[string]string, v float64) { n.Slack = &v })
		for _, sr := range s.instant(r.Context(), "neap_batch_earned_per_hour", a.At, &a.Notes) {
			if len(sr.Points) > 0 {
				a.Earned = append(a.Earned, colocationMoney{sr.Labels["policy"], sr.Labels["currency"], sr.Points[len(sr.Points)-1].V})
			}
		}
	}
	for _, n := range nodes {
		a.Machines = append(a.Machines, *n)
	}
	slices.SortFunc(a.Machines, func(x, y colocatedNode) int { return strings.Compare(x.Name, y.Name) })
	slices.SortFunc(a.Earned, func(x, y colocationMoney) int { return strings.Compare(x.Policy, y.Policy) })
	return a, nil
}

// colocationDay answers /api/v1/colocation/day?machine&from&to: what online services
// and batch work used of a machine, or of all of them, what batch was allowed and
// offered, and which step of the ladder was taken.
func (s *Server) colocationDay(r *http.Request) (any, error) {
	ctx := r.Context()
	machine := r.URL.Query().Get("machine")
	if strings.ContainsAny(machine, "\"\\{}\n") {
		return nil, refuse(http.StatusBadRequest, "machine is %q; it must be the name of a machine, such as general-001.", machine)
	}
	w, step, n, err := s.dayWindow(r)
	if err != nil {
		return nil, err
	}
	a := colocationDayAnswer{
		span: w, StepSeconds: int64(step / time.Second), Points: n, Machine: machine, Milli: map[string]curve{}, Slack: gaps(n), WaitMillis: gaps(n),
		Steps: []elasticStretch{}, Short: []elasticStretch{}, Decisions: []bill.Decision{}, Notes: []string{},
	}
	selector := ""
	if machine != "" {
		selector = fmt.Sprintf("{node=%q}", machine)
	}
	found := false
	read := func(query string, do func(labels map[string]string, c curve)) {
		s.curves(ctx, query, w.From, step, n, &a.Notes, func(l map[string]string, c curve) { found = true; do(l, c) })
	}
	for _, g := range colocationGauges {
		read("sum("+g.query+selector+")", func(_ map[string]string, c curve) { a.Milli[g.name] = c })
	}
	if !found {
		if s.opts.Metrics == nil {
			addNote(&a.Notes, "no-metrics")
		}
		if machine != "" && len(a.Notes) == 0 {
			return nil, refuse(http.StatusNotFound, "Nothing is known of batch work on a machine %s; /api/v1/colocation lists the machines.", machine)
		}
		return a, nil
	}
	read("min(neap_colocation_slack"+selector+")", func(_ map[string]string, c curve) { a.Slack = c })
	wait := `neap_colocation_runqueue_seconds{quantile="0.99"}`
	if machine != "" {
		wait = fmt.Sprintf(`neap_colocation_runqueue_seconds{quantile="0.99",node=%q}`, machine)
	}
	read("1000 * max("+wait+")", func(_ map[string]string, c curve) { a.WaitMillis = c })
	stood := make([]int, n)
	read("max by (step) (neap_colocation_step"+selector+")", func(l map[string]string, c curve) {
		rung := slices.Index(colocationSteps, l["step"])
		for i, v := range c {
			if v > 0 && rung > stood[i] {
				stood[i] = rung
			}
		}
	})
	names, short := make([]string, n), make([]string, n)
	for i := range n {
		if stood[i] > 0 {
			names[i] = colocationSteps[stood[i]]
		}
		if a.Slack[i] < 0 {
			short[i] = "short"
		}
	}
	a.Steps, a.Short = stretches(w.From, step, names), stretches(w.From, step, short)
	total := func(metric, selector string) (v float64) {
		window := fmt.Sprintf("[%ds]", int(w.To.Sub(w.From)/time.Second))
		for _, sr := range s.instant(ctx, "sum(increase("+metric+selector+window+"))", minTime(w.To, s.now()), &a.Notes) {
			if k := len(sr.Points); k > 0 && !math.IsNaN(sr.Points[k-1].V) {
				v = sr.Points[k-1].V
			}
		}
		return v
	}
	a.BatchHours = total("neap_colocation_batch_core_seconds_total", selector) / 3600
	a.LostHours = total("neap_colocation_lost_core_seconds_total", selector) / 3600
	a.Evictions = total("neap_colocation_evictions_total", selector)
	if machine == "" { // the controller counts those of the agents, too
		a.LostHours = max(a.LostHours, total("neap_batch_lost_core_hours_total", ""))
		a.Evictions = max(a.Evictions, total("neap_batch_evictions_total", ""))
	}
	return a, s.colocationLedger(ctx, &a)
}

// colocationLedger adds what the ledger says of the machine, or of all of them.
func (s *Server) colocationLedger(ctx context.Context, a *colocationDayAnswer) error {
	rows, err := s.opts.Store.Decisions(ctx, a.From, a.To)
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(rows) {
		if d.Lever == "colocate" && len(a.Decisions) < maxElasticDecisions && (a.Machine == "" || strings.Contains(d.Subject, a.Machine) || d.Inputs["node"] == a.Machine) {
			a.Decisions = append(a.Decisions, d)
		}
	}
	return nil
}
