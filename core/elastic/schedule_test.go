package elastic

import (
	"testing"
	"time"
	_ "time/tzdata"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func at(t testing.TB, s string) time.Time {
	t.Helper()
	m, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// named is a Calendar of dates.
type named map[Date]DayType

func (n named) DayType(t time.Time) DayType {
	if kind, ok := n[DateOf(t)]; ok {
		return kind
	}
	return dayType(t, nil)
}

// every is a Recurrence: every so often since a first time.
type every struct {
	first time.Time
	step  time.Duration
}

func (e every) Starts(from, to time.Time) (out []time.Time) {
	for t := e.first; t.Before(to); t = t.Add(e.step) {
		if !t.Before(from) {
			out = append(out, t)
		}
	}
	return out
}

func TestScheduleHoldsFromItsStartToItsEnd(t *testing.T) {
	shanghai, newYork := zone(t, "Asia/Shanghai"), zone(t, "America/New_York")
	calendar := named{
		{2026, 10, 1}:  Holiday, // a Thursday
		{2026, 10, 10}: MakeUp,  // a Saturday
	}
	window := func(start, duration time.Duration) Schedule {
		return Schedule{Name: "w", Zone: shanghai, Start: start, Duration: duration, Floor: 10, Cap: None}
	}
	evening := window(18*time.Hour+30*time.Minute, 4*time.Hour)
	night := window(22*time.Hour, 8*time.Hour)
	night.Weekdays = []time.Weekday{time.Friday}
	workdays := evening
	workdays.Days = []DayType{Workday}
	ramp := evening
	ramp.Ramp = time.Hour
	gap := Schedule{Name: "w", Zone: newYork, Start: 2*time.Hour + 30*time.Minute, Duration: time.Hour, Floor: 10, Cap: None}
	twice := gap
	twice.Start = time.Hour + 30*time.Minute
	whole := gap
	whole.Start, whole.Duration = 0, 24*time.Hour
	except := evening
	except.Except = []Date{{2026, 11, 23}}
	rule := evening
	rule.Start, rule.Rule = 0, every{at(t, "2026-11-20T18:30:00+08:00"), 48 * time.Hour}

	cases := map[string]struct {
		schedule  Schedule
		now       string
		wantOK    bool
		wantFloor int
		wantUntil string
	}{
		"before the start": {schedule: evening, now: "2026-11-23T18:29:59+08:00"},
		"at the start":     {evening, "2026-11-23T18:30:00+08:00", true, 10, "2026-11-23T22:30:00+08:00"},
		"up to the end":    {evening, "2026-11-23T22:29:59+08:00", true, 10, "2026-11-23T22:30:00+08:00"},
		"at the end":       {schedule: evening, now: "2026-11-23T22:30:00+08:00"},
		"a window over midnight belongs to its start":  {night, "2026-11-21T05:59:00+08:00", true, 10, "2026-11-21T06:00:00+08:00"},
		"and not to the next night":                    {schedule: night, now: "2026-11-21T23:00:00+08:00"},
		"a holiday is no workday":                      {schedule: workdays, now: "2026-10-01T20:00:00+08:00"},
		"a make-up Saturday is a workday":              {workdays, "2026-10-10T20:00:00+08:00", true, 10, "2026-10-10T22:30:00+08:00"},
		"another Saturday is none":                     {schedule: workdays, now: "2026-10-17T20:00:00+08:00"},
		"half-way up the ramp":                         {ramp, "2026-11-23T19:00:00+08:00", true, 5, "2026-11-23T22:30:00+08:00"},
		"half-way down the ramp":                       {ramp, "2026-11-23T22:00:00+08:00", true, 5, "2026-11-23T22:30:00+08:00"},
		"the height of the ramp":                       {ramp, "2026-11-23T20:00:00+08:00", true, 10, "2026-11-23T22:30:00+08:00"},
		"an hour left out counts by the clock before":  {gap, "2026-03-08T03:30:00-04:00", true, 10, "2026-03-08T04:30:00-04:00"},
		"and not before the hour after it":             {schedule: gap, now: "2026-03-08T03:29:00-04:00"},
		"an hour that comes twice is the first":        {twice, "2026-11-01T01:30:00-04:00", true, 10, "2026-11-01T01:30:00-05:00"},
		"and is over when it comes again":              {schedule: twice, now: "2026-11-01T01:30:00-05:00"},
		"a whole day is a day of 25 hours":             {whole, "2026-11-01T23:59:00-05:00", true, 10, "2026-11-02T00:00:00-05:00"},
		"a whole day is a day of 23 hours":             {whole, "2026-03-08T23:59:00-04:00", true, 10, "2026-03-09T00:00:00-04:00"},
		"a date that is left out":                      {schedule: except, now: "2026-11-23T20:00:00+08:00"},
		"the day after it":                             {except, "2026-11-24T20:00:00+08:00", true, 10, "2026-11-24T22:30:00+08:00"},
		"a rule's day":                                 {rule, "2026-11-24T20:00:00+08:00", true, 10, "2026-11-24T22:30:00+08:00"},
		"not a rule's day":                             {schedule: rule, now: "2026-11-23T20:00:00+08:00"},
		"a zone that skips a whole day has it no more": {Schedule{Zone: zone(t, "Pacific/Apia"), Start: 8 * time.Hour, Duration: time.Hour, Floor: 1, Cap: None}, "2011-12-31T08:30:00+14:00", true, 1, "2011-12-31T09:00:00+14:00"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c, ok := tc.schedule.At(at(t, tc.now), calendar)
			if ok != tc.wantOK {
				t.Fatalf("holds: got %v, want %v", ok, tc.wantOK)
			}
			if !ok {
				return
			}
			if c.Floor != tc.wantFloor || !c.Until.Equal(at(t, tc.wantUntil)) {
				t.Errorf("got a floor of %d until %v, want %d until %s", c.Floor, c.Until, tc.wantFloor, tc.wantUntil)
			}
		})
	}
}

// KEDA's cron with a start on Monday to Friday and a daily end is on all weekend;
// CronHPA's excluded dates leave out other days. Ours must not.
func TestScheduleHasNotThePeersFaults(t *testing.T) {
	s := Schedule{
		Name: "school", Zone: time.UTC, Start: 6*time.Hour + 30*time.Minute, Duration: 15*time.Hour + 40*time.Minute, Floor: 5, Cap: None,
		Weekdays: []time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday},
		Except:   []Date{{2026, 11, 16}},
	}
	for now, want := range map[string]bool{
		"2026-11-20T23:00:00Z": false, "2026-11-21T12:00:00Z": false, "2026-11-22T12:00:00Z": false, // Fri night, Sat, Sun
		"2026-11-20T12:00:00Z": true,
		"2026-11-16T07:00:00Z": false, "2026-11-17T07:00:00Z": true, "2026-11-10T07:10:00Z": true,
	} {
		if _, ok := s.At(at(t, now), nil); ok != want {
			t.Errorf("at %s: holds %v, want %v", now, ok, want)
		}
	}
}

func TestScheduleNext(t *testing.T) {
	s := Schedule{Name: "w", Start: 18 * time.Hour, Duration: time.Hour, Floor: 1, Cap: None, Weekdays: []time.Weekday{time.Monday}}
	now := at(t, "2026-11-23T18:00:00Z") // a Monday
	if got, ok := s.Next(now, now.AddDate(0, 0, 8), nil); !ok || !got.Equal(at(t, "2026-11-30T18:00:00Z")) {
		t.Errorf("the next after the start is a week later: got %v, %v", got, ok)
	}
	if got, ok := s.Next(now, now.AddDate(0, 0, 7), nil); ok {
		t.Errorf("the limit is not within: got %v", got)
	}
}

func TestScheduleValidate(t *testing.T) {
	ok := Schedule{Name: "w", Start: time.Hour, Duration: time.Hour, Floor: 1, Cap: None}
	for name, change := range map[string]func(*Schedule){
		"no duration":       func(s *Schedule) { s.Duration = 0 },
		"more than a week":  func(s *Schedule) { s.Duration = 8 * day },
		"after midnight":    func(s *Schedule) { s.Start = day },
		"both floor, cap":   func(s *Schedule) { s.Cap = 3 },
		"neither":           func(s *Schedule) { s.Floor = None },
		"ramp over the top": func(s *Schedule) { s.Ramp = 31 * time.Minute },
		"a day of no kind":  func(s *Schedule) { s.Days = []DayType{"someday"} },
		"days and a rule":   func(s *Schedule) { s.Rule, s.Days = every{}, []DayType{Workday} },
	} {
		s := ok
		change(&s)
		if s.Validate() == nil {
			t.Errorf("%s: not refused", name)
		}
	}
	if err := ok.Validate(); err != nil {
		t.Error(err)
	}
}

// Whatever the schedule, the zone and the moment, At does what the list of starts
// says, whole windows apart from each other.
func FuzzSchedule(f *testing.F) {
	zones := []*time.Location{time.UTC, zone(f, "America/New_York"), zone(f, "Asia/Shanghai"), zone(f, "Australia/Lord_Howe"), zone(f, "Pacific/Apia"), zone(f, "Africa/Casablanca")}
	f.Add(int64(1762000000), uint32(3600*2), uint32(3600), uint8(0x7f), uint8(1), uint16(0))
	f.Add(int64(1772953200), uint32(9000), uint32(604800), uint8(1), uint8(3), uint16(600))
	f.Fuzz(func(t *testing.T, unix int64, start, duration uint32, days, place uint8, ramp uint16) {
		now := time.Unix(unix%(1<<33), 0)
		s := Schedule{
			Zone: zones[int(place)%len(zones)], Start: time.Duration(start%86400) * time.Second,
			Duration: time.Duration(duration%604800+1) * time.Second, Floor: 7, Cap: None, Ramp: time.Duration(ramp) * time.Second,
		}
		for d := range 7 {
			if days&(1<<d) != 0 {
				s.Weekdays = append(s.Weekdays, time.Weekday(d))
			}
		}
		c, ok := s.At(now, nil)
		if ok && (!c.Until.After(now) || c.Floor < 0 || c.Floor > 7) {
			t.Fatalf("%+v at %v: a floor of %d until %v", s, now, c.Floor, c.Until)
		}
		next, found := s.Next(now, now.Add(15*day), nil)
		if !found {
			t.Fatalf("%+v at %v: no window within two weeks", s, now)
		}
		if !next.After(now) {
			t.Fatalf("%+v: the next window after %v begins at %v", s, now, next)
		}
		if _, on := s.At(next, nil); !on {
			t.Fatalf("%+v: does not hold at its own start %v", s, next)
		}
		if ok && s.Duration < day {
			return
		}
		if !ok {
			if _, on := s.At(next.Add(-time.Second), nil); on && next.Add(-time.Second).After(now) {
				t.Fatalf("%+v: holds before its start %v", s, next)
			}
		}
	})
}

func FuzzParseClock(f *testing.F) {
	for _, s := range []string{"18:30", "00:00", "23:59", "24:00", "7:5", "", "18:30 ", "aa:bb", "-1:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseClock(s)
		if err != nil {
			return
		}
		if back := (time.Time{}).Add(d).Format("15:04"); back != s {
			t.Errorf("%q is read as %v, which is %s", s, d, back)
		}
	})
}

func FuzzParseDate(f *testing.F) {
	for _, s := range []string{"2026-10-01", "2026-02-29", "0000-01-01", "2026-1-1", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDate(s)
		if err != nil {
			return
		}
		if back := time.Date(d.Year, d.Month, d.Day, 0, 0, 0, 0, time.UTC).Format(time.DateOnly); back != s {
			t.Errorf("%q is read as %v", s, back)
		}
	})
}
