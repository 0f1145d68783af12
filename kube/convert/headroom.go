package convert

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/elastic"
)

// Headroom returns the room that p declares to be kept, and whether it does.
func Headroom(p *v1alpha1.ElasticPolicy) (h elastic.Headroom, ok bool, err error) {
	declared := p.Spec.Headroom
	if declared == nil {
		return elastic.Headroom{}, false, nil
	}
	h = elastic.Headroom{Share: 0.1, Max: or(declared.Max, elastic.None)}
	if declared.Percent != "" {
		s, cut := strings.CutSuffix(string(declared.Percent), "%")
		v, err := strconv.ParseFloat(s, 64)
		if !cut || err != nil || !(v >= 0) || math.IsInf(v, 0) {
			return elastic.Headroom{}, false, fmt.Errorf("headroom.percent: %q is not a percentage such as 10%%", declared.Percent)
		}
		h.Share = v / 100
	}
	return h, true, h.Validate()
}

// NodesOf returns what a node's labels must be for it to be selected by the pool.
func NodesOf(p *v1alpha1.ResourcePool) (corev1.NodeSelectorTerm, error) {
	selector := p.Spec.Selector
	if selector == nil {
		selector = &metav1.LabelSelector{MatchLabels: map[string]string{v1alpha1.LabelPool: p.Name}}
	}
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return corev1.NodeSelectorTerm{}, fmt.Errorf("resource pool %q: selector: %w", p.Name, err)
	}
	wanted, selectable := s.Requirements()
	if !selectable || len(wanted) == 0 {
		return corev1.NodeSelectorTerm{}, fmt.Errorf("resource pool %q: selector: %w", p.Name, errors.New("it selects nothing, or everything"))
	}
	var term corev1.NodeSelectorTerm
	for _, r := range wanted { // they are sorted by key
		values := r.Values().List()
		if len(values) == 0 {
			values = nil
		}
		op, ok := map[string]corev1.NodeSelectorOperator{
			"in": corev1.NodeSelectorOpIn, "=": corev1.NodeSelectorOpIn, "==": corev1.NodeSelectorOpIn, "notin": corev1.NodeSelectorOpNotIn,
			"exists": corev1.NodeSelectorOpExists, "!": corev1.NodeSelectorOpDoesNotExist,
		}[string(r.Operator())]
		if !ok {
			return corev1.NodeSelectorTerm{}, fmt.Errorf("resource pool %q: selector: %s cannot be asked of a node", p.Name, r.String())
		}
		term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{Key: r.Key(), Operator: op, Values: values})
	}
	return term, nil
}
