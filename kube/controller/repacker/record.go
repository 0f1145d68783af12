package repacker

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/money"
)

var (
	movesCount = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "neap_repack_moves_total", Help: "Moves of pods with GPUs that are over, by goal of their plan and by result: Done, Skipped, Failed or Undone.",
	}, []string{"goal", "result"})
	plansCount = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "neap_repack_plans_total", Help: "RepackPlans that are over, by goal and phase: Done, Stopped or Failed.",
	}, []string{"goal", "phase"})
	moveSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "neap_repack_move_seconds", Help: "How long moves that were made took, from their beginning until the old pod was gone.",
		Buckets: []float64{5, 10, 30, 60, 120, 300, 600, 1200, 3600},
	})
	lostSeconds = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "neap_repack_lost_serving_seconds_total", Help: "For how long pods did not serve that were moved without a replacement first.",
	})
	refusals = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "neap_repack_budget_refusals_total", Help: "Evictions that a PodDisruptionBudget refused; they are tried again.",
	})
	replansCount = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "neap_repack_replans_total", Help: "How often the rest of a plan was found anew because the world had changed.",
	})
)

func init() {
	metrics.Registry.MustRegister(movesCount, plansCount, moveSeconds, lostSeconds, refusals, replansCount)
}

// observeMoves counts what a written status says that the one before did not.
func observeMoves(was, is *v1alpha1.RepackPlan) {
	goal := string(is.Spec.Goal)
	for i := range is.Status.Moves {
		m := &is.Status.Moves[i]
		if m.EndedAt == nil || hadEnded(was, m) {
			continue
		}
		movesCount.WithLabelValues(goal, string(m.State)).Inc()
		if m.State == v1alpha1.MoveDone {
			moveSeconds.Observe(m.EndedAt.Sub(m.StartedAt.Time).Seconds())
		}
	}
	if is.Status.Phase.Over() && !was.Status.Phase.Over() {
		plansCount.WithLabelValues(goal, string(is.Status.Phase)).Inc()
	}
	lostSeconds.Add(float64(max(0, is.Status.LostServingSeconds-was.Status.LostServingSeconds)))
	replansCount.Add(float64(max(0, is.Status.Replans-was.Status.Replans)))
}

// hadEnded reports whether a plan says that a move is over.
func hadEnded(p *v1alpha1.RepackPlan, m *v1alpha1.RepackMove) bool {
	return slices.ContainsFunc(p.Status.Moves, func(o v1alpha1.RepackMove) bool {
		return o.EndedAt != nil && o.Pod == m.Pod && o.StartedAt.Equal(m.StartedAt)
	})
}

// equalStatus reports whether nothing new is to be written.
func equalStatus(a, b *v1alpha1.RepackPlanStatus) bool { return equality.Semantic.DeepEqual(a, b) }

// rows are the lines of the ledger for what one look at a plan changed. Their IDs
// follow from what they tell, so that a line written twice is one.
func rows(was, is *v1alpha1.RepackPlan, now time.Time) []bill.Decision {
	var out []bill.Decision
	row := func(id, action, subject, reason, outcome string, inputs map[string]string) {
		mode := "Preview"
		if is.Spec.Mode == v1alpha1.RepackExecute {
			mode = "Auto"
		}
		inputs["goal"] = string(is.Spec.Goal)
		inputs["plan"] = is.Name
		out = append(out, bill.Decision{
			ID: fmt.Sprintf("repack/%s/%s", is.UID, id), At: now, Actor: "repacker", Lever: "gpu", Mode: mode,
			Action: action, Subject: subject, Reason: reason, Inputs: inputs, Outcome: outcome,
		})
	}
	s := &is.Status
	if s.PlannedAt != nil && (was.Status.PlannedAt == nil || !s.PlannedAt.Equal(was.Status.PlannedAt)) {
		outcome := "advised"
		if is.Spec.Mode == v1alpha1.RepackExecute {
			outcome = "done"
		}
		inputs := map[string]string{"moves": strconv.Itoa(int(s.Planned - s.Done - s.Failed))}
		if s.Before != nil && s.After != nil {
			inputs["gpus"] = fmt.Sprintf("%d before, %d after", s.Before.GPUs, s.After.GPUs)
			inputs["machines"] = fmt.Sprintf("%d before, %d after", s.Before.Machines, s.After.Machines)
		}
		row(fmt.Sprintf("plan/%d", s.Replans), "plan", "RepackPlan "+is.Name, s.Reason, outcome, inputs)
		if s.Freed != nil && is.Spec.Goal == v1alpha1.RepackEmpty {
			saving, _ := money.Parse(string(s.Freed.PerHour)) // absent where a price is not known
			out[len(out)-1].PredictedNano = saving
		}
	}
	for i := range s.Moves {
		m := &s.Moves[i]
		if m.EndedAt == nil || hadEnded(was, m) {
			continue
		}
		outcome, reason := "done", fmt.Sprintf("pod %s was moved from machine %s to machine %s", m.Pod, m.From.Machine, m.To.Machine)
		if m.State != v1alpha1.MoveDone {
			outcome, reason = "failed: "+m.Message, fmt.Sprintf("pod %s was to be moved from machine %s to machine %s: %s", m.Pod, m.From.Machine, m.To.Machine, m.Message)
		}
		if m.State == v1alpha1.MoveUndone {
			outcome = "undone: " + m.Message
		}
		row(fmt.Sprintf("move/%s/%d", m.Pod, m.StartedAt.Unix()), "move", m.Service, reason, outcome, map[string]string{"pod": m.Pod, "from": m.From.Machine, "to": m.To.Machine, "replacement": m.SurgePod})
	}
	if s.Phase.Over() && !was.Status.Phase.Over() {
		outcome := "done"
		if s.Phase == v1alpha1.RepackFailed {
			outcome = "failed: " + s.Reason
		}
		row("end", "end", "RepackPlan "+is.Name, s.Reason, outcome, map[string]string{"done": strconv.Itoa(int(s.Done)), "failed": strconv.Itoa(int(s.Failed))})
	}
	return out
}
