package headroom

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/kube/convert"
)

// room returns a pod as large as one of the template's, which does nothing and
// may be only where the template's pods may be on the owned pools' machines.
func room(t *corev1.PodTemplateSpec, owned []*v1alpha1.ResourcePool, image string, labels map[string]string) (corev1.PodTemplateSpec, error) {
	asks := resourcehelper.PodRequests(&corev1.Pod{Spec: t.Spec}, resourcehelper.PodResourcesOptions{ExcludeOverhead: true})
	if len(asks) == 0 {
		return corev1.PodTemplateSpec{}, errors.New("its pods request nothing, so that room for them has no size; give its containers requests")
	}
	limits := corev1.ResourceList{}
	for name, q := range asks {
		// Only these may be asked for without a limit.
		if name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage {
			limits[name] = q
		}
	}
	affinity, err := on(t.Spec.Affinity, owned)
	if err != nil {
		return corev1.PodTemplateSpec{}, err
	}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{
			PriorityClassName:             PriorityClass,
			TerminationGracePeriodSeconds: ptr.To(int64(0)),
			AutomountServiceAccountToken:  ptr.To(false),
			EnableServiceLinks:            ptr.To(false),
			RuntimeClassName:              t.Spec.RuntimeClassName,
			SchedulerName:                 t.Spec.SchedulerName,
			NodeSelector:                  t.Spec.NodeSelector,
			Affinity:                      affinity,
			Tolerations:                   tolerated(t.Spec.Tolerations),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot:   ptr.To(true),
				RunAsUser:      ptr.To(int64(65535)),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: "room", Image: image,
				Resources: corev1.ResourceRequirements{Requests: asks, Limits: limits},
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: ptr.To(false),
					ReadOnlyRootFilesystem:   ptr.To(true),
					Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
		},
	}, nil
}

// tolerated drops what would let a pod onto a virtual node, whose pods are bought
// one by one: pods there hold no room and cost money, and those that tolerate a
// virtual node are never pre-empted.
func tolerated(all []corev1.Toleration) (out []corev1.Toleration) {
	for _, t := range all {
		if t.Key != "" && t.Key != v1alpha1.TaintServerless && t.Key != "virtual-kubelet.io/provider" {
			out = append(out, t)
		}
	}
	return out
}

// on returns the affinity to nodes of was, and to those of the owned pools. The
// rest of an affinity is about the company of other pods, of which room has none.
func on(was *corev1.Affinity, owned []*v1alpha1.ResourcePool) (*corev1.Affinity, error) {
	var terms []corev1.NodeSelectorTerm
	if was != nil && was.NodeAffinity != nil && was.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		terms = was.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	if len(owned) > 0 {
		var both []corev1.NodeSelectorTerm
		for _, p := range owned {
			of, err := convert.NodesOf(p)
			if err != nil {
				return nil, err
			}
			if len(terms) == 0 {
				both = append(both, of)
			}
			for _, t := range terms {
				t.MatchExpressions = slices.Concat(t.MatchExpressions, of.MatchExpressions)
				both = append(both, t)
			}
		}
		terms = both
	}
	if len(terms) == 0 {
		return nil, nil
	}
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms},
	}}, nil
}

// ownedRoom returns the policy's pools of machines, and how many more replicas
// they may take: a negative number is no bound. A policy without pools owns all
// machines.
func ownedRoom(p *v1alpha1.ElasticPolicy, pools map[string]*v1alpha1.ResourcePool) (owned []*v1alpha1.ResourcePool, most int, err error) {
	if len(p.Spec.Pools) == 0 {
		return nil, -1, nil
	}
	there := map[string]int{}
	for _, s := range p.Status.Pools {
		there[s.Name] = int(s.Pods)
	}
	bounded := true
	for _, declared := range p.Spec.Pools {
		pool := pools[declared.Name]
		if pool == nil {
			continue // the scaler says so in the policy's status
		}
		// Room is kept on machines that are bought for it. Spare of GPU machines is
		// there or not, and serverless capacity is bought by the pod.
		if cmp.Or(pool.Spec.Kind, v1alpha1.PoolMachines) != v1alpha1.PoolMachines {
			continue
		}
		owned = append(owned, pool)
		if declared.Max == nil {
			bounded = false
			continue
		}
		most += max(int(*declared.Max)-there[declared.Name], 0)
	}
	if len(owned) == 0 {
		return nil, 0, fmt.Errorf("none of its pools is of kind %s: room can be kept on machines only", v1alpha1.PoolMachines)
	}
	if !bounded {
		most = -1
	}
	return owned, most, nil
}
