package repacker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	clienttesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/kube/gpubook"
)

var monday = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	_ = clientgoscheme.AddToScheme(s)
	_ = v1alpha1.AddToScheme(s)
	return s
}()

// A doom kills a process after a number of steps: before an API write, when nothing
// has happened, or right after it, when nobody learns that it did.
type doom struct {
	left int // −1: never
	dead bool
	took int // steps in all
}

var errKilled = errors.New("killed")

func (d *doom) step() error {
	d.took++
	if d.left == 0 {
		d.dead = true
	}
	if d.dead {
		return errKilled
	}
	d.left--
	return nil
}

// A yard is a cluster in memory: machines with GPUs, services on them, and what
// Kubernetes does of itself (ReplicaSets, budgets, the scheduler, kubelets), which
// is done after every write and between two looks.
type yard struct {
	t     *testing.T
	raw   client.WithWatch
	c     client.Client // the repacker's: may be killed
	clock *clocktesting.FakeClock
	doom  doom
	rows  map[string]bill.Decision
	r     *Reconciler
	plan  types.NamespacedName

	born   int
	least  map[string]int // fewest pods of each service that were ready
	slow   map[string]int // looks until pods on a machine are ready
	broken map[string]bool
	stray  map[string]string // machine → where its replacements land instead
	quiet  bool              // no one controls in between writes
}

func newYard(t *testing.T, objects ...client.Object) *yard {
	t.Helper()
	y := &yard{
		t: t, clock: clocktesting.NewFakeClock(monday), doom: doom{left: -1}, rows: map[string]bill.Decision{},
		least: map[string]int{}, slow: map[string]int{}, broken: map[string]bool{}, stray: map[string]string{},
	}
	y.raw = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(&v1alpha1.RepackPlan{}).
		WithObjectTracker(clienttesting.NewObjectTracker(scheme, serializer.NewCodecFactory(scheme).UniversalDecoder())).Build() // the usual one is ten times as slow
	around := func(do func() error) error {
		if err := y.doom.step(); err != nil {
			return err
		}
		err := do()
		if err == nil && !y.quiet {
			y.tick()
		}
		return errors.Join(err, y.doom.step())
	}
	one := func(do func() error) error { // errors keep their kind
		var inner error
		if err := around(func() error { inner = do(); return inner }); inner != nil && !y.doom.dead {
			return inner
		} else {
			return err
		}
	}
	y.c = interceptor.NewClient(y.raw, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			return one(func() error {
				obj.SetUID(y.uid())
				obj.SetCreationTimestamp(metav1.NewTime(y.clock.Now()))
				return c.Create(ctx, obj, opts...)
			})
		},
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
			return one(func() error { return c.Patch(ctx, obj, patch, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
			return one(func() error { return c.Delete(ctx, obj, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			return one(func() error { return c.SubResource(sub).Patch(ctx, obj, patch, opts...) })
		},
		SubResourceCreate: func(ctx context.Context, c client.Client, sub string, obj, _ client.Object, opts ...client.SubResourceCreateOption) error {
			return one(func() error { return y.evict(ctx, obj.(*corev1.Pod), opts...) })
		},
	})
	y.restart()
	return y
}

func (y *yard) uid() types.UID {
	y.born++
	return types.UID(fmt.Sprintf("uid-%d", y.born))
}

// restart is the process started again: what it knew is gone.
func (y *yard) restart() {
	y.doom.left, y.doom.dead = -1, false
	y.r = New(Options{
		Client: y.c, Live: y.raw, Clock: y.clock, Ledger: y, Log: slog.New(slog.DiscardHandler), Evacuate: v1alpha1.RepackExecute,
		Price: func(*corev1.Node, *convert.Pools) money.Amount { return 2 * money.Unit },
	})
}

// AppendDecision implements Ledger.
func (y *yard) AppendDecision(_ context.Context, d bill.Decision) error {
	if err := y.doom.step(); err != nil {
		return err
	}
	if _, ok := y.rows[d.ID]; !ok {
		y.rows[d.ID] = d
	}
	return y.doom.step()
}

// node is a machine with so many GPUs.
func node(name string, gpus int, sick ...int) *corev1.Node {
	var devices []v1alpha1.GPUDevice
	for i := range gpus {
		devices = append(devices, v1alpha1.GPUDevice{Index: int32(i), UUID: fmt.Sprintf("GPU-%s-%d", name, i), Model: "A10", MemoryMiB: 24000, Healthy: !slices.Contains(sick, i)})
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Annotations: map[string]string{v1alpha1.AnnotationGPUDevices: convert.WriteGPUDevices(devices)}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: apiresource.MustParse("64"), corev1.ResourceMemory: apiresource.MustParse("256Gi"), corev1.ResourcePods: apiresource.MustParse("110"),
		}},
	}
}

// A service is a Deployment's ReplicaSet with a Service and a budget, and its pods on
// the machines named, such as "a:0:600" for 600 thousandths of machine a's GPU 0.
func service(name string, at ...string) []client.Object {
	labels := map[string]string{"app": name, "pod-template-hash": "h1", "team": "vision"}
	_, milli, _ := strings.Cut(at[0][strings.Index(at[0], ":")+1:], ":")
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "live", Name: name + "-h1", UID: types.UID(name + "-h1"), Generation: 1, Annotations: map[string]string{annotationRevision: "3"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: name, UID: types.UID(name), Controller: ptr.To(true)}},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: ptr.To(int32(len(at))),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name, "pod-template-hash": "h1"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Finalizers: []string{"yard/running"}, Annotations: map[string]string{"note": "template"}},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					corev1.ResourceCPU: apiresource.MustParse("1"), v1alpha1.ResourceGPUMilli: apiresource.MustParse(milli), v1alpha1.ResourceGPUMemory: apiresource.MustParse("4000"),
				}}}}},
			},
		},
		Status: appsv1.ReplicaSetStatus{ObservedGeneration: 1, Replicas: int32(len(at))},
	}
	out := []client.Object{
		set,
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: name, UID: types.UID(name), Annotations: map[string]string{annotationRevision: "3"}}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: name}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": name}}},
		&policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: name},
			Spec:       policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr.To(intstr.FromInt32(0)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}},
			Status:     policyv1.PodDisruptionBudgetStatus{CurrentHealthy: int32(len(at)), DesiredHealthy: int32(len(at))},
		},
	}
	for i, spot := range at {
		part := strings.Split(spot, ":")
		p := &corev1.Pod{
			ObjectMeta: *set.Spec.Template.ObjectMeta.DeepCopy(),
			Spec:       *set.Spec.Template.Spec.DeepCopy(),
		}
		p.Namespace, p.Name, p.UID = "live", fmt.Sprintf("%s-h1-%d", name, i), types.UID(fmt.Sprintf("%s-%d", name, i))
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
		bind(p, part[0], "GPU-"+part[0]+"-"+part[1])
		becomeReady(p, monday.Add(-time.Hour))
		out = append(out, p)
	}
	return out
}

// bind puts a pod on a GPU, with all that it asks for.
func bind(p *corev1.Pod, node string, devices ...string) {
	asks := p.Spec.Containers[0].Resources.Requests
	a := v1alpha1.GPUAllocation{Node: node}
	for _, d := range devices {
		milli, memory := asks[v1alpha1.ResourceGPUMilli], asks[v1alpha1.ResourceGPUMemory]
		a.Devices = append(a.Devices, v1alpha1.GPUShare{UUID: d, Milli: milli.Value() / int64(len(devices)), MemoryMiB: memory.Value() / int64(len(devices))})
	}
	metav1.SetMetaDataAnnotation(&p.ObjectMeta, v1alpha1.AnnotationGPUAllocation, convert.WriteGPUAllocation(a))
	p.Spec.NodeName = node
}

func becomeReady(p *corev1.Pod, at time.Time) {
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(at.Add(-time.Minute))},
		{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(at)},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (y *yard) pods() []corev1.Pod {
	var l corev1.PodList
	must(y.t, y.raw.List(y.t.Context(), &l))
	return l.Items
}

// tick is what Kubernetes does of itself.
func (y *yard) tick() {
	ctx := y.t.Context()
	// 1. ReplicaSets adopt, make and delete.
	var sets appsv1.ReplicaSetList
	must(y.t, y.raw.List(ctx, &sets))
	for i := range sets.Items {
		y.replicas(&sets.Items[i])
	}
	// 2. The scheduler.
	book := y.book()
	for _, p := range y.pods() {
		if p.Spec.NodeName != "" || p.DeletionTimestamp != nil {
			continue
		}
		y.schedule(book, &p)
	}
	// 3. Kubelets.
	for _, p := range y.pods() {
		switch {
		case p.DeletionTimestamp != nil:
			p.Finalizers = nil
			must(y.t, y.raw.Update(ctx, &p))
		case p.Spec.NodeName != "" && !ready(&p) && !y.broken[p.Spec.NodeName]:
			if y.slow[p.Spec.NodeName] > 0 {
				y.slow[p.Spec.NodeName]--
				continue
			}
			becomeReady(&p, y.clock.Now())
			must(y.t, y.raw.Status().Update(ctx, &p))
		}
	}
	y.budgets()
	y.audit()
}

func (y *yard) replicas(set *appsv1.ReplicaSet) {
	ctx := y.t.Context()
	var mine []corev1.Pod
	for _, p := range y.pods() {
		if p.DeletionTimestamp != nil || !matches(set.Spec.Selector, p.Labels) {
			continue
		}
		if metav1.GetControllerOf(&p) == nil {
			p.OwnerReferences = append(p.OwnerReferences, *metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet")))
			must(y.t, y.raw.Update(ctx, &p))
		}
		if metav1.IsControlledBy(&p, set) {
			mine = append(mine, p)
		}
	}
	for n := len(mine); n < int(*set.Spec.Replicas); n++ {
		y.born++
		p := &corev1.Pod{ObjectMeta: *set.Spec.Template.ObjectMeta.DeepCopy(), Spec: *set.Spec.Template.Spec.DeepCopy()}
		p.Namespace, p.Name, p.UID = set.Namespace, fmt.Sprintf("%s-%d", set.Name, y.born), types.UID(fmt.Sprintf("uid-%d", y.born))
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
		must(y.t, y.raw.Create(ctx, p))
	}
	cost := func(p *corev1.Pod) int {
		n := 0
		_, _ = fmt.Sscanf(p.Annotations[corev1.PodDeletionCost], "%d", &n)
		return n
	}
	number := map[bool]int{true: 1}
	slices.SortFunc(mine, func(a, b corev1.Pod) int {
		return cmp.Or(cmp.Compare(number[a.Spec.NodeName != ""], number[b.Spec.NodeName != ""]), cmp.Compare(number[ready(&a)], number[ready(&b)]),
			cmp.Compare(cost(&a), cost(&b)), strings.Compare(b.Name, a.Name))
	})
	for i := range len(mine) - int(*set.Spec.Replicas) {
		must(y.t, y.raw.Delete(ctx, &mine[i]))
	}
}

func (y *yard) book() *gpubook.Book {
	ctx := y.t.Context()
	var nodes corev1.NodeList
	must(y.t, y.raw.List(ctx, &nodes))
	book := gpubook.New(nil)
	for i := range nodes.Items {
		must(y.t, book.SetNode(&nodes.Items[i]))
	}
	for _, p := range y.pods() {
		book.SetPod(&p)
	}
	var plans v1alpha1.RepackPlanList
	must(y.t, y.raw.List(ctx, &plans))
	for _, p := range plans.Items {
		for i, h := range p.Status.Holds {
			book.SetHold(fmt.Sprintf("%s/%d", p.Name, i), gpubook.Hold{Pod: h.Pod, Node: h.Machine, Devices: h.Devices, Milli: h.Milli, MemoryMiB: h.MemoryMiB})
		}
	}
	return book
}

func (y *yard) schedule(book *gpubook.Book, p *corev1.Pod) {
	demands, err := book.Demands(p)
	must(y.t, err)
	fleet := book.FleetFor(p)
	var spot gpu.Spot
	ok := false
	var hint v1alpha1.RepackSpot
	var wish struct {
		Node    string   `json:"node"`
		Devices []string `json:"devices"`
	}
	if text := p.Annotations[v1alpha1.AnnotationGPUSpot]; text != "" {
		must(y.t, json.Unmarshal([]byte(text), &wish))
		hint = v1alpha1.RepackSpot{Machine: wish.Node, Devices: wish.Devices}
		if to := y.stray[hint.Machine]; to != "" {
			hint = v1alpha1.RepackSpot{Machine: to, Devices: []string{"GPU-" + to + "-0"}}
		}
		if spot, ok = book.Spot(hint.Machine, hint.Devices...); ok {
			d := demands[0]
			trial := fleet.Clone()
			ok = trial.Place(d, spot) == nil
		}
	}
	if !ok {
		spot, ok = fleet.Pick(demands[0])
	}
	if !ok {
		return
	}
	a := book.Allocation(demands[0], spot)
	var devices []string
	for _, d := range a.Devices {
		devices = append(devices, d.UUID)
	}
	bind(p, a.Node, devices...)
	must(y.t, y.raw.Update(y.t.Context(), p))
	book.SetPod(p)
}

// budgets counts as the disruption controller does.
func (y *yard) budgets() {
	var l policyv1.PodDisruptionBudgetList
	must(y.t, y.raw.List(y.t.Context(), &l))
	all := y.pods()
	for i := range l.Items {
		b := &l.Items[i]
		was := b.Status
		b.Status.CurrentHealthy, b.Status.DisruptionsAllowed = 0, 0
		for k := range all {
			if p := &all[k]; p.DeletionTimestamp == nil && ready(p) && matches(b.Spec.Selector, p.Labels) {
				b.Status.CurrentHealthy++
			}
		}
		b.Status.DisruptionsAllowed = max(0, b.Status.CurrentHealthy-b.Status.DesiredHealthy)
		if b.Status.CurrentHealthy != was.CurrentHealthy || b.Status.DisruptionsAllowed != was.DisruptionsAllowed {
			must(y.t, y.raw.Status().Update(y.t.Context(), b))
		}
	}
}

func (y *yard) evict(ctx context.Context, pod *corev1.Pod, opts ...client.SubResourceCreateOption) error {
	var o client.SubResourceCreateOptions
	for _, opt := range opts {
		opt.ApplyToSubResourceCreate(&o)
	}
	var is corev1.Pod
	if err := y.raw.Get(ctx, client.ObjectKeyFromObject(pod), &is); err != nil {
		return err
	}
	if is.DeletionTimestamp == nil {
		var l policyv1.PodDisruptionBudgetList
		must(y.t, y.raw.List(ctx, &l))
		for i := range l.Items {
			if b := &l.Items[i]; matches(b.Spec.Selector, is.Labels) && b.Status.DisruptionsAllowed <= 0 {
				return apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 10)
			}
		}
	}
	if len(o.DryRun) > 0 {
		return nil
	}
	return y.raw.Delete(ctx, &is)
}

// audit checks what must always be so, from the annotations alone.
func (y *yard) audit() {
	y.t.Helper()
	held := map[string]int64{}
	serving := map[string]int{}
	for _, p := range y.pods() {
		a, err := convert.GPUAllocation(&p)
		must(y.t, err)
		if a != nil && p.Spec.NodeName != "" {
			for _, d := range a.Devices {
				if held[d.UUID] += d.Milli; held[d.UUID] > 1000 {
					y.t.Fatalf("GPU %s is given away twice", d.UUID)
				}
			}
		}
		if app := p.Labels["app"]; app != "" && p.DeletionTimestamp == nil && ready(&p) {
			serving[app]++
		}
	}
	for app, n := range serving {
		if was, ok := y.least[app]; !ok || n < was {
			y.least[app] = n
		}
	}
}

// where lists which service has how much of which GPU.
func (y *yard) where() string {
	var out []string
	for _, p := range y.pods() {
		a, _ := convert.GPUAllocation(&p)
		at := "nowhere"
		if a != nil {
			at = a.Devices[0].UUID
		}
		out = append(out, p.Labels["app"]+" "+at)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// make makes a plan.
func (y *yard) make(name, spec string) {
	y.t.Helper()
	p := &v1alpha1.RepackPlan{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("plan-" + name), Generation: 1, CreationTimestamp: metav1.NewTime(monday)}}
	must(y.t, yaml.UnmarshalStrict([]byte(spec), &p.Spec))
	must(y.t, y.raw.Create(y.t.Context(), p))
	y.plan = types.NamespacedName{Name: name}
}

func (y *yard) get() *v1alpha1.RepackPlan {
	y.t.Helper()
	var p v1alpha1.RepackPlan
	must(y.t, y.raw.Get(y.t.Context(), y.plan, &p))
	return &p
}

// change edits the plan as a person would.
func (y *yard) change(edit func(*v1alpha1.RepackPlanSpec)) {
	y.t.Helper()
	p := y.get()
	edit(&p.Spec)
	p.Generation++
	must(y.t, y.raw.Update(y.t.Context(), p))
}

// look is one look at the plan, after a restart if it was killed in it.
func (y *yard) look() {
	y.t.Helper()
	_, err := y.r.Reconcile(y.t.Context(), ctrl.Request{NamespacedName: y.plan})
	if y.doom.dead {
		y.restart()
		return
	}
	must(y.t, err)
}

// until looks again and again, with Kubernetes at work in between, until something
// is so.
func (y *yard) until(what string, so func(*v1alpha1.RepackPlan) bool) *v1alpha1.RepackPlan {
	y.t.Helper()
	for range 600 {
		y.look()
		y.tick()
		if p := y.get(); so(p) {
			return p
		}
		y.clock.Step(5 * time.Second)
	}
	p := y.get()
	text, _ := yaml.Marshal(p.Status)
	y.t.Fatalf("waited for %s in vain: %s", what, text)
	return nil
}

func over(p *v1alpha1.RepackPlan) bool { return p.Status.Phase.Over() }
