package bill

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/neap-dev/neap/core/resource"
)

func after(d time.Duration) time.Time { return hour0.Add(d) }

func machineEvent(d time.Duration, name string, cores int64) Event {
	return Event{At: after(d), Kind: MachineSeen, Machine: &Machine{Name: name, Pool: "p", Type: "c8",
		Capacity: resource.Vector{cores * 1000, cores * resource.GiB, 0}, Allocatable: resource.Vector{cores * 1000, cores * resource.GiB, 0}}}
}

func podEvent(d time.Duration, uid, machine string, milli int64) Event {
	return Event{At: after(d), Kind: PodSeen, Pod: &Pod{UID: uid, Namespace: "n", Name: uid, Machine: machine, Module: key("a"),
		Labels: map[string]string{"l": uid}, Requests: []Step{{Request: resource.Vector{milli, 0, 0}}}}}
}

func gone(d time.Duration, kind EventKind, name string) Event {
	return Event{At: after(d), Kind: kind, Name: name}
}

// tell writes an hour as one line a machine and pod, in minutes from hour0.
func tell(h Hour) string {
	var b strings.Builder
	minute := func(t time.Time) string { return fmt.Sprintf("%g", t.Sub(hour0).Minutes()) }
	for _, m := range h.Machines {
		fmt.Fprintf(&b, "%s %s-%s %d cores\n", m.Name, minute(m.From), minute(m.To), m.Capacity[0]/1000)
	}
	for _, p := range h.Pods {
		fmt.Fprintf(&b, "%s@%s %s-%s %s", p.UID, p.Machine, minute(p.From), minute(p.To), p.Module.Name)
		for _, s := range p.Requests {
			fmt.Fprintf(&b, " %s:%d", minute(s.At), s.Request[0])
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestJournal(t *testing.T) {
	m := time.Minute
	request := func(d time.Duration, uid string, milli int64) Event {
		return Event{At: after(d), Kind: PodRequest, Name: uid, Request: &resource.Vector{milli, 0, 0}}
	}
	other := key("b")
	cases := map[string]struct {
		events  []Event
		want    string
		clamped int
		ignored int
	}{
		"lifetimes are cut at the hour": {
			[]Event{machineEvent(-70*m, "x", 8), podEvent(-65*m, "u", "x", 100), podEvent(10*m, "v", "x", 100), gone(20*m, PodGone, "v")},
			"x 0-60 8 cores\nu@x 0-60 a 0:100\nv@x 10-20 a 10:100\n", 0, 0,
		},
		"request steps before the hour leave only the last": {
			[]Event{machineEvent(-70*m, "x", 8), podEvent(-65*m, "u", "x", 100), request(-10*m, "u", 200), request(-5*m, "u", 300), request(30*m, "u", 400), request(70*m, "u", 500)},
			"x 0-60 8 cores\nu@x 0-60 a 0:300 30:400\n", 0, 0,
		},
		"an object seen again with another request is a step": {
			[]Event{machineEvent(0, "x", 8), podEvent(0, "u", "x", 100), podEvent(20*m, "u", "x", 300)},
			"x 0-60 8 cores\nu@x 0-60 a 0:100 20:300\n", 0, 0,
		},
		"a machine that changes is bought anew": {
			[]Event{machineEvent(0, "x", 8), machineEvent(20*m, "x", 16)},
			"x 0-20 8 cores\nx 20-60 16 cores\n", 0, 0,
		},
		"a machine that only now says how large it is was so from the start": {
			[]Event{machineEvent(0, "x", 0), machineEvent(20*m, "x", 16)},
			"x 0-60 16 cores\n", 0, 0,
		},
		"a machine that is closed stays the same machine": {
			[]Event{machineEvent(0, "x", 8), func() Event { e := machineEvent(20*m, "x", 8); e.Machine.Closed = true; return e }()},
			"x 0-60 8 cores\n", 0, 0,
		},
		"a machine that comes back under its name is another": {
			[]Event{machineEvent(0, "x", 8), gone(10*m, MachineGone, "x"), machineEvent(30*m, "x", 8)},
			"x 0-10 8 cores\nx 30-60 8 cores\n", 0, 0,
		},
		"a pod ends with its machine": {
			[]Event{machineEvent(0, "x", 8), podEvent(0, "u", "x", 100), gone(10*m, MachineGone, "x"), gone(15*m, PodGone, "u")},
			"x 0-10 8 cores\nu@x 0-10 a 0:100\n", 0, 0,
		},
		"the first end counts": {
			[]Event{machineEvent(0, "x", 8), podEvent(0, "u", "x", 100), gone(10*m, PodGone, "u"), gone(15*m, PodGone, "u"), podEvent(16*m, "u", "x", 300)},
			"x 0-60 8 cores\nu@x 0-10 a 0:100\n", 0, 0,
		},
		"a clock that steps back is held at the last known moment": {
			[]Event{machineEvent(0, "x", 8), podEvent(20*m, "u", "x", 100), request(30*m, "u", 200), request(25*m, "u", 300), gone(10*m, PodGone, "u")},
			"x 0-60 8 cores\nu@x 20-30 a 20:100\n", 2, 0,
		},
		"a module found later takes the pod over": {
			[]Event{machineEvent(0, "x", 8), podEvent(0, "u", "x", 100), {At: after(5 * m), Kind: PodModule, Name: "u", Module: &other}},
			"x 0-60 8 cores\nu@x 0-60 b 0:100\n", 0, 0,
		},
		"a module that is renamed takes its pods along": {
			[]Event{machineEvent(0, "x", 8), podEvent(0, "u", "x", 100), {At: after(5 * m), Kind: ModuleRenamed, OldModule: &podEvent(0, "", "", 0).Pod.Module, Module: &other}},
			"x 0-60 8 cores\nu@x 0-60 b 0:100\n", 0, 0,
		},
		"what is unknown or incomplete is counted and ignored": {
			[]Event{gone(0, PodGone, "u"), gone(0, MachineGone, "x"), {Kind: MachineSeen}, {Kind: PodSeen, Pod: &Pod{UID: "u"}}, {Kind: "nonsense"}, request(0, "u", 1)},
			"", 0, 6,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var j Journal
			for _, e := range tc.events {
				j.Apply(e)
			}
			if diff := cmp.Diff(tc.want, tell(j.Hour(hour0, hour0.Add(time.Hour)))); diff != "" {
				t.Errorf("hour (-want +got):\n%s", diff)
			}
			if j.Clamped != tc.clamped || j.Ignored != tc.ignored {
				t.Errorf("clamped %d, ignored %d; want %d and %d", j.Clamped, j.Ignored, tc.clamped, tc.ignored)
			}
		})
	}
}

// randomEvents is the life of a small fleet in order of time.
func randomEvents(dice *rand.Rand) []Event {
	var events []Event
	at := -2 * time.Hour
	alive := map[string]bool{}
	for i := range 120 {
		at += time.Duration(dice.Int63n(int64(4 * time.Minute)))
		name := fmt.Sprint("m", dice.Intn(4))
		uid := fmt.Sprint("u", dice.Intn(12))
		switch dice.Intn(6) {
		case 0:
			events = append(events, machineEvent(at, name, int64(8+dice.Intn(2))))
		case 1:
			if dice.Intn(4) == 0 {
				events = append(events, gone(at, MachineGone, name))
			}
		case 2, 3:
			if i > 4 && !alive[uid] {
				events = append(events, podEvent(at, uid, name, int64(dice.Intn(5)*100)))
				alive[uid] = true
			}
		case 4:
			if alive[uid] {
				events = append(events, Event{At: after(at), Kind: PodRequest, Name: uid, Request: &resource.Vector{int64(dice.Intn(5) * 100), 0, 0}})
			}
		case 5:
			if alive[uid] {
				events = append(events, gone(at, PodGone, uid))
			}
		}
	}
	return events
}

func hoursOf(j *Journal) string {
	var b strings.Builder
	for h := -2; h < 3; h++ {
		from := hour0.Add(time.Duration(h) * time.Hour)
		b.WriteString(tell(j.Hour(from, from.Add(time.Hour))))
	}
	return b.String()
}

func TestReplayingAJournalChangesNothing(t *testing.T) {
	for seed := range 500 {
		dice := rand.New(rand.NewSource(int64(seed)))
		events := randomEvents(dice)
		var once, twice, stored, shuffled Journal
		for _, e := range events {
			once.Apply(e)
			twice.Apply(e)
			twice.Apply(e)
		}
		want := hoursOf(&once)
		for range 2 { // the whole sequence again, as after a crash
			for _, e := range events {
				twice.Apply(e)
			}
		}
		if diff := cmp.Diff(want, hoursOf(&twice)); diff != "" {
			t.Fatalf("seed %d: applied again (-once +again):\n%s", seed, diff)
		}
		// Through JSON, and through the shortest events.
		raw, err := json.Marshal(once.Events())
		if err != nil {
			t.Fatal(err)
		}
		var back []Event
		if err := json.Unmarshal(raw, &back); err != nil {
			t.Fatal(err)
		}
		for _, e := range back {
			stored.Apply(e)
		}
		if diff := cmp.Diff(want, hoursOf(&stored)); diff != "" {
			t.Fatalf("seed %d: stored and read (-before +after):\n%s", seed, diff)
		}
		// Events of different objects in another order.
		byObject := map[string][]Event{}
		var names []string
		for _, e := range events {
			n := e.subject()
			if byObject[n] == nil {
				names = append(names, n)
			}
			byObject[n] = append(byObject[n], e)
		}
		slices.Reverse(names)
		for _, n := range names {
			for _, e := range byObject[n] {
				shuffled.Apply(e)
			}
		}
		if diff := cmp.Diff(want, hoursOf(&shuffled)); diff != "" {
			t.Fatalf("seed %d: objects in another order (-before +after):\n%s", seed, diff)
		}
		// Forgetting what is over changes no later hour.
		before := tell(once.Hour(hour0, hour0.Add(time.Hour)))
		once.Forget(hour0)
		if diff := cmp.Diff(before, tell(once.Hour(hour0, hour0.Add(time.Hour)))); diff != "" {
			t.Fatalf("seed %d: forgot too much (-before +after):\n%s", seed, diff)
		}
	}
}
