package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/local/clock"
	"github.com/neap-dev/neap/local/controlplane"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
	"github.com/neap-dev/neap/local/fleet"
)

// A poolWorld is three pools of simulated machines in a real cluster, and a
// namespace to use them from.
type poolWorld struct {
	t       *testing.T
	cluster *controlplane.Cluster
	cfg     *rest.Config
	c       client.Client
	api     kubernetes.Interface
	ns      string

	mu   sync.Mutex
	pods map[types.UID]*corev1.Pod // of the namespace, those that are not leaving
	most map[string]map[string]int // by app and pool, the most that ever were there
}

// Pods of 500 milli-cores: 40 fit the machines, 64 the spare of GPU machines.
const (
	onMachines = 40
	onSpare    = 64
)

func newPoolWorld(t *testing.T) *poolWorld {
	t.Helper()
	_, cfg := cluster(t)
	w := &poolWorld{t: t, cluster: clustertest.Scheduler(t), cfg: cfg, pods: map[types.UID]*corev1.Pod{}, most: map[string]map[string]int{}}
	w.c, w.api, w.ns = newClient(t, cfg), clustertest.Client(t, w.cluster), clustertest.Namespace(t, w.cluster)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)

	// 1. The pools and their machines. Each test has its own.
	w.create(fmt.Sprintf(`{apiVersion: neap.dev/v1alpha1, kind: MachineType, metadata: {name: sls-%s}, spec: {price: {units: {cpu: "0.05"}}}}`, w.ns), &v1alpha1.MachineType{})
	for _, doc := range []string{
		`{metadata: {name: owned-%s}, spec: {order: 0}}`,
		`{metadata: {name: spare-%s}, spec: {kind: SpareOnGPUMachines, order: 1, guard: {cpuPerGPU: 4}}}`,
		`{metadata: {name: sls-%[1]s}, spec: {kind: Serverless, order: 2, machineType: sls-%[1]s}}`,
	} {
		w.create(fmt.Sprintf(doc, w.ns), &v1alpha1.ResourcePool{})
	}
	for i := range 2 {
		w.node("owned", i, "cpu: 10, memory: 64Gi, pods: 110", "")
		w.node("spare", i, "cpu: 32, memory: 256Gi, pods: 110, nvidia.com/gpu: 4", "")
	}
	w.node("sls", 0, "cpu: 100k, memory: 400Ti, pods: 10k", "taints: [{key: neap.dev/serverless, value: \"true\", effect: NoSchedule}]")

	// 2. Who plays their kubelets.
	day, err := clock.Open(filepath.Join(t.TempDir(), "clock.json"), clock.Options{Start: time.Now(), Speed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = day.Close() })
	kubelets, err := fleet.StartLifecycle(ctx, fleet.LifecycleOptions{
		Client: w.api, REST: w.api.CoreV1().RESTClient(), Day: day,
		Durations: fleet.Durations{
			Start: func(*corev1.Pod) time.Duration { return 50 * time.Millisecond },
			Stop:  func(*corev1.Pod) time.Duration { return 20 * time.Millisecond },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kubelets.Close)
	t.Cleanup(cancel) // before Close

	// 3. Who counts.
	factory := informers.NewSharedInformerFactoryWithOptions(w.api, 0, informers.WithNamespace(w.ns))
	_, err = factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { w.count(obj.(*corev1.Pod), false) },
		UpdateFunc: func(_, obj any) { w.count(obj.(*corev1.Pod), false) },
		DeleteFunc: func(obj any) {
			if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			w.count(obj.(*corev1.Pod), true)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return w
}

func (w *poolWorld) create(doc string, obj client.Object) {
	w.t.Helper()
	unmarshal(w.t, doc, obj)
	if err := w.c.Create(w.t.Context(), obj); err != nil {
		w.t.Fatal(err)
	}
	if obj.GetNamespace() == "" {
		w.t.Cleanup(func() { _ = w.c.Delete(context.Background(), obj) })
	}
}

func (w *poolWorld) node(pool string, i int, has, spec string) {
	w.t.Helper()
	name := fmt.Sprintf("%s-%s-%d", pool, w.ns, i)
	n := &corev1.Node{}
	w.create(fmt.Sprintf(`{metadata: {name: %s, labels: {neap.dev/simulated: "true", neap.dev/pool: %s, kubernetes.io/hostname: %[1]s}}, spec: {%[3]s},
		status: {allocatable: {%[4]s}, capacity: {%[4]s}, conditions: [{type: Ready, status: "True", reason: KubeletReady}]}}`, name, w.pool(pool), spec, has), n)
}

func (w *poolWorld) pool(name string) string { return name + "-" + w.ns }

// policy makes an ElasticPolicy for a Deployment, with a plan.
func (w *poolWorld) policy(app string, plan ...int) *v1alpha1.ElasticPolicy {
	w.t.Helper()
	p := &v1alpha1.ElasticPolicy{}
	w.create(fmt.Sprintf(`{metadata: {name: %s, namespace: %s}, spec: {targetRef: {name: %[1]s}, mode: Auto, min: 0, max: 1000, pools: [{name: owned-%[2]s}, {name: spare-%[2]s}, {name: sls-%[2]s}]}}`, app, w.ns), p)
	w.plan(p, plan...)
	return p
}

// plan writes into a policy's status how many may be in each pool.
func (w *poolWorld) plan(p *v1alpha1.ElasticPolicy, plan ...int) {
	w.t.Helper()
	clustertest.Eventually(w.t, "the plan to be written", func() error {
		if err := w.c.Get(w.t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		p.Status.Pools = nil
		for i, n := range plan {
			p.Status.Pools = append(p.Status.Pools, v1alpha1.PolicyPoolStatus{Name: p.Spec.Pools[i].Name, Planned: int32(n)})
		}
		return w.c.Status().Update(w.t.Context(), p)
	})
}

const podSpec = `{containers: [{name: main, image: none, resources: {requests: {cpu: 500m, memory: 256Mi}}}], terminationGracePeriodSeconds: 1, automountServiceAccountToken: false,
	tolerations: [{key: neap.dev/serverless, operator: Exists}]}`

func (w *poolWorld) deployment(app string, replicas int) *appsv1.Deployment {
	w.t.Helper()
	d := &appsv1.Deployment{}
	w.create(fmt.Sprintf(`{metadata: {name: %s, namespace: %s}, spec: {replicas: %[3]d, selector: {matchLabels: {app: %[1]s}}, template: {metadata: {labels: {app: %[1]s}}, spec: %[4]s}}}`, app, w.ns, replicas, podSpec), d)
	return d
}

func (w *poolWorld) scale(d *appsv1.Deployment, replicas int) {
	w.t.Helper()
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas))
	if err := w.c.Patch(w.t.Context(), d, patch); err != nil {
		w.t.Fatal(err)
	}
}

// count keeps the pods that are not leaving, and the most that ever were in a pool.
func (w *poolWorld) count(p *corev1.Pod, gone bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if gone || p.DeletionTimestamp != nil {
		delete(w.pods, p.UID)
		return
	}
	w.pods[p.UID] = p
	app := p.Labels["app"]
	here := w.where(app)
	if w.most[app] == nil {
		w.most[app] = map[string]int{}
	}
	for pool, n := range here {
		w.most[app][pool] = max(w.most[app][pool], n)
	}
}

// where returns how many pods of an app are in each pool; "" is nowhere.
func (w *poolWorld) where(app string) map[string]int {
	out := map[string]int{}
	for _, p := range w.pods {
		if p.Labels["app"] == app {
			pool, _, _ := strings.Cut(p.Spec.NodeName, "-")
			out[pool]++
		}
	}
	return out
}

func (w *poolWorld) await(app string, want map[string]int) {
	w.t.Helper()
	clustertest.Eventually(w.t, fmt.Sprintf("the pods of %s to be at %v", app, want), func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if got := w.where(app); !maps.Equal(got, want) {
			return fmt.Errorf("they are at %v", got)
		}
		return nil
	})
}

func (w *poolWorld) awaitReady(app string, n int) {
	w.t.Helper()
	clustertest.Eventually(w.t, fmt.Sprintf("%d pods of %s to be ready", n, app), func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		ready := 0
		for _, p := range w.pods {
			if p.Labels["app"] == app && !condition(p, corev1.PodReady).IsZero() {
				ready++
			}
		}
		if ready != n {
			return fmt.Errorf("%d are", ready)
		}
		return nil
	})
}

// unscheduled returns what the scheduler says of the pods that wait.
func (w *poolWorld) unscheduled(app string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, p := range w.pods {
		for _, c := range p.Status.Conditions {
			if p.Labels["app"] == app && c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				out = append(out, c.Message)
			}
		}
	}
	slices.Sort(out)
	return out
}

func (w *poolWorld) awaitMessage(app, want string) {
	w.t.Helper()
	clustertest.Eventually(w.t, "a pod of "+app+" to wait because "+want, func() error {
		said := w.unscheduled(app)
		for _, m := range said {
			if strings.Contains(m, want) {
				return nil
			}
		}
		return fmt.Errorf("those that wait say %q", slices.Compact(said))
	})
}

func TestPodsFillThePoolsInOrderAndLeaveInTheOpposite(t *testing.T) {
	w := newPoolWorld(t)
	p := w.policy("web", onMachines, onSpare, 46)
	d := w.deployment("web", 0)
	w.scale(d, 150)
	w.await("web", map[string]int{"owned": onMachines, "spare": onSpare, "sls": 46})
	w.awaitReady("web", 150)

	for _, step := range []struct {
		replicas int
		want     map[string]int
	}{
		{120, map[string]int{"owned": onMachines, "spare": onSpare, "sls": 16}},
		{70, map[string]int{"owned": onMachines, "spare": 30}},
		{3, map[string]int{"owned": 3}},
	} {
		w.scale(d, step.replicas)
		w.await("web", step.want)
		w.awaitReady("web", step.replicas)
	}
	// One more than planned waits, and says why.
	w.plan(p, 3, 1, 0)
	w.scale(d, 5)
	w.await("web", map[string]int{"owned": 3, "spare": 1, "": 1})
	w.awaitMessage("web", "no pool may take the pod: pool owned-"+w.ns+" has 3 of 3 planned; pool spare-"+w.ns+" has 1 of 1 planned; pool sls-"+w.ns+" has 0 of 0 planned")
	w.plan(p, 3, 1, 1)
	w.await("web", map[string]int{"owned": 3, "spare": 1, "sls": 1})
}

func TestNoPoolIsOverfilledByRacingCreatesAndASchedulerThatDies(t *testing.T) {
	w := newPoolWorld(t)
	const apps, pods = 8, 20
	plan := []int{5, 8, 7}
	names := make([]string, apps)
	for i := range names {
		names[i] = fmt.Sprintf("app-%d", i)
		w.policy(names[i], plan...)
	}
	var racing sync.WaitGroup
	made := make([]*appsv1.Deployment, apps)
	for i, name := range names {
		racing.Go(func() { made[i] = w.deployment(name, pods) })
	}
	restart := func() {
		if err := syscall.Kill(w.cluster.SchedulerPID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := w.cluster.StartScheduler(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	restart()
	racing.Wait()
	want := map[string]int{"owned": 5, "spare": 8, "sls": 7}
	for _, name := range names {
		w.await(name, want)
	}
	// Again, with pods that leave while others come.
	for round := range 3 {
		for i := range made {
			racing.Go(func() {
				w.scale(made[i], 4+(i+round)%6)
				w.scale(made[i], pods)
			})
		}
		racing.Wait()
		if round == 1 {
			restart()
		}
		for _, name := range names {
			w.await(name, want)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		if got := w.most[name]; got["owned"] > 5 || got["spare"] > 8 || got["sls"] > 7 {
			t.Errorf("%s had up to %v, planned were %v", name, got, plan)
		}
	}
}

func TestAGPUPodHasItsCPUAtOnce(t *testing.T) {
	w := newPoolWorld(t)
	p := w.policy("web", 0, 100, 0)
	w.deployment("web", 100)
	// Two machines of 32 cores and four GPUs lend 16 each: the rest waits.
	w.await("web", map[string]int{"spare": onSpare, "": 100 - onSpare})
	gpu := func(name string, gpus, cpu int) {
		w.create(fmt.Sprintf(`{metadata: {name: %s, namespace: %s, labels: {app: %[1]s}}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: main, image: none,
			resources: {requests: {cpu: %[3]d, memory: 1Gi}, limits: {nvidia.com/gpu: %[4]d}}}]}}`, name, w.ns, cpu, gpus), &corev1.Pod{})
	}
	// 1. What the guard keeps is there without anybody leaving.
	for i := range 2 {
		name := fmt.Sprintf("kept-%d", i)
		gpu(name, 2, 8)
		w.await(name, map[string]int{"spare": 1})
	}
	w.await("web", map[string]int{"spare": onSpare, "": 100 - onSpare})
	// 2. What goes beyond makes spare pods leave, as few as will do, and no more come.
	gpu("greedy", 1, 20)
	w.await("greedy", map[string]int{"spare": 1})
	// Of its 32 cores the GPU pods ask for 28; what is left is room for eight. Nobody
	// comes back, for one GPU is free and its four cores are kept.
	const stay = onSpare/2 + 8
	w.await("web", map[string]int{"spare": stay, "": 100 - stay})
	// 3. Those who left go where the plan lets them.
	w.plan(p, onMachines, 100, 100)
	w.await("web", map[string]int{"owned": onMachines, "spare": stay, "sls": 100 - onMachines - stay})
}

func TestAPoolThatTakesNoMoreIsPassedOver(t *testing.T) {
	w := newPoolWorld(t)
	limited := &v1alpha1.ResourcePool{}
	if err := w.c.Get(t.Context(), client.ObjectKey{Name: w.pool("sls")}, limited); err != nil {
		t.Fatal(err)
	}
	was := limited.DeepCopy()
	unmarshal(t, `{spec: {limit: {cpu: 2}}}`, limited)
	if err := w.c.Patch(t.Context(), limited, client.MergeFrom(was)); err != nil {
		t.Fatal(err)
	}
	// 1. The machines are full though more is planned: the next takes the rest, until its limit.
	p := w.policy("web", 60, 0, 60)
	w.deployment("web", 60)
	w.await("web", map[string]int{"owned": onMachines, "sls": 4, "": 16})
	w.awaitMessage("web", "")
	w.plan(p, onMachines, 0, 60)
	w.awaitMessage("web", "pool owned-"+w.ns+" has 40 of 40 planned; pool spare-"+w.ns+" has 0 of 0 planned; pool sls-"+w.ns+" has used up its limit")
	// 2. The plan changes, and they go there.
	w.plan(p, onMachines, 16, 4)
	w.await("web", map[string]int{"owned": onMachines, "spare": 16, "sls": 4})
}

func TestAStatefulSetIsInThePoolOfItsOrdinal(t *testing.T) {
	w := newPoolWorld(t)
	p := &v1alpha1.ElasticPolicy{}
	w.create(fmt.Sprintf(`{metadata: {name: db, namespace: %s}, spec: {targetRef: {kind: StatefulSet, name: db}, mode: Auto, max: 10, pools: [{name: owned-%[1]s}, {name: sls-%[1]s}]}}`, w.ns), p)
	w.plan(p, 2, 2)
	set := &appsv1.StatefulSet{}
	w.create(fmt.Sprintf(`{metadata: {name: db, namespace: %s}, spec: {replicas: 5, podManagementPolicy: Parallel, serviceName: db, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: %s}}}`, w.ns, podSpec), set)
	w.await("db", map[string]int{"owned": 2, "sls": 2, "": 1})
	w.awaitMessage("db", "pool sls-"+w.ns+" is planned for 2 from ordinal 2")
	// All at once made anew, each goes back to where it was.
	if err := w.c.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(w.ns), client.MatchingLabels{"app": "db"}); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "the ordinals to be in their pools", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		at := map[string]string{}
		for _, p := range w.pods {
			pool, _, _ := strings.Cut(p.Spec.NodeName, "-")
			at[p.Name] = pool
		}
		if want := (map[string]string{"db-0": "owned", "db-1": "owned", "db-2": "sls", "db-3": "sls", "db-4": ""}); !maps.Equal(at, want) {
			return fmt.Errorf("they are at %v", at)
		}
		return nil
	})
}

func TestARolloutIsNotStuckAtAFullPlan(t *testing.T) {
	w := newPoolWorld(t)
	w.policy("web", 4, 0, 0)
	d := w.deployment("web", 4)
	w.awaitReady("web", 4)
	w.await("web", map[string]int{"owned": 4})
	patch := `{"spec":{"strategy":{"rollingUpdate":{"maxSurge":1,"maxUnavailable":0}},"template":{"metadata":{"annotations":{"version":"2"}}}}}`
	if err := w.c.Patch(t.Context(), d, client.RawPatch(types.StrategicMergePatchType, []byte(patch))); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "the rollout to end", func() error {
		if err := w.c.Get(t.Context(), client.ObjectKeyFromObject(d), d); err != nil {
			return err
		}
		if s := d.Status; s.ObservedGeneration < d.Generation || s.UpdatedReplicas != 4 || s.Replicas != 4 || s.ReadyReplicas != 4 {
			return fmt.Errorf("%d of %d are new, %d ready", s.UpdatedReplicas, s.Replicas, s.ReadyReplicas)
		}
		return nil
	})
	w.await("web", map[string]int{"owned": 4})
}

func TestAPausedPolicyPlacesNothing(t *testing.T) {
	w := newPoolWorld(t)
	p := w.policy("web", 1, 0, 0)
	w.deployment("web", 3)
	w.await("web", map[string]int{"owned": 1, "": 2})
	if err := w.c.Patch(t.Context(), p, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"neap.dev/pause":"true"}}}`))); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "all pods to be somewhere", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.where("web")[""] > 0 {
			return errors.New("some wait")
		}
		return nil
	})
}
