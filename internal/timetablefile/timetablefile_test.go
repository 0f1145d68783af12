package timetablefile

import (
	"encoding/csv"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/timetable"
	"github.com/neap-dev/neap/internal/shareddata"
)

// ucd reads one of the files of University College Dublin.
func ucd(t testing.TB, name string) *File {
	t.Helper()
	dublin, err := time.LoadLocation("Europe/Dublin")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(shareddata.Dir(t), "load", "education", name))
	if err != nil {
		t.Fatal(err)
	}
	f, err := Read(name, data, Options{Zone: dublin, Year: 2015})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// hours cuts classes into hours: room and start → course and people.
func hours(sessions []timetable.Session) map[string]string {
	out := map[string]string{}
	for _, s := range sessions {
		for at := s.Start; at.Before(s.End); at = at.Add(time.Hour) {
			out[s.Room+" "+at.Format("Mon Jan 02 15:04:05")] = s.Course + "," + strconv.Itoa(s.Enrolled)
		}
	}
	return out
}

// TestTheUglyWorkbook reads the original workbook, and holds it against the list
// that its authors made of it by hand.
func TestTheUglyWorkbook(t *testing.T) {
	f := ucd(t, "ucd_timetable_raw.xlsx")
	got := hours(f.Sessions)
	raw, err := os.ReadFile(filepath.Join(shareddata.Dir(t), "load", "education", "ucd_timetable_clean.csv"))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(string(raw))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	classes, free := 0, 0
	for _, row := range rows[1 : len(rows)-1] { // the last line is malformed
		key := row[1] + " " + row[0]
		want := row[2] + "," + strings.Replace(row[3], "N/A", "0", 1)
		switch {
		case row[2] == "None" && got[key] == "":
			free++
		case got[key] == want:
			classes++
		default:
			t.Errorf("%s: read %q, where the list has %q", key, got[key], want)
		}
		delete(got, key)
	}
	for key, class := range got {
		t.Errorf("%s: read %q, which is not in the list", key, class)
	}
	if classes != 187 || free != 83 {
		t.Errorf("%d class-hours and %d free hours agree, want 187 and 83", classes, free)
	}
	if len(f.Sessions) != 152 {
		t.Errorf("%d sessions, want 152: merged cells are one", len(f.Sessions))
	}
	for _, want := range []string{
		`sheet All, row 3 "Mon 2 Nov": rows 3 to 11 hold numbers but no courses`,
		`sheet All, row 47 "Friday 13 Nov": rows 47 to 55 hold numbers but no courses`,
	} {
		mustSay(t, f.Problems, want)
	}
	for _, want := range []string{
		`sheet B0.02, row 2 (N2) "Monday 2nd": the week above it is 2015-11-09 to 2015-11-13: read as 2015-11-09`,
		`sheet B0.02, row 14 (B14) "Unclear if class went ahead": it stands outside of the grid`,
		`sheet B0.03, row 7 (D7) "Career opportunities talks": how many are enrolled is not known`,
	} {
		mustSay(t, f.Notes, want)
	}
	if len(f.Problems) != 10 || len(f.Notes) != 26 {
		t.Errorf("%d problems and %d notes, want 10 and 26", len(f.Problems), len(f.Notes))
	}
}

func mustSay(t testing.TB, list []Problem, want string) {
	t.Helper()
	for _, p := range list {
		if strings.Contains(p.String(), want) {
			return
		}
	}
	t.Errorf("nothing says %q in %v", want, list)
}

func TestTheListWithAMalformedLine(t *testing.T) {
	f := ucd(t, "ucd_timetable_clean.csv")
	if len(f.Sessions) != 187 || f.Free != 83 {
		t.Errorf("%d sessions and %d free hours, want 187 and 83", len(f.Sessions), f.Free)
	}
	if len(f.Problems) != 1 {
		t.Errorf("problems %v, want one", f.Problems)
	}
	mustSay(t, f.Problems, `line 272 "Fri Nov 21 21:00": 21 November 2015 is a Saturday, not a Friday`)
	mustSay(t, f.Notes, `line 105 "N/A": Career opportunities talks at 2015-11-03 13:00: how many are enrolled is not known`)
	mustSay(t, f.Notes, `line 1: no column says when a class ends; 187 are taken to last 60 minutes`)
}

func shareddataDir(t testing.TB) string {
	return filepath.Join(shareddata.Dir(t), "load", "calendar")
}

func readShared(t testing.TB, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}
