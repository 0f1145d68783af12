package autoscale

import (
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/neap-dev/neap/internal/shareddata"
)

// periodicInputs are the shared series with a daily shape.
var periodicInputs = []string{"input0", "input1", "input2", "input8", "input9"}

func prepared(t testing.TB, path string) *Workload {
	t.Helper()
	s, err := ReadFile(filepath.Join(shareddata.Dir(t), "load", path))
	if err != nil {
		t.Fatal(err)
	}
	w, err := Prepare(s, Preparation{})
	if err != nil {
		t.Fatal(err)
	}
	w.Name = strings.TrimSuffix(filepath.Base(path), ".csv")
	return w
}

// TestPeersReproduceTheirColumns holds the peers to what another implementation
// of the same model gave: the means over the five series and, for input2, its
// own rows. The bounds are what two implementations of one text may differ by.
func TestPeersReproduceTheirColumns(t *testing.T) {
	cases := []struct {
		start       int
		policy      string
		under, cost float64 // as given
	}{
		{5, "hpa", 5.42, 1.02},
		{5, "ehpa", 0.78, 1.38},
		{5, "seasonal", 0.73, 1.12},
		{5, "seasonal-q90", 0.16, 1.37},
		{5, "seasonal-q95", 0.12, 1.41},
		{5, "oracle", 0.01, 1.11},
		{10, "hpa", 8.18, 0.99},
		{10, "ehpa", 1.27, 1.37},
		{10, "seasonal-q90", 0.23, 1.39},
		{10, "oracle", 0.03, 1.14},
	}
	for _, tc := range cases {
		if testing.Short() && tc.policy == "ehpa" {
			continue
		}
		under, cost := 0.0, 0.0
		for _, name := range periodicInputs {
			w := prepared(t, "crane/"+name+".csv")
			p, err := NewPolicy(tc.policy, w)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Replay(t.Context(), w, p, Options{StartMinutes: tc.start})
			if err != nil {
				t.Fatal(err)
			}
			under += r.UnderPercent / float64(len(periodicInputs))
			cost += r.CostRatio / float64(len(periodicInputs))
			if name == "input2" && tc.start == 5 {
				switch tc.policy {
				case "hpa":
					near(t, "input2 hpa under", r.UnderPercent, 21.6, 1.2)
					near(t, "input2 hpa cost", r.CostRatio, 1.01, 0.03)
				case "oracle":
					near(t, "input2 oracle under", r.UnderPercent, 0.02, 0.01)
					near(t, "input2 oracle cost", r.CostRatio, 1.23, 0.01)
				}
			}
		}
		near(t, tc.policy+" under", under, tc.under, 0.01+0.1*tc.under)
		near(t, tc.policy+" cost", cost, tc.cost, 0.045)
	}
}

func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if !(math.Abs(got-want) <= within) {
		t.Errorf("%s is %.3f, want %.3f give or take %.3f", what, got, want, within)
	}
}
