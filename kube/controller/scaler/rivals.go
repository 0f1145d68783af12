package scaler

import (
	"context"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/convert"
)

// rivalKinds are the objects of others that set the replicas of a workload, with
// the field that names it. Clusters have some of them or none.
var rivalKinds = []struct {
	schema.GroupVersionKind
	ref []string
}{
	{schema.GroupVersionKind{Group: "keda.sh", Version: "v1alpha1", Kind: "ScaledObject"}, []string{"spec", "scaleTargetRef"}},
	{schema.GroupVersionKind{Group: "autoscaling.alibabacloud.com", Version: "v1beta1", Kind: "CronHorizontalPodAutoscaler"}, []string{"spec", "scaleTargetRef"}},
	{schema.GroupVersionKind{Group: "autoscaling.crane.io", Version: "v1alpha1", Kind: "EffectiveHorizontalPodAutoscaler"}, []string{"spec", "scaleTargetRef"}},
	{schema.GroupVersionKind{Group: "autoscaling.kapacitystack.io", Version: "v1alpha1", Kind: "IntelligentHorizontalPodAutoscaler"}, []string{"spec", "scaleTargetRef"}},
}

const (
	// rivalsEvery is how often others' objects are looked for, by the wall: they
	// are few, and reading them is no part of the cluster's day.
	rivalsEvery = 15 * time.Second
	// absentFor is how long a kind that the API server does not know, or that we
	// may not read, is not asked for again, by the wall.
	absentFor = 5 * time.Minute
)

// rivals finds who else sets the replicas of a workload.
type rivals struct {
	cached client.Reader // HorizontalPodAutoscalers and ElasticPolicies
	live   client.Reader // kinds that the cluster may not have
	warn   func(error)
	wall   func() time.Time

	looked time.Time
	absent map[schema.GroupVersionKind]time.Time // not asked before then
	others map[workload.Key]string               // found the last time, of the kinds above
}

// find returns by workload who else sets its replicas, such as
// "HorizontalPodAutoscaler shop/web". A HorizontalPodAutoscaler that another of
// the kinds made is not told apart from it: the first by kind is named.
func (r *rivals) find(ctx context.Context) (map[workload.Key]string, error) {
	if now := r.wall(); now.Sub(r.looked) >= rivalsEvery {
		r.look(ctx, now)
	}
	out := map[workload.Key]string{}
	var hpas autoscalingv2.HorizontalPodAutoscalerList
	if err := r.cached.List(ctx, &hpas); err != nil {
		return nil, fmt.Errorf("list HorizontalPodAutoscalers: %w", err)
	}
	for i := range hpas.Items {
		h := &hpas.Items[i]
		ref := h.Spec.ScaleTargetRef
		out[workload.Key{Namespace: h.Namespace, Kind: ref.Kind, Name: ref.Name}] = "HorizontalPodAutoscaler " + h.Name
	}
	for k, who := range r.others {
		out[k] = who
	}
	return out, nil
}

func (r *rivals) look(ctx context.Context, now time.Time) {
	r.looked = now
	found := map[workload.Key]string{}
	for _, kind := range rivalKinds {
		if now.Before(r.absent[kind.GroupVersionKind]) {
			continue
		}
		var l unstructured.UnstructuredList
		l.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		err := r.live.List(ctx, &l)
		if err != nil {
			if r.absent == nil {
				r.absent = map[schema.GroupVersionKind]time.Time{}
			}
			r.absent[kind.GroupVersionKind] = now.Add(absentFor)
			if !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) && ctx.Err() == nil {
				r.warn(fmt.Errorf("whether a %s sets the replicas of a workload is not known: %w", kind.Kind, err))
			}
			continue
		}
		for i := range l.Items {
			o := &l.Items[i]
			ref, _, _ := unstructured.NestedMap(o.Object, kind.ref...)
			name, _ := ref["name"].(string)
			k, _ := ref["kind"].(string)
			if k == "" {
				k = "Deployment" // KEDA's default
			}
			found[workload.Key{Namespace: o.GetNamespace(), Kind: k, Name: name}] = kind.Kind + " " + o.GetName()
		}
	}
	r.others = found
}

// firstOf returns, by workload, the ElasticPolicy that may set its replicas where
// several name it: the oldest, then the first by name.
func firstOf(policies []v1alpha1.ElasticPolicy) map[workload.Key]*v1alpha1.ElasticPolicy {
	out := map[workload.Key]*v1alpha1.ElasticPolicy{}
	for i := range policies {
		p := &policies[i]
		k := convert.ElasticTarget(p)
		if first := out[k]; first == nil || before(p, first) {
			out[k] = p
		}
	}
	return out
}

func before(a, b *v1alpha1.ElasticPolicy) bool {
	if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
		return c < 0
	}
	return a.Name < b.Name
}
