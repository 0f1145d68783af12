package timetable

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/neap-dev/neap/core/elastic"
)

var monday = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// class is a session of an hour, so many hours after Monday nine o'clock.
func class(course string, hours float64, enrolled int) Session {
	start := monday.Add(time.Duration(hours * float64(time.Hour)))
	return Session{Course: course, Room: "A", Start: start, End: start.Add(time.Hour), Enrolled: enrolled}
}

func TestFloor(t *testing.T) {
	table := New([]Session{class("ALG", 0, 100)})
	cases := map[string]struct {
		table    Timetable
		from, to time.Duration // after Monday nine
		opts     Options
		want     float64
	}{
		"nothing is asked for an hour before":                {table, -time.Hour, -time.Hour, Options{}, 0},
		"half is asked for before the bell":                  {table, 0, 0, Options{Quantile: .5}, 40.5},
		"the floor follows the curve":                        {table, 5 * time.Minute, 5 * time.Minute, Options{Quantile: .5}, 54.75},
		"the quantile is the spread of the prior":            {table, 0, 0, Options{Quantile: .9}, 40.5 * PriorSpread},
		"who is feared may fill the replicas":                {table, 0, 0, Options{Quantile: .9, Fill: .9}, .9 * 40.5 * PriorSpread},
		"who is expected is served as planned":               {table, 0, 0, Options{Quantile: .9, Fill: .5}, 40.5 * math.Exp(priorVariance/2)},
		"the lead asks now for what is needed then":          {table, -10 * time.Minute, 0, Options{Quantile: .5}, 40.5},
		"the floor is gone a quarter after the start":        {table, 15 * time.Minute, 20 * time.Minute, Options{}, 0},
		"a release that is negative holds to the end":        {table, 59 * time.Minute, 65 * time.Minute, Options{Quantile: .5, Release: -1}, 75},
		"a class that does not use the module asks nothing":  {New([]Session{need(class("ALG", 0, 100), "chat", 2)}), 0, 0, Options{Module: "video"}, 0},
		"a factor is demand per person":                      {New([]Session{need(class("ALG", 0, 100), "chat", 2)}), 0, 0, Options{Module: "chat", Quantile: .5}, 81},
		"a class of nobody asks nothing":                     {New([]Session{class("ALG", 0, 0)}), 0, 0, Options{}, 0},
		"a factor that is not a number asks nothing":         {New([]Session{need(class("ALG", 0, 100), "chat", math.NaN())}), 0, 0, Options{Module: "chat"}, 0},
		"a class shorter than the release goes with its end": {New([]Session{{Course: "X", Start: monday, End: monday.Add(5 * time.Minute), Enrolled: 10}}), 5 * time.Minute, time.Hour, Options{}, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := Attendance{}.Floor(tc.table, monday.Add(tc.from), monday.Add(tc.to), tc.opts)
			if math.Abs(got.Demand-tc.want) > 1e-9 {
				t.Errorf("got %+v, want demand %v", got, tc.want)
			}
		})
	}
}

func need(s Session, module string, factor float64) Session {
	s.Modules = []Need{{module, factor}}
	return s
}

func TestOverlappingClassesAdd(t *testing.T) {
	one := Attendance{}.Floor(New([]Session{class("ALG", 0, 100)}), monday, monday, Options{})
	two := Attendance{}.Floor(New([]Session{class("ALG", 0, 100), class("BIO", 0, 100)}), monday, monday, Options{})
	if two.Demand <= 1.5*one.Demand || two.Demand >= 2*one.Demand {
		t.Errorf("two classes ask for %v, one for %v: the means add, the doubts less than add", two.Demand, one.Demand)
	}
	if two.Classes != 2 {
		t.Errorf("got %d classes, want 2", two.Classes)
	}
}

func TestClass(t *testing.T) {
	table := New([]Session{class("ALG", 0, 100), class("BIO", 4, 60), need(class("GEO", 2, 60), "video", 1)})
	cases := map[string]struct {
		at   time.Duration
		want elastic.Class
	}{
		"hours before, only the next is known":                {-3 * time.Hour, elastic.Class{Next: monday.Add(-45 * time.Minute), Needs: 109}},
		"the students come before the bell":                   {-20 * time.Minute, elastic.Class{Demand: 46, In: true, Next: monday.Add(195 * time.Minute), Needs: 66}},
		"in the class the floor is gone, but the class is on": {20 * time.Minute, elastic.Class{In: true, Next: monday.Add(195 * time.Minute), Needs: 66}},
		"after the class it is known to be over":              {70 * time.Minute, elastic.Class{Ended: monday.Add(time.Hour), Next: monday.Add(195 * time.Minute), Needs: 66}},
		"after the last there is none":                        {6 * time.Hour, elastic.Class{Ended: monday.Add(5 * time.Hour)}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := Attendance{}.Class(table, monday.Add(tc.at), 10*time.Minute, Options{Module: "chat"})
			got.Demand, got.Needs, got.Reason = math.Round(got.Demand), math.Round(got.Needs), ""
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzFloor holds the laws of the floor: finite, never negative, and monotone in
// classes, people and lead.
func FuzzFloor(f *testing.F) {
	f.Add(uint64(1), int16(0), uint8(90))
	f.Fuzz(func(t *testing.T, seed uint64, minute int16, percent uint8) {
		dice := rand.New(rand.NewPCG(seed, 1))
		var sessions []Session
		for range dice.IntN(20) {
			s := class(string(rune('A'+dice.IntN(5))), float64(dice.IntN(96))/12, dice.IntN(300)-10)
			s.End = s.Start.Add(time.Duration(dice.IntN(200)-10) * time.Minute)
			sessions = append(sessions, s)
		}
		var counts []Count
		for i := range 500 {
			counts = append(counts, Count{At: monday.Add(time.Duration(i) * time.Minute), Demand: dice.NormFloat64() * 50})
		}
		a := Learn(New(sessions), "", counts)
		at := monday.Add(time.Duration(minute%1000) * time.Minute)
		opts := Options{Quantile: float64(percent%101) / 100, Fill: float64(seed%5) / 4}
		floor := a.Floor(New(sessions), at, at, opts)
		if !(floor.Demand >= 0) || math.IsInf(floor.Demand, 0) {
			t.Fatalf("floor %v", floor.Demand)
		}
		if (floor.Demand > 0) != (floor.Classes > 0) {
			t.Fatalf("%+v", floor)
		}
		more := a.Floor(New(append(slices.Clone(sessions), class("Z", float64(minute%1000)/60, 30))), at, at, opts)
		if more.Demand < floor.Demand*(1-1e-9) {
			t.Fatalf("another class took the floor from %v to %v", floor.Demand, more.Demand)
		}
		if wider := a.Floor(New(sessions), at, at.Add(20*time.Minute), opts); wider.Demand < floor.Demand {
			t.Fatalf("a lead took the floor from %v to %v", floor.Demand, wider.Demand)
		}
	})
}

// term is four weeks of two courses, of which ALG fills to the ratio and BIO to
// half of it, and the demand that they bring, minute by minute.
func term(ratio float64) (Timetable, []Count) {
	var sessions []Session
	for week := range 4 {
		sessions = append(sessions, class("ALG", float64(week*168), 100), class("BIO", float64(week*168), 60),
			class("ALG", float64(week*168+24), 100), class("BIO", float64(week*168+48), 60))
	}
	table := New(sessions)
	curve := Curve{{-10 * time.Minute, 0}, {0, 1}}
	var counts []Count
	for at := monday.Add(-time.Hour); at.Before(monday.Add(28 * 24 * time.Hour)); at = at.Add(time.Minute) {
		var sum float64
		for _, s := range table.Between(at, at.Add(1), 45*time.Minute, 0) {
			r := ratio
			if s.Course == "BIO" {
				r /= 2
			}
			sum += r * float64(s.Enrolled) * curve.At(at.Sub(s.Start))
		}
		counts = append(counts, Count{At: at, Demand: sum})
	}
	return table, counts
}

func TestLearnFindsWhoComesAndWhen(t *testing.T) {
	table, counts := term(1.2)
	a := Learn(table, "", counts)
	if got := a.Ratio("ALG", .5); math.Abs(got-1.2) > .12 {
		t.Errorf("ALG: ratio %v, want about 1.2", got)
	}
	if got := a.Ratio("BIO", .5); math.Abs(got-.6) > .12 {
		t.Errorf("BIO: ratio %v, want about 0.6", got)
	}
	if got, before := a.Ratio("ALG", .9)/a.Ratio("ALG", .5), PriorSpread; got >= before {
		t.Errorf("after eight equal meetings the spread is %v, no less than the prior's %v", got, before)
	}
	if got := a.Curve("ALG").At(0); got < .75 {
		t.Errorf("share at the bell %v: nothing learnt from a class that is full by then", got)
	}
	if got := a.Curve("ALG").At(-15 * time.Minute); got > .15 {
		t.Errorf("share a quarter before %v, though nobody came so early", got)
	}
	if got, alg := a.Ratio("NEW", .5), a.Ratio("ALG", .5); got < .6 || got > alg {
		t.Errorf("a course never seen: ratio %v, want one between those seen", got)
	}
	if a.Meetings("ALG") != 8 || a.Meetings("NEW") != 0 {
		t.Errorf("meetings %d and %d, want 8 and 0", a.Meetings("ALG"), a.Meetings("NEW"))
	}
}

func TestLearnIsTheSameInAnyOrderAndDeafToNonsense(t *testing.T) {
	table, counts := term(.9)
	want := Learn(table, "", counts)
	shuffled := append(slices.Clone(counts), Count{monday, math.NaN(), ""}, Count{monday, -1, ""}, Count{monday, math.Inf(1), ""})
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	if diff := cmp.Diff(want, Learn(table, "", shuffled), cmp.AllowUnexported(Attendance{}, course{})); diff != "" {
		t.Error(diff)
	}
	if got := Learn(table, "", nil); got.Ratio("ALG", .5) != (Attendance{}).Ratio("ALG", .5) {
		t.Error("nothing seen, yet something learnt")
	}
}

func TestAnEmptyClassDoesNotRuinItsCourse(t *testing.T) {
	table, counts := term(.9)
	empty := slices.Clone(counts)
	for i, c := range empty {
		if d := c.At.Sub(monday); d > 160*time.Hour && d < 170*time.Hour { // the second week's Monday
			empty[i].Demand = 0
		}
	}
	if got, was := Learn(table, "", empty).Ratio("ALG", .5), Learn(table, "", counts).Ratio("ALG", .5); got < was*.75 {
		t.Errorf("one empty meeting of eight took the ratio from %v to %v", was, got)
	}
}

func TestACourseWithoutACountIsLearntByHeads(t *testing.T) {
	now := New([]Session{class("ALG", 0, 50), class("GUEST", 0, 0), class("GUEST", 168, 0)})
	var alone, together []Count
	for m := -45; m < 60; m++ {
		at := monday.Add(time.Duration(m) * time.Minute)
		share := PriorCurve().At(time.Duration(m) * time.Minute)
		alone = append(alone, Count{at, 80 * share, ""})
		together = append(together, Count{at, (80 + 50*PriorRatio) * share, ""})
	}
	next := monday.Add(168 * time.Hour)
	if got := (Attendance{}).Floor(now, next, next, Options{}); got.Demand != 0 {
		t.Errorf("a class of which nothing is known asks for %v", got.Demand)
	}
	for name, a := range map[string]Attendance{
		"alone":               Learn(New([]Session{class("GUEST", 0, 0)}), "", alone),
		"beside another":      Learn(now, "", together),
		"in an order of both": Learn(now, "", append(slices.Clone(together[60:]), together[:60]...)),
	} {
		if got := a.Floor(now, next, next, Options{Quantile: .5}).Demand; got < 35 || got > 50 {
			t.Errorf("%s: 80 came, and 43 were there at the bell; the next time %v are expected by then", name, got)
		}
		if a.Meetings("GUEST") != 1 {
			t.Errorf("%s: %d meetings, want 1", name, a.Meetings("GUEST"))
		}
	}
}

func TestLearnPerRoom(t *testing.T) {
	a, b := class("ALG", 0, 50), class("BIO", 0, 50)
	b.Room = "B"
	var counts []Count
	for m := range 60 {
		at := monday.Add(time.Duration(m) * time.Minute)
		counts = append(counts, Count{at, 50, "A"}, Count{at, 10, "B"})
	}
	got := Learn(New([]Session{a, b}), "", counts)
	if alg, bio := got.Ratio("ALG", .5), got.Ratio("BIO", .5); alg < 1.3*bio {
		t.Errorf("ratios %v and %v, though five times as many came", alg, bio)
	}
}

func TestLessonsThatFollowEachOtherAreOneClass(t *testing.T) {
	later := func(s Session, d time.Duration) Session {
		s.Start, s.End = s.Start.Add(d), s.End.Add(d)
		return s
	}
	elsewhere := class("ALG", 1, 100)
	elsewhere.Room = "B"
	cases := map[string]struct {
		second Session
		want   int
	}{
		"a double lesson":                    {class("ALG", 1, 100), 1},
		"a double lesson with a break":       {later(class("ALG", 1, 100), 10*time.Minute), 1},
		"the next hour belongs to another":   {class("BIO", 1, 100), 2},
		"the course goes on in another room": {elsewhere, 2},
		"half an hour lies between":          {later(class("ALG", 1, 100), 30*time.Minute), 2},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			table := New([]Session{tc.second, class("ALG", 0, 80)})
			if got := table.Between(monday, monday.Add(3*time.Hour), 0, 0); len(got) != tc.want {
				t.Errorf("%d classes, want %d", len(got), tc.want)
			}
			if len(table.Sessions()) != 2 {
				t.Errorf("%d sessions, want 2", len(table.Sessions()))
			}
		})
	}
}

func TestCompare(t *testing.T) {
	alg, bio := class("ALG", 0, 100), class("BIO", 2, 60)
	alg.ID, bio.ID = "a", "b"
	anon := func(s Session) Session { s.ID = ""; return s }
	at := func(s Session, hours float64) Session {
		d := time.Duration(hours * float64(time.Hour))
		s.Start, s.End = s.Start.Add(d), s.End.Add(d)
		return s
	}
	enrolled := func(s Session, n int) Session { s.Enrolled = n; return s }
	cases := map[string]struct {
		old, new []Session
		want     []Change
		wantIDs  []string
	}{
		"the same again changes nothing": {[]Session{alg, bio}, []Session{anon(bio), anon(alg)}, nil, []string{"a", "b"}},
		"a first import adds all": {nil, []Session{anon(alg)},
			[]Change{{Kind: Added, After: func() Session { s := alg; s.ID = "ALG@20260302T0900"; return s }()}}, []string{"ALG@20260302T0900"}},
		"a class that is gone is cancelled": {[]Session{alg, bio}, []Session{anon(alg)}, []Change{{Kind: Cancelled, Before: bio}}, []string{"a"}},
		"a class that moved keeps its identity": {[]Session{alg, bio}, []Session{anon(at(alg, 24)), anon(bio)},
			[]Change{{Moved, alg, at(alg, 24)}}, []string{"b", "a"}},
		"a class with an ID may move by months": {[]Session{alg}, []Session{at(alg, 2400)}, []Change{{Moved, alg, at(alg, 2400)}}, []string{"a"}},
		"a class without one may not": {[]Session{alg}, []Session{anon(at(alg, 2400))},
			[]Change{{Kind: Cancelled, Before: alg}, {Kind: Added, After: func() Session { s := at(alg, 2400); s.ID = "ALG@20260610T0900"; return s }()}}, []string{"ALG@20260610T0900"}},
		"more students are a change": {[]Session{alg}, []Session{anon(enrolled(alg, 120))}, []Change{{Changed, alg, enrolled(alg, 120)}}, []string{"a"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			kept, changes := Compare(tc.old, tc.new)
			if diff := cmp.Diff(tc.want, changes); diff != "" {
				t.Error(diff)
			}
			var ids []string
			for _, s := range kept {
				ids = append(ids, s.ID)
			}
			if diff := cmp.Diff(tc.wantIDs, ids); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzCompare holds the laws of an import: a second one changes nothing, IDs are
// unique, and the changes are the difference.
func FuzzCompare(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		dice := rand.New(rand.NewPCG(seed, 1))
		list := func() []Session {
			var out []Session
			for range dice.IntN(12) {
				s := class(string(rune('A'+dice.IntN(3))), float64(dice.IntN(300)), dice.IntN(3))
				s.Room = string(rune('R' + dice.IntN(2)))
				if dice.IntN(3) == 0 {
					s.ID = string(rune('0' + dice.IntN(5)))
				}
				if !slices.ContainsFunc(out, func(o Session) bool { return o.ID == s.ID && s.ID != "" }) {
					out = append(out, s)
				}
			}
			return out
		}
		first, _ := Compare(nil, list())
		second := list()
		kept, changes := Compare(first, second)
		ids := map[string]bool{}
		for _, s := range kept {
			if s.ID == "" || ids[s.ID] {
				t.Fatalf("ID %q is empty or used twice", s.ID)
			}
			ids[s.ID] = true
		}
		added, cancelled := 0, 0
		for _, c := range changes {
			switch c.Kind {
			case Added:
				added++
			case Cancelled:
				cancelled++
			}
			if c.String() == "" {
				t.Fatal("a change without words")
			}
		}
		if len(first)+added-cancelled != len(second) {
			t.Fatalf("%d + %d added − %d cancelled is not %d", len(first), added, cancelled, len(second))
		}
		again, none := Compare(kept, second)
		if len(none) != 0 || !cmp.Equal(again, kept) {
			t.Fatalf("a second import changes %v", none)
		}
	})
}

func TestDayType(t *testing.T) {
	days := Days{Named: map[Date]elastic.DayType{{Year: 2026, Month: 10, Day: 1}: elastic.Holiday, {Year: 2026, Month: 10, Day: 10}: elastic.MakeUp}}
	shanghai, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		at   time.Time
		want elastic.DayType
	}{
		"a Thursday that is a holiday":          {time.Date(2026, 10, 1, 23, 59, 0, 0, shanghai), elastic.Holiday},
		"a Saturday that is worked":             {time.Date(2026, 10, 10, 0, 0, 0, 0, shanghai), elastic.MakeUp},
		"a Friday":                              {time.Date(2026, 10, 9, 0, 0, 0, 0, shanghai), elastic.Workday},
		"a Sunday":                              {time.Date(2026, 10, 11, 0, 0, 0, 0, shanghai), elastic.Weekend},
		"the same moment is another day by UTC": {time.Date(2026, 10, 1, 0, 0, 0, 0, shanghai).UTC(), elastic.Workday},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := days.DayType(tc.at); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// busy is a term of 300 classes a day.
func busy() Timetable {
	dice := rand.New(rand.NewPCG(1, 1))
	var sessions []Session
	for day := range 112 {
		for range 300 {
			s := class(string(rune('A'+dice.IntN(26)))+string(rune('A'+dice.IntN(26))), float64(day*24+dice.IntN(9)), 20+dice.IntN(200))
			s.Room = string(rune('A' + dice.IntN(26)))
			sessions = append(sessions, s)
		}
	}
	return New(sessions)
}

// BenchmarkClass asks once for a busy term, as every minute of every workload does.
func BenchmarkClass(b *testing.B) {
	t := busy()
	for b.Loop() {
		Attendance{}.Class(t, monday.Add(50*24*time.Hour-10*time.Minute), 10*time.Minute, Options{})
	}
}

// BenchmarkLearn learns from four weeks of a busy term, by the minute, as every
// hour of every workload does.
func BenchmarkLearn(b *testing.B) {
	t := busy()
	var counts []Count
	for i := range 28 * 24 * 60 {
		counts = append(counts, Count{At: monday.Add(time.Duration(i) * time.Minute), Demand: float64(i % 1000)})
	}
	for b.Loop() {
		Learn(t, "", counts)
	}
}
