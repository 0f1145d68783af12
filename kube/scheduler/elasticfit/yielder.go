package elasticfit

import (
	"context"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/defaultpreemption"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/feature"
	"k8s.io/kubernetes/pkg/scheduler/framework/preemption"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/kube/convert"
)

// A yielder makes room for a GPU pod: pods that an ElasticPolicy placed on spare
// capacity leave. It is the framework's preemption with another answer to who may
// be asked to leave.
type yielder struct {
	*defaultpreemption.DefaultPreemption
	plugin    *ElasticFit
	evaluator *preemption.Evaluator
}

func newYielder(ctx context.Context, f *ElasticFit) (*yielder, error) {
	// Without features victims are deleted before the cycle ends: at once.
	stock, err := defaultpreemption.New(ctx, &config.DefaultPreemptionArgs{MinCandidateNodesPercentage: 10, MinCandidateNodesAbsolute: 100}, f.handle, feature.Features{})
	if err != nil {
		return nil, err
	}
	y := &yielder{DefaultPreemption: stock, plugin: f}
	y.evaluator = preemption.NewEvaluator(Name, f.handle, y, stock.Executor)
	return y, nil
}

// preempt asks pods to leave for a GPU pod that found no room.
func (y *yielder) preempt(ctx context.Context, state fwk.CycleState, pod *v1.Pod, nodes fwk.NodeToStatusReader) (*fwk.PostFilterResult, *fwk.Status) {
	result, status := y.evaluator.Preempt(ctx, state, pod, nodes)
	if !status.IsSuccess() {
		// The stock preemption comes next; it says itself what it found.
		return nil, fwk.NewStatus(fwk.Unschedulable)
	}
	return result, status
}

// mayLeave reports whether a pod on a node has to make room for a GPU pod: it is
// in a pool of spare capacity because its policy placed it there, and no more
// important than the GPU pod.
func (y *yielder) mayLeave(node *v1.Node, victim, pod *v1.Pod) bool {
	if y.plugin.declared.pool(node).Kind != v1alpha1.PoolSpareOnGPUMachines ||
		convert.Request(victim)[resource.GPU] > 0 || corev1helpers.PodPriority(victim) > corev1helpers.PodPriority(pod) {
		return false
	}
	by, ok := y.plugin.owner(victim)
	return ok && y.plugin.declared.policy(by.workload) != nil
}

// PodEligibleToPreemptOthers implements [preemption.Interface].
func (y *yielder) PodEligibleToPreemptOthers(_ context.Context, pod *v1.Pod, nominated *fwk.Status) (bool, string) {
	if p := pod.Spec.PreemptionPolicy; p != nil && *p == v1.PreemptNever {
		return false, "its preemptionPolicy is Never"
	}
	name := pod.Status.NominatedNodeName
	if name == "" || nominated.Code() == fwk.UnschedulableAndUnresolvable {
		return true, ""
	}
	node, err := y.plugin.handle.SnapshotSharedLister().NodeInfos().Get(name)
	if err != nil {
		return true, ""
	}
	for _, p := range node.GetPods() {
		if p.GetPod().DeletionTimestamp != nil && y.mayLeave(node.Node(), p.GetPod(), pod) {
			return false, "pods are leaving for it already"
		}
	}
	return true, ""
}

// SelectVictimsOnNode implements [preemption.Interface]: the fewest pods that
// have to leave, the smallest and youngest first.
func (y *yielder) SelectVictimsOnNode(ctx context.Context, state fwk.CycleState, pod *v1.Pod, node fwk.NodeInfo, _ []*policyv1.PodDisruptionBudget) ([]*v1.Pod, int, *fwk.Status) {
	h := y.plugin.handle
	remove := func(p fwk.PodInfo) *fwk.Status {
		if err := node.RemovePod(klog.FromContext(ctx), p.GetPod()); err != nil {
			return fwk.AsStatus(err)
		}
		return h.RunPreFilterExtensionRemovePod(ctx, state, pod, p, node)
	}
	var spare []fwk.PodInfo
	for _, p := range node.GetPods() {
		if y.mayLeave(node.Node(), p.GetPod(), pod) {
			spare = append(spare, p)
		}
	}
	if len(spare) == 0 {
		return nil, 0, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "no pod here only uses what is spare")
	}
	for _, p := range spare {
		if s := remove(p); !s.IsSuccess() {
			return nil, 0, s
		}
	}
	if s := h.RunFilterPluginsWithNominatedPods(ctx, state, pod, node); !s.IsSuccess() {
		return nil, 0, s
	}
	// Those who may stay, the largest and oldest first.
	slices.SortStableFunc(spare, func(a, b fwk.PodInfo) int {
		p, q := a.GetPod(), b.GetPod()
		if c := convert.Request(q)[resource.CPU] - convert.Request(p)[resource.CPU]; c != 0 {
			return int(max(-1, min(1, c)))
		}
		if c := p.CreationTimestamp.Compare(q.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(p.Name, q.Name)
	})
	var victims []*v1.Pod
	for _, p := range spare {
		node.AddPodInfo(p)
		if s := h.RunPreFilterExtensionAddPod(ctx, state, pod, p, node); !s.IsSuccess() {
			return nil, 0, s
		}
		if h.RunFilterPluginsWithNominatedPods(ctx, state, pod, node).IsSuccess() {
			continue
		}
		if s := remove(p); !s.IsSuccess() {
			return nil, 0, s
		}
		victims = append(victims, p.GetPod())
	}
	return victims, 0, nil
}
