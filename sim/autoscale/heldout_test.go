package autoscale

import (
	"math"
	"slices"
	"testing"
)

func TestHeldOutSeriesAreAlwaysTheSame(t *testing.T) {
	a, b := HeldOut(), HeldOut()
	names := map[string]bool{}
	for i := range a {
		if !slices.EqualFunc(a[i].Value, b[i].Value, func(x, y float64) bool { return x == y || math.IsNaN(x) && math.IsNaN(y) }) {
			t.Errorf("%s differs from one call to the next", a[i].Name)
		}
		if names[a[i].Name] {
			t.Errorf("%s is there twice", a[i].Name)
		}
		names[a[i].Name] = true
		if _, err := Prepare(a[i].Series, Preparation{}); err != nil {
			t.Error(err)
		}
	}
}
