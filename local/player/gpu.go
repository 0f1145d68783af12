package player

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/host/agent/announcer"
	"github.com/neap-dev/neap/host/agent/limiter"
	"github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/sim/scenario"
)

// need writes what a module's pod asks of GPUs that it may share.
func need(m *scenario.Module, pod *corev1.PodTemplateSpec) {
	g := m.GPU
	if g == nil {
		return
	}
	amounts := corev1.ResourceList{v1alpha1.ResourceGPUMilli: whole(g.Milli * int64(g.Count))}
	if g.Memory > 0 {
		amounts[v1alpha1.ResourceGPUMemory] = whole(g.Memory * int64(g.Count))
	}
	r := &pod.Spec.Containers[0].Resources
	delete(r.Requests, v1alpha1.ResourceGPU)
	delete(r.Limits, v1alpha1.ResourceGPU)
	for name, q := range amounts { // limits, for the two of an extended resource are equal
		r.Requests[name] = q
		r.Limits[name] = q
	}
	if g.Count > 1 {
		pod.Annotations[v1alpha1.AnnotationGPUCount] = strconv.Itoa(g.Count)
	}
	var models []string
	for _, m := range g.Models {
		text := fmt.Sprintf("%s=%d", m.Model, m.Milli)
		if m.Memory > 0 {
			text += fmt.Sprintf("/%d", m.Memory)
		}
		models = append(models, text)
	}
	if len(models) > 0 {
		pod.Annotations[v1alpha1.AnnotationGPUModels] = strings.Join(models, ", ")
	}
}

func whole(n int64) apiresource.Quantity { return *apiresource.NewQuantity(n, apiresource.DecimalSI) }

// sharing says what the device plugin says of a machine whose GPUs may be shared:
// thousandths in the place of whole GPUs.
func sharing(l corev1.ResourceList) {
	gpus := l[v1alpha1.ResourceGPU]
	delete(l, v1alpha1.ResourceGPU)
	l[v1alpha1.ResourceGPUMilli] = whole(gpus.Value() * gpu.Whole)
}

// announce has the agent's code say on the node of machine i of a pool what GPUs
// it has. The devices are invented; their UUIDs follow from the node's name.
func (p *Player) announce(ctx context.Context, pool *scenario.Pool, i int, sick map[scenario.MachineGPU]string) error {
	if pool.GPUModel == "" {
		return nil
	}
	name := nodeName(pool.Name, i)
	fake := device.NewFake(name, pool.GPUModel, slices.Repeat([]int64{pool.GPUMemory}, int(pool.Capacity[resource.GPU]/gpu.Whole))...)
	found, err := fake.Find(ctx)
	if err != nil {
		return err
	}
	memory, milli, err := p.held(name)
	if err != nil {
		return err
	}
	var offered int64
	for k := range found.Devices {
		d := &found.Devices[k]
		if why, ok := sick[scenario.MachineGPU{Pool: pool.Name, Machine: i, GPU: d.Index}]; ok {
			d.Healthy, d.Reason = false, why
			offered += milli[d.UUID] // what pods hold of it, they hold in the kubelet's books, too
		} else {
			offered += gpu.Whole
		}
	}
	who := announcer.Announcer{Node: name, Client: p.o.Nodes, Now: time.Now}
	err = who.Announce(ctx, announcer.Report{
		Devices: found.Devices, Held: memory, Default: v1alpha1.GPUWatchOnly, Enforced: limiter.Limiter{}.InForce(found.Devices),
	})
	if err != nil {
		return err
	}
	n := new(corev1.Node)
	if err := p.o.Nodes.Get(ctx, client.ObjectKey{Name: name}, n); err != nil {
		return fmt.Errorf("read node %s: %w", name, err)
	}
	was := n.DeepCopy()
	n.Status.Allocatable[v1alpha1.ResourceGPUMilli] = whole(offered)
	if q := was.Status.Allocatable[v1alpha1.ResourceGPUMilli]; q.Value() == offered {
		return nil
	}
	if err := p.o.Nodes.Status().Patch(ctx, n, client.MergeFrom(was)); err != nil {
		return fmt.Errorf("offer the GPUs of node %s: %w", name, err)
	}
	return nil
}

// held returns MiB and thousandths that the pods of a node hold of its GPUs, by UUID.
func (p *Player) held(node string) (memory, milli map[string]int64, err error) {
	pods, err := p.podsOn(node)
	if err != nil {
		return nil, nil, err
	}
	memory, milli = map[string]int64{}, map[string]int64{}
	for _, pod := range pods {
		given, err := convert.GPUAllocation(pod)
		if err != nil || given == nil {
			continue
		}
		for _, d := range given.Devices {
			memory[d.UUID] += d.MemoryMiB
			milli[d.UUID] += d.Milli
		}
	}
	return memory, milli, nil
}

// health announces the machines of which a GPU turned sick or well. It reports
// whether it was told everywhere.
func (p *Player) health(ctx context.Context, d scenario.State) bool {
	type machine struct {
		pool string
		i    int
	}
	changed := map[machine][]string{}
	for g, why := range d.Sick {
		if was, ok := p.was.Sick[g]; !ok || was != why {
			m := machine{g.Pool, g.Machine}
			changed[m] = append(changed[m], fmt.Sprintf("GPU %d is sick: %s", g.GPU, why))
		}
	}
	for g := range p.was.Sick {
		if _, ok := d.Sick[g]; !ok {
			m := machine{g.Pool, g.Machine}
			changed[m] = append(changed[m], fmt.Sprintf("GPU %d is well again", g.GPU))
		}
	}
	all := true
	for m, what := range changed {
		err := p.announce(ctx, p.o.Scenario.Pool(m.pool), m.i, d.Sick)
		if apierrors.IsNotFound(err) {
			continue // the machine is not bought
		}
		slices.Sort(what)
		p.decide(ctx, bill.Decision{Action: "gpu", Subject: nodeName(m.pool, m.i), Outcome: outcome(err), Reason: strings.Join(what, "; ") + "."})
		if err != nil {
			p.problem(err)
			all = false
		}
	}
	return all
}

// plans makes the RepackPlans that were not there before. It reports whether all
// are made.
func (p *Player) plans(ctx context.Context, d scenario.State, before int) bool {
	all := true
	for _, r := range d.Plans[before:] {
		plan := repackPlan(r)
		err := p.o.CRDs.Create(ctx, plan)
		if apierrors.IsAlreadyExists(err) {
			continue
		}
		p.decide(ctx, bill.Decision{Action: "plan", Subject: r.Name, Outcome: outcome(err),
			Reason: because(d.Why[r.Name], fmt.Sprintf("The scenario asks for a plan to repack GPUs, goal %s.", r.Goal))})
		if err != nil {
			p.problem(fmt.Errorf("make the RepackPlan %s: %w", r.Name, err))
			all = false
		}
	}
	return all
}

func repackPlan(r *scenario.Repack) *v1alpha1.RepackPlan {
	plan := &v1alpha1.RepackPlan{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "RepackPlan"},
		ObjectMeta: metav1.ObjectMeta{Name: r.Name, Annotations: simulated()},
		Spec: v1alpha1.RepackPlanSpec{
			Goal: v1alpha1.RepackGoal(r.Goal), Mode: v1alpha1.RepackMode(r.Mode),
			Limits: v1alpha1.RepackLimits{MovesPerHour: int32(r.MovesPerHour), MaxMoves: int32(r.MaxMoves), Parallel: int32(r.Parallel)},
		},
	}
	if r.Cooldown > 0 {
		plan.Spec.Limits.Cooldown = r.Cooldown.String()
	}
	return plan
}
