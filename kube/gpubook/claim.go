package gpubook

import (
	"slices"
	"strconv"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/kube/convert"
)

// A claim is a ResourceClaim that holds GPUs.
type claim struct {
	pod    types.UID // that it is for; the first, if pods share it
	node   string
	shares []convert.GPUClaimShare // those that take something
	keys   []string                // of its holds
}

// SetClaim puts a ResourceClaim in the books, as it is now: what it was allocated of
// Neap's driver is held from then until it is allocated no more, whether its pods
// run, wait or are gone. The error names the claim and says why its allocation makes
// no sense; it then holds nothing.
func (b *Book) SetClaim(c *resourceapi.ResourceClaim) error {
	b.DeleteClaim(c.UID)
	node, shares, err := convert.GPUClaimShares(c)
	shares = slices.DeleteFunc(shares, func(s convert.GPUClaimShare) bool { return s.Milli == 0 })
	if err != nil || len(shares) == 0 {
		return err
	}
	name, pod := consumer(c)
	k := &claim{pod: pod, node: node, shares: shares}
	for i, s := range shares {
		key := "claim/" + string(c.UID) + "/" + strconv.Itoa(i)
		h := &hold{Hold: Hold{Pod: name, Node: node, Devices: []string{s.Device}, Milli: s.Milli, MemoryMiB: s.MemoryMiB}, claim: true, owner: pod}
		b.holds[key] = h
		m := b.machine(node)
		m.holds[key] = h
		b.bookHold(m, h)
		k.keys = append(k.keys, key)
	}
	b.claims[c.UID] = k
	b.claimed[pod] = append(b.claimed[pod], k)
	b.rebookHolds(b.machines[node], name) // what was kept for the pod is not kept beside it
	return nil
}

// DeleteClaim strikes a claim out.
func (b *Book) DeleteClaim(uid types.UID) {
	k := b.claims[uid]
	if k == nil {
		return
	}
	name := b.holds[k.keys[0]].Pod
	for _, key := range k.keys {
		b.DeleteHold(key)
	}
	if m := b.machines[k.node]; m != nil {
		b.rebookHolds(m, name)
	}
	delete(b.claims, uid)
	rest := slices.DeleteFunc(b.claimed[k.pod], func(o *claim) bool { return o == k })
	if b.claimed[k.pod] = rest; len(rest) == 0 {
		delete(b.claimed, k.pod)
	}
}

// holding reports whether a pod, by namespace/name, holds GPUs of a machine, so that
// none are kept for it any more.
func (b *Book) holding(m *machine, pod string) bool {
	if e := b.placed[pod]; e != nil && e.node == m.name {
		return true
	}
	if pod != "" {
		for _, h := range m.holds {
			if h.claim && h.Pod == pod {
				return true
			}
		}
	}
	return false
}

// consumer returns the pod that a claim is for.
func consumer(c *resourceapi.ResourceClaim) (name string, uid types.UID) {
	for _, r := range c.Status.ReservedFor {
		if r.APIGroup == "" && r.Resource == "pods" {
			return c.Namespace + "/" + r.Name, r.UID
		}
	}
	if o := metav1.GetControllerOf(c); o != nil && o.Kind == "Pod" {
		return c.Namespace + "/" + o.Name, o.UID
	}
	return "", ""
}

// claimant returns the pod as one with GPUs, if its claims hold some where it runs.
func (b *Book) claimant(e *entry) (Pod, bool) {
	m := b.machines[e.node]
	if m == nil || m.at < 0 {
		return Pod{}, false
	}
	p := Pod{Pod: e.pod, Node: e.node, Has: &v1alpha1.GPUAllocation{Node: e.node}, Spot: gpu.Spot{Machine: m.at}, Now: -1}
	d := e.plain()
	equal := true
	for _, k := range b.claimed[e.pod.UID] {
		for _, s := range k.shares {
			i := m.device(s.Device)
			if k.node != e.node || i < 0 {
				continue
			}
			equal = equal && (d.Devices == 0 || d.Milli == s.Milli && d.DeviceMemory == s.MemoryMiB) && p.Spot.Devices>>i&1 == 0
			d.Devices, d.Milli, d.DeviceMemory = d.Devices+1, s.Milli, s.MemoryMiB
			d.Models = d.Models.With(m.models[i])
			p.Spot.Devices |= 1 << i
			p.Has.Devices = append(p.Has.Devices, v1alpha1.GPUShare{UUID: m.devices[i].UUID, Milli: s.Milli, MemoryMiB: s.MemoryMiB})
		}
	}
	if d.Devices == 0 {
		return Pod{}, false
	}
	if equal {
		p.Demands, p.Now = []gpu.Demand{d}, 0
	}
	return p, true
}

// ClaimDemands returns what a pod asks for by a claim as [convert.GPUClaimDemands]
// does, with Memory in MiB, as the fleet has it.
func (b *Book) ClaimDemands(pod *v1.Pod, asks []convert.GPUClaimAsk, kinds []gpu.Models) ([]gpu.Demand, error) {
	out, err := convert.GPUClaimDemands(pod, asks, kinds, b.models)
	for i := range out {
		out[i].Memory = mebi(out[i].Memory)
	}
	return out, err
}

// DeviceNames returns how Neap's DRA driver calls the GPUs of a spot.
func (b *Book) DeviceNames(s gpu.Spot) []string {
	if b.Node(s.Machine) == "" {
		return nil
	}
	var out []string
	for i, d := range b.index[s.Machine].devices {
		if s.Devices>>i&1 == 1 {
			out = append(out, convert.GPUDeviceName(int(d.Index)))
		}
	}
	return out
}
