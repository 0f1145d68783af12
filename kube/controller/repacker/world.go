package repacker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/kube/gpubook"
)

const (
	// usualLoad is how long a replacement is expected to take until it serves, where
	// no pod of its service says.
	usualLoad = 2 * time.Minute
	// longestLoad bounds what is learnt: a pod that became ready again much later
	// tells nothing about how it started.
	longestLoad = time.Hour
)

// A world is what plans are made and verified on: everything that runs on GPUs now,
// read past the cache, with what may be done to it.
type world struct {
	book   *gpubook.Book
	nodes  map[string]*corev1.Node
	prices []int64 // of the fleet's machines; nil if one has no price
	// noPrice names a machine without a price.
	noPrice string
	there   map[string]string // UIDs of all pods, by namespace/name
	pods    []gpubook.Pod
	tenants []tenant
	groups  []gpu.Group
	budgets []string // names of the groups
}

// A tenant is a pod with GPUs and what may be done to it.
type tenant struct {
	gpubook.Pod
	service string
	set     string // its ReplicaSet; "" if it is of none
	groups  []int
	seconds int64
	fixed   string // why it is not moved; "" if it may be
}

// observe reads the world for a plan. Of a move that is under way the old pod is in
// it as long as it is there, and the replacement is not.
func (r *Reconciler) observe(ctx context.Context, p *v1alpha1.RepackPlan) (*world, error) {
	var (
		nodes   corev1.NodeList
		pods    corev1.PodList
		budgets policyv1.PodDisruptionBudgetList
		claims  resourceapi.ResourceClaimList
		pools   v1alpha1.ResourcePoolList
	)
	for _, l := range []client.ObjectList{&nodes, &pods, &budgets, &pools} {
		if err := r.o.Live.List(ctx, l); err != nil {
			return nil, fmt.Errorf("list %T: %w", l, err)
		}
	}
	// Older clusters have no claims, and who may not read them has none of Neap's.
	if err := r.o.Live.List(ctx, &claims); err != nil && !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
		return nil, fmt.Errorf("list ResourceClaims: %w", err)
	}
	w := &world{book: gpubook.New(nil), nodes: map[string]*corev1.Node{}, there: map[string]string{}}
	for i := range nodes.Items {
		n := &nodes.Items[i]
		w.nodes[n.Name] = n
		_ = w.book.SetNode(n) // what cannot be used of it is told where GPUs are shown
	}
	for i := range claims.Items {
		_ = w.book.SetClaim(&claims.Items[i])
	}
	for i := range pods.Items {
		if q := &pods.Items[i]; !convert.Over(q) {
			w.there[q.Namespace+"/"+q.Name] = string(q.UID)
		}
	}
	hidden := map[string]bool{}
	for i := range p.Status.Moves {
		if m := &p.Status.Moves[i]; !w.over(m) && m.StartedAt != nil && !m.Evict {
			hidden[podKey(m.Pod).Namespace+"/"+m.SurgePod] = true
		}
	}
	for i := range pods.Items {
		if q := &pods.Items[i]; !hidden[q.Namespace+"/"+q.Name] {
			w.book.SetPod(q)
		}
	}
	w.setPrices(r, pools.Items)
	w.pods = w.book.Pods()
	w.tell(p, budgets.Items)
	return w, nil
}

// over reports whether a move has nothing to take or give any more: it has ended, or
// its old pod is gone, so that what came for it is all that is left of it.
func (w *world) over(m *v1alpha1.RepackMove) bool {
	return m.EndedAt != nil || m.StartedAt != nil && w.there[m.Pod] != m.UID
}

// price is that of one machine of the fleet, 0 where prices are not known.
func (w *world) price(machine int) int64 {
	if w.prices == nil {
		return 0
	}
	return w.prices[machine]
}

// setPrices finds what the machines of the fleet cost.
func (w *world) setPrices(r *Reconciler, declared []v1alpha1.ResourcePool) {
	fleet := w.book.Fleet()
	if r.o.Price == nil {
		w.noPrice = "all"
		return
	}
	list := make([]*v1alpha1.ResourcePool, len(declared))
	for i := range declared {
		list[i] = &declared[i]
	}
	pools, _ := convert.NewPools(list) // a selector that makes no sense is told in the pool's own status
	prices := make([]int64, fleet.Len())
	for i := range prices {
		node := w.nodes[w.book.Node(i)]
		if node == nil {
			continue // a machine that is gone
		}
		if prices[i] = int64(r.o.Price(node, pools)); prices[i] <= 0 {
			w.noPrice = node.Name
			return
		}
	}
	w.prices = prices
}

// tell says of every pod with GPUs what may be done to it.
func (w *world) tell(p *v1alpha1.RepackPlan, budgets []policyv1.PodDisruptionBudget) {
	for i := range budgets {
		b := &budgets[i].Status
		g := gpu.Group{Moves: math.MaxInt, Slack: int(b.CurrentHealthy - b.DesiredHealthy)}
		if b.ObservedGeneration < budgets[i].Generation {
			g.Slack = -1 // not known yet
		}
		w.groups, w.budgets = append(w.groups, g), append(w.budgets, budgets[i].Namespace+"/"+budgets[i].Name)
	}
	var owners convert.Owners // what a ReplicaSet is of, its pods' labels tell
	loads := map[string][]time.Duration{}
	for i := range w.pods {
		from, bound := convert.Bound(w.pods[i].Pod)
		to, ready := convert.BecameReady(w.pods[i].Pod)
		if service := owners.Of(w.pods[i].Pod).String(); bound && ready {
			loads[service] = append(loads[service], to.Sub(from))
		}
	}
	failed := map[string]bool{}
	for i := range p.Status.Moves {
		if m := &p.Status.Moves[i]; m.State == v1alpha1.MoveFailed {
			failed[m.Service] = true
		}
	}
	for i := range w.pods {
		t := tenant{Pod: w.pods[i], service: owners.Of(w.pods[i].Pod).String()}
		t.seconds = int64(load(loads[t.service]).Seconds())
		if owner := metav1.GetControllerOf(t.Pod.Pod); owner != nil && owner.Kind == "ReplicaSet" {
			t.set = owner.Name
		}
		t.fixed = fixed(&t, p)
		if t.fixed == "" && failed[t.service] {
			t.fixed = "a move of the same service failed"
		}
		if ready(t.Pod.Pod) { // one that does not serve is missing in its budgets already
			for k := range budgets {
				if b := &budgets[k]; b.Namespace == t.Namespace && matches(b.Spec.Selector, labels.Set(t.Labels)) {
					t.groups = append(t.groups, k)
				}
			}
		}
		w.tenants = append(w.tenants, t)
	}
}

// load is how long a pod of a service takes until it serves, by those that do.
func load(seen []time.Duration) time.Duration {
	if len(seen) == 0 {
		return usualLoad
	}
	slices.Sort(seen)
	return min(max(seen[len(seen)/2], time.Second), longestLoad)
}

// leaveAlone are annotations by which people keep pods where they are.
var leaveAlone = map[string]string{
	v1alpha1.AnnotationPause:                         "true",
	"karpenter.sh/do-not-disrupt":                    "true",
	"cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
}

// fixed says why a pod is not moved, "" if it may be.
func fixed(t *tenant, p *v1alpha1.RepackPlan) string {
	for _, k := range slices.Sorted(maps.Keys(leaveAlone)) {
		if t.Annotations[k] == leaveAlone[k] {
			return fmt.Sprintf("its annotation %s keeps it where it is", k)
		}
	}
	owner := metav1.GetControllerOf(t.Pod.Pod)
	evacuate := p.Spec.Goal == v1alpha1.RepackEvacuate
	switch {
	case t.DeletionTimestamp != nil:
		return "it is ending"
	case t.Labels[v1alpha1.LabelRepack] != "":
		return "it is a replacement that no service has yet"
	case owner == nil:
		return "nothing controls it, so nothing would make it again"
	case owner.Kind == "DaemonSet" || owner.Kind == "Node":
		return fmt.Sprintf("its %s makes one for every machine", owner.Kind)
	case owner.Kind == "Job":
		return "it is a Job's, whose work would begin again"
	case owner.Kind != "ReplicaSet" && p.Spec.Unsurged != v1alpha1.UnsurgedEvict:
		return fmt.Sprintf("it is a %s's and cannot have a replacement first; set unsurged: Evict to evict it", owner.Kind)
	case !evacuate && !ready(t.Pod.Pod):
		return "it is not ready"
	case !evacuate && len(p.Spec.Machines) > 0 && !slices.Contains(p.Spec.Machines, t.Node):
		return "its machine is none of the plan's"
	}
	return ""
}

// A question is a world as the planner is asked about it.
type question struct {
	gpu.Situation
	tenants []*tenant // of Situation.Tenants
	pending []*tenant // of Situation.Pending
	left    []v1alpha1.RepackLeft
}

// ask puts a plan's goal to the planner. Pods in stay are not moved besides, each for
// the reason given.
func (w *world) ask(p *v1alpha1.RepackPlan, stay map[string]string) *question {
	q := &question{}
	machines, shares := w.book.Basis()
	q.Fleet = w.book.Fleet().Clone()
	q.Fleet.Rescore(gpu.NewNeap(machines, shares, 0))
	q.Prices, q.Groups = w.prices, w.groups
	byName := map[string]*tenant{}
	for i := range w.tenants {
		t := &w.tenants[i]
		name := t.Namespace + "/" + t.Name
		byName[name] = t
		if t.Node == "" || t.Now < 0 {
			continue // it waits, or has its GPUs in a way that cannot be had elsewhere
		}
		fixed := cmp.Or(t.fixed, stay[name])
		q.tenants = append(q.tenants, t)
		q.Tenants = append(q.Tenants, gpu.Tenant{
			Demands: t.Demands, Now: t.Now, Spot: t.Spot, Seconds: t.seconds,
			Stops: t.set == "", Fixed: fixed != "", Groups: t.groups,
		})
	}
	leave := func(pod, why string) { q.left = append(q.left, v1alpha1.RepackLeft{Pod: pod, Reason: why}) }
	asked := map[string]bool{}
	for _, name := range p.Spec.Pods {
		name := string(name)
		t := byName[name]
		switch {
		case asked[name]:
		case t == nil:
			leave(name, "there is no such pod that asks for GPUs")
		case t.Node != "":
			leave(name, "it is on machine "+t.Node)
		case len(t.Demands) == 0:
			leave(name, cmp.Or(t.Wrong, "what it asks for makes no sense"))
		case stay[name] != "":
			leave(name, stay[name])
		default:
			q.pending = append(q.pending, t)
			q.Pending = append(q.Pending, t.Demands)
		}
		asked[name] = true
	}
	if p.Spec.Goal == v1alpha1.RepackEvacuate {
		q.Leave = w.leave(p)
	}
	return q
}

// leave is what a plan is to evacuate.
func (w *world) leave(p *v1alpha1.RepackPlan) []gpu.Spot {
	var out []gpu.Spot
	for _, node := range w.book.Nodes() {
		var named, sick []string
		for _, d := range w.book.Devices(node.Name) {
			if slices.Contains(p.Spec.Devices, d.UUID) {
				named = append(named, d.UUID)
			}
			if !d.Healthy {
				sick = append(sick, d.UUID)
			}
		}
		if len(p.Spec.Machines)+len(p.Spec.Devices) == 0 {
			named = sick
		}
		if slices.Contains(p.Spec.Machines, node.Name) {
			named = nil
		} else if len(named) == 0 {
			continue
		}
		if s, ok := w.book.Spot(node.Name, named...); ok {
			out = append(out, s)
		}
	}
	return out
}

// allows reports whether a node takes a pod as far as the planner does not know:
// by the pod's node selector and affinity and the node's taints.
func allows(pod *corev1.Pod, node *corev1.Node) bool {
	if node == nil {
		return false
	}
	free := pod.DeepCopy()
	free.Spec.NodeName = ""
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(free).Match(node); !ok || err != nil {
		return false
	}
	_, tainted := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations, func(t *corev1.Taint) bool {
		return t.Effect != corev1.TaintEffectPreferNoSchedule
	}, false)
	return !tainted
}

// gap is how far from the best packing of the same pods a level is, at most.
func (w *world) gap(after gpu.Level) *v1alpha1.RepackGap {
	machines := w.book.Capacities()
	var shares []gpu.Share // each pod in whichever way it may have GPUs
	for i := range w.tenants {
		if t := &w.tenants[i]; t.Node != "" && t.Now >= 0 {
			shares = append(shares, gpu.Share{Demand: t.Demands[0], Or: t.Demands[1:], Count: 1})
		}
	}
	gpus := make([]int64, len(machines))
	for i := range machines {
		gpus[i] = int64(machines[i].GPUs)
	}
	out := &v1alpha1.RepackGap{GPUs: int32(max(0, int64(after.GPUs)-gpu.Fewest(machines, gpus, shares, boundSteps)))}
	if w.prices != nil {
		out.PerHour = v1alpha1.Money(convert.Money(money.Amount(max(0, after.Price-gpu.Fewest(machines, w.prices, shares, boundSteps)))))
	}
	return out
}

// boundSteps is enough for a bound that is worth showing, within seconds.
const boundSteps = 500
