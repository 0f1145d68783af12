package series

import (
	"errors"
	"io/fs"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/internal/shareddata"
)

func TestReadTakesTheFormatsOfPublicSeries(t *testing.T) {
	shanghai, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		text  string
		o     Options
		first time.Time
		v     float64
		n     int
		step  time.Duration
	}{
		"Unix seconds": {"ts,value\n1633478400,1.5\n1633478460,2\n", Options{}, time.Unix(1633478400, 0), 1.5, 2, time.Minute},
		"times without a zone are local": {"timestamp,value\n2014-04-02 14:25:00,0.068\n2014-04-02 14:30:00,1\n", Options{Location: shanghai},
			time.Date(2014, 4, 2, 14, 25, 0, 0, shanghai), 0.068, 2, 5 * time.Minute},
		"one room of several": {"room,ts,value\nA,100,1\nB,100,7\nA,160,2\nB,160,8\n", Options{Where: map[string]string{"room": "B"}}, time.Unix(100, 0), 7, 2, time.Minute},
		"the first column beside the time is the value": {"local_time,events,events_in_lesson\n2024-02-09T19:50:00,6,0\n", Options{},
			time.Date(2024, 2, 9, 19, 50, 0, 0, time.UTC), 6, 1, time.Minute},
		"another column by its name":          {"ts,generative_sum,api_sum\n1662859140,0.000,0.090\n", Options{Value: "api_sum"}, time.Unix(1662859140, 0), 0.09, 1, time.Minute},
		"more columns than are needed":        {"ts,value,temp_c,holiday\n1325336400,4382.8,21.4,1\n", Options{}, time.Unix(1325336400, 0), 4382.8, 1, time.Minute},
		"spaces, a byte order mark and CRLF":  {"\ufeffts, value\r\n100, 3 \r\n", Options{}, time.Unix(100, 0), 3, 1, time.Minute},
		"a last line without an end":          {"ts,value\n100,3", Options{}, time.Unix(100, 0), 3, 1, time.Minute},
		"an empty line says nothing at all":   {"ts,value\n\n100,3\n", Options{}, time.Unix(100, 0), 3, 1, time.Minute},
		"the step is the median of distances": {"ts,value\n0,1\n60,1\n120,1\n3600,1\n", Options{}, time.Unix(0, 0), 1, 4, time.Minute},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s, err := Read(strings.NewReader(tc.text), "x.csv", tc.o)
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Points) != tc.n || !s.Points[0].T.Equal(tc.first) || s.Points[0].V != tc.v || s.Step != tc.step {
				t.Errorf("got %d points, first %v, step %v", len(s.Points), s.Points[0], s.Step)
			}
		})
	}
}

func TestReadSaysWhatIsWrongAndWhere(t *testing.T) {
	cases := map[string]struct {
		text string
		o    Options
		want string
	}{
		"an empty file":                  {"", Options{}, "x.csv:1: the file is empty"},
		"no column of time":              {"when,value\n1,2\n", Options{}, "x.csv:1: no column is called ts"},
		"no such column":                 {"ts,value\n1,2\n", Options{Value: "rps"}, `x.csv:1: there is no column "rps", only ts, value`},
		"no values":                      {"ts\n1\n", Options{}, "x.csv:1: there is no column of values"},
		"only column names":              {"ts,value\n", Options{}, "x.csv: the file has column names and no line of data"},
		"a line with too many fields":    {"ts,value\n1,2\n2,3,4\n", Options{}, "x.csv:3: 3 fields where the first line names 2"},
		"a value that is no number":      {"ts,value\n1,2\n2,None\n", Options{}, `x.csv:3: value: "None" is not a number`},
		"a value that is not finite":     {"ts,value\n1,NaN\n", Options{}, `x.csv:2: value: "NaN" is not a number`},
		"a time that is none":            {"ts,value\nyesterday,2\n", Options{}, `x.csv:2: ts: "yesterday" is no time`},
		"milliseconds taken for seconds": {"ts,value\n1633478400000,2\n", Options{}, "in Unix seconds (milliseconds?)"},
		"a time that goes back":          {"ts,value\n60,1\n0,2\n", Options{}, "x.csv:3: the time 1970-01-01T00:00:00Z does not come after"},
		"two rooms at once":              {"room,ts,value\nA,0,1\nB,0,2\n", Options{}, "keep one series of several by a column's value"},
		"a room that is not there":       {"room,ts,value\nA,0,1\n", Options{Where: map[string]string{"room": "C"}}, "none of the 1 lines has room=C"},
		"a quote that does not end":      {"ts,value\n1,\"2\n", Options{}, "x.csv:"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Read(strings.NewReader(tc.text), "x.csv", tc.o)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestAGapStaysAGap(t *testing.T) {
	s, err := Read(strings.NewReader("ts,value\n0,0\n60,60\n120,120\n180,180\n3600,10\n3660,20\n"), "x.csv", Options{})
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		at   int64
		want float64
		ok   bool
	}{
		"at a point":                    {60, 60, true},
		"between two points":            {90, 90, true},
		"in the gap":                    {1800, 0, false},
		"before the series":             {-1, 0, false},
		"within the last point's step":  {3700, 20, true},
		"after the series":              {3720, 0, false},
		"just after the gap":            {3600, 10, true},
		"just before the gap's far end": {3599, 0, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if v, ok := s.At(time.Unix(tc.at, 0)); v != tc.want || ok != tc.ok {
				t.Errorf("got %v, %v", v, ok)
			}
		})
	}
	t.Run("resampling does not fill it", func(t *testing.T) {
		r := s.Resample(5 * time.Minute)
		if len(r.Points) != 2 || r.Points[0].V != 90 || r.Points[1].V != 15 {
			t.Errorf("got %v", r.Points)
		}
	})
	t.Run("unless missing means nothing happened", func(t *testing.T) {
		z := *s
		z.MissingIsZero = true
		if v, ok := z.At(time.Unix(1800, 0)); v != 0 || !ok {
			t.Errorf("got %v, %v", v, ok)
		}
	})
}

func TestScaleAndShift(t *testing.T) {
	s := &Series{Points: []Point{{time.Unix(0, 0), 2}, {time.Unix(60, 0), 4}}, Step: time.Minute}
	got := s.Scale(10).Shift(time.Hour)
	if v, ok := got.At(time.Unix(3630, 0)); v != 30 || !ok {
		t.Errorf("got %v, %v", v, ok)
	}
	if s.Points[0].V != 2 {
		t.Error("the series itself was changed")
	}
}

func TestNoiseHasTheSpreadAndTheMemoryItSays(t *testing.T) {
	n := Noise{Sigma: 0.2, Rho: 0.9, Seed: 7}
	const count = 20000
	var z [count]float64
	var sum, squares, product float64
	for i := range z {
		z[i] = math.Log(n.Factor(time.Unix(int64(i)*60, 0))) / n.Sigma
		sum += z[i]
		squares += z[i] * z[i]
		if i > 0 {
			product += z[i] * z[i-1]
		}
	}
	if m := sum / count; math.Abs(m) > 0.1 {
		t.Errorf("the mean is %v", m)
	}
	if v := squares / count; math.Abs(v-1) > 0.1 {
		t.Errorf("the variance is %v", v)
	}
	if r := product / squares; math.Abs(r-0.9) > 0.02 {
		t.Errorf("the autocorrelation is %v", r)
	}
	if (Noise{}).Factor(time.Unix(5, 0)) != 1 {
		t.Error("no noise changes something")
	}
}

func TestFitFindsTheParametersOfWhatTheGeneratorMade(t *testing.T) {
	want, ok := Fitted("crane-input9")
	if !ok {
		t.Fatal("crane-input9 is not among the fitted parameters")
	}
	want.BurstsPerDay = 0
	for h := range want.Sigma {
		want.Sigma[h] = 0.1
	}
	for d := range want.Weekday {
		want.Weekday[d] = 1
	}
	want.Rho = 0.9
	g := Generator{Parameters: want, Seed: 3}
	s := &Series{Step: time.Minute}
	for at := time.Date(2026, 9, 7, 0, 0, 0, 0, time.UTC); at.Before(time.Date(2026, 9, 28, 0, 0, 0, 0, time.UTC)); at = at.Add(time.Minute) {
		v, _ := g.At(at)
		s.Points = append(s.Points, Point{at, v})
	}
	got, err := Fit(s, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	if c := correlation(got.Shape[:], want.Shape[:]); c < 0.995 {
		t.Errorf("the shape correlates by %v", c)
	}
	if math.Abs(got.Level/want.Level-1) > 0.03 {
		t.Errorf("the level is %v, want %v", got.Level, want.Level)
	}
	if m := median(got.Sigma[:]); math.Abs(m-0.1) > 0.03 {
		t.Errorf("sigma is %v, want about 0.1", got.Sigma)
	}
	if math.Abs(got.Rho-0.9) > 0.06 {
		t.Errorf("rho is %v, want 0.9", got.Rho)
	}
}

// The committed parameters must be what Fit says today, and the generator must
// look like the recording.
func TestTheCommittedParametersAreThoseOfTheRealSeries(t *testing.T) {
	dir := filepath.Join(shareddata.Dir(t), "load")
	cases := map[string]struct {
		file string
		zone string
		corr float64 // of the mean day; measured, rounded down
	}{
		"crane-input0": {"crane/input0.csv", "Asia/Shanghai", 0.98},
		"crane-input1": {"crane/input1.csv", "Asia/Shanghai", 0.90},
		"crane-input2": {"crane/input2.csv", "Asia/Shanghai", 0.92},
		"crane-input9": {"crane/input9.csv", "Asia/Shanghai", 0.98},
		"nab-nyc-taxi": {"nab/nyc_taxi.csv", "America/New_York", 0.98},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			zone, err := time.LoadLocation(tc.zone)
			if err != nil {
				t.Fatal(err)
			}
			s, err := ReadFile(filepath.Join(dir, tc.file), Options{Location: zone})
			if err != nil {
				t.Fatal(err)
			}
			got, err := Fit(s, zone)
			if err != nil {
				t.Fatal(err)
			}
			want, _ := Fitted(name)
			got.Source = want.Source
			if got != want {
				t.Errorf("Fit gives other parameters than those committed; run go run ./hack/fit")
			}
			// The mean day of the recording and of as many generated days.
			g := Generator{Parameters: want, Location: zone, Seed: 1}
			made := &Series{Step: s.Step}
			for _, p := range s.Points {
				v, _ := g.At(p.T)
				made.Points = append(made.Points, Point{p.T, v})
			}
			c := correlation(meanDay(s, zone), meanDay(made, zone))
			t.Logf("the mean days correlate by %.4f", c)
			if c < tc.corr {
				t.Errorf("the mean days correlate by %v, want at least %v", c, tc.corr)
			}
		})
	}
}

func TestEveryRealSeriesIsReadOrNamedAtItsBadLine(t *testing.T) {
	dir := filepath.Join(shareddata.Dir(t), "load")
	options := map[string]Options{
		"ucd_wifi_clients_5min.csv":                  {Where: map[string]string{"room": "B-002"}},
		"ucd_ground_truth.csv":                       {Time: "time", Value: "occupancy"},
		"ucd_timetable_clean.csv":                    {Time: "time", Value: "size"},
		"alibaba_gentd26_load_latency_quantiles.csv": {},
	}
	notSeries := map[string]string{ // file: what the error names
		"ucd_ground_truth.csv":                       "ucd_ground_truth.csv:2: time:",
		"ucd_timetable_clean.csv":                    "ucd_timetable_clean.csv:2: time:",
		"alibaba_gentd26_load_latency_quantiles.csv": "alibaba_gentd26_load_latency_quantiles.csv:1: no column",
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.csv"))
	if err != nil || len(files) < 15 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		name := filepath.Base(f)
		s, err := ReadFile(f, options[name])
		if want, ok := notSeries[name]; ok {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", name, err, want)
			}
			continue
		}
		if err != nil || len(s.Points) < 800 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func correlation(a, b []float64) float64 {
	var ma, mb float64
	for i := range a {
		ma += a[i] / float64(len(a))
		mb += b[i] / float64(len(b))
	}
	var ab, aa, bb float64
	for i := range a {
		ab += (a[i] - ma) * (b[i] - mb)
		aa += (a[i] - ma) * (a[i] - ma)
		bb += (b[i] - mb) * (b[i] - mb)
	}
	return ab / math.Sqrt(aa*bb)
}

func meanDay(s *Series, in *time.Location) []float64 {
	var sum, n [48]float64
	for _, p := range s.Points {
		l := p.T.In(in)
		h := l.Hour()*2 + l.Minute()/30
		sum[h] += p.V
		n[h]++
	}
	for h := range sum {
		sum[h] /= max(n[h], 1)
	}
	return sum[:]
}

// FuzzRead: whatever is in a file, reading it gives an error of one line or a
// series in order whose every value is a number.
func FuzzRead(f *testing.F) {
	for _, s := range []string{"ts,value\n1,2\n2,3\n", "timestamp,value\n2014-04-02 14:25:00,0.068\n", "room,ts,value\nA,1,2\n", "local_time,events\n2024-02-09T19:50:00,6\n", "ts,value\n1,\"2\n", "", "\xef\xbb\xbfts,value\r\n1,2\r\n", "ts,value\n-1,1e308\n0,-1e308\n"} {
		f.Add(s, "", "")
	}
	f.Add("room,ts,value\nA,1,2\n", "room", "A")
	f.Fuzz(func(t *testing.T, text, col, val string) {
		o := Options{}
		if col != "" {
			o.Where = map[string]string{col: val}
		}
		s, err := Read(strings.NewReader(text), "x.csv", o)
		if err != nil {
			if strings.ContainsRune(strings.TrimPrefix(err.Error(), "x.csv"), '\x00') && !strings.ContainsRune(text+col+val, '\x00') {
				t.Fatalf("a strange error: %q", err)
			}
			return
		}
		if len(s.Points) == 0 || s.Step <= 0 {
			t.Fatalf("a series of %d points and step %v", len(s.Points), s.Step)
		}
		for i, p := range s.Points {
			if math.IsNaN(p.V) || math.IsInf(p.V, 0) || i > 0 && !p.T.After(s.Points[i-1].T) {
				t.Fatalf("point %d is %v", i, p)
			}
			if v, ok := s.At(p.T); !ok || v != p.V {
				t.Fatalf("At(%v) = %v, %v, want %v", p.T, v, ok, p.V)
			}
		}
	})
}

func TestAMissingFileIsNamed(t *testing.T) {
	_, err := ReadFile(filepath.Join(t.TempDir(), "no.csv"), Options{})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
