package elastic

import "testing"

func TestHeadroom(t *testing.T) {
	cases := map[string]struct {
		rule                   Headroom
		current, desired, soon int
		want                   int
	}{
		"a share of what is there":            {Headroom{0.1, None}, 100, 100, 0, 10},
		"what comes, and a share":             {Headroom{0.1, None}, 20, 20, 100, 90},
		"what was ordered and is not there":   {Headroom{0, None}, 20, 50, 0, 30},
		"nothing foreseen":                    {Headroom{0, None}, 20, 20, 10, 0},
		"no more than declared":               {Headroom{0.1, 40}, 20, 20, 100, 40},
		"no room is a bound too":              {Headroom{0.1, 0}, 20, 20, 100, 0},
		"nonsense keeps nothing":              {Headroom{0, None}, -5, -1, -1, 0},
		"a share is rounded up":               {Headroom{0.1, None}, 1, 1, 0, 1},
		"while less is wanted, room for less": {Headroom{0.1, None}, 100, 30, 30, 3},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got, reason := tc.rule.Replicas(tc.current, tc.desired, tc.soon); got != tc.want || reason == "" {
				t.Errorf("got %d (%s), want %d", got, reason, tc.want)
			}
		})
	}
}
