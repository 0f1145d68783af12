package colocate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/elastic"
)

var machine = Room{CPUMilli: 32000, MemoryMiB: 65536}

// usual is a machine's use by the minute: 4 cores, and 20 from seven to nine in the
// evening.
func usual(t time.Time) float64 {
	if h := t.Hour(); h >= 19 && h < 21 {
		return 20000
	}
	return 4000
}

// known is a Past of so many days that end at now.
func known(now time.Time, days int, use func(time.Time) float64) *Past {
	h := History{Start: now.Add(-time.Duration(days) * 24 * time.Hour), Step: 5 * time.Minute}
	for t := h.Start; !t.After(now); t = t.Add(h.Step) {
		h.CPUMilli, h.MemoryMiB = append(h.CPUMilli, use(t)), append(h.MemoryMiB, 10000)
	}
	return Learn(h)
}

var allow = Policy{CPUPercent: 80, MemoryPercent: 80}

func TestCapacityFallsBeforeThePeak(t *testing.T) {
	for _, tc := range []struct {
		clock     string
		now, soon int64 // lent for a moment, and for an hour
	}{
		{"12:00", 21600, 21600},
		{"18:10", 21600, 5600}, // the peak begins within the hour
		{"20:00", 5600, 5600},
		{"22:00", 21600, 21600},
	} {
		t.Run(tc.clock, func(t *testing.T) {
			clock, _ := time.Parse("15:04", tc.clock)
			now := time.Date(2026, 3, 11, clock.Hour(), clock.Minute(), 0, 0, time.UTC)
			o := Capacity(Observation{Now: now, Machine: machine, Past: known(now, 9, usual)}, allow)
			if got := o.Curve.At(now).CPUMilli; got != tc.now {
				t.Errorf("%d are lent now, want %d: %s", got, tc.now, o.Why)
			}
			if o.Now.CPUMilli != tc.soon {
				t.Errorf("%d are lent for an hour, want %d: %s", o.Now.CPUMilli, tc.soon, o.Why)
			}
			if want := int64(65536*80/100 - 11000); o.Now.MemoryMiB != want {
				t.Errorf("%d MiB are lent, want %d", o.Now.MemoryMiB, want)
			}
			if o.Binds != BoundOnline || !strings.Contains(o.Why, "online pods") {
				t.Errorf("it binds %q: %s", o.Binds, o.Why)
			}
		})
	}
}

func TestCapacityExplainsWhatBinds(t *testing.T) {
	now := time.Date(2026, 3, 11, 16, 30, 0, 0, time.UTC)
	evening := Window{Name: "evening", From: now.Add(30 * time.Minute), To: now.Add(5 * time.Hour)}
	offer := Capacity(Observation{Now: now, Machine: machine, Past: known(now, 9, usual)}, allow)
	for name, tc := range map[string]struct {
		seen  func(*Observation)
		rule  func(*Policy)
		want  Bound
		milli int64
		why   string
	}{
		"a window that opens before a run is over": {nil, func(p *Policy) { p.Windows = []Window{evening} }, BoundWindow, 0, "in the window evening"},
		"a window that leaves a little":            {nil, func(p *Policy) { w := evening; w.CPUPercent, w.MemoryPercent = 25, 80; p.Windows = []Window{w} }, BoundWindow, 4000, "at 17:00"},
		"a day that has just begun":                {func(o *Observation) { o.Past = known(now, 0, usual); o.Requests = Room{CPUMilli: 20000} }, nil, BoundUnknown, 5600, "less than a day is known"},
		"nothing is known":                         {func(o *Observation) { o.Past = nil }, nil, BoundUnknown, 0, "not measured"},
		"metrics are lost":                         {func(o *Observation) { o.Now = now.Add(11 * time.Minute) }, nil, BoundUnknown, 0, "not measured"},
		"metrics are late":                         {func(o *Observation) { o.Now = now.Add(6*time.Minute + 30*time.Second) }, nil, BoundUnknown, 10800, "last measured 6m30s ago"},
		"a pod without metrics":                    {func(o *Observation) { o.Unmeasured = Room{CPUMilli: 3000} }, nil, BoundOnline, 18600, "3 cores for pods that are not measured"},
		"it lent little a minute ago": {func(o *Observation) {
			o.Last = offer
			o.Last.At = now.Add(-time.Minute)
			o.Last.Curve = Curve{Start: now.Add(-time.Hour), Step: time.Hour, CPUMilli: []int64{1000, 1000}, MemoryMiB: []int64{1 << 20, 1 << 20}}
		}, nil, BoundRise, 1640, "rises by at most 10 %"},
		"too little to lend": {nil, func(p *Policy) { p.MinimumMilli = 30000 }, BoundMinimum, 0, "worth lending"},
		"the zero policy":    {nil, func(p *Policy) { *p = Policy{} }, BoundOnline, 0, "0 % of 32 cores"},
	} {
		t.Run(name, func(t *testing.T) {
			seen := Observation{Now: now, Machine: machine, Past: known(now, 9, usual)}
			rule := allow
			if tc.seen != nil {
				tc.seen(&seen)
			}
			if tc.rule != nil {
				tc.rule(&rule)
			}
			o := Capacity(seen, rule)
			if o.Binds != tc.want || o.Now.CPUMilli != tc.milli || !strings.Contains(o.Why, tc.why) {
				t.Errorf("%d are lent, %q binds: %s; want %d, %q and %q", o.Now.CPUMilli, o.Binds, o.Why, tc.milli, tc.want, tc.why)
			}
		})
	}
}

func TestTheHighestQuantileIsTheMostCareful(t *testing.T) {
	now := time.Date(2026, 3, 11, 10, 0, 0, 0, time.UTC)
	use := func(at time.Time) float64 { return 4000 + 1000*float64(at.YearDay()%5) + 100*float64(at.Hour()) }
	var lent []int64
	for _, quantile := range []float64{0, 0.95, 1} {
		rule := allow
		rule.Quantile = quantile
		lent = append(lent, Capacity(Observation{Now: now, Machine: machine, Past: known(now, 9, use)}, rule).Curve.CPUMilli[20])
	}
	if lent[1] >= lent[0] || lent[2] > lent[1] {
		t.Errorf("at the default quantile, 0.95 and 1 %v are lent", lent)
	}
}

// A controller may stand still while the clock goes on.
func TestCapacityOfWhatWasSeenLongAgo(t *testing.T) {
	now := time.Date(2026, 3, 11, 10, 0, 0, 0, time.UTC)
	for _, silent := range []time.Duration{0, 15 * time.Minute, 31 * time.Minute, 7 * time.Hour, 20 * 24 * time.Hour} {
		past := known(now, 3, func(time.Time) float64 { return 4000 })
		o := Capacity(Observation{Now: now.Add(silent), Machine: machine, Past: past}, allow)
		if lends := o.Now.CPUMilli > 0; lends != (silent == 0) || o.Online.CPUMilli[1] != 4000 {
			t.Errorf("%v later %v: %s", silent, o.Online.CPUMilli[:2], o.Why)
		}
	}
}

func TestCapacityRisesSlowlyAndFallsAtOnce(t *testing.T) {
	now := time.Date(2026, 3, 11, 10, 0, 0, 0, time.UTC)
	past := known(now, 9, func(time.Time) float64 { return 4000 })
	last := Offer{}
	lent := []int64{}
	for minute := range 120 {
		now = now.Add(time.Minute)
		use := 4000.0
		if minute >= 20 && minute < 30 {
			use = 24000
		}
		past.Observe(now, use, 10000)
		last = Capacity(Observation{Now: now, Machine: machine, Past: past, Last: last}, allow)
		lent = append(lent, last.Curve.At(now).CPUMilli)
	}
	if lent[19] != 21600 || lent[20] > 1600 {
		t.Errorf("a burst takes %d to %d", lent[19], lent[20])
	}
	for i := 1; i < len(lent); i++ {
		if rise := lent[i] - lent[i-1]; rise > 640 {
			t.Errorf("in minute %d it rises by %d of 32000, more than a tenth in five minutes", i, rise)
		}
	}
	if lent[119] != 21600 {
		t.Errorf("an hour and a half after a burst %d are lent", lent[119])
	}
}

// FuzzCapacity holds what is true of every offer, whatever is observed.
func FuzzCapacity(f *testing.F) {
	f.Add(uint64(1), 9.0, 0.95, int64(80), int64(32000), 20.0)
	f.Add(uint64(2), 0.5, 0.0, int64(200), int64(-5), math.Inf(1))
	f.Add(uint64(3), 30.0, 2.0, int64(-3), int64(1), math.NaN())
	f.Add(uint64(3), 0.0, 2.0, int64(-73), int64(83), math.NaN())
	f.Fuzz(func(t *testing.T, seed uint64, days, quantile float64, percent, milli int64, scale float64) {
		dice := rand.New(rand.NewPCG(seed, 1))
		now := time.Date(2026, 3, 11, 10, 7, 0, 0, time.UTC)
		if !(days >= 0 && days < 20) {
			days = 3
		}
		milli = min(milli, 1<<30)
		h := History{Start: now.Add(-time.Duration(days * 24 * float64(time.Hour))), Step: 10 * time.Minute}
		for range int(days * 144) {
			v := scale * 1000 * dice.Float64()
			if dice.IntN(9) == 0 {
				v = math.NaN()
			}
			h.CPUMilli, h.MemoryMiB = append(h.CPUMilli, v), append(h.MemoryMiB, v)
		}
		seen := Observation{Now: now, Machine: Room{milli, milli}, Past: Learn(h), Unmeasured: Room{dice.Int64N(3000) - 1000, 0}}
		rule := Policy{CPUPercent: percent, MemoryPercent: percent, Quantile: quantile, RisePercent: dice.Int64N(40)}
		o := Capacity(seen, rule)
		if o.Curve.Steps() != Steps || o.Why == "" || o.Binds == "" {
			t.Fatalf("an offer without a curve or a reason: %+v", o)
		}
		most := max(milli, 0)
		for k := range Steps {
			lent, online := o.Curve.CPUMilli[k], o.Online.CPUMilli[k]
			if lent < 0 || lent > most || lent > 0 && lent+online > most*min(max(percent, 0), 100)/100 {
				t.Fatalf("step %d lends %d beside %d of %d", k, lent, online, milli)
			}
		}
		if o.Now.CPUMilli > o.Curve.At(now).CPUMilli {
			t.Fatalf("more is lent for an hour than now")
		}
		// Equal arguments give equal offers, also from one Past.
		if again := Capacity(seen, rule); fmt.Sprint(again) != fmt.Sprint(o) {
			t.Fatal("the same question has two answers")
		}
		// What is not measured only lowers it.
		seen.Unmeasured = seen.Unmeasured.Max(Room{}).Add(Room{CPUMilli: 500})
		for k, lent := range Capacity(seen, rule).Curve.CPUMilli {
			if lent > o.Curve.CPUMilli[k] {
				t.Fatal("a pod without metrics raised the capacity")
			}
		}
	})
}

func TestWindows(t *testing.T) {
	shanghai := time.FixedZone("CST", 8*3600)
	monday := time.Date(2026, 3, 2, 0, 0, 0, 0, shanghai)
	for name, tc := range map[string]struct {
		hours Hours
		want  []string
	}{
		"every day":                           {Hours{From: 18 * time.Hour, To: 22 * time.Hour}, []string{"Mon 18:00", "Tue 18:00", "Wed 18:00", "Thu 18:00", "Fri 18:00", "Sat 18:00", "Sun 18:00"}},
		"some days":                           {Hours{From: 18 * time.Hour, To: 22 * time.Hour, Days: []time.Weekday{time.Tuesday}}, []string{"Tue 18:00"}},
		"over midnight, begun the day before": {Hours{From: 22 * time.Hour, To: 2 * time.Hour, Days: []time.Weekday{time.Sunday}}, []string{"Sun 22:00", "Sun 22:00"}},
		"working days of a calendar":          {Hours{From: 8 * time.Hour, To: 9 * time.Hour, WorkingDays: true, Calendar: odd{}}, []string{"Wed 08:00", "Sat 08:00"}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.hours.Location = shanghai
			var got []string
			for _, w := range Windows([]Hours{tc.hours}, monday, monday.AddDate(0, 0, 7)) {
				got = append(got, w.From.In(shanghai).Format("Mon 15:04"))
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("windows begin %v, want %v", got, tc.want)
			}
		})
	}
}

func TestWindowsKeepToTheClocksOnTheWall(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	const march, october = "2026-03-29", "2026-10-25" // at 02:00 and at 03:00 clocks change by an hour
	for name, tc := range map[string]struct {
		day      string
		from, to string
		days     []time.Weekday
		want     []string // of that day and the one after, by the wall
	}{
		"an evening after clocks were set forward":          {march, "18:00", "22:30", nil, []string{"29 18:00 CEST - 29 22:30 CEST", "30 18:00 CEST - 30 22:30 CEST"}},
		"an evening after clocks were set back":             {october, "18:00", "22:30", nil, []string{"25 18:00 CET - 25 22:30 CET", "26 18:00 CET - 26 22:30 CET"}},
		"a night of 23 hours' day is an hour shorter":       {march, "00:30", "06:00", nil, []string{"29 00:30 CET - 29 06:00 CEST", "30 00:30 CEST - 30 06:00 CEST"}},
		"a night of 25 hours' day is an hour longer":        {october, "00:30", "06:00", nil, []string{"25 00:30 CEST - 25 06:00 CET", "26 00:30 CET - 26 06:00 CET"}},
		"over midnight into the change":                     {march, "22:00", "04:00", nil, []string{"28 22:00 CET - 29 04:00 CEST", "29 22:00 CEST - 30 04:00 CEST", "30 22:00 CEST - 31 04:00 CEST"}},
		"a whole day has 23 hours":                          {march, "00:00", "24:00", []time.Weekday{time.Sunday}, []string{"29 00:00 CET - 30 00:00 CEST"}},
		"a whole day has 25 hours":                          {october, "00:00", "24:00", []time.Weekday{time.Sunday}, []string{"25 00:00 CEST - 26 00:00 CET"}},
		"it begins in the hour that is left out":            {march, "02:30", "04:00", nil, []string{"29 03:00 CEST - 29 04:00 CEST", "30 02:30 CEST - 30 04:00 CEST"}},
		"it ends in the hour that is left out":              {march, "01:00", "02:30", nil, []string{"29 01:00 CET - 29 03:00 CEST", "30 01:00 CEST - 30 02:30 CEST"}},
		"all of it is left out":                             {march, "02:15", "02:45", nil, []string{"30 02:15 CEST - 30 02:45 CEST"}},
		"the hour that comes twice counts with all of both": {october, "02:15", "02:45", nil, []string{"25 02:15 CEST - 25 02:45 CET", "26 02:15 CET - 26 02:45 CET"}},
	} {
		t.Run(name, func(t *testing.T) {
			clock := func(s string) time.Duration {
				if s == "24:00" {
					return 24 * time.Hour
				}
				c, err := time.Parse("15:04", s)
				if err != nil {
					t.Fatal(err)
				}
				return time.Duration(c.Hour())*time.Hour + time.Duration(c.Minute())*time.Minute
			}
			day, err := time.ParseInLocation(time.DateOnly, tc.day, berlin)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range Windows([]Hours{{From: clock(tc.from), To: clock(tc.to), Days: tc.days, Location: berlin}}, day, day.AddDate(0, 0, 2)) {
				got = append(got, w.From.Format("02 15:04 MST")+" - "+w.To.Format("02 15:04 MST"))
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("windows are %q, want %q", got, tc.want)
			}
		})
	}
	// A day that has no midnight is a day, and not the one before.
	havana, err := time.LoadLocation("America/Havana")
	if err != nil {
		t.Fatal(err)
	}
	sunday := time.Date(2026, 3, 8, 12, 0, 0, 0, havana) // from 00:00 clocks show 01:00
	got := Windows([]Hours{{To: 24 * time.Hour, Days: []time.Weekday{time.Sunday}, Location: havana}}, sunday, sunday.Add(time.Hour))
	if len(got) != 1 || got[0].To.Sub(got[0].From) != 23*time.Hour || !got[0].From.Before(sunday) {
		t.Errorf("a Sunday without a midnight is %v, want 23 hours of it", got)
	}
}

func TestThePeakIsWhatWindowsLeave(t *testing.T) {
	now := time.Date(2026, 3, 11, 16, 30, 0, 0, time.UTC)
	window := Window{From: now.Add(30 * time.Minute), To: now.Add(90 * time.Minute), CPUPercent: 50, MemoryPercent: 50}
	shut := window
	shut.CPUPercent, shut.MemoryPercent = 0, 0
	for name, tc := range map[string]struct {
		past   *Past
		window Window
		want   int64 // in the window; the whole machine outside of it
	}{
		"beside online pods":                                {known(now, 9, usual), window, 12000},
		"a window that shuts batch out":                     {known(now, 9, usual), shut, 0},
		"nothing is known, which is no reason to lose work": {nil, window, 16000},
		"a day that has just begun":                         {known(now, 0, usual), window, 16000},
		"nothing is known and batch is shut out":            {nil, shut, 0},
	} {
		t.Run(name, func(t *testing.T) {
			rule := allow
			rule.Windows = []Window{tc.window}
			o := Capacity(Observation{Now: now, Machine: machine, Past: tc.past, Requests: machine, Unmeasured: Room{CPUMilli: 5000}}, rule)
			if in, out := o.Peak.At(now.Add(time.Hour)).CPUMilli, o.Peak.At(now).CPUMilli; in != tc.want || out != machine.CPUMilli {
				t.Errorf("the peak is %d in the window and %d outside of it, want %d and the machine", in, out, tc.want)
			}
		})
	}
}

// odd is a calendar on which only Wednesday and Saturday are worked.
type odd struct{}

func (odd) DayType(t time.Time) elastic.DayType {
	switch t.Weekday() {
	case time.Wednesday:
		return elastic.Workday
	case time.Saturday:
		return elastic.MakeUp
	}
	return elastic.Holiday
}

// BenchmarkCapacity is one machine's offer in a minute in which its level moved,
// so that nothing is remembered from the minute before.
func BenchmarkCapacity(b *testing.B) {
	now := time.Date(2026, 3, 11, 12, 0, 0, 0, time.UTC)
	past := known(now, 15, usual)
	for i := range b.N {
		past.Observe(now, 5000+float64(i)/1e3, 10000)
		Capacity(Observation{Now: now, Machine: machine, Past: past}, allow)
	}
}
