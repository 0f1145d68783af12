package scaler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/convert"
)

// A world is what the decisions of one minute share. It does not change.
type world struct {
	now      time.Time
	policies []v1alpha1.ElasticPolicy
	first    map[workload.Key]*v1alpha1.ElasticPolicy // who may act, of several policies on one target
	rivals   map[workload.Key]string                  // who else sets the replicas

	modules    map[workload.Key]*v1alpha1.Module
	timetables []*v1alpha1.Timetable
	calendars  map[string]*v1alpha1.HolidayCalendar
	declared   map[string]*v1alpha1.ResourcePool
	pools      *convert.Pools

	pods   podIndex
	nodes  []corev1.Node
	poolOf map[string]string // node → pool

	births *births
	free   func() held // worked out when first asked for
}

// look reads what all decisions of a minute need, from the cache.
func (s *Scaler) look(ctx context.Context, now time.Time) (*world, error) {
	w := &world{
		now: now, modules: map[workload.Key]*v1alpha1.Module{}, calendars: map[string]*v1alpha1.HolidayCalendar{},
		declared: map[string]*v1alpha1.ResourcePool{}, poolOf: map[string]string{},
	}
	var (
		policies   v1alpha1.ElasticPolicyList
		modules    v1alpha1.ModuleList
		timetables v1alpha1.TimetableList
		calendars  v1alpha1.HolidayCalendarList
		pools      v1alpha1.ResourcePoolList
		pods       corev1.PodList
		nodes      corev1.NodeList
		errs       []error
	)
	for _, l := range []client.ObjectList{&policies, &modules, &timetables, &calendars, &pools, &pods, &nodes} {
		if err := s.o.Client.List(ctx, l, client.UnsafeDisableDeepCopy); err != nil { // nothing here is changed
			errs = append(errs, fmt.Errorf("list %T: %w", l, err))
		}
	}
	var err error
	w.rivals, err = s.rivals.find(ctx)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	w.policies = policies.Items
	w.first = firstOf(w.policies)
	for i := range modules.Items {
		m := &modules.Items[i]
		w.modules[convert.TargetKey(m)] = m
	}
	for i := range timetables.Items {
		w.timetables = append(w.timetables, &timetables.Items[i])
	}
	for i := range calendars.Items {
		w.calendars[calendars.Items[i].Name] = &calendars.Items[i]
	}
	var declared []*v1alpha1.ResourcePool
	for i := range pools.Items {
		w.declared[pools.Items[i].Name] = &pools.Items[i]
		declared = append(declared, &pools.Items[i])
	}
	w.pools, _ = convert.NewPools(declared) // a selector that makes no sense is told in the pool's own status
	w.nodes = nodes.Items
	for i := range w.nodes {
		w.poolOf[w.nodes[i].Name] = w.pools.Of(&w.nodes[i]).Name
	}
	w.pods = index(pods.Items)
	w.births = s.births
	w.free = sync.OnceValue(func() held { return w.measure(pods.Items) })
	return w, nil
}

// A podIndex finds pods by a selector without looking at all of them.
type podIndex map[string]*namespacePods

type namespacePods struct {
	all     []*corev1.Pod
	byLabel map[[2]string][]*corev1.Pod
}

func index(pods []corev1.Pod) podIndex {
	x := podIndex{}
	for i := range pods {
		p := &pods[i]
		if convert.Over(p) || p.DeletionTimestamp != nil {
			continue
		}
		n := x[p.Namespace]
		if n == nil {
			n = &namespacePods{byLabel: map[[2]string][]*corev1.Pod{}}
			x[p.Namespace] = n
		}
		n.all = append(n.all, p)
		for k, v := range p.Labels {
			n.byLabel[[2]string{k, v}] = append(n.byLabel[[2]string{k, v}], p)
		}
	}
	return x
}

// find returns the pods of a namespace that sel matches.
func (x podIndex) find(namespace string, sel labels.Selector) []*corev1.Pod {
	n := x[namespace]
	if n == nil {
		return nil
	}
	among := n.all
	if reqs, ok := sel.Requirements(); ok {
		for _, r := range reqs {
			if (r.Operator() == selection.Equals || r.Operator() == selection.DoubleEquals || r.Operator() == selection.In) && r.Values().Len() == 1 {
				if fewer := n.byLabel[[2]string{r.Key(), r.Values().UnsortedList()[0]}]; len(fewer) < len(among) {
					among = fewer
				}
			}
		}
	}
	var out []*corev1.Pod
	for _, p := range among {
		if sel.Matches(labels.Set(p.Labels)) {
			out = append(out, p)
		}
	}
	return out
}

// A room is what one machine has for pods without a GPU.
type room struct {
	free, empty resource.Vector // now, and if no such pod were on it
	pods        int64           // how many more it takes
}

// fits returns how many replicas fit into of.
func (r room) fits(of, replica resource.Vector) int {
	n := r.pods
	for _, k := range resource.All {
		if replica[k] > 0 {
			n = min(n, of[k]/replica[k])
		}
	}
	return int(max(n, 0))
}

// held is what the pools have free, and what their pods ask for, by pool.
type held struct {
	rooms map[string][]room
	asked map[string]resource.Vector
}

// measure returns what every pool has free. Headroom is free: its pods are there
// to be pushed aside.
func (w *world) measure(pods []corev1.Pod) held {
	type sum struct {
		other, gpu resource.Vector // gpu: by pods with a GPU
		pods       int64
	}
	on := map[string]*sum{}
	for i := range pods {
		p := &pods[i]
		if p.Spec.NodeName == "" || convert.Over(p) || p.Labels[v1alpha1.LabelHeadroom] == "true" {
			continue
		}
		h := on[p.Spec.NodeName]
		if h == nil {
			h = &sum{}
			on[p.Spec.NodeName] = h
		}
		r := convert.Request(p)
		h.pods++
		if r[resource.GPU] > 0 {
			h.gpu = h.gpu.Add(r)
		} else {
			h.other = h.other.Add(r)
		}
	}
	out := held{rooms: map[string][]room{}, asked: map[string]resource.Vector{}}
	for i := range w.nodes {
		n := &w.nodes[i]
		name := w.poolOf[n.Name]
		if name == "" {
			continue
		}
		h := on[n.Name]
		if h == nil {
			h = &sum{}
		}
		out.asked[name] = out.asked[name].Add(h.other).Add(h.gpu)
		if n.Spec.Unschedulable {
			continue
		}
		empty := convert.Vector(n.Status.Allocatable)
		if pool, _ := w.pools.Get(name); pool.Kind == v1alpha1.PoolSpareOnGPUMachines {
			empty = elastic.SpareMachine{Allocatable: empty, PerGPU: pool.Guard(), GPUPods: h.gpu}.Lendable()
		} else {
			empty = empty.Sub(h.gpu)
		}
		out.rooms[name] = append(out.rooms[name], room{
			free: empty.Sub(h.other), empty: empty, pods: n.Status.Allocatable.Pods().Value() - h.pods,
		})
	}
	return out
}
