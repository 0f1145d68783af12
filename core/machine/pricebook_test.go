package machine

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
)

var day = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

func book(t testing.TB, types ...Type) *PriceBook {
	t.Helper()
	b := NewPriceBook("USD")
	for _, typ := range types {
		if err := b.Set(time.Time{}, typ); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func TestAt(t *testing.T) {
	c8 := Type{Name: "c8", Capacity: resource.Vector{8000, 16 * resource.GiB, 0}, List: 1_000_000_000, DiscountMillis: 250}
	pod := Type{Name: "pod", UnitList: [3]money.PerHour{50_000_000, 5_000_000, 0}, DiscountMillis: 100}
	b := book(t, c8, pod)
	cases := map[string]struct {
		typ      string
		capacity resource.Vector
		want     Price
	}{
		"a machine costs its price less the discount": {
			"c8", resource.Vector{}, Price{Type: "c8", Currency: "USD", List: 1_000_000_000, Effective: 750_000_000,
				Weights: [3]int64{8 * 31_611_000_000, 16 * 4_237_000_000, 0}},
		},
		"a smaller capacity moves the weights, not the price": {
			"c8", resource.Vector{4000, 16 * resource.GiB, 0}, Price{Type: "c8", Currency: "USD", List: 1_000_000_000, Effective: 750_000_000,
				Weights: [3]int64{4 * 31_611_000_000, 16 * 4_237_000_000, 0}},
		},
		"capacity bought by the pod costs what it is": {
			"pod", resource.Vector{500, 2 * resource.GiB, 0}, Price{Type: "pod", Currency: "USD", List: 35_000_000, Effective: 31_500_000,
				Weights: [3]int64{25_000_000_000, 10_000_000_000, 0}},
		},
		"a pod that asks for nothing costs nothing": {
			"pod", resource.Vector{}, Price{Type: "pod", Currency: "USD"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := b.At(tc.typ, tc.capacity, day)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("price (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPricesFollowTheirDates(t *testing.T) {
	b := NewPriceBook("USD")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(b.Rate("CNY", day, 140_000_000))
	must(b.Rate("CNY", day.Add(2*time.Hour), 150_000_000))
	// Set out of order, and one of them twice.
	must(b.Set(day.Add(time.Hour), Type{Name: "x", List: 2 * money.PerHour(money.Unit), Currency: "CNY"}))
	must(b.Set(day, Type{Name: "x", List: 7}))
	must(b.Set(day, Type{Name: "x", List: 1 * money.PerHour(money.Unit)}))
	for at, want := range map[time.Duration]money.PerHour{0: 1_000_000_000, time.Hour - 1: 1_000_000_000, time.Hour: 280_000_000, 2 * time.Hour: 300_000_000, 1000 * time.Hour: 300_000_000} {
		if got, err := b.At("x", resource.Vector{}, day.Add(at)); err != nil || got.List != want {
			t.Errorf("after %v it costs %d, %v; want %d", at, got.List, err, want)
		}
	}
	want := []time.Time{day.Add(time.Hour), day.Add(2 * time.Hour)}
	if diff := cmp.Diff(want, b.Changes("x", day, day.Add(24*time.Hour))); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if got := b.Changes("x", day.Add(time.Hour), day.Add(2*time.Hour)); len(got) != 0 {
		t.Errorf("changes strictly between are %v", got)
	}
	if _, err := b.At("x", resource.Vector{}, day.Add(-time.Hour)); !errors.Is(err, ErrNoPrice) {
		t.Errorf("before its first price: %v", err)
	}
	if types := b.Types(day); len(types) != 1 || types[0].Currency != "USD" {
		t.Errorf("types in force are %v", types)
	}
	if entries := b.Entries(); len(entries) != 2 || !entries[0].From.Equal(day) {
		t.Errorf("entries are %v", entries)
	}
}

func TestWhatCannotBeRightIsRefusedInOneSentence(t *testing.T) {
	rated := NewPriceBook("USD")
	if err := rated.Rate("CNY", day, 140_000_000); err != nil {
		t.Fatal(err)
	}
	if err := rated.Set(time.Time{}, Type{Name: "cn", List: 1, Currency: "CNY"}); err != nil {
		t.Fatal(err)
	}
	at := func(b *PriceBook, name string, t time.Time) error {
		_, err := b.At(name, resource.Vector{}, t)
		return err
	}
	set := func(t Type) error { return rated.Set(time.Time{}, t) }
	cases := map[string]struct {
		got  error
		is   error
		want string
	}{
		"a negative price":                  {set(Type{Name: "m9", List: -1}), ErrInvalid, `machine type "m9" has the negative list price -0.000000001`},
		"a negative unit price":             {set(Type{Name: "m9", UnitList: [3]money.PerHour{0, -5, 0}}), ErrInvalid, `negative unit price -0.000000005 for memory`},
		"a price in the wrong unit":         {set(Type{Name: "m9", List: 1 << 60}), ErrInvalid, "taken for a mistake"},
		"a discount above the whole":        {set(Type{Name: "m9", DiscountMillis: 1001}), ErrInvalid, "discount of 1001 thousandths"},
		"a negative rating":                 {set(Type{Name: "m9", RatingMillis: -1}), ErrInvalid, "negative rating"},
		"a negative capacity":               {set(Type{Name: "m9", Capacity: resource.Vector{-1}}), ErrInvalid, "negative cpu capacity"},
		"no name":                           {set(Type{}), ErrInvalid, "has no name"},
		"two kinds of price":                {set(Type{Name: "m9", List: 1, UnitList: [3]money.PerHour{1}}), ErrInvalid, "both a list price and unit prices"},
		"a currency without a rate":         {set(Type{Name: "m9", List: 1, Currency: "EUR"}), ErrNoRate, `machine type "m9" is priced in EUR`},
		"a rate of zero":                    {rated.Rate("EUR", day, 0), ErrInvalid, "rate of EUR to USD"},
		"a type nobody defined":             {at(rated, "zz", day), ErrUnknownType, `"zz" is in no price book`},
		"a day before the currency's rates": {at(rated, "cn", day.Add(-time.Hour)), ErrNoRate, `price of machine type "cn"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if !errors.Is(tc.got, tc.is) || !strings.Contains(tc.got.Error(), tc.want) || strings.Contains(tc.got.Error(), "\n") {
				t.Errorf("got %v, want one sentence with %q", tc.got, tc.want)
			}
		})
	}
}

func TestHugeCapacitiesDoNotWrap(t *testing.T) {
	b := book(t, Type{Name: "pod", UnitList: [3]money.PerHour{1e15, 1e15, 1e15}})
	p, err := b.At("pod", resource.Vector{1e15, 1e15, 1e15}, day)
	if err != nil {
		t.Fatal(err)
	}
	for k, w := range p.Weights {
		if w < 0 {
			t.Errorf("weight %d is %d", k, w)
		}
	}
	if p.List < 0 || p.Effective < 0 {
		t.Errorf("prices %d and %d", p.List, p.Effective)
	}
}
