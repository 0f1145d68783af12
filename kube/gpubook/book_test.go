package gpubook

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/kube/convert"
)

func parse[T any](t testing.TB, doc string) *T {
	t.Helper()
	out := new(T)
	if err := yaml.UnmarshalStrict([]byte(doc), out); err != nil {
		t.Fatal(err)
	}
	return out
}

// node has GPUs of 10,000 MiB, called after it: one-0, one-1.
func node(t testing.TB, name string, gpus int, change ...func(*v1alpha1.GPUDevice)) *v1.Node {
	t.Helper()
	devices := make([]v1alpha1.GPUDevice, gpus)
	for i := range devices {
		devices[i] = v1alpha1.GPUDevice{Index: int32(i), UUID: fmt.Sprintf("%s-%d", name, i), Model: "T4", MemoryMiB: 10_000, Healthy: true}
		for _, c := range change {
			c(&devices[i])
		}
	}
	n := parse[v1.Node](t, fmt.Sprintf(`{metadata: {name: %s}, status: {allocatable: {cpu: 8, memory: 64Gi, pods: 10}}}`, name))
	if gpus > 0 {
		n.Annotations = map[string]string{v1alpha1.AnnotationGPUDevices: convert.WriteGPUDevices(devices)}
	}
	return n
}

// pod asks for a piece of one GPU; where on names none, it has none.
func pod(t testing.TB, name string, milli, memory int, at string, on ...string) *v1.Pod {
	t.Helper()
	p := parse[v1.Pod](t, fmt.Sprintf(`{metadata: {name: %s, namespace: live, uid: %[1]s}, spec: {nodeName: %[4]q, containers: [{name: main, resources: {
		requests: {cpu: 1, memory: 1Gi, neap.dev/gpu-milli: %[2]d, neap.dev/gpu-memory: %[3]d}}}]}}`, name, milli, memory, at))
	if len(on) > 0 {
		a := v1alpha1.GPUAllocation{Node: at}
		for _, uuid := range on {
			a.Devices = append(a.Devices, v1alpha1.GPUShare{UUID: uuid, Milli: int64(milli / len(on)), MemoryMiB: int64(memory / len(on))})
		}
		p.Annotations = map[string]string{v1alpha1.AnnotationGPUAllocation: convert.WriteGPUAllocation(a)}
	}
	return p
}

// left is what is idle, as in "one-0 500/9000".
func left(b *Book) string {
	var out []string
	for _, n := range b.Nodes() {
		i, _ := b.Machine(n.Name)
		m := b.Fleet().Machine(i)
		for k, d := range b.Devices(n.Name) {
			if d.IdleMilli != int64(m.Idle[k]) || d.IdleMemoryMiB != int64(m.IdleMemory[k]) {
				return fmt.Sprintf("the fleet has %d/%d of %s, the book %d/%d", m.Idle[k], m.IdleMemory[k], d.UUID, d.IdleMilli, d.IdleMemoryMiB)
			}
			out = append(out, fmt.Sprintf("%s %d/%d", d.UUID, d.IdleMilli, d.IdleMemoryMiB))
		}
	}
	return strings.Join(out, " ")
}

func complaints(b *Book) string {
	var out []string
	for _, c := range b.Conflicts() {
		out = append(out, c.Message)
	}
	return strings.Join(out, "; ")
}

func TestWhatIsLeftAndWhatIsWrong(t *testing.T) {
	cases := map[string]struct {
		do         func(*Book)
		want, says string
	}{
		"a bound pod has what is written on it": {func(b *Book) {
			b.SetPod(pod(t, "p", 300, 1000, "one", "one-1"))
		}, "one-0 1000/10000 one-1 700/9000", ""},
		"also if it comes before its node": {func(b *Book) {
			b.SetPod(pod(t, "p", 300, 1000, "two", "two-0"))
			_ = b.SetNode(node(t, "two", 1))
		}, "one-0 1000/10000 one-1 1000/10000 two-0 700/9000", ""},
		"one that waits has nothing, whatever is written on it": {func(b *Book) {
			p := pod(t, "p", 300, 1000, "one", "one-1")
			p.Spec.NodeName = ""
			b.SetPod(p)
		}, "one-0 1000/10000 one-1 1000/10000", ""},
		"what is reserved counts, until it is released": {func(b *Book) {
			for _, name := range []string{"p", "q"} {
				p := pod(t, name, 300, 1000, "")
				b.SetPod(p)
				b.Reserve(p, b.Allocation(gpu.Demand{Milli: 300, DeviceMemory: 1000}, gpu.Spot{Devices: 2}))
			}
			b.Release("q")
		}, "one-0 1000/10000 one-1 700/9000", ""},
		"a reservation outlives what the API server said before": {func(b *Book) {
			p := pod(t, "p", 300, 1000, "")
			b.Reserve(p, v1alpha1.GPUAllocation{Node: "one", Devices: []v1alpha1.GPUShare{{UUID: "one-1", Milli: 300, MemoryMiB: 1000}}})
			b.SetPod(p.DeepCopy())
		}, "one-0 1000/10000 one-1 700/9000", ""},
		"and goes before a word from an earlier life on an assumed pod": {func(b *Book) {
			p := pod(t, "p", 300, 1000, "one", "one-0")
			b.Reserve(p, v1alpha1.GPUAllocation{Node: "one", Devices: []v1alpha1.GPUShare{{UUID: "one-1", Milli: 300, MemoryMiB: 1000}}})
			b.SetPod(p.DeepCopy())
		}, "one-0 1000/10000 one-1 700/9000", ""},
		"a pod that has ended has nothing": {func(b *Book) {
			p := pod(t, "p", 300, 1000, "one", "one-1")
			b.SetPod(p)
			p = p.DeepCopy()
			p.Status.Phase = v1.PodFailed
			b.SetPod(p)
		}, "one-0 1000/10000 one-1 1000/10000", ""},
		"one that is leaving still has it": {func(b *Book) {
			p := pod(t, "p", 300, 1000, "one", "one-1")
			p.DeletionTimestamp = &p.CreationTimestamp
			b.SetPod(p)
		}, "one-0 1000/10000 one-1 700/9000", ""},
		"a GPU that was given away twice is named": {func(b *Book) {
			b.SetPod(pod(t, "p", 700, 1000, "one", "one-1"))
			b.SetPod(pod(t, "q", 700, 1000, "one", "one-1"))
		}, "one-0 1000/10000 one-1 -400/8000", "GPU one-1 of node one is given away twice: live/p, live/q hold 1400 of 1000 thousandths and 2000 of 10000 MiB"},
		"a pod that another scheduler bound is named": {func(b *Book) {
			p := pod(t, "p", 700, 1000, "one")
			p.Spec.SchedulerName = "other"
			b.SetPod(p)
		}, "one-0 1000/10000 one-1 1000/10000", `pod live/p: scheduler "other" bound it to node one without saying which GPUs it has`},
		"a pod whose GPU has gone is named, and has no other": {func(b *Book) {
			b.SetPod(pod(t, "p", 700, 1000, "one", "one-1"))
			_ = b.SetNode(node(t, "one", 1))
		}, "one-0 1000/10000", "pod live/p: GPU one-1 is not on node one any more"},
		"it has it again when the GPU is back": {func(b *Book) {
			b.SetPod(pod(t, "p", 700, 1000, "one", "one-1"))
			_ = b.SetNode(node(t, "one", 1))
			_ = b.SetNode(node(t, "one", 2))
		}, "one-0 1000/10000 one-1 300/9000", ""},
		"GPUs of another node are no GPUs": {func(b *Book) {
			p := pod(t, "p", 700, 1000, "one", "one-1")
			p.Spec.NodeName = "two"
			b.SetPod(p)
		}, "one-0 1000/10000 one-1 1000/10000", "pod live/p: it is on node two, and its GPUs are on node one"},
		"an annotation that somebody made less is not believed": {func(b *Book) {
			p := pod(t, "p", 700, 1000, "one", "one-1")
			p.Annotations[v1alpha1.AnnotationGPUAllocation] = strings.Replace(p.Annotations[v1alpha1.AnnotationGPUAllocation], "700", "7", 1)
			b.SetPod(p)
		}, "one-0 1000/10000 one-1 300/9000", "pod live/p: its annotation neap.dev/gpu-allocation gives it 7 thousandths and 1000 MiB of GPU one-1, less than the 700 and 1000 it asks for: somebody changed it"},
		"a place is kept, but not beside the pod that it is for": {func(b *Book) {
			b.SetHold("a", Hold{Pod: "live/p", Node: "one", Devices: []string{"one-1"}, Milli: 300, MemoryMiB: 1000})
			b.SetHold("b", Hold{Pod: "live/q", Node: "one", Devices: []string{"one-0"}, Milli: 200})
			b.SetPod(pod(t, "p", 300, 1000, "one", "one-1"))
		}, "one-0 800/10000 one-1 700/9000", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			b := New(nil)
			if err := b.SetNode(node(t, "one", 2)); err != nil {
				t.Fatal(err)
			}
			b.Fleet()
			tc.do(b)
			if got := left(b); got != tc.want {
				t.Errorf("left %s\nwant %s", got, tc.want)
			}
			if got := complaints(b); got != tc.says {
				t.Errorf("says %s\nwant %s", got, tc.says)
			}
		})
	}
}

func TestAPlaceThatIsKeptIsOpenForItsPod(t *testing.T) {
	b := New(nil)
	if err := b.SetNode(node(t, "one", 1)); err != nil {
		t.Fatal(err)
	}
	b.SetHold("a", Hold{Pod: "live/p", Node: "one", Devices: []string{"one-0"}, Milli: 800})
	p, q := pod(t, "p", 800, 1000, ""), pod(t, "q", 800, 1000, "")
	for _, tc := range []struct {
		pod  *v1.Pod
		want bool
	}{{p, true}, {q, false}, {p, true}} {
		demands, err := b.Demands(tc.pod)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(b.FleetFor(tc.pod).Best(demands, 1, nil)) > 0; got != tc.want {
			t.Errorf("pod %s finds a place: %t", tc.pod.Name, got)
		}
	}
	// A plan's wish is one if it fits.
	p.Annotations = map[string]string{v1alpha1.AnnotationGPUSpot: `{"node":"one","devices":["one-0"]}`}
	demands, _ := b.Demands(p)
	if h, ok := b.Hinted(p, demands); !ok || h.Devices != 1 {
		t.Errorf("hinted %v, %t", h, ok)
	}
	q.Annotations = p.Annotations
	if h, ok := b.Hinted(q, demands); ok {
		t.Errorf("hinted at what is kept for another: %v", h)
	}
}

func TestSharesAreWhatIsDesired(t *testing.T) {
	b := New(nil)
	if err := b.SetNode(node(t, "one", 2)); err != nil {
		t.Fatal(err)
	}
	b.SetPod(pod(t, "a", 300, 1000, "one", "one-0"))
	b.SetPod(pod(t, "b", 300, 1000, ""))
	b.SetPod(pod(t, "c", 2000, 20000, ""))
	b.SetPod(parse[v1.Pod](t, `{metadata: {name: web, namespace: live, uid: web}, spec: {nodeName: one, containers: [{name: main, resources: {requests: {cpu: 2}}}]}}`))
	b.SetPod(parse[v1.Pod](t, `{metadata: {name: log, namespace: live, uid: log, ownerReferences: [{apiVersion: apps/v1, kind: DaemonSet, name: log, uid: d, controller: true}]}, spec: {nodeName: one, containers: [{name: main, resources: {requests: {cpu: 1}}}]}}`))
	machines, shares := b.Basis()
	want := []gpu.Share{
		{Demand: gpu.Demand{CPU: 1000, Memory: 1024, Devices: 1, Milli: 300, DeviceMemory: 1000}, Count: 2},
		{Demand: gpu.Demand{CPU: 1000, Memory: 1024, Devices: 2, Milli: 1000, DeviceMemory: 10000}, Count: 1},
		{Demand: gpu.Demand{CPU: 2000}, Count: 1},
	}
	if diff := cmp.Diff(want, shares); diff != "" {
		t.Errorf("shares (-want +got):\n%s", diff)
	}
	if len(machines) != 1 || machines[0].CPU != 7000 || b.Fleet().Machine(0).CPU != 4000 {
		t.Errorf("the machine has %d and %d left, want 7000 without the daemon, and 4000", machines[0].CPU, b.Fleet().Machine(0).CPU)
	}
}

// FuzzBook plays a cluster's life, and then tells another book how it ended: both
// must say the same, and the fleet the same as the devices.
func FuzzBook(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 250, 9, 8, 7, 60, 61, 62, 90, 91, 33, 34, 35})
	f.Add([]byte("nodes come and go while pods are bound, reserved, kept and forgotten"))
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 600 {
			return
		}
		names := []string{"one", "two", "three"}
		b := New(nil)
		nodes, pods, holds := map[string]*v1.Node{}, map[types.UID]*v1.Pod{}, map[string]Hold{}
		for len(script) >= 3 {
			op, x, y := script[0], int(script[1]), int(script[2])
			script = script[3:]
			at := names[x%3]
			name := fmt.Sprintf("p%d", y%7)
			uid := types.UID(name)
			uuid := fmt.Sprintf("%s-%d", at, y%3)
			switch op % 9 {
			case 0, 1:
				n := node(t, at, y%4, func(d *v1alpha1.GPUDevice) { d.Healthy = x%2 == 0; d.MemoryMiB = int64(1000 * (1 + x%3)) })
				n.Spec.Unschedulable = x%5 == 0
				if err := b.SetNode(n); err != nil {
					t.Fatal(err)
				}
				nodes[at] = n
			case 2:
				b.DeleteNode(at)
				delete(nodes, at)
			case 3, 4:
				p := pod(t, name, 100+x*3, 500+y, at, uuid)
				b.SetPod(p)
				pods[uid] = p
			case 5:
				p := pod(t, name, 100+x*3, 500, []string{"", at}[y%2])
				b.Release(uid)
				b.SetPod(p)
				pods[uid] = p
			case 6:
				b.DeletePod(uid)
				delete(pods, uid)
			case 7:
				h := Hold{Pod: "live/" + name, Node: at, Devices: []string{uuid}, Milli: int64(x), MemoryMiB: int64(y)}
				b.SetHold(name, h)
				holds[name] = h
				if x%3 == 0 {
					b.DeleteHold(name)
					delete(holds, name)
				}
			case 8: // a reservation that comes to nothing
				p := pod(t, name, 100+x, 500, "")
				if pods[uid] == nil {
					b.Reserve(p, v1alpha1.GPUAllocation{Node: at, Devices: []v1alpha1.GPUShare{{UUID: uuid, Milli: int64(1 + x), MemoryMiB: int64(y)}}})
					b.FleetFor(p)
					b.Release(uid)
					b.DeletePod(uid)
				}
			}
		}
		again := New(nil)
		for _, key := range slices.Sorted(maps.Keys(holds)) {
			again.SetHold(key, holds[key])
		}
		for _, uid := range slices.Sorted(maps.Keys(pods)) {
			again.SetPod(pods[uid])
		}
		for _, name := range slices.Sorted(maps.Keys(nodes)) {
			if err := again.SetNode(nodes[name]); err != nil {
				t.Fatal(err)
			}
		}
		b.Fleet()
		if x, y := left(b), left(again); x != y {
			t.Fatalf("left %s, told at once %s", x, y)
		}
		if x, y := complaints(b), complaints(again); x != y {
			t.Fatalf("says %s, told at once %s", x, y)
		}
		for name := range nodes {
			i, ok := b.Machine(name)
			j, same := again.Machine(name)
			if ok != same {
				t.Fatalf("node %s is a machine: %t and %t", name, ok, same)
			}
			if !ok {
				continue
			}
			x, y := *b.Fleet().Machine(i), *again.Fleet().Machine(j)
			x.ID, y.ID = 0, 0
			for k := range x.GPUs { // models are numbered as they come
				if b.Models().Name(x.Model[k]) != again.Models().Name(y.Model[k]) || b.Models().Memory(x.Model[k]) != again.Models().Memory(y.Model[k]) {
					t.Fatalf("device %d of %s is of another model", k, name)
				}
				x.Model[k], y.Model[k] = 0, 0
			}
			if x != y {
				t.Fatalf("node %s is %+v, told at once %+v", name, x, y)
			}
		}
	})
}
