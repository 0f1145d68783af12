package colocation

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/sim/autoscale"
)

// made returns machines of the made series of these names: so many days count.
func made(t *testing.T, days int, names ...string) []*Machine {
	t.Helper()
	var all []*Machine
	for _, s := range autoscale.HeldOut() {
		for _, name := range names {
			if s.Name == name {
				m, err := Prepare(s.Series, 70, days)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, m)
			}
		}
	}
	if len(all) != len(names) {
		t.Fatalf("made %d of %v", len(all), names)
	}
	return all
}

func TestPeersReckonAsTheyPublish(t *testing.T) {
	const machine = 32000
	flat := func(v float64) []float64 {
		x := make([]float64, 60)
		for i := range x {
			x[i] = v
		}
		return x
	}
	steps := append(flat(10000), 12000, 14000, 16000, 18000, 20000) // the last five minutes
	lost := append(flat(10000), math.NaN())
	for name, tc := range map[string]struct {
		lender interface {
			Lender
			value() float64
		}
		online []float64
		want   float64
	}{
		"koordinator takes the mean of five minutes":        {&Koordinator{scalar: scalar{machine: machine}, Threshold: 60}, steps, 19200 - 16000},
		"koordinator keeps its value without metrics":       {&Koordinator{scalar: scalar{machine: machine, capacity: 7}, Threshold: 60}, flat(math.NaN())[:10], 7},
		"koordinator lends nothing after fifteen minutes":   {&Koordinator{scalar: scalar{machine: machine, capacity: 7}, Threshold: 60}, flat(math.NaN()), 0},
		"volcano takes a share of what is not used":         {&Volcano{scalar: scalar{machine: machine}, Ratio: 60}, flat(10000), 13200},
		"crane takes what is used, without a forecast":      {&Crane{scalar: scalar{machine: machine}, Reserve: 40, DSP: newDSP(1)}, flat(10000), 9200},
		"crane lends everything without metrics":            {&Crane{scalar: scalar{machine: machine}, Reserve: 40, DSP: newDSP(1)}, lost, 19200},
		"katalyst adds a quarter":                           {&Katalyst{scalar: scalar{machine: machine}, Reserved: 4}, flat(10000), 32000 - 12500},
		"katalyst counts four cores where nothing is known": {&Katalyst{scalar: scalar{machine: machine}, Reserved: 4}, lost, 28000},
	} {
		t.Run(name, func(t *testing.T) {
			tc.lender.Look(Seen{Minute: len(tc.online), Now: time.Unix(0, 0).UTC(), Online: tc.online})
			if got := tc.lender.value(); math.Abs(got-max(0, tc.want)) > 1 {
				t.Errorf("it lends %.0f, want %.0f", got, tc.want)
			}
		})
	}
}

func (c *scalar) value() float64 { return c.capacity }

func TestPhysics(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	all := &scalar{machine: 8000, capacity: 4000}
	p := &player{lender: lazy{all}}
	jobs := []Job{{Milli: 2000, Work: 30}, {Milli: 2000, Work: 2}, {Milli: 1000, Work: 1}}
	r := &Result{}
	p.minute(Seen{Now: now}, jobs, sky{free: 4000}, r)
	p.minute(Seen{Now: now}, nil, sky{free: 4000}, r)
	if r.DoneJobs != 1 || len(p.jobs) != 1 || r.GotHours != 8.0/60 || r.Violations != 0 {
		t.Fatalf("two of three fit and one is done: %+v", r)
	}
	for range 4 { // half speed for four minutes: below what evicts, not for long enough
		p.minute(Seen{Now: now}, nil, sky{free: 1000}, r)
	}
	if r.EvictedJobs != 0 || r.Violations != 4 || math.Abs(r.ViolatedHours-4.0/60) > 1e-9 || p.jobs[0].done != 4 {
		t.Fatalf("it is slowed down: %+v, done %v", r, p.jobs[0].done)
	}
	p.minute(Seen{Now: now}, nil, sky{free: 1000}, r)
	if r.EvictedJobs != 1 || math.Abs(r.LostHours-4.5*2/60) > 1e-9 {
		t.Fatalf("after five minutes it goes, and what it did: %+v", r)
	}
}

// lazy lends without looking.
type lazy struct{ *scalar }

func (lazy) Look(Seen) {}

func TestSweepIsDeterministic(t *testing.T) {
	x := &Sweep{Machines: made(t, 1, "evening", "pulses"), Policies: []string{"neap", "volcano"}, Mix: DefaultMix, Seed: 3, Workers: 2}
	a, err := x.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	x.Workers = 1
	b, err := x.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(a, b) {
		t.Error("the same sweep gave two results")
	}
	for _, r := range a {
		if all := r.All(); all.GotHours > all.OfferedHours+1e-9 || all.LostHours > all.GotHours || all.Minutes != day {
			t.Errorf("%s %s %v: %+v", r.Machine, r.Policy, r.Value, all)
		}
	}
}

// TestNeapLosesLeastAtEqualOffer compares at what Neap offers as it ships, on
// made series that nothing was tuned on.
func TestNeapLosesLeastAtEqualOffer(t *testing.T) {
	peers := []string{"koordinator", "volcano", "crane", "katalyst"}
	x := &Sweep{Machines: made(t, 2, "office", "evening"), Policies: append([]string{"neap"}, peers...), Mix: DefaultMix, Seed: 1}
	rows, err := x.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	points := Points(rows, 0)
	ours := Standard(points, "neap")
	for _, name := range peers {
		theirs, ok := AtOffered(points, name, ours.OfferedHours)
		if !ok {
			t.Errorf("%s does not offer %.0f core-hours", name, ours.OfferedHours)
			continue
		}
		if ours.LostHours > theirs.LostHours || ours.ViolatedHours > theirs.ViolatedHours {
			t.Errorf("at %.0f core-hours %s loses %.1f and violates %.1f, neap %.1f and %.1f", ours.OfferedHours, name,
				theirs.LostHours, theirs.ViolatedHours, ours.LostHours, ours.ViolatedHours)
		}
	}
}

func TestBatchIsOutBeforeTheWindow(t *testing.T) {
	hours := []colocate.Hours{{Name: "peak", From: 18 * time.Hour, To: 22 * time.Hour}}
	x := &Sweep{Machines: made(t, 2, "office"), Policies: []string{"neap", "koordinator"}, Mix: DefaultMix, Seed: 1, Hours: hours}
	rows, err := x.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		all := r.All()
		if r.Policy == "neap" && (all.WindowHours > 0 || all.Hasty > 0) {
			t.Errorf("neap %v: %.1f core-hours in the window, %d jobs left that would have been done", r.Value, all.WindowHours, all.Hasty)
		}
		if r.Policy == "koordinator" && r.Standard && all.WindowHours == 0 {
			t.Error("koordinator knows of the window")
		}
	}
}

func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a/plain.csv", "ts,value\n0,1\n60,2\n")
	write("b/rooms.csv", "room,ts,value\nx,0,1\nx,60,2\ny,0,1\ny,60,2\n")
	write("b/clicks.csv", "local_time,events\n2026-03-02T08:00:00,2\n2026-03-02T08:05:00,2\n2026-03-02T08:10:00,2\n2026-03-02T10:00:00,3\n")
	write("c/other.csv", "stage,n\nx,1\n")
	write("c/notes.txt", "ts,value\n")
	all, leftOut, err := ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, " "); got != "a/plain b/clicks b/rooms/x b/rooms/y" {
		t.Errorf("read %s", got)
	}
	if !reflect.DeepEqual(leftOut, []string{"c/other"}) {
		t.Errorf("left out %v", leftOut)
	}
	if v := all[1].Value[60]; v != 0 {
		t.Errorf("an hour without clicks has %v", v)
	}
	if _, _, err := ReadDir(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no series is below") {
		t.Errorf("an empty folder: %v", err)
	}
}
