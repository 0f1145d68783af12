package gpufit

import (
	"context"
	"errors"
	"maps"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/dynamic-resource-allocation/structured"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/dynamicresources"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/feature"

	"github.com/neap-dev/neap/api/v1alpha1"
)

// ClaimsName is the name of [Claims] in a scheduler configuration.
const ClaimsName = "GPUClaims"

// Claims is Kubernetes' plugin for claims, DynamicResources, behind a keyhole. That
// plugin allocates the first device that fits, so that first-fit decides which GPU a
// claim gets. Behind the keyhole it sees of Neap's GPUs only those that [GPUFit]
// chose for the pod, on each node that GPUFit takes into account, with exactly as
// much left as GPUFit gives. So it allocates what was chosen, or nothing; and
// everything else, from validation to what is written when and what is undone after a
// failure, is Kubernetes' own code.
//
// It takes the place of DynamicResources in a profile, behind GPUFit. Devices of
// other drivers it allocates as ever.
type Claims struct {
	*dynamicresources.DynamicResources
	view *keyhole
}

var (
	_ fwk.PreEnqueuePlugin  = (*Claims)(nil)
	_ fwk.PreFilterPlugin   = (*Claims)(nil)
	_ fwk.FilterPlugin      = (*Claims)(nil)
	_ fwk.PostFilterPlugin  = (*Claims)(nil)
	_ fwk.ScorePlugin       = (*Claims)(nil)
	_ fwk.ReservePlugin     = (*Claims)(nil)
	_ fwk.PreBindPlugin     = (*Claims)(nil)
	_ fwk.EnqueueExtensions = (*Claims)(nil)
	_ fwk.SignPlugin        = (*Claims)(nil)
)

// NewClaims returns the plugin. It has no arguments; the time-outs are those that
// DynamicResources has by default.
func NewClaims(ctx context.Context, _ runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	features := feature.NewSchedulerFeaturesFromGates(utilfeature.DefaultFeatureGate)
	if features.EnableDynamicResourceAllocation && !features.EnableDRAConsumableCapacity {
		return nil, errors.New("GPUClaims needs the feature DRAConsumableCapacity: without it claims cannot share a GPU")
	}
	view := &keyhole{SharedDRAManager: h.SharedDRAManager()}
	inner, err := dynamicresources.New(ctx, &config.DynamicResourcesArgs{
		FilterTimeout:  &metav1.Duration{Duration: config.DynamicResourcesFilterTimeoutDefault},
		BindingTimeout: &metav1.Duration{Duration: config.DynamicResourcesBindingTimeoutDefault},
	}, &behind{h, view}, features)
	if err != nil {
		return nil, err
	}
	return &Claims{inner.(*dynamicresources.DynamicResources), view}, nil
}

// Name implements [fwk.Plugin].
func (*Claims) Name() string { return ClaimsName }

// PreFilter implements [fwk.PreFilterPlugin].
func (c *Claims) PreFilter(ctx context.Context, state fwk.CycleState, pod *v1.Pod, nodes []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	chosen, _ := state.Read(pinsKey)
	p, _ := chosen.(pins)
	c.view.turn(p)
	defer c.view.turn(nil)
	return c.DynamicResources.PreFilter(ctx, state, pod, nodes)
}

// pinsKey is where GPUFit leaves [pins] for Claims.
const pinsKey fwk.StateKey = ClaimsName

// pins are the GPUs chosen for a pod's claims on every node that may take it.
type pins map[string]pin

// A pin is GPUs of one node and what is given of each.
type pin struct {
	devices          []string // as the driver calls them
	milli, memoryMiB int64    // memoryMiB 0: all
}

// Clone implements [fwk.StateData]; pins do not change.
func (p pins) Clone() fwk.StateData { return p }

// behind is a scheduler's handle whose claims and devices are seen through a keyhole.
type behind struct {
	fwk.Handle
	view *keyhole
}

// SharedDRAManager implements [fwk.Handle].
func (b *behind) SharedDRAManager() fwk.SharedDRAManager { return b.view }

// A keyhole shows what a scheduler knows of devices, but of Neap's GPUs only those
// that were chosen for the pod in whose turn it is. There is one turn at a time.
type keyhole struct {
	fwk.SharedDRAManager
	chosen   pins
	slices   []*resourceapi.ResourceSlice          // what is seen; nil until somebody looks
	consumed structured.ConsumedCapacityCollection // of the chosen: all but what is given
}

// turn turns the keyhole to what was chosen.
func (k *keyhole) turn(chosen pins) { k.chosen, k.slices, k.consumed = chosen, nil, nil }

// look finds what is to be seen.
func (k *keyhole) look() error {
	if k.slices != nil {
		return nil
	}
	all, err := k.SharedDRAManager.ResourceSlices().ListWithDeviceTaintRules()
	if err != nil {
		return err
	}
	k.slices, k.consumed = make([]*resourceapi.ResourceSlice, 0, len(k.chosen)), structured.NewConsumedCapacityCollection()
	for _, slice := range all {
		if slice.Spec.Driver != v1alpha1.GPUDriver {
			k.slices = append(k.slices, slice)
		} else if p, ok := k.chosen[slice.Spec.Pool.Name]; ok {
			k.slices = append(k.slices, k.narrow(slice, p))
		}
	}
	return nil
}

// narrow returns a slice with the chosen devices only, that give no more and no less
// than was decided.
func (k *keyhole) narrow(slice *resourceapi.ResourceSlice, p pin) *resourceapi.ResourceSlice {
	out := *slice
	out.Spec.Devices = nil
	chosen := sets.New(p.devices...)
	for _, d := range slice.Spec.Devices {
		if !chosen.Has(d.Name) {
			continue
		}
		d.Capacity = maps.Clone(d.Capacity)
		rest := map[resourceapi.QualifiedName]apiresource.Quantity{}
		for name, c := range d.Capacity {
			give := c.Value
			switch {
			case name == v1alpha1.CapacityGPUMilli:
				give = *apiresource.NewQuantity(p.milli, c.Value.Format)
			case name == v1alpha1.CapacityGPUMemory && p.memoryMiB > 0:
				give = *apiresource.NewQuantity(p.memoryMiB<<20, c.Value.Format)
			}
			left := c.Value.DeepCopy()
			left.Sub(give)
			rest[name] = left
			c.RequestPolicy = &resourceapi.CapacityRequestPolicy{Default: &give, ValidRange: &resourceapi.CapacityRequestPolicyRange{Min: &give, Max: &give}}
			d.Capacity[name] = c
		}
		k.consumed.Insert(structured.NewDeviceConsumedCapacity(structured.MakeDeviceID(slice.Spec.Driver, slice.Spec.Pool.Name, d.Name), rest))
		out.Spec.Devices = append(out.Spec.Devices, d)
	}
	return &out
}

// ResourceSlices implements [fwk.SharedDRAManager].
func (k *keyhole) ResourceSlices() fwk.ResourceSliceLister { return k }

// ListWithDeviceTaintRules implements [fwk.ResourceSliceLister].
func (k *keyhole) ListWithDeviceTaintRules() ([]*resourceapi.ResourceSlice, error) {
	err := k.look()
	return k.slices, err
}

// ResourceClaims implements [fwk.SharedDRAManager].
func (k *keyhole) ResourceClaims() fwk.ResourceClaimTracker {
	return tracker{k.SharedDRAManager.ResourceClaims(), k}
}

// A tracker is the scheduler's own, but for what is allocated of Neap's GPUs: that
// is in GPUFit's books, with the pods that hold GPUs without a claim.
type tracker struct {
	fwk.ResourceClaimTracker
	view *keyhole
}

// GatherAllocatedState implements [fwk.ResourceClaimTracker].
func (t tracker) GatherAllocatedState() (*structured.AllocatedState, error) {
	if err := t.view.look(); err != nil {
		return nil, err
	}
	if !t.view.others() {
		return &structured.AllocatedState{
			AllocatedDevices:         sets.New[structured.DeviceID](),
			AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
			AggregatedCapacity:       t.view.consumed,
		}, nil
	}
	state, err := t.ResourceClaimTracker.GatherAllocatedState()
	if err != nil {
		return nil, err
	}
	for id := range state.AllocatedDevices {
		if id.Driver.String() == v1alpha1.GPUDriver {
			state.AllocatedDevices.Delete(id)
		}
	}
	for id := range state.AggregatedCapacity {
		if id.Driver.String() == v1alpha1.GPUDriver {
			delete(state.AggregatedCapacity, id)
		}
	}
	maps.Copy(state.AggregatedCapacity, t.view.consumed)
	return state, nil
}

// others reports whether there are devices of other drivers.
func (k *keyhole) others() bool {
	for _, s := range k.slices {
		if s.Spec.Driver != v1alpha1.GPUDriver {
			return true
		}
	}
	return false
}
