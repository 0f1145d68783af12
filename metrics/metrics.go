// Package metrics is where Neap asks PromQL, and the only place.
//
// [Source] has two implementations with one test suite: [Embedded], Prometheus'
// own TSDB and engine as a library, and [Remote], the user's Prometheus.
// [Usage] turns the counters of either into what pods used, for the bill.
//
// What a source cannot know it leaves out: a gap in the metrics is an absence
// of points, never a zero, and [Gaps] names it.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// A Point is one value at one time.
type Point struct {
	T time.Time
	V float64
}

// A Series is one labelled series of points, oldest first. A gap in the metrics
// is an absence of points, never a zero.
type Series struct {
	Labels map[string]string
	Points []Point
}

// A Source answers PromQL. Errors name the query and the source in one
// sentence; results are sorted by labels. A Source is safe for concurrent use.
//
// Where the source answered but warned that the answer is not whole, the series
// come back together with a [PartialError]; a caller that cannot say
// "estimated" treats it as any other error.
type Source interface {
	// Instant evaluates query at one time; every series has one point. A query
	// that is a range selector, such as m[1h], gives the raw points instead.
	Instant(ctx context.Context, query string, at time.Time) ([]Series, error)
	// Range evaluates query at from, from+step, … up to and including to.
	Range(ctx context.Context, query string, from, to time.Time, step time.Duration) ([]Series, error)
}

// A QueryError says in one sentence which query could not be answered, where,
// and what to do. It wraps the cause where there is one.
type QueryError struct {
	Source string // where: a directory, or a URL without credentials
	Query  string
	Reason string // what went wrong
	Advice string // what to do
	Err    error
}

// Error returns the sentence.
func (e *QueryError) Error() string {
	return fmt.Sprintf("query %q at %s: %s; %s", shorten(e.Query), e.Source, e.Reason, e.Advice)
}

// Unwrap returns the cause.
func (e *QueryError) Unwrap() error { return e.Err }

// A PartialError says that a source answered only in part. The series that come
// with it are true but may not be all.
type PartialError struct {
	Source, Query string
	Warnings      []string
}

// Error returns the sentence.
func (e *PartialError) Error() string {
	return fmt.Sprintf("query %q at %s: the answer may not be whole: %s; treat what it says as estimated",
		shorten(e.Query), e.Source, strings.Join(e.Warnings, ", "))
}

// Partial reports whether err says that the series which came with it are true
// but may not be all.
func Partial(err error) bool {
	var p *PartialError
	return errors.As(err, &p)
}

// A Gap is a stretch of time for which a series has no points.
type Gap struct{ From, To time.Time }

// Gaps returns the stretches of [from, to) longer than most in which points,
// oldest first, are silent. A point speaks for the time up to the next one.
func Gaps(points []Point, from, to time.Time, most time.Duration) []Gap {
	var gaps []Gap
	last := from
	for _, p := range points {
		if !p.T.After(from) {
			continue
		}
		if !p.T.Before(to) {
			break
		}
		if p.T.Sub(last) > most {
			gaps = append(gaps, Gap{last, p.T})
		}
		last = p.T
	}
	if to.Sub(last) > most {
		gaps = append(gaps, Gap{last, to})
	}
	return gaps
}

// shorten keeps a query readable inside a sentence.
func shorten(q string) string {
	q = strings.Join(strings.Fields(q), " ")
	if r := []rune(q); len(r) > 160 {
		return string(r[:157]) + "…"
	}
	return q
}

func sortSeries(s []Series) []Series {
	keys := make([]string, len(s))
	order := make([]int, len(s))
	for i := range s {
		order[i] = i
		keys[i] = labelKey(s[i].Labels)
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(keys[a], keys[b]) })
	out := make([]Series, len(s))
	for i, o := range order {
		out[i] = s[o]
	}
	return out
}

func labelKey(m map[string]string) string {
	names := make([]string, 0, len(m))
	for k := range m {
		names = append(names, k)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, n := range names {
		b.WriteString(n)
		b.WriteByte(0xff)
		b.WriteString(m[n])
		b.WriteByte(0xff)
	}
	return b.String()
}

// checkRange refuses windows that no source should be asked for.
func checkRange(source, query string, from, to time.Time, step time.Duration) error {
	switch {
	case to.Before(from):
		return &QueryError{Source: source, Query: query, Reason: "the window ends before it starts",
			Advice: "give a later end"}
	case step <= 0:
		return &QueryError{Source: source, Query: query, Reason: fmt.Sprintf("the step %v is not positive", step),
			Advice: "ask for a step such as 1m"}
	case to.Sub(from)/step > maxSteps:
		return &QueryError{Source: source, Query: query,
			Reason: fmt.Sprintf("the window has %d steps, more than %d", to.Sub(from)/step, maxSteps),
			Advice: "ask for a longer step or a shorter window"}
	}
	return nil
}

// maxSteps is Prometheus' own limit of points in one series of a range query.
const maxSteps = 11_000

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
