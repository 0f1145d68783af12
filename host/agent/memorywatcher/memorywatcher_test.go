package memorywatcher

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/kube/convert"
)

func uid(i int) types.UID {
	return types.UID(fmt.Sprintf("0000000%d-1111-2222-3333-444444444444", i))
}

// A bench is machine m with one GPU; pod i's process is 10+i.
type bench struct {
	*Watcher
	t       *testing.T
	gpus    *device.Fake
	devices []device.Device
	events  []string
	evicted []string
	refuse  error
	policy  v1alpha1.GPUOverrun
	doubt   error
	lists   int
}

func newBench(t *testing.T, objects ...client.Object) *bench {
	t.Helper()
	b := &bench{t: t, gpus: device.NewFake("m", "Tesla T4", 16384), policy: v1alpha1.GPUEvict}
	found, err := b.gpus.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.devices = found.Devices
	api := fake.NewClientBuilder().WithObjects(objects...).
		WithIndex(new(corev1.Pod), "spec.nodeName", func(o client.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} }).
		WithInterceptorFuncs(interceptor.Funcs{
			SubResourceCreate: func(_ context.Context, _ client.Client, _ string, o, e client.Object, _ ...client.SubResourceCreateOption) error {
				if b.refuse != nil {
					return b.refuse
				}
				if got := e.(*policyv1.Eviction).DeleteOptions.Preconditions.UID; *got != o.GetUID() {
					t.Errorf("the eviction of %s is of uid %s", o.GetUID(), *got)
				}
				b.evicted = append(b.evicted, o.GetName())
				return nil
			},
			List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
				b.lists++
				return c.List(ctx, l, opts...)
			},
		}).Build()
	proc := t.TempDir()
	for i := range 5 {
		dir := filepath.Join(proc, fmt.Sprint(10+i))
		path := "0::/../../kubepods-burstable-pod" + strings.ReplaceAll(string(uid(i)), "-", "_") + ".slice/cri-containerd-abc.scope\n"
		if i == 0 {
			path = "0::/system.slice/sshd.service\n"
		}
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "cgroup"), []byte(path), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	b.Watcher = New(Options{
		Node: "m", Client: api, Finder: b.gpus, Proc: proc,
		Overrun: func(context.Context, *corev1.Pod) (v1alpha1.GPUOverrun, error) { return b.policy, b.doubt },
		Event: func(p *corev1.Pod, reason, message string) {
			b.events = append(b.events, p.Name+" "+reason+" "+message)
		},
	})
	return b
}

func (b *bench) look() {
	b.t.Helper()
	if err := b.Look(b.t.Context(), b.devices); err != nil {
		b.t.Fatal(err)
	}
}

func pods(i int, milli, memory int64) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("p", i), UID: uid(i), Annotations: map[string]string{
			v1alpha1.AnnotationGPUAllocation: convert.WriteGPUAllocation(v1alpha1.GPUAllocation{Node: "m", Devices: []v1alpha1.GPUShare{{UUID: "GPU-m-0", Milli: milli, MemoryMiB: memory}}}),
		}},
		Spec: corev1.PodSpec{NodeName: "m"},
	}
}

func using(pid int, mib int64) device.Process {
	return device.Process{PID: pid, UUID: "GPU-m-0", Memory: mib << 20}
}

func TestWhoTakesTooMuchIsTold(t *testing.T) {
	whole := pods(4, 1000, 100)
	b := newBench(t, pods(1, 500, 4000), pods(2, 500, 4000), whole)
	b.policy = v1alpha1.GPUReport
	b.gpus.Run(using(10, 300), using(11, 3000), using(11, 1001), using(12, 4000), using(14, 9000), using(99, 7))
	b.look()
	if len(b.events) != 0 {
		t.Errorf("after one look the events are %q", b.events)
	}
	b.look()
	b.look()
	if want := []string{"p1 GPUMemoryOverrun it uses 4001 MiB of GPU GPU-m-0 and was given 4000 MiB"}; !slices.Equal(b.events, want) || len(b.evicted) != 0 {
		t.Errorf("the events are %q, want %q; evicted are %q", b.events, want, b.evicted)
	}
	const want = `
# HELP neap_gpu_memory_used_bytes Memory of a GPU that the processes of a pod hold; those without a pod are the machine's own.
# TYPE neap_gpu_memory_used_bytes gauge
neap_gpu_memory_used_bytes{namespace="",pod="",uuid="GPU-m-0"} 3.21912832e+08
neap_gpu_memory_used_bytes{namespace="default",pod="p1",uuid="GPU-m-0"} 4.195352576e+09
neap_gpu_memory_used_bytes{namespace="default",pod="p2",uuid="GPU-m-0"} 4.194304e+09
neap_gpu_memory_used_bytes{namespace="default",pod="p4",uuid="GPU-m-0"} 9.437184e+09
`
	if err := testutil.CollectAndCompare(b.Watcher, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if b.lists != 1 {
		t.Errorf("the pods were listed %d times in three looks", b.lists)
	}

	// It comes down, and later takes too much anew: that is told again.
	b.gpus.Run(using(11, 10))
	b.look()
	b.gpus.Run(using(11, 5000))
	b.look()
	b.look()
	if len(b.events) != 2 {
		t.Errorf("the second time the events are %q", b.events)
	}
}

func TestWhoTakesTooMuchIsEvictedWhereItsClassSaysSo(t *testing.T) {
	b := newBench(t, pods(1, 500, 4000))
	b.gpus.Run(using(11, 5000))
	b.look()
	b.refuse = apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 10)
	if err := b.Look(t.Context(), b.devices); err == nil || !strings.Contains(err.Error(), "disruption budget") {
		t.Errorf("the error is %v", err)
	}
	b.refuse, b.doubt = nil, errors.New("class gold does not exist")
	if err := b.Look(t.Context(), b.devices); err == nil || !strings.Contains(err.Error(), "gold") || len(b.evicted) > 0 {
		t.Errorf("the error is %v and evicted are %q", err, b.evicted)
	}
	b.doubt = nil
	b.look()
	if !slices.Equal(b.evicted, []string{"p1"}) || len(b.events) != 1 {
		t.Errorf("evicted are %q, and told %q", b.evicted, b.events)
	}
}

func TestPodsWithClaimsAreHeldToThem(t *testing.T) {
	name := "claim"
	p := pods(3, 1, 1)
	p.Annotations = nil
	p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "gpu", ResourceClaimName: &name}}
	claim := &resourceapi.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Status: resourceapi.ResourceClaimStatus{Allocation: &resourceapi.AllocationResult{Devices: resourceapi.DeviceAllocationResult{Results: []resourceapi.DeviceRequestAllocationResult{{
			Request: "gpu", Driver: v1alpha1.GPUDriver, Pool: "m", Device: "gpu-0",
			ConsumedCapacity: map[resourceapi.QualifiedName]resource.Quantity{"milli": resource.MustParse("300"), "memory": resource.MustParse("2Gi")},
		}}}}},
	}
	b := newBench(t, p, claim)
	b.gpus.Run(using(13, 2049))
	b.look()
	b.look()
	if !slices.Equal(b.evicted, []string{"p3"}) {
		t.Errorf("evicted are %q, told %q", b.evicted, b.events)
	}
}

func TestADriverThatFailsIsSaid(t *testing.T) {
	b := newBench(t)
	b.gpus.Fail(errors.New("it hangs"))
	if err := b.Look(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "it hangs") {
		t.Errorf("the error is %v", err)
	}
}

// FuzzPodOf: whatever a cgroup file says, what is found is a pod's uid or nothing.
func FuzzPodOf(f *testing.F) {
	f.Add("12:cpu:/kubepods/burstable/pod00000001-1111-2222-3333-444444444444/abc\n0::/\n")
	f.Add("0::/kubepods.slice/kubepods-pod00000001_1111_2222_3333_444444444444.slice/cri-o-1.scope")
	f.Add("0::/user.slice/pod00000001")
	one := regexp.MustCompile(`^[0-9a-f-]{36}$`)
	f.Fuzz(func(t *testing.T, lines string) {
		if got := podOf(lines); got != "" && !one.MatchString(string(got)) {
			t.Errorf("podOf(%q) = %q", lines, got)
		}
	})
}

func TestCgroupsOfBothDrivers(t *testing.T) {
	for line, want := range map[string]types.UID{
		"12:cpu:/kubepods/burstable/pod00000001-1111-2222-3333-444444444444/abc\n":                                       uid(1),
		"0::/kubepods.slice/kubepods-pod00000001_1111_2222_3333_444444444444.slice/cri-o-1.scope":                        uid(1),
		"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod00000001_1111_2222_3333_444444444444.slice": uid(1),
		"0::/system.slice/sshd.service":                    "",
		"0::/x/pod00000001-1111-2222-3333-4444444444445/y": "",
		"": "",
	} {
		if got := podOf(line); got != want {
			t.Errorf("podOf(%q) = %q, want %q", line, got, want)
		}
	}
}
