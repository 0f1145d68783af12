package colocator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/convert"
)

// A world is what one minute rests on.
type world struct {
	now      time.Time
	policies []*v1alpha1.ColocationPolicy // by name
	declared map[types.UID]convert.Colocation
	machines []*seen // by node; those of a policy, and those that still carry what a policy left
	modules  []*v1alpha1.Module
	pools    *convert.Pools
	learnt   map[workload.Key]time.Duration
	measured error // why nothing is known of what pods use
}

// A seen is one machine in one minute.
type seen struct {
	node       *corev1.Node
	state      *machineState
	policy     *v1alpha1.ColocationPolicy // nil: no policy holds for it any more
	declared   convert.Colocation
	declareErr error
	agentErr   error // why nobody holds batch back there; nil if somebody does

	online, batch []*corev1.Pod
	observation   colocate.Observation
	use, batchUse colocate.Room // of online pods with the system, and of batch pods
	observed      bool          // use is known
	breach        string        // which service beside batch misses its quality; "" if none

	offer colocate.Offer
	asked colocate.Room // what its batch pods ask for
}

// look reads everything but the metrics.
func (c *Colocator) look(ctx context.Context, now time.Time) (*world, error) {
	w := &world{now: now, declared: map[types.UID]convert.Colocation{}}
	var (
		policies  v1alpha1.ColocationPolicyList
		calendars v1alpha1.HolidayCalendarList
		modules   v1alpha1.ModuleList
		pools     v1alpha1.ResourcePoolList
		nodes     corev1.NodeList
		pods      corev1.PodList
		errs      []error
	)
	for _, l := range []client.ObjectList{&policies, &calendars, &modules, &pools, &nodes, &pods} {
		if err := c.o.Client.List(ctx, l, client.UnsafeDisableDeepCopy); err != nil { // nothing here is changed
			errs = append(errs, fmt.Errorf("list %T: %w", l, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	days := map[string]elastic.Calendar{}
	for i := range calendars.Items {
		if d, err := convert.Days(&calendars.Items[i]); err == nil { // else its own status tells
			days[calendars.Items[i].Name] = d
		}
	}
	wrong := map[types.UID]error{}
	for i := range policies.Items {
		p := &policies.Items[i]
		w.policies = append(w.policies, p)
		var calendar elastic.Calendar
		if name := p.Spec.HolidayCalendar; name != "" {
			if days[name] == nil {
				wrong[p.UID] = fmt.Errorf("HolidayCalendar %s does not exist or cannot be read; make it, or take holidayCalendar away", name)
			} else {
				calendar = days[name]
			}
		}
		declared, err := convert.DeclaredColocation(p, calendar)
		w.declared[p.UID] = declared
		wrong[p.UID] = errors.Join(wrong[p.UID], err)
	}
	slices.SortFunc(w.policies, func(a, b *v1alpha1.ColocationPolicy) int { return strings.Compare(a.Name, b.Name) })
	w.learnt = convert.LearntRunTimes(w.policies...)
	for i := range modules.Items {
		w.modules = append(w.modules, &modules.Items[i])
	}
	known := make([]*v1alpha1.ResourcePool, len(pools.Items))
	for i := range pools.Items {
		known[i] = &pools.Items[i]
	}
	w.pools, _ = convert.NewPools(known) // what makes no sense is told in the pool's own status

	on := map[string]*seen{}
	for i := range nodes.Items {
		n := &nodes.Items[i]
		m := &seen{node: n, policy: convert.ColocationOf(n, w.policies, w.pools)}
		if m.policy == nil && !carries(n) {
			continue
		}
		if m.policy != nil {
			m.declared, m.declareErr = w.declared[m.policy.UID], wrong[m.policy.UID]
		}
		w.machines = append(w.machines, m)
		on[n.Name] = m
	}
	slices.SortFunc(w.machines, func(a, b *seen) int { return strings.Compare(a.node.Name, b.node.Name) })
	for i := range pods.Items {
		p := &pods.Items[i]
		m := on[p.Spec.NodeName]
		if m == nil || convert.Over(p) {
			continue
		}
		if convert.Batch(p) {
			m.batch = append(m.batch, p)
			m.asked = m.asked.Add(convert.BatchRequest(p))
		} else {
			m.online = append(m.online, p)
		}
	}
	for _, m := range w.machines {
		for _, list := range [][]*corev1.Pod{m.online, m.batch} {
			slices.SortFunc(list, func(a, b *corev1.Pod) int {
				return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
			})
		}
	}
	return w, nil
}

// carries reports whether a node still offers what a policy gave it.
func carries(n *corev1.Node) bool {
	if _, ok := n.Annotations[v1alpha1.AnnotationBatchCapacity]; ok {
		return true
	}
	for _, name := range convert.BatchNames(v1alpha1.BatchResourcesKubernetes)[:2] {
		if _, ok := n.Status.Capacity[name]; ok {
			return true
		}
	}
	return false
}

// An agentState is how the agent of a node was found last.
type agentState struct {
	renewed time.Time // what its Lease said
	since   time.Time // by the wall, when it first said that
}

// agentSilent is how long an agent may be silent, by the wall.
const agentSilent = 40 * time.Second

// agents finds out where batch is held back.
func (c *Colocator) agents(ctx context.Context, w *world) error {
	if !slices.ContainsFunc(w.policies, func(p *v1alpha1.ColocationPolicy) bool { return p.Spec.Mode == v1alpha1.ModeAuto }) {
		return nil
	}
	var leases coordinationv1.LeaseList
	if err := c.o.Live.List(ctx, &leases, client.InNamespace(c.o.AgentNamespace)); err != nil {
		return fmt.Errorf("list the agents' Leases in namespace %s: %w", c.o.AgentNamespace, err)
	}
	renewed := map[string]time.Time{}
	for i := range leases.Items {
		l := &leases.Items[i]
		if node, ok := strings.CutPrefix(l.Name, v1alpha1.AgentLeasePrefix); ok && l.Spec.RenewTime != nil {
			renewed[node] = l.Spec.RenewTime.Time
		}
	}
	wall := time.Now()
	for _, m := range w.machines {
		m.agentErr = m.state.agent.look(renewed[m.node.Name], wall)
		m.agentErr = cmp.Or(m.agentErr, held(m.node), rival(m.node))
	}
	return nil
}

// look takes note of a Lease's renewal and says why the agent counts as silent. The
// clock of the node need not be ours: what counts is that it is renewed.
func (a *agentState) look(renewed, wall time.Time) error {
	if renewed.IsZero() {
		*a = agentState{}
		return errors.New("no Neap agent runs there, so nobody would hold batch back")
	}
	if !a.renewed.Equal(renewed) {
		first := a.renewed.IsZero()
		*a = agentState{renewed: renewed, since: wall}
		if late := wall.Sub(renewed); first && late > agentSilent {
			a.since = renewed // of an agent that was not seen before the clocks must do
		}
	}
	if wall.Sub(a.since) > agentSilent {
		return fmt.Errorf("the Neap agent there has been silent since %s", renewed.UTC().Format(time.TimeOnly))
	}
	return nil
}

// held says why the agent of a node cannot hold batch back, in its own words.
func held(n *corev1.Node) error {
	for _, cond := range n.Status.Conditions {
		if cond.Type == v1alpha1.NodeConditionColocation && cond.Status == corev1.ConditionFalse {
			return fmt.Errorf("the Neap agent there cannot hold batch back: %s", cmp.Or(cond.Message, cond.Reason))
		}
	}
	return nil
}

// room returns what a vector has of what batch shares.
func room(v resource.Vector) colocate.Room {
	return colocate.Room{CPUMilli: v[resource.CPU], MemoryMiB: v[resource.Memory] / resource.MiB}
}
