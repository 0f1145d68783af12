package scaler

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/forecast"
	"github.com/neap-dev/neap/core/timetable"
	"github.com/neap-dev/neap/metrics"
)

// A demand is the load of one workload by the minute, as far as it is known, and
// what was learnt from it.
type demand struct {
	query  string
	window time.Duration // over which its queries are asked; 0: not found yet
	silent int           // minutes without an answer

	mu         sync.Mutex // guards what follows: the learner shares it
	start      time.Time  // of values[0]
	values     []float32  // NaN: not known
	read       time.Time  // up to when the past was read from the metrics
	next       time.Time  // when to learn again
	learning   bool
	learnt     learnt
	attendance timetable.Attendance
}

// A learnt is what is known of the future, and what it is worth.
type learnt struct {
	model     *forecast.Model
	at        time.Time
	horizon   time.Duration
	skill     forecast.Skill
	err       error              // why the past could not be read
	quantiles map[string]float64 // of the load at the horizon, for the metrics
}

const (
	// learnEvery is how often a forecast is learnt anew, by the cluster's clock;
	// learnAgain after the past could not be read.
	learnEvery = time.Hour
	learnAgain = 10 * time.Minute
	// learners is how many forecasts are learnt at once, beside the decisions.
	learners = 2
)

// shownQuantiles are exported as metrics.
var shownQuantiles = map[string]float64{"0.05": 0.05, "0.5": 0.5, "0.95": 0.95}

// note keeps the load of the minute before now; d.mu is held.
func (d *demand) note(now time.Time, load float64) {
	minute := now.Truncate(time.Minute).Add(-time.Minute)
	d.put(minute, load)
	if d.learnt.model != nil {
		d.learnt.model.Observe(minute, load)
	}
}

func (d *demand) put(minute time.Time, load float64) {
	if len(d.values) == 0 {
		d.start = minute
	}
	i := int(minute.Sub(d.start) / time.Minute)
	if i < 0 || i > len(d.values)+mostSilence {
		return
	}
	for len(d.values) <= i {
		d.values = append(d.values, float32(math.NaN()))
	}
	d.values[i] = float32(load)
}

// mostSilence bounds how far a clock may jump ahead before what was known of the
// load is of no more use.
const mostSilence = 60 * 24 * 60

// due reports whether it is time to learn, and counts as having begun; d.mu is held.
func (d *demand) due(now time.Time) bool {
	if d.learning || now.Before(d.next) {
		return false
	}
	d.learning, d.next = true, now.Add(learnEvery)
	return true
}

// foretell says what will be asked for, as far as it was learnt.
func (s *Scaler) foretell(ctx context.Context, w *world, st *state, seen *observation) {
	d := st.demand
	d.mu.Lock()
	d.note(w.now, seen.Load)
	due := s.o.Metrics != nil && d.due(w.now)
	d.mu.Unlock()
	if due {
		s.learner.learn(ctx, lesson{
			demand: d, source: s.o.Metrics, query: seen.Declared.LoadQuery, window: d.window, now: w.now,
			history: max(seen.Declared.History, classHistory), forecast: seen.Declared.History > 0, horizon: seen.Horizon,
			days: st.classes.days, zone: st.classes.zone,
			table: st.classes.table, module: st.classes.options.Module, classes: seen.Policy.Spec.Timetable != nil,
		})
	}
	if seen.Declared.History == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.learnt
	if m := l.model; m != nil {
		seen.Forecast = seen.Declared.Policy.Foretell(m, w.now, seen.Horizon, seen.Declared.Tau, "")
		for name, tau := range shownQuantiles {
			if v, ok := m.Quantile(w.now, seen.Horizon, tau); ok {
				if l.quantiles == nil {
					l.quantiles = map[string]float64{}
				}
				l.quantiles[name] = v
			}
		}
	}
	seen.Learnt = &l
}

// classHistory is how much of the past attendance is learnt from.
const classHistory = 29 * 24 * time.Hour

// A lesson is what is to be learnt of one workload.
type lesson struct {
	demand  *demand
	source  metrics.Source
	query   string
	window  time.Duration
	now     time.Time
	history time.Duration

	forecast bool
	horizon  time.Duration
	days     elastic.Calendar
	zone     *time.Location

	classes bool
	table   timetable.Timetable
	module  string
}

// take reads the past, learns from it and puts what was learnt in place.
func (l lesson) take(ctx context.Context) {
	d := l.demand
	end := l.now.Truncate(time.Minute)
	d.mu.Lock()
	from := d.read
	d.mu.Unlock()
	if oldest := end.Add(-l.history); from.Before(oldest) {
		from = oldest
	}
	past, err := l.read(ctx, from, end)

	d.mu.Lock()
	if err == nil {
		d.merge(past, end.Add(-l.history))
		d.read = end
	} else {
		d.next = l.now.Add(learnAgain)
	}
	series := forecast.Series{Start: d.start, Step: time.Minute, Values: make([]float64, len(d.values))}
	for i, v := range d.values {
		series.Values[i] = float64(v)
	}
	previous := d.learnt.model.Calibration()
	d.mu.Unlock()

	out := learnt{at: l.now, horizon: l.horizon, err: err}
	if l.forecast {
		out.model = forecast.Fit(series, forecast.Options{Horizon: l.horizon, Location: l.zone, DayKind: l.kind(), Previous: previous})
		out.skill = out.model.Skill()
	}
	var attendance timetable.Attendance
	if l.classes {
		var counts []timetable.Count
		for i, v := range series.Values {
			if !math.IsNaN(v) {
				counts = append(counts, timetable.Count{At: series.Start.Add(time.Duration(i) * time.Minute), Demand: v})
			}
		}
		attendance = timetable.Learn(l.table, l.module, counts)
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	d.learning = false
	if out.model != nil { // what came in while it was learnt
		for i := max(int(series.End().Sub(d.start)/time.Minute), 0); i < len(d.values); i++ {
			out.model.Observe(d.start.Add(time.Duration(i)*time.Minute), float64(d.values[i]))
		}
	}
	d.learnt, d.attendance = out, attendance
}

// kind tells the days apart that are not what their weekday says.
func (l lesson) kind() func(time.Time) string {
	if l.days == nil {
		return nil
	}
	return func(day time.Time) string {
		switch k := l.days.DayType(day); k {
		case elastic.Holiday, elastic.MakeUp:
			return string(k)
		}
		return ""
	}
}

// merge puts what was read over what was noted, and drops what is older than
// oldest; d.mu is held.
func (d *demand) merge(past []metrics.Point, oldest time.Time) {
	noted := demand{start: d.start, values: d.values}
	d.start, d.values = time.Time{}, nil
	keep := func(minute time.Time, load float64) {
		if !minute.Before(oldest) && load >= 0 {
			d.put(minute, load)
		}
	}
	var points []metrics.Point
	for i, v := range noted.values {
		points = append(points, metrics.Point{T: noted.start.Add(time.Duration(i) * time.Minute), V: float64(v)})
	}
	for _, p := range past {
		points = append(points, metrics.Point{T: p.T.Truncate(time.Minute).Add(-time.Minute), V: p.V})
	}
	slices.SortStableFunc(points, func(a, b metrics.Point) int { return a.T.Compare(b.T) })
	for _, p := range points {
		keep(p.T, p.V)
	}
}

// read asks for the load by the minute, a day at a time: Prometheus gives no more
// than 11,000 points at once.
func (l lesson) read(ctx context.Context, from, to time.Time) ([]metrics.Point, error) {
	window := l.window
	if window == 0 {
		window = windows[1]
	}
	query := strings.ReplaceAll(l.query, "$window", fmt.Sprintf("%ds", int(window.Seconds())))
	var out []metrics.Point
	for at := from.Truncate(time.Minute); at.Before(to); at = at.Add(24 * time.Hour) {
		end := at.Add(24*time.Hour - time.Minute)
		if end.After(to) {
			end = to
		}
		series, err := l.source.Range(ctx, query, at, end, time.Minute)
		if err != nil && !metrics.Partial(err) {
			return nil, err
		}
		if len(series) > 1 {
			return nil, fmt.Errorf("query %q yields %d results, want one: put sum(…) around it", query, len(series))
		}
		for _, s := range series {
			out = append(out, s.Points...)
		}
	}
	return out, nil
}

// A learner learns beside the decisions, so that no minute waits for it. While it
// was not started, it learns at once.
type learner struct {
	mu    sync.Mutex
	queue chan lesson
}

// start begins to learn in the background, until ctx ends and the returned
// function is called.
func (l *learner) start(ctx context.Context) (stop func()) {
	queue := make(chan lesson, 100_000)
	l.mu.Lock()
	l.queue = queue
	l.mu.Unlock()
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	for range learners {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case lesson := <-queue:
					lesson.take(ctx)
				}
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

func (l *learner) learn(ctx context.Context, lesson lesson) {
	l.mu.Lock()
	queue := l.queue
	l.mu.Unlock()
	if queue == nil {
		lesson.take(ctx)
		return
	}
	select {
	case queue <- lesson:
	default: // as many wait as there can be policies
		lesson.demand.mu.Lock()
		lesson.demand.learning = false
		lesson.demand.mu.Unlock()
	}
}
