// Package money is the arithmetic of amounts that must close to the last unit.
//
// An [Amount] counts nano-units of one currency in an int64: nine decimal
// places, up to about nine milliard units. There is no floating point in it, so
// sums are compared with ==. [Split] divides an amount so that the parts add up
// to it exactly, and [PerHour.Between] charges a price for a stretch of time so
// that adjoining stretches add up to the whole.
//
// Currencies are not converted here; see core/machine.
package money

import (
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"slices"
	"strings"
	"time"
)

// An Amount is a sum of money in nano-units (10^-9 of a currency unit).
type Amount int64

// Unit is one whole currency unit, such as one dollar.
const Unit Amount = 1_000_000_000

// String returns a with all nine decimals, such as "12.500000000".
func (a Amount) String() string {
	sign, u := "", uint64(a)
	if a < 0 {
		sign, u = "-", -u
	}
	return fmt.Sprintf("%s%d.%09d", sign, u/uint64(Unit), u%uint64(Unit))
}

// Float returns a in currency units, for charts and people; never add the results up.
func (a Amount) Float() float64 { return float64(a) / float64(Unit) }

// Parse reads a plain decimal such as "0.0316" or "-3", with at most nine
// decimals, exactly.
func Parse(s string) (Amount, error) {
	// Looked at first, for big.Rat would compute 1e999999999.
	plain := strings.TrimSpace(s)
	if len(plain) > 64 || strings.ContainsFunc(plain, notDecimal) {
		return 0, fmt.Errorf("%.80q is not a decimal amount such as 0.0316", s)
	}
	r, ok := new(big.Rat).SetString(plain)
	if !ok {
		return 0, fmt.Errorf("%q is not a decimal amount such as 0.0316", s)
	}
	r.Mul(r, new(big.Rat).SetInt64(int64(Unit)))
	if !r.IsInt() {
		return 0, fmt.Errorf("%q has more than nine decimals", s)
	}
	if !r.Num().IsInt64() {
		return 0, fmt.Errorf("%q is too large: at most about 9.2e9 units", s)
	}
	return Amount(r.Num().Int64()), nil
}

func notDecimal(r rune) bool { return !strings.ContainsRune("+-.0123456789", r) }

// A PerHour is a price in nano-units per hour.
type PerHour Amount

// Between returns what p costs from one instant to a later one. Adjoining
// stretches add up exactly: Between(a,b)+Between(b,c) == Between(a,c). It
// panics if to is before from or p is negative, for the result would be a lie.
func (p PerHour) Between(from, to time.Time) Amount {
	if p < 0 || to.Before(from) {
		panic(fmt.Sprintf("money: price %d from %v to %v", p, from, to))
	}
	return p.since(to) - p.since(from)
}

// since is the cost from a fixed instant to t, rounded down. Hours and the rest
// are taken apart so that no product passes 128 bits.
func (p PerHour) since(t time.Time) Amount {
	sec := t.Unix()
	h, rest := sec/3600, sec%3600
	if rest < 0 {
		h, rest = h-1, rest+3600
	}
	ns := uint64(rest)*uint64(time.Second) + uint64(t.Nanosecond())
	hi, lo := bits.Mul64(uint64(p), ns)
	q, _ := bits.Div64(hi, lo, uint64(time.Hour))
	return Amount(h)*Amount(p) + Amount(q) // wraps alike on both sides of a difference
}

// Scale returns a·num/den rounded toward zero, computed in 128 bits. It panics
// if den is zero or the result does not fit.
func (a Amount) Scale(num, den int64) Amount {
	return Amount(scale(int64(a), num, den))
}

func scale(a, num, den int64) int64 {
	neg := (a < 0) != (num < 0) != (den < 0)
	hi, lo := bits.Mul64(abs(a), abs(num))
	q, _ := bits.Div64(hi, lo, abs(den))
	if neg && q <= 1<<63 {
		return int64(-q)
	}
	if neg || q > math.MaxInt64 {
		panic(fmt.Sprintf("money: %d·%d/%d does not fit", a, num, den))
	}
	return int64(q)
}

func abs(v int64) uint64 {
	if v < 0 {
		return -uint64(v)
	}
	return uint64(v)
}

// Split divides total in proportion to weights by the largest-remainder rule:
// every part is its exact share rounded down or up by less than one nano-unit,
// and the parts sum to total with ==. Ties go to the earlier part, so equal
// arguments give equal parts. Weights must not be negative; if all are zero,
// the parts are zero and the caller still holds total.
func Split(total Amount, weights []int64) []Amount {
	return SplitInto(make([]Amount, len(weights)), total, weights)
}

// SplitInto is [Split] into parts, which must be as long as weights, for callers
// that split many times.
func SplitInto(parts []Amount, total Amount, weights []int64) []Amount {
	parts = parts[:len(weights)]
	var sumHi, sumLo uint64
	for _, w := range weights {
		if w < 0 {
			panic(fmt.Sprintf("money: negative weight %d", w))
		}
		var carry uint64
		sumLo, carry = bits.Add64(sumLo, uint64(w), 0)
		sumHi += carry
	}
	if sumHi == 0 && sumLo == 0 {
		clear(parts)
		return parts
	}
	// Weights that sum beyond 63 bits are scaled down together; their ratios
	// keep 62 bits, and the parts still sum to total.
	if sumHi != 0 || sumLo>>63 != 0 {
		shift := bits.Len64(sumHi) + 2
		small := make([]int64, len(weights))
		for i, w := range weights {
			small[i] = w >> shift
		}
		return SplitInto(parts, total, small)
	}
	sign, left := Amount(1), abs(int64(total))
	if total < 0 {
		sign = -1
	}
	type remainder struct {
		rest uint64
		at   int
	}
	var buf [64]remainder
	rests := buf[:0]
	given := uint64(0)
	for i, w := range weights {
		hi, lo := bits.Mul64(left, uint64(w))
		q, r := bits.Div64(hi, lo, sumLo)
		parts[i] = sign * Amount(q)
		given += q
		if r > 0 {
			rests = append(rests, remainder{r, i})
		}
	}
	missing := int(left - given) // fewer than len(rests), for the rests sum to missing·sum
	if missing == 0 {
		return parts
	}
	slices.SortFunc(rests, func(a, b remainder) int {
		if a.rest != b.rest {
			if a.rest > b.rest {
				return -1
			}
			return 1
		}
		return a.at - b.at
	})
	for _, r := range rests[:missing] {
		parts[r.at] += sign
	}
	return parts
}
