package bill

import (
	"cmp"
	"math/big"
	"slices"

	"github.com/neap-dev/neap/core/money"
)

// A shift is one factor of a product in two windows: before/den and after/den.
type shift struct{ before, after, den *big.Int }

// quotient is the shift from a0/b0 to a1/b1.
func quotient(a0, b0, a1, b1 int64) shift {
	x0, y0, x1, y1 := big.NewInt(a0), big.NewInt(b0), big.NewInt(a1), big.NewInt(b1)
	den := new(big.Int).Mul(y0, y1)
	return shift{x0.Mul(x0, y1), x1.Mul(x1, y0), den}
}

// A game holds Shapley's values of the factors of a product, over den. weight is
// the mean, over all orders, of the product of the other factors at the moment a
// factor changes; value = weight·(after−before).
type game struct {
	weight, value []*big.Int
	weightDen     []*big.Int
	den           *big.Int
}

var factorial = [...]int64{1, 1, 2, 6, 24, 120, 720}

// shapley returns the Shapley values of the factors of a product. With n factors
// the mean over the n! orders is a sum over the sizes s of the set that changed
// before: s!(n−1−s)!/n! times the elementary polynomial in which s factors are
// as after and the rest as before.
func shapley(factors []shift) game {
	n := len(factors)
	g := game{weight: make([]*big.Int, n), value: make([]*big.Int, n), weightDen: make([]*big.Int, n), den: big.NewInt(factorial[n])}
	for _, f := range factors {
		g.den.Mul(g.den, f.den)
	}
	var poly [len(factorial)]big.Int
	var t big.Int
	for i := range factors {
		// poly = Π over the others of (before + after·x)
		poly[0].SetInt64(1)
		degree := 0
		g.weightDen[i] = big.NewInt(factorial[n])
		for j, f := range factors {
			if j == i {
				continue
			}
			g.weightDen[i].Mul(g.weightDen[i], f.den)
			degree++
			poly[degree].SetInt64(0)
			for d := degree; d >= 0; d-- {
				poly[d].Mul(&poly[d], f.before)
				if d > 0 {
					poly[d].Add(&poly[d], t.Mul(&poly[d-1], f.after))
				}
			}
		}
		w := new(big.Int)
		for s := 0; s < n; s++ {
			w.Add(w, t.Mul(&poly[s], big.NewInt(factorial[s]*factorial[n-1-s])))
		}
		g.weight[i] = w
		g.value[i] = new(big.Int).Mul(w, t.Sub(factors[i].after, factors[i].before))
	}
	return g
}

// A part is an effect's exact value before rounding to nano-units.
type part struct {
	effect Effect
	exact  *big.Rat
}

// round makes the parts whole nano-units that sum to total by the largest
// remainder; the exact parts must sum to total. Ties go by the size of the part,
// then by the fixed order of effects, so that the parts of the reversed change
// are the same with the other sign.
func round(total money.Amount, parts []part) map[Effect]money.Amount {
	type rest struct {
		effect Effect
		nano   int64
		left   *big.Rat // 0 ≤ |left| < 1, with the sign of the part
	}
	var list []rest
	sum := int64(0)
	for _, p := range parts {
		// Quo rounds toward zero, which is the same for both signs.
		q := new(big.Int).Quo(p.exact.Num(), p.exact.Denom())
		left := new(big.Rat).Sub(p.exact, new(big.Rat).SetInt(q))
		list = append(list, rest{p.effect, q.Int64(), left})
		sum += q.Int64()
	}
	missing := int64(total) - sum
	step := int64(1)
	if missing < 0 {
		step = -1
	}
	// Those whose remainder has the wanted direction and is largest come first.
	slices.SortStableFunc(list, func(a, b rest) int {
		c := b.left.Cmp(a.left)
		if step < 0 {
			c = -c
		}
		return cmp.Or(c, cmp.Compare(effectRank(a.effect), effectRank(b.effect)))
	})
	out := map[Effect]money.Amount{}
	for i := range list {
		if missing != 0 {
			list[i].nano += step
			missing -= step
		}
		if list[i].nano != 0 {
			out[list[i].effect] += money.Amount(list[i].nano)
		}
	}
	return out
}

func effectRank(e Effect) int { return slices.Index(Effects, e) }
