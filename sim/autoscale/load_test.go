package autoscale

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

func TestRead(t *testing.T) {
	nan := math.NaN()
	cases := map[string]struct {
		csv   string
		want  []float64
		notes int
		err   string
	}{
		"Unix seconds a minute apart":            {csv: "ts,value\n60,1\n120,2\n180,3\n", want: []float64{1, 2, 3}},
		"times in UTC":                           {csv: "timestamp,value\n2026-03-02 10:00:00,1\n2026-03-02 10:01:00,2\n", want: []float64{1, 2}},
		"times with a zone":                      {csv: "timestamp,value\n2026-03-02T10:00:00+01:00,1\n2026-03-02T09:01:00Z,2\n", want: []float64{1, 2}},
		"the value's column has another name":    {csv: "ts,qps\n60,1\n120,2\n", want: []float64{1, 2}},
		"the value's column is among others":     {csv: "host,value,ts\na,1,60\na,2,120\n", want: []float64{1, 2}},
		"a byte order mark and Windows' lines":   {csv: "\ufeffts,value\r\n60,1\r\n120,2\r\n", want: []float64{1, 2}},
		"five minutes are joined by a line":      {csv: "ts,value\n0,0\n300,10\n", want: []float64{0, 2, 4, 6, 8, 10}},
		"a gap stays a gap":                      {csv: "ts,value\n0,1\n60,1\n120,1\n360,2\n420,2\n", want: []float64{1, 1, 1, nan, nan, nan, 2, 2}, notes: 1},
		"a missing value of two steps is joined": {csv: "ts,value\n0,1\n60,NaN\n120,3\n180,3\n240,3\n", want: []float64{1, 2, 3, 3, 3}, notes: 1},
		"an empty value is none":                 {csv: "ts,value\n0,1\n60,\n120,3\n180,3\n240,3\n", want: []float64{1, 2, 3, 3, 3}, notes: 1},
		"points out of order are sorted":         {csv: "ts,value\n120,3\n0,1\n60,2\n", want: []float64{1, 2, 3}, notes: 1},
		"the mean counts of one time":            {csv: "ts,value\n0,1\n60,2\n60,4\n120,5\n", want: []float64{1, 3, 5}, notes: 1},
		"below 0 is 0":                           {csv: "ts,value\n0,-1\n60,2\n", want: []float64{0, 2}, notes: 1},
		"seconds apart become minutes":           {csv: "ts,value\n0,1\n20,2\n40,3\n60,4\n80,4\n100,4\n", want: []float64{2, 4}},
		"milliseconds":                           {csv: "ts,value\n1700000040000,1\n1700000100000,2\n", want: []float64{1, 2}},

		"nothing":                     {err: "file:1: the file is empty"},
		"names alone":                 {csv: "ts,value\n", err: "no line of data"},
		"no column of times":          {csv: "a,value\n1,2\n", err: "file:1: no column is called ts, timestamp, time or local_time, only a, value"},
		"no column of values":         {csv: "ts\n1\n", err: "file:1: there is no column of values"},
		"a word for a number":         {csv: "ts,value\n60,1\n120,many\n", err: `file:3: "many" is not a number`},
		"infinite demand":             {csv: "ts,value\n60,1\n120,Inf\n", err: `file:3: "Inf" is not a number`},
		"a word for a time":           {csv: "ts,value\nnoon,1\n", err: `file:2: "noon" is not a time`},
		"a line too short":            {csv: "ts,value\n60\n", err: "file:2: 1 fields where the first line names 2"},
		"a torn quote":                {csv: "ts,value\n60,\"1\n", err: "file:"},
		"one point":                   {csv: "ts,value\n60,1\n", err: "file: the series has 1 points with a value"},
		"one time":                    {csv: "ts,value\n60,1\n60,2\n", err: "all points have one time"},
		"hours apart":                 {csv: "ts,value\n0,1\n3600,2\n7200,3\n", err: "the points are 1h0m0s apart; the replay needs a step of 1 to 30 minutes"},
		"centuries apart":             {csv: "ts,value\n0,1\n60,1\n120,1\n180,1\n5000000000,2\n", err: "the replay takes at most ten years"},
		"a time that no calendar has": {csv: "ts,value\n9e99,1\n", err: "is not a time"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s, err := Read(strings.NewReader(tc.csv), "file")
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := fmt.Sprint(s.Value), fmt.Sprint(tc.want); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if len(s.Notes) != tc.notes {
				t.Errorf("notes %q, want %d", s.Notes, tc.notes)
			}
		})
	}
}

func TestReadRooms(t *testing.T) {
	rooms, err := ReadRooms(strings.NewReader("room,ts,value\nA,0,1\nB,0,5\nA,60,2\nB,60,6\n"), "counts")
	if err != nil || len(rooms) != 2 || rooms["B"].Value[1] != 6 {
		t.Fatal(rooms, err)
	}
	if _, err := ReadRooms(strings.NewReader("ts,value\n0,1\n"), "counts"); err == nil || !strings.Contains(err.Error(), "no column is called room") {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("ts,value\n60,1\n120,NaN\n300,3\n")
	f.Add("timestamp,value\n2026-03-02 10:00:00,1\n2026-03-02T09:01:00Z,2\n")
	f.Add("room,ts,value\nA,0,1\nB,0,5\nA,60,2\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Read(strings.NewReader(text), "file")
		if err != nil {
			return
		}
		for m, v := range s.Value {
			if v < 0 || math.IsInf(v, 0) {
				t.Fatalf("minute %d is %v", m, v)
			}
		}
		if s.Step > maxStep || s.From.Truncate(time.Minute) != s.From {
			t.Fatalf("%+v", s)
		}
		if _, err := Prepare(s, Preparation{TrainDays: 1}); err == nil && len(s.Value) < 2*day {
			t.Fatal("a series of less than two days was taken")
		}
	})
}
