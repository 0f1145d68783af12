package replay

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/money"
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

func TestASchoolDay(t *testing.T) {
	s := load(t, "school-day", scenario.Options{})
	start := time.Now()
	r, err := Run(t.Context(), s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v for a day; %+v", time.Since(start), r.Counts)
	check(t, r)
	for _, h := range r.Hours {
		t.Logf("%s %5.1f%% used %7d requested %7d bought %7d  %s", h.From.Format("15:04"), 100*h.Total.Utilisation, h.Total.UsedMilli, h.Total.RequestedMilli, h.Total.BoughtMilli, money.Amount(h.BillNano))
		for _, p := range h.Pools {
			t.Logf("      %-8s %5.1f%% %7d %7d %7d gpu %d/%d", p.Name, 100*p.Utilisation, p.UsedMilli, p.RequestedMilli, p.BoughtMilli, p.GPUUsedMilli, p.GPUBoughtMilli)
		}
	}
	for _, m := range r.Modules {
		t.Logf("%-40s %-9s req %11d fail %8d p99 %7.1f ms peak %8.1f low %7.2f met %d broken %d pods %d", m.Module, m.Kind, m.Requests, m.Failed, m.P99MS, m.PeakLoad, m.LowLoad, m.HoursMet, m.HoursBad, m.PodsMost)
	}
	t.Log(r.Notes, r.Bill.Notes)
	t.Log(r.Bill.BillNano, r.Bill.AllocatedNano, r.Bill.IdleNano, r.Bill.UnexplainedNano)
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
	if text() != text() {
		t.Error("two runs differ")
	}
}

func TestASchoolDayOfRecordedLoad(t *testing.T) {
	dir := filepath.Join(shareddata.Dir(t), "load")
	s := load(t, "school-day", scenario.Options{SeriesDir: dir})
	if !s.RealSeries {
		t.Fatal("the scenario does not say that its load is recorded")
	}
	r, err := Run(t.Context(), s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, r)
	for _, h := range r.Hours {
		t.Logf("%s %5.1f%% used %7d requested %7d bought %7d  %s", h.From.Format("15:04"), 100*h.Total.Utilisation, h.Total.UsedMilli, h.Total.RequestedMilli, h.Total.BoughtMilli, money.Amount(h.BillNano))
	}
	for _, m := range r.Modules {
		t.Logf("%-40s %-9s req %11d fail %8d p99 %7.1f ms peak %8.1f low %7.2f met %d broken %d pods %d", m.Module, m.Kind, m.Requests, m.Failed, m.P99MS, m.PeakLoad, m.LowLoad, m.HoursMet, m.HoursBad, m.PodsMost)
	}
	t.Log(r.Counts, r.Notes, r.Bill.BillNano)
}
