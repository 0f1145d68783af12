package autoscale

import (
	"path/filepath"
	"testing"

	"github.com/neap-dev/neap/internal/shareddata"
)

func TestExplore(t *testing.T) {
	dir := filepath.Join(shareddata.Dir(t), "load", "crane")
	for _, start := range []int{2, 5, 10} {
		type acc struct{ u, m, c float64 }
		sum := map[string]acc{}
		for _, n := range []string{"0", "1", "2", "8", "9"} {
			s, err := ReadFile(filepath.Join(dir, "input"+n+".csv"))
			if err != nil {
				t.Fatal(err)
			}
			w, err := Prepare(s, 0)
			if err != nil {
				t.Fatal(err)
			}
			for name, p := range map[string]Policy{"hpa": NewHPA(), "hpa0": &HPA{}, "median": NewSeasonal(0.5), "q90": NewSeasonal(.9), "q95": NewSeasonal(.95), "oracle": &Oracle{w.Demand}, "fixed": Fixed(ideal(Percentile(w.Demand, 1)))} {
				r, _ := Replay(t.Context(), w, p, Options{StartMinutes: start})
				a := sum[name]
				a.u += r.UnderPercent / 5
				a.m += r.UnmetPercent / 5
				a.c += r.CostRatio / 5
				sum[name] = a
				if n == "2" {
					t.Logf("start %d input2 %-8s %.2f / %.2f / %.3f", start, name, r.UnderPercent, r.UnmetPercent, r.CostRatio)
				}
			}
		}
		for name, a := range sum {
			t.Logf("start %d MEAN %-8s %.2f / %.2f / %.3f", start, name, a.u, a.m, a.c)
		}
	}
}
