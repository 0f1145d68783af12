package autoscale

import "testing"

// TestWithoutAForecastNeapIsNeverWorseThanHPA holds the negative controls: loads
// without a day or a week are never called periodic, and then the reactive layer
// alone decides.
func TestWithoutAForecastNeapIsNeverWorseThanHPA(t *testing.T) {
	for _, path := range []string{"crane/input5.csv", "crane/input6.csv", "crane/input10.csv", "nab/ec2_cpu_utilization_77c1ca.csv"} {
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
