package convert

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	helper "k8s.io/component-helpers/resource"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

// Request returns what the scheduler holds for a pod: its containers and
// sidecars together or its largest init container, whichever is more, plus the
// runtime's overhead; while a container is being resized in place, the larger of
// the old and the new. Of GPUs it is what the pod was given, once it was: that may
// be more than the least it asked for.
func Request(pod *corev1.Pod) resource.Vector {
	v := Vector(helper.PodRequests(pod, helper.PodResourcesOptions{
		UseStatusResources: true,
		InPlacePodLevelResourcesVerticalScalingEnabled: true,
	}))
	if given, err := GPUAllocation(pod); err == nil && given != nil {
		var milli int64
		for _, d := range given.Devices {
			milli += d.Milli
		}
		v[resource.GPU] = max(v[resource.GPU], milli)
	}
	return v
}

// Pod returns the billed pod that pod is, belonging to module key, on node. Its
// times are left zero and its one request step has no time. A pod on a virtual
// node also brings its own machine, as large as its request; else the machine is
// nil. node may be nil if it is not known: the pod is then on a machine of its
// node's name.
func Pod(pod *corev1.Pod, key workload.Key, node *corev1.Node, pools *Pools) (bill.Pod, *bill.Machine) {
	request := Request(pod)
	p := bill.Pod{
		UID:       string(pod.UID),
		Namespace: pod.Namespace,
		Name:      pod.Name,
		Module:    key,
		Machine:   pod.Spec.NodeName,
		Labels:    tellingLabels(pod.Labels),
		Requests:  []bill.Step{{Request: request}},
		Headroom:  pod.Labels[v1alpha1.LabelHeadroom] == "true",
		Daemon:    daemon(pod),
	}
	p.Rules = rules(pod, p.Daemon)
	if node == nil || !Virtual(node, pools) {
		return p, nil
	}
	pool := pools.Of(node)
	m := &bill.Machine{
		Name:       VirtualMachine(pod),
		Pool:       pool.Name,
		Type:       cmp.Or(pool.Type, typeOf(node)),
		Capacity:   request,
		Serverless: true,
		Domain:     domainOf(node),
	}
	m.Allocatable = m.Capacity
	p.Machine = m.Name
	return p, m
}

// VirtualMachine returns the name of the machine that a pod on a virtual node is
// billed as: node/namespace/pod.
func VirtualMachine(pod *corev1.Pod) string {
	return pod.Spec.NodeName + "/" + pod.Namespace + "/" + pod.Name
}

// fleeting are labels that differ from pod to pod or from version to version and
// tell nobody anything on a bill.
var fleeting = map[string]bool{
	"pod-template-hash":                        true,
	"controller-revision-hash":                 true,
	"pod-template-generation":                  true,
	"controller-uid":                           true,
	"job-name":                                 true,
	"batch.kubernetes.io/controller-uid":       true,
	"batch.kubernetes.io/job-name":             true,
	"batch.kubernetes.io/job-completion-index": true,
	"statefulset.kubernetes.io/pod-name":       true,
	"apps.kubernetes.io/pod-index":             true,
}

func tellingLabels(all map[string]string) map[string]string {
	var out map[string]string
	for k, v := range all {
		if fleeting[k] {
			continue
		}
		if out == nil {
			out = make(map[string]string, len(all))
		}
		out[k] = v
	}
	return out
}

// daemon reports whether every machine has such a pod: a DaemonSet's, or a
// static one that the kubelet runs from a file.
func daemon(pod *corev1.Pod) bool {
	c := metav1.GetControllerOf(pod)
	return c != nil && (c.Kind == "DaemonSet" || c.Kind == "Node")
}

func rules(pod *corev1.Pod, isDaemon bool) bill.Rules {
	var r bill.Rules
	r.Pools = poolsAllowed(pod)
	if a := pod.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		for _, t := range a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			if t.TopologyKey != corev1.LabelHostname {
				continue
			}
			if group, ok := ownGroup(pod, t.LabelSelector); ok {
				r.Alone = group
				break
			}
		}
	}
	for _, s := range pod.Spec.TopologySpreadConstraints {
		if s.TopologyKey != corev1.LabelTopologyZone || s.WhenUnsatisfiable != corev1.DoNotSchedule {
			continue
		}
		if group, ok := ownGroup(pod, s.LabelSelector); ok {
			r.Spread, r.Domains = group, int(s.MaxSkew)
			break
		}
	}
	switch {
	case isDaemon:
	case pod.Annotations["karpenter.sh/do-not-disrupt"] == "true",
		pod.Annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false",
		metav1.GetControllerOf(pod) == nil: // nobody would make it again elsewhere
		r.Pinned = true
	default:
		r.Pinned = slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.HostPath != nil })
	}
	return r
}

// ownGroup names the group of pods that a selector finds, if the pod is in it.
func ownGroup(pod *corev1.Pod, s *metav1.LabelSelector) (string, bool) {
	if s == nil {
		return "", false
	}
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil || !sel.Matches(labels.Set(pod.Labels)) {
		return "", false
	}
	return pod.Namespace + "/" + sel.String(), true
}

// poolsAllowed reads the pools that a pod's node selector and required affinity
// name; nil where they name none.
func poolsAllowed(pod *corev1.Pod) []string {
	if p := pod.Spec.NodeSelector[v1alpha1.LabelPool]; p != "" {
		return []string{p}
	}
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	var out []string
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		found := false
		for _, e := range term.MatchExpressions {
			if e.Key == v1alpha1.LabelPool && e.Operator == corev1.NodeSelectorOpIn {
				out, found = append(out, e.Values...), true
			}
		}
		if !found {
			return nil // one way in says nothing about pools
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Bound returns when a pod was bound to its node, to the second, and whether it
// is bound at all.
func Bound(pod *corev1.Pod) (time.Time, bool) {
	if pod.Spec.NodeName == "" {
		return time.Time{}, false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionTrue && !c.LastTransitionTime.IsZero() {
			return later(c.LastTransitionTime.Time, pod.CreationTimestamp.Time), true
		}
	}
	if t := pod.Status.StartTime; t != nil && !t.IsZero() {
		return later(t.Time, pod.CreationTimestamp.Time), true
	}
	return pod.CreationTimestamp.Time, true // static pods, and pods born with a node
}

// Over reports whether a pod has come to its end and holds nothing any more,
// though its object may still be there.
func Over(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Ended returns when the last container of a pod finished, to the second. It is
// for pods that are [Over] or deleted: a container that will be started again has
// ended too, for the moment. It is false where a container has not ended, or its
// end was not written down.
func Ended(pod *corev1.Pod) (time.Time, bool) {
	var last time.Time
	for i := range pod.Status.ContainerStatuses {
		t := pod.Status.ContainerStatuses[i].State.Terminated
		if t == nil || t.FinishedAt.IsZero() {
			return time.Time{}, false
		}
		last = later(last, t.FinishedAt.Time)
	}
	for i := range pod.Status.InitContainerStatuses {
		s := &pod.Status.InitContainerStatuses[i].State
		if s.Running != nil {
			return time.Time{}, false
		}
		if s.Terminated != nil {
			last = later(last, s.Terminated.FinishedAt.Time)
		}
	}
	if last.IsZero() {
		return last, false
	}
	if from, ok := Bound(pod); ok {
		last = later(last, from)
	}
	return last, true
}

// SimulatedLife returns how long, by the simulated day, a simulated pod took from
// its binding until its work was done. What its status says is the wall's time,
// and what the API server took in between is no part of the day.
func SimulatedLife(pod *corev1.Pod) (time.Duration, bool) {
	s := pod.Annotations[v1alpha1.AnnotationSimulatedLife]
	if s == "" {
		return 0, false
	}
	d, err := time.ParseDuration(s)
	return d, err == nil && d >= 0
}

// Refused reports whether the provider of a virtual node does not create a pod:
// virtual-kubelet says so with this reason, and goes on asking.
func Refused(pod *corev1.Pod) bool {
	return pod.Status.Reason == "ProviderFailed" && pod.Status.Phase == corev1.PodPending
}

// BecameReady returns when a pod became ready, if it is.
func BecameReady(pod *corev1.Pod) (time.Time, bool) {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time, true
		}
	}
	return time.Time{}, false
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// TrimPod drops what this package and the leaver do not read, in place: most of a pod's size
// is environment, mounts, probes and managed fields.
func TrimPod(pod *corev1.Pod) {
	pod.ManagedFields, pod.Finalizers = nil, nil
	for k := range pod.Annotations {
		switch k {
		case "karpenter.sh/do-not-disrupt", "cluster-autoscaler.kubernetes.io/safe-to-evict", v1alpha1.AnnotationSimulatedLife,
			corev1.PodDeletionCost,
			v1alpha1.AnnotationGPUAllocation, v1alpha1.AnnotationGPUModels, v1alpha1.AnnotationGPUCount, v1alpha1.AnnotationGPUClass,
			v1alpha1.AnnotationGPUSpot,
			v1alpha1.AnnotationBatchRunTime, v1alpha1.AnnotationBatchFreeze, v1alpha1.AnnotationBatchCheckpointedAt:
		default:
			delete(pod.Annotations, k)
		}
	}
	s := pod.Spec
	pod.Spec = corev1.PodSpec{
		NodeName: s.NodeName, NodeSelector: s.NodeSelector, Affinity: s.Affinity,
		TopologySpreadConstraints: s.TopologySpreadConstraints,
		ReadinessGates:            s.ReadinessGates,
		Overhead:                  s.Overhead, Resources: s.Resources,
		Containers: trimContainers(s.Containers), InitContainers: trimContainers(s.InitContainers),
	}
	for _, v := range s.Volumes {
		if v.HostPath != nil {
			pod.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{}}}}
			break
		}
	}
	st := pod.Status
	pod.Status = corev1.PodStatus{
		Phase: st.Phase, Reason: st.Reason, StartTime: st.StartTime, Resources: st.Resources, AllocatedResources: st.AllocatedResources,
		ContainerStatuses: trimStatuses(st.ContainerStatuses), InitContainerStatuses: trimStatuses(st.InitContainerStatuses),
	}
	for _, c := range st.Conditions {
		switch c.Type {
		case corev1.PodScheduled, corev1.PodReady, corev1.PodResizePending, corev1.DisruptionTarget, v1alpha1.ReadinessServing:
			if c.Type != corev1.PodScheduled || c.Status != corev1.ConditionFalse {
				c.Message = ""
			}
			pod.Status.Conditions = append(pod.Status.Conditions, c)
		}
	}
}

func trimContainers(all []corev1.Container) []corev1.Container {
	out := make([]corev1.Container, len(all))
	for i, c := range all {
		out[i] = corev1.Container{Name: c.Name, RestartPolicy: c.RestartPolicy, Resources: corev1.ResourceRequirements{Requests: c.Resources.Requests}}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func trimStatuses(all []corev1.ContainerStatus) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for _, c := range all {
		t := corev1.ContainerStatus{Name: c.Name, Resources: c.Resources, AllocatedResources: c.AllocatedResources}
		if c.State.Running != nil {
			t.State.Running = &corev1.ContainerStateRunning{}
		}
		if f := c.State.Terminated; f != nil {
			t.State.Terminated = &corev1.ContainerStateTerminated{FinishedAt: f.FinishedAt}
		}
		out = append(out, t)
	}
	return out
}
