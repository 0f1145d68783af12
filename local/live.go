package local

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/controller/gpustatus"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/local/clock"
	"github.com/neap-dev/neap/local/fleet"
	"github.com/neap-dev/neap/server"
	"github.com/neap-dev/neap/sim/scenario"
)

var _ server.Live = (*live)(nil)

// live answers the dashboard about what runs now. Its parts come up one after
// another; until they have, the answers are empty.
type live struct {
	scenario *scenario.Scenario
	day      *clock.Clock
	until    time.Time

	mu          sync.Mutex
	state       string
	message     string
	fleet       *fleet.Fleet
	factory     informers.SharedInformerFactory
	provisional func(context.Context) (bill.Facts, error)
	gpus        func() *gpustatus.View
}

func (l *live) set(change func(*live)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
}

func (l *live) parts() (*fleet.Fleet, informers.SharedInformerFactory, func(context.Context) (bill.Facts, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fleet, l.factory, l.provisional
}

// Status implements [server.Live].
func (l *live) Status() server.Status {
	l.mu.Lock()
	s := server.Status{State: l.state, Message: l.message}
	l.mu.Unlock()
	s.Now, s.Speed, s.Simulated, s.Scenario = l.day.Now(), l.day.Speed(), true, l.scenario.Name
	s.From, s.Until = l.day.Start(), l.until
	c := l.count()
	s.Machines, s.Pods, s.Pending = c.machines, c.bound, c.pending
	return s
}

type counts struct{ machines, bound, ready, pending int }

// count counts what is there now. Pods that have ended are none.
func (l *live) count() (c counts) {
	_, factory, _ := l.parts()
	if factory == nil {
		return c
	}
	nodes, _ := factory.Core().V1().Nodes().Lister().List(labels.Everything()) // a cache does not fail
	for _, n := range nodes {
		if !virtual(n) {
			c.machines++
		}
	}
	pods, _ := factory.Core().V1().Pods().Lister().List(labels.Everything())
	for _, p := range pods {
		switch {
		case convert.Over(p):
		case p.Spec.NodeName == "":
			c.pending++
		default:
			c.bound++
			if ready(p) {
				c.ready++
			}
		}
	}
	return c
}

func virtual(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == v1alpha1.TaintServerless })
}

func ready(p *corev1.Pod) bool {
	_, ok := convert.BecameReady(p)
	return ok && p.DeletionTimestamp == nil
}

// Fleet implements [server.Live].
func (l *live) Fleet(context.Context) (server.Fleet, error) {
	out := server.Fleet{At: l.day.Now()}
	physics, factory, _ := l.parts()
	if factory == nil {
		return out, nil
	}
	view := physics.View()
	nodes, err := factory.Core().V1().Nodes().Lister().List(labels.Everything())
	if err != nil {
		return out, err
	}
	pods, err := factory.Core().V1().Pods().Lister().List(labels.Everything())
	if err != nil {
		return out, err
	}
	index := map[string]int{}
	for _, n := range nodes {
		m := server.FleetMachine{
			Name: n.Name, Pool: n.Labels[v1alpha1.LabelPool], Type: n.Labels[corev1.LabelInstanceTypeStable],
			Domain: n.Labels[corev1.LabelTopologyZone], Serverless: virtual(n), Closed: n.Spec.Unschedulable,
			Capacity: convert.Vector(n.Status.Capacity), Allocatable: convert.Vector(n.Status.Allocatable),
		}
		if m.Serverless { // it is as large as its pods
			m.Capacity, m.Allocatable = resource.Vector{}, resource.Vector{}
		}
		index[n.Name] = len(out.Machines)
		out.Machines = append(out.Machines, m)
	}
	for _, p := range pods {
		i, ok := index[p.Spec.NodeName]
		if !ok || convert.Over(p) {
			continue
		}
		fp := server.FleetPod{
			Namespace: p.Namespace, Name: p.Name, Module: moduleOf(l.scenario, p),
			Request: convert.Request(p), Use: view.Pods[string(p.UID)], Ready: ready(p),
			Headroom: p.Labels[v1alpha1.LabelHeadroom] == "true",
		}
		m := &out.Machines[i]
		if m.Serverless {
			m.Capacity = m.Capacity.Add(fp.Request)
			m.Allocatable = m.Capacity
		}
		m.Pods = append(m.Pods, fp)
	}
	slices.SortFunc(out.Machines, func(a, b server.FleetMachine) int { return strings.Compare(a.Name, b.Name) })
	for i := range out.Machines {
		slices.SortFunc(out.Machines[i].Pods, func(a, b server.FleetPod) int {
			return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
		})
	}
	return out, nil
}

// moduleOf names the module of a pod: the scenario's, else the pod itself.
func moduleOf(s *scenario.Scenario, p *corev1.Pod) workload.Key {
	name := p.Labels[fleet.ModuleLabel]
	for i := range s.Modules {
		if m := &s.Modules[i]; m.Name == name && m.Namespace == p.Namespace {
			return m.Key()
		}
	}
	return workload.Key{Namespace: p.Namespace, Kind: "Pod", Name: p.Name}
}

// Provisional implements [server.Live].
func (l *live) Provisional(ctx context.Context) (bill.Facts, error) {
	_, _, provisional := l.parts()
	if provisional == nil {
		now := l.day.Now()
		return bill.Facts{From: now, To: now, Currency: l.scenario.Currency}, nil
	}
	return provisional(ctx)
}
