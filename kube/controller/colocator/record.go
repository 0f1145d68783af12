package colocator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/kube/convert"
)

// The conditions of a policy.
const (
	conditionReady   = "Ready"
	conditionMetrics = "MetricsFresh"
	conditionGuard   = "GuardMet"
)

// A sum is what the machines of one policy come to.
type sum struct {
	nodes, lending, unattended int
	offered, asked, used       colocate.Room
	worth                      money.Amount // an hour of what batch uses, or could
	least                      *seen        // the machine that speaks for the others
}

func (c *Colocator) sumOf(w *world, p *v1alpha1.ColocationPolicy) (s sum) {
	for _, m := range w.machines {
		if m.policy != p {
			continue
		}
		s.nodes++
		s.offered, s.asked, s.used = s.offered.Add(m.offer.Now), s.asked.Add(m.asked), s.used.Add(m.batchUse)
		if m.offer.Now.CPUMilli > 0 {
			s.lending++
		}
		if m.agentErr != nil {
			s.unattended++
		}
		worth := m.batchUse
		if p.Spec.Mode != v1alpha1.ModeAuto {
			worth = m.offer.Now
		}
		s.worth += c.priceOf(w, m.node).of(worth)
		if s.least == nil || m.offer.Now.CPUMilli < s.least.offer.Now.CPUMilli {
			s.least = m
		}
	}
	return s
}

// record writes down, for every policy, what was decided: the ledger, then the status.
func (c *Colocator) record(ctx context.Context, w *world) error {
	var errs []error
	for _, p := range w.policies {
		st := c.policies[p.UID]
		s := c.sumOf(w, p)
		errs = append(errs, c.turned(ctx, w, p, st, s), c.settle(ctx, p, st), c.report(ctx, w, p, st, s))
	}
	return errors.Join(append(errs, c.keep(ctx, w))...)
}

// turned writes into the ledger that a policy begins or ceases to lend.
func (c *Colocator) turned(ctx context.Context, w *world, p *v1alpha1.ColocationPolicy, st *policyState, s sum) error {
	lends := s.offered.CPUMilli > 0
	if lends == st.lending || s.nodes == 0 {
		return nil
	}
	d := bill.Decision{
		ID: fmt.Sprintf("colocate/lend/%s/%d", p.UID, w.now.Unix()), At: w.now, Actor: "colocator", Lever: "colocate", Mode: string(p.Spec.Mode),
		Action: "lend", Subject: p.Name, Outcome: "done",
		Reason: fmt.Sprintf("Batch may use %s on %d of %d machines.", s.offered, s.lending, s.nodes),
		Inputs: map[string]string{"policy": p.Name, "machines": fmt.Sprint(s.nodes), "lending": fmt.Sprint(s.lending), "batchPodsAskFor": s.asked.String()},
	}
	if !lends {
		d.Action, d.Reason = "withdraw", fmt.Sprintf("Batch may use nothing on any of %d machines; of %s: %s.", s.nodes, s.least.node.Name, s.least.offer.Why)
	}
	if p.Spec.Mode != v1alpha1.ModeAuto {
		d.Outcome = "advised"
	}
	if c.o.Ledger != nil && p.Spec.Mode != v1alpha1.ModeObserve {
		if err := c.o.Ledger.AppendDecision(ctx, d); err != nil {
			return fmt.Errorf("write down what ColocationPolicy %s lends: %w", p.Name, err)
		}
	}
	st.lending = lends
	return nil
}

// statusApart is the least time between two writes of a status in which only figures
// have changed, by the wall.
const statusApart = 20 * time.Second

// report writes a policy's status, if it is new.
func (c *Colocator) report(ctx context.Context, w *world, p *v1alpha1.ColocationPolicy, st *policyState, s sum) error {
	was := p.Status
	if st.status != nil {
		was = *st.status // the cache may not have seen our last write yet
	}
	is := c.statusOf(w, p, st, s, was)
	wall := time.Now()
	if equality.Semantic.DeepEqual(was, is) || figuresOnly(was, is) && wall.Sub(st.written) < statusApart {
		return nil
	}
	to := p.DeepCopy()
	to.Status = is
	from := p.DeepCopy()
	if err := c.o.Client.Status().Patch(ctx, to, client.MergeFrom(from)); err != nil {
		return client.IgnoreNotFound(fmt.Errorf("write the status of ColocationPolicy %s: %w", p.Name, err))
	}
	st.status, st.written = &is, wall
	return nil
}

// figuresOnly reports whether two statuses differ in figures and not in what they say.
func figuresOnly(a, b v1alpha1.ColocationPolicyStatus) bool {
	if a.ObservedGeneration != b.ObservedGeneration || len(a.Conditions) != len(b.Conditions) || len(a.RunTimes) != len(b.RunTimes) {
		return false
	}
	for i := range a.Conditions {
		if a.Conditions[i].Status != b.Conditions[i].Status || a.Conditions[i].Reason != b.Conditions[i].Reason {
			return false
		}
	}
	return true
}

func (c *Colocator) statusOf(w *world, p *v1alpha1.ColocationPolicy, st *policyState, s sum, was v1alpha1.ColocationPolicyStatus) v1alpha1.ColocationPolicyStatus {
	is := *was.DeepCopy()
	is.ObservedGeneration, is.Nodes, is.UsedMilli = p.Generation, int32(s.nodes), s.asked.CPUMilli
	is.CapacityMilli, is.CapacityMemoryMiB, is.WouldReclaimMilli = 0, 0, 0
	if p.Spec.Mode == v1alpha1.ModeAuto {
		is.CapacityMilli, is.CapacityMemoryMiB = s.offered.CPUMilli, s.offered.MemoryMiB
	} else {
		is.WouldReclaimMilli = s.offered.CPUMilli
	}
	is.EarnedPerDay, is.Currency = "", ""
	if c.o.Prices != nil {
		is.EarnedPerDay, is.Currency = convert.Money(st.account.day()), c.o.Prices().Currency()
	}
	of := map[string]bool{}
	for _, m := range w.machines {
		of[m.node.Name] = m.policy == p
	}
	is.RunTimes = c.runs.learnt(was.RunTimes, func(node string) bool { return of[node] })
	is.OnlinePeaks = st.peaks.known(w.now)
	is.Reason = reason(p, s)

	set := func(kind string, ok bool, reason, message string) {
		status := metav1.ConditionFalse
		if ok {
			status = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&is.Conditions, metav1.Condition{
			Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: p.Generation, LastTransitionTime: metav1.NewTime(w.now),
		})
	}
	switch {
	case s.nodes > 0 && s.least.declareErr != nil:
		set(conditionReady, false, "Invalid", s.least.declareErr.Error())
	case s.nodes == 0:
		set(conditionReady, false, "NoNodes", "no node has the labels that nodeSelector names, or another policy has them")
	case p.Spec.Mode == v1alpha1.ModeAuto && s.unattended == s.nodes:
		set(conditionReady, false, "NoAgents", firstAgentErr(w, p))
	case p.Spec.Mode == v1alpha1.ModeAuto && s.unattended > 0:
		set(conditionReady, true, "SomeAgents", fmt.Sprintf("%d of %d nodes lend nothing; of one of them: %s", s.unattended, s.nodes, firstAgentErr(w, p)))
	default:
		set(conditionReady, true, string(p.Spec.Mode), "")
	}
	if w.measured != nil {
		set(conditionMetrics, false, "NotMeasured", w.measured.Error())
	} else {
		set(conditionMetrics, true, "Measured", "")
	}
	switch {
	case len(st.broken) > 0:
		set(conditionGuard, false, "Broken", fmt.Sprintf("room for batch does not grow: %s", st.broken[0].why))
	case st.unknown != nil:
		set(conditionGuard, false, "Unknown", st.unknown.Error())
	default:
		set(conditionGuard, true, "Met", "")
	}
	return is
}

// firstAgentErr says of one node why nobody holds batch back there.
func firstAgentErr(w *world, p *v1alpha1.ColocationPolicy) string {
	for _, m := range w.machines {
		if m.policy == p && m.agentErr != nil {
			return fmt.Sprintf("%s: %v", m.node.Name, m.agentErr)
		}
	}
	return ""
}

// reason says in one sentence what binds.
func reason(p *v1alpha1.ColocationPolicy, s sum) string {
	if s.nodes == 0 {
		return "it holds for no node"
	}
	verb := "batch may use"
	if p.Spec.Mode != v1alpha1.ModeAuto {
		verb = "batch could use"
	}
	out := fmt.Sprintf("%s %s on %d of %d nodes", verb, s.offered, s.lending, s.nodes)
	if why := s.least.offer.Why; why != "" {
		out += fmt.Sprintf("; least on %s: %s", s.least.node.Name, why)
	}
	return out
}
