package repacker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/kube/convert"
)

const (
	// shortest and longest are how far apart two looks at a move under way are, by
	// the wall.
	shortest, longest = 500 * time.Millisecond, 30 * time.Second
	// again is when a plan that waits for something is looked at again, by the wall.
	again = 15 * time.Second
	// leastPatience is how long any replacement may take to be ready.
	leastPatience = 10 * time.Minute
	// budgetPatience is how long a replacement that is ready waits for the old pod to
	// be let go.
	budgetPatience = 30 * time.Minute
	// admitPatience is how long places are kept for pods that were to be admitted,
	// after the last move.
	admitPatience = 10 * time.Minute
)

// A Ledger keeps decisions; a row appended twice is one.
type Ledger interface {
	AppendDecision(context.Context, bill.Decision) error
}

// Options of a [Reconciler].
type Options struct {
	// Client writes. Required.
	Client client.Client
	// Live reads past the cache: every step rests on what is so now. Required.
	Live client.Reader
	// Clock is the cluster's clock. Required.
	Clock clock.PassiveClock
	// Price returns what an hour of a node costs, 0 if it has no price; nil knows none.
	Price func(node *corev1.Node, pools *convert.Pools) money.Amount
	// Ledger keeps the decisions; nil keeps none.
	Ledger Ledger
	// Evacuate is the mode of the plans that are made for sick GPUs; "" makes none.
	Evacuate v1alpha1.RepackMode
	// Log takes what went wrong; nil means slog.Default.
	Log *slog.Logger
}

// A Reconciler carries RepackPlans out, one move after the other.
type Reconciler struct {
	o   Options
	log *slog.Logger

	mu     sync.Mutex
	waited map[string]time.Duration // how long to wait before the next look at a move
}

// New returns a Reconciler.
func New(o Options) *Reconciler {
	return &Reconciler{o: o, log: cmp.Or(o.Log, slog.Default()).With("component", "repacker"), waited: map[string]time.Duration{}}
}

// SetupWithManager registers the Reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	if r.o.Evacuate != "" {
		if err := mgr.Add(&evacuator{r}); err != nil {
			return err
		}
	}
	return ctrl.NewControllerManagedBy(mgr).Named("repacker").For(&v1alpha1.RepackPlan{}).Complete(r)
}

// +kubebuilder:rbac:groups=neap.dev,resources=repackplans,verbs=get;list;watch;create;delete
// +kubebuilder:rbac:groups=neap.dev,resources=repackplans/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=pods/eviction,verbs=create
// +kubebuilder:rbac:groups="",resources=services,verbs=list
// +kubebuilder:rbac:groups=apps,resources=replicasets;deployments,verbs=get
// +kubebuilder:rbac:groups=policy,resources=poddisruptionbudgets,verbs=list
// +kubebuilder:rbac:groups=resource.k8s.io,resources=resourceclaims,verbs=list

// Reconcile implements reconcile.Reconciler: one look at one plan.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var p v1alpha1.RepackPlan
	if err := r.o.Live.Get(ctx, req.NamespacedName, &p); err != nil || p.DeletionTimestamp != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err) // its replacements go with it
	}
	if p.Status.Phase.Over() {
		return ctrl.Result{}, nil
	}
	was := p.DeepCopy()
	next, err := r.advance(ctx, &p)
	if wrote := r.record(ctx, was, &p); wrote != nil {
		if apierrors.IsConflict(wrote) { // somebody changed the spec: look again
			return ctrl.Result{RequeueAfter: shortest}, nil
		}
		return ctrl.Result{}, errors.Join(err, client.IgnoreNotFound(wrote))
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	if p.Status.Phase.Over() {
		return ctrl.Result{}, nil
	}
	return ctrl.Result{RequeueAfter: next}, nil
}

// underWay reports whether a move has begun and is not over.
func underWay(m *v1alpha1.RepackMove) bool { return m.StartedAt != nil && m.EndedAt == nil }

// advance does what a plan needs next and tells it in the status. It returns when to
// look again.
func (r *Reconciler) advance(ctx context.Context, p *v1alpha1.RepackPlan) (time.Duration, error) {
	now := r.o.Clock.Now()
	s := &p.Status
	if s.ObservedGeneration != p.Generation && p.Spec.Mode != v1alpha1.RepackExecute {
		s.PlannedAt = nil // other limits
	}
	s.ObservedGeneration = p.Generation
	stop := func(phase v1alpha1.RepackPhase, format string, args ...any) (time.Duration, error) {
		s.Phase, s.Reason = phase, fmt.Sprintf(format, args...)
		return 0, nil
	}

	// 1. What is under way goes on, whatever else.
	next, moving, err := r.moves(ctx, p)
	s.Holds = holds(p)
	if err != nil {
		s.Reason = err.Error()
		return again, err
	}
	switch {
	case p.Spec.Abort && moving == 0:
		return stop(v1alpha1.RepackStopped, "it was aborted after %d moves", s.Done)
	case p.Spec.Abort:
		s.Reason = "it is being aborted: " + s.Reason
		return next, nil
	case s.Failed >= mostFailed && moving == 0:
		return stop(v1alpha1.RepackFailed, "%d moves failed; the last: %s", s.Failed, lastFailure(p))
	case s.Failed >= mostFailed:
		return next, nil
	}

	// 2. The plan, if there is none, or the world is not the one it was made for.
	execute := p.Spec.Mode == v1alpha1.RepackExecute
	if s.PlannedAt == nil {
		if moving > 0 {
			s.Reason = "the rest is planned anew when the moves under way are over"
			return next, nil
		}
		if s.Replans >= mostPlans {
			return stop(v1alpha1.RepackStopped, "the world changed %d times, so that the rest had to be planned anew: what was moved stays so", s.Replans)
		}
		w, err := r.observe(ctx, p)
		if err != nil {
			return again, err
		}
		if s.Phase != "" && s.Phase != v1alpha1.RepackPending {
			s.Replans++
		}
		if err := w.plan(p, now); err != nil {
			s.Phase, s.Reason = v1alpha1.RepackPending, err.Error()
			return again, nil
		}
		s.Phase = v1alpha1.RepackPlanned
		return shortest, nil
	}
	if !execute {
		s.Phase = v1alpha1.RepackPlanned
		return 0, nil
	}

	// 3. The next moves.
	if p.Spec.Paused {
		s.Phase, s.Reason = v1alpha1.RepackPaused, "it is paused"
		return next, nil
	}
	s.Phase = v1alpha1.RepackRunning
	if first, err := r.turn(ctx, p); err != nil {
		return again, err
	} else if first != "" {
		s.Reason = fmt.Sprintf("plan %s goes first", first)
		return again, nil
	}
	started, err := r.start(ctx, p, moving)
	if err != nil {
		return again, err
	}
	s.Holds = holds(p)
	if started || s.PlannedAt == nil {
		return shortest, nil
	}
	if moving > 0 {
		return next, nil
	}
	if slices.ContainsFunc(s.Moves, func(m v1alpha1.RepackMove) bool { return m.StartedAt == nil }) {
		return again, nil // the reason says what is waited for
	}

	// 4. The end.
	return r.finish(ctx, p)
}

// moves does the next step of every move under way. It returns when to look again and
// how many are still under way.
func (r *Reconciler) moves(ctx context.Context, p *v1alpha1.RepackPlan) (time.Duration, int, error) {
	next, moving := longest, 0
	var errs []error
	for i := range p.Status.Moves {
		m := &p.Status.Moves[i]
		if !underWay(m) {
			continue
		}
		wait, err := r.step(ctx, p, m)
		if err != nil {
			errs = append(errs, fmt.Errorf("move of pod %s: %w", m.Pod, err))
		}
		if underWay(m) {
			moving++
			p.Status.Reason = strings.TrimSuffix(fmt.Sprintf("pod %s: %s", m.Pod, m.Message), ": ")
			next = min(next, wait)
		} else if m.State != v1alpha1.MoveDone {
			p.Status.PlannedAt = nil // what comes after may rest on it
		}
	}
	count(p)
	if moving == 0 {
		next = shortest
	}
	return next, moving, errors.Join(errs...)
}

func count(p *v1alpha1.RepackPlan) {
	s := &p.Status
	s.Planned, s.Done, s.Failed = int32(len(s.Moves)), 0, 0
	for i := range s.Moves {
		switch s.Moves[i].State {
		case v1alpha1.MoveDone:
			s.Done++
		case v1alpha1.MoveFailed:
			s.Failed++
		}
	}
}

// step does the next step of one move. What it will have become is written down
// before a way back is taken, so that it is not gone again after a crash.
func (r *Reconciler) step(ctx context.Context, p *v1alpha1.RepackPlan, m *v1alpha1.RepackMove) (time.Duration, error) {
	now := r.o.Clock.Now()
	s, err := r.look(ctx, p, m)
	if apierrors.IsForbidden(err) {
		m.Message = err.Error() + "; set repack.enabled in the chart's values to allow it"
		return again, nil
	}
	if err != nil {
		return shortest, err
	}
	end := func() {
		m.EndedAt = &metav1.Time{Time: now}
		if m.Evict && m.State == v1alpha1.MoveDone {
			p.Status.LostServingSeconds += int64(now.Sub(m.StartedAt.Time).Seconds())
		}
	}
	if m.State.Over() { // decided before, and to be tidied up
		if err := r.undo(ctx, s); err != nil {
			return shortest, err
		}
		end()
		return shortest, nil
	}
	seen := s.seen
	seen.Now, seen.Abort = now, p.Spec.Abort
	seen.Deadline = m.StartedAt.Add(patience(p, m))
	if m.Evict || seen.Surge.Ready && seen.Surge.Placed {
		seen.Deadline = seen.Deadline.Add(budgetPatience)
	}
	var v Verdict
	if m.Evict {
		back, err := r.back(ctx, m)
		if err != nil {
			return shortest, err
		}
		v = NextEvicted(seen, back)
	} else {
		v = Next(seen)
	}
	m.State, m.Message = v.State, v.Message
	switch v.Step {
	case StepUndo:
		return shortest, nil
	case StepEnd:
		end()
		return shortest, nil
	}
	err = r.act(ctx, s, v.Step)
	var budget errBudget
	switch {
	case errors.As(err, &budget):
		refusals.Inc()
		m.Message = budget.said
		return r.backoff(m, false), nil
	case apierrors.IsConflict(err): // it changed since it was read
		return shortest, nil
	case apierrors.IsForbidden(err):
		m.Message = err.Error() + "; set repack.enabled in the chart's values to allow it"
		return again, nil
	case err != nil:
		m.Message = err.Error()
		return again, err
	}
	return r.backoff(m, v.Step != StepWait), nil
}

// backoff is when to look at a move again: soon after something was done, later and
// later while it waits.
func (r *Reconciler) backoff(m *v1alpha1.RepackMove, done bool) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := shortest
	if was := r.waited[m.Pod]; !done && was > 0 {
		d = min(was*3/2, longest)
	}
	r.waited[m.Pod] = d
	return d
}

// patience is how long a replacement may take to be ready.
func patience(p *v1alpha1.RepackPlan, m *v1alpha1.RepackMove) time.Duration {
	if d, err := time.ParseDuration(p.Spec.Limits.ReadyWithin); err == nil && d > 0 {
		return d
	}
	return max(leastPatience, 3*time.Duration(m.LoadSeconds)*time.Second)
}

// back reports whether the successor of an evicted pod serves: another pod of its
// name, or, where names are not kept, whatever the controller makes.
func (r *Reconciler) back(ctx context.Context, m *v1alpha1.RepackMove) (bool, error) {
	pod, err := r.pod(ctx, podKey(m.Pod))
	switch {
	case err != nil:
		return false, err
	case pod != nil:
		return string(pod.UID) != m.UID && ready(pod), nil
	}
	// Only a StatefulSet gives the name again.
	return !strings.Contains(m.Service, "/StatefulSet/"), nil
}

// holds are the places that the scheduler has to keep: for replacements that are on
// their way, and for the pods that a plan makes room for.
func holds(p *v1alpha1.RepackPlan) []v1alpha1.RepackHold {
	if p.Spec.Mode != v1alpha1.RepackExecute || p.Spec.Abort {
		return nil
	}
	var out []v1alpha1.RepackHold
	for i := range p.Status.Moves {
		m := &p.Status.Moves[i]
		if !underWay(m) || m.State.Over() || m.State == v1alpha1.MoveLeaving && !m.Evict {
			continue
		}
		name := m.Pod // a StatefulSet makes it again under its name
		if !m.Evict {
			name = podKey(m.Pod).Namespace + "/" + m.SurgePod
		}
		out = append(out, v1alpha1.RepackHold{Pod: name, Machine: m.To.Machine, Devices: m.To.Devices, Milli: m.Milli, MemoryMiB: m.MemoryMiB})
	}
	return append(out, p.Status.Places...)
}

// turn returns the plan that goes first, "" if it is this one: one plan moves at a
// time, sick GPUs before pods that wait before machines to be given back.
func (r *Reconciler) turn(ctx context.Context, p *v1alpha1.RepackPlan) (string, error) {
	rank := map[v1alpha1.RepackGoal]int{v1alpha1.RepackEvacuate: 0, v1alpha1.RepackAdmit: 1, v1alpha1.RepackEmpty: 2}
	var all v1alpha1.RepackPlanList
	if err := r.o.Live.List(ctx, &all); err != nil {
		return "", fmt.Errorf("list RepackPlans: %w", err)
	}
	first := p
	for i := range all.Items {
		q := &all.Items[i]
		if q.Name == p.Name || q.Status.Phase.Over() || q.DeletionTimestamp != nil || q.Spec.Mode != v1alpha1.RepackExecute {
			continue
		}
		if slices.ContainsFunc(q.Status.Moves, func(m v1alpha1.RepackMove) bool { return underWay(&m) }) {
			return q.Name, nil
		}
		if q.Spec.Paused || q.Spec.Abort || !slices.ContainsFunc(q.Status.Moves, func(m v1alpha1.RepackMove) bool { return m.StartedAt == nil }) {
			continue
		}
		if cmp.Or(cmp.Compare(rank[q.Spec.Goal], rank[first.Spec.Goal]), q.CreationTimestamp.Compare(first.CreationTimestamp.Time), strings.Compare(q.Name, first.Name)) < 0 {
			first = q
		}
	}
	if first.Name == p.Name {
		return "", nil
	}
	return first.Name, nil
}

// start begins the next move, if one may begin.
func (r *Reconciler) start(ctx context.Context, p *v1alpha1.RepackPlan, moving int) (bool, error) {
	s := &p.Status
	if moving >= int(max(1, p.Spec.Limits.Parallel)) || !slices.ContainsFunc(s.Moves, func(m v1alpha1.RepackMove) bool { return m.StartedAt == nil }) {
		return false, nil
	}
	now := r.o.Clock.Now()
	if allowed(p) <= 0 {
		s.PlannedAt = nil // the limit was lowered
		return false, nil
	}
	made, err := r.made(ctx, p)
	if err != nil {
		return false, err
	}
	cooldown, err := time.ParseDuration(cmp.Or(p.Spec.Limits.Cooldown, "30m"))
	if err != nil {
		return false, fmt.Errorf("limits.cooldown: %w", err)
	}
	why := ""
	var w *world
	for i := range s.Moves {
		m := &s.Moves[i]
		if m.StartedAt != nil || slices.ContainsFunc(s.Moves[:min(int(m.After), i)], func(b v1alpha1.RepackMove) bool { return b.EndedAt == nil }) {
			continue
		}
		may := MayStart(now, m.Service, made, int(cmp.Or(p.Spec.Limits.MovesPerHour, 30)), cooldown)
		if !may.OK {
			why = cmp.Or(why, fmt.Sprintf("waits until %s: %s", may.Until.UTC().Format(time.RFC3339), may.Why))
			continue
		}
		if w == nil {
			if w, err = r.observe(ctx, p); err != nil {
				return false, err
			}
			if err := w.rest(p); err != nil {
				s.PlannedAt = nil
				s.Reason = "the rest is planned anew: " + err.Error()
				return false, nil
			}
		}
		if budget := w.refuses(m); budget != "" {
			why = cmp.Or(why, fmt.Sprintf("disruption budget %s lets no pod go now", budget))
			if moving == 0 && now.Sub(lastEnd(p)) > budgetPatience {
				s.PlannedAt = nil // without it, then
				return false, nil
			}
			continue
		}
		if m.UID == "" { // a replacement of a move before
			m.UID = w.there[m.Pod]
		}
		m.StartedAt, m.State = &metav1.Time{Time: now}, v1alpha1.MoveSurging
		if m.Evict {
			m.State = v1alpha1.MoveLeaving
		}
		s.Reason = "pod " + m.Pod + " begins to move"
		return true, nil
	}
	if moving == 0 {
		s.Reason = why
	}
	return false, nil
}

// made returns the moves that were begun, of all plans that there are.
func (r *Reconciler) made(ctx context.Context, p *v1alpha1.RepackPlan) ([]v1alpha1.RepackMove, error) {
	var all v1alpha1.RepackPlanList
	if err := r.o.Live.List(ctx, &all); err != nil {
		return nil, fmt.Errorf("list RepackPlans: %w", err)
	}
	made := slices.Clone(p.Status.Moves)
	for i := range all.Items {
		if all.Items[i].Name != p.Name {
			made = append(made, all.Items[i].Status.Moves...)
		}
	}
	return made, nil
}

// finish ends a plan all of whose moves are over.
func (r *Reconciler) finish(ctx context.Context, p *v1alpha1.RepackPlan) (time.Duration, error) {
	s := &p.Status
	if p.Spec.Goal == v1alpha1.RepackEvacuate {
		w, err := r.observe(ctx, p)
		if err != nil {
			return again, err
		}
		if err := w.rest(p); err != nil {
			s.PlannedAt, s.Reason = nil, "more is planned: "+err.Error()
			return shortest, nil
		}
	}
	if p.Spec.Goal == v1alpha1.RepackAdmit {
		var waits []string
		for _, h := range s.Places {
			pod, err := r.pod(ctx, podKey(h.Pod))
			if err != nil {
				return again, err
			}
			if pod != nil && pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
				waits = append(waits, h.Pod)
			}
		}
		if len(waits) > 0 && r.o.Clock.Now().Sub(lastEnd(p)) < admitPatience {
			s.Reason = fmt.Sprintf("there is room for %s, which the scheduler has yet to place", strings.Join(waits, ", "))
			return again, nil
		}
		s.Phase, s.Reason = v1alpha1.RepackDone, fmt.Sprintf("%d of %d pods have a place after %d moves", len(s.Places)-len(waits), len(p.Spec.Pods), s.Done)
	} else {
		s.Phase, s.Reason = v1alpha1.RepackDone, fmt.Sprintf("%d moves were made; %s", s.Done, s.Further)
		switch {
		case s.Replans > 0 && s.Further == stopped[gpu.NotWorth]:
			s.Phase = v1alpha1.RepackStopped
		case len(s.Moves) == 0:
			s.Reason = "there is nothing to move: " + s.Further
		}
	}
	if len(s.Left) > 0 {
		s.Reason += fmt.Sprintf("; %d pods are left: %s: %s", len(s.Left), s.Left[0].Pod, s.Left[0].Reason)
	}
	s.Places, s.Holds = nil, nil
	return 0, nil
}

// lastEnd is when the last move ended, or the plan was made.
func lastEnd(p *v1alpha1.RepackPlan) time.Time {
	last := p.CreationTimestamp.Time
	if t := p.Status.PlannedAt; t != nil && t.After(last) {
		last = t.Time
	}
	for i := range p.Status.Moves {
		if t := p.Status.Moves[i].EndedAt; t != nil && t.After(last) {
			last = t.Time
		}
	}
	return last
}

func lastFailure(p *v1alpha1.RepackPlan) string {
	for i := len(p.Status.Moves) - 1; i >= 0; i-- {
		if m := &p.Status.Moves[i]; m.State == v1alpha1.MoveFailed {
			return fmt.Sprintf("pod %s: %s", m.Pod, m.Message)
		}
	}
	return ""
}

// record writes down what became of a plan: the ledger, metrics, the status.
func (r *Reconciler) record(ctx context.Context, was, p *v1alpha1.RepackPlan) error {
	ready := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: string(p.Status.Phase), Message: p.Status.Reason,
		ObservedGeneration: p.Generation, LastTransitionTime: metav1.NewTime(r.o.Clock.Now()),
	}
	if p.Status.Phase == v1alpha1.RepackPending || p.Status.Phase == v1alpha1.RepackFailed {
		ready.Status = metav1.ConditionFalse
	}
	ready.Reason = cmp.Or(ready.Reason, string(v1alpha1.RepackPending))
	meta.SetStatusCondition(&p.Status.Conditions, ready)
	if equalStatus(&was.Status, &p.Status) {
		return nil
	}
	if r.o.Ledger != nil {
		for _, d := range rows(was, p, r.o.Clock.Now()) {
			if err := r.o.Ledger.AppendDecision(ctx, d); err != nil {
				return fmt.Errorf("write the decision down: %w", err) // nothing is lost: the status says the same again
			}
		}
	}
	if err := r.o.Client.Status().Patch(ctx, p, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{}), fieldOwner); err != nil {
		return err
	}
	observeMoves(was, p)
	return nil
}
