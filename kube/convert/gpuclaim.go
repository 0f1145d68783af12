package convert

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/core/resource"
)

// mebi is the bytes of a MiB.
const mebi = 1 << 20

// PublishedGPU returns a GPU as Neap's DRA driver puts it into a ResourceSlice: a
// device that many claims share, each consuming compute and memory of it. A claim
// that leaves out both takes it whole; one that is sick is tainted.
func PublishedGPU(d v1alpha1.GPUDevice) resourceapi.Device {
	index := int64(d.Index)
	out := resourceapi.Device{
		Name: GPUDeviceName(int(d.Index)),
		Attributes: map[resourceapi.QualifiedName]resourceapi.DeviceAttribute{
			v1alpha1.AttributeGPUUUID:  {StringValue: clipped(d.UUID)},
			v1alpha1.AttributeGPUModel: {StringValue: clipped(GPUModelName(d.Model))},
			v1alpha1.AttributeGPUIndex: {IntValue: &index},
		},
		AllowMultipleAllocations: new(true),
		Capacity: map[resourceapi.QualifiedName]resourceapi.DeviceCapacity{
			v1alpha1.CapacityGPUMilli: shareable(apiresource.NewQuantity(gpu.Whole, apiresource.DecimalSI), 1),
		},
	}
	// A capacity needs room for two steps.
	if d.MemoryMiB > 1 {
		out.Capacity[v1alpha1.CapacityGPUMemory] = shareable(apiresource.NewQuantity(d.MemoryMiB*mebi, apiresource.BinarySI), mebi)
	}
	if !d.Healthy {
		out.Taints = []resourceapi.DeviceTaint{{Key: v1alpha1.TaintGPUUnhealthy, Effect: resourceapi.DeviceTaintEffectNoSchedule}}
	}
	return out
}

// GPUDeviceClass returns the class of all GPUs of Neap's driver.
func GPUDeviceClass() *resourceapi.DeviceClass {
	c := &resourceapi.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.GPUDriver}}
	c.Spec.Selectors = []resourceapi.DeviceSelector{{CEL: &resourceapi.CELDeviceSelector{Expression: "device.driver == '" + v1alpha1.GPUDriver + "'"}}}
	return c
}

// shareable returns so much of something in steps, all of it if a claim does not
// say how much.
func shareable(all *apiresource.Quantity, step int64) resourceapi.DeviceCapacity {
	one := apiresource.NewQuantity(step, all.Format)
	return resourceapi.DeviceCapacity{Value: *all, RequestPolicy: &resourceapi.CapacityRequestPolicy{
		Default:    all,
		ValidRange: &resourceapi.CapacityRequestPolicyRange{Min: one, Max: all, Step: one},
	}}
}

// clipped returns s as an attribute can hold it.
func clipped(s string) *string {
	s = s[:min(len(s), resourceapi.DeviceAttributeMaxValueLength)]
	return &s
}

const gpuDevicePrefix = "gpu-"

// GPUDeviceName returns how Neap's driver calls the GPU with an index.
func GPUDeviceName(index int) string { return gpuDevicePrefix + strconv.Itoa(index) }

// gpuDeviceIndex returns the index of the GPU that Neap's driver calls name.
func gpuDeviceIndex(name string) (int, error) {
	digits, ok := strings.CutPrefix(name, gpuDevicePrefix)
	i, err := strconv.Atoi(digits)
	if !ok || err != nil || i < 0 || i >= gpu.MaxDevices || strconv.Itoa(i) != digits {
		return 0, fmt.Errorf("%q is no device of %s: they are called %s0 to %s%d", name, v1alpha1.GPUDriver, gpuDevicePrefix, gpuDevicePrefix, gpu.MaxDevices-1)
	}
	return i, nil
}

// A GPUClaimShare is what a claim holds of one GPU.
type GPUClaimShare struct {
	Request string // of the claim, with the subrequest after a stroke
	Device  string // as the driver calls it
	ShareID string // "" where the GPU was allocated as one that cannot be shared
	Index   int    // among the GPUs of the node
	// Milli and MemoryMiB are what is consumed. MemoryMiB is 0 for all there is,
	// and both are 0 where the claim has administrative access, which takes nothing.
	Milli, MemoryMiB int64
}

// GPUClaimShares returns what a claim was allocated of Neap's driver, and on which
// node; nothing for a claim that was not. The error names the claim and says why
// its allocation makes no sense.
func GPUClaimShares(claim *resourceapi.ResourceClaim) (node string, shares []GPUClaimShare, err error) {
	if claim.Status.Allocation == nil {
		return "", nil, nil
	}
	fail := func(err error) (string, []GPUClaimShare, error) {
		return "", nil, fmt.Errorf("claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	for _, r := range claim.Status.Allocation.Devices.Results {
		if r.Driver != v1alpha1.GPUDriver {
			continue
		}
		index, err := gpuDeviceIndex(r.Device)
		if err != nil {
			return fail(err)
		}
		if node != "" && node != r.Pool {
			return fail(fmt.Errorf("it has GPUs of %s and of %s", node, r.Pool))
		}
		node = r.Pool
		s := GPUClaimShare{Request: r.Request, Device: r.Device, Index: index, Milli: gpu.Whole}
		if r.ShareID != nil {
			s.ShareID = string(*r.ShareID)
		}
		if r.AdminAccess != nil && *r.AdminAccess {
			s.Milli = 0
		} else if err := s.consume(r.ConsumedCapacity); err != nil {
			return fail(fmt.Errorf("%s: %w", r.Device, err))
		}
		shares = append(shares, s)
	}
	return node, shares, nil
}

// consume reads consumed capacity, none of which means all.
func (s *GPUClaimShare) consume(consumed map[resourceapi.QualifiedName]apiresource.Quantity) error {
	if q, ok := consumed[v1alpha1.CapacityGPUMilli]; ok {
		if s.Milli = q.Value(); s.Milli < 1 || s.Milli > gpu.Whole {
			return fmt.Errorf("%s of %s is consumed, not 1 to %d", q.String(), v1alpha1.CapacityGPUMilli, gpu.Whole)
		}
	}
	if q, ok := consumed[v1alpha1.CapacityGPUMemory]; ok {
		if q.Sign() <= 0 || q.AsApproximateFloat64() > mostGPUMemory*mebi {
			return fmt.Errorf("%s of %s is consumed, not 1 to %d MiB", q.String(), v1alpha1.CapacityGPUMemory, mostGPUMemory)
		}
		s.MemoryMiB = (q.Value() + mebi - 1) / mebi
	}
	return nil
}

// A GPUClaimAsk is one way in which a claim's request for GPUs may be served.
type GPUClaimAsk struct {
	Request          string // with the subrequest after a stroke
	Class            string
	Selectors        []resourceapi.DeviceSelector
	Devices          int
	Milli, MemoryMiB int64 // of each; 0 where not said
}

// GPUClaimAsks returns the ways to serve the requests of claims that are for GPUs
// of Neap's driver, by ours: of one request all its alternatives, in their order.
// There are none if no request is. The error says in one sentence what Neap's
// scheduler cannot place.
func GPUClaimAsks(claims []*resourceapi.ResourceClaim, ours func(class string, selectors []resourceapi.DeviceSelector) bool) ([]GPUClaimAsk, error) {
	var out []GPUClaimAsk
	taken := ""
	for _, claim := range claims {
		for _, r := range claim.Spec.Devices.Requests {
			asks, err := asksOf(&r, ours)
			if err != nil {
				return nil, fmt.Errorf("claim %s, request %s: %w", claim.Name, r.Name, err)
			}
			if len(asks) == 0 {
				continue
			}
			if taken != "" {
				return nil, fmt.Errorf("claim %s asks for GPUs in request %s, and claim %s does already: a pod has one request for GPUs, which may have a count and may be shared by its containers", claim.Name, r.Name, taken)
			}
			taken, out = claim.Name, asks
		}
	}
	return out, nil
}

// asksOf returns the alternatives of a request.
func asksOf(r *resourceapi.DeviceRequest, ours func(string, []resourceapi.DeviceSelector) bool) ([]GPUClaimAsk, error) {
	if e := r.Exactly; e != nil {
		if !ours(e.DeviceClassName, e.Selectors) {
			return nil, nil
		}
		if e.AdminAccess != nil && *e.AdminAccess {
			return nil, errors.New("administrative access to GPUs is not something Neap's scheduler gives: leave the pod to another scheduler")
		}
		ask, err := askOf(r.Name, e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Capacity)
		return []GPUClaimAsk{ask}, err
	}
	var out []GPUClaimAsk
	for _, s := range r.FirstAvailable {
		if !ours(s.DeviceClassName, s.Selectors) {
			continue
		}
		ask, err := askOf(r.Name+"/"+s.Name, s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Capacity)
		if err != nil {
			return nil, err
		}
		out = append(out, ask)
	}
	if len(out) > 0 && len(out) < len(r.FirstAvailable) {
		return nil, errors.New("some of the alternatives are not GPUs of Neap's driver: let all be, or none")
	}
	return out, nil
}

// askOf reads what an alternative says.
func askOf(name, class string, selectors []resourceapi.DeviceSelector, mode resourceapi.DeviceAllocationMode, count int64, capacity *resourceapi.CapacityRequirements) (GPUClaimAsk, error) {
	ask := GPUClaimAsk{Request: name, Class: class, Selectors: selectors, Devices: int(count)}
	switch {
	case mode != "" && mode != resourceapi.DeviceAllocationModeExactCount:
		return ask, fmt.Errorf("allocation mode %s of GPUs is not something Neap's scheduler can place: give a count", mode)
	case count == 0: // what the API server puts there is 1
		ask.Devices = 1
	case count < 0 || count > gpu.MaxDevices:
		return ask, fmt.Errorf("%d GPUs: a machine has at most %d", count, gpu.MaxDevices)
	}
	if capacity == nil {
		return ask, nil
	}
	for name, q := range capacity.Requests {
		switch name {
		case v1alpha1.CapacityGPUMilli:
			if q.Sign() <= 0 || q.AsApproximateFloat64() > gpu.Whole || q.MilliValue()%1000 != 0 {
				return ask, fmt.Errorf("%s of capacity %s: give a whole number from 1 to %d", q.String(), name, gpu.Whole)
			}
			ask.Milli = q.Value()
		case v1alpha1.CapacityGPUMemory:
			if q.Sign() <= 0 || q.AsApproximateFloat64() > mostGPUMemory*mebi {
				return ask, fmt.Errorf("%s of capacity %s: give 1 to %d MiB", q.String(), name, mostGPUMemory)
			}
			ask.MemoryMiB = (q.Value() + mebi - 1) / mebi
		default:
			return ask, fmt.Errorf("capacity %s: a GPU has %s and %s", name, v1alpha1.CapacityGPUMilli, v1alpha1.CapacityGPUMemory)
		}
	}
	return ask, nil
}

// GPUClaimDemands returns the demands of which a pod needs one, like [GPURequest],
// where it asks for GPUs by a claim. kinds[i] are the kinds of GPUs that asks[i]
// accepts; a kind that several accept is served as the first of them says. What an
// ask leaves out follows from the other amount, or from the pod's annotation
// [v1alpha1.AnnotationGPUModels]; one that leaves out both is for whole GPUs.
func GPUClaimDemands(pod *corev1.Pod, asks []GPUClaimAsk, kinds []gpu.Models, known *GPUModels) ([]gpu.Demand, error) {
	if a, err := asked(pod); err != nil {
		return nil, err
	} else if a != nil {
		return nil, fmt.Errorf("the pod asks for GPUs by a claim and by the resources %s or %s: use one of them", v1alpha1.ResourceGPUMilli, v1alpha1.ResourceGPUMemory)
	}
	list := []wish{{}} // any model
	if models, named := pod.Annotations[v1alpha1.AnnotationGPUModels]; named {
		var err error
		if list, err = wishes(models); err != nil {
			return nil, err
		}
	}
	total := Request(pod)
	var out []gpu.Demand
	var short error
	var served gpu.Models
	for i, ask := range asks {
		base := gpu.Demand{CPU: total[resource.CPU], Memory: total[resource.Memory], Devices: ask.Devices}
		for _, w := range list {
			set := kinds[i]
			if w.name != "" {
				set &= known.Named(w.name)
			}
			set &^= served
			if set == 0 {
				continue
			}
			a := ask.asking(w)
			more, err := a.alternatives(base, w, set, known)
			if err != nil {
				return nil, err
			}
			if len(more) == 0 && short == nil {
				short = a.none(w, set, known)
			}
			for _, d := range more {
				if d.Models == 0 { // any of the set
					d.Models = set
				}
				served |= d.Models
				out = addDemand(out, d)
			}
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case short != nil:
		return nil, short
	default:
		return nil, fmt.Errorf("%w: the claim accepts no GPU that there is: %s", ErrNoSuchGPU, known.list())
	}
}

// asking returns the ask in the words of a pod's resources, per GPU.
func (k GPUClaimAsk) asking(w wish) *asking {
	p := ask{milli: k.Milli, memory: k.MemoryMiB}
	switch {
	case k.Milli == 0 && k.MemoryMiB == 0 && w.milli == 0:
		p.milli, p.milliOnly = gpu.Whole, gpu.Whole
	case k.MemoryMiB == 0:
		p.milliOnly = k.Milli
	case k.Milli == 0:
		p.memoryOnly = k.MemoryMiB
	}
	return &asking{devices: int64(k.Devices), parts: []part{{k.Request, p}}, phases: []ask{p}}
}
