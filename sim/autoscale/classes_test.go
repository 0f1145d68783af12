package autoscale

import (
	"encoding/csv"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/timetable"
	"github.com/neap-dev/neap/internal/shareddata"
)

// ucd is the week of University College Dublin: three rooms, their timetable and
// the Wi-Fi clients in them.
func ucd(t *testing.T) (*Classes, *Workload) {
	t.Helper()
	dir := filepath.Join(shareddata.Dir(t), "load", "education")
	f, err := os.Open(filepath.Join(dir, "ucd_wifi_clients_5min.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rooms, err := ReadRooms(f, "counts")
	if err != nil {
		t.Fatal(err)
	}
	g, err := os.Open(filepath.Join(dir, "ucd_timetable_clean.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	in := csv.NewReader(g)
	in.FieldsPerRecord = -1
	var sessions []timetable.Session
	for {
		row, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		start, err := time.Parse("2006 Mon Jan 02 15:04:05", "2015 "+row[0])
		if err != nil || row[2] == "None" {
			continue // the first line, an hour without a class, and the malformed last line
		}
		n, _ := strconv.Atoi(row[3]) // "N/A" is nobody
		sessions = append(sessions, timetable.Session{Course: row[2], Room: row[1], Start: start, End: start.Add(time.Hour), Enrolled: n})
	}
	c, notes, err := Match(sessions, rooms)
	if err != nil || len(notes) > 0 {
		t.Fatal(notes, err)
	}
	w, err := c.Prepare("ucd", time.Time{}, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return c, w
}

// TestClassPeersReproduceTheirColumns holds the peers to what another
// implementation gave; that one does not say from when to when it tested.
func TestClassPeersReproduceTheirColumns(t *testing.T) {
	cases := map[string]struct{ under, cost float64 }{
		"hpa":              {4.01, 1.02},
		"class-hour":       {0.35, 2.20},
		"class-15min":      {0.35, 1.48},
		"weekly":           {0.88, 1.25},
		"weekly-timetable": {0.26, 1.35},
	}
	c, w := ucd(t)
	for name, want := range cases {
		p, err := c.Policy(name, w)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Replay(t.Context(), w, p, Options{StartMinutes: 10})
		if err != nil {
			t.Fatal(err)
		}
		near(t, name+" under", r.UnderPercent, want.under, 0.15+0.08*want.under)
		near(t, name+" cost", r.CostRatio, want.cost, 0.07)
	}
}
