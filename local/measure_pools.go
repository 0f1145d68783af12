package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/local/fleet"
	"github.com/neap-dev/neap/sim/scenario"
)

// A PoolsMeasurement is one step of a workload over three pools: bought machines,
// what is spare on GPU machines, and serverless capacity.
type PoolsMeasurement struct {
	What    string  `json:"what"`
	Pods    int     `json:"pods"`    // asked for
	Seconds float64 `json:"seconds"` // on the wall, until it was so

	// Where the pods are at the end, all workloads together.
	Owned      int `json:"owned"`
	Spare      int `json:"spare"`
	Serverless int `json:"serverless"`

	Violations int64 `json:"violations"` // pods that left before those that should have left first, so far
	Judged     int   `json:"judged"`     // workloads whose last scale-in was judged and found in order
	Beyond     int   `json:"beyond"`     // the most pods that a pool ever had beyond the policy's max
	Kills      int   `json:"kills"`      // of the scheduler, by kill -9, meanwhile
}

// The pools of the measurement: pods of half a core, so 80 fit the machines and
// 128 the GPU machines, half of whose 32 cores are kept for the GPUs.
const (
	poolOwned, poolSpare, poolServerless = "owned", "spare", "serverless"
	fitOwned, fitSpare                   = 80, 128
)

// poolsScenario is three pools and nobody who uses them.
func poolsScenario() *scenario.Scenario {
	owned := resource.Vector{resource.CPU: 10_000, resource.Memory: 64 * resource.GiB}
	gpu := resource.Vector{resource.CPU: 32_000, resource.Memory: 256 * resource.GiB, resource.GPU: 4000}
	zones := []string{"zone-a"}
	return &scenario.Scenario{
		Name: "three-pools", Start: time.Date(2026, 9, 16, 19, 0, 0, 0, time.UTC), Location: time.UTC,
		Length: 24 * time.Hour, Seed: 1, Currency: "USD",
		MachineTypes: []machine.Type{
			{Name: "plain", Capacity: owned, List: 400_000_000, Currency: "USD", RatingMillis: 1000, RatingSource: "scenario"},
			{Name: "gpu", Capacity: gpu, List: 8_000_000_000, Currency: "USD", RatingMillis: 1000, RatingSource: "scenario"},
			{Name: "by-pod", UnitList: [resource.Kinds]money.PerHour{resource.CPU: 60_000_000}, Currency: "USD", RatingMillis: 1000, RatingSource: "scenario"},
		},
		Pools: []scenario.Pool{
			{Name: poolOwned, Kind: scenario.Machines, MachineType: "plain", Order: 0, Count: 4, MaxPods: 110, Capacity: owned, Allocatable: owned, Zones: zones},
			{Name: poolSpare, Kind: scenario.SpareOnGPUMachines, MachineType: "gpu", Order: 1, Count: 4, MaxPods: 110, Capacity: gpu, Allocatable: gpu,
				PerGPU: resource.Vector{resource.CPU: 4000}, Zones: zones},
			{Name: poolServerless, Kind: scenario.Serverless, MachineType: "by-pod", Order: 2, Zones: zones, Taint: true},
		},
	}
}

// MeasurePools scales one workload from 0 to 300 and back to 3 over three pools,
// and then many at once while the scheduler dies, on a real control plane with
// Neap's scheduler and controllers.
func MeasurePools(ctx context.Context, o MeasureOptions) ([]PoolsMeasurement, error) {
	m, err := o.onPools(ctx, poolsScenario(), 10, (*poolsRun).measure)
	if m == nil {
		return nil, err
	}
	return m.rows, err
}

// onPools runs a cluster with pools for as long as do works in it.
func (o MeasureOptions) onPools(ctx context.Context, s *scenario.Scenario, speed float64, do func(*poolsRun, context.Context) error) (*poolsRun, error) {
	dir, err := os.MkdirTemp("", "neap-bench-pools-")
	if err != nil {
		return nil, fmt.Errorf("measure pools: %w", err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var m *poolsRun
	var measured error
	up := Options{
		Scenario: s, Dir: dir, BinDir: o.BinDir, Listen: "127.0.0.1:0", Speed: speed,
		during: func(ctx context.Context, u *up) error {
			defer cancel()
			m = &poolsRun{up: u, pods: map[types.UID]*corev1.Pod{}, leaving: map[types.UID]bool{}}
			measured = do(m, ctx)
			return nil
		},
	}
	if o.Log != nil {
		up.Out = lines(o.Log)
	}
	if _, err := Up(ctx, up); m == nil {
		return nil, err
	}
	return m, measured
}

// A poolsRun is the measurement while it is taken.
type poolsRun struct {
	up   *up
	rows []PoolsMeasurement

	mu      sync.Mutex
	pods    map[types.UID]*corev1.Pod // that are not leaving
	leaving map[types.UID]bool
	limits  map[string]int // of every racing workload, by pool
	beyond  int
}

const (
	poolsNamespace = "pools"
	racers, racing = 10, 30 // workloads, and pods of each, that race
	poolsPatience  = 3 * time.Minute
)

// racingLimits are the most pods of a racing workload in each pool: together just
// what the owned machines hold.
var racingLimits = map[string]int{poolOwned: fitOwned / racers, poolSpare: 12, poolServerless: racing - 12 - fitOwned/racers}

func (m *poolsRun) measure(ctx context.Context) error {
	if err := m.begin(ctx); err != nil {
		return err
	}

	// 1. One workload, out and back.
	web, err := m.workload(ctx, "web", 0, nil)
	if err != nil {
		return err
	}
	for _, pods := range []int{300, 3, 300, 250, 150, 60, 3, 0} {
		if err := m.step(ctx, fmt.Sprintf("scale to %d", pods), []*v1alpha1.ElasticPolicy{web}, pods, 0); err != nil {
			return err
		}
	}

	// 2. Many at once, each with the same limits, and a scheduler that dies.
	m.mu.Lock()
	m.limits = racingLimits
	m.mu.Unlock()
	policies := make([]*v1alpha1.ElasticPolicy, racers)
	errs := make([]error, racers)
	var wg sync.WaitGroup
	for i := range policies {
		wg.Go(func() { policies[i], errs[i] = m.workload(ctx, fmt.Sprintf("racer-%d", i), 0, racingLimits) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, pods := range []int{racing, 5, racing} {
		if err := m.step(ctx, fmt.Sprintf("%d workloads to %d each", racers, pods), policies, pods, 1); err != nil {
			return err
		}
	}
	return nil
}

// begin makes the namespace and starts to count its pods.
func (m *poolsRun) begin(ctx context.Context) error {
	pods := m.up.live.factory.Core().V1().Pods().Informer()
	_, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { m.count(o.(*corev1.Pod), false) },
		UpdateFunc: func(_, o any) { m.count(o.(*corev1.Pod), false) },
		DeleteFunc: func(o any) {
			if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			m.count(o.(*corev1.Pod), true)
		},
	})
	if err != nil {
		return fmt.Errorf("measure pools: %w", err)
	}
	_, err = m.up.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: poolsNamespace}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("measure pools: %w", err)
	}
	return nil
}

// count keeps the pods that are not leaving, and the most that were beyond a limit.
func (m *poolsRun) count(p *corev1.Pod, gone bool) {
	if p.Namespace != poolsNamespace {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.DeletionTimestamp != nil {
		m.leaving[p.UID] = true
	}
	if gone {
		delete(m.leaving, p.UID)
	}
	if gone || p.DeletionTimestamp != nil {
		delete(m.pods, p.UID)
		return
	}
	m.pods[p.UID] = p
	if len(m.limits) > 0 && p.Spec.NodeName != "" {
		for pool, n := range m.where(p.Labels["app"]) {
			m.beyond = max(m.beyond, n-m.limits[pool])
		}
	}
}

// where returns the pods of one workload, or of all for "", by pool.
func (m *poolsRun) where(app string) map[string]int {
	out := map[string]int{}
	for _, p := range m.pods {
		if p.Spec.NodeName == "" || app != "" && p.Labels["app"] != app {
			continue
		}
		node, err := m.up.live.factory.Core().V1().Nodes().Lister().Get(p.Spec.NodeName)
		if err == nil {
			out[node.Labels[v1alpha1.LabelPool]]++
		}
	}
	return out
}

// workload makes a Deployment of no replicas and its ElasticPolicy.
func (m *poolsRun) workload(ctx context.Context, name string, pin int, limits map[string]int) (*v1alpha1.ElasticPolicy, error) {
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: poolsNamespace, Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](0), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					AutomountServiceAccountToken: ptr.To(false), TerminationGracePeriodSeconds: ptr.To[int64](1),
					Containers: []corev1.Container{{Name: fleet.Container, Image: "simulated.neap.dev/" + name, Resources: corev1.ResourceRequirements{
						Requests: corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse("500m"), corev1.ResourceMemory: apiresource.MustParse("256Mi")},
					}}},
				},
			},
		},
	}
	if _, err := m.up.client.AppsV1().Deployments(poolsNamespace).Create(ctx, d, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("measure pools: %w", err)
	}
	p := &v1alpha1.ElasticPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: poolsNamespace, Name: name},
		Spec: v1alpha1.ElasticPolicySpec{
			TargetRef: v1alpha1.TargetRef{APIVersion: "apps/v1", Kind: "Deployment", Name: name}, Mode: v1alpha1.ModeAuto, Max: 1000,
			Manual: []v1alpha1.ManualLayer{{Name: "bench", Pin: ptr.To(int32(pin)), Reason: "a measurement"}},
		},
	}
	for _, pool := range []string{poolOwned, poolSpare, poolServerless} {
		in := v1alpha1.PolicyPool{Name: pool}
		if limits != nil {
			in.Max = ptr.To(int32(limits[pool]))
		}
		p.Spec.Pools = append(p.Spec.Pools, in)
	}
	if err := m.up.crds.Create(ctx, p); err != nil {
		return nil, fmt.Errorf("measure pools: %w", err)
	}
	return p, nil
}

// step pins workloads to a number of replicas, kills the scheduler meanwhile as
// often as asked, and waits until they are ready, in pools as they should be.
func (m *poolsRun) step(ctx context.Context, what string, policies []*v1alpha1.ElasticPolicy, pods, kills int) error {
	began := time.Now()
	var wg sync.WaitGroup
	errs := make([]error, len(policies))
	for i, p := range policies {
		wg.Go(func() {
			patch := fmt.Appendf(nil, `{"spec":{"manual":[{"name":"bench","pin":%d,"reason":"a measurement"}]}}`, pods)
			errs[i] = m.up.crds.Patch(ctx, p, client.RawPatch(types.MergePatchType, patch))
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("measure pools: %s: %w", what, err)
	}
	for range kills {
		if err := pause(ctx, 300*time.Millisecond); err != nil {
			return err
		}
		if err := syscall.Kill(m.up.cluster.SchedulerPID(), syscall.SIGKILL); err != nil {
			return fmt.Errorf("measure pools: kill the scheduler: %w", err)
		}
	}
	want := func(of int) map[string]int {
		out := map[string]int{}
		fits := map[string]int{poolOwned: fitOwned, poolSpare: fitSpare, poolServerless: of}
		if len(policies) > 1 {
			fits = racingLimits
		}
		for _, pool := range []string{poolOwned, poolSpare, poolServerless} {
			if n := min(of, fits[pool]); n > 0 {
				out[pool] = n
				of -= n
			}
		}
		return out
	}
	for {
		right, all := m.look(policies, want(pods), pods)
		if right {
			break
		}
		if time.Since(began) > poolsPatience {
			return fmt.Errorf("measure pools: %s: after %v the pods are at %v", what, poolsPatience, all)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	row := PoolsMeasurement{What: what, Pods: pods * len(policies), Seconds: time.Since(began).Seconds(), Kills: kills}
	// The check of a scale-in comes a moment after its end; and those who leave hold
	// their room until they are gone.
	for gone := false; !gone; {
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		m.mu.Lock()
		gone = len(m.leaving) == 0
		m.mu.Unlock()
	}
	var list v1alpha1.ElasticPolicyList
	if err := m.up.crds.List(ctx, &list, client.InNamespace(poolsNamespace)); err != nil {
		return fmt.Errorf("measure pools: %w", err)
	}
	for i := range list.Items {
		s := &list.Items[i].Status
		row.Violations += s.Violations
		if c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionOrderKept); c != nil && c.Status == metav1.ConditionTrue && strings.HasPrefix(c.Message, "the last ") {
			row.Judged++
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.where("")
	row.Owned, row.Spare, row.Serverless, row.Beyond = at[poolOwned], at[poolSpare], at[poolServerless], m.beyond
	m.rows = append(m.rows, row)
	m.up.out.line("%s: %.1f s; owned %d, spare %d, serverless %d; %d left out of order", what, row.Seconds, row.Owned, row.Spare, row.Serverless, row.Violations)
	return nil
}

// look reports whether the pods of all workloads are ready and where they should
// be, and where all pods are.
func (m *poolsRun) look(policies []*v1alpha1.ElasticPolicy, want map[string]int, pods int) (bool, map[string]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ready := 0
	for _, p := range m.pods {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				ready++
			}
		}
	}
	right := ready == pods*len(policies) && len(m.pods) == ready
	for _, p := range policies {
		right = right && maps.Equal(m.where(p.Name), want)
	}
	return right, m.where("")
}
