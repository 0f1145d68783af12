package timetablefile

import (
	"archive/zip"
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/neap-dev/neap/core/timetable"
)

// lines writes what was read, one class a line.
func lines(f *File) []string {
	var out []string
	for _, s := range f.Sessions {
		text := fmt.Sprintf("%s–%s %s %s @%s %d", s.Start.Format("Mon 2006-01-02 15:04"), s.End.Format("15:04"), s.Start.Format("MST"), s.Course, s.Room, s.Enrolled)
		for _, n := range s.Modules {
			text += " " + n.String()
		}
		out = append(out, text)
	}
	return out
}

func reasons(list []Problem) []string {
	var out []string
	for _, p := range list {
		out = append(out, p.String())
	}
	return out
}

type reading struct {
	file     string
	opts     Options
	want     []string
	problems []string // parts of them, in order
	notes    []string
}

func (tc reading) run(t *testing.T, name string) {
	t.Helper()
	f, err := Read(name, []byte(tc.file), tc.opts)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tc.want, lines(f)); diff != "" {
		t.Error(diff)
	}
	for what, x := range map[string]struct{ got, want []string }{"problems": {reasons(f.Problems), tc.problems}, "notes": {reasons(f.Notes), tc.notes}} {
		if len(x.got) != len(x.want) {
			t.Errorf("%d %s, want %d: %q", len(x.got), what, len(x.want), x.got)
			continue
		}
		for i := range x.want {
			if !strings.Contains(x.got[i], x.want[i]) {
				t.Errorf("%s %q, want …%s…", what, x.got[i], x.want[i])
			}
		}
	}
}

var dublin = func() *time.Location {
	z, err := time.LoadLocation("Europe/Dublin")
	if err != nil {
		panic(err)
	}
	return z
}()

func TestLists(t *testing.T) {
	cases := map[string]reading{
		"dates, times and modules": {
			file: "course,room,start,end,enrolled,modules\nALG,R1,2026-03-02 09:00,10:00,120,chat;video=2\n",
			want: []string{"Mon 2026-03-02 09:00–10:00 UTC ALG @R1 120 chat video=2"},
		},
		"a Chinese list with periods, weekdays and weeks": {
			file: "课程名称,教室,星期,节次,周次,选课人数\n高等数学,A101,星期一,1-2节,\"1-5周(单)\",120人\n",
			opts: Options{TermStart: timetable.Date{Year: 2026, Month: 9, Day: 9}, Periods: map[int]Period{1: {480, 525}, 2: {535, 580}}},
			want: []string{"Mon 2026-09-07 08:00–09:40 UTC 高等数学 @A101 120", "Mon 2026-09-21 08:00–09:40 UTC 高等数学 @A101 120", "Mon 2026-10-05 08:00–09:40 UTC 高等数学 @A101 120"},
		},
		"semicolons, a byte order mark and columns of its own": {
			file: "\ufeffFach;Beginn;Ende;Teilnehmer\nALG;2.3.2026 9:00;10:30;40\n",
			opts: Options{DateOrder: "dmy", Columns: map[string]string{"Fach": "course", "Beginn": "start", "Ende": "end", "Teilnehmer": "enrolled"}},
			want: []string{"Mon 2026-03-02 09:00–10:30 UTC ALG @ 40"},
		},
		"a range of times in one column": {
			file: "course,date,time,size\nALG,2 March 2026,9:00 - 10:30 am,40\nBIO,2026年3月2日,下午2:00至3:30,50\nGEO,2 Mar 2026,1:00 to 2:30 pm,60\n",
			want: []string{"Mon 2026-03-02 09:00–10:30 UTC ALG @ 40", "Mon 2026-03-02 13:00–14:30 UTC GEO @ 60", "Mon 2026-03-02 14:00–15:30 UTC BIO @ 50"},
		},
		"summer time begins between two meetings": {
			file: "course,weekday,start,end,weeks,size\nALG,Mon,9:00,10:00,1-2,40\n",
			opts: Options{Zone: dublin, TermStart: timetable.Date{Year: 2026, Month: 3, Day: 23}},
			want: []string{"Mon 2026-03-23 09:00–10:00 GMT ALG @ 40", "Mon 2026-03-30 09:00–10:00 IST ALG @ 40"},
		},
		"every line that cannot be read is named": {
			file: "course,start,end,size\nA,2026-02-30 09:00,10:00,1\nB,03/04/2026 09:00,10:00,1\nC,Mon Nov 02 09:00,10:00,1\nD,2026-03-02 09:00,08:00,1\nE,2026-03-02 09:00,10:00,many\nF,2026-03-02,10:00,1\nG,Tue 2026-03-02 09:00,10:00,1\nH,2026-03-02 09:00,10:00,-4\n",
			problems: []string{
				"line 2 \"2026-02-30 09:00\": there is no 30 February 2026", "line 3 \"03/04/2026 09:00\": \"03/04/2026 09:00\" may be 3 April or 4 March: give --date-order",
				"line 4 \"Mon Nov 02 09:00\": 2 November has no year: give --year", "line 5 \"D\": it ends at 08:00, not after its start at 09:00",
				"line 6 \"many\": \"many\" is no number of people", "line 7 \"2026-03-02\": it has no time of day",
				"line 8 \"Tue 2026-03-02 09:00\": 2 March 2026 is a Monday, not a Tuesday", "line 9 \"-4\": \"-4\" people: at least 0",
			},
		},
		"twice the same class counts once, a cancelled one not": {
			file:  "course,start,end,size,status\nA,2026-03-02 09:00,10:00,1,\nA,2026-03-02 09:00,10:00,1,\nB,2026-03-02 09:00,10:00,1,Cancelled\n",
			want:  []string{"Mon 2026-03-02 09:00–10:00 UTC A @ 1"},
			notes: []string{"line 3 \"A\": the same class as line 2", "line 4 \"Cancelled\": B is cancelled"},
		},
		"a class until midnight": {
			file: "course,start,end,size\nA,2026-03-02 22:00,00:00,1\n",
			want: []string{"Mon 2026-03-02 22:00–00:00 UTC A @ 1"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) { tc.run(t, "x.csv") })
	}
}

func TestGrids(t *testing.T) {
	cases := map[string]reading{
		"days above, hours at the left, more lines in a cell": {
			file:  "Room R1,Mon 2 Mar 2026,Tue 3 Mar 2026\n9:00 - 10:00,ALG,\n10:00 - 11:00,,\"GEO\n60人\n教室B2\"\n",
			want:  []string{"Mon 2026-03-02 09:00–10:00 UTC ALG @Room R1 0", "Tue 2026-03-03 10:00–11:00 UTC GEO @B2 60"},
			notes: []string{`line 2 "ALG": how many are enrolled is not known`},
		},
		"weekdays alone are every week of the term": {
			file:  ",星期一,星期二\n第1节,数学,\n第2节,,物理\n",
			opts:  Options{TermStart: timetable.Date{Year: 2026, Month: 9, Day: 7}, Weeks: "1-2", Periods: map[int]Period{1: {480, 525}, 2: {535, 580}}},
			want:  []string{"Mon 2026-09-07 08:00–08:45 UTC 数学 @ 0", "Tue 2026-09-08 08:55–09:40 UTC 物理 @ 0", "Mon 2026-09-14 08:00–08:45 UTC 数学 @ 0", "Tue 2026-09-15 08:55–09:40 UTC 物理 @ 0"},
			notes: []string{"数学", "物理"},
		},
		"rooms above and the day in the corner": {
			file:  "Mon 2 Mar 2026,R1,R2\n9:00 - 10:00,ALG,BIO\n10:00 - 11:00,,no class\n",
			want:  []string{"Mon 2026-03-02 09:00–10:00 UTC ALG @R1 0", "Mon 2026-03-02 09:00–10:00 UTC BIO @R2 0"},
			notes: []string{"ALG", "BIO"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) { tc.run(t, "x.csv") })
	}
}

// ics wraps events into a calendar.
func ics(events ...string) string {
	out := "BEGIN:VCALENDAR\r\nVERSION:2.0\r\n"
	for _, e := range events {
		out += "BEGIN:VEVENT\r\n" + strings.ReplaceAll(e, "\n", "\r\n") + "\r\nEND:VEVENT\r\n"
	}
	return out + "END:VCALENDAR\r\n"
}

func TestCalendars(t *testing.T) {
	cases := map[string]reading{
		"a weekly class over the change of the clocks, less one, one moved": {
			file: ics("UID:a\nSUMMARY:ALG\nLOCATION:R1\nDTSTART;TZID=Europe/Dublin:20260323T090000\nDTEND;TZID=Europe/Dublin:20260323T100000\nRRULE:FREQ=WEEKLY;COUNT=4\nEXDATE;TZID=Europe/Dublin:20260406T090000\nX-NEAP-ENROLLED:120\nX-NEAP-MODULES:chat\\,video=2",
				"UID:a\nRECURRENCE-ID;TZID=Europe/Dublin:20260413T090000\nSUMMARY:ALG\nDTSTART;TZID=Europe/Dublin:20260414T110000\nDURATION:PT1H30M\nDESCRIPTION:by hand\\nenrolled: 130"),
			opts: Options{Zone: dublin},
			want: []string{"Mon 2026-03-23 09:00–10:00 GMT ALG @R1 120 chat video=2", "Mon 2026-03-30 09:00–10:00 IST ALG @R1 120 chat video=2", "Tue 2026-04-14 11:00–12:30 IST ALG @ 130"},
		},
		"a meeting that was cancelled alone": {
			file: ics("UID:a\nSUMMARY:ALG\nDTSTART:20260302T090000Z\nDURATION:PT1H\nRRULE:FREQ=WEEKLY;COUNT=2\nDESCRIPTION:enrolled: 5",
				"UID:a\nRECURRENCE-ID:20260309T090000Z\nSUMMARY:ALG\nDTSTART:20260309T090000Z\nSTATUS:CANCELLED"),
			want:  []string{"Mon 2026-03-02 09:00–10:00 UTC ALG @ 5"},
			notes: []string{"ALG\": the event is cancelled"},
		},
		"an additional date, a folded line, Outlook's zone": {
			file: ics("UID:a\nSUMMARY:A long\n  name\nDTSTART;TZID=\"China Standard Time\":20260302T090000\nDTEND;TZID=China Standard Time:20260302T100000\nRDATE;TZID=China Standard Time:20260305T090000\nDESCRIPTION:人数：7"),
			want: []string{"Mon 2026-03-02 09:00–10:00 CST A long name @ 7", "Thu 2026-03-05 09:00–10:00 CST A long name @ 7"},
		},
		"the second edition of an event counts": {
			file: ics("UID:a\nSUMMARY:NEW\nSEQUENCE:2\nDTSTART:20260302T090000Z\nDURATION:PT1H\nDESCRIPTION:enrolled: 5", "UID:a\nSUMMARY:OLD\nSEQUENCE:1\nDTSTART:20260302T080000Z\nDURATION:PT1H\nDESCRIPTION:enrolled: 5"),
			want: []string{"Mon 2026-03-02 09:00–10:00 UTC NEW @ 5"},
		},
		"what is no class is named": {
			file:     ics("UID:a\nSUMMARY:Open day\nDTSTART;VALUE=DATE:20260302", "UID:b\nSUMMARY:X\nDTSTART;TZID=Nowhere/Land:20260302T090000", "UID:c\nDTSTART:20260302T090000Z", "UID:d\nSUMMARY:Y\nDTSTART:20260302T090000Z\nDTEND:20260302T090000Z\nDESCRIPTION:enrolled: 1", "UID:e\nSUMMARY:Z\nDTSTART:20260302T090000Z\nDURATION:PT1H\nRRULE:FREQ=SECONDLY\nDESCRIPTION:enrolled: 1", "no colon"),
			want:     []string{"Mon 2026-03-02 09:00–10:00 UTC Z @ 1"},
			problems: []string{"no line of a calendar", "Open day\": it lasts whole days", `zone "Nowhere/Land" is not known; give --mapping`, "no SUMMARY", "Y\": it ends at 09:00, not after", "repeats within the day", "no SUMMARY"},
		},
		"a class without an end is read for a year": {
			file:  ics("UID:a\nSUMMARY:ALG\nDTSTART:20260302T090000Z\nDURATION:PT1H\nRRULE:FREQ=MONTHLY;INTERVAL=6\nDESCRIPTION:enrolled: 5"),
			want:  []string{"Mon 2026-03-02 09:00–10:00 UTC ALG @ 5", "Wed 2026-09-02 09:00–10:00 UTC ALG @ 5", "Tue 2027-03-02 09:00–10:00 UTC ALG @ 5"},
			notes: []string{"repeats without an end; read until 2027-03-02"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) { tc.run(t, "x.ics") })
	}
}

func TestMeetingsOfACalendarKeepTheirIdentity(t *testing.T) {
	event := "UID:a\nSUMMARY:ALG\nDTSTART:20260302T090000Z\nDURATION:PT1H\nRRULE:FREQ=WEEKLY;COUNT=2\nDESCRIPTION:enrolled: 5"
	before, err := Read("x.ics", []byte(ics(event)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	after, err := Read("x.ics", []byte(ics(event, "UID:a\nRECURRENCE-ID:20260309T090000Z\nSUMMARY:ALG\nDTSTART:20260420T090000Z\nDURATION:PT1H\nDESCRIPTION:enrolled: 5")), Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, changes := timetable.Compare(before.Sessions, after.Sessions)
	if len(changes) != 1 || changes[0].Kind != timetable.Moved {
		t.Errorf("changes %v, want one class that moved by six weeks", changes)
	}
}

func TestWhatIsNoTimetableIsRefused(t *testing.T) {
	var bomb bytes.Buffer
	w := zip.NewWriter(&bomb)
	part, err := w.Create("xl/worksheets/sheet1.xml")
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range maxUnpacked>>20 + 1 {
		if _, err := part.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	many := "<worksheet><sheetData>" + strings.Repeat("<row/>", maxRows+1) + "</sheetData></worksheet>"
	cases := map[string]struct {
		name string
		data []byte
		want string
	}{
		"a zip bomb":                     {"x.xlsx", bomb.Bytes(), "unpacks to more than 64 MiB"},
		"a workbook of too many rows":    {"x.xlsx", book(t, many, "<sst/>"), "more than 100000 rows"},
		"a workbook that is text":        {"x.xlsx", []byte("course,start"), "it is no Excel workbook"},
		"an empty workbook":              {"x.xlsx", book(t, "<worksheet/>", "<sst/>"), "all sheets are empty"},
		"an old workbook":                {"x.xls", nil, "save it as .xlsx"},
		"something else":                 {"x.docx", nil, "it must end in .ics, .xlsx or .csv"},
		"a list without a header":        {"x.csv", []byte("1,2\n3,4\n"), "no line names the columns"},
		"an empty list":                  {"x.csv", nil, "the file is empty"},
		"a list in another encoding":     {"x.csv", []byte{0xc7, 0xbf, 0xb3, 0xcc, '\n'}, "it is not UTF-8"},
		"a calendar that is none":        {"x.ics", []byte("hello"), "BEGIN:VCALENDAR is missing"},
		"a notice that all is cancelled": {"x.ics", []byte("BEGIN:VCALENDAR\nMETHOD:CANCEL\nEND:VCALENDAR\n"), "export the whole calendar"},
		"a file beyond all bounds":       {"x.csv", make([]byte, MaxBytes+1), "more than the 16 MiB"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f, err := Read(tc.name, tc.data, Options{})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, %v, want …%s…", f, err, tc.want)
			}
		})
	}
}

// TestHostileFilesEndSoon reads files that ask for a lot of work.
func TestHostileFilesEndSoon(t *testing.T) {
	begun := time.Now()
	endless := ics("SUMMARY:A\nDTSTART:19700101T000000Z\nRRULE:FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30\nDESCRIPTION:enrolled: 1",
		"SUMMARY:B\nDTSTART:19700101T000000Z\nRRULE:FREQ=DAILY;COUNT=100000000\nDESCRIPTION:enrolled: 1")
	f, err := Read("x.ics", []byte(endless), Options{})
	if err != nil || len(f.Sessions) > maxRepeats+1 {
		t.Fatalf("%v, %v", f, err)
	}
	mustSay(t, f.Problems, "meets more than 1000 times")
	wide := "<worksheet><sheetData>" + strings.Repeat(`<row><c r="XFD1"><v>1</v></c><c r="SR1"><v>2</v></c></row>`, 20000) + `</sheetData><mergeCells><mergeCell ref="A1:XFD1048576"/></mergeCells></worksheet>`
	if _, err := Read("x.xlsx", book(t, wide, "<sst/>"), Options{}); err != nil {
		t.Log(err)
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestCalendarsOfHolidays(t *testing.T) {
	cases := map[string]struct {
		name, file string
		want       string
	}{
		"holiday-cn": {"cn_2026.json", `{"year": 2026, "days": [{"name": "元旦", "date": "2026-01-01", "isOffDay": true}, {"name": "元旦", "date": "2026-01-04", "isOffDay": false}]}`,
			"2026-01-01 holiday 元旦, 2026-01-04 makeup 元旦"},
		"events of several days": {"h.ics", ics("SUMMARY:国庆节假期\nDTSTART;VALUE=DATE:20261001\nDTEND;VALUE=DATE:20261003", "SUMMARY:上班(补国庆节假期)\nDTSTART;VALUE=DATE:20261010"),
			"2026-10-01 holiday 国庆节假期, 2026-10-02 holiday 国庆节假期, 2026-10-10 makeup 上班(补国庆节假期)"},
		"a list": {"h.csv", "date,kind,name\n2026-12-25,holiday,Christmas\n2026-12-24,,\n", "2026-12-24 holiday , 2026-12-25 holiday Christmas"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			days, problems, err := ReadCalendar(tc.name, []byte(tc.file), Options{})
			if err != nil || len(problems) > 0 {
				t.Fatal(err, problems)
			}
			var got []string
			for _, d := range days {
				got = append(got, fmt.Sprintf("%s %s %s", d.Date, d.Kind, d.Name))
			}
			if diff := cmp.Diff(tc.want, strings.Join(got, ", ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheRealCalendarOfChina(t *testing.T) {
	dir := shareddataDir(t)
	byYear := map[string]int{}
	for _, name := range []string{"cn_2026.json", "holiday-cn.ics"} {
		days, problems, err := ReadCalendar(name, readShared(t, dir, name), Options{})
		if err != nil || len(problems) > 0 {
			t.Fatal(name, err, problems)
		}
		for _, d := range days {
			if d.Date.Year == 2026 {
				byYear[name+" "+string(d.Kind)]++
			}
		}
	}
	if a, b := byYear["cn_2026.json holiday"], byYear["holiday-cn.ics holiday"]; a == 0 || a != b {
		t.Errorf("holidays of 2026: %v", byYear)
	}
	if a, b := byYear["cn_2026.json makeup"], byYear["holiday-cn.ics makeup"]; a == 0 || a != b {
		t.Errorf("make-up days of 2026: %v", byYear)
	}
}
