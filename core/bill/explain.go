package bill

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

// An Effect is a cause of a change of the bill.
type Effect string

// The effects, in the order they are shown. The price effect of the identity is
// the sum of EffectList, EffectDiscount and EffectMix.
const (
	EffectLoad     Effect = "load"        // Q: asked to do more or less
	EffectNew      Effect = "load (new)"  // the module was not there before
	EffectGone     Effect = "load (gone)" // the module is not there any more
	EffectUse      Effect = "use"         // Q·k, where the load is not known or nothing was asked
	EffectNeed     Effect = "need"        // k: resources used a request
	EffectSlack    Effect = "slack"       // r: held ÷ used
	EffectHeld     Effect = "held"        // Q·k·r, where nothing was used in one of the windows
	EffectMatch    Effect = "match"       // f: bought ÷ held
	EffectList     Effect = "list price"  // π: list prices
	EffectDiscount Effect = "discount"    // π: discounts
	EffectMix      Effect = "mix"         // π: other machine types
	EffectNobody   Effect = "nobody"      // money that no module could carry
)

// Effects lists them all in their fixed order.
var Effects = []Effect{EffectLoad, EffectNew, EffectGone, EffectUse, EffectNeed, EffectSlack, EffectHeld,
	EffectMatch, EffectList, EffectDiscount, EffectMix, EffectNobody}

// A Change says why the bill of one window differs from another's. The effects
// of every line, resource and total add up to its change with ==.
type Change struct {
	Before   Span   `json:"before"`
	After    Span   `json:"after"`
	Currency string `json:"currency"`

	BeforeNano   money.Amount `json:"beforeNano"`
	AfterNano    money.Amount `json:"afterNano"`
	ChangeNano   money.Amount `json:"changeNano"`   // after − before
	ResidualNano money.Amount `json:"residualNano"` // change − Σ effects: 0

	Effects   []EffectSum      `json:"effects"`   // every effect, in fixed order
	Resources []ResourceChange `json:"resources"` // every resource, in fixed order
	Lines     []ChangeLine     `json:"lines"`     // one a module, the largest change first
	Notes     []string         `json:"notes,omitempty"`
}

// A Span is a stretch of time.
type Span struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// An EffectSum is what one cause adds to the bill; negative is a saving.
type EffectSum struct {
	Effect Effect       `json:"effect"`
	Nano   money.Amount `json:"nano"`
}

// A ChangeLine is one module's change.
type ChangeLine struct {
	Key          string                  `json:"key"` // "namespace/kind/name" or "(nobody)"
	BeforeNano   money.Amount            `json:"beforeNano"`
	AfterNano    money.Amount            `json:"afterNano"`
	ChangeNano   money.Amount            `json:"changeNano"`
	ResidualNano money.Amount            `json:"residualNano"`
	Effects      map[Effect]money.Amount `json:"effects"` // those that are not 0
	Resources    []ResourceChange        `json:"resources"`
}

// A ResourceChange is the part of a change that one resource has.
type ResourceChange struct {
	Resource   string                  `json:"resource"`
	BeforeNano money.Amount            `json:"beforeNano"`
	AfterNano  money.Amount            `json:"afterNano"`
	ChangeNano money.Amount            `json:"changeNano"`
	Effects    map[Effect]money.Amount `json:"effects"`
	// Before and After are the factors, of a line; nil in totals.
	Before *Factors `json:"before,omitempty"`
	After  *Factors `json:"after,omitempty"`
}

// Explain splits the change from one window's bill to another's over its causes.
//
// A module's cost of a resource is Q·k·r·f·π: load, need, slack, match, price.
// Every factor's effect is its Shapley value, the mean over all orders in which
// the factors could have changed, so no order is privileged, reversing time
// turns every sign, and a factor that did not change has no effect. The effect
// of π is split on by the same rule, nested (Owen's value), into list price,
// discount and mix over machine types; a type that one window did not use takes
// the price it was offered at there ([Window.Offers]), or the price of the other
// window if that is not known.
//
// A module that one window did not have is all "load (new)" or "load (gone)".
// Where a factor is undefined it is merged with the ones before it: without a
// known load Q·k is "use"; where nothing was used, or the resource was not held
// in one window at all, Q·k·r is "held".
func Explain(before, after Window) (Change, error) {
	if before.Currency != after.Currency && before.Currency != "" && after.Currency != "" {
		return Change{}, fmt.Errorf("compare the bill of %s with that of %s: one is in %s and the other in %s; close the hours in one currency",
			before.From.UTC().Format(time.RFC3339), after.From.UTC().Format(time.RFC3339), before.Currency, after.Currency)
	}
	c := Change{
		Before: Span{before.From, before.To}, After: Span{after.From, after.To},
		Currency: orElse(after.Currency, before.Currency),
		Notes:    append(slices.Clone(before.Notes), after.Notes...),
	}
	sides := [2]map[workload.Key]*moduleSide{gather(&before), gather(&after)}
	offers := [2]map[string]*Offer{offersOf(&before), offersOf(&after)}
	var keys []workload.Key
	for k := range sides[0] {
		keys = append(keys, k)
	}
	for k := range sides[1] {
		if sides[0][k] == nil {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, workload.Key.Compare)
	totals := map[Effect]money.Amount{}
	for k := range resource.Kinds {
		c.Resources = append(c.Resources, ResourceChange{Resource: resource.Kind(k).String(), Effects: map[Effect]money.Amount{}})
	}
	for _, key := range keys {
		line := explainModule(key, [2]*moduleSide{sides[0][key], sides[1][key]}, offers)
		for k := range line.Resources {
			r, t := &line.Resources[k], &c.Resources[k]
			t.BeforeNano += r.BeforeNano
			t.AfterNano += r.AfterNano
			t.ChangeNano += r.ChangeNano
			for e, v := range r.Effects {
				t.Effects[e] += v
				totals[e] += v
			}
		}
		c.BeforeNano += line.BeforeNano
		c.AfterNano += line.AfterNano
		c.ResidualNano += line.ResidualNano
		c.Lines = append(c.Lines, line)
	}
	c.ChangeNano = c.AfterNano - c.BeforeNano
	for _, e := range Effects {
		c.Effects = append(c.Effects, EffectSum{e, totals[e]})
	}
	slices.SortStableFunc(c.Lines, func(a, b ChangeLine) int {
		return cmp.Compare(size(b.ChangeNano), size(a.ChangeNano))
	})
	return c, nil
}

func size(a money.Amount) money.Amount {
	if a < 0 {
		return -a
	}
	return a
}

// A moduleSide is what one window knows of a module.
type moduleSide struct {
	load  int64 // −1 if unknown
	cells [resource.Kinds]Cell
	types [resource.Kinds]map[string]*Cell
}

func gather(w *Window) map[workload.Key]*moduleSide {
	sides := map[workload.Key]*moduleSide{}
	for i := range w.Rows {
		r := &w.Rows[i]
		s := sides[r.Module]
		if s == nil {
			s = &moduleSide{load: -1}
			sides[r.Module] = s
		}
		for k := range r.Cells {
			c := r.Cells[k]
			if c == (Cell{}) {
				continue
			}
			s.cells[k].add(c)
			if s.types[k] == nil {
				s.types[k] = map[string]*Cell{}
			}
			t := s.types[k][r.Type]
			if t == nil {
				t = &Cell{}
				s.types[k][r.Type] = t
			}
			t.add(c)
		}
	}
	for i := range w.Loads {
		l := &w.Loads[i]
		if s := sides[l.Module]; s != nil && l.HoursUnknown == 0 {
			s.load = l.Requests
		}
	}
	return sides
}

func offersOf(w *Window) map[string]*Offer {
	m := map[string]*Offer{}
	for i := range w.Offers {
		m[w.Offers[i].Type] = &w.Offers[i]
	}
	return m
}

func explainModule(key workload.Key, sides [2]*moduleSide, offers [2]map[string]*Offer) ChangeLine {
	line := ChangeLine{Key: key.String(), Effects: map[Effect]money.Amount{}}
	if key == (workload.Key{}) {
		line.Key = Nobody
	}
	for k := range resource.Kinds {
		r := ResourceChange{Resource: resource.Kind(k).String()}
		var cells [2]Cell
		for i, s := range sides {
			if s == nil {
				continue
			}
			cells[i] = s.cells[k]
			if cells[i].Cost() != 0 || cells[i].Held != 0 {
				f := factorsOf(resource.Kind(k), s.load, &cells[i])
				if i == 0 {
					r.Before = &f
				} else {
					r.After = &f
				}
			}
		}
		r.BeforeNano, r.AfterNano = cells[0].Cost(), cells[1].Cost()
		r.ChangeNano = r.AfterNano - r.BeforeNano
		switch {
		case key == (workload.Key{}):
			r.Effects = one(EffectNobody, r.ChangeNano)
		case sides[0] == nil:
			r.Effects = one(EffectNew, r.ChangeNano)
		case sides[1] == nil:
			r.Effects = one(EffectGone, r.ChangeNano)
		default:
			r.Effects = explainCell(k, sides, offers)
		}
		line.BeforeNano += r.BeforeNano
		line.AfterNano += r.AfterNano
		line.ResidualNano += r.ChangeNano
		for e, v := range r.Effects {
			line.Effects[e] += v
			line.ResidualNano -= v
			if line.Effects[e] == 0 {
				delete(line.Effects, e)
			}
		}
		line.Resources = append(line.Resources, r)
	}
	line.ChangeNano = line.AfterNano - line.BeforeNano
	return line
}

func one(e Effect, v money.Amount) map[Effect]money.Amount {
	if v == 0 {
		return map[Effect]money.Amount{}
	}
	return map[Effect]money.Amount{e: v}
}

// explainCell splits the change of one module and resource that both windows know.
func explainCell(kind int, sides [2]*moduleSide, offers [2]map[string]*Offer) map[Effect]money.Amount {
	a, b := sides[0].cells[kind], sides[1].cells[kind]
	change := b.Cost() - a.Cost()
	if a.Held == 0 || b.Held == 0 || a.Bought == 0 || b.Bought == 0 {
		return one(EffectHeld, change)
	}
	// 1. The factors that are defined in both windows.
	var effects []Effect
	var factors []shift
	q0, q1 := sides[0].load, sides[1].load
	switch {
	case a.Use == 0 || b.Use == 0:
		effects = append(effects, EffectHeld)
		factors = append(factors, quotient(a.Held, 1, b.Held, 1))
	case q0 <= 0 || q1 <= 0:
		effects = append(effects, EffectUse, EffectSlack)
		factors = append(factors, quotient(a.Use, 1, b.Use, 1), quotient(a.Held, a.Use, b.Held, b.Use))
	default:
		effects = append(effects, EffectLoad, EffectNeed, EffectSlack)
		factors = append(factors, quotient(q0, 1, q1, 1), quotient(a.Use, q0, b.Use, q1), quotient(a.Held, a.Use, b.Held, b.Use))
	}
	effects = append(effects, EffectMatch)
	factors = append(factors, quotient(a.Bought, a.Held, b.Bought, b.Held),
		quotient(int64(a.Cost()), a.Bought, int64(b.Cost()), b.Bought))
	g := shapley(factors)

	// 2. All but the price are what they are.
	var parts []part
	for i, e := range effects {
		parts = append(parts, part{e, new(big.Rat).SetFrac(g.value[i], g.den)})
	}

	// 3. The price is split on, by type: π = Σ mix·list·discount.
	price := len(factors) - 1
	outer := new(big.Rat).SetFrac(g.weight[price], g.weightDen[price])
	inner := [3]*big.Rat{new(big.Rat), new(big.Rat), new(big.Rat)}
	for _, typ := range typesOf(sides, kind) {
		x, y := cellOf(sides[0], kind, typ), cellOf(sides[1], kind, typ)
		for _, c := range [2]*Cell{&x, &y} {
			if c.List == 0 { // a price that was never listed
				c.List = c.Cost()
			}
		}
		if x.Bought == 0 && y.Bought == 0 && x.Cost() == 0 && y.Cost() == 0 {
			continue
		}
		if x.Bought == 0 && x.Cost() != 0 || y.Bought == 0 && y.Cost() != 0 {
			// Money for too little capacity to count: the price stays in one piece.
			inner[0].SetFrac(g.value[price], g.den)
			inner[1], inner[2] = new(big.Rat), new(big.Rat)
			outer.SetInt64(1)
			break
		}
		l := [2][2]int64{{int64(x.List), x.Bought}, {int64(y.List), y.Bought}}               // list price
		d := [2][2]int64{{int64(x.Cost()), int64(x.List)}, {int64(y.Cost()), int64(y.List)}} // paid ÷ list
		for i := range 2 {
			if l[i][1] > 0 {
				continue
			}
			l[i], d[i] = l[1-i], d[1-i]
			if o := offers[i][typ]; o != nil && o.Amount[kind] > 0 {
				l[i] = [2]int64{int64(o.List[kind]), o.Amount[kind]}
				d[i] = [2]int64{int64(o.Paid[kind]), int64(o.List[kind])}
			}
		}
		for i := range 2 {
			if d[i][1] == 0 { // free at list price: no discount to speak of
				d[i] = [2]int64{1, 1}
			}
		}
		t := shapley([]shift{
			quotient(l[0][0], l[0][1], l[1][0], l[1][1]),
			quotient(d[0][0], d[0][1], d[1][0], d[1][1]),
			quotient(x.Bought, a.Bought, y.Bought, b.Bought),
		})
		for i := range inner {
			inner[i].Add(inner[i], new(big.Rat).SetFrac(t.value[i], t.den))
		}
	}
	for i, e := range []Effect{EffectList, EffectDiscount, EffectMix} {
		parts = append(parts, part{e, inner[i].Mul(inner[i], outer)})
	}
	return round(change, parts)
}

func typesOf(sides [2]*moduleSide, kind int) []string {
	var types []string
	for _, s := range sides {
		for t := range s.types[kind] {
			types = append(types, t)
		}
	}
	slices.SortFunc(types, strings.Compare)
	return slices.Compact(types)
}

func cellOf(s *moduleSide, kind int, typ string) Cell {
	if c := s.types[kind][typ]; c != nil {
		return *c
	}
	return Cell{}
}
