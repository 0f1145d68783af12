package gpufit

import (
	"context"
	"testing"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/kube/convert"
)

// A stage is a scheduler's view of a cluster for tests.
type stage struct {
	fwk.SharedDRAManager
	fwk.ResourceClaimTracker
	slices []*resourceapi.ResourceSlice
	state  structured.AllocatedState
}

func (s *stage) ResourceClaims() fwk.ResourceClaimTracker { return s }
func (s *stage) ResourceSlices() fwk.ResourceSliceLister  { return s }
func (s *stage) DeviceClasses() fwk.DeviceClassLister     { return classes{} }
func (s *stage) ListWithDeviceTaintRules() ([]*resourceapi.ResourceSlice, error) {
	return s.slices, nil
}
func (s *stage) GatherAllocatedState() (*structured.AllocatedState, error) { return &s.state, nil }

// classes has one for every driver.
type classes struct{}

func (classes) List() ([]*resourceapi.DeviceClass, error) { return nil, nil }
func (classes) Get(name string) (*resourceapi.DeviceClass, error) {
	driver := v1alpha1.GPUDriver
	if name != v1alpha1.GPUDriver {
		driver = name
	}
	return &resourceapi.DeviceClass{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       resourceapi.DeviceClassSpec{Selectors: []resourceapi.DeviceSelector{{CEL: &resourceapi.CELDeviceSelector{Expression: "device.driver == '" + driver + "'"}}}},
	}, nil
}

// offer adds a machine whose driver offers GPUs of 16 GiB.
func (s *stage) offer(node string, devices ...v1alpha1.GPUDevice) {
	slice := &resourceapi.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: node}}
	slice.Spec = resourceapi.ResourceSliceSpec{Driver: v1alpha1.GPUDriver, NodeName: &node, Pool: resourceapi.ResourcePool{Name: node, Generation: 1, ResourceSliceCount: 1}}
	for _, d := range devices {
		slice.Spec.Devices = append(slice.Spec.Devices, convert.PublishedGPU(d))
	}
	s.slices = append(s.slices, slice)
}

func t4s(n int) []v1alpha1.GPUDevice {
	var out []v1alpha1.GPUDevice
	for i := range n {
		out = append(out, v1alpha1.GPUDevice{Index: int32(i), UUID: string(rune('a' + i)), Model: "T4", MemoryMiB: 16384, Healthy: true})
	}
	return out
}

// allocate asks Kubernetes' allocator what it would take through the keyhole.
func allocate(t *testing.T, s *stage, chosen pins, node string, claims ...*resourceapi.ResourceClaim) []resourceapi.DeviceRequestAllocationResult {
	t.Helper()
	view := &keyhole{SharedDRAManager: s}
	view.turn(chosen)
	state, err := view.ResourceClaims().GatherAllocatedState()
	if err != nil {
		t.Fatal(err)
	}
	slices, err := view.ResourceSlices().ListWithDeviceTaintRules()
	if err != nil {
		t.Fatal(err)
	}
	features := structured.Features{PrioritizedList: true, DeviceTaints: true, ConsumableCapacity: true, PartitionableDevices: true, AdminAccess: true}
	a, err := structured.NewAllocator(t.Context(), features, *state, classes{}, slices, cel.NewCache(10, cel.Features{EnableConsumableCapacity: true}))
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Allocate(context.Background(), &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, claims)
	if err != nil {
		t.Fatal(err)
	}
	var out []resourceapi.DeviceRequestAllocationResult
	for _, r := range got {
		out = append(out, r.Devices.Results...)
	}
	return out
}

func request(count int64, selector string, capacity ...string) *resourceapi.ResourceClaim {
	r := &resourceapi.ExactDeviceRequest{DeviceClassName: v1alpha1.GPUDriver, AllocationMode: resourceapi.DeviceAllocationModeExactCount, Count: count}
	if selector != "" {
		r.Selectors = []resourceapi.DeviceSelector{{CEL: &resourceapi.CELDeviceSelector{Expression: selector}}}
	}
	for i := 0; i < len(capacity); i += 2 {
		if r.Capacity == nil {
			r.Capacity = &resourceapi.CapacityRequirements{Requests: map[resourceapi.QualifiedName]apiresource.Quantity{}}
		}
		r.Capacity.Requests[resourceapi.QualifiedName(capacity[i])] = apiresource.MustParse(capacity[i+1])
	}
	c := &resourceapi.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c", UID: "c"}}
	c.Spec.Devices.Requests = []resourceapi.DeviceRequest{{Name: "gpu", Exactly: r}}
	return c
}

// TestThroughTheKeyhole runs Kubernetes' own allocator: it takes what was chosen, and
// as much as was decided, or nothing.
func TestThroughTheKeyhole(t *testing.T) {
	cases := map[string]struct {
		claim  *resourceapi.ResourceClaim
		chosen pins
		want   map[string][2]int64 // milli and MiB by device
	}{
		"not the first that fits": {
			request(1, "", "milli", "300", "memory", "4Gi"), pins{"n1": {[]string{"gpu-2"}, 300, 4096}},
			map[string][2]int64{"gpu-2": {300, 4096}},
		},
		"as much as the model needs, not as the claim says": {
			request(1, "", "milli", "300"), pins{"n1": {[]string{"gpu-1"}, 650, 8192}},
			map[string][2]int64{"gpu-1": {650, 8192}},
		},
		"what the claim leaves out": {
			request(1, ""), pins{"n1": {[]string{"gpu-1"}, 650, 8192}},
			map[string][2]int64{"gpu-1": {650, 8192}},
		},
		"a whole GPU": {
			request(1, ""), pins{"n1": {[]string{"gpu-3"}, 1000, 0}},
			map[string][2]int64{"gpu-3": {1000, 16384}},
		},
		"pieces of several GPUs are on several, without a constraint": {
			request(2, "", "milli", "300", "memory", "4Gi"), pins{"n1": {[]string{"gpu-1", "gpu-3"}, 300, 4096}},
			map[string][2]int64{"gpu-1": {300, 4096}, "gpu-3": {300, 4096}},
		},
		"selectors see what the GPU has": {
			request(1, "device.attributes['gpu.neap.dev'].model == 'T4' && device.capacity['gpu.neap.dev'].memory.compareTo(quantity('16Gi')) == 0", "milli", "300", "memory", "4Gi"),
			pins{"n1": {[]string{"gpu-2"}, 300, 4096}},
			map[string][2]int64{"gpu-2": {300, 4096}},
		},
		"a selector that the chosen one fails": {
			request(1, "device.attributes['gpu.neap.dev'].uuid == 'a'", "milli", "300"), pins{"n1": {[]string{"gpu-2"}, 300, 4096}}, nil,
		},
		"nothing was chosen":                  {request(1, "", "milli", "300"), nil, nil},
		"something was chosen elsewhere":      {request(1, "", "milli", "300"), pins{"n2": {[]string{"gpu-2"}, 300, 4096}}, nil},
		"a GPU that is not there any more":    {request(1, "", "milli", "300"), pins{"n1": {[]string{"gpu-9"}, 300, 4096}}, nil},
		"a GPU that is tainted":               {request(1, "", "milli", "300"), pins{"n1": {[]string{"gpu-4"}, 300, 4096}}, nil},
		"the claim asks for more than chosen": {request(1, "", "milli", "301"), pins{"n1": {[]string{"gpu-2"}, 300, 4096}}, nil},
	}
	s := new(stage)
	devices := t4s(5)
	devices[4].Healthy = false
	s.offer("n1", devices...)
	s.offer("n2", t4s(4)...)
	// What Kubernetes thinks is taken is GPUFit's to know.
	s.state = structured.AllocatedState{AllocatedDevices: sets.New(structured.MakeDeviceID(v1alpha1.GPUDriver, "n1", "gpu-2"))}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := map[string][2]int64{}
			for _, r := range allocate(t, s, tc.chosen, "n1", tc.claim) {
				milli, memory := r.ConsumedCapacity["milli"], r.ConsumedCapacity["memory"]
				if _, twice := got[r.Device]; twice || r.ShareID == nil {
					t.Errorf("result %+v", r)
				}
				got[r.Device] = [2]int64{milli.Value(), memory.Value() >> 20}
			}
			if len(got) != len(tc.want) {
				t.Fatalf("got %v, want %v", got, tc.want)
			}
			for d, want := range tc.want {
				if got[d] != want {
					t.Errorf("got %v, want %v", got, tc.want)
				}
			}
		})
	}
}

// TestFirstFitStrands shows what the keyhole is for: the allocator without it takes
// the empty GPU that comes first, and a whole GPU is then to be had nowhere.
func TestFirstFitStrands(t *testing.T) {
	s := new(stage)
	s.offer("n1", t4s(2)...)
	id := structured.MakeDeviceID(v1alpha1.GPUDriver, "n1", "gpu-1")
	s.state = structured.AllocatedState{AllocatedDevices: sets.New[structured.DeviceID](), AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](), AggregatedCapacity: structured.NewConsumedCapacityCollection()}
	s.state.AggregatedCapacity.Insert(structured.NewDeviceConsumedCapacity(id, map[resourceapi.QualifiedName]apiresource.Quantity{"milli": apiresource.MustParse("700"), "memory": apiresource.MustParse("8Gi")}))
	features := structured.Features{ConsumableCapacity: true}
	a, err := structured.NewAllocator(t.Context(), features, s.state, classes{}, s.slices, cel.NewCache(10, cel.Features{EnableConsumableCapacity: true}))
	if err != nil {
		t.Fatal(err)
	}
	small := request(1, "", "milli", "300", "memory", "4Gi")
	got, err := a.Allocate(t.Context(), &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, []*resourceapi.ResourceClaim{small})
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	if d := got[0].Devices.Results[0].Device; d != "gpu-0" {
		t.Errorf("Kubernetes took %s: it is not first-fit any more, and the keyhole may be closed for good", d)
	}
	has := gpu.Machine{CPU: 1, GPUs: 2, Idle: [gpu.MaxDevices]int16{1000, 1000}, IdleMemory: [gpu.MaxDevices]int32{16384, 16384}}
	mix := []gpu.Share{{Demand: gpu.Demand{Devices: 1, Milli: 1000}, Count: 1}, {Demand: gpu.Demand{Devices: 1, Milli: 300, DeviceMemory: 4096}, Count: 1}}
	fleet := gpu.NewFleet([]gpu.Machine{has}, gpu.NewNeap([]gpu.Machine{has}, mix, 0))
	if err := fleet.Place(gpu.Demand{Devices: 1, Milli: 700, DeviceMemory: 8192}, gpu.Spot{Devices: 2}); err != nil {
		t.Fatal(err)
	}
	best := fleet.Best([]gpu.Demand{{Devices: 1, Milli: 300, DeviceMemory: 4096}}, 1, nil)
	if len(best) != 1 || best[0].Spot.Devices != 2 {
		t.Errorf("Neap chose %+v", best)
	}
}

func TestDevicesOfOtherDriversAreAsEver(t *testing.T) {
	s := new(stage)
	s.offer("n1", t4s(1)...)
	node := "n1"
	s.slices = append(s.slices, &resourceapi.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "nic"},
		Spec: resourceapi.ResourceSliceSpec{Driver: "nic.example.com", NodeName: &node, Pool: resourceapi.ResourcePool{Name: node, Generation: 1, ResourceSliceCount: 1},
			Devices: []resourceapi.Device{{Name: "nic-0"}, {Name: "nic-1"}}},
	})
	s.state = structured.AllocatedState{
		AllocatedDevices:         sets.New(structured.MakeDeviceID("nic.example.com", "n1", "nic-0")),
		AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity:       structured.NewConsumedCapacityCollection(),
	}
	nic := request(1, "")
	nic.Spec.Devices.Requests[0].Exactly.DeviceClassName = "nic.example.com"
	got := allocate(t, s, pins{"n1": {[]string{"gpu-0"}, 300, 4096}}, "n1", nic, request(1, "", "milli", "300"))
	if len(got) != 2 || got[0].Device != "nic-1" || got[1].Device != "gpu-0" {
		t.Errorf("got %+v", got)
	}
}
