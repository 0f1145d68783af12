package gpubook

import (
	"cmp"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/kube/convert"
)

// Survey returns what runs on the GPUs now and how far from the best possible that
// is. about says of a node in which pool it is and what it costs for an hour, 0 if
// that is not known. steps are those of [gpu.Bound].
func (b *Book) Survey(about func(*v1.Node) (pool string, price money.Amount), steps int) gpu.Survey {
	fleet := b.Fleet()
	machines := b.Capacities()
	var hosts []gpu.Host
	at := map[string]int{}
	for _, node := range b.Nodes() {
		m := b.machines[node.Name]
		h := gpu.Host{Name: node.Name, Has: machines[m.at], Left: *fleet.Machine(m.at)}
		h.Pool, h.Price = about(node)
		for _, d := range m.devices {
			h.Devices = append(h.Devices, gpu.Device{UUID: d.UUID, Model: convert.GPUModelName(d.Model), MemoryMiB: d.MemoryMiB, Healthy: d.Healthy, Reason: d.Reason})
		}
		at[node.Name] = len(hosts)
		hosts = append(hosts, h)
	}
	var waiting []gpu.Guest
	for _, p := range b.Pods() {
		g := gpu.Guest{Namespace: p.Namespace, Name: p.Name, Alternatives: p.Demands}
		if i, ok := at[p.Node]; ok && p.Now >= 0 {
			g.Takes, g.On = p.Demands[p.Now], p.Spot.Devices
			hosts[i].Guests = append(hosts[i].Guests, g)
		} else if p.Node == "" {
			g.Reason = cmp.Or(p.Wrong, whyPending(p.Pod))
			waiting = append(waiting, g)
		}
	}
	return gpu.Take(hosts, waiting, steps)
}

// whyPending is what the scheduler said of a pod that it could not place.
func whyPending(pod *v1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse {
			why, _, _ := strings.Cut(c.Message, " preemption:")
			return strings.TrimSuffix(strings.TrimSpace(why), " no new claims to deallocate,")
		}
	}
	return ""
}
