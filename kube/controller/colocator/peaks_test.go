package colocator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/metrics"
)

func TestThePeakOfOnlinePodsIsLearnt(t *testing.T) {
	daemon := onlinePod("log", "a", "1")
	daemon.OwnerReferences[0].Kind = "DaemonSet"
	y := newYard(t, valley, onlinePod("web-x", "a", "4"), onlinePod("web-y", "b", "4"), daemon)
	y.plant.past = aDay
	asked := time.Time{}
	evening := 3.0
	y.plant.pod = func(name string, at time.Time) float64 {
		asked = at
		switch {
		case name == "shop/web-y":
			return 0.25 // its mean with the other is no peak
		case at.Hour() == 20: // from 19:00
			return evening
		}
		return 0.5
	}
	for _, p := range []string{"web-x", "web-y", "log"} {
		y.use("shop/"+p, 1)
	}
	learnt := func() v1alpha1.LearntPeak {
		t.Helper()
		got := y.policy().Status.OnlinePeaks
		if len(got) != 1 || got[0].Owner != "shop/Deployment/web" || got[0].Pods != 2 || len(got[0].HourlyMilli) != 24 {
			t.Fatalf("learnt %+v, want what two pods of shop/Deployment/web use", got)
		}
		return got[0]
	}
	y.minute(40 * time.Minute)                    // the week before is read in parts
	y.co.policies["valley"].written = time.Time{} // the wall does not pass
	y.minute(time.Minute)
	first := learnt()
	if first.PeakMilli != 3000 || first.HourlyMilli[19] != 3000 || first.HourlyMilli[20] != 500 || slices.Min(first.HourlyMilli) != 500 {
		t.Errorf("learnt %+v, want 3000 at 19:00 and 500 else", first)
	}
	if !first.MeasuredAt.Equal(&metav1.Time{Time: monday}) || !asked.Equal(monday) {
		t.Errorf("measured until %v, asked until %v; want both at %v, the last whole hour", first.MeasuredAt, asked, monday)
	}

	// A new process knows it, and reads nothing twice.
	asked = time.Time{}
	y.restart()
	y.minute(time.Minute)
	if again := learnt(); fmt.Sprint(again) != fmt.Sprint(first) || !asked.IsZero() {
		t.Errorf("after a restart %+v, asked until %v; want %+v without asking", again, asked, first)
	}

	// A lower evening takes a fourth of the difference away; a higher one counts at once.
	// Metrics that are gone for a while are made up for.
	for _, c := range []struct {
		cores float64
		want  int64
	}{{1, 2500}, {5, 5000}} {
		evening = c.cores
		y.plant.err = errors.New("Prometheus rests")
		y.clock.Step(24 * time.Hour)
		y.restart()
		y.minute(time.Minute)
		learnt() // is kept
		y.plant.err = nil
		y.restart() // else the past is read again in half a minute, by the wall
		y.minute(10 * time.Minute)
		y.co.policies["valley"].written = time.Time{}
		y.minute(time.Minute)
		if got := learnt(); got.HourlyMilli[19] != c.want || got.PeakMilli != c.want {
			t.Errorf("after an evening of %v cores %d at 19:00, at most %d; want %d", c.cores, got.HourlyMilli[19], got.PeakMilli, c.want)
		}
	}
}

func TestPeaksAreBoundedAndForgotten(t *testing.T) {
	k := &peaks{}
	var kept []v1alpha1.LearntPeak
	for i := range mostOwners + 100 {
		kept = append(kept, v1alpha1.LearntPeak{Owner: fmt.Sprintf("shop/Deployment/%04d", i), PeakMilli: int64(i), HourlyMilli: make([]int64, 24), MeasuredAt: metav1.NewTime(monday)})
	}
	kept[700-100].MeasuredAt = metav1.NewTime(monday.Add(-9 * 24 * time.Hour))
	kept[601].MeasuredAt = metav1.NewTime(monday.Add(time.Hour)) // of a clock that was set back
	kept[602].HourlyMilli = nil
	k.restore(kept, monday)
	got := k.known(monday)
	if len(got) != mostOwners || len(k.by) != mostOwners || got[0].PeakMilli != 97 || got[mostOwners-1].PeakMilli != 611 {
		t.Errorf("of %d owners %d are known, from %+v", len(kept), len(got), got[0])
	}
	if from, to := k.due(monday.Add(3 * time.Minute)); from.Before(to) {
		t.Errorf("what was read until %v is read again until %v", from, to)
	}
	if from, to := k.due(monday.Add(30 * 24 * time.Hour)); to.Sub(from) != peakAtOnce {
		t.Errorf("after a month all of %v is read at once", to.Sub(from))
	}
}

// The query says of real counters what their pods used at a high quantile.
func TestWhatIsAskedOfThePeak(t *testing.T) {
	e, err := metrics.Open(t.TempDir(), metrics.EmbeddedOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	used := 0.0
	for m := range 121 {
		at := monday.Add(time.Duration(m) * time.Minute)
		text := fmt.Sprintf("%[1]s{namespace=\"shop\",pod=\"web\",container=\"a\"} %[2]g\n%[1]s{namespace=\"shop\",pod=\"web\",container=\"b\"} %[2]g\n", metrics.CPUSeconds, used)
		if err := e.AppendText(context.Background(), at, strings.NewReader(text), nil); err != nil {
			t.Fatal(err)
		}
		if used += 60 * 0.5; m >= 80 && m < 110 { // half an hour of the second hour
			used += 60
		}
	}
	found, err := e.Range(t.Context(), podPeak, monday.Add(time.Hour), monday.Add(2*time.Hour), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{1000, 3000} {
		end := monday.Add(time.Duration(i+1) * time.Hour)
		got := usedOf(found, end)
		if len(got) != 1 || got[0] < want-10 || got[0] > want+10 {
			t.Errorf("in the hour until %v: %v, want %d", end, got, want)
		}
	}
}

func usedOf(found []metrics.Series, end time.Time) []int64 {
	return used(found, end, map[string]string{"shop/web": "o"})["o"]
}
