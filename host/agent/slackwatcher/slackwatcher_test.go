package slackwatcher

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/agent/warden"
	"github.com/neap-dev/neap/host/cgroup"
	"github.com/neap-dev/neap/host/psi"
	"github.com/neap-dev/neap/host/runqueue"
)

const web = cgroup.Group("/kubepods/burstable/podweb")

// press makes a group have waited and been throttled for so long.
func press(f *cgroup.Fake, g cgroup.Group, waited, throttled time.Duration) {
	f.SetPressure(g, psi.CPU, psi.Pressure{Some: psi.Line{Total: waited}})
	f.SetUse(g, cgroup.Use{Throttled: throttled})
}

func TestPressureIsFeltLessWhatOnesOwnQuotaDoes(t *testing.T) {
	fake := cgroup.NewFake(cgroup.V2)
	tree := fake.Tree()
	if err := tree.Make(web); err != nil {
		t.Fatal(err)
	}
	w := New(Options{Tree: tree})
	defer w.Close()
	spec := v1alpha1.ColocationSlack{PressurePermille: 100, RunQueueTargetMicroseconds: 5000}
	online := []warden.Feeler{{Workload: "web", Groups: []cgroup.Group{web}}, {Workload: "gone", Groups: []cgroup.Group{"/kubepods/podgone"}}}
	press(fake, web, time.Hour, time.Hour)
	if got := w.Look(t.Context(), spec, online); got != nil {
		t.Errorf("the first look tells %v", got)
	}
	w.groups[web].at = time.Now().Add(-10 * time.Second)
	press(fake, web, time.Hour+6*time.Second, time.Hour+4*time.Second)
	got := w.Look(t.Context(), spec, online)
	if len(got) != 1 || got[0].Kind != "pressure" || got[0].Workload != "web" || got[0].Target != 100 || got[0].Value > 200 || got[0].Value < 100 {
		t.Errorf("it tells %v, want about 200 thousandths", got)
	}
	if got := w.Look(t.Context(), spec, nil); got != nil || len(w.groups) != 0 {
		t.Errorf("without workloads it tells %v and keeps %v", got, w.groups)
	}
}

func TestWhoHardlyRunsMayBeStarved(t *testing.T) {
	// waits are so many of a few microseconds and so many of some milliseconds.
	waits := func(short, long uint64) *runqueue.Histogram {
		h := &runqueue.Histogram{Waits: short + long}
		h.Count[8], h.Count[60] = short, long
		return h
	}
	for name, tc := range map[string]struct {
		waits *runqueue.Histogram
		late  bool
	}{
		"it does not run":                {waits(0, 0), false},
		"it runs ten times and is late":  {waits(4, 6), true},
		"it runs ten times, once late":   {waits(9, 1), false},
		"it runs often, and seldom late": {waits(1000, 5), false},
		"it runs often, and late":        {waits(1000, 50), true},
	} {
		if got := felt(tc.waits); (got > time.Millisecond) != tc.late {
			t.Errorf("%s: it feels %v", name, got)
		}
	}
}

func TestThePolicysQueryIsAskedBesideTheLooks(t *testing.T) {
	answers := make(chan func() (float64, bool, error), 1)
	w := New(Options{Tree: cgroup.NewFake(cgroup.V2).Tree(), P99: func(_ context.Context, query string) (float64, bool, error) {
		if query != "q" {
			t.Errorf("the query is %q", query)
		}
		return (<-answers)()
	}})
	defer w.Close()
	spec := v1alpha1.ColocationSlack{P99: &v1alpha1.LatencyTarget{Query: "q", Target: "300ms"}}
	look := func(want ...colocate.Signal) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			got := w.Look(t.Context(), spec, nil)
			if slices.Equal(got, want) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("it tells %v, want %v", got, want)
			}
		}
	}
	look() // nobody has answered yet
	answers <- func() (float64, bool, error) { return 0, false, errors.New("Prometheus is away") }
	look()
	answers <- func() (float64, bool, error) { return 0.25, true, nil }
	felt := colocate.Signal{Workload: "the policy's query", Kind: "p99", Value: 250000, Target: 300000, Slow: true}
	look(felt)
	answers <- func() (float64, bool, error) { return 0, false, nil }
	look(felt) // for a minute
	w.mu.Lock()
	w.at = w.at.Add(-2 * time.Minute)
	w.mu.Unlock()
	look()
	answers <- func() (float64, bool, error) { return 0, false, nil } // for whoever still asks
}
