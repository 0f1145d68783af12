// Package metrics is where Neap asks PromQL, and the only place.
//
// [Source] has two implementations with one test suite: [Embedded], Prometheus'
// own TSDB and engine as a library, and [Remote], the user's Prometheus.
package metrics

import (
	"context"
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
type Source interface {
	// Instant evaluates query at one time; every series has one point.
	Instant(ctx context.Context, query string, at time.Time) ([]Series, error)
	// Range evaluates query at from, from+step, … up to and including to.
	Range(ctx context.Context, query string, from, to time.Time, step time.Duration) ([]Series, error)
}
