package autoscale

import "testing"

// TestWithoutAForecastNeapIsNeverWorseThanHPA holds the negative controls: loads
// without a day or a week are never called periodic, and then the reactive layer
// alone decides.
func TestWithoutAForecastNeapIsNeverWorseThanHPA(t *testing.T) {
	paths := []string{"crane/input5.csv", "crane/input6.csv", "crane/input10.csv", "nab/ec2_cpu_utilization_77c1ca.csv"}
	if testing.Short() {
		paths = paths[3:]
	}
	for _, path := range paths {
		w := prepared(t, path)
		for _, start := range []int{5, 10} {
			hpa, err := Replay(t.Context(), w, NewHPA(), Options{StartMinutes: start})
			if err != nil {
				t.Fatal(err)
			}
			neap, err := Replay(t.Context(), w, &Neap{}, Options{StartMinutes: start})
			if err != nil {
				t.Fatal(err)
			}
			if neap.Periodic || neap.UnderPercent > hpa.UnderPercent || neap.CostRatio > 1.02*hpa.CostRatio || neap.CostRatio < 0.98*hpa.CostRatio {
				t.Errorf("%s, %d minutes: periodic %v, under %.3f at %.3f; HPA %.3f at %.3f", w.Name, start,
					neap.Periodic, neap.UnderPercent, neap.CostRatio, hpa.UnderPercent, hpa.CostRatio)
			}
		}
	}
}

// TestNeapKeepsItsBars holds what the product promises of the recorded series.
func TestNeapKeepsItsBars(t *testing.T) {
	c, w := ucd(t)
	p, err := c.Policy("neap", w)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Replay(t.Context(), w, p, Options{StartMinutes: 10})
	if err != nil || r.UnderPercent > 0.30 || r.CostRatio > 1.30 {
		t.Errorf("week of classes: under %.3f at %.3f, %v; want 0.30 at 1.30", r.UnderPercent, r.CostRatio, err)
	}
	if testing.Short() {
		return
	}
	under, cost := 0.0, 0.0
	for _, name := range periodicInputs {
		r, err := Replay(t.Context(), prepared(t, "crane/"+name+".csv"), &Neap{}, Options{StartMinutes: 5})
		if err != nil {
			t.Fatal(err)
		}
		if !r.Periodic || r.Coverage90 < 88 || r.Coverage90 > 92 {
			t.Errorf("%s: periodic %v, the 90 %% band covers %.1f %%", name, r.Periodic, r.Coverage90)
		}
		under += r.UnderPercent / float64(len(periodicInputs))
		cost += r.CostRatio / float64(len(periodicInputs))
	}
	if under > 0.10 || cost > 1.20 {
		t.Errorf("series with a day: under %.3f at %.3f; want 0.10 at 1.20", under, cost)
	}
}
