package bill

import (
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

// conserves checks every identity of closed facts with ==.
func conserves(t testing.TB, h Hour, book *machine.PriceBook, f Facts) {
	t.Helper()
	var bill, used, slack, headroom, shared, unshared money.Amount
	onMachine := map[string]Amounts{}
	slackOn := map[string]Amounts{}
	for i := range f.Pods {
		p := &f.Pods[i]
		at := p.Machine + p.Type
		u, s := onMachine[at], slackOn[at]
		u.add(p.Used)
		s.add(p.Slack)
		onMachine[at], slackOn[at] = u, s
		used += p.Used.Sum()
		slack += p.Slack.Sum()
		headroom += p.Headroom.Sum()
		shared += p.Shared.Sum()
		for k := range resource.Kinds {
			if p.Used[k] < 0 || p.Slack[k] < 0 || p.Shared[k] < 0 || p.Headroom[k] < 0 {
				t.Fatalf("negative money in %+v", p)
			}
			if p.HeldSeconds[k] < p.UseSeconds[k] || p.HeldSeconds[k] < p.RequestSeconds[k] {
				t.Fatalf("held less than used or requested: %+v", p)
			}
		}
		if p.IsHeadroom && (p.Used != (Amounts{}) || p.Slack != (Amounts{}) || p.Shared != (Amounts{})) {
			t.Fatalf("headroom carries a share: %+v", p)
		}
	}
	boxes := map[Box]money.Amount{}
	for i := range f.Machines {
		m := &f.Machines[i]
		bill += m.Bill.Sum()
		unshared += m.Unshared.Sum()
		for k := range resource.Kinds {
			sum := onMachine[m.Name+m.Type][k]
			for box, a := range m.Idle {
				if a[k] < 0 {
					t.Fatalf("negative box %s of %s: %d", box, m.Name, a[k])
				}
				sum += a[k]
			}
			if sum != m.Bill[k] {
				t.Fatalf("machine %s %s: used + idle = %d, bill = %d", m.Name, resource.Kind(k), sum, m.Bill[k])
			}
			if m.Idle[Slack][k] != slackOn[m.Name+m.Type][k] {
				t.Fatalf("machine %s %s: slack box %d, pods' slack %d", m.Name, resource.Kind(k), m.Idle[Slack][k], slackOn[m.Name+m.Type][k])
			}
		}
		for box, a := range m.Idle {
			boxes[box] += a.Sum()
		}
		if m.Idle[Unexplain] != (Amounts{}) {
			t.Fatalf("unexplained money on %s", m.Name)
		}
		// The bill is the price book's, whole stretches at a time.
		want, at := money.Amount(0), m.From
		for _, change := range append(book.Changes(m.Type, m.From, m.To), m.To) {
			price, err := book.At(m.Type, capacityOf(h, m.Name), at)
			if err != nil {
				t.Fatal(err)
			}
			want += price.Effective.Between(at, change)
			at = change
		}
		if m.Bill.Sum() != want {
			t.Fatalf("machine %s: bill %d, its time costs %d", m.Name, m.Bill.Sum(), want)
		}
	}
	idle := money.Amount(0)
	for _, v := range boxes {
		idle += v
	}
	if used+idle != bill {
		t.Fatalf("used %d + idle %d != bill %d", used, idle, bill)
	}
	if used+slack+shared+unshared != bill {
		t.Fatalf("used %d + slack %d + shared %d + unshared %d != bill %d", used, slack, shared, unshared, bill)
	}
	if boxes[Spare] < headroom {
		t.Fatalf("spare %d is less than headroom %d", boxes[Spare], headroom)
	}
}

func capacityOf(h Hour, name string) resource.Vector {
	for _, m := range h.Machines {
		if m.Name == name {
			return m.Capacity
		}
	}
	return resource.Vector{}
}

var groupings = []string{ByModule, ByNamespace, ByPool, ByMachineType, ByFeature, "label:team", "label:nothing"}

func TestEveryUnitIsSomewhereInRandomFleets(t *testing.T) {
	fleets := 12_000
	if testing.Short() {
		fleets = 1_000
	}
	features := map[workload.Key][]workload.Feature{
		key("a0"): {{Name: "homework", ShareMillis: 333}, {Name: "live", ShareMillis: 667}},
		key("a1"): {{Name: "live", ShareMillis: 1}},
	}
	var day []Facts
	for seed := range fleets {
		dice := rand.New(rand.NewSource(int64(seed)))
		book := testBook(t, dice)
		h := randomHour(dice, hour0)
		f, err := Close(h, book, Options{})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		conserves(t, h, book, f)
		day = append(day, f)
		windows := [][]Facts{{f}}
		if len(day) == 24 {
			windows = append(windows, day)
		}
		for _, facts := range windows {
			for _, by := range groupings {
				r, err := Summarise(facts, by, features)
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				checkReport(t, seed, facts, r)
			}
		}
		if len(day) == 24 {
			day = day[:0]
		}
	}
}

func checkReport(t testing.TB, seed int, facts []Facts, r Report) {
	t.Helper()
	bill := money.Amount(0)
	for i := range facts {
		for m := range facts[i].Machines {
			bill += facts[i].Machines[m].Bill.Sum()
		}
	}
	idle := money.Amount(0)
	for _, v := range r.IdleNano {
		if v < 0 {
			t.Fatalf("seed %d by %s: negative box in %v", seed, r.By, r.IdleNano)
		}
		idle += v
	}
	if r.BillNano != bill || r.AllocatedNano+idle != bill || r.UnexplainedNano != 0 {
		t.Fatalf("seed %d by %s: bill %d, want %d; allocated %d + idle %d, unexplained %d", seed, r.By, r.BillNano, bill, r.AllocatedNano, idle, r.UnexplainedNano)
	}
	var byResource money.Amount
	for _, p := range r.Resources {
		sum := p.AllocatedNano
		for _, v := range p.IdleNano {
			sum += v
		}
		if sum != p.BillNano {
			t.Fatalf("seed %d by %s: %s is %d of %d", seed, r.By, p.Resource, sum, p.BillNano)
		}
		byResource += sum
	}
	if byResource != bill {
		t.Fatalf("seed %d by %s: the resources cost %d of %d", seed, r.By, byResource, bill)
	}
	var used, slack, cost money.Amount
	for _, l := range r.Lines {
		used += l.UsedNano
		slack += l.SlackNano
		cost += l.CostNano
		if l.CostNano != l.UsedNano+l.SlackNano+l.SharedNano {
			t.Fatalf("seed %d by %s: line %+v does not add up", seed, r.By, l)
		}
		parts := money.Amount(0)
		for _, f := range l.Factors {
			parts += f.CostNano
		}
		if parts != l.CostNano {
			t.Fatalf("seed %d by %s: factors of %s cost %d, the line %d", seed, r.By, l.Key, parts, l.CostNano)
		}
		if l.Key == Nobody && l.CostNano == 0 {
			t.Fatalf("seed %d by %s: an empty line for nobody", seed, r.By)
		}
	}
	if used != r.AllocatedNano || slack != r.IdleNano[Slack] || cost != bill {
		t.Fatalf("seed %d by %s: lines use %d (report %d), slack %d (%d), cost %d (%d)", seed, r.By, used, r.AllocatedNano, slack, r.IdleNano[Slack], cost, bill)
	}
}

func oneMachine(pods ...Pod) Hour {
	h := Hour{From: hour0, To: hour0.Add(time.Hour), Pods: pods}
	h.Machines = []Machine{{Name: "m", Pool: "p", Type: "c8", From: hour0, To: h.To,
		Capacity: resource.Vector{8000, 16 * resource.GiB, 0}, Allocatable: resource.Vector{8000, 16 * resource.GiB, 0}}}
	for i := range h.Pods {
		p := &h.Pods[i]
		p.Machine = "m"
		if p.UID == "" {
			p.UID = fmt.Sprint("u", i)
		}
		if p.From.IsZero() {
			p.From = h.From
		}
		if p.To.IsZero() {
			p.To = h.To
		}
	}
	return h
}

func mustClose(t testing.TB, h Hour, book *machine.PriceBook) Facts {
	t.Helper()
	f, err := Close(h, book, Options{})
	if err != nil {
		t.Fatal(err)
	}
	conserves(t, h, book, f)
	return f
}

func TestAThirtySecondPodIsBilledToTheSecond(t *testing.T) {
	book := testBook(t, nil)
	all := resource.Vector{8000, 16 * resource.GiB, 0}
	f := mustClose(t, oneMachine(Pod{
		From: hour0.Add(17 * time.Minute), To: hour0.Add(17*time.Minute + 30*time.Second), Requests: []Step{{Request: all}},
	}), book)
	price, _ := book.At("c8", all, hour0)
	want := price.Effective.Between(hour0.Add(17*time.Minute), hour0.Add(17*time.Minute+30*time.Second))
	if got := f.Pods[0].Used.Sum(); got != want {
		t.Errorf("billed %d, want %d: 30 of 3600 seconds", got, want)
	}
	if want := int64(30 * 8000); f.Pods[0].HeldSeconds[resource.CPU] != want {
		t.Errorf("held %d milli-core-seconds, want %d", f.Pods[0].HeldSeconds[resource.CPU], want)
	}
}

func TestTwoPodsThatHoldMoreThanTheMachineAreScaledDown(t *testing.T) {
	// The case in which OpenCost allocates twice what there is: one pod uses the
	// whole memory and requests none, the other requests it and uses none.
	book := testBook(t, nil)
	all := resource.Vector{0, 16 * resource.GiB, 0}
	f := mustClose(t, oneMachine(
		Pod{Usage: []Sample{{From: hour0, To: hour0.Add(time.Hour), Use: all}}},
		Pod{Requests: []Step{{Request: all}}, Usage: []Sample{{From: hour0, To: hour0.Add(time.Hour)}}},
	), book)
	bill := f.Machines[0].Bill[resource.Memory]
	if a, b := f.Pods[0].Used[resource.Memory], f.Pods[1].Slack[resource.Memory]; a+b != bill || a-b > 5 || b-a > 5 {
		t.Errorf("shares %d and %d of %d, want a half each", a, b, bill)
	}
	if raw := f.Pods[0].OpenCost[resource.Memory] + f.Pods[1].OpenCost[resource.Memory]; raw < 2*bill-10 {
		t.Errorf("OpenCost's own figure is %d, want about twice the bill %d", raw, bill)
	}
}

func TestAShareFollowsTheConservingRule(t *testing.T) {
	// c = m·min(1, Cap/Σm), to the nano-unit, where nothing changes for an hour.
	book := testBook(t, nil)
	dice := rand.New(rand.NewSource(1))
	over := 0
	for range 500 {
		var pods []Pod
		sum := int64(0)
		var held []int64
		for range 1 + dice.Intn(12) {
			request, use := dice.Int63n(1500), dice.Int63n(1500)
			held = append(held, max(request, use))
			sum += max(request, use)
			pods = append(pods, Pod{Requests: []Step{{Request: resource.Vector{request, 0, 0}}},
				Usage: []Sample{{From: hour0, To: hour0.Add(time.Hour), Use: resource.Vector{use, 0, 0}}}})
		}
		h := oneMachine(pods...)
		f, err := Close(h, book, Options{Repack: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		conserves(t, h, book, f)
		if sum > 8000 {
			over++
		}
		cost := int64(f.Machines[0].Bill[resource.CPU])
		for i := range f.Pods {
			var n int
			if _, err := fmt.Sscanf(f.Pods[i].UID, "u%d", &n); err != nil {
				t.Fatal(err)
			}
			want := float64(held[n]) / 8000 * min(1, 8000/float64(sum)) * float64(cost)
			if got := float64(f.Pods[i].Used[0] + f.Pods[i].Slack[0]); got < want-2 || got > want+2 {
				t.Fatalf("pod holding %d of Σ %d pays %.0f, want %.1f", held[n], sum, got, want)
			}
		}
	}
	if over < 50 {
		t.Errorf("only %d machines were overcommitted", over)
	}
}

func TestSharesEqualOpenCostWhereItConserves(t *testing.T) {
	checked := 0
	for seed := range 2000 {
		dice := rand.New(rand.NewSource(int64(seed)))
		book := testBook(t, dice)
		h := randomHour(dice, hour0)
		for i := range h.Pods { // use within requests, requests within capacity
			p := &h.Pods[i]
			p.Usage = nil
			for n := range p.Requests {
				for k := range p.Requests[n].Request {
					p.Requests[n].Request[k] /= 6
				}
			}
		}
		f, err := Close(h, book, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range f.Pods {
			p := &f.Pods[i]
			if capacityOf(h, p.Machine).IsZero() {
				continue
			}
			for k := range resource.Kinds {
				checked++
				if mine := p.Used[k] + p.Slack[k] + p.Headroom[k]; mine != p.OpenCost[k] {
					t.Fatalf("seed %d pod %s %s: %d, OpenCost %d", seed, p.UID, resource.Kind(k), mine, p.OpenCost[k])
				}
			}
		}
	}
	if checked < 1000 {
		t.Fatalf("only %d shares were compared", checked)
	}
}

func TestAGapIsBilledByTheRequestAndSaysSo(t *testing.T) {
	book := testBook(t, nil)
	half := resource.Vector{4000, 8 * resource.GiB, 0}
	f := mustClose(t, oneMachine(Pod{
		Requests: []Step{{Request: half}},
		Usage:    []Sample{{From: hour0, To: hour0.Add(45 * time.Minute), Use: resource.Vector{1000, resource.GiB, 0}}},
	}), book)
	p := f.Pods[0]
	if p.EstimatedMillis != 250 {
		t.Errorf("estimated %d thousandths of the time, want 250", p.EstimatedMillis)
	}
	if want := int64(1000*2700 + 4000*900); p.UseSeconds[resource.CPU] != want {
		t.Errorf("used %d milli-core-seconds, want %d", p.UseSeconds[resource.CPU], want)
	}
	if whole := (p.Used.Sum() + p.Slack.Sum()); p.Estimated < whole/4-10 || p.Estimated > whole/4+10 {
		t.Errorf("estimated money %d, want a quarter of %d", p.Estimated, whole)
	}
	r, err := Summarise([]Facts{f}, ByModule, nil)
	if err != nil || r.EstimatedNano != p.Estimated {
		t.Errorf("report says %d estimated (%v), want %d", r.EstimatedNano, err, p.Estimated)
	}
}

func TestIdleHasAName(t *testing.T) {
	gib := resource.GiB
	book := testBook(t, nil)
	small := func(n int) []Pod {
		var pods []Pod
		for range n {
			pods = append(pods, Pod{Requests: []Step{{Request: resource.Vector{1000, gib, 0}}}})
		}
		return pods
	}
	two := func(h Hour) Hour {
		m := h.Machines[0]
		m.Name = "n"
		h.Machines = append(h.Machines, m)
		return h
	}
	cases := map[string]struct {
		hour Hour
		// thousandths of the CPU bill by box, within one thousandth
		want map[Box]int64
	}{
		"an empty machine waits to be given back": {
			two(oneMachine(small(8)...)), map[Box]int64{Waiting: 500},
		},
		"a half machine that nothing else could take is the wrong size": {
			oneMachine(small(4)...), map[Box]int64{Shape: 500},
		},
		"room that an emptied machine's pods would take waits as well": {
			func() Hour {
				h := two(oneMachine(small(6)...))
				for i := range 3 {
					h.Pods[i].Machine = "n"
				}
				return h // 3 of 8 on each: one machine could go; 6 of 8 remain
			}(), map[Box]int64{Waiting: (5000 + 3000) / 16, Shape: 2000 / 16},
		},
		"a pod that may not move strands by constraint": {
			func() Hour {
				h := two(oneMachine(small(6)...))
				for i := range h.Pods {
					h.Pods[i].Rules.Pinned = true
					if i < 3 {
						h.Pods[i].Machine = "n"
					}
				}
				return h
			}(), map[Box]int64{Constraint: (5000 + 3000) / 16, Shape: 2000 / 16},
		},
		"declared spare and what the machine keeps are named": {
			func() Hour {
				h := oneMachine(small(2)...)
				h.Machines[0].Allocatable[resource.CPU] = 7000
				h.Machines[0].Spare[resource.CPU] = 2000
				return h
			}(), map[Box]int64{System: 125, Spare: 250, Shape: 375},
		},
		"a headroom pod is declared spare": {
			func() Hour {
				h := oneMachine(small(2)...)
				h.Pods[0].Headroom = true
				return h
			}(), map[Box]int64{Spare: 125, Shape: 750},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := mustClose(t, tc.hour, book)
			var bill money.Amount
			got := map[Box]money.Amount{}
			for _, m := range f.Machines {
				bill += m.Bill[resource.CPU]
				for box, a := range m.Idle {
					got[box] += a[resource.CPU]
				}
			}
			for _, box := range Boxes {
				if millis := (int64(got[box])*1000 + int64(bill)/2) / int64(bill); millis < tc.want[box]-1 || millis > tc.want[box]+1 {
					t.Errorf("%s is %d thousandths of the bill, want %d", box, millis, tc.want[box])
				}
			}
		})
	}
}

func TestCloseRefusesWhatCouldMakeAWrongNumber(t *testing.T) {
	cases := map[string]struct {
		change func(*Hour)
		want   string
	}{
		"an hour that ends before it starts":    {func(h *Hour) { h.To = h.From.Add(-time.Second) }, "check the clock"},
		"an hour across a full hour":            {func(h *Hour) { h.From = h.From.Add(-time.Second) }, "crosses a full hour"},
		"a machine that ends before it starts":  {func(h *Hour) { h.Machines[0].To = h.From.Add(-time.Hour) }, `machine "m" ends`},
		"a pod that ends before it starts":      {func(h *Hour) { h.Pods[0].From = h.To.Add(time.Hour) }, "pod a/x ends"},
		"a machine type nobody defined":         {func(h *Hour) { h.Machines[0].Type = "zz" }, `"zz" is in no price book`},
		"a pod on a machine that is not there":  {func(h *Hour) { h.Pods[0].Machine = "other" }, `pod a/x is on machine "other", which was not there`},
		"a machine twice at once":               {func(h *Hour) { h.Machines = append(h.Machines, h.Machines[0]) }, "listed twice"},
		"a pod twice at once":                   {func(h *Hour) { h.Pods = append(h.Pods, h.Pods[0]) }, "listed twice"},
		"a machine of less than nothing":        {func(h *Hour) { h.Machines[0].Capacity[0] = -1 }, "capacity is -1"},
		"a machine of more than anyone can buy": {func(h *Hour) { h.Machines[0].Capacity[0] = 1 << 62 }, "capacity is"},
		"a machine without a name":              {func(h *Hour) { h.Machines[0].Name = "" }, "has no name"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			h := oneMachine(Pod{Namespace: "a", Name: "x"})
			tc.change(&h)
			_, err := Close(h, testBook(t, nil), Options{})
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %v, want one sentence with %q", err, tc.want)
			}
			if !errors.Is(err, ErrObservation) && !errors.Is(err, machine.ErrUnknownType) {
				t.Errorf("%v is neither about observations nor about types", err)
			}
		})
	}
}

func TestCloseRightsWhatItCanAndSaysSo(t *testing.T) {
	book := testBook(t, nil)
	half := resource.Vector{4000, 8 * resource.GiB, 0}
	cases := map[string]struct {
		hour Hour
		want string
	}{
		"samples that overlap": {oneMachine(Pod{Requests: []Step{{Request: half}}, Usage: []Sample{
			{From: hour0, To: hour0.Add(40 * time.Minute)}, {From: hour0.Add(20 * time.Minute), To: hour0.Add(time.Hour)},
		}}), "1 pods had usage samples that overlap"},
		"samples that run backwards": {oneMachine(Pod{Requests: []Step{{Request: half}}, Usage: []Sample{
			{From: hour0.Add(40 * time.Minute), To: hour0}, {From: hour0, To: hour0.Add(time.Hour)},
		}}), "1 pods had usage samples"},
		"request steps out of order": {oneMachine(Pod{Requests: []Step{{At: hour0.Add(time.Minute), Request: half}, {At: hour0}}}), "1 pods had request changes out of order"},
		"a pod that outlives its machine": {func() Hour {
			h := oneMachine(Pod{Requests: []Step{{Request: half}}})
			h.Machines[0].To = hour0.Add(30 * time.Minute)
			return h
		}(), "1 pods were on a machine before it started or after it ended"},
		"a machine that has not said how large it is": {func() Hour {
			h := oneMachine()
			h.Machines[0].Capacity, h.Machines[0].Allocatable = resource.Vector{}, resource.Vector{}
			return h
		}(), "1 machines have not said how large they are"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := mustClose(t, tc.hour, book)
			if len(f.Notes) != 1 || !strings.Contains(f.Notes[0], tc.want) {
				t.Errorf("notes are %q, want one with %q", f.Notes, tc.want)
			}
		})
	}
}

func TestTheOrderOfObservationsDoesNotMatter(t *testing.T) {
	for seed := range 200 {
		dice := rand.New(rand.NewSource(int64(seed)))
		book := testBook(t, dice)
		h := randomHour(dice, hour0)
		a := mustClose(t, h, book)
		dice.Shuffle(len(h.Pods), func(i, j int) { h.Pods[i], h.Pods[j] = h.Pods[j], h.Pods[i] })
		dice.Shuffle(len(h.Machines), func(i, j int) { h.Machines[i], h.Machines[j] = h.Machines[j], h.Machines[i] })
		b := mustClose(t, h, book)
		if fmt.Sprint(a) != fmt.Sprint(b) {
			t.Fatalf("seed %d: facts depend on the order of the observations", seed)
		}
	}
}

func TestRollupsAddUpLikeTheirFacts(t *testing.T) {
	for seed := range 300 {
		dice := rand.New(rand.NewSource(int64(seed)))
		book := testBook(t, dice)
		var facts []Facts
		var windows []Window
		for i := range 4 {
			f := mustClose(t, randomHour(dice, hour0.Add(time.Duration(i)*time.Hour)), book)
			facts = append(facts, f)
			w, err := Rollup(f)
			if err != nil {
				t.Fatal(err)
			}
			windows = append(windows, w)
		}
		// The roll-up shares the idle boxes as the pods carry them.
		for i := range facts {
			byModule := map[workload.Key]Amounts{}
			for _, p := range facts[i].Pods {
				a := byModule[p.Module]
				a.add(p.Shared)
				byModule[p.Module] = a
			}
			for _, r := range windows[i].Rows {
				if r.Module == (workload.Key{}) {
					continue
				}
				a := byModule[r.Module]
				for k, c := range r.Cells {
					a[k] -= c.Shared
				}
				byModule[r.Module] = a
			}
			for m, a := range byModule {
				if a != (Amounts{}) {
					t.Fatalf("seed %d: module %s: facts and roll-up differ by %v", seed, m, a)
				}
			}
		}
		whole, err := Rollup(facts...)
		if err != nil {
			t.Fatal(err)
		}
		left, _ := Merge(windows[0], windows[1])
		right, _ := Merge(windows[3], windows[2])
		parts, err := Merge(right, left)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(whole.Notes)
		slices.Sort(parts.Notes)
		if fmt.Sprint(whole) != fmt.Sprint(parts) {
			t.Fatalf("seed %d: roll-ups of hours and of their sums differ", seed)
		}
	}
}

// FuzzClose feeds Close nonsense: it either says in one sentence what is wrong or
// closes to the last unit.
func FuzzClose(f *testing.F) {
	f.Add(int64(1), int64(0), int64(0))
	f.Add(int64(2), int64(-5), int64(1)<<62)
	f.Add(int64(3), int64(time.Hour), int64(-1)<<63)
	for seed := range int64(200) {
		f.Add(seed, seed*seed*7919, seed<<(seed%62))
	}
	f.Fuzz(func(t *testing.T, seed, a, b int64) {
		dice := rand.New(rand.NewSource(seed))
		book := testBook(t, dice)
		h := randomHour(dice, hour0)
		wild := func() int64 { return []int64{a, b, 0, 1, -1, 1 << 62}[dice.Intn(6)] }
		odd := func(at time.Time) time.Time {
			if dice.Intn(4) > 0 {
				return at
			}
			return at.Add(time.Duration(wild() % int64(3*time.Hour)))
		}
		for i := range h.Machines {
			m := &h.Machines[i]
			if k := dice.Intn(12); k < 3 {
				m.Capacity[k] = wild()
			} else if k < 6 {
				m.Allocatable[k-3] = wild()
			} else if k < 9 {
				m.Spare[k-6] = wild()
			}
			m.MaxPods = dice.Intn(4)
			m.From = odd(m.From)
		}
		for i := range h.Pods {
			p := &h.Pods[i]
			for n := range p.Usage {
				u := &p.Usage[n]
				if k := dice.Intn(9); k < 3 {
					u.Use[k] = wild()
				}
				u.From, u.To = odd(u.From), odd(u.To)
			}
			for n := range p.Requests {
				if k := dice.Intn(9); k < 3 {
					p.Requests[n].Request[k] = wild()
				}
				p.Requests[n].At = odd(p.Requests[n].At)
			}
			p.To = odd(p.To)
		}
		facts, err := Close(h, book, Options{Repack: time.Duration(a)})
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("more than a sentence: %v", err)
			}
			return
		}
		conserves(t, h, book, facts)
		for _, by := range groupings {
			r, err := Summarise([]Facts{facts}, by, nil)
			if err != nil {
				t.Fatal(err)
			}
			checkReport(t, int(seed), []Facts{facts}, r)
		}
	})
}

func BenchmarkClose25k(b *testing.B) {
	book := testBook(b, nil)
	h := bigHour(1000, 25)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Close(h, book, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// bigHour has pods with a sample a minute, and one in ten that lives shorter.
func bigHour(machines, podsOn int) Hour {
	dice := rand.New(rand.NewSource(1))
	h := Hour{From: hour0, To: hour0.Add(time.Hour)}
	for i := range machines {
		m := Machine{Name: fmt.Sprintf("m%04d", i), Pool: fmt.Sprint("p", i%3), Type: "m8", From: h.From, To: h.To,
			Capacity: resource.Vector{8000, 32 * resource.GiB, 0}, Allocatable: resource.Vector{7800, 30 * resource.GiB, 0}, Domain: fmt.Sprint("z", i%3), MaxPods: 110}
		h.Machines = append(h.Machines, m)
		for j := range podsOn {
			p := Pod{UID: fmt.Sprintf("u%d-%d", i, j), Name: fmt.Sprintf("pod%d-%d", i, j), Machine: m.Name, From: h.From, To: h.To, Module: key(fmt.Sprint("a", dice.Intn(300)))}
			p.Namespace = p.Module.Namespace
			if dice.Intn(10) == 0 {
				p.From = h.From.Add(time.Duration(dice.Int63n(int64(30 * time.Minute))))
				p.To = p.From.Add(time.Duration(dice.Int63n(int64(30 * time.Minute))))
			}
			r := resource.Vector{int64(50 * (1 + dice.Intn(6))), int64(128+dice.Intn(1000)) * resource.MiB, 0}
			p.Requests = []Step{{At: p.From, Request: r}}
			if dice.Intn(10) == 0 {
				p.Rules = Rules{Alone: p.Module.Name, Domains: 2}
			}
			for s := range 60 {
				p.Usage = append(p.Usage, Sample{From: h.From.Add(time.Duration(s) * time.Minute), To: h.From.Add(time.Duration(s+1) * time.Minute),
					Use: resource.Vector{dice.Int63n(r[0] + 50), dice.Int63n(r[1]), 0}})
			}
			h.Pods = append(h.Pods, p)
		}
	}
	return h
}
