package kube

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/local/clock"
	"github.com/neap-dev/neap/local/controlplane"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
	"github.com/neap-dev/neap/local/fleet"
	"github.com/neap-dev/neap/test/gpuaudit"
)

// A gpuWorld is machines with GPUs in a real cluster, a namespace to use them from,
// and an auditor who watches from the beginning.
type gpuWorld struct {
	t       *testing.T
	cluster *controlplane.Cluster
	c       client.Client
	api     kubernetes.Interface
	ns      string
	audit   *gpuaudit.Auditor
}

// newGPUWorld makes machines with GPUs; none are there but those of this test.
func newGPUWorld(t *testing.T, machines ...gpuMachine) *gpuWorld {
	t.Helper()
	_, cfg := cluster(t)
	w := &gpuWorld{t: t, cluster: clustertest.Scheduler(t), audit: gpuaudit.New()}
	w.c, w.api, w.ns = newClient(t, cfg), clustertest.Client(t, w.cluster), clustertest.Namespace(t, w.cluster)
	for _, m := range machines {
		for i := range m.count {
			m.create(w, i)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
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
	if err := w.audit.Follow(ctx, w.api); err != nil {
		t.Fatal(err)
	}
	// Pods that are left over would be bound to the next test's machines.
	t.Cleanup(func() {
		background := context.Background()
		_ = w.c.DeleteAllOf(background, &appsv1.Deployment{}, client.InNamespace(w.ns))
		_ = w.c.DeleteAllOf(background, &corev1.Pod{}, client.InNamespace(w.ns), client.GracePeriodSeconds(0))
	})
	return w
}

type gpuMachine struct {
	name   string
	count  int
	gpus   int
	model  string
	memory int // MiB of each GPU
	cpu    int
}

func (m gpuMachine) create(w *gpuWorld, i int) {
	w.t.Helper()
	name := fmt.Sprintf("%s-%s-%d", m.name, w.ns, i)
	var devices []v1alpha1.GPUDevice
	for k := range m.gpus {
		devices = append(devices, v1alpha1.GPUDevice{Index: int32(k), UUID: fmt.Sprintf("GPU-%s-%d", name, k), Model: m.model, MemoryMiB: int64(m.memory), Healthy: true})
	}
	n := &corev1.Node{}
	unmarshal(w.t, fmt.Sprintf(`{metadata: {name: %s, labels: {neap.dev/simulated: "true", kubernetes.io/hostname: %[1]s}},
		status: {allocatable: {%[2]s}, capacity: {%[2]s}, conditions: [{type: Ready, status: "True", reason: KubeletReady}]}}`, name,
		fmt.Sprintf("cpu: %d, memory: 400Gi, pods: 250, neap.dev/gpu-milli: %d, neap.dev/gpu-memory: %d", m.cpu, 1000*m.gpus, m.memory*m.gpus)), n)
	if len(devices) > 0 {
		n.Annotations = map[string]string{v1alpha1.AnnotationGPUDevices: convert.WriteGPUDevices(devices)}
	}
	if err := w.c.Create(w.t.Context(), n); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = w.c.Delete(context.Background(), n) })
}

// gpuPod is the spec of a pod with GPUs.
func gpuPod(milli, memory int) string {
	amounts := fmt.Sprintf("cpu: 500m, memory: 256Mi, neap.dev/gpu-milli: %d", milli)
	if memory > 0 {
		amounts += fmt.Sprintf(", neap.dev/gpu-memory: %d", memory)
	}
	return fmt.Sprintf(`{containers: [{name: main, image: none, resources: {requests: {%[1]s}, limits: {%[1]s}}}], terminationGracePeriodSeconds: 1, automountServiceAccountToken: false}`, amounts)
}

func (w *gpuWorld) deployment(app string, replicas int, spec string) *appsv1.Deployment {
	w.t.Helper()
	d := &appsv1.Deployment{}
	unmarshal(w.t, fmt.Sprintf(`{metadata: {name: %s, namespace: %s}, spec: {replicas: %[3]d, selector: {matchLabels: {app: %[1]s}}, template: {metadata: {labels: {app: %[1]s}}, spec: %[4]s}}}`, app, w.ns, replicas, spec), d)
	if err := w.c.Create(w.t.Context(), d); err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *gpuWorld) pod(name, annotations, spec string) *corev1.Pod {
	w.t.Helper()
	p := &corev1.Pod{}
	unmarshal(w.t, fmt.Sprintf(`{metadata: {name: %s, namespace: %s, labels: {app: %[1]s}, annotations: {%[3]s}}, spec: %[4]s}`, name, w.ns, annotations, spec), p)
	if err := w.c.Create(w.t.Context(), p); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *gpuWorld) scale(d *appsv1.Deployment, replicas int) {
	w.t.Helper()
	if err := w.c.Patch(w.t.Context(), d, client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas))); err != nil {
		w.t.Error(err)
	}
}

func (w *gpuWorld) pods(app string) []corev1.Pod {
	w.t.Helper()
	var list corev1.PodList
	if err := w.c.List(w.t.Context(), &list, client.InNamespace(w.ns), client.MatchingLabels{"app": app}); err != nil {
		w.t.Fatal(err)
	}
	return list.Items
}

// await waits until so many pods of an app are bound, and so many wait.
func (w *gpuWorld) await(app string, bound, waiting int) {
	w.t.Helper()
	clustertest.Eventually(w.t, fmt.Sprintf("%d pods of %s to be bound and %d to wait", bound, app, waiting), func() error {
		b, n, why := 0, 0, ""
		for _, p := range w.pods(app) {
			switch {
			case p.DeletionTimestamp != nil:
				return errors.New("some are leaving")
			case p.Spec.NodeName != "":
				b++
			default:
				n++
				for _, c := range p.Status.Conditions {
					why = c.Message
				}
			}
		}
		if b != bound || n != waiting {
			return fmt.Errorf("%d are bound, %d wait: %s", b, n, why)
		}
		return nil
	})
}

// awaitMessage waits until the scheduler says something of a pod.
func (w *gpuWorld) awaitMessage(name, want string) {
	w.t.Helper()
	clustertest.Eventually(w.t, "the scheduler to say of "+name+": "+want, func() error {
		p := &corev1.Pod{}
		if err := w.c.Get(w.t.Context(), client.ObjectKey{Namespace: w.ns, Name: name}, p); err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && strings.Contains(c.Message, want) {
				return nil
			} else if c.Type == corev1.PodScheduled {
				return errors.New("it says " + c.Message)
			}
		}
		return errors.New("it says nothing")
	})
}

// awaitEvent waits for an event of a pod.
func (w *gpuWorld) awaitEvent(pod, reason, want string) {
	w.t.Helper()
	clustertest.Eventually(w.t, "event "+reason+" of "+pod, func() error {
		var list eventsv1.EventList
		if err := w.c.List(w.t.Context(), &list, client.InNamespace(w.ns)); err != nil {
			return err
		}
		var said []string
		for _, e := range list.Items {
			if e.Regarding.Name == pod && e.Reason == reason {
				if strings.Contains(e.Note, want) {
					return nil
				}
				said = append(said, e.Note)
			}
		}
		return fmt.Errorf("there are %q", said)
	})
}

func (w *gpuWorld) allocation(name string) *v1alpha1.GPUAllocation {
	w.t.Helper()
	p := &corev1.Pod{}
	if err := w.c.Get(w.t.Context(), client.ObjectKey{Namespace: w.ns, Name: name}, p); err != nil {
		w.t.Fatal(err)
	}
	a, err := convert.GPUAllocation(p)
	if err != nil || a == nil || a.Node != p.Spec.NodeName {
		w.t.Fatalf("pod %s on node %s has %v, %v", name, p.Spec.NodeName, a, err)
	}
	return a
}

func (w *gpuWorld) killScheduler() {
	w.t.Helper()
	if err := syscall.Kill(w.cluster.SchedulerPID(), syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.cluster.StartScheduler(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *gpuWorld) noFaults() {
	w.t.Helper()
	if faults, n := w.audit.Faults(); n > 0 {
		w.t.Errorf("%d faults in %d placements:\n%s", n, w.audit.Placements(), strings.Join(faults, "\n"))
	}
	w.t.Logf("%d placements", w.audit.Placements())
}

// soak is how many placements TestNoGPUIsGivenAwayTwice makes at least: make soak
// sets it.
func soak(t *testing.T) int {
	t.Helper()
	s := os.Getenv("NEAP_GPU_PLACEMENTS")
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("NEAP_GPU_PLACEMENTS is %q; it must be a number, such as 100000", s)
	}
	return n
}

func TestNoGPUIsGivenAwayTwice(t *testing.T) {
	w := newGPUWorld(t,
		gpuMachine{name: "g2", count: 8, gpus: 8, model: "G2", memory: 32768, cpu: 96},
		gpuMachine{name: "t4", count: 10, gpus: 2, model: "T4", memory: 15360, cpu: 104},
		gpuMachine{name: "plain", count: 2, cpu: 64},
	)
	const gpus = 8*8 + 10*2

	// 1. Services of several sizes come at once, go up and down, and the scheduler
	// dies meanwhile. All together need half of the GPUs.
	sizes := []struct{ milli, memory int }{{100, 1000}, {150, 6000}, {250, 2000}, {330, 5000}, {470, 0}, {0, 3000}}
	const replicas = 30
	made := make([]*appsv1.Deployment, len(sizes))
	var racing sync.WaitGroup
	for i, s := range sizes {
		racing.Go(func() {
			made[i] = w.deployment(fmt.Sprintf("app-%d", i), replicas, gpuPod(s.milli, s.memory))
		})
	}
	time.Sleep(300 * time.Millisecond)
	w.killScheduler()
	racing.Wait()
	dice := rand.New(rand.NewPCG(4, 2))
	for round, least := 0, soak(t); round < 4 || w.audit.Placements() < least; round++ {
		if round%100 == 99 {
			_, faults := w.audit.Faults()
			t.Logf("%s: %d placements in %d rounds, %d faults", time.Now().Format(time.TimeOnly), w.audit.Placements(), round+1, faults)
		}
		for _, d := range made {
			low := dice.IntN(replicas)
			racing.Go(func() {
				w.scale(d, low)
				time.Sleep(time.Duration(low) * 10 * time.Millisecond)
				w.scale(d, replicas)
			})
		}
		if round < 4 && round%2 == 1 || round%20 == 19 {
			w.killScheduler()
		}
		racing.Wait()
	}
	for i := range sizes {
		w.await(fmt.Sprintf("app-%d", i), replicas, 0)
	}
	w.noFaults()

	// 2. All GPUs are taken, and more want one: whoever leaves, the next has its GPU.
	for i, d := range made {
		w.scale(d, 0)
		w.await(fmt.Sprintf("app-%d", i), 0, 0)
	}
	const more = 16
	whole := w.deployment("whole", gpus+more, gpuPod(1000, 0))
	w.await("whole", gpus, more)
	for round := range 3 {
		pods := w.pods("whole")
		dice.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
		for i := range pods[:30] {
			racing.Go(func() { _ = w.c.Delete(context.Background(), &pods[i]) })
		}
		if round == 1 {
			w.killScheduler()
		}
		racing.Wait()
		w.await("whole", gpus, more)
	}
	w.scale(whole, gpus)
	w.await("whole", gpus, 0)
	w.noFaults()
	if pods, milli := w.audit.Held(); pods != gpus || milli != gpus*1000 {
		t.Errorf("%d pods hold %d thousandths of %d GPUs", pods, milli, gpus)
	}
}

func TestADemandThatNoGPUMeetsIsSaidClearly(t *testing.T) {
	w := newGPUWorld(t, gpuMachine{name: "t4", count: 2, gpus: 2, model: "T4", memory: 15360, cpu: 32})
	for name, tc := range map[string]struct{ annotations, spec, want string }{
		"memory":  {"", gpuPod(100, 20000), "20000 MiB"},
		"model":   {`neap.dev/gpu-models: "H100"`, gpuPod(100, 0), "no machine has a GPU of model H100: there are"},
		"count":   {`neap.dev/gpu-count: "two"`, gpuPod(100, 0), `annotation neap.dev/gpu-count is "two"`},
		"uneven":  {"", gpuPod(1500, 0), "neap.dev/gpu-milli is 1500"},
		"machine": {"", gpuPod(4000, 0), "no machine has the GPUs for 4 times 1000 thousandths"},
	} {
		w.pod(name, tc.annotations, tc.spec)
		w.awaitMessage(name, tc.want)
	}
	// What it asks for may be mended, and a machine that has it may come.
	if err := w.c.Patch(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "count"}}, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"neap.dev/gpu-count":"1"}}}`))); err != nil {
		t.Fatal(err)
	}
	w.await("count", 1, 0)
	gpuMachine{name: "h100", count: 1, gpus: 8, model: "H100", memory: 81920, cpu: 64}.create(w, 0)
	w.await("model", 1, 0)
	w.await("memory", 1, 0)
	w.noFaults()
}

func TestGPUsGivenAwayByHandAreNoticed(t *testing.T) {
	w := newGPUWorld(t, gpuMachine{name: "t4", count: 1, gpus: 1, model: "T4", memory: 15360, cpu: 32})
	w.pod("mine", "", gpuPod(800, 1000))
	w.await("mine", 1, 0)
	at := w.allocation("mine")

	// 1. Another scheduler gives the same GPU to a pod of its own, and one without a
	// word to a second.
	bind := func(name string, annotations map[string]string) {
		p := w.pod(name, "", strings.Replace(gpuPod(500, 500), "{containers", "{schedulerName: other, containers", 1))
		err := w.api.CoreV1().Pods(w.ns).Bind(t.Context(), &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name, UID: p.UID, Annotations: annotations},
			Target:     corev1.ObjectReference{Kind: "Node", Name: at.Node},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	same := *at
	same.Devices = []v1alpha1.GPUShare{{UUID: at.Devices[0].UUID, Milli: 500, MemoryMiB: 500}}
	bind("theirs", map[string]string{v1alpha1.AnnotationGPUAllocation: convert.WriteGPUAllocation(same)})
	w.awaitEvent("theirs", "GPUConflict", "is given away twice")
	w.awaitEvent("mine", "GPUConflict", "is given away twice")
	bind("silent", nil)
	w.awaitEvent("silent", "GPUConflict", "without saying which GPUs it has")

	// 2. The scheduler does not make it worse, nor when it starts again.
	w.pod("next", "", gpuPod(100, 100))
	w.awaitMessage("next", "no room on GPUs")
	w.killScheduler()
	for _, name := range []string{"theirs", "mine", "silent"} {
		if err := w.c.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	w.await("next", 1, 0)
	if w.allocation("next").Devices[0].UUID != same.Devices[0].UUID {
		t.Error("there is only one GPU")
	}
}

func TestAGPUThatGoesTakesNobodyNew(t *testing.T) {
	w := newGPUWorld(t, gpuMachine{name: "t4", count: 1, gpus: 2, model: "T4", memory: 15360, cpu: 32})
	w.pod("first", "", gpuPod(600, 0))
	w.pod("second", "", gpuPod(600, 0))
	w.await("first", 1, 0)
	w.await("second", 1, 0)
	first, second := w.allocation("first"), w.allocation("second")

	// 1. The GPU of the second is gone, and that of the first turns sick.
	change := func(devices ...v1alpha1.GPUDevice) {
		patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{"neap.dev/gpu-devices":%q}}}`, convert.WriteGPUDevices(devices)))
		if err := w.c.Patch(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: first.Node}}, patch); err != nil {
			t.Fatal(err)
		}
	}
	one := v1alpha1.GPUDevice{Index: 1, UUID: first.Devices[0].UUID, Model: "T4", MemoryMiB: 15360}
	one.Reason = "XID 79"
	change(one)
	w.awaitEvent("second", "GPUConflict", second.Devices[0].UUID+" is not on node")
	w.pod("third", "", gpuPod(300, 0))
	w.awaitMessage("third", "have too little left on them")

	// 2. It is well again.
	one.Healthy, one.Reason = true, ""
	change(one)
	w.await("third", 1, 0)
	if got := w.allocation("third").Devices[0].UUID; got != one.UUID {
		t.Errorf("the third is on %s, want %s", got, one.UUID)
	}
	w.noFaults()
}

func TestAnAllocationFromBeforeIsNotBelieved(t *testing.T) {
	w := newGPUWorld(t, gpuMachine{name: "t4", count: 1, gpus: 1, model: "T4", memory: 15360, cpu: 32})
	w.pod("stale", `neap.dev/gpu-allocation: '{"node":"elsewhere","devices":[{"uuid":"GPU-x","milli":1,"memoryMiB":1}]}'`, gpuPod(300, 1000))
	w.await("stale", 1, 0)
	if got := w.allocation("stale").Devices[0]; got.Milli != 300 || got.MemoryMiB != 1000 {
		t.Errorf("it has %+v", got)
	}
	w.noFaults()
}

func TestPodsWithoutGPUsLeaveTheGPUMachinesAlone(t *testing.T) {
	w := newGPUWorld(t,
		gpuMachine{name: "t4", count: 6, gpus: 2, model: "T4", memory: 15360, cpu: 32},
		gpuMachine{name: "plain", count: 2, cpu: 8},
	)
	// 16 cores are without GPUs: 32 of the 40 pods fit there, 8 do not.
	w.deployment("web", 40, `{containers: [{name: main, image: none, resources: {requests: {cpu: 500m, memory: 256Mi}}}], terminationGracePeriodSeconds: 1, automountServiceAccountToken: false}`)
	w.await("web", 40, 0)
	machines := map[string]int{}
	for _, p := range w.pods("web") {
		machines[p.Spec.NodeName]++
	}
	plain, others := 0, 0
	for name, n := range machines {
		if strings.HasPrefix(name, "plain") {
			plain += n
		} else {
			others++
		}
	}
	if plain != 32 || others != 1 {
		t.Errorf("%d are on machines without GPUs, the others on %d with GPUs: %v", plain, others, machines)
	}
}
