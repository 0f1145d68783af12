package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/sim/world"
)

// WorkDoneAnnotation is the simulated time at which a batch pod that uses what others
// leave had done its work. How long that takes depends on what it gets.
const WorkDoneAnnotation = "neap.dev/simulated-work-done-at"

// colocated reports whether a pod does the work of a module on what others leave.
func colocated(p *corev1.Pod) bool { return convert.Batch(p) && p.Labels[ModuleLabel] != "" }

// lends reads from a node what batch pods may use there; f.mu is held.
func (f *Fleet) lends(n *corev1.Node) {
	c, err := convert.NodeBatchCapacity(n)
	if errors.Is(err, convert.ErrNoBatchCapacity) && f.lent[n.Name] == nil {
		return
	}
	if err != nil {
		c = convert.BatchCapacity{}
	}
	f.lent[n.Name] = &c
}

// lend tells the physics what batch pods may use of every machine in a step: what the
// node's annotation says at that time, as the agent of a real node would; f.mu is held.
func (f *Fleet) lend(at time.Time) {
	for name, c := range f.lent {
		most := int64(0)
		if room := c.Curve().At(at); c.Fresh(at) && room.CPUMilli > 0 {
			most = room.CPUMilli
			if online, ok := c.Online(at, at); ok {
				most += online // what they do not use batch may have until they do
			}
		}
		f.world.Lend(name, most)
	}
}

// A finish is a pod that has done its work.
type finish struct {
	key types.NamespacedName
	uid types.UID
	at  time.Time
}

// work adds up what colocated pods did in a step, and returns those that are done by
// its end; f.mu is held.
func (f *Fleet) work(frame *world.Frame) []finish {
	var done []finish
	for i := range frame.Pods {
		p := &frame.Pods[i]
		uid := types.UID(p.Pod.ID)
		k := f.known[uid]
		if k == nil || k.work == 0 || p.Gone || !p.Ready || p.CPUSecondsTotal < k.work {
			continue
		}
		// It was done within the step, at the pace that it had there.
		at := frame.To
		if over := p.CPUSecondsTotal - k.work; p.CPUSeconds > 0 {
			at = at.Add(-time.Duration(min(over/p.CPUSeconds, 1) * float64(frame.To.Sub(frame.From))))
		}
		k.work = 0
		done = append(done, finish{types.NamespacedName{Namespace: p.Pod.Namespace, Name: p.Pod.Name}, uid, at})
	}
	return done
}

// task returns the work of a colocated pod, in core-seconds; 0 for all others. f.mu is
// held.
func (f *Fleet) task(p *corev1.Pod) float64 {
	m := f.module(p)
	if !colocated(p) || m == nil || m.Work == nil || p.Annotations[WorkDoneAnnotation] != "" {
		return 0
	}
	length := m.Work.RunTime.At(f.dice(p, 2).Float64())
	rating := float64(max(f.nodes[p.Spec.NodeName], 1)) / 1000
	return max(length.Seconds()*float64(m.Work.Use[resource.CPU])/1000/rating, 0.001)
}

// Agents play the part of the agents of machines that lend to batch pods, as far as
// others see them: that they live, and what they see.
type Agents struct {
	Client    kubernetes.Interface
	Fleet     *Fleet
	Namespace string // of the Leases
	Machines  func() []string
	// Problem is told what went wrong; nil ignores it.
	Problem func(error)
}

// renewEvery is how often an agent renews its Lease, by the wall.
const renewEvery = 10 * time.Second

// Run renews the Leases until ctx ends.
func (a *Agents) Run(ctx context.Context) error {
	for {
		for _, name := range a.Machines() {
			if err := a.renew(ctx, name); err != nil && ctx.Err() == nil && a.Problem != nil {
				a.Problem(err)
			}
		}
		a.tell(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(renewEvery):
		}
	}
}

func (a *Agents) renew(ctx context.Context, node string) error {
	leases := a.Client.CoordinationV1().Leases(a.Namespace)
	name, now, seconds := v1alpha1.AgentLeasePrefix+node, metav1.NowMicro(), int32(40)
	patch := fmt.Appendf(nil, `{"spec":{"renewTime":%q}}`, now.UTC().Format(metav1.RFC3339Micro))
	_, err := leases.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{SimulatedLabel: "true"}},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &node, RenewTime: &now, LeaseDurationSeconds: &seconds},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("renew the Lease of the simulated agent of %s: %w", node, err)
	}
	return nil
}

// tell writes on the nodes what their agents see.
func (a *Agents) tell(ctx context.Context) {
	for name, r := range a.Fleet.reports() {
		change := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.AnnotationColocation, r)
		_, err := a.Client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, change, metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil && a.Problem != nil {
			a.Problem(fmt.Errorf("write what the simulated agent of %s sees: %w", name, err))
		}
	}
}

// reports are what the agents of machines that lend have to tell, by machine.
func (f *Fleet) reports() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]string{}
	for name, m := range f.export.machines {
		if l := m.lent; l != nil && f.lent[name] != nil {
			text, err := json.Marshal(convert.ColocationReport{
				At: f.last, Policy: f.lent[name].Policy, Avoidance: "idle", Step: l.rung(),
				OnlineMilli: int64(l.online.v), BatchMilli: int64(l.batch.v), BudgetMilli: int64(l.budget.v), Why: "the machine is simulated",
			})
			if err == nil {
				out[name] = string(text)
			}
		}
	}
	return out
}

// A lentSeries is what the agent of a machine that lends would export.
type lentSeries struct {
	capacity, system, online, batch, budget, work *series
	steps                                         []*series
}

// rungs are those of the ladder that a simulated machine takes.
var rungs = []string{"None", "Idle", "Quota"}

func newLentSeries(node string) *lentSeries {
	s := &lentSeries{
		capacity: newSeries("neap_colocation_capacity_milli", "node", node), system: newSeries("neap_colocation_system_milli", "node", node),
		online: newSeries("neap_colocation_online_milli", "node", node), batch: newSeries("neap_colocation_batch_milli", "node", node),
		budget: newSeries("neap_colocation_budget_milli", "node", node), work: newSeries("neap_colocation_batch_core_seconds_total", "node", node),
	}
	for _, r := range rungs {
		s.steps = append(s.steps, newSeries("neap_colocation_step", "node", node, "step", r))
	}
	return s
}

// take sets the series to what a step brought.
func (s *lentSeries) take(m *world.MachineFrame, seconds float64) {
	s.capacity.v, s.online.v = float64(m.Machine.Capacity[resource.CPU]), float64(m.Online)
	s.batch.v, s.budget.v = float64(m.Batch), float64(m.Budget)
	s.work.v += float64(m.Batch) / 1000 * seconds
	rung := 0
	switch {
	case m.Batch > 0 && m.Batch >= m.Budget:
		rung = 2 // it would take more
	case m.Batch > 0:
		rung = 1
	}
	for i, r := range s.steps {
		r.v = 0
		if i == rung {
			r.v = 1
		}
	}
}

func (s *lentSeries) rung() string {
	return rungs[max(slices.IndexFunc(s.steps, func(r *series) bool { return r.v > 0 }), 0)]
}

// each hands on every series with its name.
func (s *lentSeries) each(do func(name string, s *series)) {
	do("neap_colocation_capacity_milli", s.capacity)
	do("neap_colocation_system_milli", s.system)
	do("neap_colocation_online_milli", s.online)
	do("neap_colocation_batch_milli", s.batch)
	do("neap_colocation_budget_milli", s.budget)
	do("neap_colocation_batch_core_seconds_total", s.work)
	for _, r := range s.steps {
		do("neap_colocation_step", r)
	}
}
