package bill

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

// A Window is a roll-up of facts: everything that reports by module, namespace,
// pool, machine type or feature, and [Explain], need to know of an hour, a day
// or a month, in integers only. Windows add up: see [Merge].
type Window struct {
	From, To time.Time
	Currency string
	Rows     []Row    // by module, namespace, pool and type
	Boxes    []BoxRow // by pool and type
	Loads    []LoadRow
	// Offers are prices of types, used or not, so that a change to or from a type
	// that only one window used can be told apart into price and mix. Optional.
	Offers []Offer
	Notes  []string
}

// A Row is what one module paid for machines of one type in one pool.
type Row struct {
	Module    workload.Key // the zero Key for what nobody could carry
	Namespace string
	Pool      string // of the machines, which is not the pods' pool if theirs had no pods
	Type      string

	PodMillis int64 // thousandths of a second that its pods ran on the type
	Cells     [resource.Kinds]Cell

	Headroom  money.Amount // part of the machines' Spare that its pods held
	Estimated money.Amount // part of Used+Slack that rests on use not measured
}

// A Cell is a row's figures of one resource. The unit of Use, Held and Bought is
// thousandths of an NCU-second for CPU, MiB-seconds for memory, thousandths of a
// GPU-second for GPU.
type Cell struct {
	Use    int64 // what was used
	Held   int64 // max(request, use)
	Bought int64 // what was bought for the row's money

	Used     money.Amount
	Slack    money.Amount
	Shared   money.Amount // its share of the other boxes
	List     money.Amount // what Used+Slack+Shared would have been at list price
	OpenCost money.Amount
}

// Cost is what the row pays for the resource, fully loaded.
func (c Cell) Cost() money.Amount { return c.Used + c.Slack + c.Shared }

// A BoxRow is what machines of one type in one pool cost and where it went.
type BoxRow struct {
	Pool, Type    string
	Serverless    bool
	MachineMillis int64                 // thousandths of a second that machines ran
	BindMillis    [resource.Kinds]int64 // of these, those in which the resource was the fullest
	Capacity      [resource.Kinds]int64 // in the unit of [Cell]
	Bill          Amounts
	List          Amounts
	Used          Amounts
	Idle          [len(boxOrder)]Amounts // in the order of [Boxes]
	Unshared      Amounts
}

// A LoadRow is what one module was asked to do, and how well it did.
type LoadRow struct {
	Module   workload.Key
	Requests int64 // of the hours in which the load is known

	Hours        int // hours with a row for the module
	HoursUnknown int // of these, hours whose load is not known
	HoursGuarded int // hours whose quality is known
	HoursMet     int // of these, hours in which both targets were kept
}

// An Offer is the price of one type at one time, for each resource: so many
// nano-units for so much of it, in the unit of [Cell].
type Offer struct {
	Type   string
	List   [resource.Kinds]money.Amount
	Paid   [resource.Kinds]money.Amount
	Amount [resource.Kinds]int64 // 0 where the type has none of the resource
}

var boxOrder = [...]Box{System, Spare, Slack, Shape, Constraint, Waiting, Unexplain}

func boxIndex(b Box) int {
	for i, o := range boxOrder {
		if o == b {
			return i
		}
	}
	return len(boxOrder) - 1
}

// Nobody is the key of the line for money that no module could carry.
const Nobody = "(nobody)"

// ncu is an amount of a resource, in the unit of [Cell], on a type rated so.
func ncu(k resource.Kind, seconds, ratingMillis int64) int64 {
	if k != resource.CPU {
		return seconds
	}
	if ratingMillis == 0 {
		ratingMillis = 1000
	}
	return int64(money.Amount(seconds).Scale(ratingMillis, 1000))
}

// A spot is a pool and a machine type.
type spot struct{ pool, typ string }

type rowKey struct {
	module    workload.Key
	namespace string
	spot
}

// Rollup adds up facts of hours in one currency.
func Rollup(facts ...Facts) (Window, error) {
	windows := make([]Window, 0, len(facts))
	for i := range facts {
		windows = append(windows, rollHour(&facts[i]))
	}
	return Merge(windows...)
}

// OfferTypes states prices of the book's types at t, for [Window.Offers].
func OfferTypes(book *machine.PriceBook, t time.Time) []Offer {
	var out []Offer
	for _, typ := range book.Types(t) {
		capacity := typ.Capacity
		if typ.Serverless() {
			capacity = resource.Vector{1000, resource.GiB, 1000}
		}
		price, err := book.At(typ.Name, capacity, t)
		if err != nil || capacity.IsZero() {
			continue
		}
		o := Offer{Type: typ.Name}
		list := money.Split(money.Amount(price.List), price.Weights[:])
		paid := money.Split(money.Amount(price.Effective), price.Weights[:])
		for _, k := range resource.All {
			perHour := capacity[k] * 3600
			if k == resource.Memory {
				perHour = int64(money.Amount(capacity[k]).Scale(3600, resource.MiB))
			}
			o.List[k], o.Paid[k], o.Amount[k] = list[k], paid[k], ncu(k, perHour, typ.Rating())
		}
		out = append(out, o)
	}
	return out
}

func rollHour(f *Facts) Window {
	w := Window{From: f.From, To: f.To, Currency: f.Currency, Offers: f.Offers, Notes: f.Notes}

	// 1. Machines: what each pool and type cost and where it went.
	boxes := map[spot]*BoxRow{}
	for i := range f.Machines {
		m := &f.Machines[i]
		at := spot{m.Pool, m.Type}
		b := boxes[at]
		if b == nil {
			b = &BoxRow{Pool: m.Pool, Type: m.Type, Serverless: m.Serverless}
			boxes[at] = b
		}
		millis := m.To.Sub(m.From).Milliseconds()
		b.MachineMillis += millis
		if !m.Serverless {
			b.BindMillis[m.Binding] += millis
		}
		list := listByKind(m)
		for k := range resource.Kinds {
			b.Capacity[k] += ncu(resource.Kind(k), m.CapacitySeconds[k], m.RatingMillis)
			b.Bill[k] += m.Bill[k]
			b.List[k] += list[k]
			b.Used[k] += m.Bill[k]
			b.Unshared[k] += m.Unshared[k]
		}
		for box, a := range m.Idle {
			at := boxIndex(box)
			for k := range a {
				b.Idle[at][k] += a[k]
				b.Used[k] -= a[k]
			}
		}
	}
	for _, b := range boxes {
		w.Boxes = append(w.Boxes, *b)
	}
	slices.SortFunc(w.Boxes, func(a, b BoxRow) int {
		return cmp.Or(strings.Compare(a.Pool, b.Pool), strings.Compare(a.Type, b.Type))
	})

	// 2. Pods: what modules used and held, by pool and type.
	rows := map[rowKey]*Row{}
	row := func(key rowKey) *Row {
		r := rows[key]
		if r == nil {
			r = &Row{Module: key.module, Namespace: key.namespace, Pool: key.pool, Type: key.typ}
			rows[key] = r
		}
		return r
	}
	ratings := map[string]int64{} // of machines by name; a change of type is a new fact
	for i := range f.Machines {
		ratings[f.Machines[i].Name+"\x00"+f.Machines[i].Type] = f.Machines[i].RatingMillis
	}
	var key []byte
	for i := range f.Pods {
		p := &f.Pods[i]
		r := row(rowKey{p.Module, p.Namespace, spot{p.Pool, p.Type}})
		r.PodMillis += p.To.Sub(p.From).Milliseconds()
		r.Headroom += p.Headroom.Sum()
		r.Estimated += p.Estimated
		key = append(append(append(key[:0], p.Machine...), 0), p.Type...)
		rating := ratings[string(key)]
		for k := range resource.Kinds {
			c := &r.Cells[k]
			if !p.IsHeadroom { // what headroom holds is declared spare: match, not slack
				c.Use += ncu(resource.Kind(k), p.UseSeconds[k], rating)
				c.Held += ncu(resource.Kind(k), p.HeldSeconds[k], rating)
			}
			c.Used += p.Used[k]
			c.Slack += p.Slack[k]
			c.OpenCost += p.OpenCost[k]
		}
	}

	// 3. The other idle boxes: shared as Close shared them.
	for _, s := range shareIdle(f) {
		row(s.rowKey).Cells[s.kind].Shared += s.amount
	}
	for _, b := range w.Boxes {
		if b.Unshared != (Amounts{}) {
			r := row(rowKey{spot: spot{b.Pool, b.Type}})
			for k := range resource.Kinds {
				r.Cells[k].Shared += b.Unshared[k]
			}
		}
	}

	// 4. What was bought for a row's money, and what it would have cost at list
	// price: its part of the pool and type, by money, or by what it held where
	// the machines are free.
	held := map[spot]*[resource.Kinds]int64{}
	for key, r := range rows {
		h := held[key.spot]
		if h == nil {
			h = new([resource.Kinds]int64)
			held[key.spot] = h
		}
		for k := range resource.Kinds {
			h[k] += r.Cells[k].Held
		}
	}
	for key, r := range rows {
		b := boxes[key.spot]
		if b == nil {
			continue
		}
		for k := range resource.Kinds {
			c := &r.Cells[k]
			part, whole := int64(c.Cost()), int64(b.Bill[k])
			if whole == 0 {
				part, whole = c.Held, held[key.spot][k]
			}
			part = min(part, whole) // more than the whole only in damaged facts
			if part > 0 {
				c.Bought = roundUp(b.Capacity[k], part, whole)
				c.List = money.Amount(roundUp(int64(b.List[k]), part, whole))
			}
		}
	}
	for _, r := range rows {
		w.Rows = append(w.Rows, *r)
	}
	sortRows(w.Rows)

	// 5. Loads, and a row for every module that ran without one.
	for _, l := range f.Loads {
		row := LoadRow{Module: l.Module, Hours: 1}
		if l.Requests < 0 {
			row.HoursUnknown = 1
		} else {
			row.Requests = l.Requests
		}
		if l.Known {
			row.HoursGuarded, row.HoursMet = 1, boolInt(l.Met)
		}
		w.Loads = append(w.Loads, row)
	}
	known := map[workload.Key]bool{}
	for _, l := range w.Loads {
		known[l.Module] = true
	}
	for _, r := range w.Rows {
		if !known[r.Module] && r.Module != (workload.Key{}) {
			known[r.Module] = true
			w.Loads = append(w.Loads, LoadRow{Module: r.Module, Hours: 1, HoursUnknown: 1})
		}
	}
	slices.SortFunc(w.Loads, func(a, b LoadRow) int { return a.Module.Compare(b.Module) })
	return w
}

// roundUp returns a·num/den rounded up, so that what costs something is never
// made of nothing. den must be above zero.
func roundUp(a, num, den int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(num))
	q, r := bits.Div64(hi, lo, uint64(den))
	if r > 0 {
		q++
	}
	return int64(q)
}

func listByKind(m *MachineFact) Amounts {
	weights := [resource.Kinds]int64{int64(m.Bill[0]), int64(m.Bill[1]), int64(m.Bill[2])}
	if m.Bill == (Amounts{}) {
		weights = machine.Weigh(resource.Vector{m.CapacitySeconds[0], int64(money.Amount(m.CapacitySeconds[1]).Scale(resource.MiB, 3600)), m.CapacitySeconds[2]})
	}
	var list Amounts
	money.SplitInto(list[:], m.List, weights[:])
	return list
}

func sortRows(rows []Row) {
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(a.Module.Compare(b.Module), strings.Compare(a.Namespace, b.Namespace),
			strings.Compare(a.Pool, b.Pool), strings.Compare(a.Type, b.Type))
	})
}

// Merge adds windows up. Their order does not matter; they should not overlap.
// It refuses windows in different currencies.
func Merge(windows ...Window) (Window, error) {
	var sum Window
	if len(windows) == 1 {
		return windows[0], nil
	}
	rows := map[rowKey]int{}
	boxes := map[spot]int{}
	loads := map[workload.Key]int{}
	notes := map[string]bool{}
	for i := range windows {
		w := &windows[i]
		if w.Currency != "" && sum.Currency != "" && w.Currency != sum.Currency {
			return Window{}, fmt.Errorf("add up bills from %s to %s: one is in %s and another in %s; give a rate and close the hours again in one currency",
				sum.From.UTC().Format(time.RFC3339), w.To.UTC().Format(time.RFC3339), sum.Currency, w.Currency)
		}
		if sum.Currency == "" {
			sum.Currency = w.Currency
		}
		if sum.From.IsZero() || w.From.Before(sum.From) {
			sum.From = w.From
		}
		sum.To = later(sum.To, w.To)
		for r := range w.Rows {
			row := &w.Rows[r]
			key := rowKey{row.Module, row.Namespace, spot{row.Pool, row.Type}}
			at, ok := rows[key]
			if !ok {
				rows[key] = len(sum.Rows)
				sum.Rows = append(sum.Rows, *row)
				continue
			}
			sum.Rows[at].add(row)
		}
		for b := range w.Boxes {
			box := &w.Boxes[b]
			key := spot{box.Pool, box.Type}
			at, ok := boxes[key]
			if !ok {
				boxes[key] = len(sum.Boxes)
				sum.Boxes = append(sum.Boxes, *box)
				continue
			}
			sum.Boxes[at].add(box)
		}
		for _, l := range w.Loads {
			at, ok := loads[l.Module]
			if !ok {
				loads[l.Module] = len(sum.Loads)
				sum.Loads = append(sum.Loads, l)
				continue
			}
			s := &sum.Loads[at]
			s.Requests += l.Requests
			s.Hours += l.Hours
			s.HoursUnknown += l.HoursUnknown
			s.HoursGuarded += l.HoursGuarded
			s.HoursMet += l.HoursMet
		}
		if len(w.Offers) > 0 {
			sum.Offers = w.Offers // of the last window that has any
		}
		for _, n := range w.Notes {
			if !notes[n] && len(notes) < 100 {
				notes[n] = true
				sum.Notes = append(sum.Notes, n)
			}
		}
	}
	sortRows(sum.Rows)
	slices.SortFunc(sum.Boxes, func(a, b BoxRow) int {
		return cmp.Or(strings.Compare(a.Pool, b.Pool), strings.Compare(a.Type, b.Type))
	})
	slices.SortFunc(sum.Loads, func(a, b LoadRow) int { return a.Module.Compare(b.Module) })
	return sum, nil
}

func (r *Row) add(o *Row) {
	r.PodMillis += o.PodMillis
	r.Headroom += o.Headroom
	r.Estimated += o.Estimated
	for k := range r.Cells {
		r.Cells[k].add(o.Cells[k])
	}
}

func (c *Cell) add(o Cell) {
	c.Use += o.Use
	c.Held += o.Held
	c.Bought += o.Bought
	c.Used += o.Used
	c.Slack += o.Slack
	c.Shared += o.Shared
	c.List += o.List
	c.OpenCost += o.OpenCost
}

func (b *BoxRow) add(o *BoxRow) {
	b.MachineMillis += o.MachineMillis
	for k := range resource.Kinds {
		b.Capacity[k] += o.Capacity[k]
		b.BindMillis[k] += o.BindMillis[k]
	}
	b.Bill.add(o.Bill)
	b.List.add(o.List)
	b.Used.add(o.Used)
	b.Unshared.add(o.Unshared)
	for i := range b.Idle {
		b.Idle[i].add(o.Idle[i])
	}
}

func (a *Amounts) add(o Amounts) {
	for k := range a {
		a[k] += o[k]
	}
}

// A share is a part of a pool and type's idle money that a module carries.
type share struct {
	rowKey
	kind   int
	amount money.Amount
	wide   bool // its pods are not in the pool: nobody there held any
}

// shareIdle shares the idle money of every pool and type, slack apart, over the
// modules in the pool by what their pods held of the resource; over the modules
// of the whole hour where the pool has none. Facts closed once are shared the
// same way ever after: the result follows from them alone.
func shareIdle(f *Facts) []share {
	type holder struct {
		module    workload.Key
		namespace string
	}
	held := map[string]map[holder]*[resource.Kinds]int64{}
	whole := map[holder]*[resource.Kinds]int64{}
	addTo := func(m map[holder]*[resource.Kinds]int64, h holder, v [resource.Kinds]int64) {
		a := m[h]
		if a == nil {
			a = new([resource.Kinds]int64)
			m[h] = a
		}
		for k := range v {
			a[k] += v[k]
		}
	}
	for i := range f.Pods {
		p := &f.Pods[i]
		if p.holdsRoom() {
			continue
		}
		h := holder{p.Module, p.Namespace}
		if held[p.Pool] == nil {
			held[p.Pool] = map[holder]*[resource.Kinds]int64{}
		}
		addTo(held[p.Pool], h, p.HeldSeconds)
		addTo(whole, h, p.HeldSeconds)
	}
	order := func(m map[holder]*[resource.Kinds]int64) []holder {
		var list []holder
		for h := range m {
			list = append(list, h)
		}
		slices.SortFunc(list, func(a, b holder) int {
			return cmp.Or(a.module.Compare(b.module), strings.Compare(a.namespace, b.namespace))
		})
		return list
	}
	idle := map[spot]Amounts{}
	var places []spot
	for i := range f.Machines {
		m := &f.Machines[i]
		at := spot{m.Pool, m.Type}
		a, ok := idle[at]
		if !ok {
			places = append(places, at)
		}
		for box, v := range m.Idle {
			if box != Slack {
				a.add(v)
			}
		}
		idle[at] = a
	}
	slices.SortFunc(places, func(a, b spot) int {
		return cmp.Or(strings.Compare(a.pool, b.pool), strings.Compare(a.typ, b.typ))
	})
	everyone := order(whole)
	orders := map[string][]holder{}
	var out []share
	for _, at := range places {
		holders, ok := orders[at.pool]
		if !ok {
			holders = order(held[at.pool])
			orders[at.pool] = holders
		}
		for k := range resource.Kinds {
			amount := idle[at][k]
			if amount == 0 {
				continue
			}
			from := holders
			weights := heldOf(from, held[at.pool], k)
			wide := weights == nil
			if wide {
				from = everyone
				weights = heldOf(from, whole, k)
			}
			if weights == nil {
				continue
			}
			for i, part := range money.Split(amount, weights) {
				if part != 0 {
					out = append(out, share{rowKey{from[i].module, from[i].namespace, at}, k, part, wide})
				}
			}
		}
	}
	return out
}

// heldOf returns what the holders held of a resource, or nil if that is nothing.
func heldOf[H comparable](holders []H, by map[H]*[resource.Kinds]int64, kind int) []int64 {
	any := false
	weights := make([]int64, len(holders))
	for i, h := range holders {
		weights[i] = by[h][kind]
		any = any || weights[i] > 0
	}
	if !any {
		return nil
	}
	return weights
}

// holdsRoom reports whether the fact is of a headroom pod, which carries no share.
func (p *PodFact) holdsRoom() bool { return p.IsHeadroom }
