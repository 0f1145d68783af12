package elastic

import (
	"math"
	"testing"
	"time"
)

// The cases of Kubernetes' replica_calculator_test.go, in our units.
func TestFollowIsHPAsArithmetic(t *testing.T) {
	pods := func(target float64, values ...float64) (out []PodFigure) {
		for _, v := range values {
			out = append(out, PodFigure{Value: v, Target: target, Request: 1, Ready: true})
		}
		return out
	}
	unready := func(target, value float64) PodFigure { return PodFigure{Value: value, Target: target, Request: 1} }
	gone := math.NaN()
	hpa := Reactive{Tolerance: Tolerance{Up: 0.1, Down: 0.1}}

	cases := map[string]struct {
		metric  Metric
		current int
		want    int
		wantOK  bool
	}{
		"out by utilisation":                                {Metric{Pods: pods(0.3, 0.3, 0.5, 0.7)}, 3, 5, true},
		"in by utilisation":                                 {Metric{Pods: pods(0.5, 0.1, 0.3, 0.5, 0.25, 0.25)}, 5, 3, true},
		"within the tolerance":                              {Metric{Pods: pods(1, 1.01, 1.03, 1.05)}, 3, 3, true},
		"an unready pod counts as idle on the way out":      {Metric{Pods: append(pods(0.3, 0.5, 0.7), unready(0.3, 0.3))}, 3, 4, true},
		"unready pods may stop a way out":                   {Metric{Pods: append(pods(0.3, 0.4), unready(0.3, 0.5), unready(0.3, 0.7))}, 3, 3, true},
		"an unready pod does not count on the way in":       {Metric{Pods: append(pods(0.5, 0.1, 0.3), unready(0.5, 0.9))}, 3, 1, true},
		"a missing pod counts as full on the way in":        {Metric{Pods: pods(0.5, 0.1, 0.1, 0.1, gone)}, 4, 3, true},
		"missing pods may stop a way in":                    {Metric{Pods: pods(0.5, 0.4, gone)}, 2, 2, true},
		"a missing pod counts as idle on the way out":       {Metric{Pods: pods(0.3, 0.5, 0.7, 0.6, gone)}, 4, 6, true},
		"missing pods may stop a way out":                   {Metric{Pods: pods(0.5, 0.9, gone)}, 2, 2, true},
		"no pod is measured":                                {metric: Metric{Pods: pods(0.3, gone, gone)}, current: 2},
		"a target of nothing":                               {metric: Metric{Pods: pods(0, 0.3)}, current: 1},
		"a total out":                                       {Metric{Total: 12, PerReplica: 0.6}, 10, 20, true},
		"a total within the tolerance":                      {Metric{Total: 6.5, PerReplica: 0.6}, 10, 10, true},
		"a total from nothing":                              {Metric{Total: 6, PerReplica: 0.6}, 0, 10, true},
		"a total of nothing":                                {Metric{Total: 0, PerReplica: 0.6}, 10, 0, true},
		"nothing from nothing":                              {Metric{Total: 0, PerReplica: 0.6}, 0, 0, true},
		"an enormous total is bounded":                      {Metric{Total: 1e300, PerReplica: 0.6}, 10, most, true},
		"a total that is gone":                              {metric: Metric{Total: gone, PerReplica: 0.6}, current: 10},
		"a total below nothing":                             {metric: Metric{Total: -1, PerReplica: 0.6}, current: 10},
		"no share of a replica":                             {metric: Metric{Total: 1}, current: 10},
		"exact multiples are not rounded up by binary dust": {Metric{Total: 0.6 * 49, PerReplica: 0.6}, 10, 49, true},
		"from full saturation at 60 % one step is 1.67":     {Metric{Pods: pods(0.6, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)}, 10, 17, true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, ok := hpa.Follow(tc.metric, monday, tc.current)
			if got != tc.want || ok != tc.wantOK {
				t.Errorf("got %d, %v, want %d, %v", got, ok, tc.want, tc.wantOK)
			}
		})
	}
}

func TestRatesAreHPAs(t *testing.T) {
	quarter := 15 * time.Second
	minute := []Change{{monday.Add(-10 * time.Second), 4}}
	cases := map[string]struct {
		behavior Behavior
		changes  []Change
		current  int
		sign     int
		want     int
	}{
		"the rate that allows most counts":     {Behavior{Rates: []Rate{{Pods: 4, Period: quarter}, {Share: 1, Period: quarter}}}, nil, 10, 1, 20},
		"or the one that allows least":         {Behavior{Rates: []Rate{{Pods: 4, Period: quarter}, {Share: 1, Period: quarter}}, Least: true}, nil, 10, 1, 14},
		"what was added in the period counts":  {Behavior{Rates: []Rate{{Pods: 5, Period: quarter}}}, minute, 14, 1, 15},
		"what was added before it does not":    {Behavior{Rates: []Rate{{Pods: 5, Period: 10 * time.Second}}}, minute, 14, 1, 19},
		"no less than what is there":           {Behavior{Rates: []Rate{{Pods: 2, Period: quarter}}}, minute, 14, 1, 14},
		"no rates are no bound":                {Behavior{}, nil, 10, 1, most},
		"off is off":                           {Behavior{Off: true}, nil, 10, 1, 10},
		"in by a share":                        {Behavior{Rates: []Rate{{Share: 0.1, Period: quarter}}}, nil, 15, -1, 13},
		"in by all":                            {Behavior{Rates: []Rate{{Share: 1, Period: quarter}}}, nil, 15, -1, 0},
		"in, the rate that allows most counts": {Behavior{Rates: []Rate{{Share: 0.1, Period: quarter}, {Pods: 5, Period: quarter}}}, nil, 15, -1, 10},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := tc.behavior.limit(tc.changes, monday, tc.current, tc.sign); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}
