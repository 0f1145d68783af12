package colocate

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

func TestDrain(t *testing.T) {
	peak := flat(8000)
	for i := 8; i < Steps; i++ { // from two o'clock on
		peak.CPUMilli[i] = 0
	}
	little := flat(8000)
	for i := 8; i < Steps; i++ {
		little.CPUMilli[i] = 2000
	}
	task := func(name string, milli int64, ago, run time.Duration) Task {
		return Task{Name: name, Need: Room{CPUMilli: milli}, Started: noon.Add(-ago), RunTime: run}
	}
	saved := task("saved", 2000, 5*time.Hour, 10*time.Hour)
	saved.Saved = noon.Add(-5 * time.Minute)
	hour := time.Hour
	for name, tc := range map[string]struct {
		curve   Curve
		running []Task
		how     Leaving
		want    string
	}{
		"who is done before finishes, who is not leaves a minute before": {peak, []Task{task("a", 1000, hour, 2*hour), task("b", 1000, hour, 5*hour)}, Leaving{}, "a finish, b leave 13:59"},
		"with notice":                                     {peak, []Task{task("b", 1000, hour, 5*hour)}, Leaving{Notice: 10 * time.Minute}, "b leave 13:50"},
		"the rate spreads them to earlier times":          {peak, []Task{task("a", 1000, hour, 9*hour), task("b", 1000, hour, 9*hour), task("c", 1000, hour, 9*hour)}, Leaving{PerHour: 2}, "a leave 13:59, b leave 13:29, c leave 12:59"},
		"with too little time the rest leave now":         {peak, []Task{task("a", 1000, hour, 9*hour), task("b", 1000, hour, 9*hour), task("c", 1000, hour, 9*hour)}, Leaving{PerHour: 1}, "a leave 13:59, b leave 12:59, c leave 12:00"},
		"what is left goes to those with most to lose":    {little, []Task{task("old", 2000, 5*hour, 12*hour), task("new", 2000, hour, 12*hour)}, Leaving{}, "old stay, new leave 13:59"},
		"who kept its work has little to lose":            {little, []Task{saved, task("new", 2000, hour, 12*hour)}, Leaving{}, "saved leave 13:59, new stay"},
		"nobody leaves who need not: one large is enough": {little, []Task{task("small", 500, hour, 12*hour), task("large", 2000, 2*hour, 12*hour)}, Leaving{}, "small leave 13:59, large stay"},
		"a curve that does not fall":                      {flat(8000), []Task{task("a", 1000, hour, 99*hour)}, Leaving{}, "a stay"},
		"one that outran its time":                        {peak, []Task{task("a", 1000, 10*hour, hour)}, Leaving{}, "a leave 13:59"},
		"no curve says nothing":                           {Curve{}, []Task{task("a", 1000, hour, 9*hour)}, Leaving{}, "a stay"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			for _, d := range Drain(tc.curve, noon, tc.running, tc.how) {
				if got != "" {
					got += ", "
				}
				got += d.Task.Name + " " + d.Fate.String()
				if d.Fate == Leave {
					got += d.At.Format(" 15:04")
				}
				if d.Fate != Stay && d.Why == "" {
					t.Errorf("%s has no reason", d.Task.Name)
				}
			}
			if got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// TestDrainLeavesRoom holds the laws of draining over random tasks and curves:
// what stays fits everywhere, nobody leaves who could finish, and the order of the
// tasks does not matter.
func TestDrainLeavesRoom(t *testing.T) {
	dice := rand.New(rand.NewPCG(7, 7))
	for range 300 {
		c := flat(0)
		at := dice.Int64N(20000)
		for i := range c.CPUMilli {
			if dice.IntN(8) == 0 {
				at = dice.Int64N(20000)
			}
			c.CPUMilli[i], c.MemoryMiB[i] = at, at*2
		}
		var tasks []Task
		for i := range dice.IntN(12) {
			tasks = append(tasks, Task{
				Name: fmt.Sprint(i), Need: Room{dice.Int64N(6000), dice.Int64N(9000)},
				Started: noon.Add(-time.Duration(dice.Int64N(int64(5 * time.Hour)))), RunTime: time.Duration(dice.Int64N(int64(9 * time.Hour))),
			})
		}
		out := Drain(c, noon, tasks, Leaving{})
		first := map[string]Fate{}
		for i := range c.Steps() {
			at, sum := c.Begin(i), Room{}
			for _, d := range out {
				first[d.Task.Name] = d.Fate
				if end := noon.Add(d.Task.Remaining(noon)); end.After(at) && d.Fate != Leave {
					sum = sum.Add(d.Task.Need)
				}
			}
			if !sum.Fits(c.At(at)) {
				t.Fatalf("at %v %v stay where there is room for %v", at, sum, c.At(at))
			}
		}
		for _, d := range out {
			if end := noon.Add(d.Task.Remaining(noon)); d.Fate == Leave && !end.After(d.At) && d.At.After(noon) {
				t.Fatalf("%s leaves at %v and would be done at %v", d.Task.Name, d.At, end)
			}
			if d.Fate == Leave && d.At.Before(noon) {
				t.Fatalf("%s had to leave in the past", d.Task.Name)
			}
		}
		dice.Shuffle(len(tasks), func(i, j int) { tasks[i], tasks[j] = tasks[j], tasks[i] })
		for _, d := range Drain(c, noon, tasks, Leaving{}) {
			if d.Fate != first[d.Task.Name] {
				t.Fatalf("the order of the tasks matters for %s", d.Task.Name)
			}
		}
	}
}
