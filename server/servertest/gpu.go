package servertest

import (
	"context"
	"fmt"
	"sync"

	gpushare "github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/server"
)

// gpuKinds are the made-up machines whose GPUs are shared.
var gpuKinds = []struct {
	name, model      string
	machines, gpus   int
	cores, memoryMiB int64
	price            money.Amount // of an hour
}{
	{"t4", "T4", 10, 2, 32, 15360, 1_204_000_000},
	{"a10", "A10", 8, 4, 48, 23028, 4_254_000_000},
	{"g2", "G2", 6, 8, 96, 32768, 9_800_000_000},
}

// gpuServices are the made-up services on them; pods of the last one wait.
var gpuServices = []struct {
	namespace, name string
	pods            int
	demand          gpushare.Demand
}{
	{"ai", "tutor-llm", 4, gpushare.Demand{CPU: 12_000, Devices: 2, Milli: 1000, DeviceMemory: 23000}},
	{"ai", "question-ocr", 22, gpushare.Demand{CPU: 3_000, Devices: 1, Milli: 470, DeviceMemory: 6144}},
	{"search", "text-embedding", 18, gpushare.Demand{CPU: 2_000, Devices: 1, Milli: 320, DeviceMemory: 4096}},
	{"grading", "essay-scoring", 9, gpushare.Demand{CPU: 4_000, Devices: 1, Milli: 810, DeviceMemory: 12288}},
	{"ai", "speech-recognition", 3, gpushare.Demand{CPU: 8_000, Devices: 1, Milli: 1000, DeviceMemory: 14000}},
	{"live", "face-check", 25, gpushare.Demand{CPU: 1_000, Devices: 1, Milli: 160, DeviceMemory: 2048}},
	{"ai", "reader-llm", 6, gpushare.Demand{CPU: 64_000, Devices: 8, Milli: 1000, DeviceMemory: 32768}},
}

// GPUs implements [server.Live]: a fleet that is shared well but not perfectly,
// one GPU of it sick, and a plan whose first move is made.
func (f *Fleet) GPUs(context.Context) (server.GPUs, error) { return madeUpGPUs(), nil }

var madeUpGPUs = sync.OnceValue(func() server.GPUs {
	var machines []gpushare.Machine
	var hosts []gpushare.Host
	for kind, k := range gpuKinds {
		for i := range k.machines {
			m := gpushare.Machine{CPU: k.cores * 1000, Memory: 1 << 40, GPUs: k.gpus}
			h := gpushare.Host{Name: fmt.Sprintf("%s-%03d", k.name, i), Pool: gpu, Price: k.price}
			for d := range k.gpus {
				m.Idle[d], m.IdleMemory[d], m.Model[d] = gpushare.Whole, int32(k.memoryMiB), gpushare.Model(kind)
				h.Devices = append(h.Devices, gpushare.Device{UUID: fmt.Sprintf("GPU-%s-%d", h.Name, d), Model: k.model, MemoryMiB: k.memoryMiB, Healthy: true})
			}
			if h.Name == "a10-005" {
				m.Sick = 1 << 2
				h.Devices[2].Healthy, h.Devices[2].Reason = false, "XID 79: the GPU has fallen off the bus"
			}
			h.Has = m
			machines, hosts = append(machines, m), append(hosts, h)
		}
	}
	var shares []gpushare.Share
	for _, s := range gpuServices {
		shares = append(shares, gpushare.Share{Demand: s.demand, Count: int64(s.pods)})
	}
	fleet := gpushare.NewFleet(machines, gpushare.NewNeap(machines, shares, 0))
	var waiting []gpushare.Guest
	for _, s := range gpuServices {
		for i := range s.pods {
			g := gpushare.Guest{Namespace: s.namespace, Name: fmt.Sprintf("%s-%05x", s.name, (i+7)*0x1f3d%0xfffff), Alternatives: []gpushare.Demand{s.demand}}
			spot, ok := fleet.Pick(s.demand)
			if ok && s.name == "face-check" && i%5 == 0 { // some came when the fleet was fuller
				for k := range machines {
					if m := fleet.Machine(k); m.Pods == 0 && m.GPUs > 2 && m.Fits(&s.demand) {
						spot = gpushare.Spot{Machine: k, Devices: 1}
						break
					}
				}
			}
			if ok && fleet.Place(s.demand, spot) == nil {
				g.Takes, g.On = s.demand, spot.Devices
				hosts[spot.Machine].Guests = append(hosts[spot.Machine].Guests, g)
			} else {
				g.Reason = "no machine has 8 idle GPUs with 64 cores beside them"
				waiting = append(waiting, g)
			}
		}
	}
	for i := range hosts {
		hosts[i].Left = *fleet.Machine(i)
	}
	out := server.GPUs{Survey: gpushare.Take(hosts, waiting, 3000), Currency: "USD"}
	plan := server.GPUPlan{
		Name: "empty-before-night", Goal: "Empty", Mode: "Execute", Phase: "Running", PeakGPUs: "0", Moves: []server.GPUMove{},
		Reason: "waits for ai/question-ocr to be ready at its new place", Freed: []string{}, LostSeconds: 0,
	}
	// The made-up plan empties machines with one small pod.
	for i := range hosts {
		if len(hosts[i].Guests) != 1 || hosts[i].Guests[0].Takes.Milli > 500 || len(plan.Moves) == 6 {
			continue
		}
		g := hosts[i].Guests[0]
		spot, ok := fleet.Pick(g.Takes)
		if !ok || spot.Machine == i || fleet.Place(g.Takes, spot) != nil {
			continue
		}
		plan.Freed = append(plan.Freed, hosts[i].Name)
		plan.FreedNano += hosts[i].Price
		plan.Moves = append(plan.Moves, server.GPUMove{
			Pod: g.Namespace + "/" + g.Name, From: hosts[i].Name, FromDevices: uuids(&hosts[i], g.On), To: hosts[spot.Machine].Name, ToDevices: uuids(&hosts[spot.Machine], spot.Devices),
			Milli: g.Takes.Milli, MemoryMiB: g.Takes.DeviceMemory, Seconds: 22.7, State: []string{"Surging", "Pending"}[min(1, len(plan.Moves))],
		})
	}
	out.Plans = []server.GPUPlan{plan}
	return out
})

func uuids(h *gpushare.Host, on gpushare.Devices) []string {
	var out []string
	for i, d := range h.Devices {
		if on>>i&1 == 1 {
			out = append(out, d.UUID)
		}
	}
	return out
}
