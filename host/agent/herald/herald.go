// Package herald carries word between the cluster and a machine's warden: what pods,
// policies and the node say to it, and what it sees and does to the node.
//
// On the Node stand the annotation neap.dev/colocation and the condition
// NeapColocation; the Lease neap-agent-NODE says that the agent lives. Where the
// controller has been silent for longer than its word holds, the node's batch
// resources are set to what runs there, so that nothing new comes.
//
// A cluster that does not answer holds up nothing here: the warden works on with what
// was said last.
//
// Not here: what is done on the machine, which host/agent/warden knows.
package herald

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/agent/warden"
	"github.com/neap-dev/neap/kube/convert"
)

// The pace of a herald.
const (
	renewEach   = 10 * time.Second // the Lease, and word from the cluster
	leaseLasts  = 40 * time.Second
	sayAtLeast  = 60 * time.Second // the annotation, though nothing changed
	muteAfter   = 2 * time.Minute
	callsAtMost = 5 * time.Second
)

// Options say what a herald works with.
type Options struct {
	Node      string               // required
	Namespace string               // required: of the Lease
	Client    client.Client        // required: not cached
	Kube      kubernetes.Interface // required: watches pods
	Warden    *warden.Warden       // required
	// Probe is what the machine can do; the node is told. Nil tells nothing.
	Probe *colocate.Probe
	Log   *slog.Logger // nil logs nothing
}

// A Herald serves one machine.
type Herald struct {
	opts      Options
	pods      cache.Store
	changed   chan struct{} // a pod did
	node      *corev1.Node
	policies  []*v1alpha1.ColocationPolicy
	calendars []*v1alpha1.HolidayCalendar
	heard     time.Time // when the cluster last answered
	said      convert.ColocationReport
	saidAt    time.Time
}

// New returns a herald.
func New(opts Options) *Herald {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Herald{opts: opts, changed: make(chan struct{}, 1)}
}

// Run works until ctx ends, and then takes its word back.
func (h *Herald) Run(ctx context.Context) error {
	controller := h.watch()
	go controller.RunWithContext(ctx)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var next time.Time
	for {
		if now := time.Now(); !now.Before(next) {
			next = now.Add(renewEach)
			h.round(ctx, now)
		}
		if controller.HasSynced() && h.node != nil {
			h.tell(time.Now())
		}
		select {
		case <-ctx.Done():
			h.leave()
			return nil
		case <-h.changed:
		case <-ticker.C:
			h.say(ctx, time.Now())
		}
	}
}

// watch keeps the pods of the node.
func (h *Herald) watch() cache.Controller {
	selector := fields.OneTermEqualSelector("spec.nodeName", h.opts.Node).String()
	pods := h.opts.Kube.CoreV1().Pods("")
	store, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.FieldSelector = selector
				return pods.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.FieldSelector = selector
				return pods.Watch(ctx, o)
			},
		}, h.opts.Kube),
		ObjectType: new(corev1.Pod),
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { h.poke() },
			UpdateFunc: func(any, any) { h.poke() },
			DeleteFunc: func(any) { h.poke() },
		},
		Transform: trim,
	})
	h.pods = store
	return controller
}

// trim drops what nobody here reads.
func trim(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	p.ManagedFields = nil
	p.Spec.Volumes, p.Spec.Affinity, p.Spec.Tolerations = nil, nil, nil
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			list[i] = corev1.Container{Name: list[i].Name, Resources: list[i].Resources, RestartPolicy: list[i].RestartPolicy}
		}
	}
	p.Status.ContainerStatuses, p.Status.InitContainerStatuses = nil, nil
	delete(p.Annotations, corev1.LastAppliedConfigAnnotation)
	return p, nil
}

func (h *Herald) poke() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// round hears what the cluster says, and renews the Lease.
func (h *Herald) round(ctx context.Context, now time.Time) {
	if h.heard.IsZero() {
		h.heard = now
	}
	if err := errors.Join(h.hear(ctx), h.renew(ctx, now)); err != nil {
		if ctx.Err() == nil {
			h.opts.Log.Warn("the cluster does not answer as it should", "error", err)
		}
		return
	}
	h.heard = now
}

func (h *Herald) hear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callsAtMost)
	defer cancel()
	node := new(corev1.Node)
	if err := h.opts.Client.Get(ctx, client.ObjectKey{Name: h.opts.Node}, node); err != nil {
		return fmt.Errorf("read node %s: %w", h.opts.Node, err)
	}
	var policies v1alpha1.ColocationPolicyList
	var calendars v1alpha1.HolidayCalendarList
	for _, list := range []client.ObjectList{&policies, &calendars} {
		// Where Neap's kinds are not installed there are no policies.
		if err := h.opts.Client.List(ctx, list); err != nil && !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) {
			return fmt.Errorf("list policies and calendars: %w", err)
		}
	}
	if err := h.tellProbe(ctx, node); err != nil {
		return err
	}
	h.node, h.policies, h.calendars = node, pointers(policies.Items), pointers(calendars.Items)
	return h.decay(ctx)
}

// tellProbe puts on the node what the machine can do.
func (h *Herald) tellProbe(ctx context.Context, node *corev1.Node) error {
	if h.opts.Probe == nil {
		return nil
	}
	text, err := json.Marshal(h.opts.Probe)
	if err != nil || node.Annotations[v1alpha1.AnnotationProbe] == string(text) {
		return err
	}
	return h.annotate(ctx, node, v1alpha1.AnnotationProbe, string(text))
}

// annotate writes one annotation of the node, or takes it away if it is empty.
func (h *Herald) annotate(ctx context.Context, node *corev1.Node, name, text string) error {
	value, err := json.Marshal(text)
	if err != nil {
		return err
	}
	if text == "" {
		value = []byte("null")
	}
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%s}}}`, name, value)
	if err := h.opts.Client.Patch(ctx, node, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return fmt.Errorf("write the annotation %s of node %s: %w", name, h.opts.Node, err)
	}
	return nil
}

// decay takes the batch resources off the node when the controller is silent, but for
// what runs there: a kubelet that restarts fails pods that ask for more than its node has.
func (h *Herald) decay(ctx context.Context) error {
	if _, ours := h.node.Annotations[v1alpha1.AnnotationBatchCapacity]; !ours {
		return nil
	}
	if said, err := convert.NodeBatchCapacity(h.node); err == nil && said.Fresh(time.Now()) {
		return nil
	}
	before := h.node.DeepCopy()
	var asked colocate.Room
	for _, o := range h.pods.List() {
		if p, ok := o.(*corev1.Pod); ok && convert.Batch(p) && !convert.Over(p) {
			asked = asked.Add(convert.BatchRequest(p))
		}
	}
	least := convert.BatchQuantities(asked, v1alpha1.BatchResourcesKubernetes)
	for _, list := range []corev1.ResourceList{h.node.Status.Capacity, h.node.Status.Allocatable} {
		for name, q := range least {
			if is, there := list[name]; there && is.Cmp(q) > 0 {
				list[name] = q
			}
		}
	}
	return h.patch(ctx, before, "take the batch resources off")
}

// patch writes what differs in the node's status.
func (h *Herald) patch(ctx context.Context, before *corev1.Node, what string) error {
	patch := client.StrategicMergeFrom(before)
	if raw, err := patch.Data(h.node); err != nil || string(raw) == "{}" {
		return err
	}
	if err := h.opts.Client.Status().Patch(ctx, h.node, patch); err != nil {
		return fmt.Errorf("%s node %s: %w", what, h.opts.Node, err)
	}
	return nil
}

// renew renews the Lease.
func (h *Herald) renew(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, callsAtMost)
	defer cancel()
	lease := h.lease()
	err := h.opts.Client.Get(ctx, client.ObjectKeyFromObject(lease), lease)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read the agent's lease: %w", err)
	}
	seconds, at := int32(leaseLasts/time.Second), metav1.NewMicroTime(now)
	lease.Spec = coordinationv1.LeaseSpec{HolderIdentity: &h.opts.Node, LeaseDurationSeconds: &seconds, RenewTime: &at}
	if err != nil {
		err = h.opts.Client.Create(ctx, lease)
	} else {
		err = h.opts.Client.Update(ctx, lease)
	}
	if err != nil {
		return fmt.Errorf("renew the agent's lease: %w", err)
	}
	return nil
}

func (h *Herald) lease() *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: h.opts.Namespace, Name: v1alpha1.AgentLeasePrefix + h.opts.Node}}
}

// tell tells the warden what the cluster says.
func (h *Herald) tell(now time.Time) {
	var pods []*corev1.Pod
	for _, o := range h.pods.List() {
		if p, ok := o.(*corev1.Pod); ok {
			pods = append(pods, p)
		}
	}
	world := warden.Look(h.node, pods, h.policies, h.calendars)
	world.Mute = now.Sub(h.heard) > muteAfter
	if p := h.opts.Probe; p != nil && len(p.Others) > 0 {
		world.Rival = strings.Join(p.Others, ", ")
	}
	if said, err := convert.NodeBatchCapacity(h.node); err == nil && said.Fresh(now) {
		world.LentMilli = said.Curve().At(now).CPUMilli
	}
	h.opts.Warden.Tell(world)
}

// say puts what the warden sees and does on the node, when it differs enough.
func (h *Herald) say(ctx context.Context, now time.Time) {
	r := h.opts.Warden.Report()
	if h.node == nil || r.Reason == "" || now.Sub(h.saidAt) < renewEach || !h.worth(r.Colocation, now) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callsAtMost)
	defer cancel()
	h.saidAt = now // also when it fails: not sooner than that again
	if err := h.write(ctx, r, now); err != nil {
		h.opts.Log.Warn("the node is not told", "error", err)
		return
	}
	h.said = r.Colocation
}

// worth reports whether a report differs from what the node has.
func (h *Herald) worth(r convert.ColocationReport, now time.Time) bool {
	was := h.said
	if now.Sub(h.saidAt) >= sayAtLeast || was.Step != r.Step || was.Avoidance != r.Avoidance || was.Policy != r.Policy || was.ForeignWrites != r.ForeignWrites {
		return true
	}
	least := max(float64(h.node.Status.Capacity.Cpu().MilliValue())/50, 10)
	for _, pair := range [][2]int64{{was.OnlineMilli, r.OnlineMilli}, {was.BatchMilli, r.BatchMilli}, {was.BudgetMilli, r.BudgetMilli}} {
		if math.Abs(float64(pair[0]-pair[1])) >= least {
			return true
		}
	}
	return false
}

func (h *Herald) write(ctx context.Context, r warden.Report, now time.Time) error {
	text, err := json.Marshal(r.Colocation)
	if err != nil {
		return err
	}
	if r.Reason == warden.ReasonNoPolicy && r.OK {
		text = nil
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: h.opts.Node}}
	if err := h.annotate(ctx, node, v1alpha1.AnnotationColocation, string(text)); err != nil {
		return err
	}
	h.node = node
	before := node.DeepCopy()
	status := corev1.ConditionFalse
	if r.OK {
		status = corev1.ConditionTrue
	}
	condition(node, corev1.NodeCondition{Type: v1alpha1.NodeConditionColocation, Status: status, Reason: r.Reason, Message: r.Message}, now)
	return h.patch(ctx, before, "write the condition of")
}

// condition sets a condition; its time changes with its status.
func condition(node *corev1.Node, c corev1.NodeCondition, now time.Time) {
	c.LastHeartbeatTime, c.LastTransitionTime = metav1.NewTime(now), metav1.NewTime(now)
	for i := range node.Status.Conditions {
		old := &node.Status.Conditions[i]
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
			if old.Reason == c.Reason && old.Message == c.Message {
				return
			}
		}
		*old = c
		return
	}
	node.Status.Conditions = append(node.Status.Conditions, c)
}

// leave takes back what was said: the agent ends in order.
func (h *Herald) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), callsAtMost)
	defer cancel()
	if err := h.opts.Client.Delete(ctx, h.lease()); err != nil && !apierrors.IsNotFound(err) {
		h.opts.Log.Warn("the agent's lease stays until it runs out", "error", err)
	}
	if h.node == nil {
		return
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: h.opts.Node}}
	if err := h.annotate(ctx, node, v1alpha1.AnnotationColocation, ""); err != nil {
		h.opts.Log.Warn("the annotation stays on the node", "error", err)
		return
	}
	h.node = node
	before := node.DeepCopy()
	condition(node, corev1.NodeCondition{Type: v1alpha1.NodeConditionColocation, Status: corev1.ConditionUnknown, Reason: "AgentEnded",
		Message: "the agent ended in order, and left every file as it was found"}, time.Now())
	if err := h.patch(ctx, before, "write the condition of"); err != nil {
		h.opts.Log.Warn("the condition stays on the node", "error", err)
	}
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}
