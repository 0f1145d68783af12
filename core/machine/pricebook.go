package machine

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
)

// Errors that a [PriceBook] wraps; branch on them with errors.Is.
var (
	ErrUnknownType = errors.New("unknown machine type")
	ErrNoPrice     = errors.New("no price")
	ErrNoRate      = errors.New("no currency rate")
	ErrInvalid     = errors.New("invalid price")
)

// A Price is what capacity costs at one moment.
type Price struct {
	Type      string
	Currency  string
	List      money.PerHour // before the discount
	Effective money.PerHour // after it; what the bill charges

	// Weights say how Effective divides over the resources, as money.Split
	// weights: the standard unit prices (OpenCost's defaults: 0.031611 a
	// core-hour, 0.004237 a GiB-hour, 0.95 a GPU-hour) times the capacity.
	// Capacity bought by the pod is weighed by its own unit prices.
	Weights [resource.Kinds]int64
}

// StandardUnit is what one core, one GiB and one GPU cost for an hour where only
// the price of a whole machine is known: OpenCost's defaults. Only their ratios
// matter.
var StandardUnit = [resource.Kinds]money.PerHour{31_611_000, 4_237_000, 950_000_000}

// A PriceBook holds the types and their prices over time, in one currency.
// The zero PriceBook is not usable; see [NewPriceBook]. It is safe for
// concurrent reading, not for writing.
type PriceBook struct {
	currency string
	entries  map[string][]Entry  // by type, oldest first
	rates    map[string][]dating // by currency, oldest first
}

// An Entry is a type as it is from an instant on, until the next entry of its name.
type Entry struct {
	From time.Time
	Type Type
}

type dating struct {
	from time.Time
	rate money.Amount // of the book's currency for one unit
}

// NewPriceBook returns an empty book that states every price in currency, such
// as "USD".
func NewPriceBook(currency string) *PriceBook {
	return &PriceBook{currency: currency, entries: map[string][]Entry{}, rates: map[string][]dating{}}
}

// Currency returns the currency every [Price] is in.
func (b *PriceBook) Currency() string { return b.currency }

// Rate says that from an instant on one unit of currency is worth rate of the
// book's currency. Prices in that currency follow the rate of the day.
func (b *PriceBook) Rate(currency string, from time.Time, rate money.Amount) error {
	if rate <= 0 {
		return fmt.Errorf("%w: the rate of %s to %s is %s; it must be above zero", ErrInvalid, currency, b.currency, rate)
	}
	list := b.rates[currency]
	i, found := slices.BinarySearchFunc(list, from, func(d dating, t time.Time) int { return d.from.Compare(t) })
	if found {
		list[i].rate = rate
		return nil
	}
	b.rates[currency] = slices.Insert(list, i, dating{from, rate})
	return nil
}

// Set says what a type is from an instant on; the zero time means always. A
// second Set of the same name and instant replaces the first. A price that
// cannot be right is refused with one sentence naming the type.
func (b *PriceBook) Set(from time.Time, t Type) error {
	if t.Currency == "" {
		t.Currency = b.currency
	}
	if err := t.Validate(); err != nil {
		return err
	}
	if t.Currency != b.currency && len(b.rates[t.Currency]) == 0 {
		return fmt.Errorf("%w: machine type %q is priced in %s and the book is in %s; give a dated rate of %s to %s",
			ErrNoRate, t.Name, t.Currency, b.currency, t.Currency, b.currency)
	}
	list := b.entries[t.Name]
	i, found := slices.BinarySearchFunc(list, from, func(e Entry, at time.Time) int { return e.From.Compare(at) })
	if found {
		list[i].Type = t
		return nil
	}
	b.entries[t.Name] = slices.Insert(list, i, Entry{from, t})
	return nil
}

// mostPerHour keeps sums of prices far from the end of an int64.
const mostPerHour = money.PerHour(1_000_000 * money.Unit)

// Validate says in one sentence what is wrong with t, if anything.
func (t Type) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: machine type %q "+format, append([]any{ErrInvalid, t.Name}, args...)...)
	}
	switch {
	case t.Name == "":
		return fmt.Errorf("%w: a machine type has no name", ErrInvalid)
	case t.List < 0:
		return bad("has the negative list price %s an hour; a price is zero or more", money.Amount(t.List))
	case t.List > mostPerHour:
		return bad("has the list price %s an hour; above a million an hour it is taken for a mistake", money.Amount(t.List))
	case t.DiscountMillis < 0 || t.DiscountMillis > 1000:
		return bad("has a discount of %d thousandths; it must be between 0 and 1000", t.DiscountMillis)
	case t.RatingMillis < 0:
		return bad("has the negative rating %d; use 0 if it is unknown", t.RatingMillis)
	case t.RatingMillis > 1_000_000:
		return bad("has the rating of %d thousandths; above a thousand NCU a core it is taken for a mistake", t.RatingMillis)
	}
	units := false
	for _, k := range resource.All {
		if t.Capacity[k] < 0 {
			return bad("has the negative %s capacity %d", k, t.Capacity[k])
		}
		if t.UnitList[k] < 0 {
			return bad("has the negative unit price %s for %s; a price is zero or more", money.Amount(t.UnitList[k]), k)
		}
		if t.UnitList[k] > mostPerHour {
			return bad("has the unit price %s for %s; above a million an hour it is taken for a mistake", money.Amount(t.UnitList[k]), k)
		}
		units = units || t.UnitList[k] > 0
	}
	if units && t.List > 0 {
		return bad("has both a list price and unit prices; give one of them")
	}
	return nil
}

// Type returns the type called name as it is at t.
func (b *PriceBook) Type(name string, t time.Time) (Type, error) {
	list := b.entries[name]
	if len(list) == 0 {
		return Type{}, fmt.Errorf("%w: %q is in no price book; define a MachineType of that name or correct the label", ErrUnknownType, name)
	}
	for i := len(list) - 1; i >= 0; i-- {
		if !list[i].From.After(t) {
			return list[i].Type, nil
		}
	}
	return Type{}, fmt.Errorf("%w: machine type %q has none at %s, its first is of %s; give it an earlier date",
		ErrNoPrice, name, t.UTC().Format(time.RFC3339), list[0].From.UTC().Format(time.RFC3339))
}

// At returns what capacity of a type costs at t. For machines capacity only sets
// the weights, and the type's own is used if it is zero; capacity that is bought
// by the pod costs its unit prices times capacity.
func (b *PriceBook) At(typeName string, capacity resource.Vector, t time.Time) (Price, error) {
	typ, err := b.Type(typeName, t)
	if err != nil {
		return Price{}, err
	}
	if capacity.IsZero() {
		capacity = typ.Capacity
	}
	p := Price{Type: typeName, Currency: b.currency, List: typ.List}
	unit := StandardUnit
	if typ.Serverless() {
		unit = typ.UnitList
		p.List = 0
		for _, k := range resource.All {
			p.List += money.PerHour(scaleDown(int64(unit[k]), capacity[k], perUnit[k]))
		}
	}
	if typ.Currency != b.currency {
		rate, err := b.rateAt(typ.Currency, t)
		if err != nil {
			return Price{}, fmt.Errorf("price of machine type %q: %w", typeName, err)
		}
		p.List = money.PerHour(scaleDown(int64(p.List), int64(rate), int64(money.Unit)))
	}
	p.Effective = money.PerHour(money.Amount(p.List).Scale(1000-typ.DiscountMillis, 1000))
	p.Weights = weigh(unit, capacity)
	return p, nil
}

// Changes returns the instants in (from, to) at which the price of a type may
// change, oldest first.
func (b *PriceBook) Changes(typeName string, from, to time.Time) []time.Time {
	var times []time.Time
	foreign := map[string]bool{}
	for _, e := range b.entries[typeName] {
		if e.Type.Currency != b.currency {
			foreign[e.Type.Currency] = true
		}
		if e.From.After(from) && e.From.Before(to) {
			times = append(times, e.From)
		}
	}
	for currency := range foreign {
		for _, d := range b.rates[currency] {
			if d.from.After(from) && d.from.Before(to) {
				times = append(times, d.from)
			}
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	return slices.CompactFunc(times, time.Time.Equal)
}

// Types returns the types in force at t, by name.
func (b *PriceBook) Types(t time.Time) []Type {
	var types []Type
	for name := range b.entries {
		if typ, err := b.Type(name, t); err == nil {
			types = append(types, typ)
		}
	}
	slices.SortFunc(types, func(a, c Type) int { return strings.Compare(a.Name, c.Name) })
	return types
}

// Entries returns everything that was [PriceBook.Set], by name, oldest first.
func (b *PriceBook) Entries() []Entry {
	var all []Entry
	for _, list := range b.entries {
		all = append(all, list...)
	}
	slices.SortFunc(all, func(x, y Entry) int {
		if c := strings.Compare(x.Type.Name, y.Type.Name); c != 0 {
			return c
		}
		return x.From.Compare(y.From)
	})
	return all
}

// Weigh returns the weights by which the price of a machine divides over its
// resources, from [StandardUnit].
func Weigh(capacity resource.Vector) [resource.Kinds]int64 { return weigh(StandardUnit, capacity) }

func (b *PriceBook) rateAt(currency string, t time.Time) (money.Amount, error) {
	list := b.rates[currency]
	for i := len(list) - 1; i >= 0; i-- {
		if !list[i].from.After(t) {
			return list[i].rate, nil
		}
	}
	return 0, fmt.Errorf("%w: there is none of %s to %s at %s; give one with an earlier date",
		ErrNoRate, currency, b.currency, t.UTC().Format(time.RFC3339))
}

// perUnit is how much of a [resource.Vector] one priced unit is: a core, a GiB, a GPU.
var perUnit = [resource.Kinds]int64{1000, resource.GiB, 1000}

func weigh(unit [resource.Kinds]money.PerHour, capacity resource.Vector) (w [resource.Kinds]int64) {
	for k := range w {
		// A thousandfold keeps small pods' weights apart: 1 MiB is some 4,000.
		w[k] = scaleDown(int64(unit[k])*1000, capacity[k], perUnit[k])
		if w[k] == 0 && capacity[k] > 0 && unit[k] > 0 {
			w[k] = 1
		}
	}
	return w
}

// scaleDown returns a·n/d for values that are not negative, and a huge number
// where that does not fit, so that nonsense stays nonsense instead of wrapping.
func scaleDown(a, n, d int64) int64 {
	if a < 0 || n <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(a), uint64(n))
	if hi >= uint64(d) {
		return math.MaxInt64 / 8
	}
	q, _ := bits.Div64(hi, lo, uint64(d))
	return int64(min(q, math.MaxInt64/8))
}
