package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/host/agent/announcer"
	"github.com/neap-dev/neap/host/agent/limiter"
	"github.com/neap-dev/neap/host/cdi"
	"github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/local/fakekubelet"
)

// patience is how long a test waits for what must come; nothing is measured.
const patience = 2 * time.Minute

// A bench is machine m with two GPUs and an agent.
type bench struct {
	t       *testing.T
	dir     string
	api     client.Client
	gpus    *device.Fake
	kubelet *fakekubelet.Kubelet
	stop    func()
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "neap") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "m"}}
	b := &bench{t: t, dir: dir, gpus: device.NewFake("m", "Tesla T4", 16384, 16384)}
	b.api = fake.NewClientBuilder().WithScheme(Scheme()).WithStatusSubresource(node).WithObjects(
		node, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "strict", Labels: map[string]string{v1alpha1.AnnotationGPUClass: "mps"}}},
		&v1alpha1.GPUClass{ObjectMeta: metav1.ObjectMeta{Name: "mps"}, Spec: v1alpha1.GPUClassSpec{Enforcement: v1alpha1.GPUMPS}},
	).Build()
	if b.kubelet, err = fakekubelet.Start(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.kubelet.Stop)
	b.open()
	return b
}

func (b *bench) open() {
	b.t.Helper()
	a, err := New(Options{
		Node: "m", Client: b.api, Finder: b.gpus, Kubelet: b.dir, Plugin: true, Interval: 20 * time.Millisecond,
		CDI: cdi.Folder{Dir: filepath.Join(b.dir, "cdi"), Root: b.dir},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Run(ctx); err != nil {
			b.t.Error(err)
		}
	}()
	b.stop = sync.OnceFunc(func() { cancel(); <-done })
	b.t.Cleanup(b.stop)
}

// await returns when the Node's condition and GPUs are so.
func (b *bench) await(condition string, gpus int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	for {
		node := new(corev1.Node)
		if err := b.api.Get(ctx, client.ObjectKey{Name: "m"}, node); err != nil {
			b.t.Fatal(err)
		}
		devices, err := convert.GPUDevices(node)
		if err != nil {
			b.t.Fatal(err)
		}
		says := ""
		for _, c := range node.Status.Conditions {
			if c.Type == announcer.HealthyCondition {
				says = string(c.Status) + " " + c.Message
			}
		}
		if strings.HasPrefix(says, condition) && len(devices) == gpus {
			return
		}
		select {
		case <-ctx.Done():
			b.t.Fatalf("the node says %q of %d GPUs, waited for %q of %d", says, len(devices), condition, gpus)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (b *bench) tokens(all, healthy int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	if err := b.kubelet.Await(ctx, v1alpha1.ResourceGPUMilli, all, healthy); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) start(namespace, name string, gpu int, annotations map[string]string) ([]string, error) {
	b.t.Helper()
	limits := corev1.ResourceList{v1alpha1.ResourceGPUMilli: *resource.NewQuantity(300, resource.DecimalSI)}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + name), Annotations: map[string]string{
			v1alpha1.AnnotationGPUAllocation: convert.WriteGPUAllocation(v1alpha1.GPUAllocation{Node: "m", Devices: []v1alpha1.GPUShare{{UUID: fmt.Sprint("GPU-m-", gpu), Milli: 300, MemoryMiB: 4000}}}),
		}},
		Spec: corev1.PodSpec{NodeName: "m", Containers: []corev1.Container{{Name: "a", Resources: corev1.ResourceRequirements{Limits: limits, Requests: limits}}}},
	}
	for k, v := range annotations {
		p.Annotations[k] = v
	}
	if err := errors.Join(b.api.Create(b.t.Context(), p), b.kubelet.Admit(b.t.Context(), p)); err != nil {
		b.t.Fatal(err)
	}
	return b.kubelet.StartContainer(b.t.Context(), p.UID, "a")
}

func TestAMachineWithGPUs(t *testing.T) {
	b := newBench(t)
	b.await("True 2 GPUs", 2)
	b.tokens(2000, 2000)
	if devices, err := b.start("default", "p", 1, nil); err != nil || len(devices) != 1 {
		t.Fatalf("the pod gets %q, %v", devices, err)
	}

	// A class that the machine cannot enforce is not pretended to be enforced.
	if _, err := b.start("strict", "q", 1, nil); err == nil || !strings.Contains(err.Error(), "no control daemon of MPS") {
		t.Errorf("without MPS the error is %v", err)
	}
	if _, err := b.start("default", "r", 1, map[string]string{v1alpha1.AnnotationGPUClass: "gold"}); err == nil || !strings.Contains(err.Error(), "GPUClass gold") {
		t.Errorf("without the class the error is %v", err)
	}

	// The driver fails for a while; then both GPUs are gone, with a pod on one.
	b.gpus.Fail(errors.New("it hangs"))
	b.await("False GPU 0 (GPU-m-0): the driver does not answer", 2)
	b.gpus.Fail(nil)
	b.await("True 2 GPUs", 2)
	b.gpus.Change(func(i *device.Inventory) { i.Devices = nil })
	b.await("False GPU 0 (GPU-m-0): the driver does not find it any more; GPU 1 (GPU-m-1)", 2)
	b.tokens(2000, 300)

	// After a restart the one that nobody is on is forgotten, as if taken out; the
	// other is not.
	b.stop()
	b.open()
	b.await("False GPU 1 (GPU-m-1): the driver does not find it any more", 1)

	// It comes back, and the next agent finds the driver busy: the Node stays as it is
	// until the driver does not answer for good.
	b.gpus.Change(func(i *device.Inventory) {
		i.Devices = []device.Device{{UUID: "GPU-m-1", Model: "Tesla-T4", Memory: 16384, Minor: -1, Healthy: true}}
	})
	b.await("True 1 GPUs", 1)
	b.stop()
	b.gpus.Fail(errors.New("it is busy"))
	b.open()
	b.await("False GPU 0 (GPU-m-1): the driver does not answer: it is busy", 1)
	b.gpus.Fail(nil)
	b.await("True 1 GPUs", 1)
}

func TestProbeSaysWhatIsMissing(t *testing.T) {
	l := limiter.Limiter{CDI: cdi.Folder{Root: t.TempDir()}}
	gpus := device.NewFake("m", "Tesla T4", 16384)
	got, ok := Probe(t.Context(), gpus, l)
	for _, want := range []string{"GPUs: 1, seen by fake, driver 580.65.06, CUDA 13.0", "Tesla-T4  16384 MiB", "healthy", "NativeLimits: not in force: the driver's own limits need driver 615", "WatchOnly: there", "processes: 0"} {
		if !ok || !strings.Contains(got, want) {
			t.Errorf("it says, %v,\n%swithout %q", ok, got, want)
		}
	}
	gpus.Fail(device.ErrNoDriver)
	if got, ok := Probe(t.Context(), gpus, l); ok || got != "GPUs: none to be seen: no NVIDIA driver\n" {
		t.Errorf("without a driver it says, %v, %q", ok, got)
	}
}
