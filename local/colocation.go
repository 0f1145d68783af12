package local

import (
	"context"
	"fmt"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/kube/controller/colocator"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/local/fleet"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/sim/physics"
	"github.com/neap-dev/neap/sim/scenario"
)

// batchApart is the least time, on the wall, between two decisions on batch: the
// fastest days have thousands of minutes an hour.
const batchApart = 300 * time.Millisecond

// batchAhead is how far the day may be ahead of the last decision on batch.
const batchAhead = 4 * time.Minute

// batchLasts is how long, of the day, a machine's batch capacity holds: on the wall
// long enough that it need not be written again every moment.
func (u *up) batchLasts() time.Duration {
	return min(max(convert.BatchLasts, time.Duration(u.o.Speed*float64(30*time.Second))), time.Hour)
}

// colocated is told that it was decided at a moment of the day what batch may have.
func (u *up) colocated(at time.Time) {
	if len(u.o.Scenario.Colocations) > 0 || u.live.passing() {
		if err := u.lends.record(at, u.control.Colocator.WriteMetrics); err != nil {
			u.out.problem(fmt.Errorf("keep what batch may have at %s for the page: %w", u.stamp(at), err))
		}
	}
	if u.o.Scenario.Elastic() || len(u.o.Scenario.Colocations) == 0 || u.o.Prometheus != "" {
		return // the policies hold the day back, if anybody
	}
	// What batch may have is old after a few minutes: the day goes no further than that
	// before it is decided again.
	u.day.WaitAt(at.Add(batchAhead))
	p := &u.pace
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.give != nil {
		p.give.Stop()
	}
	p.give = time.AfterFunc(noDecision, func() { u.day.WaitAt(time.Time{}) })
}

// keepAgents plays the agents of the machines that lend to batch.
func (u *up) keepAgents(ctx context.Context) error {
	if len(u.o.Scenario.Colocations) == 0 {
		return nil
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: colocator.DefaultAgentNamespace}}
	if _, err := u.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace %s: %w", ns.Name, err)
	}
	_, factory, _ := u.live.parts()
	agents := &fleet.Agents{
		Client: u.client, Fleet: u.fleet, Namespace: ns.Name, Problem: u.out.problem,
		Machines: func() (names []string) {
			nodes, _ := factory.Core().V1().Nodes().Lister().List(labels.Everything()) // a cache does not fail
			for _, n := range nodes {
				if n.Labels[fleet.SimulatedLabel] == "true" && u.o.Scenario.Colocation(n.Labels[v1alpha1.LabelPool]) != nil {
					names = append(names, n.Name)
				}
			}
			return names
		},
	}
	return agents.Run(ctx)
}

// pastDays is how many days before the start it is known what machines used that lend.
const pastDays = 14

// pastUse returns what the controller would have said, in the days before the
// scenario's start, that online modules used of the machines that lend to batch: what
// batch may have is learnt from it. Where pods were is not known, so all machines of a
// pool had about the same.
func pastUse(s *scenario.Scenario) func(at time.Time) []metrics.Sample {
	type pool struct {
		*scenario.Pool
		rating      int64
		cpu, memory []*metrics.Handle // by machine
	}
	var pools []pool
	for i := range s.Pools {
		if s.Colocation(s.Pools[i].Name) == nil {
			continue
		}
		p := pool{Pool: &s.Pools[i]}
		t, _ := s.Type(p.MachineType)
		p.rating = t.Rating()
		for k := range scenario.Desired(s, s.Start).Machines[p.Name] {
			of := func(name string) *metrics.Handle {
				series := controllerLabels("colocator")
				series["__name__"], series["node"] = name, fmt.Sprintf("%s-%03d", p.Name, k)
				return metrics.NewHandle(series)
			}
			p.cpu, p.memory = append(p.cpu, of("neap_batch_online_milli")), append(p.memory, of("neap_batch_online_memory_bytes"))
		}
		pools = append(pools, p)
	}
	if len(pools) == 0 {
		return nil
	}
	return func(at time.Time) (out []metrics.Sample) {
		for _, p := range pools {
			cores, memory, count := 0.0, 0.0, float64(len(p.cpu))
			for k := range s.Modules {
				m := &s.Modules[k]
				if m.Load == nil || m.Places()[0] != p.Name {
					continue
				}
				rps, known := s.Requests(m, at)
				if !known {
					rps = 0
				}
				replicas := float64(max(scenario.CountAt(m.Schedule, m.Replicas, at, s.Location), 1))
				cores += replicas * physics.Need(float64(m.Needs.BaseCPU)/1000, rps/replicas, m.Needs.CPUPerRequest.Seconds(), p.rating)
				memory += replicas * float64(max(m.Needs.BaseMemory, m.Requests[resource.Memory]/5))
			}
			for k := range p.cpu {
				wave := 1 + 0.1*math.Sin(float64(k)*1.7+float64(at.Unix()/900)*0.9) // no two have the same, nor twice
				out = append(out, metrics.Sample{Handle: p.cpu[k], V: math.Round(1000 * cores / count * wave)}, metrics.Sample{Handle: p.memory[k], V: math.Round(memory / count)})
			}
		}
		return out
	}
}
