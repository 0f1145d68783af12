package resource

import "testing"

func FuzzVector(f *testing.F) {
	f.Add(int64(1), int64(2), int64(3), int64(4), int64(5), int64(6))
	f.Fuzz(func(t *testing.T, a, b, c, x, y, z int64) {
		v, w := Vector{a, b, c}, Vector{x, y, z}
		if v.Add(w).Sub(w) != v || v.Add(w) != w.Add(v) {
			t.Fatalf("adding %v and %v does not undo or commute", v, w)
		}
		if lo, hi := v.Min(w), v.Max(w); !lo.Fits(hi) || lo.Add(hi) != v.Add(w) || !lo.Fits(v) || !v.Fits(hi) {
			t.Fatalf("the smaller %v and the larger %v of %v and %v", lo, hi, v, w)
		}
		if v.Fits(w) && w.Fits(v) && v != w {
			t.Fatalf("%v and %v fit into each other", v, w)
		}
		if v.IsZero() != (v == Vector{}) {
			t.Fatalf("%v is zero: %v", v, v.IsZero())
		}
	})
}

func TestKindsHaveNames(t *testing.T) {
	for i, want := range []string{"cpu", "memory", "gpu"} {
		if got := All[i].String(); got != want || int(All[i]) != i {
			t.Errorf("kind %d is %s, want %s", i, got, want)
		}
	}
}
