package colocate

import (
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// flat is a curve of a day that lends the same in every step.
func flat(cpuMilli int64) Curve {
	c := Curve{Start: noon, Step: Step}
	for range Steps {
		c.CPUMilli, c.MemoryMiB = append(c.CPUMilli, cpuMilli), append(c.MemoryMiB, 1<<20)
	}
	return c
}

func TestCurve(t *testing.T) {
	c := flat(8000)
	c.CPUMilli[8] = 1000 // two hours from noon
	for name, tc := range map[string]struct {
		from, to time.Duration
		want     int64
	}{
		"a stretch before the fall":                {0, 2 * time.Hour, 8000},
		"a stretch that reaches into it":           {0, 2*time.Hour + time.Second, 1000},
		"a stretch behind it":                      {3 * time.Hour, 4 * time.Hour, 8000},
		"a moment":                                 {2 * time.Hour, 0, 1000},
		"one that goes on behind the curve":        {23 * time.Hour, 99 * time.Hour, 8000},
		"one that begins behind the curve":         {24 * time.Hour, 25 * time.Hour, 0},
		"one that begins before it, clocks differ": {-time.Second, time.Minute, 8000},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.Least(noon.Add(tc.from), noon.Add(tc.to)).CPUMilli; got != tc.want {
				t.Errorf("Least is %d, want %d", got, tc.want)
			}
		})
	}
	if got := (Curve{}).At(noon); got != (Room{}) {
		t.Errorf("the zero curve lends %v", got)
	}
}

func TestAdmitHoldsATaskAgainstTheFallingCurve(t *testing.T) {
	c := flat(8000)
	for i := 8; i < Steps; i++ { // from two o'clock on
		c.CPUMilli[i] = 1000
	}
	one := func(milli int64, ago, run time.Duration) Task {
		task := Task{Need: Room{CPUMilli: milli}, RunTime: run}
		if ago > 0 {
			task.Started = noon.Add(-ago)
		}
		return task
	}
	for name, tc := range map[string]struct {
		asks    Task
		running []Task
		fits    bool
	}{
		"it is done before the fall":                  {one(2000, 0, 2*time.Hour), nil, true},
		"it is not done before the fall":              {one(2000, 0, 2*time.Hour+time.Minute), nil, false},
		"it is small enough for what is left":         {one(1000, 0, 20*time.Hour), nil, true},
		"those that run leave no room now":            {one(2000, 0, time.Hour), []Task{one(7000, time.Hour, 3*time.Hour)}, false},
		"those that run are gone when it falls":       {one(1000, 0, 4*time.Hour), []Task{one(7000, time.Hour, 2*time.Hour)}, true},
		"one that outran its time may still be there": {one(1000, 0, 4*time.Hour), []Task{one(1000, 20*time.Hour, time.Hour)}, false},
		"what asks for nothing always fits":           {one(0, 0, 90*time.Hour), nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			v := Admit(c, noon, tc.asks, tc.running)
			if v.Fits != tc.fits {
				t.Errorf("fits is %v: %+v", v.Fits, v)
			}
			if v.Fits == (v.Why != "") {
				t.Errorf("the reason is %q", v.Why)
			}
		})
	}
}
