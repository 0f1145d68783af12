package convert

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
)

// closing are the taints of a node that is going away or cannot be used.
var closing = map[string]bool{
	corev1.TaintNodeUnschedulable:               true,
	corev1.TaintNodeOutOfService:                true,
	"node.cloudprovider.kubernetes.io/shutdown": true,
	"ToBeDeletedByClusterAutoscaler":            true,
	"karpenter.sh/disrupted":                    true,
	"karpenter.sh/disruption":                   true,
}

// Machine returns the machine that node is. Its times are left zero, and its
// spare to [Pools.SetSpare].
func Machine(node *corev1.Node, pools *Pools) bill.Machine {
	m := bill.Machine{
		Name:        node.Name,
		Pool:        pools.Of(node).Name,
		Type:        typeOf(node),
		Capacity:    Vector(node.Status.Capacity),
		Allocatable: Vector(node.Status.Allocatable),
		Domain:      domainOf(node),
		Closed:      node.Spec.Unschedulable,
	}
	if node.Status.Allocatable == nil {
		m.Allocatable = m.Capacity
	}
	m.Allocatable = m.Allocatable.Min(m.Capacity)
	if pods, ok := node.Status.Allocatable[corev1.ResourcePods]; ok {
		m.MaxPods = int(min(whole(&pods), 1<<20))
	}
	for _, t := range node.Spec.Taints {
		m.Closed = m.Closed || closing[t.Key]
	}
	return m
}

func typeOf(node *corev1.Node) string {
	if t := node.Labels[corev1.LabelInstanceTypeStable]; t != "" {
		return t
	}
	return node.Labels[corev1.LabelInstanceType] // before Kubernetes 1.17, and some virtual nodes
}

func domainOf(node *corev1.Node) string {
	if z := node.Labels[corev1.LabelTopologyZone]; z != "" {
		return z
	}
	return node.Labels[corev1.LabelFailureDomainBetaZone]
}

// Virtual reports whether node stands for capacity that is bought by the pod: it
// is in a Serverless pool, or its taints or labels say so.
func Virtual(node *corev1.Node, pools *Pools) bool {
	if p := pools.Of(node); p.Kind != "" {
		return p.Kind == v1alpha1.PoolServerless
	}
	for _, t := range node.Spec.Taints {
		if t.Key == v1alpha1.TaintServerless || t.Key == "virtual-kubelet.io/provider" {
			return true
		}
	}
	return node.Labels["type"] == "virtual-kubelet"
}

// TrimNode drops what this package does not read, in place.
func TrimNode(node *corev1.Node) {
	node.ManagedFields = nil
	kept := map[string]string{}
	for _, name := range []string{v1alpha1.AnnotationGPUDevices, v1alpha1.AnnotationBatchCapacity, v1alpha1.AnnotationColocation, v1alpha1.AnnotationProbe} {
		if value, ok := node.Annotations[name]; ok {
			kept[name] = value
		}
	}
	if node.Annotations = nil; len(kept) > 0 {
		node.Annotations = kept
	}
	var conditions []corev1.NodeCondition
	for _, c := range node.Status.Conditions {
		if c.Type == v1alpha1.NodeConditionColocation {
			conditions = append(conditions, c)
		}
	}
	node.Status = corev1.NodeStatus{
		Capacity: node.Status.Capacity, Allocatable: node.Status.Allocatable, Conditions: conditions,
	}
}
