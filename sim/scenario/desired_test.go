package scenario

import (
	"testing"
	"time"

	"github.com/neap-dev/neap/core/workload"
)

const twoDays = `
name: two-days
start: 2026-03-02T12:00
zone: Asia/Shanghai
length: 48h
pools:
  - {name: all, kind: Machines, machineType: m5.2xlarge, schedule: [{at: "08:00", count: 4}, {at: "22:00", count: 2}]}
series: [{name: flat, shape: [1]}]
modules:
  - {name: api, namespace: shop, kind: online, schedule: [{at: "09:00", replicas: 5}, {at: "21:00", replicas: 2}], requests: {cpu: 1, memory: 1Gi}, load: {series: flat, peak: 10, trough: 10}}
  - {name: night, namespace: shop, kind: batch, jobs: [{at: "01:00", jobs: 0}, {at: "23:00", jobs: 4}], requests: {cpu: 1, memory: 1Gi}, runTime: 5m}
  - {name: tick, namespace: shop, kind: cron, cron: "*/20 * * * *", requests: {cpu: 1, memory: 1Gi}, runTime: 5m}
events:
  - {at: 1h, reason: a rush, scale: {module: shop/api, replicas: 9}}
  - {at: 2h, reason: cheaper, price: {machineType: m5.2xlarge, discount: 50%}}
  - {at: 3h, reason: leaner, resize: {module: shop/api, requests: {cpu: 500m}}}
  - {at: 4h, reason: a rush, load: {module: shop/api, factor: 3, for: 1h}}
`

func TestDesiredFollowsSchedulesAndEvents(t *testing.T) {
	s, err := Parse([]byte(twoDays), "x.yaml", Options{})
	if err != nil {
		t.Fatal(err)
	}
	api := workload.Key{Namespace: "shop", Kind: "Deployment", Name: "api"}
	cases := map[string]struct {
		after              time.Duration // from noon on
		machines, replicas int
		cpu, discount      int64
		why                string // of the module
		load               float64
	}{
		"as it begins, the schedule of the morning holds": {0, 4, 5, 1000, 0, "", 10},
		"an event holds":  {time.Hour, 4, 9, 1000, 0, "a rush", 10},
		"a price changes": {2 * time.Hour, 4, 9, 1000, 500, "a rush", 10},
		"requests change": {3 * time.Hour, 4, 9, 500, 500, "leaner", 10},
		"load changes":    {4*time.Hour + 59*time.Minute, 4, 9, 500, 500, "leaner", 30},
		"and goes back":   {5 * time.Hour, 4, 9, 500, 500, "leaner", 10},
		"the schedule's next step ends the event and why":   {9 * time.Hour, 4, 2, 500, 500, "", 10},
		"late in the evening machines go":                   {10 * time.Hour, 2, 2, 500, 500, "", 10},
		"after midnight yesterday's last step holds":        {13 * time.Hour, 2, 2, 500, 500, "", 10},
		"the next morning is as the first but what was set": {22 * time.Hour, 4, 5, 500, 500, "", 10},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			at := s.Start.Add(tc.after)
			d := Desired(s, at)
			m := d.Modules[api]
			if d.Machines["all"] != tc.machines || m.Replicas != tc.replicas || m.Requests[0] != tc.cpu || d.Types["m5.2xlarge"].DiscountMillis != tc.discount || d.Why[api.String()] != tc.why {
				t.Errorf("machines %d, replicas %d, cpu %d, discount %d, why %q", d.Machines["all"], m.Replicas, m.Requests[0], d.Types["m5.2xlarge"].DiscountMillis, d.Why[api.String()])
			}
			if rps, ok := s.Requests(s.Module(api), at); !ok || rps != tc.load {
				t.Errorf("the load is %v, %v", rps, ok)
			}
		})
	}
}

func TestTheCalendarStartsEveryJobOnce(t *testing.T) {
	s, err := Parse([]byte(twoDays), "x.yaml", Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCalendar(s)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	// In steps of an odd length, so that steps and starts meet everywhere.
	for from := s.Start; from.Before(s.Start.Add(24 * time.Hour)); from = from.Add(7 * time.Minute) {
		for _, j := range c.Starts(from, from.Add(7*time.Minute)) {
			got[j.Module.Name] = append(got[j.Module.Name], j.At.In(s.Location).Format("15:04"))
		}
	}
	if n := len(got["tick"]); n != 72 && n != 73 {
		t.Errorf("%d ticks in a day", n)
	}
	want := []string{"23:00", "23:30", "00:00", "00:30"}
	if len(got["night"]) != 4 {
		t.Fatalf("the night's jobs start at %v, want %v", got["night"], want)
	}
	for i := range want {
		if got["night"][i] != want[i] {
			t.Errorf("the night's jobs start at %v, want %v", got["night"], want)
			break
		}
	}
	if at := c.After(s.Start); !at.Equal(s.Start.Add(20 * time.Minute)) {
		t.Errorf("the first change is at %v", at)
	}
}

func TestAScenarioMayBeReadByManyAtOnce(t *testing.T) {
	s, err := Load("small", Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCalendar(s)
	if err != nil {
		t.Fatal(err)
	}
	at := s.Start.Add(3 * time.Hour)
	sum := func() float64 {
		total := float64(len(Desired(s, at).Modules) + len(c.Starts(s.Start, at)))
		for i := range s.Modules {
			rps, _ := s.Requests(&s.Modules[i], at)
			total += rps
		}
		return total
	}
	want, got := sum(), make(chan float64)
	for range 8 {
		go func() { got <- sum() }()
	}
	for range 8 {
		if v := <-got; v != want {
			t.Errorf("got %v, want %v", v, want)
		}
	}
}
