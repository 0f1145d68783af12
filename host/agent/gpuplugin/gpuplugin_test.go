package gpuplugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	oci "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	runtimecdi "tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/host/agent/limiter"
	"github.com/neap-dev/neap/host/cdi"
	"github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/local/fakekubelet"
)

// patience is how long a test waits for what must come; nothing is measured.
const patience = 2 * time.Minute

// A bench is a machine "m" with two GPUs of 16 GiB, its kubelet, an API server and
// the plugin.
type bench struct {
	t       *testing.T
	dir     string
	kubelet *fakekubelet.Kubelet
	api     client.Client
	gpus    *device.Fake
	roll    device.Roll
	plugin  *Plugin
	stop    func()

	mu     sync.Mutex
	events []string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "neap") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &bench{t: t, dir: dir, api: fake.NewClientBuilder().Build(), gpus: device.NewFake("m", "Tesla T4", 16384, 16384)}
	if b.kubelet, err = fakekubelet.Start(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.kubelet.Stop)
	b.open()
	b.await(2000, 2000)
	return b
}

// open starts the plugin, as after a crash.
func (b *bench) open() {
	b.t.Helper()
	var err error
	b.plugin, err = New(Options{
		Node: "m", Client: b.api, Kubelet: b.dir, CDI: cdi.Folder{Dir: filepath.Join(b.dir, "cdi")},
		Limit: func(_ context.Context, _ *corev1.Pod, pieces []limiter.Piece) (map[string]string, []cdi.Mount, error) {
			return map[string]string{"PIECE": fmt.Sprintf("%d/%d", pieces[0].Milli, pieces[0].MemoryMiB)}, nil, nil
		},
		Event: func(_ context.Context, pod *corev1.Pod, reason, message string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, pod.Name+" "+reason+" "+message)
		},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.look()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := b.plugin.Run(ctx); err != nil {
			b.t.Error(err)
		}
	}()
	b.stop = sync.OnceFunc(func() { cancel(); <-done })
	b.t.Cleanup(b.stop)
}

// look has the plugin see the machine's GPUs as they are now.
func (b *bench) look() {
	b.t.Helper()
	b.plugin.Update(b.roll.Look(b.gpus.Find(b.t.Context())))
}

func (b *bench) await(all, healthy int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	if err := b.kubelet.Await(ctx, v1alpha1.ResourceGPUMilli, all, healthy); err != nil {
		b.t.Fatal(err)
	}
}

// asks returns a container.
func asks(name string, milli, memory int64) corev1.Container {
	r := corev1.ResourceList{}
	if milli > 0 {
		r[v1alpha1.ResourceGPUMilli] = *resource.NewQuantity(milli, resource.DecimalSI)
	}
	if memory > 0 {
		r[v1alpha1.ResourceGPUMemory] = *resource.NewQuantity(memory, resource.DecimalSI)
	}
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Limits: r, Requests: r}}
}

// pod makes a pod on machine m to which the scheduler gave shares.
func (b *bench) pod(name string, shares []v1alpha1.GPUShare, containers ...corev1.Container) *corev1.Pod {
	b.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec:       corev1.PodSpec{NodeName: "m", Containers: containers},
	}
	if shares != nil {
		p.Annotations = map[string]string{v1alpha1.AnnotationGPUAllocation: convert.WriteGPUAllocation(v1alpha1.GPUAllocation{Node: "m", Devices: shares})}
	}
	return p
}

func (b *bench) create(p *corev1.Pod) *corev1.Pod {
	b.t.Helper()
	if err := b.api.Create(b.t.Context(), p); err != nil {
		b.t.Fatal(err)
	}
	return p
}

func (b *bench) admit(p *corev1.Pod) {
	b.t.Helper()
	if err := b.kubelet.Admit(b.t.Context(), p); err != nil {
		b.t.Fatal(err)
	}
}

// start starts a container and returns the environment that the runtime gives it.
func (b *bench) start(p *corev1.Pod, container string) ([]string, error) {
	b.t.Helper()
	devices, err := b.kubelet.StartContainer(b.t.Context(), p.UID, container)
	if err != nil {
		return nil, err
	}
	cache, err := runtimecdi.NewCache(runtimecdi.WithSpecDirs(filepath.Join(b.dir, "cdi")), runtimecdi.WithAutoRefresh(false))
	if err != nil {
		b.t.Fatal(err)
	}
	spec := oci.Spec{Process: new(oci.Process)}
	if _, err := cache.InjectDevices(&spec, devices...); err != nil {
		b.t.Fatalf("the runtime cannot inject what the plugin promised: %v", err)
	}
	slices.Sort(spec.Process.Env)
	return spec.Process.Env, nil
}

// starts fails the test unless the container sees these GPUs and has this piece.
func (b *bench) starts(p *corev1.Pod, container, gpus, piece string) {
	b.t.Helper()
	got, err := b.start(p, container)
	if want := []string{"NVIDIA_VISIBLE_DEVICES=" + gpus, "PIECE=" + piece}; err != nil || !slices.Equal(got, want) {
		b.t.Fatalf("container %s of pod %s gets %q, %v; want %q", container, p.Name, got, err, want)
	}
}

func share(gpu int, milli, memory int64) []v1alpha1.GPUShare {
	return []v1alpha1.GPUShare{{UUID: fmt.Sprintf("GPU-m-%d", gpu), Milli: milli, MemoryMiB: memory}}
}

func TestContainersGetWhatTheSchedulerGave(t *testing.T) {
	b := newBench(t)
	// Two of one size at once, on different GPUs: what they hold tells them apart,
	// not how much.
	p := b.create(b.pod("p", share(1, 300, 4000), asks("a", 100, 1000), asks("b", 200, 3000), corev1.Container{Name: "c"}))
	q := b.create(b.pod("q", share(0, 300, 4000), asks("a", 100, 1000), asks("b", 200, 3000)))
	b.admit(p)
	b.admit(q)
	b.starts(q, "b", "GPU-m-0", "200/3000")
	b.starts(p, "a", "GPU-m-1", "100/1000")
	b.starts(p, "b", "GPU-m-1", "200/3000")
	b.starts(q, "a", "GPU-m-0", "100/1000")
	b.starts(q, "a", "GPU-m-0", "100/1000") // it crashed and starts again

	two := b.create(b.pod("two", append(share(0, 500, 1000), share(1, 500, 1000)...), asks("a", 1000, 2000)))
	two.Annotations[v1alpha1.AnnotationGPUCount] = "2"
	if err := b.api.Update(t.Context(), two); err != nil {
		t.Fatal(err)
	}
	b.admit(two)
	b.starts(two, "a", "GPU-m-0,GPU-m-1", "500/1000")

	// A model with a demand of its own: the tokens are the least of all models, and
	// the pod gets what it was given.
	more := b.create(b.pod("more", share(1, 200, 3000), asks("a", 100, 1000)))
	b.admit(more)
	b.starts(more, "a", "GPU-m-1", "200/3000")

	if got, err := b.kubelet.StartContainer(t.Context(), p.UID, "c"); err != nil || got != nil {
		t.Errorf("a container that asks for nothing gets %q, %v", got, err)
	}
}

func TestInitContainersHaveTheirOwnPart(t *testing.T) {
	b := newBench(t)
	always := corev1.ContainerRestartPolicyAlways
	p := b.pod("p", share(1, 700, 7000), asks("main", 500, 5000))
	sidecar := asks("sidecar", 200, 2000)
	sidecar.RestartPolicy = &always
	p.Spec.InitContainers = []corev1.Container{asks("warm", 400, 1000), sidecar}
	b.create(p)
	b.admit(p)
	b.starts(p, "warm", "GPU-m-1", "400/1000")
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "warm", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
	if err := b.api.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	b.starts(p, "sidecar", "GPU-m-1", "200/2000")
	b.starts(p, "main", "GPU-m-1", "500/5000")

	// Nobody tells whose an init container's are, if no other container has any.
	alone := b.pod("alone", share(0, 100, 0), corev1.Container{Name: "main"})
	alone.Spec.InitContainers = []corev1.Container{asks("warm", 100, 0)}
	b.create(alone)
	b.admit(alone)
	if _, err := b.start(alone, "warm"); err == nil || !strings.Contains(err.Error(), "only an init container of it asks") {
		t.Errorf("the error is %v", err)
	}
}

func TestADoubtIsAnError(t *testing.T) {
	cases := map[string]struct {
		change func(*bench, *corev1.Pod)
		want   string
		silent bool // there is no pod to tell
	}{
		"another scheduler placed it": {
			change: func(_ *bench, p *corev1.Pod) { p.Annotations = nil }, want: "set spec.schedulerName to neap-scheduler",
		},
		"its annotation is rubbish": {
			change: func(_ *bench, p *corev1.Pod) { p.Annotations[v1alpha1.AnnotationGPUAllocation] = "{" }, want: "unexpected end of JSON",
		},
		"its annotation names another node": {
			change: func(_ *bench, p *corev1.Pod) {
				p.Annotations[v1alpha1.AnnotationGPUAllocation] = strings.ReplaceAll(p.Annotations[v1alpha1.AnnotationGPUAllocation], `"m"`, `"n"`)
			}, want: "gives it GPUs of node n",
		},
		"its annotation names a GPU nobody has": {
			change: func(_ *bench, p *corev1.Pod) {
				p.Annotations[v1alpha1.AnnotationGPUAllocation] = strings.ReplaceAll(p.Annotations[v1alpha1.AnnotationGPUAllocation], "GPU-m-0", "GPU-m-7")
			}, want: "GPU-m-7, which node m does not have",
		},
		"its GPU is sick": {
			change: func(b *bench, _ *corev1.Pod) {
				b.gpus.Change(func(i *device.Inventory) { i.Devices[0].Healthy, i.Devices[0].Reason = false, "Xid 79" })
				b.look()
			}, want: "GPU-m-0, which is sick: Xid 79",
		},
		"its GPU is gone": {
			change: func(b *bench, _ *corev1.Pod) {
				b.gpus.Change(func(i *device.Inventory) { i.Devices = slices.Clone(i.Devices[1:]) })
				b.look()
			}, want: "does not find it any more",
		},
		"the GPU's compute is given away already": {
			change: func(b *bench, _ *corev1.Pod) {
				q := b.create(b.pod("other", share(0, 501, 100), asks("a", 501, 100)))
				b.admit(q)
				b.starts(q, "a", "GPU-m-0", "501/100")
			}, want: "500 thousandths and 8000 MiB of GPU GPU-m-0, of whose 1000 and 16384 others hold 501 and 100: default/other",
		},
		"the GPU's memory is given away already": {
			change: func(b *bench, _ *corev1.Pod) {
				q := b.create(b.pod("other", share(0, 100, 9000), asks("a", 100, 9000)))
				b.admit(q)
				b.starts(q, "a", "GPU-m-0", "100/9000")
			}, want: "others hold 100 and 9000",
		},
		"it is on another node by now": {
			change: func(_ *bench, p *corev1.Pod) { p.Spec.NodeName = "n" }, want: `on node "n"`, silent: true,
		},
		"its container asks for another amount": {
			change: func(_ *bench, p *corev1.Pod) { p.Spec.Containers[0] = asks("a", 400, 8000) }, want: "none of the pod's asks for so many",
		},
		"it went between Allocate and its start": {
			change: func(b *bench, p *corev1.Pod) {
				if err := b.api.Delete(b.t.Context(), p.DeepCopy()); err != nil {
					b.t.Fatal(err)
				}
				p.Name = ""
			}, want: "gone from the API server", silent: true,
		},
		"the kubelet forgot it": {
			change: func(b *bench, p *corev1.Pod) {
				b.kubelet.Stop() // it does not name it, and yet would start it
				*p = corev1.Pod{}
			}, want: "", silent: true,
		},
		"the CDI folder cannot be written": {
			change: func(b *bench, _ *corev1.Pod) {
				dir := filepath.Join(b.dir, "cdi")
				if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
					b.t.Fatal(err)
				}
			}, want: "the container runtime reads its devices from there",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			p := b.create(b.pod("p", share(0, 500, 8000), asks("a", 500, 8000)))
			b.admit(p)
			changed := p.DeepCopy()
			tc.change(b, changed)
			if changed.Name != "" {
				if err := b.api.Update(t.Context(), changed); err != nil {
					t.Fatal(err)
				}
			}
			before := len(b.plugin.Grants())
			_, err := b.start(p, "a")
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("the error is %v, want one with %q", err, tc.want)
			}
			if n := len(b.plugin.Grants()); n != before {
				t.Errorf("there are %d grants, and were %d", n, before)
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			told := slices.ContainsFunc(b.events, func(e string) bool {
				return strings.HasPrefix(e, "p "+ReasonNotGranted) && strings.Contains(e, tc.want)
			})
			if told == tc.silent {
				t.Errorf("the pod's events are %q", b.events)
			}
		})
	}
}

func TestAnAllocationIsNotChangedUnderAPod(t *testing.T) {
	b := newBench(t)
	p := b.create(b.pod("p", share(0, 500, 8000), asks("a", 500, 8000)))
	b.admit(p)
	b.starts(p, "a", "GPU-m-0", "500/8000")
	p.Annotations[v1alpha1.AnnotationGPUAllocation] = strings.ReplaceAll(p.Annotations[v1alpha1.AnnotationGPUAllocation], "GPU-m-0", "GPU-m-1")
	if err := b.api.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	for range 2 { // before and after a restart of the plugin
		if _, err := b.start(p, "a"); err == nil || !strings.Contains(err.Error(), "was changed since its first container started") {
			t.Errorf("the error is %v", err)
		}
		b.stop()
		b.await(2000, 0)
		b.open()
		b.await(2000, 2000)
	}
}

func TestAPluginThatStartsAnewForgetsNothing(t *testing.T) {
	b := newBench(t)
	p := b.create(b.pod("p", share(0, 600, 8000), asks("a", 600, 8000)))
	q := b.create(b.pod("q", share(1, 600, 8000), asks("a", 600, 8000)))
	gone := b.create(b.pod("gone", share(1, 400, 100), asks("a", 400, 100)))
	for _, pod := range []*corev1.Pod{p, q, gone} {
		b.admit(pod)
		if _, err := b.start(pod, "a"); err != nil {
			t.Fatal(err)
		}
	}
	b.stop()
	b.await(2000, 0) // the kubelet keeps its devices, sick
	b.kubelet.Remove(gone.UID)
	if err := b.api.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	// One file is lost, one torn; what was q's is known from the API server.
	for name, g := range b.plugin.Grants() {
		path := filepath.Join(b.dir, "cdi", "neap.dev-gpu-"+name+".json")
		switch g.Pod {
		case "p":
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		case "q":
			if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.open()
	b.await(2000, 2000)
	if err := b.plugin.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	var pods []string
	for _, g := range b.plugin.Grants() {
		pods = append(pods, g.Pod)
	}
	slices.Sort(pods)
	if !slices.Equal(pods, []string{"p", "q"}) {
		t.Errorf("it remembers %q", pods)
	}
	if files, err := os.ReadDir(filepath.Join(b.dir, "cdi")); err != nil || len(files) != 2 {
		t.Errorf("the CDI files are %v, %v", files, err)
	}
	b.starts(p, "a", "GPU-m-0", "600/8000")
	late := b.create(b.pod("late", share(1, 500, 100), asks("a", 500, 100)))
	b.admit(late)
	if _, err := b.start(late, "a"); err == nil || !strings.Contains(err.Error(), "default/q") {
		t.Errorf("what q holds is given a second time: %v", err)
	}
}

func TestANewKubeletIsRegisteredWith(t *testing.T) {
	b := newBench(t)
	p := b.create(b.pod("p", share(0, 500, 8000), asks("a", 500, 8000)))
	b.admit(p)
	b.starts(p, "a", "GPU-m-0", "500/8000")
	for range 2 {
		b.kubelet.Stop()
		// While it starts it names no pods; nothing is taken from them.
		if err := b.plugin.Sweep(t.Context()); err == nil {
			t.Error("a kubelet that is down can be asked")
		}
		if err := b.kubelet.Resume(); err != nil {
			t.Fatal(err)
		}
		b.await(2000, 2000)
		b.starts(p, "a", "GPU-m-0", "500/8000")
	}
	q := b.create(b.pod("q", share(1, 500, 8000), asks("a", 500, 8000)))
	b.admit(q)
	b.starts(q, "a", "GPU-m-1", "500/8000")
}

func TestAGPUThatVanishesTakesNothingFromTheOthers(t *testing.T) {
	b := newBench(t)
	on0 := b.create(b.pod("on0", share(0, 600, 8000), asks("a", 600, 8000)))
	on1 := b.create(b.pod("on1", share(1, 700, 8000), asks("a", 700, 8000)))
	for _, p := range []*corev1.Pod{on0, on1} {
		b.admit(p)
		if _, err := b.start(p, "a"); err != nil {
			t.Fatal(err)
		}
	}
	b.gpus.Change(func(i *device.Inventory) { i.Devices = slices.Clone(i.Devices[1:]); i.Devices[0].Index = 0 })
	b.look()
	// 400 were free on GPU 0: those nobody may have. The 300 of GPU 1 are free still.
	b.await(2000, 1600)
	if _, err := b.start(on0, "a"); err == nil || !strings.Contains(err.Error(), "GPU-m-0, which is sick: the driver does not find it any more") {
		t.Errorf("a container starts on a GPU that is gone: %v", err)
	}
	b.starts(on1, "a", "GPU-m-1", "700/8000")
	late := b.create(b.pod("late", share(1, 300, 100), asks("a", 300, 100)))
	b.admit(late)
	b.starts(late, "a", "GPU-m-1", "300/100")

	// Its pod is moved away: all of it is out of use.
	b.kubelet.Remove(on0.UID)
	if err := b.api.Delete(t.Context(), on0); err != nil {
		t.Fatal(err)
	}
	if err := b.plugin.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.await(2000, 1000)
	// It comes back.
	b.gpus.Change(func(i *device.Inventory) {
		back := i.Devices[0]
		back.UUID, back.Index = "GPU-m-0", 1
		i.Devices = append(i.Devices, back)
	})
	b.look()
	b.await(2000, 2000)
}

func TestOfTwoThatStartAtOnceOnOnePieceOneDoes(t *testing.T) {
	b := newBench(t)
	const n = 8
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		p := b.create(b.pod(fmt.Sprintf("p%d", i), share(0, 600, 0), asks("a", 200, 0)))
		b.admit(p)
		wg.Go(func() { _, errs[i] = b.kubelet.StartContainer(t.Context(), p.UID, "a") })
	}
	wg.Wait()
	started := 0
	for _, err := range errs {
		if err == nil {
			started++
		}
	}
	if started != 1 {
		t.Errorf("%d of %d pods that were each given 600 thousandths of one GPU start: %v", started, n, errs)
	}
}

func TestTokensAreSickWhereNobodyHoldsThem(t *testing.T) {
	list := tokens(6, 3, map[string]bool{"5": true, "3": true})
	var sick []string
	for _, d := range list {
		if d.Health != "Healthy" {
			sick = append(sick, d.ID)
		}
	}
	if want := []string{"1", "2", "4"}; !slices.Equal(sick, want) {
		t.Errorf("sick are %q, want %q", sick, want)
	}
}

// FuzzName: a device's name depends on which tokens it is made of, not on their
// order, and CDI lets it pass.
func FuzzName(f *testing.F) {
	f.Add("1,2,3", "12,3")
	f.Add("", ",")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := strings.Split(a, ","), strings.Split(b, ",")
		reversed := slices.Clone(x)
		slices.Reverse(reversed)
		if name(x) != name(reversed) {
			t.Errorf("the order of %q matters", x)
		}
		slices.Sort(x)
		slices.Sort(y)
		if (name(x) == name(y)) != slices.Equal(x, y) {
			t.Errorf("%q and %q are called %s and %s", x, y, name(x), name(y))
		}
	})
}
