package convert

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
)

func always(string, []resourceapi.DeviceSelector) bool { return true }

// claimFor returns a claim with one request for count GPUs and so much of each.
func claimFor(count int64, capacity map[string]string) *resourceapi.ResourceClaim {
	r := &resourceapi.ExactDeviceRequest{DeviceClassName: v1alpha1.GPUDriver, Count: count}
	for name, value := range capacity {
		if r.Capacity == nil {
			r.Capacity = &resourceapi.CapacityRequirements{Requests: map[resourceapi.QualifiedName]apiresource.Quantity{}}
		}
		r.Capacity.Requests[resourceapi.QualifiedName(name)] = apiresource.MustParse(value)
	}
	c := &resourceapi.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c", UID: "c"}}
	c.Spec.Devices.Requests = []resourceapi.DeviceRequest{{Name: "gpu", Exactly: r}}
	return c
}

// known is T4 of 16 GiB, G3 of 32 and A100 of 40 and of 80.
func kindsOfGPUs(t *testing.T) *GPUModels {
	t.Helper()
	var c GPUModels
	for _, k := range []struct {
		model string
		mib   int64
	}{{"T4", 16384}, {"G3", 32768}, {"A100", 40960}, {"A100", 81920}} {
		if _, err := c.Add(k.model, k.mib); err != nil {
			t.Fatal(err)
		}
	}
	return &c
}

func TestGPUClaimDemands(t *testing.T) {
	known := kindsOfGPUs(t)
	const t4, g3, a40, a80 = 1, 2, 4, 8
	cases := map[string]struct {
		claim  *resourceapi.ResourceClaim
		kinds  gpu.Models // 0: all
		models string     // annotation
		want   []gpu.Demand
	}{
		"a claim that says both": {
			claim: claimFor(1, map[string]string{"milli": "300", "memory": "4Gi"}),
			want:  []gpu.Demand{{Devices: 1, Milli: 300, DeviceMemory: 4096, Models: t4 | g3 | a40 | a80}},
		},
		"memory that is no whole MiB is rounded up": {
			claim: claimFor(1, map[string]string{"milli": "300", "memory": "1000001"}),
			want:  []gpu.Demand{{Devices: 1, Milli: 300, DeviceMemory: 1, Models: t4 | g3 | a40 | a80}},
		},
		"memory alone takes compute in proportion": {
			claim: claimFor(1, map[string]string{"memory": "16Gi"}),
			want: []gpu.Demand{
				{Devices: 1, Milli: 1000, DeviceMemory: 16384, Models: t4},
				{Devices: 1, Milli: 500, DeviceMemory: 16384, Models: g3},
				{Devices: 1, Milli: 400, DeviceMemory: 16384, Models: a40},
				{Devices: 1, Milli: 200, DeviceMemory: 16384, Models: a80},
			},
		},
		"compute alone takes memory in proportion": {
			claim: claimFor(1, map[string]string{"milli": "500"}), kinds: t4 | g3,
			want: []gpu.Demand{
				{Devices: 1, Milli: 500, DeviceMemory: 8192, Models: t4},
				{Devices: 1, Milli: 500, DeviceMemory: 16384, Models: g3},
			},
		},
		"a claim that says nothing takes whole GPUs": {
			claim: claimFor(2, nil),
			want:  []gpu.Demand{{Devices: 2, Milli: 1000, Models: t4 | g3 | a40 | a80}},
		},
		"pieces of several GPUs": {
			claim: claimFor(2, map[string]string{"milli": "300", "memory": "4Gi"}), kinds: a80,
			want: []gpu.Demand{{Devices: 2, Milli: 300, DeviceMemory: 4096, Models: a80}},
		},
		"the selectors leave kinds out": {
			claim: claimFor(1, map[string]string{"milli": "300", "memory": "20Gi"}), kinds: t4 | a80,
			want: []gpu.Demand{{Devices: 1, Milli: 300, DeviceMemory: 20480, Models: t4 | a80}},
		},
		"the pod's annotation gives every model its demand": {
			claim: claimFor(1, nil), models: "T4=650/8192, G3=300/6144",
			want: []gpu.Demand{
				{Devices: 1, Milli: 650, DeviceMemory: 8192, Models: t4},
				{Devices: 1, Milli: 300, DeviceMemory: 6144, Models: g3},
			},
		},
		"the annotation raises what the claim says": {
			claim: claimFor(1, map[string]string{"milli": "300", "memory": "4Gi"}), models: "T4=650, G3",
			want: []gpu.Demand{
				{Devices: 1, Milli: 650, DeviceMemory: 4096, Models: t4},
				{Devices: 1, Milli: 300, DeviceMemory: 4096, Models: g3},
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.kinds == 0 {
				tc.kinds = known.all()
			}
			pod := &corev1.Pod{}
			if tc.models != "" {
				pod.Annotations = map[string]string{v1alpha1.AnnotationGPUModels: tc.models}
			}
			asks, err := GPUClaimAsks([]*resourceapi.ResourceClaim{tc.claim}, always)
			if err != nil {
				t.Fatal(err)
			}
			got, err := GPUClaimDemands(pod, asks, []gpu.Models{tc.kinds}, known)
			if err != nil {
				t.Fatal(err)
			}
			// A set of kinds some of which are too small is as good as one without them.
			for i := range got {
				for m := range kinds(got[i].Models) {
					if known.Memory(m) < got[i].DeviceMemory {
						got[i].Models &^= gpu.Models(0).With(m)
					}
				}
			}
			for i := range tc.want {
				for m := range kinds(tc.want[i].Models) {
					if known.Memory(m) < tc.want[i].DeviceMemory {
						tc.want[i].Models &^= gpu.Models(0).With(m)
					}
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAlternativesOfAClaim(t *testing.T) {
	known := kindsOfGPUs(t)
	claim := claimFor(1, nil)
	claim.Spec.Devices.Requests[0] = resourceapi.DeviceRequest{Name: "gpu", FirstAvailable: []resourceapi.DeviceSubRequest{
		{Name: "small", DeviceClassName: "gpu.neap.dev", Capacity: &resourceapi.CapacityRequirements{Requests: map[resourceapi.QualifiedName]apiresource.Quantity{"milli": apiresource.MustParse("650"), "memory": apiresource.MustParse("8Gi")}}},
		{Name: "large", DeviceClassName: "gpu.neap.dev", Capacity: &resourceapi.CapacityRequirements{Requests: map[resourceapi.QualifiedName]apiresource.Quantity{"milli": apiresource.MustParse("300"), "memory": apiresource.MustParse("6Gi")}}},
	}}
	asks, err := GPUClaimAsks([]*resourceapi.ResourceClaim{claim}, always)
	if err != nil {
		t.Fatal(err)
	}
	if len(asks) != 2 || asks[0].Request != "gpu/small" || asks[1].Request != "gpu/large" {
		t.Fatalf("asks are %+v", asks)
	}
	// The T4 is what the first of them says it is; the second has the rest.
	got, err := GPUClaimDemands(&corev1.Pod{}, asks, []gpu.Models{1, 1 | 2}, known)
	if err != nil {
		t.Fatal(err)
	}
	want := []gpu.Demand{{Devices: 1, Milli: 650, DeviceMemory: 8192, Models: 1}, {Devices: 1, Milli: 300, DeviceMemory: 6144, Models: 2}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestClaimsThatCannotBePlaced(t *testing.T) {
	yes := true
	with := func(edit func(*resourceapi.ResourceClaim)) []*resourceapi.ResourceClaim {
		c := claimFor(1, map[string]string{"milli": "300", "memory": "4Gi"})
		edit(c)
		return []*resourceapi.ResourceClaim{c}
	}
	cases := map[string]struct {
		claims []*resourceapi.ResourceClaim
		pod    *corev1.Pod
		kinds  gpu.Models
		want   string
	}{
		"all GPUs": {claims: with(func(c *resourceapi.ResourceClaim) {
			c.Spec.Devices.Requests[0].Exactly.AllocationMode = resourceapi.DeviceAllocationModeAll
		}), want: "give a count"},
		"more GPUs than a machine has": {claims: []*resourceapi.ResourceClaim{claimFor(17, nil)}, want: "at most 16"},
		"a negative count":             {claims: []*resourceapi.ResourceClaim{claimFor(-1, nil)}, want: "-1 GPUs"},
		"administrative access": {claims: with(func(c *resourceapi.ResourceClaim) {
			c.Spec.Devices.Requests[0].Exactly.AdminAccess = &yes
		}), want: "administrative access"},
		"more than a GPU":                  {claims: []*resourceapi.ResourceClaim{claimFor(1, map[string]string{"milli": "1001"})}, want: "1 to 1000"},
		"less than a thousandth":           {claims: []*resourceapi.ResourceClaim{claimFor(1, map[string]string{"milli": "500m"})}, want: "1 to 1000"},
		"no memory":                        {claims: []*resourceapi.ResourceClaim{claimFor(1, map[string]string{"memory": "0"})}, want: "give 1 to"},
		"more memory than any number of":   {claims: []*resourceapi.ResourceClaim{claimFor(1, map[string]string{"memory": "9E"})}, want: "give 1 to"},
		"a capacity that there is not":     {claims: []*resourceapi.ResourceClaim{claimFor(1, map[string]string{"gpu.neap.dev/milli": "3"})}, want: "a GPU has milli and memory"},
		"two claims for GPUs":              {claims: []*resourceapi.ResourceClaim{claimFor(1, nil), claimFor(1, nil)}, want: "one request for GPUs"},
		"a claim and resources":            {claims: []*resourceapi.ResourceClaim{claimFor(1, nil)}, pod: asking300(), want: "use one of them"},
		"no kind is accepted":              {claims: []*resourceapi.ResourceClaim{claimFor(1, nil)}, kinds: 1 << 40, want: "accepts no GPU that there is"},
		"more memory than any GPU has":     {claims: []*resourceapi.ResourceClaim{claimFor(1, map[string]string{"milli": "300", "memory": "200Gi"})}, want: "the largest has 81920"},
		"an annotation that asks for less": {claims: []*resourceapi.ResourceClaim{claimFor(1, map[string]string{"milli": "300"})}, pod: wanting("T4=200"), want: "less than the 300"},
		"an annotation that is none":       {claims: []*resourceapi.ResourceClaim{claimFor(1, nil)}, pod: wanting("T4=much"), want: "give 1 to 1000"},
	}
	known := kindsOfGPUs(t)
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.pod == nil {
				tc.pod = &corev1.Pod{}
			}
			if tc.kinds == 0 {
				tc.kinds = known.all()
			}
			asks, err := GPUClaimAsks(tc.claims, always)
			if err == nil {
				_, err = GPUClaimDemands(tc.pod, asks, []gpu.Models{tc.kinds & known.all()}, known)
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	if _, err := GPUClaimDemands(&corev1.Pod{}, nil, nil, known); !errors.Is(err, ErrNoSuchGPU) {
		t.Errorf("a claim that no GPU can serve: %v", err)
	}
}

func asking300() *corev1.Pod {
	p := &corev1.Pod{}
	p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{v1alpha1.ResourceGPUMilli: apiresource.MustParse("300")}}}}
	return p
}

func wanting(models string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.AnnotationGPUModels: models}}}
}

// FuzzGPUClaim: whatever stands in a claim is read or refused; what is read can be
// had of a GPU.
func FuzzGPUClaim(f *testing.F) {
	add := func(c *resourceapi.ResourceClaim, models string) {
		raw, err := json.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, models)
	}
	c := claimFor(2, map[string]string{"milli": "300", "memory": "4Gi"})
	add(c, "")
	add(claimFor(1, nil), "T4=650/8192, G3")
	c.Status.Allocation = &resourceapi.AllocationResult{Devices: resourceapi.DeviceAllocationResult{Results: []resourceapi.DeviceRequestAllocationResult{{
		Request: "gpu", Driver: v1alpha1.GPUDriver, Pool: "n1", Device: "gpu-0",
		ConsumedCapacity: map[resourceapi.QualifiedName]apiresource.Quantity{"milli": apiresource.MustParse("300"), "memory": apiresource.MustParse("4Gi")},
	}}}}
	add(c, "")
	f.Fuzz(func(t *testing.T, raw []byte, models string) {
		var c resourceapi.ResourceClaim
		if json.Unmarshal(raw, &c) != nil {
			return
		}
		if _, shares, err := GPUClaimShares(&c); err == nil {
			for _, s := range shares {
				if s.Index < 0 || s.Index >= gpu.MaxDevices || s.Milli < 0 || s.Milli > gpu.Whole || s.MemoryMiB < 0 {
					t.Errorf("read %+v", s)
				}
			}
		}
		asks, err := GPUClaimAsks([]*resourceapi.ResourceClaim{&c}, always)
		if err != nil {
			return
		}
		known := kindsOfGPUs(t)
		accepted := make([]gpu.Models, len(asks))
		for i := range accepted {
			accepted[i] = known.all()
		}
		demands, err := GPUClaimDemands(wanting(models), asks, accepted, known)
		if err != nil {
			return
		}
		for _, d := range demands {
			if err := d.Validate(); err != nil {
				t.Errorf("%+v: %v", d, err)
			}
		}
	})
}
