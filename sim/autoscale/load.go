package autoscale

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Series is demand by the minute, in its own unit.
type Series struct {
	Name  string
	From  time.Time // the first minute, UTC
	Value []float64 // one a minute; NaN where nothing is known
	Step  time.Duration
	Notes []string // what was put right while reading
}

// Days is how long the series is.
func (s *Series) Days() float64 { return float64(len(s.Value)) / day }

const day = 24 * 60 // minutes

// A Sample is one value at one time.
type Sample struct {
	T time.Time
	V float64
}

// Limits of what is read.
const (
	maxStep    = 30 * time.Minute
	maxMinutes = 10 * 366 * day
	gapSteps   = 2.5 // two points further apart than so many steps have a gap between them
)

// ReadFile reads a series from a CSV file; see [Read].
func ReadFile(path string) (*Series, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the series: %w", err)
	}
	defer f.Close()
	return Read(f, path)
}

// Read reads a series from CSV: a line of column names, then one point a line.
// The time is the column ts, timestamp, time or local_time: Unix seconds, RFC
// 3339, or "2006-01-02 15:04:05" in UTC. The value is the column value or, if
// there is none, the first other column; where it is empty or NaN nothing is
// known. Anything else that is no number is an error that names the line.
func Read(r io.Reader, name string) (*Series, error) {
	points, err := readPoints(r, name, false)
	if err != nil {
		return nil, err
	}
	return Grid(name, points[""])
}

// ReadRooms reads one series for each value of the column room; see [Read].
func ReadRooms(r io.Reader, name string) (map[string]*Series, error) {
	points, err := readPoints(r, name, true)
	if err != nil {
		return nil, err
	}
	rooms := map[string]*Series{}
	for _, room := range slices.Sorted(maps.Keys(points)) {
		if rooms[room], err = Grid(fmt.Sprintf("%s, room %q", name, room), points[room]); err != nil {
			return nil, err
		}
	}
	return rooms, nil
}

// readPoints reads points, by the column room if there are rooms.
func readPoints(r io.Reader, name string, rooms bool) (map[string][]Sample, error) {
	in := csv.NewReader(bufio.NewReaderSize(r, 1<<16))
	in.ReuseRecord = true
	in.FieldsPerRecord = -1 // counted here, for a message that says what to do
	header, err := in.Read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s:1: the file is empty; it must begin with column names such as ts,value", name)
	}
	var bad *csv.ParseError
	if errors.As(err, &bad) {
		return nil, fmt.Errorf("%s:%d: %w; the file must begin with column names such as ts,value", name, bad.Line, bad.Err)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	header = slices.Clone(header)
	for i := range header {
		header[i] = strings.ToLower(strings.TrimSpace(strings.TrimPrefix(header[i], "\ufeff")))
	}
	tc := slices.IndexFunc(header, func(h string) bool {
		return slices.Contains([]string{"ts", "timestamp", "time", "local_time"}, h)
	})
	if tc < 0 {
		return nil, fmt.Errorf("%s:1: no column is called ts, timestamp, time or local_time, only %s; name the column of times", name, strings.Join(header, ", "))
	}
	rc := -1
	if rooms {
		if rc = slices.Index(header, "room"); rc < 0 {
			return nil, fmt.Errorf("%s:1: no column is called room, only %s; counts need room, ts and value", name, strings.Join(header, ", "))
		}
	}
	vc := slices.Index(header, "value")
	for i := range header {
		if vc < 0 && i != tc && i != rc {
			vc = i
		}
	}
	if vc < 0 {
		return nil, fmt.Errorf("%s:1: there is no column of values beside the time", name)
	}
	points := map[string][]Sample{}
	for {
		row, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.As(err, &bad) {
			return nil, fmt.Errorf("%s:%d: %w; correct or remove the line", name, bad.Line, bad.Err)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		line, _ := in.FieldPos(0)
		if len(row) != len(header) {
			return nil, fmt.Errorf("%s:%d: %d fields where the first line names %d; correct or remove the line", name, line, len(row), len(header))
		}
		t, ok := parseTime(strings.TrimSpace(row[tc]))
		if !ok {
			return nil, fmt.Errorf("%s:%d: %q is not a time; give Unix seconds, or times such as 2026-03-02T18:00:00Z", name, line, row[tc])
		}
		v := math.NaN()
		if text := strings.TrimSpace(row[vc]); text != "" {
			if v, err = strconv.ParseFloat(text, 64); err != nil || math.Abs(v) > 1e100 {
				return nil, fmt.Errorf("%s:%d: %q is not a number; correct the line, or leave the value out where nothing is known", name, line, row[vc])
			}
		}
		room := ""
		if rooms {
			room = strings.TrimSpace(row[rc])
		}
		points[room] = append(points[room], Sample{t, v})
	}
	if len(points) == 0 {
		return nil, fmt.Errorf("%s: the file has column names and no line of data", name)
	}
	return points, nil
}

var layouts = []string{"2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", time.RFC3339}

func parseTime(s string) (time.Time, bool) {
	if n, err := strconv.ParseFloat(s, 64); err == nil {
		if n > 1e11 { // milliseconds
			n /= 1000
		}
		// Beyond these years it is no Unix time.
		if !(n >= 0 && n < 7.3e9) {
			return time.Time{}, false
		}
		return time.Unix(int64(n), 0).UTC(), true
	}
	for _, l := range layouts {
		if t, err := time.Parse(l, s); err == nil {
			return t.UTC(), t.Unix() >= 0 && t.Unix() < 7.3e9
		}
	}
	return time.Time{}, false
}

// Grid puts points onto the grid of minutes. Between two points the value is a
// straight line, unless they are more than two and a half usual steps apart:
// then nothing is known in between. Points out of order are sorted, of several
// at one time the mean counts, and what is below 0 counts as 0; Notes say so.
func Grid(name string, points []Sample) (*Series, error) {
	s := &Series{Name: name}
	known := points[:0:0]
	unknown, negative := 0, 0
	for _, p := range points {
		switch {
		case math.IsNaN(p.V) || math.Abs(p.V) > 1e100:
			unknown++
			continue
		case p.V < 0:
			negative++
			p.V = 0
		}
		known = append(known, p)
	}
	if len(known) < 2 {
		return nil, fmt.Errorf("%s: the series has %d points with a value; it needs days of them", name, len(known))
	}
	if !slices.IsSortedFunc(known, func(a, b Sample) int { return a.T.Compare(b.T) }) {
		slices.SortStableFunc(known, func(a, b Sample) int { return a.T.Compare(b.T) })
		s.Notes = append(s.Notes, "the points were not in order of time; they were sorted")
	}
	merged, n := known[:1], 1.0
	for _, p := range known[1:] {
		if last := &merged[len(merged)-1]; p.T.Equal(last.T) {
			n++
			last.V += (p.V - last.V) / n
			continue
		}
		merged, n = append(merged, p), 1
	}
	note := func(count int, what string) {
		if count > 0 {
			s.Notes = append(s.Notes, fmt.Sprintf("%d %s", count, what))
		}
	}
	note(len(known)-len(merged), "points had the time of another; their mean counts")
	note(unknown, "points have no value; nothing is known there")
	note(negative, "points are below 0; they count as 0")
	if len(merged) < 2 {
		return nil, fmt.Errorf("%s: all points have one time; the series needs days of them", name)
	}

	s.Step = usualStep(merged)
	if s.Step > maxStep {
		return nil, fmt.Errorf("%s: the points are %v apart; the replay needs a step of 1 to 30 minutes", name, s.Step)
	}
	s.From = merged[0].T.Truncate(time.Minute)
	last := merged[len(merged)-1].T
	minutes := int(last.Sub(s.From)/time.Minute) + 1
	if minutes > maxMinutes || minutes < 1 {
		return nil, fmt.Errorf("%s: the points span %s to %s; the replay takes at most ten years", name, merged[0].T.Format(time.DateOnly), last.Format(time.DateOnly))
	}
	s.Value = make([]float64, minutes)
	most := time.Duration(gapSteps * float64(max(s.Step, time.Minute)))
	i, missing := 0, 0
	for m := range s.Value {
		t := s.From.Add(time.Duration(m) * time.Minute)
		// Several points within one minute are one: their mean.
		sum, n := 0.0, 0
		for j := i; j < len(merged) && merged[j].T.Before(t.Add(time.Minute)); j++ {
			if !merged[j].T.Before(t) {
				sum += merged[j].V
				n++
			}
		}
		for i+1 < len(merged) && !merged[i+1].T.After(t) {
			i++
		}
		switch {
		case n > 0:
			s.Value[m] = sum / float64(n)
		case i+1 < len(merged) && merged[i+1].T.Sub(merged[i].T) <= most:
			a, b := merged[i], merged[i+1]
			u := float64(t.Sub(a.T)) / float64(b.T.Sub(a.T))
			s.Value[m] = a.V*(1-u) + b.V*u
		default:
			s.Value[m] = math.NaN()
			missing++
		}
	}
	note(missing, "minutes lie in gaps; nothing is known there")
	return s, nil
}

// usualStep is the median distance of two points.
func usualStep(p []Sample) time.Duration {
	d := make([]time.Duration, len(p)-1)
	for i := range d {
		d[i] = p[i+1].T.Sub(p[i].T)
	}
	slices.Sort(d)
	return d[len(d)/2]
}
