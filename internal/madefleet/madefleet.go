// Package madefleet makes fleets out of dice, for measurements and tests that
// need more of them, or larger ones, than anybody has at hand. Equal dice make
// equal fleets. Nothing in it was observed anywhere.
package madefleet

import (
	"fmt"
	"math/rand"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

const gib = resource.GiB

// types are invented, with odd prices so that roundings show.
func types() []machine.Type {
	return []machine.Type{
		{Name: "c8", Capacity: resource.Vector{8000, 16 * gib, 0}, List: 340_000_000, DiscountMillis: 130, RatingMillis: 1000},
		{Name: "m8", Capacity: resource.Vector{8000, 32 * gib, 0}, List: 384_000_007, RatingMillis: 1213},
		{Name: "m32", Capacity: resource.Vector{32000, 128 * gib, 0}, List: 1_536_000_011, DiscountMillis: 250, RatingMillis: 1100},
		{Name: "g8", Capacity: resource.Vector{16000, 64 * gib, 4000}, List: 3_060_000_001, DiscountMillis: 333, RatingMillis: 900},
		{Name: "virtual", UnitList: [resource.Kinds]money.PerHour{48_000_001, 5_300_003, 1_200_000_000}, DiscountMillis: 77},
	}
}

// Book returns a price book, in US dollars, of the types that the fleets use.
// If dice are given, some prices change within the hour that starts at from, and
// some types are missing from it until then.
func Book(dice *rand.Rand, from time.Time) (*machine.PriceBook, error) {
	book := machine.NewPriceBook("USD")
	for _, t := range types() {
		if err := book.Set(time.Time{}, t); err != nil {
			return nil, err
		}
		for dice != nil && dice.Intn(3) == 0 {
			t.List += money.PerHour(dice.Intn(1000)) * t.List / 1000
			t.DiscountMillis = int64(dice.Intn(900))
			if err := book.Set(from.Add(time.Duration(dice.Int63n(int64(time.Hour)))), t); err != nil {
				return nil, err
			}
		}
	}
	return book, nil
}

// Small makes up to five machines and a few dozen pods with everything that can
// happen to them within an hour: more use than the machine has, request steps,
// gaps in the metrics, serverless pods, headroom, machines and pods that come
// and go at any nanosecond, modules and machine types that are not there at all.
func Small(dice *rand.Rand, from time.Time) bill.Hour {
	h := bill.Hour{From: from, To: from.Add(time.Hour)}
	moment := func() time.Time { return from.Add(time.Duration(dice.Int63n(int64(time.Hour)))) }
	stretch := func() (time.Time, time.Time) {
		a, b := h.From, h.To
		if dice.Intn(3) == 0 {
			a = moment()
		}
		if dice.Intn(3) == 0 {
			b = moment()
		}
		if b.Before(a) {
			a, b = b, a
		}
		return a, b
	}
	some := func(limit resource.Vector) resource.Vector {
		var v resource.Vector
		for k := range v {
			if limit[k] > 0 && dice.Intn(8) > 0 {
				v[k] = dice.Int63n(limit[k]/2 + 1)
			}
		}
		v[resource.GPU] = v[resource.GPU] / 1000 * 1000
		return v
	}
	kinds := types()
	for i, n := 0, dice.Intn(5); i < n; i++ {
		t := kinds[dice.Intn(len(kinds)-1)]
		m := bill.Machine{Name: fmt.Sprint("m", i), Pool: fmt.Sprint("p", dice.Intn(3)), Type: t.Name,
			Capacity: t.Capacity, Allocatable: t.Capacity, Domain: fmt.Sprint("z", dice.Intn(2)), Closed: dice.Intn(6) == 0}
		m.From, m.To = stretch()
		if dice.Intn(2) == 0 {
			m.Allocatable = m.Capacity.Sub(some(m.Capacity))
		}
		if dice.Intn(4) == 0 {
			m.Spare = some(m.Capacity)
		}
		h.Machines = append(h.Machines, m)
		for j, pods := 0, dice.Intn(8); j < pods; j++ {
			p := bill.Pod{UID: fmt.Sprintf("u%d-%d", i, j), Name: fmt.Sprintf("pod%d-%d", i, j), Machine: m.Name,
				Headroom: dice.Intn(8) == 0, Daemon: dice.Intn(8) == 0}
			p.From, p.To = stretch()
			p.Requests = []bill.Step{{At: p.From, Request: some(t.Capacity)}}
			for dice.Intn(3) == 0 {
				p.Requests = append(p.Requests, bill.Step{At: moment(), Request: some(t.Capacity)})
			}
			p.Rules = bill.Rules{Pinned: dice.Intn(6) == 0}
			if dice.Intn(4) == 0 {
				p.Rules.Alone, p.Rules.Domains = fmt.Sprint("a", dice.Intn(2)), dice.Intn(2)
			}
			h.Pods = append(h.Pods, p)
		}
	}
	for i, n := 0, dice.Intn(3); i < n; i++ {
		a, b := stretch()
		r := some(resource.Vector{4000, 8 * gib, 2000})
		m := bill.Machine{Name: fmt.Sprint("virtual/shop/s", i), Pool: "serverless", Type: "virtual", From: a, To: b, Capacity: r, Allocatable: r, Serverless: true}
		h.Machines = append(h.Machines, m)
		h.Pods = append(h.Pods, bill.Pod{UID: fmt.Sprint("s", i), Name: fmt.Sprint("s", i), Machine: m.Name, From: a, To: b, Requests: []bill.Step{{At: a, Request: r}}})
	}
	for i := range h.Pods {
		p := &h.Pods[i]
		n := dice.Intn(6)
		p.Module = workload.Key{Namespace: fmt.Sprint("ns", n%3), Kind: "Deployment", Name: fmt.Sprint("app", n)}
		p.Namespace = p.Module.Namespace
		if dice.Intn(5) > 0 {
			p.Labels = map[string]string{"team": fmt.Sprint("t", dice.Intn(3)), "app": p.Module.Name}
		}
		for at := p.From; at.Before(p.To) && dice.Intn(12) > 0; {
			end := at.Add(time.Duration(1 + dice.Int63n(int64(20*time.Minute))))
			if dice.Intn(4) > 0 {
				s := bill.Sample{From: at, To: end, Use: some(resource.Vector{9000, 18 * gib, 0})}
				s.Missing[resource.GPU] = true
				p.Usage = append(p.Usage, s)
			}
			at = end
		}
	}
	for n := range 5 {
		h.Loads = append(h.Loads, bill.Load{
			Module:   workload.Key{Namespace: fmt.Sprint("ns", n%3), Kind: "Deployment", Name: fmt.Sprint("app", n)},
			Requests: int64(dice.Intn(100_000)) - 1, Known: dice.Intn(2) == 0, Met: dice.Intn(3) > 0,
			SuccessMicros: 999_000, P99: 80 * time.Millisecond,
		})
	}
	return h
}

// Large makes an hour of a fleet of the given size, spread over three pools and
// three machine types: every pod has a sample a minute, one in ten lives shorter
// than the hour, and their modules have few or many pods, as in the field.
func Large(dice *rand.Rand, from time.Time, machines, pods, modules int) bill.Hour {
	h := bill.Hour{From: from, To: from.Add(time.Hour)}
	kinds := types()[:4]
	pools := []string{"general", "gpu-spare", "elastic"}
	keys := make([]workload.Key, modules)
	labels := make([]map[string]string, modules)
	for i := range keys {
		keys[i] = workload.Key{Namespace: fmt.Sprintf("team-%02d", i%40), Kind: "Deployment", Name: fmt.Sprintf("service-%04d", i)}
		labels[i] = map[string]string{"app": keys[i].Name, "team": keys[i].Namespace, "tier": []string{"core", "batch", "edge"}[i%3], "pod-template-hash": fmt.Sprintf("%08x", i*2654435761)}
		h.Loads = append(h.Loads, bill.Load{Module: keys[i], Requests: dice.Int63n(1_000_000), Known: true, SuccessMicros: 999_900, P99: 120 * time.Millisecond, Met: dice.Intn(20) > 0})
	}
	size := make([]resource.Vector, machines)
	for i := range machines {
		t := kinds[i%len(kinds)]
		if t.Name == "c8" || t.Name == "m8" { // 25 pods a machine need larger ones
			t = kinds[2]
		}
		size[i] = t.Capacity
		h.Machines = append(h.Machines, bill.Machine{
			Name: fmt.Sprintf("machine-%05d", i), Pool: pools[i%3], Type: t.Name, From: h.From, To: h.To, MaxPods: 110,
			Capacity: t.Capacity, Allocatable: t.Capacity.Sub(resource.Vector{300, 2 * gib, 0}), Domain: fmt.Sprint("zone-", i%3),
		})
	}
	for i := range pods {
		on := i % machines
		n := int(float64(modules) * dice.Float64() * dice.Float64())
		share := int64(pods/machines + 1)
		r := resource.Vector{size[on][0] / share * (5 + dice.Int63n(5)) / 10, size[on][1] / share * (5 + dice.Int63n(5)) / 10, 0}
		p := bill.Pod{
			UID:       fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x", dice.Uint32(), dice.Intn(1<<16), dice.Intn(1<<12), dice.Intn(1<<12), dice.Int63n(1<<48)),
			Namespace: keys[n].Namespace, Name: fmt.Sprintf("%s-%05d", keys[n].Name, i), Module: keys[n],
			Machine: h.Machines[on].Name, Labels: labels[n], From: h.From, To: h.To,
		}
		if dice.Intn(10) == 0 {
			p.From = h.From.Add(time.Duration(dice.Int63n(int64(30 * time.Minute))))
			p.To = p.From.Add(time.Duration(dice.Int63n(int64(30 * time.Minute))))
		}
		if dice.Intn(10) == 0 {
			p.Rules = bill.Rules{Alone: keys[n].Name, Domains: 2}
		}
		p.Requests = []bill.Step{{At: p.From, Request: r}}
		p.Usage = make([]bill.Sample, 60)
		for s := range p.Usage {
			p.Usage[s] = bill.Sample{From: h.From.Add(time.Duration(s) * time.Minute), To: h.From.Add(time.Duration(s+1) * time.Minute),
				Use: resource.Vector{dice.Int63n(r[0] + 50), r[1] / 2, 0}}
		}
		h.Pods = append(h.Pods, p)
	}
	return h
}
