package devicemanager

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	_ "unsafe" // for linkname

	cadvisor "github.com/google/cadvisor/info/v1"
	oci "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/kubernetes/pkg/kubelet/apis/podresources"
	"k8s.io/kubernetes/pkg/kubelet/cm/containermap"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	runtimecdi "tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/host/agent/gpuplugin"
	"github.com/neap-dev/neap/host/cdi"
	"github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/local/fakekubelet"
)

// patience is how long a test waits for what must come; nothing is measured.
const patience = 2 * time.Minute

// newManagerImpl is the kubelet's constructor with the path of its socket as an
// argument; the one that is exported takes /var/lib/kubelet for granted.
//
//go:linkname newManagerImpl k8s.io/kubernetes/pkg/kubelet/cm/devicemanager.newManagerImpl
func newManagerImpl(klog.Logger, string, []cadvisor.Node, topologymanager.Store) (*devicemanager.ManagerImpl, error)

// A kubelet is as much of one as a device plugin sees.
type kubelet interface {
	Stop()
	Resume() error
	Admit(context.Context, *corev1.Pod) error
	StartContainer(context.Context, types.UID, string) ([]string, error)
	Capacity(resource string) (all, healthy int)
	Remove(types.UID)
}

// A real kubelet has the device manager and the PodResources API of Kubernetes.
type real struct {
	dir string

	mu      sync.Mutex
	pods    map[types.UID]*corev1.Pod
	manager *devicemanager.ManagerImpl
	server  *grpc.Server
}

func (r *real) Resume() error {
	socket := filepath.Join(r.dir, "device-plugins", "kubelet.sock")
	pods := filepath.Join(r.dir, "pod-resources", "kubelet.sock")
	for _, path := range []string{socket, pods} {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			return err
		}
	}
	log := klog.Background()
	m, err := newManagerImpl(log, socket, nil, topologymanager.NewFakeManager())
	if err != nil {
		return err
	}
	if err := m.Start(log, r.GetActivePods, r, containermap.NewContainerMap(), sets.New[string]()); err != nil {
		return err
	}
	if err := os.RemoveAll(pods); err != nil {
		return err
	}
	l, err := net.Listen("unix", pods)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	podresourcesapi.RegisterPodResourcesListerServer(server, podresources.NewV1PodResourcesServer(context.Background(), podresources.PodResourcesProviders{
		Pods: r, Devices: r, Cpus: r, Memory: r, DynamicResources: r,
	}))
	go server.Serve(l) //nolint:errcheck // it ends with Stop
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manager, r.server = m, server
	return nil
}

func (r *real) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.manager != nil {
		r.server.Stop()
		_ = r.manager.Stop(klog.Background())
		r.manager = nil
	}
}

func (r *real) Admit(_ context.Context, p *corev1.Pod) error {
	r.mu.Lock()
	r.pods[p.UID] = p
	r.mu.Unlock()
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if err := r.manager.Allocate(p, &list[i]); err != nil {
				r.Remove(p.UID)
				return err
			}
		}
	}
	return nil
}

func (r *real) StartContainer(ctx context.Context, uid types.UID, name string) ([]string, error) {
	r.mu.Lock()
	p := r.pods[uid]
	r.mu.Unlock()
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if c.Name != name {
			continue
		}
		opts, err := r.manager.GetDeviceRunContainerOptions(ctx, p, &c)
		if err != nil || opts == nil {
			return nil, err
		}
		var out []string
		for _, d := range opts.CDIDevices {
			out = append(out, d.Name)
		}
		return out, nil
	}
	return nil, fmt.Errorf("no container %s", name)
}

func (r *real) Capacity(resource string) (all, healthy int) {
	r.mu.Lock()
	m := r.manager
	r.mu.Unlock()
	if m == nil {
		return 0, 0
	}
	capacity, allocatable, _ := m.GetCapacity()
	a, h := capacity[corev1.ResourceName(resource)], allocatable[corev1.ResourceName(resource)]
	return int(a.Value()), int(h.Value())
}

func (r *real) Remove(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pods, uid)
}

// What the kubelet's parts ask each other.

func (r *real) AddSource(string) {}
func (r *real) AllReady() bool   { return true }

func (r *real) GetActivePods() []*corev1.Pod {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*corev1.Pod
	for _, p := range r.pods {
		out = append(out, p)
	}
	return out
}
func (r *real) GetPods() []*corev1.Pod                                      { return r.GetActivePods() }
func (r *real) GetPodByName(string, string) (*corev1.Pod, bool)             { return nil, false }
func (r *real) UpdateAllocatedDevices()                                     { r.manager.UpdateAllocatedDevices() }
func (r *real) GetCPUs(string, string) []int64                              { return nil }
func (r *real) GetAllocatableCPUs() []int64                                 { return nil }
func (r *real) GetMemory(string, string) []*podresourcesapi.ContainerMemory { return nil }
func (r *real) GetAllocatableMemory() []*podresourcesapi.ContainerMemory    { return nil }
func (r *real) GetDynamicResources(*corev1.Pod, *corev1.Container) []*podresourcesapi.DynamicResource {
	return nil
}
func (r *real) GetAllocatableDevices() []*podresourcesapi.ContainerDevices { return nil }

// GetDevices writes one entry for each device, as the kubelet's container manager does.
func (r *real) GetDevices(uid, container string) []*podresourcesapi.ContainerDevices {
	var out []*podresourcesapi.ContainerDevices
	for resource, devices := range r.manager.GetDevices(uid, container) {
		for id := range devices {
			out = append(out, &podresourcesapi.ContainerDevices{ResourceName: resource, DeviceIds: []string{id}})
		}
	}
	return out
}

// A bench is machine m with two GPUs, a kubelet and the plugin.
type bench struct {
	t       *testing.T
	dir     string
	api     client.Client
	kubelet kubelet
	gpus    *device.Fake
	roll    device.Roll
	plugin  *gpuplugin.Plugin
	stop    func()
}

func each(t *testing.T, test func(*testing.T, *bench)) {
	for name, open := range map[string]func(string) (kubelet, error){
		"the kubelet's own code": func(dir string) (kubelet, error) {
			r := &real{dir: dir, pods: map[types.UID]*corev1.Pod{}}
			return r, r.Resume()
		},
		"the fake": func(dir string) (kubelet, error) { return fakekubelet.Start(dir) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "neap") // short, for sockets
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			b := &bench{t: t, dir: dir, api: fake.NewClientBuilder().Build(), gpus: device.NewFake("m", "Tesla T4", 16384, 16384)}
			if b.kubelet, err = open(dir); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(b.kubelet.Stop)
			b.open()
			b.await(2000, 2000)
			test(t, b)
		})
	}
}

func (b *bench) open() {
	b.t.Helper()
	var err error
	if b.plugin, err = gpuplugin.New(gpuplugin.Options{Node: "m", Client: b.api, Kubelet: b.dir, CDI: cdi.Folder{Dir: filepath.Join(b.dir, "cdi")}}); err != nil {
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

func (b *bench) look() {
	b.t.Helper()
	b.plugin.Update(b.roll.Look(b.gpus.Find(b.t.Context())))
}

func (b *bench) await(all, healthy int) {
	b.t.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		a, h := b.kubelet.Capacity(v1alpha1.ResourceGPUMilli)
		if a == all && h == healthy {
			return
		}
		if time.Now().After(until) {
			b.t.Fatalf("the kubelet counts %d thousandths, %d of them healthy; want %d and %d", a, h, all, healthy)
		}
	}
}

func asks(name string, milli int64) corev1.Container {
	r := corev1.ResourceList{v1alpha1.ResourceGPUMilli: *resource.NewQuantity(milli, resource.DecimalSI)}
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Limits: r, Requests: r}}
}

// pod admits a pod that was given so much of a GPU.
func (b *bench) pod(name string, gpu int, milli int64, init []corev1.Container, containers ...corev1.Container) *corev1.Pod {
	b.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec:       corev1.PodSpec{NodeName: "m", InitContainers: init, Containers: containers},
	}
	if milli > 0 {
		p.Annotations = map[string]string{v1alpha1.AnnotationGPUAllocation: convert.WriteGPUAllocation(v1alpha1.GPUAllocation{
			Node: "m", Devices: []v1alpha1.GPUShare{{UUID: fmt.Sprint("GPU-m-", gpu), Milli: milli, MemoryMiB: 1000}},
		})}
	}
	if err := b.api.Create(b.t.Context(), p); err != nil {
		b.t.Fatal(err)
	}
	if err := b.kubelet.Admit(b.t.Context(), p); err != nil {
		b.t.Fatal(err)
	}
	return p
}

// starts fails the test unless the container is shown one GPU by the runtime.
func (b *bench) starts(p *corev1.Pod, container, gpu string) {
	b.t.Helper()
	devices, err := b.kubelet.StartContainer(b.t.Context(), p.UID, container)
	if err != nil {
		b.t.Fatal(err)
	}
	cache, err := runtimecdi.NewCache(runtimecdi.WithSpecDirs(filepath.Join(b.dir, "cdi")), runtimecdi.WithAutoRefresh(false))
	if err != nil {
		b.t.Fatal(err)
	}
	spec := oci.Spec{Process: new(oci.Process)}
	if _, err := cache.InjectDevices(&spec, devices...); err != nil {
		b.t.Fatal(err)
	}
	if want := []string{"NVIDIA_VISIBLE_DEVICES=" + gpu}; !slices.Equal(spec.Process.Env, want) {
		b.t.Errorf("container %s of %s has the environment %q, want %q", container, p.Name, spec.Process.Env, want)
	}
}

func (b *bench) refused(p *corev1.Pod, container, want string) {
	b.t.Helper()
	if _, err := b.kubelet.StartContainer(b.t.Context(), p.UID, container); err == nil || !strings.Contains(err.Error(), want) {
		b.t.Errorf("container %s of %s: %v, want an error with %q", container, p.Name, err, want)
	}
}

func TestPodsGetTheirPieces(t *testing.T) {
	each(t, func(_ *testing.T, b *bench) {
		// Of one size and at once: only what they hold tells them apart.
		p := b.pod("p", 1, 300, nil, asks("a", 100), asks("b", 200))
		q := b.pod("q", 0, 300, nil, asks("a", 100), asks("b", 200))
		b.starts(q, "a", "GPU-m-0")
		b.starts(p, "b", "GPU-m-1")
		b.starts(p, "a", "GPU-m-1")
		b.starts(q, "b", "GPU-m-0")

		// An init container leaves its thousandths to those after it.
		r := b.pod("r", 1, 500, []corev1.Container{asks("warm", 500)}, asks("a", 300), asks("b", 200))
		b.starts(r, "warm", "GPU-m-1")
		r.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "warm", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
		if err := b.api.Update(b.t.Context(), r); err != nil {
			b.t.Fatal(err)
		}
		b.starts(r, "a", "GPU-m-1")
		b.starts(r, "b", "GPU-m-1")

		b.refused(b.pod("stray", 0, 0, nil, asks("a", 100)), "a", "no scheduler of Neap gave it a GPU")
	})
}

func TestRestartsLoseNothing(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		p := b.pod("p", 1, 600, nil, asks("a", 600))
		b.starts(p, "a", "GPU-m-1")
		// The kubelet starts anew and remembers by its checkpoint.
		b.kubelet.Stop()
		if err := b.kubelet.Resume(); err != nil {
			t.Fatal(err)
		}
		b.await(2000, 2000)
		b.starts(p, "a", "GPU-m-1")
		// The plugin does.
		b.stop()
		b.await(2000, 0)
		b.open()
		b.await(2000, 2000)
		b.starts(p, "a", "GPU-m-1")
		// The machine does: the CDI folder is empty, and the pod is admitted anew.
		if err := os.RemoveAll(filepath.Join(b.dir, "cdi")); err != nil {
			t.Fatal(err)
		}
		if err := b.plugin.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.starts(p, "a", "GPU-m-1")
		q := b.pod("q", 1, 500, nil, asks("a", 500))
		b.refused(q, "a", "default/p")
	})
}

func TestAPodOnAHealthyGPUIsAdmittedAnewBesideASickOne(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		var pods []*corev1.Pod
		for i := range 10 {
			p := b.pod(fmt.Sprint("p", i), i%2, 200, nil, asks("a", 200))
			b.starts(p, "a", fmt.Sprint("GPU-m-", i%2))
			pods = append(pods, p)
		}
		b.gpus.Change(func(i *device.Inventory) { i.Devices[0].Healthy, i.Devices[0].Reason = false, "Xid error 79" })
		b.look()
		// All are given out: none of the kubelet's may be sick, or it would fail some
		// of the pods on the healthy one when it admits them anew.
		b.await(2000, 2000)
		b.kubelet.Remove(pods[0].UID)
		if err := b.api.Delete(t.Context(), pods[0]); err != nil {
			t.Fatal(err)
		}
		if err := b.plugin.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.await(2000, 1800)
		b.kubelet.Stop()
		if err := b.kubelet.Resume(); err != nil {
			t.Fatal(err)
		}
		b.await(2000, 1800)
		for i, p := range pods[1:] {
			if r, ok := b.kubelet.(*real); ok {
				if err := r.Admit(t.Context(), p); err != nil {
					t.Errorf("%s is not admitted anew: %v", p.Name, err)
				}
			}
			if (i+1)%2 == 1 {
				b.starts(p, "a", "GPU-m-1")
			} else {
				b.refused(p, "a", "Xid error 79")
			}
		}
	})
}
