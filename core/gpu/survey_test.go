package gpu

import (
	"reflect"
	"testing"

	"github.com/neap-dev/neap/core/money"
)

// hostOf is a machine of GPUs with 16 GiB, with guests on them.
func hostOf(name string, gpus int, price money.Amount, guests ...Guest) Host {
	h := Host{Name: name, Price: price, Has: Machine{CPU: 32_000, Memory: 1 << 40, GPUs: gpus}}
	for i := range gpus {
		h.Has.Idle[i], h.Has.IdleMemory[i] = Whole, 16384
		h.Devices = append(h.Devices, Device{UUID: name + string(rune('a'+i)), Model: "T4", MemoryMiB: 16384, Healthy: true})
	}
	h.Left = h.Has
	for _, g := range guests {
		h.Left.take(&g.Takes, g.On)
		h.Guests = append(h.Guests, g)
	}
	return h
}

func guest(name string, milli int64, on Devices) Guest {
	d := Demand{CPU: 1000, Devices: 1, Milli: milli, DeviceMemory: milli * 16}
	return Guest{Namespace: "ai", Name: name, Alternatives: []Demand{d}, Takes: d, On: on}
}

func TestTake(t *testing.T) {
	waits := guest("waits", 700, 0)
	waits.Takes = Demand{}
	s := Take([]Host{
		hostOf("one", 2, 3_000_000_000, guest("a", 400, 1), guest("b", 500, 1), guest("c", 600, 2)),
		hostOf("two", 1, 1_000_000_000, guest("d", 350, 1)),
		hostOf("three", 1, 1_000_000_000),
	}, []Guest{waits}, 1000)
	if s.CapacityMilli != 4000 || s.AllocatedMilli != 1850 || s.WaitingMilli != 700 {
		t.Errorf("capacity %d, allocated %d, waiting %d; want 4000, 1850, 700", s.CapacityMilli, s.AllocatedMilli, s.WaitingMilli)
	}
	if s.BoundMilli != 2550 || s.GapMilli != 700 {
		t.Errorf("bound %d, gap %d; want 2550, 700: the one that waits fits", s.BoundMilli, s.GapMilli)
	}
	if s.Used != 2 || s.Empty != 1 || s.UsedNano != 4_000_000_000 {
		t.Errorf("%d used at %d, %d empty; want 2 at 4 units, 1", s.Used, s.UsedNano, s.Empty)
	}
	// The four need 1.85 GPUs: no less than the machines at 1 unit a GPU.
	if s.LeastNano < 1_850_000_000 || s.LeastNano > 3_000_000_000 || s.GapNano != s.UsedNano-s.LeastNano {
		t.Errorf("least %d, gap %d of %d", s.LeastNano, s.GapNano, s.UsedNano)
	}
	if got := s.Hosts[0].Devices[0]; got.IdleMilli != 100 || got.IdleMiB != 16384-900*16 || !reflect.DeepEqual(got.Pods, []int{0, 1}) {
		t.Errorf("the first GPU is %+v", got)
	}
	// Of 100 + 400 + 650 + 1000 idle, the 100 and part of the 400 and 650 are of no use to some.
	if m := s.Models; len(m) != 1 || m[0].GPUs != 4 || m[0].IdleMilli != 2150 || m[0].FragmentMilli < 100 || m[0].FragmentMilli > 1150 {
		t.Errorf("models %+v", m)
	}
}

func TestTakeSickAndUnpriced(t *testing.T) {
	h := hostOf("one", 2, 0, guest("a", 400, 2))
	h.Has.Sick, h.Left.Sick = 1, 1
	h.Devices[0].Healthy = false
	s := Take([]Host{h}, nil, 1000)
	if s.CapacityMilli != 1000 || s.Models[0].Sick != 1 || s.Models[0].GPUs != 1 {
		t.Errorf("capacity %d, models %+v; want the sick GPU left out", s.CapacityMilli, s.Models)
	}
	if s.Unpriced != 1 || s.UsedNano != 0 || s.GapNano != 0 {
		t.Errorf("%d unpriced, used %d, gap %d; want 1 and no money", s.Unpriced, s.UsedNano, s.GapNano)
	}
}

func TestTakeNothing(t *testing.T) {
	if s := Take(nil, nil, 1000); s.CapacityMilli != 0 || s.BoundMilli != 0 || s.Hosts == nil || s.Models == nil || s.Waiting == nil {
		t.Errorf("%+v", s)
	}
}

func TestLeastFitsWhereverAnyDoes(t *testing.T) {
	got, ok := Least([]Demand{
		{CPU: 1000, Devices: 1, Milli: 650, DeviceMemory: 8192, Models: Models(0).With(1)},
		{CPU: 1000, Devices: 1, Milli: 300, DeviceMemory: 9000, Models: Models(0).With(2)},
	})
	if want := (Demand{CPU: 1000, Devices: 1, Milli: 300, DeviceMemory: 8192, Models: Models(0).With(1).With(2)}); !ok || got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, ok := Least(nil); ok {
		t.Error("no alternatives have a least one")
	}
}
