package timetablefile

import (
	"archive/zip"
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/timetable"
)

// laws checks what holds of everything that is read, whatever the file.
func laws(t *testing.T, f *File, err error) {
	if err != nil {
		if f != nil || err.Error() == "" || strings.Contains(err.Error(), "\n") {
			t.Fatalf("an error that is no sentence, or a file beside it: %v, %v", err, f)
		}
		return
	}
	seen := map[string]bool{}
	for i, s := range f.Sessions {
		if s.Course == "" && s.ID == "" || !s.End.After(s.Start) || s.End.Sub(s.Start) > 24*time.Hour || s.Enrolled < 0 || len(s.ID) > 128 || len(s.Course) > 256 {
			t.Fatalf("session %+v", s)
		}
		if i > 0 && s.Start.Before(f.Sessions[i-1].Start) {
			t.Fatal("sessions out of order")
		}
		for _, n := range s.Modules {
			if _, err := timetable.ParseNeed(n.String()); err != nil {
				t.Fatalf("module %v: %v", n, err)
			}
		}
		key := s.Course + "\x00" + s.Room + "\x00" + s.Start.UTC().String() + s.End.UTC().String()
		if seen[key] {
			t.Fatalf("a class stands there twice: %+v", s)
		}
		seen[key] = true
	}
	for _, p := range append(f.Problems, f.Notes...) {
		if p.Reason == "" || len([]rune(p.Text)) > maxText {
			t.Fatalf("problem %+v", p)
		}
	}
	if again, none := timetable.Compare(f.Sessions, f.Sessions); len(none) > 0 || len(again) != len(f.Sessions) {
		t.Fatalf("the file changes itself: %v", none)
	}
}

var fuzzOptions = Options{Year: 2026, TermStart: timetable.Date{Year: 2026, Month: 9, Day: 7}, Weeks: "1-16", DateOrder: "dmy",
	Periods: map[int]Period{1: {480, 525}, 2: {535, 580}}}

func FuzzCSV(f *testing.F) {
	f.Add("course,room,start,end,enrolled,modules\nALG,R1,2026-03-02 09:00,10:00,120,chat;video=2\n")
	f.Add("课程,教室,星期,节次,周次,人数\n高等数学,A101,星期一,1-2节,1-16周(单),120人\n")
	f.Add("time,room,module,size\nMon Nov 02 09:00:00,B0.02,None,None\nFri Nov 21 21:00,A0.04,None,None\n")
	f.Add(",Mon 2 Mar,Tue 3 Mar\n9:00 - 10:00,ALG,BIO\n10:00 - 11:00,,\"GEO\n60人\n教室B2\"\n")
	f.Add("course;start;end\nALG;3/4/2026 9.00 am;11:00\n\"unclosed")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := Read("x.csv", []byte(text), fuzzOptions)
		laws(t, got, err)
	})
}

func FuzzICS(f *testing.F) {
	f.Add("BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nUID:1\r\nSUMMARY:ALG\r\nDTSTART;TZID=Europe/Dublin:20260302T090000\r\nDTEND;TZID=Europe/Dublin:20260302T100000\r\nRRULE:FREQ=WEEKLY;COUNT=10\r\nEXDATE;TZID=Europe/Dublin:20260309T090000\r\nDESCRIPTION:enrolled: 120\\nmodules: chat\r\nEND:VEVENT\r\nBEGIN:VEVENT\r\nUID:1\r\nRECURRENCE-ID;TZID=Europe/Dublin:20260316T090000\r\nSUMMARY:ALG\r\nDTSTART;TZID=Europe/Dublin:20260317T090000\r\nDURATION:PT1H\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n")
	f.Add("BEGIN:VCALENDAR\nBEGIN:VEVENT\nSUMMARY:X\nDTSTART:20260101T000000Z\nRRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30\nRDATE:20260102T000000Z,20260103T000000Z\nEND:VEVENT\nEND:VCALENDAR")
	f.Add("BEGIN:VCALENDAR\nBEGIN:VEVENT\nSUMMARY:X\nDTSTART;VALUE=DATE:20260101\nEND:VEVENT\nEND:VCALENDAR")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := Read("x.ics", []byte(text), fuzzOptions)
		laws(t, got, err)
		if days, _, err := ReadCalendar("x.ics", []byte(text), fuzzOptions); err == nil {
			checkDays(t, days)
		}
	})
}

// FuzzXLSX fuzzes the parts of a workbook; zip itself is Go's.
func FuzzXLSX(f *testing.F) {
	f.Add(`<worksheet><sheetData><row r="1"><c r="B1" t="s"><v>0</v></c></row><row r="2"><c r="A2"><v>0.375</v></c><c r="B2" t="inlineStr"><is><t>ALG</t></is></c></row><row r="3"><c r="A3"><v>0.41666</v></c></row></sheetData><mergeCells><mergeCell ref="B2:B3"/></mergeCells></worksheet>`, `<sst><si><t>Mon 2 Mar</t></si></sst>`)
	f.Add(`<worksheet><sheetData><row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData><mergeCells><mergeCell ref="A1:XFD1048576"/></mergeCells></worksheet>`, `<sst/>`)
	f.Fuzz(func(t *testing.T, sheet, shared string) {
		got, err := Read("x.xlsx", book(t, sheet, shared), fuzzOptions)
		laws(t, got, err)
	})
}

// FuzzWorkbook fuzzes a whole file.
func FuzzWorkbook(f *testing.F) {
	f.Add(book(f, `<worksheet/>`, `<sst/>`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Read("x.xlsx", data, fuzzOptions)
		laws(t, got, err)
	})
}

func FuzzHolidays(f *testing.F) {
	f.Add(`{"days": [{"name": "a", "date": "2026-10-01", "isOffDay": true}]}`, true)
	f.Add("date,kind,name\n2026-10-01,holiday,National Day\n2026-10-10,makeup,\n", false)
	f.Fuzz(func(t *testing.T, text string, json bool) {
		name := "x.csv"
		if json {
			name = "x.json"
		}
		if days, _, err := ReadCalendar(name, []byte(text), fuzzOptions); err == nil {
			checkDays(t, days)
		}
	})
}

func checkDays(t *testing.T, days []Day) {
	for i, d := range days {
		if back, err := timetable.ParseDate(d.Date.String()); err != nil || back != d.Date {
			t.Fatalf("%v is no date", d.Date)
		}
		if d.Kind != elastic.Holiday && d.Kind != elastic.MakeUp || i > 0 && !dayOf(days[i-1].Date).Before(dayOf(d.Date)) {
			t.Fatalf("day %+v after %+v", d, days[max(i-1, 0)])
		}
	}
}

// book packs one sheet into a workbook.
func book(t testing.TB, sheet, shared string) []byte {
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for name, text := range map[string]string{
		"xl/workbook.xml":            `<workbook xmlns:r="r"><sheets><sheet name="Week" sheetId="1" r:id="rId1"/></sheets></workbook>`,
		"xl/_rels/workbook.xml.rels": `<Relationships><Relationship Id="rId1" Type="x/worksheet" Target="worksheets/sheet1.xml"/></Relationships>`,
		"xl/worksheets/sheet1.xml":   sheet,
		"xl/sharedStrings.xml":       shared,
	} {
		part, err := w.Create(name)
		if err == nil {
			_, err = part.Write([]byte(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
