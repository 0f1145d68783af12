package gpufit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/kube/convert"
)

// handle is as much of a scheduler as the plugin needs.
type handle struct {
	fwk.Handle
	client  *fake.Clientset
	factory informers.SharedInformerFactory
	told    *events.FakeRecorder
	woken   []string
	nodes   []fwk.NodeInfo
}

func (h *handle) SharedInformerFactory() informers.SharedInformerFactory { return h.factory }
func (h *handle) ClientSet() clientset.Interface                         { return h.client }
func (h *handle) SharedDRAManager() fwk.SharedDRAManager                 { return nil }
func (h *handle) APICacher() fwk.APICacher                               { return nil }
func (h *handle) EventRecorder() events.EventRecorderLogger              { return h.told }
func (h *handle) SnapshotSharedLister() fwk.SharedLister                 { return h }
func (h *handle) NodeInfos() fwk.NodeInfoLister                          { return h }
func (h *handle) StorageInfos() fwk.StorageInfoLister                    { return nil }
func (h *handle) List() ([]fwk.NodeInfo, error)                          { return h.nodes, nil }
func (h *handle) HavePodsWithAffinityList() ([]fwk.NodeInfo, error)      { return nil, nil }
func (h *handle) HavePodsWithRequiredAntiAffinityList() ([]fwk.NodeInfo, error) {
	return nil, nil
}
func (h *handle) PodGroupStates() fwk.PodGroupStateLister { return nil }
func (h *handle) Get(name string) (fwk.NodeInfo, error) {
	for _, n := range h.nodes {
		if n.Node().Name == name {
			return n, nil
		}
	}
	return nil, errors.New("no such node")
}

func (h *handle) Activate(_ klog.Logger, pods map[string]*v1.Pod) {
	h.woken = append(h.woken, slices.Sorted(maps.Keys(pods))...)
}

func parse[T any](t *testing.T, doc string) *T {
	t.Helper()
	out := new(T)
	if err := yaml.UnmarshalStrict([]byte(doc), out); err != nil {
		t.Fatal(err)
	}
	return out
}

func gpuPod(t *testing.T, name string, milli int) *v1.Pod {
	t.Helper()
	return parse[v1.Pod](t, fmt.Sprintf(`{metadata: {name: %s, namespace: live, uid: %[1]s}, spec: {containers: [{name: main, resources: {requests: {cpu: 1, memory: 1Gi, neap.dev/gpu-milli: %[2]d}}}]}}`, name, milli))
}

// world returns a plugin that sees machines with so many GPUs of 10,000 MiB each, and
// of eight cores.
func world(t *testing.T, gpus ...int) (*GPUFit, *handle) {
	t.Helper()
	client := fake.NewClientset()
	h := &handle{client: client, factory: informers.NewSharedInformerFactory(client, 0), told: events.NewFakeRecorder(100)}
	for i, n := range gpus {
		name := fmt.Sprintf("m%d", i)
		node := parse[v1.Node](t, fmt.Sprintf(`{metadata: {name: %s}, status: {allocatable: {cpu: 8, memory: 64Gi, pods: 10}}}`, name))
		var devices []v1alpha1.GPUDevice
		for k := range n {
			devices = append(devices, v1alpha1.GPUDevice{Index: int32(k), UUID: fmt.Sprintf("%s-%d", name, k), Model: "T4", MemoryMiB: 10000, Healthy: true})
		}
		if n > 0 {
			node.Annotations = map[string]string{v1alpha1.AnnotationGPUDevices: convert.WriteGPUDevices(devices)}
		}
		info := framework.NewNodeInfo()
		info.SetNode(node)
		h.nodes = append(h.nodes, info)
	}
	b, err := newBooks(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	b.synced = nil
	for _, n := range h.nodes {
		b.nodeSeen(nil, n.Node())
	}
	return &GPUFit{books: b, handle: h}, h
}

// cycle schedules a pod as far as its reservation, on the machine that the plugin
// scores highest, and assumes it there as the scheduler does.
func (h *handle) cycle(t *testing.T, f *GPUFit, p *v1.Pod) (string, fwk.CycleState, *fwk.Status) {
	t.Helper()
	state := framework.NewCycleState()
	result, status := f.PreFilter(t.Context(), state, p, h.nodes)
	if !status.IsSuccess() && !status.IsSkip() {
		return "", state, status
	}
	var fits []fwk.NodeInfo
	for _, n := range h.nodes {
		if result.AllNodes() || result.NodeNames.Has(n.Node().Name) {
			if status.IsSkip() || f.Filter(t.Context(), state, p, n).IsSuccess() {
				fits = append(fits, n)
			}
		}
	}
	if len(fits) == 0 {
		t.Fatal("nobody fits")
	}
	f.PreScore(t.Context(), state, p, fits)
	var scores fwk.NodeScoreList
	for _, n := range fits {
		s, _ := f.Score(t.Context(), state, p, n)
		scores = append(scores, fwk.NodeScore{Name: n.Node().Name, Score: s})
	}
	f.NormalizeScore(t.Context(), state, p, scores)
	best := slices.MaxFunc(scores, func(a, b fwk.NodeScore) int { return int(a.Score - b.Score) })
	h.assume(best.Name, p)
	return best.Name, state, f.Reserve(t.Context(), state, p, best.Name)
}

func (h *handle) assume(node string, p *v1.Pod) {
	p = p.DeepCopy()
	p.Spec.NodeName = node
	info, _ := framework.NewPodInfo(p)
	n, _ := h.Get(node)
	n.AddPodInfo(info)
}

func (h *handle) forget(t *testing.T, node string, p *v1.Pod) {
	t.Helper()
	n, _ := h.Get(node)
	if err := n.RemovePod(klog.Background(), p); err != nil {
		t.Fatal(err)
	}
}

// bind binds a pod and returns what the API server was told of its GPUs.
func (h *handle) bind(t *testing.T, f *GPUFit, state fwk.CycleState, p *v1.Pod, node string) (string, *fwk.Status) {
	t.Helper()
	written := ""
	h.client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if b, ok := a.(clienttesting.CreateAction).GetObject().(*v1.Binding); ok {
			written = b.Annotations[v1alpha1.AnnotationGPUAllocation]
		}
		return true, nil, nil
	})
	status := f.Bind(t.Context(), state, p, node)
	return written, status
}

func TestAPodGetsItsGPUsWithItsBinding(t *testing.T) {
	f, h := world(t, 1, 2, 0)
	p := gpuPod(t, "p", 400)
	node, state, status := h.cycle(t, f, p)
	if !status.IsSuccess() {
		t.Fatal(status)
	}
	written, status := h.bind(t, f, state, p, node)
	want := fmt.Sprintf(`{"node":"%s","devices":[{"uuid":"%[1]s-0","milli":400,"memoryMiB":4000}]}`, node)
	if !status.IsSuccess() || written != want {
		t.Errorf("%v: bound with %s, want %s", status, written, want)
	}
	// The next is put beside it, and the third, which is too large, is not.
	q, r := gpuPod(t, "q", 600), gpuPod(t, "r", 100)
	if second, _, status := h.cycle(t, f, q); second != node || !status.IsSuccess() {
		t.Errorf("the second is on %s, the first on %s, %v", second, node, status)
	}
	if third, _, status := h.cycle(t, f, r); !status.IsSuccess() {
		t.Errorf("the third is on %s, %v", third, status)
	}
	for _, n := range []string{"m0", "m1"} {
		for _, d := range f.now.Devices(n) {
			if d.IdleMilli < 0 {
				t.Errorf("%s has %d left", d.UUID, d.IdleMilli)
			}
		}
	}
}

func TestGPUsAreFreeAgainExactlyWhenTheyAre(t *testing.T) {
	timeout := errors.New("connection reset")
	refusal := apierrors.NewConflict(v1.Resource("pods"), "p", errors.New("is bound"))
	cases := map[string]struct {
		err  error // of the binding
		then func(*GPUFit, *handle, *v1.Pod)
		free bool
	}{
		"the API server refused the binding":                  {refusal, nil, true},
		"nobody knows whether it is bound":                    {timeout, nil, false},
		"and then it is seen bound":                           {timeout, func(f *GPUFit, h *handle, p *v1.Pod) { p.Spec.NodeName = "m0"; f.podSeen(nil, p); h.assume("m0", p) }, false},
		"or it is deleted":                                    {timeout, func(f *GPUFit, _ *handle, p *v1.Pod) { f.podGone(p) }, true},
		"the API server had no time":                          {apierrors.NewServerTimeout(v1.Resource("pods"), "create", 1), nil, false},
		"an error of its own may come after it was committed": {apierrors.NewInternalError(timeout), nil, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f, h := world(t, 1)
			p := gpuPod(t, "p", 800)
			node, state, _ := h.cycle(t, f, p)
			h.client.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, tc.err })
			if f.Bind(t.Context(), state, p, node).IsSuccess() {
				t.Fatal("bound")
			}
			f.Unreserve(t.Context(), state, p, node)
			h.forget(t, node, p)
			if tc.then != nil {
				p = p.DeepCopy()
				p.Annotations = map[string]string{v1alpha1.AnnotationGPUAllocation: convert.WriteGPUAllocation(*chosen(state).has)}
				tc.then(f, h, p)
			}
			_, status := f.PreFilter(t.Context(), framework.NewCycleState(), gpuPod(t, "q", 800), h.nodes)
			if status.IsSuccess() != tc.free {
				t.Errorf("the next pod is told %v", status)
			}
		})
	}
}

func TestAnotherSchedulerWasFaster(t *testing.T) {
	f, h := world(t, 1)
	p := gpuPod(t, "p", 800)
	node, state, _ := h.cycle(t, f, p)
	rival := gpuPod(t, "rival", 300)
	rival.Spec.NodeName = "m0"
	rival.Annotations = map[string]string{v1alpha1.AnnotationGPUAllocation: `{"node":"m0","devices":[{"uuid":"m0-0","milli":300,"memoryMiB":3000}]}`}
	f.podSeen(nil, rival)
	if written, status := h.bind(t, f, state, p, node); status.IsSuccess() || written != "" || !strings.Contains(status.Message(), "by another scheduler") {
		t.Errorf("%v, written %q", status, written)
	}
	if len(h.told.Events) > 0 {
		t.Errorf("told of a conflict that was avoided: %s", <-h.told.Events)
	}
	// It is bound after all: that is said, of both, once.
	p.Spec.NodeName = node
	p.Annotations = map[string]string{v1alpha1.AnnotationGPUAllocation: `{"node":"m0","devices":[{"uuid":"m0-0","milli":800,"memoryMiB":8000}]}`}
	f.podSeen(nil, p)
	f.podSeen(p, p.DeepCopy())
	for range 2 {
		select {
		case e := <-h.told.Events:
			if !strings.Contains(e, "GPUConflict") || !strings.Contains(e, "live/p, live/rival hold 1100 of 1000 thousandths") {
				t.Error(e)
			}
		default:
			t.Fatal("nobody is told")
		}
	}
	if len(h.told.Events) > 0 {
		t.Errorf("told twice: %s", <-h.told.Events)
	}
}

func TestAllMachinesAreTriedWhenTheBestRefuse(t *testing.T) {
	f, h := world(t, slices.Repeat([]int{1}, most+5)...)
	p := gpuPod(t, "p", 800)
	var state fwk.CycleState
	for _, want := range []struct {
		machines int
		code     fwk.Code
		woken    int
	}{{most, fwk.UnschedulableAndUnresolvable, 1}, {most + 5, fwk.Unschedulable, 1}, {most, fwk.UnschedulableAndUnresolvable, 2}} {
		state = framework.NewCycleState()
		r, status := f.PreFilter(t.Context(), state, p, h.nodes)
		if !status.IsSuccess() || len(r.NodeNames) != want.machines {
			t.Fatalf("tries %d machines, %v; want %d", len(r.NodeNames), status, want.machines)
		}
		if _, status := f.PostFilter(t.Context(), state, p, nil); status.Code() != want.code || len(h.woken) != want.woken {
			t.Errorf("%v, woken %v", status, h.woken)
		}
	}
}

func TestPreemptionCountsTheGPUsOfVictims(t *testing.T) {
	f, h := world(t, 1)
	victim := gpuPod(t, "victim", 800)
	h.cycle(t, f, victim)
	p := gpuPod(t, "p", 700)
	state := framework.NewCycleState()
	if _, status := f.PreFilter(t.Context(), state, p, h.nodes); status.Code() != fwk.Unschedulable || !strings.Contains(status.Message(), "of 1 machine(s) with such GPUs 1 have too little left on them") {
		t.Fatal(status)
	}
	info, _ := framework.NewPodInfo(victim)
	dry := state.Clone()
	for _, step := range []struct {
		do   func(context.Context, fwk.CycleState, *v1.Pod, fwk.PodInfo, fwk.NodeInfo) *fwk.Status
		fits bool
	}{{nil, false}, {f.RemovePod, true}, {f.AddPod, false}, {f.RemovePod, true}} {
		if step.do != nil {
			step.do(t.Context(), dry, p, info, h.nodes[0])
		}
		if got := f.Filter(t.Context(), dry, p, h.nodes[0]).IsSuccess(); got != step.fits {
			t.Errorf("fits: %t, want %t", got, step.fits)
		}
	}
	if f.Filter(t.Context(), state, p, h.nodes[0]).IsSuccess() {
		t.Error("a dry run changed the real cycle")
	}
	// A nominated pod is not in the books, and still takes its place.
	nominated, _ := framework.NewPodInfo(gpuPod(t, "nominated", 900))
	f.AddPod(t.Context(), dry, p, nominated, h.nodes[0])
	if f.Filter(t.Context(), dry, p, h.nodes[0]).IsSuccess() {
		t.Error("the place of a nominated pod is given away")
	}
}

func TestPlacesOfPlansAreKeptAndWantedPlacesTaken(t *testing.T) {
	f, h := world(t, 1, 1)
	plan := parse[v1alpha1.RepackPlan](t, `{metadata: {name: plan, uid: plan}, status: {holds: [{pod: live/surge, machine: m0, devices: [m0-0], milli: 900}, {pod: live/surge, machine: m1, devices: [m1-0], milli: 900}]}}`)
	f.planned(plan, nil)
	if _, status := f.PreFilter(t.Context(), framework.NewCycleState(), gpuPod(t, "other", 500), h.nodes); status.IsSuccess() {
		t.Error("what is kept is given to another")
	}
	surge := gpuPod(t, "surge", 500)
	surge.Annotations = map[string]string{v1alpha1.AnnotationGPUSpot: `{"node":"m1","devices":["m1-0"]}`}
	if node, _, status := h.cycle(t, f, surge); node != "m1" || !status.IsSuccess() {
		t.Errorf("it is on %q, %v", node, status)
	}
	f.planned(nil, plan)
	if !slices.Contains(h.woken, "other") {
		t.Errorf("woken %v: the place is free, and who waits for it does not hear", h.woken)
	}
}

func TestOfTwoModelsTheOneIsTakenOfWhichLessIsNeeded(t *testing.T) {
	f, h := world(t, 1, 1)
	node := h.nodes[1].Node().DeepCopy()
	node.Annotations[v1alpha1.AnnotationGPUDevices] = strings.Replace(node.Annotations[v1alpha1.AnnotationGPUDevices], "T4", "G3", 1)
	h.nodes[1].SetNode(node)
	for _, models := range []string{"T4=650, G3=300", "G3=300, T4=650"} {
		p := gpuPod(t, "p", 300)
		p.Annotations = map[string]string{v1alpha1.AnnotationGPUModels: models}
		state := framework.NewCycleState()
		if _, status := f.PreFilter(t.Context(), state, p, h.nodes); !status.IsSuccess() {
			t.Fatal(status)
		}
		if rank := chosen(state).rank; rank["m1"] != 0 {
			t.Errorf("%s: the ranks are %v", models, rank)
		}
	}
}

func TestPodsWithoutGPUsGoElsewhere(t *testing.T) {
	f, h := world(t, 2, 0, 1)
	web := parse[v1.Pod](t, `{metadata: {name: web, namespace: live, uid: web}, spec: {containers: [{name: main, resources: {requests: {cpu: 1}}}]}}`)
	if node, _, _ := h.cycle(t, f, web); node != "m1" {
		t.Errorf("it is on %s", node)
	}
	h.nodes = []fwk.NodeInfo{h.nodes[0], h.nodes[2]}
	first, _, _ := h.cycle(t, f, web)
	again := web.DeepCopy()
	again.Name, again.UID = "again", "again"
	if second, _, _ := h.cycle(t, f, again); second != first {
		t.Errorf("one is on %s, the other opens %s", first, second)
	}
}

func TestWhoIsWokenByWhat(t *testing.T) {
	f, h := world(t, 1, 0)
	with, without := h.nodes[0].Node(), h.nodes[1].Node()
	leaves := func(p *v1.Pod, node string) *v1.Pod {
		p.Spec.NodeName = node
		return p
	}
	web := parse[v1.Pod](t, `{metadata: {name: web, namespace: live, uid: web}, spec: {containers: [{name: main}]}}`)
	beat := with.DeepCopy()
	beat.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}
	sick := with.DeepCopy()
	sick.Annotations[v1alpha1.AnnotationGPUDevices] = "[]"
	waits := gpuPod(t, "p", 5000)
	asks := func(model, resourceVersion string) *v1.Pod {
		p := waits.DeepCopy()
		p.Annotations, p.ResourceVersion = map[string]string{v1alpha1.AnnotationGPUModels: model}, resourceVersion
		return p
	}
	stranger := asks("T4", "2")
	stranger.UID = "stranger"
	for name, tc := range map[string]struct {
		hint    fwk.QueueingHintFn
		was, is any
		want    fwk.QueueingHint
	}{
		"a pod with GPUs left":                       {f.afterPodLeft, leaves(gpuPod(t, "a", 100), "m0"), nil, fwk.Queue},
		"also from a machine that nobody knows":      {f.afterPodLeft, leaves(gpuPod(t, "a", 100), "gone"), nil, fwk.Queue},
		"a pod without left a machine with":          {f.afterPodLeft, leaves(web.DeepCopy(), "m0"), nil, fwk.Queue},
		"a pod without left another":                 {f.afterPodLeft, leaves(web.DeepCopy(), "m1"), nil, fwk.QueueSkip},
		"a pod left that was nowhere":                {f.afterPodLeft, gpuPod(t, "a", 100), nil, fwk.QueueSkip},
		"a machine with GPUs came":                   {f.afterNodeChanged, nil, with, fwk.Queue},
		"a machine without came":                     {f.afterNodeChanged, nil, without, fwk.QueueSkip},
		"a machine's heart beats":                    {f.afterNodeChanged, with, beat, fwk.QueueSkip},
		"a machine's GPUs are described otherwise":   {f.afterNodeChanged, sick, with, fwk.Queue},
		"a machine of which the GPUs are gone beats": {f.afterNodeChanged, with, sick, fwk.QueueSkip},
		"it asks for something else now":             {afterPodChanged, asks("H100", "1"), asks("T4", "2"), fwk.Queue},
		"it is told why it waits":                    {afterPodChanged, asks("T4", "1"), asks("T4", "2"), fwk.QueueSkip},
		"another asks for something else":            {afterPodChanged, asks("H100", "1"), stranger, fwk.QueueSkip},
	} {
		if got, err := tc.hint(klog.Background(), waits, tc.was, tc.is); err != nil || got != tc.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	// A pod that waits, and who is forgotten with it.
	p := gpuPod(t, "p", 5000)
	if _, status := f.PreFilter(t.Context(), framework.NewCycleState(), p, h.nodes); status.IsSuccess() {
		t.Fatal("placed")
	}
	f.podGone(p)
	if len(f.waiting)+len(f.tried)+len(f.kept) > 0 {
		t.Errorf("kept for nobody: %v, %v, %v", f.waiting, f.tried, f.kept)
	}
}

func TestASnapshotThatChangesIsFollowed(t *testing.T) {
	f, h := world(t, 1, 1)
	first, _, _ := h.cycle(t, f, gpuPod(t, "p", 1000))
	second, _, _ := h.cycle(t, f, gpuPod(t, "q", 1000))
	if first == second {
		t.Fatal("both are on", first)
	}
	if _, status := f.PreFilter(t.Context(), framework.NewCycleState(), gpuPod(t, "r", 1000), h.nodes); status.IsSuccess() {
		t.Fatal("there is no third GPU")
	}
	// The machine of the first is gone, and comes back empty.
	all := h.nodes
	h.nodes = slices.DeleteFunc(slices.Clone(all), func(n fwk.NodeInfo) bool { return n.Node().Name == first })
	if _, status := f.PreFilter(t.Context(), framework.NewCycleState(), gpuPod(t, "r", 1000), h.nodes); status.IsSuccess() {
		t.Fatal("a machine that is gone has room")
	}
	f.now.Release("p")
	fresh := framework.NewNodeInfo()
	for _, n := range all {
		if n.Node().Name == first {
			fresh.SetNode(n.Node())
		}
	}
	h.nodes = append(h.nodes, fresh)
	if node, _, status := h.cycle(t, f, gpuPod(t, "r", 1000)); node != first || !status.IsSuccess() {
		t.Errorf("it is on %q, %v", node, status)
	}
}
