package money

import (
	"math"
	"math/big"
	"math/rand"
	"slices"
	"testing"
	"time"
)

func TestParseAndString(t *testing.T) {
	cases := map[string]struct {
		in   string
		want Amount
		bad  bool
	}{
		"a price":              {in: "0.0316", want: 31_600_000},
		"a negative amount":    {in: "-3", want: -3 * Unit},
		"nine decimals":        {in: "0.000000001", want: 1},
		"spaces around":        {in: " 12.5 ", want: 12_500_000_000},
		"ten decimals":         {in: "0.0000000001", bad: true},
		"an exponent":          {in: "1e3", bad: true},
		"a huge exponent":      {in: "1e999999999", bad: true},
		"a sign inside":        {in: "1-2", bad: true},
		"a fraction":           {in: "1/2", bad: true},
		"nothing":              {in: "", bad: true},
		"words":                {in: "free", bad: true},
		"more than there is":   {in: "9300000000", bad: true},
		"a hexadecimal number": {in: "0x10", bad: true},
		"an underscore":        {in: "1_000", bad: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(tc.in)
			if (err != nil) != tc.bad || got != tc.want {
				t.Fatalf("Parse(%q) = %d, %v; want %d, an error: %v", tc.in, got, err, tc.want, tc.bad)
			}
			if err == nil {
				if back, err := Parse(got.String()); err != nil || back != got {
					t.Errorf("%s reads back as %d, %v", got, back, err)
				}
			}
		})
	}
	if got := Amount(math.MinInt64).String(); got != "-9223372036.854775808" {
		t.Errorf("the smallest amount is written %s", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0.0316", "-3", "", "1e9", "9223372036.854775807", ".5", "+1", "0x1p-2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := Parse(s); err == nil {
			if back, err := Parse(a.String()); err != nil || back != a {
				t.Fatalf("%q is %s, which reads back as %s, %v", s, a, back, err)
			}
		}
	})
}

func TestSplitGivesTiesToTheEarlierPart(t *testing.T) {
	cases := map[string]struct {
		total   Amount
		weights []int64
		want    []Amount
	}{
		"three equal parts of ten":      {10, []int64{1, 1, 1}, []Amount{4, 3, 3}},
		"three equal parts of minus 10": {-10, []int64{1, 1, 1}, []Amount{-4, -3, -3}},
		"the largest remainder first":   {10, []int64{15, 25, 60}, []Amount{2, 2, 6}},
		"all weights zero":              {10, []int64{0, 0}, []Amount{0, 0}},
		"no weights":                    {10, nil, []Amount{}},
		"one weight":                    {10, []int64{7}, []Amount{10}},
		"more parts than units":         {1, []int64{0, 5, 5}, []Amount{0, 1, 0}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := Split(tc.total, tc.weights); !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestSplitRefusesNegativeWeights(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("split by a negative weight")
		}
	}()
	Split(10, []int64{1, -1})
}

// FuzzSplit holds Split to its law: the parts sum to the total, and none is a
// nano-unit or more away from its exact share.
func FuzzSplit(f *testing.F) {
	f.Add(int64(10), int64(1), int64(3), uint8(3))
	f.Add(int64(math.MaxInt64), int64(math.MaxInt64), int64(1), uint8(200))
	f.Add(int64(math.MinInt64), int64(0), int64(9), uint8(2))
	f.Fuzz(func(t *testing.T, total, a, b int64, n uint8) {
		dice := rand.New(rand.NewSource(a ^ b))
		weights := make([]int64, n)
		sum := new(big.Int)
		for i := range weights {
			switch dice.Intn(4) {
			case 0:
				weights[i] = a & math.MaxInt64
			case 1:
				weights[i] = b & math.MaxInt64
			case 2:
				weights[i] = dice.Int63()
			}
			sum.Add(sum, big.NewInt(weights[i]))
		}
		parts := Split(Amount(total), weights)
		got := Amount(0)
		for _, p := range parts {
			got += p
		}
		if sum.Sign() == 0 {
			if got != 0 {
				t.Fatalf("no weights, but parts %v", parts)
			}
			return
		}
		if got != Amount(total) {
			t.Fatalf("parts sum to %d of %d", got, total)
		}
		if !slices.Equal(parts, Split(Amount(total), weights)) {
			t.Fatal("the same split twice differs")
		}
		if !sum.IsInt64() {
			return // weights were scaled down together
		}
		for i, p := range parts {
			exact := new(big.Rat).SetFrac(new(big.Int).Mul(big.NewInt(total), big.NewInt(weights[i])), sum)
			off := exact.Sub(exact, new(big.Rat).SetInt64(int64(p)))
			if off.Abs(off).Cmp(big.NewRat(1, 1)) >= 0 {
				t.Fatalf("part %d of %d by %d is %s away from its share", p, total, weights[i], off)
			}
		}
	})
}

// FuzzBetween holds PerHour.Between to its law: stretches of time add up, before
// 1970 and at any price, and a whole hour costs the price.
func FuzzBetween(f *testing.F) {
	f.Add(int64(31_611_000), int64(0), int64(1), int64(2))
	f.Add(int64(math.MaxInt64), int64(-1e18), int64(1e9), int64(3600e9))
	f.Add(int64(7), int64(-3600e9-1), int64(1), int64(1))
	f.Fuzz(func(t *testing.T, price, start, d1, d2 int64) {
		// Keep the three instants within what time.Unix holds without wrapping,
		// and the cost of the whole within an Amount.
		start %= 1 << 61
		d1, d2 = d1&(1<<50-1), d2&(1<<50-1)
		p := PerHour(price & math.MaxInt64)
		hours := int64((d1+d2)/int64(time.Hour)) + 1
		p /= PerHour(hours)
		a := time.Unix(0, start)
		b := a.Add(time.Duration(d1))
		c := b.Add(time.Duration(d2))
		x, y, all := p.Between(a, b), p.Between(b, c), p.Between(a, c)
		if x+y != all || x < 0 || y < 0 {
			t.Fatalf("%d + %d != %d at %d an hour", x, y, all, p)
		}
		exact := new(big.Int).Mul(big.NewInt(int64(p)), big.NewInt(d1+d2))
		exact.Quo(exact, big.NewInt(int64(time.Hour)))
		if off := int64(all) - exact.Int64(); off < 0 || off > 1 {
			t.Fatalf("%d nanoseconds at %d an hour cost %d, want %s or one more", d1+d2, p, all, exact)
		}
		if got := p.Between(a, a.Add(time.Hour)); got != Amount(p) {
			t.Fatalf("an hour costs %d, want %d", got, p)
		}
	})
}

func TestBetweenRefusesWhatWouldBeALie(t *testing.T) {
	now := time.Unix(0, 0)
	for name, run := range map[string]func(){
		"time that runs back": func() { PerHour(1).Between(now, now.Add(-1)) },
		"a negative price":    func() { PerHour(-1).Between(now, now) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("did not panic")
				}
			}()
			run()
		})
	}
}

func FuzzScale(f *testing.F) {
	f.Add(int64(100), int64(-3), int64(7))
	f.Add(int64(math.MinInt64), int64(1), int64(-2))
	f.Fuzz(func(t *testing.T, a, num, den int64) {
		if den == 0 {
			return
		}
		want := new(big.Int).Mul(big.NewInt(a), big.NewInt(num))
		want.Quo(want, big.NewInt(den))
		fits := want.IsInt64()
		defer func() {
			if r := recover(); r != nil && fits {
				t.Fatalf("%d·%d/%d panics: %v", a, num, den, r)
			} else if r == nil && !fits {
				t.Fatalf("%d·%d/%d does not fit and did not panic", a, num, den)
			}
		}()
		if got := Amount(a).Scale(num, den); fits && int64(got) != want.Int64() {
			t.Fatalf("%d·%d/%d = %d, want %s", a, num, den, got, want)
		}
	})
}

func BenchmarkSplit55(b *testing.B) {
	dice := rand.New(rand.NewSource(1))
	weights := make([]int64, 55)
	for i := range weights {
		weights[i] = dice.Int63n(1e10)
	}
	parts := make([]Amount, len(weights))
	for b.Loop() {
		SplitInto(parts, 6_400_000, weights)
	}
}
