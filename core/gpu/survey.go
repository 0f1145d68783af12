package gpu

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/neap-dev/neap/core/money"
)

// A Host is a machine of a fleet that is surveyed, as it is now.
type Host struct {
	Name, Pool string
	Price      money.Amount // of an hour of the machine; 0 if it is not known
	Has        Machine      // with nothing on it
	Left       Machine
	Devices    []Device // of Has, in its order
	Guests     []Guest
}

// A Device is one GPU by the names that people know it by.
type Device struct {
	UUID      string `json:"uuid"`
	Model     string `json:"model"`
	MemoryMiB int64  `json:"memoryMiB"`
	Healthy   bool   `json:"healthy"`
	Reason    string `json:"reason,omitempty"` // why it is not healthy
}

// A Guest is a pod with GPUs on a host, or one that waits for one.
type Guest struct {
	Namespace, Name string
	Alternatives    []Demand // any one of which it would take
	Takes           Demand   // the one it has; the zero Demand while it waits
	On              Devices  // where it has it
	Reason          string   // why it waits, if that is known
}

// A Survey is what runs on the GPUs of a fleet, what of it is idle to no purpose,
// and how far the whole is from the best that any placement could do.
type Survey struct {
	Hosts   []SurveyedHost  `json:"hosts"`
	Models  []SurveyedModel `json:"models"`  // by name
	Waiting []SurveyedPod   `json:"waiting"` // largest first

	CapacityMilli  int64 `json:"capacityMilli"`  // of healthy GPUs
	AllocatedMilli int64 `json:"allocatedMilli"` // to pods
	WaitingMilli   int64 `json:"waitingMilli"`   // asked for by pods without a machine
	// BoundMilli is what no placement of all these pods could exceed, GapMilli how
	// much of it is not held: "at most so many GPUs more could work".
	BoundMilli int64 `json:"boundMilli"`
	GapMilli   int64 `json:"gapMilli"`
	// Used and Empty count machines with GPUs that run a pod with GPUs, or none.
	Used  int `json:"used"`
	Empty int `json:"empty"`
	// UsedNano is the price of an hour of the used ones; LeastNano what no placement
	// of the same pods could come below; GapNano their difference: "at most so much
	// could be given back". All are 0 where a machine's price is not known.
	UsedNano  money.Amount `json:"usedNano"`
	LeastNano money.Amount `json:"leastNano"`
	GapNano   money.Amount `json:"gapNano"`
	Unpriced  int          `json:"unpriced"` // machines without a price
}

// A SurveyedHost is one machine with GPUs.
type SurveyedHost struct {
	Name      string           `json:"name"`
	Pool      string           `json:"pool,omitempty"`
	PriceNano money.Amount     `json:"priceNano"`
	CPULeft   int64            `json:"cpuLeftMilli"`
	Devices   []SurveyedDevice `json:"devices"`
	Pods      []SurveyedPod    `json:"pods"`
}

// A SurveyedDevice is one GPU and what is left of it.
type SurveyedDevice struct {
	Device
	IdleMilli int64 `json:"idleMilli"`
	IdleMiB   int64 `json:"idleMiB"`
	Pods      []int `json:"pods"` // of the host's, by index
}

// A SurveyedPod is one pod with GPUs.
type SurveyedPod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	GPUs      int    `json:"gpus"`
	Milli     int64  `json:"milli"`     // of each GPU
	MemoryMiB int64  `json:"memoryMiB"` // of each GPU; 0: asks for none
	Reason    string `json:"reason,omitempty"`
}

// A SurveyedModel sums the healthy GPUs of one model up.
type SurveyedModel struct {
	Model          string `json:"model"`
	GPUs           int    `json:"gpus"`
	Sick           int    `json:"sick"`
	AllocatedMilli int64  `json:"allocatedMilli"`
	IdleMilli      int64  `json:"idleMilli"`
	// FragmentMilli is what of the idle the usual pods cannot use ([Mix.Fragment]).
	FragmentMilli int64 `json:"fragmentMilli"`
}

// Take surveys hosts and the pods that wait. steps bounds the search for the two
// bounds, as in [Bound]. The hosts are in the order given.
func Take(hosts []Host, waiting []Guest, steps int) Survey {
	s := Survey{Hosts: make([]SurveyedHost, 0, len(hosts)), Waiting: make([]SurveyedPod, 0, len(waiting)), Models: []SurveyedModel{}}
	var held, all []Share // those that run, as they may; all, by the least that each would take
	var heldMilli int64
	for i := range hosts {
		for _, g := range hosts[i].Guests {
			if d, ok := Least(g.Alternatives); ok {
				held = append(held, Share{Demand: g.Alternatives[0], Or: g.Alternatives[1:], Count: 1})
				all = append(all, Share{Demand: d, Count: 1})
				heldMilli += d.GPU()
			}
		}
	}
	for _, g := range waiting {
		if d, ok := Least(g.Alternatives); ok {
			all = append(all, Share{Demand: d, Count: 1})
			s.WaitingMilli += d.GPU()
			s.Waiting = append(s.Waiting, podOf(&g, d))
		}
	}
	slices.SortStableFunc(s.Waiting, func(a, b SurveyedPod) int {
		return cmp.Or(-cmp.Compare(int64(a.GPUs)*a.Milli, int64(b.GPUs)*b.Milli), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	mix := NewMix(Typical(all, 95))
	models := map[string]*SurveyedModel{}
	machines, prices := make([]Machine, len(hosts)), make([]int64, len(hosts))
	for i := range hosts {
		h := &hosts[i]
		machines[i], prices[i] = h.Has, int64(h.Price)
		s.Hosts = append(s.Hosts, surveyHost(h))
		if h.Has.GPUs == 0 {
			continue
		}
		if h.Price == 0 {
			s.Unpriced++
		}
		if len(h.Guests) > 0 {
			s.Used++
			s.UsedNano += h.Price
		} else {
			s.Empty++
		}
		var idle int64 // of the healthy ones
		for k := range h.Devices {
			d := &h.Devices[k]
			m := models[d.Model]
			if m == nil {
				m = &SurveyedModel{Model: d.Model}
				models[d.Model] = m
			}
			if !d.Healthy {
				m.Sick++
				continue
			}
			m.GPUs++
			m.IdleMilli += int64(h.Left.Idle[k])
			m.AllocatedMilli += int64(h.Has.Idle[k] - h.Left.Idle[k])
			idle += int64(h.Left.Idle[k])
			s.CapacityMilli += int64(h.Has.Idle[k])
			s.AllocatedMilli += int64(h.Has.Idle[k] - h.Left.Idle[k])
		}
		if total := mix.Total(); total > 0 && idle > 0 {
			// A machine's fragment is its devices' in proportion to what they have idle.
			fragment := mix.Fragment(&h.Left) / total
			for k := range h.Devices {
				if d := &h.Devices[k]; d.Healthy {
					models[d.Model].FragmentMilli += fragment * int64(h.Left.Idle[k]) / idle
				}
			}
		}
	}
	for _, m := range models {
		s.Models = append(s.Models, *m)
	}
	slices.SortFunc(s.Models, func(a, b SurveyedModel) int { return cmp.Compare(a.Model, b.Model) })
	s.BoundMilli = Bound(machines, all, steps)
	s.GapMilli = max(0, s.BoundMilli-heldMilli)
	if s.Unpriced == 0 {
		s.LeastNano = min(s.UsedNano, money.Amount(Fewest(machines, prices, held, steps)))
		s.GapNano = s.UsedNano - s.LeastNano
	} else {
		s.UsedNano = 0
	}
	return s
}

func surveyHost(h *Host) SurveyedHost {
	out := SurveyedHost{Name: h.Name, Pool: h.Pool, PriceNano: h.Price, CPULeft: h.Left.CPU, Devices: make([]SurveyedDevice, len(h.Devices)), Pods: make([]SurveyedPod, 0, len(h.Guests))}
	for k := range h.Devices {
		out.Devices[k] = SurveyedDevice{Device: h.Devices[k], IdleMilli: int64(h.Left.Idle[k]), IdleMiB: int64(h.Left.IdleMemory[k]), Pods: []int{}}
	}
	for i := range h.Guests {
		g := &h.Guests[i]
		out.Pods = append(out.Pods, podOf(g, g.Takes))
		for set := g.On; set != 0; set &= set - 1 {
			if k := bits.TrailingZeros16(uint16(set)); k < len(out.Devices) {
				out.Devices[k].Pods = append(out.Devices[k].Pods, i)
			}
		}
	}
	return out
}

func podOf(g *Guest, d Demand) SurveyedPod {
	return SurveyedPod{Namespace: g.Namespace, Name: g.Name, GPUs: d.Devices, Milli: d.Milli, MemoryMiB: d.DeviceMemory, Reason: g.Reason}
}

// Least returns a demand that fits wherever any of the alternatives does and asks
// for no more than any of them, so that a bound for it is one for them. It
// returns false without alternatives.
func Least(alternatives []Demand) (Demand, bool) {
	if len(alternatives) == 0 {
		return Demand{}, false
	}
	least := alternatives[0]
	for _, d := range alternatives[1:] {
		least.CPU = min(least.CPU, d.CPU)
		least.Memory = min(least.Memory, d.Memory)
		least.Devices = min(least.Devices, d.Devices)
		least.Milli = min(least.Milli, d.Milli)
		least.DeviceMemory = min(least.DeviceMemory, d.DeviceMemory)
		if least.Models == 0 || d.Models == 0 {
			least.Models = 0
		} else {
			least.Models |= d.Models
		}
	}
	return least, true
}
