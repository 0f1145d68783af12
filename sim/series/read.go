package series

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

// A Point is one value at one time.
type Point struct {
	T time.Time
	V float64
}

// A Series is a recorded curve, oldest point first, no two at one time.
type Series struct {
	Points []Point
	// Step is the usual distance of two points; where the next point is more
	// than [GapSteps] of them away, the series has a gap.
	Step time.Duration
	// MissingIsZero says that times without a point had the value 0, for series
	// that count events and leave out what did not happen.
	MissingIsZero bool
}

// GapSteps is how many steps two points may be apart before it is a gap.
const GapSteps = 2.5

// Options say how to read a CSV file. The zero Options read the first column
// called ts, timestamp, local_time or time, and the column called value or, if
// there is none, the first other column.
type Options struct {
	Time  string // name of the time column
	Value string // name of the value column
	// Where keeps the rows whose columns have these values, such as room=B-002.
	Where map[string]string
	// Location is where times without a zone were written down; nil means UTC.
	// Times in Unix seconds need none.
	Location      *time.Location
	MissingIsZero bool
}

// ReadFile reads a series from a file; see [Read].
func ReadFile(path string, o Options) (*Series, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read series: %w", err)
	}
	defer f.Close()
	return Read(f, path, o)
}

// Read reads a series from CSV with one line of column names. name is the file
// that errors speak of: "name:line: what is wrong".
func Read(r io.Reader, name string, o Options) (*Series, error) {
	in := csv.NewReader(bufio.NewReaderSize(r, 1<<16))
	in.ReuseRecord = true
	in.FieldsPerRecord = -1 // counted here, for a message that says what to do
	header, err := in.Read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s:1: the file is empty; it must begin with column names such as ts,value", name)
	}
	if err != nil {
		return nil, syntax(name, err)
	}
	header = slices.Clone(header)
	for i := range header {
		header[i] = strings.TrimSpace(strings.TrimPrefix(header[i], "\ufeff"))
	}
	columns, err := o.columns(header)
	if err != nil {
		return nil, fmt.Errorf("%s:1: %w", name, err)
	}
	loc := o.Location
	if loc == nil {
		loc = time.UTC
	}
	s := &Series{MissingIsZero: o.MissingIsZero}
	skipped := 0
rows:
	for {
		row, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, syntax(name, err)
		}
		line, _ := in.FieldPos(0)
		if len(row) != len(header) {
			return nil, fmt.Errorf("%s:%d: %d fields where the first line names %d; correct or remove the line", name, line, len(row), len(header))
		}
		for i, want := range columns.where {
			if row[i] != want {
				skipped++
				continue rows
			}
		}
		t, err := parseTime(strings.TrimSpace(row[columns.time]), loc)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %s: %w", name, line, header[columns.time], err)
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(row[columns.value]), 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("%s:%d: %s: %q is not a number; correct or remove the line (a missing line is a gap)", name, line, header[columns.value], row[columns.value])
		}
		if n := len(s.Points); n > 0 && !t.After(s.Points[n-1].T) {
			return nil, fmt.Errorf("%s:%d: the time %s does not come after the line before it; sort the file, or keep one series of several by a column's value", name, line, t.Format(time.RFC3339))
		}
		s.Points = append(s.Points, Point{t, v})
	}
	if len(s.Points) == 0 {
		if skipped > 0 {
			return nil, fmt.Errorf("%s: none of the %d lines has %s; check the value asked for", name, skipped, describe(o.Where))
		}
		return nil, fmt.Errorf("%s: the file has column names and no line of data", name)
	}
	s.Step = usualStep(s.Points)
	return s, nil
}

func describe(where map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(where)) {
		parts = append(parts, k+"="+where[k])
	}
	return strings.Join(parts, " and ")
}

func syntax(name string, err error) error {
	var p *csv.ParseError
	if errors.As(err, &p) {
		return fmt.Errorf("%s:%d: %w; correct or remove the line", name, p.Line, p.Err)
	}
	return fmt.Errorf("read %s: %w", name, err)
}

type columns struct {
	time, value int
	where       map[int]string
}

func (o Options) columns(header []string) (columns, error) {
	c := columns{time: -1, value: -1, where: map[int]string{}}
	find := func(name string) (int, error) {
		if i := slices.Index(header, name); i >= 0 {
			return i, nil
		}
		return 0, fmt.Errorf("there is no column %q, only %s", name, strings.Join(header, ", "))
	}
	var err error
	if o.Time != "" {
		if c.time, err = find(o.Time); err != nil {
			return c, err
		}
	} else {
		for _, name := range []string{"ts", "timestamp", "local_time", "time"} {
			if i := slices.Index(header, name); i >= 0 {
				c.time = i
				break
			}
		}
		if c.time < 0 {
			return c, fmt.Errorf("no column is called ts, timestamp, local_time or time, only %s; say which one is the time", strings.Join(header, ", "))
		}
	}
	for k, v := range o.Where {
		i, err := find(k)
		if err != nil {
			return c, err
		}
		c.where[i] = v
	}
	if o.Value != "" {
		c.value, err = find(o.Value)
		return c, err
	}
	if c.value = slices.Index(header, "value"); c.value >= 0 {
		return c, nil
	}
	for i := range header {
		if _, fixed := c.where[i]; i != c.time && !fixed {
			c.value = i
			return c, nil
		}
	}
	return c, errors.New("there is no column of values beside the time")
}

var layouts = []string{"2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", time.RFC3339}

func parseTime(s string, loc *time.Location) (time.Time, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if n < -maxUnix || n > maxUnix {
			return time.Time{}, fmt.Errorf("%q is no time in Unix seconds (milliseconds?)", s)
		}
		return time.Unix(n, 0).UTC(), nil
	}
	for _, l := range layouts {
		if t, err := time.ParseInLocation(l, s, loc); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time; write Unix seconds or 2006-01-02 15:04:05", s)
}

const maxUnix = 1 << 34 // the year 2514

// usualStep is the median distance of the points, at least a second.
func usualStep(p []Point) time.Duration {
	if len(p) < 2 {
		return time.Minute
	}
	d := make([]time.Duration, 0, len(p)-1)
	for i := 1; i < len(p); i++ {
		d = append(d, p[i].T.Sub(p[i-1].T))
	}
	slices.Sort(d)
	return max(time.Second, d[len(d)/2])
}

// At implements [Curve]: the straight line between the two points around t;
// unknown outside the series and in its gaps.
func (s *Series) At(t time.Time) (float64, bool) {
	i, exact := slices.BinarySearchFunc(s.Points, t, func(p Point, t time.Time) int { return p.T.Compare(t) })
	if exact {
		return s.Points[i].V, true
	}
	// A point stands for the step that begins with it.
	if i > 0 && i == len(s.Points) && t.Sub(s.Points[i-1].T) < s.Step {
		return s.Points[i-1].V, true
	}
	if i == 0 || i == len(s.Points) {
		return 0, false
	}
	a, b := s.Points[i-1], s.Points[i]
	if gap := b.T.Sub(a.T); float64(gap) > GapSteps*float64(s.Step) {
		switch {
		case s.MissingIsZero && t.Sub(a.T) < s.Step:
			return a.V, true
		case s.MissingIsZero:
			return 0, true
		}
		return 0, false
	}
	u := float64(t.Sub(a.T)) / float64(b.T.Sub(a.T))
	return a.V + u*(b.V-a.V), true
}

// Scale returns the series with every value multiplied by f.
func (s *Series) Scale(f float64) *Series {
	return s.mapped(func(p Point) Point { return Point{p.T, p.V * f} })
}

// Shift returns the series moved to later by d.
func (s *Series) Shift(d time.Duration) *Series {
	return s.mapped(func(p Point) Point { return Point{p.T.Add(d), p.V} })
}

func (s *Series) mapped(f func(Point) Point) *Series {
	out := &Series{Points: make([]Point, len(s.Points)), Step: s.Step, MissingIsZero: s.MissingIsZero}
	for i, p := range s.Points {
		out.Points[i] = f(p)
	}
	return out
}

// Resample returns the means over steps of that length, counted from the Unix
// epoch. A step without a point is missing: a gap stays a gap.
func (s *Series) Resample(step time.Duration) *Series {
	out := &Series{Step: step, MissingIsZero: s.MissingIsZero}
	var sum float64
	var n int
	var bin time.Time
	flush := func() {
		if n > 0 {
			out.Points = append(out.Points, Point{bin, sum / float64(n)})
		}
		sum, n = 0, 0
	}
	for _, p := range s.Points {
		b := p.T.Truncate(step)
		if b != bin {
			flush()
			bin = b
		}
		sum += p.V
		n++
	}
	flush()
	return out
}

// Range returns the values that count as the lowest and the highest between two
// instants: the smallest and the largest mean over a quarter of an hour, so that
// one odd minute does not set the scale. ok is false if nothing is known there.
func Range(c Curve, from, to time.Time) (low, high float64, ok bool) {
	for t := from; t.Before(to); t = t.Add(15 * time.Minute) {
		sum, n := 0.0, 0
		for m := range 15 {
			if v, known := c.At(t.Add(time.Duration(m) * time.Minute)); known {
				sum += v
				n++
			}
		}
		if n == 0 {
			continue
		}
		v := sum / float64(n)
		if !ok {
			low, high, ok = v, v, true
		}
		low, high = min(low, v), max(high, v)
	}
	return low, high, ok
}
