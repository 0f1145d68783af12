package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/internal/shareddata"
	"github.com/neap-dev/neap/sim/scenario"
)

func load(t testing.TB, name string, o scenario.Options) *scenario.Scenario {
	t.Helper()
	s, err := scenario.Load(name, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestASchoolDayHasTheShapeOfTheRealOne(t *testing.T) {
	s := load(t, "school-day", scenario.Options{}).Scheduled()
	begun := time.Now()
	r, err := Run(t.Context(), s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a day in %v; %+v", time.Since(begun).Round(time.Millisecond), r.Counts)
	check(t, r)
	shape(t, s, r)
	if n := len(r.Hours); n != 24 {
		t.Errorf("%d hours were closed", n)
	}
	if c := r.Counts; c.PodsMost < 800 || c.PodsMost > 1500 || c.PodsCreated > 4000 || c.PendingLeft != 0 {
		t.Errorf("the live cluster could not play %+v", c)
	}
	for _, want := range []string{"resize", "deploy", "price", "buy", "scale"} {
		if !slices.ContainsFunc(r.Decisions, func(d bill.Decision) bool { return d.Action == want }) {
			t.Errorf("no decision to %s is in the ledger", want)
		}
	}
}

// shape is what the reference system's day looks like: about 60 modules of four
// kinds on three pools, a peak of four hours at about 60 % of what is bought, a
// trough of about 10 %, peaks of 10 to 100 times the trough.
func shape(t *testing.T, s *scenario.Scenario, r *Result) {
	t.Helper()
	if n := len(s.Modules); n < 55 || n > 65 {
		t.Errorf("there are %d modules", n)
	}
	kinds, pools := map[string]int{}, map[scenario.PoolKind]bool{}
	for _, m := range r.Modules {
		kinds[m.Kind]++
	}
	for _, p := range s.Pools {
		pools[p.Kind] = true
	}
	if len(kinds) != 4 || len(pools) != 3 {
		t.Errorf("the kinds are %v on pools %v", kinds, pools)
	}
	var evening, trough float64
	trough = 1
	for _, h := range r.Hours {
		if hour := h.From.Hour(); hour >= 18 && hour < 22 {
			evening += h.Total.Utilisation / 4
			if h.Total.Utilisation < 0.45 {
				t.Errorf("at %d o'clock only %.1f %% is used", hour, 100*h.Total.Utilisation)
			}
		}
		trough = min(trough, h.Total.Utilisation)
	}
	t.Logf("evening %.1f %%, trough %.1f %%, bill %s %s", 100*evening, 100*trough, r.Bill.BillNano, r.Bill.Currency)
	if evening < 0.54 || evening > 0.66 {
		t.Errorf("%.1f %% is used in the evening, want about 60", 100*evening)
	}
	if trough < 0.07 || trough > 0.13 {
		t.Errorf("%.1f %% is used in the trough, want about 10", 100*trough)
	}
	steep := 0
	for _, m := range r.Modules {
		if m.LowLoad > 0 && m.PeakLoad/m.LowLoad >= 10 {
			steep++
		}
		if m.Requests > 0 && float64(m.Failed) > 0.01*float64(m.Requests) {
			t.Errorf("%s fails %d of %d requests", m.Module, m.Failed, m.Requests)
		}
	}
	if steep < 40 {
		t.Errorf("only %d modules have a peak of ten times their trough", steep)
	}
}

// check holds what must hold of every bill.
func check(t *testing.T, r *Result) {
	t.Helper()
	sum := r.Bill.AllocatedNano
	for _, v := range r.Bill.IdleNano {
		sum += v
	}
	if sum != r.Bill.BillNano || r.Bill.UnexplainedNano != 0 {
		t.Errorf("allocated + idle = %s, the bill is %s, unexplained %s", sum, r.Bill.BillNano, r.Bill.UnexplainedNano)
	}
	hours := int64(0)
	for _, h := range r.Hours {
		hours += h.BillNano
	}
	if hours != int64(r.Bill.BillNano) {
		t.Errorf("the hours add up to %d, the bill is %d", hours, r.Bill.BillNano)
	}
}

func TestTheSameSeedTwiceGivesTheSameBytes(t *testing.T) {
	s := load(t, "small", scenario.Options{})
	text := func() string {
		r, err := Run(t.Context(), s, Options{Until: 6 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		check(t, r)
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		f, err := json.Marshal(r.Facts)
		if err != nil {
			t.Fatal(err)
		}
		return string(b) + string(f)
	}
	if first, second := text(), text(); first != second {
		t.Error("two runs differ")
	}
}

func TestASchoolDayOfRecordedLoad(t *testing.T) {
	dir := filepath.Join(shareddata.Dir(t), "load")
	s := load(t, "school-day", scenario.Options{SeriesDir: dir})
	if !s.RealSeries {
		t.Fatal("the scenario does not say that its load is recorded")
	}
	s = s.Scheduled()
	r, err := Run(t.Context(), s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, r)
	shape(t, s, r)
	if r.Counts.GapMinutes > 0 {
		t.Errorf("the recorded day has gaps of %d module-minutes", r.Counts.GapMinutes)
	}
}

func TestAGapInARecordingIsSaidAndNotCountedAsNoLoad(t *testing.T) {
	dir := t.TempDir()
	text := "ts,value\n"
	for m := range 180 {
		if m < 60 || m >= 90 { // half an hour is missing
			text += fmt.Sprintf("%d,%d\n", m*60, 10+m%7)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "day.csv"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := scenario.Parse([]byte(`
name: gap
start: 2026-03-02
length: 3h
pools: [{name: all, kind: Machines, machineType: m5.2xlarge, count: 1}]
series: [{name: day, file: day.csv}]
modules: [{name: api, namespace: shop, kind: online, replicas: 2, requests: {cpu: 1, memory: 1Gi}, cpuPerRequest: 5ms, load: {series: day, peak: 100, trough: 10}, targets: {success: 99%}}]
`), "gap.yaml", scenario.Options{SeriesDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Run(t.Context(), s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, r)
	if n := r.Counts.GapMinutes; n < 28 || n > 31 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "gaps") {
		t.Errorf("%d minutes are said to be missing; notes %q", n, r.Notes)
	}
	if r.Facts[1].Loads[0].Known || !r.Facts[2].Loads[0].Known {
		t.Errorf("the loads of the hours are %+v and %+v", r.Facts[1].Loads[0], r.Facts[2].Loads[0])
	}
}

func TestAStoppedReplaySaysSo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Run(ctx, load(t, "small", scenario.Options{}), Options{Progress: func(time.Time) { cancel() }})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "stopped at 2026-09-16T") {
		t.Errorf("got %v", err)
	}
}

// A sink that fails is a full disk: the replay stops with its error.
type fullDisk struct{ hours int }

func (d *fullDisk) WriteHour(context.Context, bill.Facts) error {
	if d.hours++; d.hours > 2 {
		return errors.New("no space left")
	}
	return nil
}

func TestAFullDiskStopsTheReplay(t *testing.T) {
	d := &fullDisk{}
	_, err := Run(t.Context(), load(t, "small", scenario.Options{}), Options{Sink: d})
	if err == nil || !strings.Contains(err.Error(), "replay small: no space left") {
		t.Errorf("got %v", err)
	}
	if d.hours != 3 {
		t.Errorf("%d hours were written after the disk was full", d.hours-3)
	}
}

func TestTheBillOfADayIsThatOfItsParts(t *testing.T) {
	s := load(t, "small", scenario.Options{})
	whole, err := Run(t.Context(), s, Options{Until: 5 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	part, err := Run(t.Context(), s, Options{Until: 2*time.Hour + 30*time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if len(part.Hours) != 3 || part.Hours[0].BillNano != whole.Hours[0].BillNano || part.Hours[1].BillNano != whole.Hours[1].BillNano {
		t.Errorf("the hours of a part are %v, of the whole %v", part.Hours, whole.Hours[:3])
	}
	if p, w := part.Hours[2].BillNano, whole.Hours[2].BillNano; p <= 0 || p >= w {
		t.Errorf("half an hour costs %d, the whole one %d", p, w)
	}
}

func BenchmarkSchoolDay(b *testing.B) {
	s := load(b, "school-day", scenario.Options{})
	for b.Loop() {
		if _, err := Run(b.Context(), s, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
