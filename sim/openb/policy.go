package openb

import (
	"math/rand"

	"github.com/neap-dev/neap/core/gpu"
)

// typicalPercent of the pods are the mix that fragments are measured by.
const typicalPercent = 95

// A policyInfo is a policy that can be asked for.
type policyInfo struct {
	name      string
	published string // its name in the published tables, "" for ours
	scorer    func(t *Trace, mix *gpu.Mix, nodes []gpu.Machine) gpu.Scorer
}

var policies = []policyInfo{
	{"neap", "", neap(0)},
	{"fgd", "06-FGD", func(_ *Trace, mix *gpu.Mix, _ []gpu.Machine) gpu.Scorer { return gpu.Fragmentation{Mix: mix} }},
	{"bestfit", "05-BestFit", func(*Trace, *gpu.Mix, []gpu.Machine) gpu.Scorer { return bestFit{} }},
	{"packing", "04-GpuPacking", func(*Trace, *gpu.Mix, []gpu.Machine) gpu.Scorer { return packing{} }},
	{"clustering", "03-GpuClustering", func(_ *Trace, _ *gpu.Mix, nodes []gpu.Machine) gpu.Scorer {
		return &clustering{kinds: make([]uint32, len(nodes))}
	}},
	{"dotprod", "02-DotProd", func(*Trace, *gpu.Mix, []gpu.Machine) gpu.Scorer { return dotProduct{} }},
	{"random", "01-Random", nil},
	{"neap-sparing", "", func(t *Trace, _ *gpu.Mix, nodes []gpu.Machine) gpu.Scorer {
		return gpu.NewSpare(gpu.NewNeap(nodes, MixOf(t.Pods), 0), MixOf(t.Pods))
	}},
	{"neap-without-regret", "", neap(gpu.Regret)},
	{"neap-without-balance", "", neap(gpu.Balance)},
	{"neap-without-scarcity", "", neap(gpu.Scarcity)},
	{"neap-without-opening", "", neap(gpu.Opening)},
	{"neap-without-memory", "", func(t *Trace, _ *gpu.Mix, nodes []gpu.Machine) gpu.Scorer {
		return gpu.NewNeap(nodes, withoutMemory(MixOf(t.Pods)), 0)
	}},
	{"fgd-without-memory", "", func(t *Trace, _ *gpu.Mix, _ []gpu.Machine) gpu.Scorer {
		return gpu.Fragmentation{Mix: gpu.NewMix(gpu.Typical(withoutMemory(MixOf(t.Pods)), typicalPercent))}
	}},
	{"neap-without-all-four", "", neap(gpu.Regret | gpu.Balance | gpu.Scarcity | gpu.Opening)},
}

func neap(without gpu.Terms) func(*Trace, *gpu.Mix, []gpu.Machine) gpu.Scorer {
	return func(t *Trace, _ *gpu.Mix, nodes []gpu.Machine) gpu.Scorer {
		return gpu.NewNeap(nodes, MixOf(t.Pods), without)
	}
}

// Policies returns the names that [Options.Policy] may have.
func Policies() []string {
	names := make([]string, len(policies))
	for i, p := range policies {
		names[i] = p.name
	}
	return names
}

// The published policies weigh machines as if all had this much.
const (
	normalCPU  = 128_000
	normalMill = 8 * gpu.Whole
)

// bestFit prefers the machine with the least left. Published, its score is
// stretched to 0…100 afterwards, which changes no order.
type bestFit struct{}

func (bestFit) Score(m *gpu.Machine, d *gpu.Demand) (int64, gpu.Devices) {
	cpu := float64(m.CPU-d.CPU) / normalCPU
	left := float64(m.IdleMilli()-d.GPU()) / normalMill
	return int64(100 * (1 - cpu/2 - left/2)), m.Tightest(d)
}

// dotProduct prefers the machine whose rest points least where the demand does.
type dotProduct struct{}

func (dotProduct) Score(m *gpu.Machine, d *gpu.Demand) (int64, gpu.Devices) {
	cpu := float64(m.CPU) / normalCPU * (float64(d.CPU) / normalCPU)
	left := float64(m.IdleMilli()) / normalMill * (float64(d.GPU()) / normalMill)
	return int64(100 * (1 - (cpu+left)/2)), m.Tightest(d)
}

// packing prefers used GPUs to idle ones of used machines to those of idle machines.
type packing struct{}

func (packing) Score(m *gpu.Machine, d *gpu.Demand) (int64, gpu.Devices) {
	if d.Devices == 0 {
		return 0, 0
	}
	free := 0
	for _, v := range m.Idle[:m.GPUs] {
		if v == gpu.Whole {
			free++
		}
	}
	on := m.Tightest(d)
	switch {
	case free == m.GPUs:
		return max(33-int64(free), int64(free)), on
	case d.Milli == gpu.Whole:
		return max(50-int64(d.Devices), 33), on
	case m.Idle[on.First()] == gpu.Whole:
		return 49, on
	}
	return max(100-int64(m.Idle[on.First()])/10/10, 50), on
}

// clustering prefers machines that run the same kind of demand and nothing else.
type clustering struct{ kinds []uint32 } // by machine ID: a bit for each kind that runs there

func kind(d *gpu.Demand) uint32 {
	switch {
	case d.Devices == 0:
		return 0
	case d.Devices == 1 && d.Milli < gpu.Whole:
		return 1
	}
	return 1 << d.Devices
}

func (c *clustering) Score(m *gpu.Machine, d *gpu.Demand) (int64, gpu.Devices) {
	k, there := kind(d), c.kinds[m.ID]
	if k == 0 {
		return 0, 0
	}
	score := 25 * (normalMill - m.IdleMilli()) / normalMill
	switch {
	case there == k:
		score += 75
	case there&k != 0:
		score += 50
	case there == 0:
		score += 25
	}
	return score, m.Tightest(d)
}

func (c *clustering) placed(id int, d *gpu.Demand) { c.kinds[id] |= kind(d) }

// random takes any machine that fits, and any device.
type random struct {
	rng  *rand.Rand
	fits []int
}

func (r *random) pick(f *gpu.Fleet, d gpu.Demand) (gpu.Spot, bool) {
	r.fits = r.fits[:0]
	for i := range f.Len() {
		if f.Machine(i).Fits(&d) {
			r.fits = append(r.fits, i)
		}
	}
	if len(r.fits) == 0 {
		return gpu.Spot{}, false
	}
	s := gpu.Spot{Machine: r.fits[r.rng.Intn(len(r.fits))]}
	m := f.Machine(s.Machine)
	r.fits = r.fits[:0]
	for on := m.Usable(&d); on != 0; on &= on - 1 {
		r.fits = append(r.fits, on.First())
	}
	for n := d.Devices; n > 0; n-- {
		i := r.rng.Intn(len(r.fits))
		s.Devices |= 1 << r.fits[i]
		r.fits[i] = r.fits[len(r.fits)-1]
		r.fits = r.fits[:len(r.fits)-1]
	}
	return s, true
}
