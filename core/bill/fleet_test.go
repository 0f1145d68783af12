package bill

import (
	"fmt"
	"math/rand"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

var hour0 = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

func key(name string) workload.Key {
	return workload.Key{Namespace: "ns-" + name[:1], Kind: "Deployment", Name: name}
}

// testBook has four machine types, one of them with GPUs and one priced in
// another currency, and one type bought by the pod; all may change price in any
// hour of the day.
func testBook(t testing.TB, dice *rand.Rand) *machine.PriceBook {
	t.Helper()
	book := machine.NewPriceBook("USD")
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(book.Rate("CNY", time.Time{}, 137_931_034))
	types := []machine.Type{
		{Name: "c8", Capacity: resource.Vector{8000, 16 * resource.GiB, 0}, List: 340_000_000, DiscountMillis: 130, RatingMillis: 1000},
		{Name: "m8", Capacity: resource.Vector{8000, 32 * resource.GiB, 0}, List: 384_000_007, RatingMillis: 1213},
		{Name: "g8", Capacity: resource.Vector{16000, 64 * resource.GiB, 4000}, List: 3_060_000_001, DiscountMillis: 333, RatingMillis: 900},
		{Name: "cn4", Capacity: resource.Vector{4000, 8 * resource.GiB, 0}, List: 1_030_000_000, Currency: "CNY"},
		{Name: "pod", UnitList: [3]money.PerHour{48_000_001, 5_300_003, 1_200_000_000}, DiscountMillis: 77},
	}
	for _, typ := range types {
		must(book.Set(time.Time{}, typ))
		for dice != nil && dice.Intn(3) == 0 {
			typ.List += money.PerHour(dice.Intn(1000)) * money.PerHour(typ.List/1000)
			typ.DiscountMillis = int64(dice.Intn(900))
			must(book.Set(hour0.Add(time.Duration(dice.Int63n(int64(time.Hour)))), typ))
		}
	}
	if dice != nil && dice.Intn(3) == 0 {
		must(book.Rate("CNY", hour0.Add(time.Duration(dice.Int63n(int64(time.Hour)))), 140_000_000))
	}
	return book
}

// randomHour makes a small fleet with everything that can happen to it:
// overcommitted machines, request steps, gaps, serverless pods, headroom,
// machines and pods that come and go at any nanosecond.
func randomHour(dice *rand.Rand, from time.Time) Hour {
	h := Hour{From: from, To: from.Add(time.Hour)}
	if dice.Intn(10) == 0 {
		h.To = from.Add(time.Duration(1 + dice.Int63n(int64(time.Hour))))
	}
	length := h.To.Sub(h.From)
	moment := func() time.Time {
		d := time.Duration(dice.Int63n(int64(length)))
		if dice.Intn(2) == 0 {
			d = d.Truncate(time.Second)
		}
		return from.Add(d)
	}
	stretch := func() (time.Time, time.Time) {
		a, b := h.From.Add(-time.Minute), h.To.Add(time.Minute)
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
	capacity := map[string]resource.Vector{
		"c8": {8000, 16 * resource.GiB, 0}, "m8": {8000, 32 * resource.GiB, 0}, "g8": {16000, 64 * resource.GiB, 4000}, "cn4": {4000, 8 * resource.GiB, 0},
	}
	types := []string{"c8", "m8", "g8", "cn4"}
	some := func(limit resource.Vector) resource.Vector {
		var v resource.Vector
		for k := range v {
			if limit[k] > 0 && dice.Intn(8) > 0 {
				v[k] = dice.Int63n(limit[k]/2 + 1)
			}
		}
		if v[resource.GPU] > 0 {
			v[resource.GPU] = v[resource.GPU] / 1000 * 1000
		}
		return v
	}
	for i, n := 0, dice.Intn(4); i < n; i++ {
		m := Machine{Name: fmt.Sprint("m", i), Pool: fmt.Sprint("p", dice.Intn(3)), Type: types[dice.Intn(4)], Domain: fmt.Sprint("z", dice.Intn(2))}
		m.From, m.To = stretch()
		m.Capacity = capacity[m.Type]
		m.Allocatable = m.Capacity
		if dice.Intn(2) == 0 {
			m.Allocatable = m.Capacity.Sub(some(m.Capacity))
		}
		if dice.Intn(4) == 0 {
			m.Spare = some(m.Capacity)
		}
		if dice.Intn(20) == 0 {
			m.Capacity, m.Allocatable = resource.Vector{}, resource.Vector{}
		}
		m.Closed = dice.Intn(6) == 0
		h.Machines = append(h.Machines, m)
		for j, pods := 0, dice.Intn(6); j < pods; j++ {
			p := Pod{UID: fmt.Sprint("u", i, "-", j), Name: fmt.Sprint("pod", i, j), Machine: m.Name}
			p.From, p.To = stretch()
			p.Requests = []Step{{At: p.From, Request: some(capacity[m.Type])}}
			for dice.Intn(3) == 0 {
				p.Requests = append(p.Requests, Step{At: moment(), Request: some(capacity[m.Type])})
			}
			p.Rules = Rules{Pinned: dice.Intn(6) == 0}
			if dice.Intn(4) == 0 {
				p.Rules.Alone, p.Rules.Domains = fmt.Sprint("a", dice.Intn(2)), dice.Intn(2)
			}
			p.Headroom = dice.Intn(8) == 0
			p.Daemon = dice.Intn(8) == 0
			h.Pods = append(h.Pods, p)
		}
	}
	for i, n := 0, dice.Intn(3); i < n; i++ {
		a, b := stretch()
		name := fmt.Sprint("virtual/x/s", i)
		r := some(resource.Vector{4000, 8 * resource.GiB, 2000})
		h.Machines = append(h.Machines, Machine{Name: name, Pool: "sl", Type: "pod", From: a, To: b, Capacity: r, Allocatable: r, Serverless: true})
		h.Pods = append(h.Pods, Pod{UID: fmt.Sprint("s", i), Name: fmt.Sprint("s", i), Machine: name, From: a, To: b, Requests: []Step{{a, r}}})
	}
	for i := range h.Pods {
		p := &h.Pods[i]
		p.Module = key(fmt.Sprint(string("abc"[dice.Intn(3)]), dice.Intn(2)))
		p.Namespace = p.Module.Namespace
		p.Labels = map[string]string{"team": fmt.Sprint("t", dice.Intn(3))}
		if dice.Intn(5) == 0 {
			p.Labels = nil
		}
		// Samples of odd lengths, with gaps; more use than the machine has at times.
		for at := p.From; at.Before(p.To) && dice.Intn(12) > 0; {
			end := at.Add(time.Duration(1 + dice.Int63n(int64(20*time.Minute))))
			if dice.Intn(4) > 0 {
				s := Sample{From: at, To: end, Use: some(resource.Vector{9000, 18 * resource.GiB, 0}), Estimated: dice.Intn(9) == 0}
				s.Missing[resource.GPU] = true
				p.Usage = append(p.Usage, s)
			}
			at = end
		}
	}
	for _, m := range []string{"a0", "a1", "b0", "b1", "c0"} {
		h.Loads = append(h.Loads, Load{Module: key(m), Requests: int64(dice.Intn(1000)) - 1, Known: dice.Intn(2) == 0, Met: dice.Intn(3) > 0})
	}
	return h
}
