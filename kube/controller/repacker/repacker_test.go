package repacker

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
)

// pair is two machines of one GPU, of which one would do.
func pair() []client.Object {
	objects := []client.Object{node("a", 1), node("b", 1)}
	objects = append(objects, service("chat", "a:0:300")...)
	return append(objects, service("hear", "b:0:600")...)
}

// begun says that a plan has a move in one of the states.
func begun(states ...v1alpha1.RepackMoveState) func(*v1alpha1.RepackPlan) bool {
	return func(p *v1alpha1.RepackPlan) bool {
		return slices.ContainsFunc(p.Status.Moves, func(m v1alpha1.RepackMove) bool { return slices.Contains(states, m.State) })
	}
}

func says(what string) func(*v1alpha1.RepackPlan) bool {
	return func(p *v1alpha1.RepackPlan) bool { return strings.Contains(p.Status.Reason, what) }
}

// replacement is the pod that stands in for another one now.
func (y *yard) replacement() *corev1.Pod {
	for _, p := range y.pods() {
		if p.Labels[v1alpha1.LabelRepack] != "" {
			return &p
		}
	}
	return nil
}

// update edits an object as somebody else would.
func update[T client.Object](y *yard, obj T, name string, edit func(T)) {
	y.t.Helper()
	must(y.t, y.raw.Get(y.t.Context(), types.NamespacedName{Namespace: "live", Name: name}, obj))
	edit(obj)
	if err := y.raw.Update(y.t.Context(), obj); err != nil {
		y.t.Fatal(err)
	}
}

func TestADryRunMovesNothingUntilItIsExecuted(t *testing.T) {
	y := newYard(t, pair()...)
	y.make("p", `{goal: Empty}`)
	p := y.until("the plan to be made", func(p *v1alpha1.RepackPlan) bool { return p.Status.Phase == v1alpha1.RepackPlanned })
	for range 5 {
		y.look()
	}
	if m := p.Status.Moves; len(m) != 1 || m[0].Pod != "live/chat-h1-0" || m[0].To.Machine != "b" || m[0].Service != "live/Deployment/chat" || m[0].LoadSeconds != 60 || m[0].Cost == "" {
		t.Fatalf("moves %+v", m)
	}
	if s := p.Status; s.Freed.PerHour != "2.0000" || s.Before.Machines != 2 || s.Peak.Machines != 2 || s.After.Machines != 1 || s.Gap.GPUs != 0 || len(s.Holds) != 0 {
		t.Errorf("status %+v, freed %+v, gap %+v", s, s.Freed, s.Gap)
	}
	if y.where() != "chat GPU-a-0, hear GPU-b-0" {
		t.Fatalf("a dry run moved: %s", y.where())
	}
	y.change(func(s *v1alpha1.RepackPlanSpec) { s.Mode = v1alpha1.RepackExecute })
	if p = y.until("the plan to be over", over); p.Status.Phase != v1alpha1.RepackDone || y.where() != "chat GPU-b-0, hear GPU-b-0" {
		t.Errorf("executed: %s %s, %s", p.Status.Phase, p.Status.Reason, y.where())
	}
	if d, ok := y.rows["repack/plan-p/plan/0"]; !ok || d.Lever != "gpu" || d.Outcome != "advised" || d.PredictedNano == 0 {
		t.Errorf("the ledger says of the plan %+v", d)
	}
}

func TestTheReplacementIsFoundByNobodyUntilItIsReady(t *testing.T) {
	y := newYard(t, pair()...)
	y.broken["b"] = true
	update(y, &corev1.Pod{}, "chat-h1-0", func(p *corev1.Pod) {
		p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: v1alpha1.ReadinessServing}}
	})
	y.make("p", together)
	p := y.until("the replacement to have a place", func(*v1alpha1.RepackPlan) bool { return y.replacement() != nil && y.replacement().Spec.NodeName != "" })
	pod := y.replacement()
	if pod.Spec.NodeName != "b" || pod.Labels["team"] != "vision" || pod.Annotations["note"] != "template" || pod.Name != p.Status.Moves[0].SurgePod || !strings.HasPrefix(pod.Name, "chat-h1-") {
		t.Errorf("the replacement is %s on %s with labels %v", pod.Name, pod.Spec.NodeName, pod.Labels)
	}
	if len(pod.Spec.ReadinessGates) != 1 {
		t.Error("it lacks the old pod's gate to its traffic")
	}
	var sets appsv1.ReplicaSetList
	var services corev1.ServiceList
	var budgets policyv1.PodDisruptionBudgetList
	for _, l := range []client.ObjectList{&sets, &services, &budgets} {
		must(t, y.raw.List(t.Context(), l))
	}
	for _, s := range sets.Items {
		if matches(s.Spec.Selector, pod.Labels) {
			t.Errorf("ReplicaSet %s finds it", s.Name)
		}
	}
	for _, s := range services.Items {
		if labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			t.Errorf("Service %s finds it", s.Name)
		}
	}
	for _, b := range budgets.Items {
		if matches(b.Spec.Selector, pod.Labels) {
			t.Errorf("budget %s finds it", b.Name)
		}
	}
	if h := p.Status.Holds; len(h) != 1 || h[0].Pod != "live/"+pod.Name || h[0].Machine != "b" || h[0].Milli != 300 {
		t.Errorf("holds %+v", h)
	}
	if o := pod.OwnerReferences; len(o) != 1 || o[0].Kind != "RepackPlan" || metav1.GetControllerOf(pod) != nil {
		t.Errorf("it belongs to %+v; want the plan, so that it goes with it, and no controller", o)
	}
}

func TestWhatGoesWrongLeavesTheOldPodWhereItIs(t *testing.T) {
	cases := map[string]struct {
		before  func(*yard)
		in      v1alpha1.RepackMoveState // when it happens
		then    func(*yard)
		state   v1alpha1.RepackMoveState
		message string
		where   string // "" as it was
	}{
		"the replacement is not ready in time": {
			before: func(y *yard) { y.broken["b"] = true },
			state:  v1alpha1.MoveFailed, message: "the replacement is not ready yet",
		},
		"the scheduler puts it elsewhere": {
			before: func(y *yard) { must(y.t, y.raw.Create(y.t.Context(), node("c", 1))); y.stray["b"] = "c" },
			state:  v1alpha1.MoveFailed, message: "put the replacement on machine c",
		},
		"the replacement dies": {
			before: func(y *yard) { y.broken["b"] = true },
			in:     v1alpha1.MoveSurging,
			then: func(y *yard) {
				pod := y.replacement()
				pod.Status.Phase = corev1.PodFailed
				must(y.t, y.raw.Status().Update(y.t.Context(), pod))
			},
			state: v1alpha1.MoveFailed, message: "ended instead of serving",
		},
		"the old pod goes by itself, as the service is made smaller": {
			before: func(y *yard) { y.broken["b"] = true },
			in:     v1alpha1.MoveSurging,
			then: func(y *yard) {
				update(y, &appsv1.ReplicaSet{}, "chat-h1", func(s *appsv1.ReplicaSet) { s.Spec.Replicas = ptr.To[int32](0) })
			},
			state: v1alpha1.MoveSkipped, message: "has no replicas any more", where: "hear GPU-b-0",
		},
		"a rollout begins": {
			before: func(y *yard) { y.broken["b"] = true },
			in:     v1alpha1.MoveSurging,
			then: func(y *yard) {
				update(y, &appsv1.Deployment{}, "chat", func(d *appsv1.Deployment) { d.Annotations[annotationRevision] = "4" })
			},
			state: v1alpha1.MoveSkipped, message: "not its workload's newest",
		},
		"the plan is aborted": {
			before: func(y *yard) { y.broken["b"] = true },
			in:     v1alpha1.MoveSurging,
			then:   func(y *yard) { y.change(func(s *v1alpha1.RepackPlanSpec) { s.Abort = true }) },
			state:  v1alpha1.MoveUndone, message: "aborted",
		},
		"the budget never lets it go": {
			in: v1alpha1.MoveSurging,
			then: func(y *yard) {
				b := &policyv1.PodDisruptionBudget{}
				must(y.t, y.raw.Get(y.t.Context(), types.NamespacedName{Namespace: "live", Name: "chat"}, b))
				b.Status.DesiredHealthy = 5
				must(y.t, y.raw.Status().Update(y.t.Context(), b))
			},
			state: v1alpha1.MoveFailed, message: "disruption budget does not let",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, pair()...)
			if tc.before != nil {
				tc.before(y)
			}
			y.make("p", `{goal: Empty, mode: Execute, limits: {cooldown: 0s, maxMoves: 1, readyWithin: 2m}}`)
			if tc.then != nil {
				for range 20 { // no Kubernetes in between: the moment must not pass
					y.quiet = true
					y.look()
					if begun(tc.in)(y.get()) && y.replacement() != nil {
						break
					}
				}
				y.quiet = false
				y.tick()
				tc.then(y)
			}
			p := y.until("the plan to be over", over)
			m := p.Status.Moves[0]
			if m.State != tc.state || !strings.Contains(m.Message, tc.message) || m.EndedAt == nil {
				t.Errorf("the move is %s: %q; want %s: %q", m.State, m.Message, tc.state, tc.message)
			}
			want := tc.where
			if want == "" {
				want = "chat GPU-a-0, hear GPU-b-0"
			}
			if y.where() != want || y.replacement() != nil || len(p.Status.Holds) > 0 {
				t.Errorf("%s with holds %v; want %s and nothing left behind", y.where(), p.Status.Holds, want)
			}
			var old corev1.Pod
			if err := y.raw.Get(t.Context(), types.NamespacedName{Namespace: "live", Name: "chat-h1-0"}, &old); err == nil {
				if _, marked := old.Annotations[annotationCost]; marked || old.Annotations[corev1.PodDeletionCost] != "" {
					t.Errorf("the old pod is still marked: %v", old.Annotations)
				}
			} else if !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
		})
	}
}

func TestABudgetIsWaitedFor(t *testing.T) {
	y := newYard(t, pair()...)
	y.broken["b"] = true
	y.make("p", together)
	y.until("the replacement to start", begun(v1alpha1.MoveSurging))
	need := func(n int32) {
		b := &policyv1.PodDisruptionBudget{}
		must(t, y.raw.Get(t.Context(), types.NamespacedName{Namespace: "live", Name: "chat"}, b))
		b.Status.DesiredHealthy = n
		must(t, y.raw.Status().Update(t.Context(), b))
	}
	need(2)
	y.broken["b"] = false
	p := y.until("the budget to refuse", says("disruption budget"))
	if p.Status.Moves[0].State != v1alpha1.MoveSwitching || y.where() != "chat GPU-a-0, chat GPU-b-0, hear GPU-b-0" {
		t.Errorf("while the budget refuses: %s, %s", p.Status.Moves[0].State, y.where())
	}
	need(1)
	if p = y.until("the plan to be over", over); p.Status.Done != 1 || y.least["chat"] < 1 {
		t.Errorf("%d moves are done, and %d of chat served at the least", p.Status.Done, y.least["chat"])
	}
}

// spread is four pods of one service on a machine each.
func spread() []client.Object {
	objects := []client.Object{}
	var at []string
	for i := range 4 {
		name := fmt.Sprintf("m%d", i)
		objects = append(objects, node(name, 1))
		at = append(at, name+":0:250")
	}
	return append(objects, service("chat", at...)...)
}

func TestMovesAreRationed(t *testing.T) {
	for name, tc := range map[string]struct {
		limits string
		apart  time.Duration
		reason string
	}{
		"by the hour":              {"{cooldown: 0s, movesPerHour: 1}", time.Hour, "1 moves have begun within the hour"},
		"by the service's cooling": {"{cooldown: 40m}", 40 * time.Minute, "live/Deployment/chat was moved less than 40m0s ago"},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, spread()...)
			y.make("p", "{goal: Empty, mode: Execute, limits: "+tc.limits+"}")
			for n := range 3 {
				if n > 0 {
					p := y.until("the limit to be met", says(tc.reason))
					y.clock.SetTime(p.Status.Moves[n-1].EndedAt.Add(tc.apart))
				}
				y.until("a move to be done", func(p *v1alpha1.RepackPlan) bool { return int(p.Status.Done) == n+1 })
			}
			p := y.until("the plan to be over", over)
			for i := 1; i < len(p.Status.Moves); i++ {
				if d := p.Status.Moves[i].StartedAt.Sub(p.Status.Moves[i-1].StartedAt.Time); d < tc.apart {
					t.Errorf("two moves began %s apart, want %s", d, tc.apart)
				}
			}
			if p.Status.Freed.Machines != 3 || y.least["chat"] != 4 {
				t.Errorf("freed %d machines, %d pods served at the least; want 3 and 4", p.Status.Freed.Machines, y.least["chat"])
			}
		})
	}
}

func TestAPauseHoldsAndResumes(t *testing.T) {
	y := newYard(t, spread()...)
	y.make("p", together)
	y.until("a move to begin", begun(v1alpha1.MoveSurging))
	y.change(func(s *v1alpha1.RepackPlanSpec) { s.Paused = true })
	y.until("the pause", func(p *v1alpha1.RepackPlan) bool {
		return p.Status.Phase == v1alpha1.RepackPaused && p.Status.Done == 1
	})
	for range 10 {
		y.look()
		y.tick()
	}
	if p := y.get(); p.Status.Done != 1 || y.replacement() != nil {
		t.Fatalf("paused, and %d moves are done", p.Status.Done)
	}
	y.change(func(s *v1alpha1.RepackPlanSpec) { s.Paused = false })
	if p := y.until("the plan to be over", over); p.Status.Done != 3 {
		t.Errorf("%d moves are done", p.Status.Done)
	}
}

func TestThePlanStopsWhenItPaysNoMore(t *testing.T) {
	y := newYard(t, spread()...)
	y.make("p", together)
	y.until("a move to be done", func(p *v1alpha1.RepackPlan) bool { return p.Status.Done == 1 })
	y.change(func(s *v1alpha1.RepackPlanSpec) { s.Paused = true })
	y.until("the pause", func(p *v1alpha1.RepackPlan) bool {
		return p.Status.Phase == v1alpha1.RepackPaused && !slices.ContainsFunc(p.Status.Moves, func(m v1alpha1.RepackMove) bool { return underWay(&m) })
	})
	made := y.get().Status.Done
	// Pods that nobody may move come to all machines: none can be emptied any more.
	for i := range 4 {
		name := fmt.Sprintf("m%d", i)
		if strings.Contains(y.where(), "GPU-"+name+"-0") {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: "guest-" + name, UID: types.UID("guest-" + name)}}
			p.Spec.Containers = service("guest", name+":0:100")[0].(*appsv1.ReplicaSet).Spec.Template.Spec.Containers
			bind(p, name, "GPU-"+name+"-0")
			becomeReady(p, monday)
			must(t, y.raw.Create(t.Context(), p))
		}
	}
	y.change(func(s *v1alpha1.RepackPlanSpec) { s.Paused = false })
	p := y.until("the plan to be over", over)
	if p.Status.Done != made || p.Status.Replans == 0 || p.Status.Failed != 0 {
		t.Errorf("%s %q: %d moves done, planned anew %d times; want it to stop after %d", p.Status.Phase, p.Status.Reason, p.Status.Done, p.Status.Replans, made)
	}
}

func TestAPodThatWaitsIsAdmitted(t *testing.T) {
	objects := []client.Object{node("a", 1), node("b", 1)}
	objects = append(objects, service("chat", "a:0:300")...)
	objects = append(objects, service("hear", "b:0:300")...)
	y := newYard(t, objects...)
	waiting := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: "llm", UID: "llm", Labels: map[string]string{"app": "llm"}}}
	waiting.Spec.Containers = service("llm", "a:0:1000")[0].(*appsv1.ReplicaSet).Spec.Template.Spec.Containers
	must(t, y.raw.Create(t.Context(), waiting))
	y.make("p", `{goal: Admit, pods: [live/llm, live/nobody], mode: Execute, limits: {cooldown: 0s}}`)
	p := y.until("the plan to be over", over)
	if p.Status.Phase != v1alpha1.RepackDone || !strings.Contains(p.Status.Reason, "1 of 2 pods have a place after 1 moves") || !strings.Contains(p.Status.Reason, "live/nobody: there is no such pod") {
		t.Errorf("%s: %s", p.Status.Phase, p.Status.Reason)
	}
	if w := y.where(); w != "chat GPU-b-0, hear GPU-b-0, llm GPU-a-0" && w != "chat GPU-a-0, hear GPU-a-0, llm GPU-b-0" {
		t.Errorf("%s", w)
	}
}

func TestSickGPUsAreEvacuated(t *testing.T) {
	objects := []client.Object{node("a", 2), node("b", 1)}
	objects = append(objects, service("chat", "a:0:300", "a:1:300")...)
	y := newYard(t, objects...)
	must(t, y.r.Evacuate(t.Context()))
	var all v1alpha1.RepackPlanList
	if must(t, y.raw.List(t.Context(), &all)); len(all.Items) != 0 {
		t.Fatal("a plan is made while nothing is sick")
	}
	n := &corev1.Node{}
	must(t, y.raw.Get(t.Context(), types.NamespacedName{Name: "a"}, n))
	n.Annotations = node("a", 2, 0).Annotations
	must(t, y.raw.Update(t.Context(), n))
	y.plan.Name = "sick-a"
	for range 3 { // each look finds the same
		must(t, y.r.Evacuate(t.Context()))
	}
	p := y.until("the plan to be over", over)
	if w := y.where(); p.Spec.Mode != v1alpha1.RepackExecute || p.Status.Phase != v1alpha1.RepackDone || p.Status.Done != 1 || strings.Contains(w, "GPU-a-0") {
		t.Errorf("%s: %s; %s", p.Status.Phase, p.Status.Reason, y.where())
	}
}

// A pod of a StatefulSet is made again under its name, and only after it is gone.
func TestWhatCannotHaveAReplacementStaysUnlessEvicted(t *testing.T) {
	for _, spec := range []string{"Leave", "Evict"} {
		t.Run(spec, func(t *testing.T) {
			y := newYard(t, node("a", 1), node("b", 1))
			own := func(name, kind, machine string) *corev1.Pod {
				p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: name, UID: types.UID(name), Labels: map[string]string{"app": name}, Finalizers: []string{"yard/running"}}}
				if kind != "" {
					p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name[:2], UID: "set", Controller: ptr.To(true)}}
				}
				p.Spec.Containers = service("x", "a:0:300")[0].(*appsv1.ReplicaSet).Spec.Template.Spec.Containers
				bind(p, machine, "GPU-"+machine+"-0")
				becomeReady(p, monday)
				return p
			}
			must(t, y.raw.Create(t.Context(), own("db-0", "StatefulSet", "a")))
			must(t, y.raw.Create(t.Context(), own("lone", "", "a")))
			y.make("p", `{goal: Evacuate, machines: [a], mode: Execute, unsurged: `+spec+`}`)
			again := false
			p := y.until("the plan to be over", func(p *v1alpha1.RepackPlan) bool {
				if len(y.pods()) == 1 && !again {
					again = true
					next := own("db-0", "StatefulSet", "b")
					next.UID = "another"
					must(t, y.raw.Create(t.Context(), next))
				}
				return over(p)
			})
			left := map[string]bool{}
			for _, l := range p.Status.Left {
				left[l.Pod] = true
			}
			moved := spec == "Evict"
			if again != moved || left["live/db-0"] == moved || !left["live/lone"] || (p.Status.LostServingSeconds > 0) != moved || (p.Status.Done == 1) != moved {
				t.Errorf("moved %v, left %v, %d seconds without serving, %d moves done: %s", again, p.Status.Left, p.Status.LostServingSeconds, p.Status.Done, p.Status.Reason)
			}
		})
	}
}

func TestOnePlanMovesAtATime(t *testing.T) {
	y := newYard(t, spread()...)
	y.make("later", `{goal: Empty, mode: Execute, limits: {cooldown: 0s}}`)
	y.until("the later plan to begin", begun(v1alpha1.MoveSurging))
	y.make("urgent", `{goal: Evacuate, machines: [m3], mode: Execute, limits: {cooldown: 0s}}`)
	y.until("the urgent plan to wait for what is under way", says("plan later goes first"))
	for y.plan.Name = "later"; ; {
		if p := y.until("the move to be over", func(p *v1alpha1.RepackPlan) bool {
			return !slices.ContainsFunc(p.Status.Moves, func(m v1alpha1.RepackMove) bool { return underWay(&m) })
		}); p.Status.Done > 0 {
			break
		}
	}
	y.until("the later plan to wait for the urgent one", func(p *v1alpha1.RepackPlan) bool { return says("plan urgent goes first")(p) || over(p) })
	y.plan.Name = "urgent"
	if p := y.until("the urgent plan to be over", over); p.Status.Phase != v1alpha1.RepackDone || strings.Contains(y.where(), "GPU-m3-0") {
		t.Errorf("%s: %s; %s", p.Status.Phase, p.Status.Reason, y.where())
	}
	y.plan.Name = "later"
	y.until("the later plan to be over", over)
	if y.least["chat"] != 4 {
		t.Errorf("%d pods served at the least, want 4", y.least["chat"])
	}
}

func TestAPlanHeedsNodeSelectors(t *testing.T) {
	objects := pair()
	for _, o := range objects {
		switch o := o.(type) {
		case *appsv1.ReplicaSet:
			o.Spec.Template.Spec.NodeSelector = map[string]string{"zone": map[string]string{"chat-h1": "east", "hear-h1": "west"}[o.Name]}
		case *corev1.Pod:
			o.Spec.NodeSelector = map[string]string{"zone": map[string]string{"chat": "east", "hear": "west"}[o.Labels["app"]]}
		case *corev1.Node:
			o.Labels = map[string]string{"zone": map[string]string{"a": "east", "b": "west"}[o.Name]}
		}
	}
	y := newYard(t, objects...)
	y.make("p", together)
	if p := y.until("the plan to be over", over); p.Status.Phase != v1alpha1.RepackDone || len(p.Status.Moves) != 0 {
		t.Errorf("%s: %s with moves %+v", p.Status.Phase, p.Status.Reason, p.Status.Moves)
	}
}
