package gpufit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"
	"k8s.io/kubernetes/pkg/scheduler/util"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/kube/gpubook"
)

// A claimDesk is what GPUFit knows of claims: what pods ask for by them, and which
// were reserved in this process but not seen as allocated yet. Its methods are
// called with the book's lock held.
type claimDesk struct {
	dra       fwk.SharedDRAManager
	client    kubernetes.Interface
	selectors *cel.Cache
	// reserved holds claims that a pod in its binding cycle will have allocated. What
	// the API server says of them before is behind.
	reserved map[types.UID]types.UID // claim → pod
	// versions are those of the claims in the book. Several tell of a claim, and some
	// are behind.
	versions map[types.UID]uint64
}

// concerns reports whether a pod may ask for GPUs, by resources or by a claim.
func (b *books) concerns(pod *v1.Pod) bool {
	return gpubook.Asks(pod) || b.desk != nil && len(pod.Spec.ResourceClaims) > 0
}

// asked returns the demands of which a pod needs one, none if it asks for no GPU that
// is still to be chosen. offered is nil unless it asks by a claim: then it is what
// Neap's driver offers on every node. The lock is held.
func (f *GPUFit) asked(ctx context.Context, pod *v1.Pod) (demands []gpu.Demand, offered map[string][]string, err error) {
	if f.desk != nil && len(pod.Spec.ResourceClaims) > 0 {
		f.look.Do(f.lookForClaims)
		why, err := f.desk.heal(ctx, f.now, pod)
		if err != nil {
			return nil, nil, unsaid{err}
		}
		if why != "" {
			return nil, nil, errors.New(why)
		}
		demands, err = f.desk.demands(ctx, f.now, pod)
		if err != nil || len(demands) > 0 {
			if err = cmp.Or(err, f.unfit); err == nil {
				offered, err = f.desk.offers()
			}
			return demands, offered, err
		}
	}
	if gpubook.Asks(pod) {
		demands, err = f.now.Demands(pod)
	}
	return demands, nil, err
}

// lookForClaims sees whether the profile lets claims have what is chosen here.
func (f *GPUFit) lookForClaims() {
	profile, ok := f.handle.(interface{ ListPlugins() *config.Plugins })
	if !ok {
		return
	}
	has := func(name string) bool {
		return slices.ContainsFunc(profile.ListPlugins().PreFilter.Enabled, func(p config.Plugin) bool { return p.Name == name })
	}
	if has(names.DynamicResources) || !has(ClaimsName) {
		f.unfit = fmt.Errorf("in the scheduler's profile %s the plugin %s has to be disabled, and %s enabled in its place, for the GPUs of claims to be chosen", f.handle.ProfileName(), names.DynamicResources, ClaimsName)
	}
}

// unsaid is an error of the API server, after which a pod tries again by itself.
type unsaid struct{ error }

// among narrows may to the machines on which Neap's driver offers something.
func (b *books) among(may func(int) bool, offered map[string][]string) func(int) bool {
	return func(machine int) bool { return len(offered[b.now.Node(machine)]) > 0 && may(machine) }
}

// pin keeps a spot for the claims of a pod, and reports whether the driver offers all
// of it. It always is so for a pod without claims.
func (b *books) pin(c *choice, demand int, s gpu.Spot, offered map[string][]string) bool {
	if offered == nil {
		return true
	}
	node := b.now.Node(s.Machine)
	p := pin{devices: b.now.DeviceNames(s), milli: c.demands[demand].Milli, memoryMiB: c.demands[demand].DeviceMemory}
	for _, name := range p.devices {
		if !slices.Contains(offered[node], name) {
			return false
		}
	}
	c.pins[node] = p
	return true
}

// followClaims takes in the claims that there are.
func (b *books) followClaims(h fwk.Handle) error {
	if h.SharedDRAManager() == nil {
		return nil
	}
	b.desk = newClaimDesk(h)
	set := func(obj any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.claimSeen(obj.(*resourceapi.ResourceClaim))
	}
	claims, err := h.SharedInformerFactory().Resource().V1().ResourceClaims().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    set,
		UpdateFunc: func(_, is any) { set(is) },
		DeleteFunc: func(obj any) {
			if claim, ok := last(obj).(*resourceapi.ResourceClaim); ok {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.desk.gone(b.now, claim.UID)
				b.seen.DeleteClaim(claim.UID)
			}
		},
	})
	if err == nil {
		b.synced = append(b.synced, claims.HasSynced)
	}
	return err
}

// claimSeen takes in what the API server says of a claim. The lock is held.
func (b *books) claimSeen(claim *resourceapi.ResourceClaim) {
	b.desk.seen(b.now, claim)
	_ = b.seen.SetClaim(claim) // now has said what is wrong
}

func newClaimDesk(h fwk.Handle) *claimDesk {
	return &claimDesk{
		dra:       h.SharedDRAManager(),
		client:    h.ClientSet(),
		selectors: cel.NewCache(100, cel.Features{EnableConsumableCapacity: true}),
		reserved:  map[types.UID]types.UID{},
		versions:  map[types.UID]uint64{},
	}
}

// claims returns the claims of a pod that there are. Those that are still to be made
// stop the pod elsewhere.
func (c *claimDesk) claims(pod *v1.Pod) []*resourceapi.ResourceClaim {
	var out []*resourceapi.ResourceClaim
	for i := range pod.Spec.ResourceClaims {
		name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil || name == nil {
			continue
		}
		if claim, err := c.dra.ResourceClaims().Get(pod.Namespace, *name); err == nil {
			out = append(out, claim)
		}
	}
	return out
}

// demands returns what a pod asks for by claims that are not allocated yet: the
// demands of which it needs one, nothing if there is no such claim.
func (c *claimDesk) demands(ctx context.Context, book *gpubook.Book, pod *v1.Pod) ([]gpu.Demand, error) {
	open := slices.DeleteFunc(c.claims(pod), func(k *resourceapi.ResourceClaim) bool { return k.Status.Allocation != nil })
	asks, err := convert.GPUClaimAsks(open, c.ours)
	if err != nil || len(asks) == 0 {
		return nil, err
	}
	kinds := make([]gpu.Models, len(asks))
	for i, ask := range asks {
		if kinds[i], err = c.kinds(ctx, ask, book.Models()); err != nil {
			return nil, fmt.Errorf("request %s: %w", ask.Request, err)
		}
	}
	return book.ClaimDemands(pod, asks, kinds)
}

// ours reports whether a request is for GPUs of Neap's driver: its class is the
// driver's own, or a selector names the driver.
func (c *claimDesk) ours(class string, selectors []resourceapi.DeviceSelector) bool {
	names := func(s resourceapi.DeviceSelector) bool {
		return s.CEL != nil && strings.Contains(s.CEL.Expression, v1alpha1.GPUDriver)
	}
	if class == v1alpha1.GPUDriver || slices.ContainsFunc(selectors, names) {
		return true
	}
	k, err := c.dra.DeviceClasses().Get(class)
	return err == nil && slices.ContainsFunc(k.Spec.Selectors, names)
}

// kinds returns the kinds of GPUs that an ask accepts.
func (c *claimDesk) kinds(ctx context.Context, ask convert.GPUClaimAsk, known *convert.GPUModels) (gpu.Models, error) {
	class, err := c.dra.DeviceClasses().Get(ask.Class)
	if err != nil {
		return 0, fmt.Errorf("there is no device class %s", ask.Class)
	}
	selectors := slices.Concat(class.Spec.Selectors, ask.Selectors)
	var out gpu.Models
	for m := range known.Len() {
		ok, err := c.accepts(ctx, selectors, known.Name(gpu.Model(m)), known.Memory(gpu.Model(m)))
		if err != nil {
			return 0, err
		}
		if ok {
			out = out.With(gpu.Model(m))
		}
	}
	return out, nil
}

// accepts reports whether selectors let a kind of GPU pass.
func (c *claimDesk) accepts(ctx context.Context, selectors []resourceapi.DeviceSelector, model string, memoryMiB int64) (bool, error) {
	published := convert.PublishedGPU(v1alpha1.GPUDevice{Model: model, MemoryMiB: memoryMiB, Healthy: true})
	// What tells GPUs of a kind apart is for the solver to say.
	delete(published.Attributes, v1alpha1.AttributeGPUUUID)
	delete(published.Attributes, v1alpha1.AttributeGPUIndex)
	device := cel.Device{
		Driver: v1alpha1.GPUDriver, AllowMultipleAllocations: published.AllowMultipleAllocations,
		Attributes: published.Attributes, Capacity: published.Capacity,
	}
	for _, s := range selectors {
		if s.CEL == nil {
			return false, errors.New("a selector is of a kind that this version does not know")
		}
		program := c.selectors.GetOrCompile(s.CEL.Expression)
		if program.Error != nil {
			return false, fmt.Errorf("selector %q: %w", s.CEL.Expression, program.Error)
		}
		ok, _, err := program.DeviceMatches(ctx, device)
		if err != nil {
			return false, fmt.Errorf("selector %q cannot be told for GPUs of model %s from their model and capacity: %w", s.CEL.Expression, model, err)
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}

// offers returns the GPUs that Neap's driver offers on every node, as it calls them,
// but for those that are tainted.
func (c *claimDesk) offers() (map[string][]string, error) {
	all, err := c.dra.ResourceSlices().ListWithDeviceTaintRules()
	if err != nil {
		return nil, err
	}
	out := make(map[string][]string, len(all))
	for _, slice := range all {
		if slice.Spec.Driver != v1alpha1.GPUDriver {
			continue
		}
		names := make([]string, 0, len(slice.Spec.Devices))
		for _, d := range slice.Spec.Devices {
			if !slices.ContainsFunc(d.Taints, func(t resourceapi.DeviceTaint) bool { return t.Effect != resourceapi.DeviceTaintEffectNone }) {
				names = append(names, d.Name)
			}
		}
		out[slice.Spec.Pool.Name] = names
	}
	return out, nil
}

// reserve books a pin for the claims of a pod until [claimDesk.seen] sees them
// allocated, or release.
func (c *claimDesk) reserve(book *gpubook.Book, pod *v1.Pod, node string, p pin) {
	for _, claim := range c.claims(pod) {
		if claim.Status.Allocation != nil {
			continue
		}
		asks, err := convert.GPUClaimAsks([]*resourceapi.ResourceClaim{claim}, c.ours)
		if err != nil || len(asks) == 0 {
			continue
		}
		c.reserved[claim.UID] = pod.UID
		_ = book.SetClaim(promised(claim, pod, node, asks[0].Request, p)) // is sound
	}
}

// promised returns a claim as it will be allocated.
func promised(claim *resourceapi.ResourceClaim, pod *v1.Pod, node, request string, p pin) *resourceapi.ResourceClaim {
	out := *claim
	consumed := map[resourceapi.QualifiedName]apiresource.Quantity{
		v1alpha1.CapacityGPUMilli: *apiresource.NewQuantity(p.milli, apiresource.DecimalSI),
	}
	if p.memoryMiB > 0 {
		consumed[v1alpha1.CapacityGPUMemory] = *apiresource.NewQuantity(p.memoryMiB<<20, apiresource.BinarySI)
	}
	out.Status.Allocation = new(resourceapi.AllocationResult)
	for _, name := range p.devices {
		out.Status.Allocation.Devices.Results = append(out.Status.Allocation.Devices.Results, resourceapi.DeviceRequestAllocationResult{
			Request: request, Driver: v1alpha1.GPUDriver, Pool: node, Device: name, ConsumedCapacity: consumed,
		})
	}
	out.Status.ReservedFor = []resourceapi.ResourceClaimConsumerReference{{Resource: "pods", Name: pod.Name, UID: pod.UID}}
	return &out
}

// release gives up what was reserved for a pod's claims. What was written in the
// meantime stays.
func (c *claimDesk) release(book *gpubook.Book, pod *v1.Pod) {
	for uid, owner := range c.reserved {
		if owner != pod.UID {
			continue
		}
		delete(c.reserved, uid)
		book.DeleteClaim(uid)
	}
	for _, claim := range c.claims(pod) { // the scheduler's own copy is ahead of the informer's
		if claim.Status.Allocation != nil {
			c.seen(book, claim)
		}
	}
}

// seen takes in a claim as the API server has it, unless a later state is known.
func (c *claimDesk) seen(book *gpubook.Book, claim *resourceapi.ResourceClaim) {
	if version, err := strconv.ParseUint(claim.ResourceVersion, 10, 64); err == nil {
		if version < c.versions[claim.UID] {
			return
		}
		c.versions[claim.UID] = version
	}
	if claim.Status.Allocation == nil {
		if _, waits := c.reserved[claim.UID]; waits {
			return
		}
	}
	delete(c.reserved, claim.UID)
	if err := book.SetClaim(claim); err != nil {
		klog.Background().Error(err, "A claim makes no sense")
	}
}

// gone takes in that a claim is deleted.
func (c *claimDesk) gone(book *gpubook.Book, uid types.UID) {
	delete(c.reserved, uid)
	delete(c.versions, uid)
	book.DeleteClaim(uid)
}

// healTime is how long giving a claim back may take: nothing else is placed meanwhile.
const healTime = 5 * time.Second

// heal looks at the GPUs that a pod's claims were allocated in an earlier attempt. If
// the pod can never start on them, because one is gone, sick or given away twice, it
// gives them back, and says so; the pod then is placed anew.
func (c *claimDesk) heal(ctx context.Context, book *gpubook.Book, pod *v1.Pod) (why string, err error) {
	for _, claim := range c.claims(pod) {
		node, shares, err := convert.GPUClaimShares(claim)
		if err != nil || len(shares) == 0 {
			continue
		}
		fault := c.fault(book, node, shares)
		if fault == "" {
			continue
		}
		if slices.ContainsFunc(claim.Status.ReservedFor, func(r resourceapi.ResourceClaimConsumerReference) bool { return r.UID != pod.UID }) {
			return fmt.Sprintf("claim %s: %s, and other pods have it", claim.Name, fault), nil
		}
		ctx, cancel := context.WithTimeout(ctx, healTime)
		defer cancel()
		free := claim.DeepCopy()
		free.Status.Allocation, free.Status.ReservedFor, free.Status.Devices = nil, nil, nil
		_, err = c.client.ResourceV1().ResourceClaims(claim.Namespace).UpdateStatus(ctx, free, metav1.UpdateOptions{})
		switch {
		case apierrors.IsConflict(err), apierrors.IsNotFound(err): // the event of that wakes the pod
		case err != nil:
			return "", fmt.Errorf("give back what claim %s was allocated: %w", claim.Name, err)
		default:
			book.DeleteClaim(claim.UID)
		}
		return fmt.Sprintf("claim %s: %s: it is given back", claim.Name, fault), nil
	}
	return "", nil
}

// fault says why a pod cannot start on what its claim has; "" if it can.
func (c *claimDesk) fault(book *gpubook.Book, node string, shares []convert.GPUClaimShare) string {
	devices := book.Devices(node)
	for _, s := range shares {
		i := slices.IndexFunc(devices, func(d gpubook.Device) bool { return int(d.Index) == s.Index })
		switch {
		case i < 0:
			return fmt.Sprintf("there is no %s on node %s any more", s.Device, node)
		case !devices[i].Healthy:
			return fmt.Sprintf("%s of node %s is sick (%s)", s.Device, node, devices[i].Reason)
		case devices[i].IdleMilli < 0 || devices[i].IdleMemoryMiB < 0:
			return fmt.Sprintf("%s of node %s was given away twice", s.Device, node)
		}
	}
	return ""
}

// claimEvents are what can make room for a pod, or let it ask, by way of claims.
func (b *books) claimEvents() []fwk.ClusterEventWithHint {
	if b.desk == nil {
		return nil
	}
	return []fwk.ClusterEventWithHint{
		{Event: fwk.ClusterEvent{Resource: fwk.ResourceClaim, ActionType: fwk.Add | fwk.Update | fwk.Delete}, QueueingHintFn: b.afterClaim},
		{Event: fwk.ClusterEvent{Resource: fwk.ResourceSlice, ActionType: fwk.Add | fwk.Update}, QueueingHintFn: afterOffer},
		{Event: fwk.ClusterEvent{Resource: fwk.DeviceClass, ActionType: fwk.Add | fwk.Update}, QueueingHintFn: afterOffer},
	}
}

// afterClaim wakes every pod when GPUs are given back, and a pod whose claim changes.
// The books take the change in before the pod looks: their own informer may be behind.
func (b *books) afterClaim(_ klog.Logger, pod *v1.Pod, before, after any) (fwk.QueueingHint, error) {
	was, now, err := util.As[*resourceapi.ResourceClaim](before, after)
	if err != nil {
		return fwk.Queue, err
	}
	if was != nil && was.Status.Allocation != nil {
		b.mu.Lock()
		if now != nil {
			b.desk.seen(b.now, now)
		} else {
			b.desk.gone(b.now, was.UID)
		}
		b.mu.Unlock()
	}
	if was != nil && was.Status.Allocation != nil && (now == nil || now.Status.Allocation == nil) {
		return fwk.Queue, nil
	}
	for i := range pod.Spec.ResourceClaims {
		if name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i]); err == nil && name != nil && now != nil && now.Namespace == pod.Namespace && now.Name == *name {
			return fwk.Queue, nil
		}
	}
	return fwk.QueueSkip, nil
}

// afterOffer wakes the pods that have claims.
func afterOffer(_ klog.Logger, pod *v1.Pod, _, _ any) (fwk.QueueingHint, error) {
	if len(pod.Spec.ResourceClaims) > 0 {
		return fwk.Queue, nil
	}
	return fwk.QueueSkip, nil
}
