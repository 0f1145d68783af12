// Package moduleload asks the metrics what a module was asked to do and how well
// it did: the queries that a Module declares, with $window filled in.
package moduleload

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/quality"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/metrics"
)

// Ask returns the load and the quality of m in [from, to). What could not be
// answered is unknown in the result, never zero, and the error says why; no
// answer at all is unknown without an error, for nothing may have been measured.
func Ask(ctx context.Context, source metrics.Source, m convert.Module, from, to time.Time) (bill.Load, error) {
	l := bill.Load{Module: m.Key, Requests: -1}
	requests, err1 := One(ctx, source, m.LoadQuery, from, to)
	if requests >= 0 && requests < 1e18 {
		l.Requests = int64(math.Round(requests))
	}
	success, err2 := One(ctx, source, m.SuccessQuery, from, to)
	p99, err3 := One(ctx, source, m.P99Query, from, to)
	v := quality.Guard{SuccessMicros: m.SuccessMicros, P99: m.P99}.Judge(quality.Observation{At: to, Success: success, P99: p99})
	if v.Status != quality.Unknown {
		l.Known, l.Met = true, v.Status == quality.Met
		l.SuccessMicros, l.P99 = v.SuccessMicros, v.P99
	}
	return l, errors.Join(err1, err2, err3)
}

// One returns the one value that query yields over [from, to), NaN if it yields none.
func One(ctx context.Context, source metrics.Source, query string, from, to time.Time) (float64, error) {
	if query == "" {
		return math.NaN(), nil
	}
	window := fmt.Sprintf("%ds", max(int64(to.Sub(from)/time.Second), 1))
	series, err := source.Instant(ctx, strings.ReplaceAll(query, "$window", window), to)
	switch {
	case err != nil && !metrics.Partial(err):
		return math.NaN(), err
	case len(series) == 0 || len(series[0].Points) == 0:
		return math.NaN(), nil
	case len(series) > 1:
		return math.NaN(), fmt.Errorf("query %q yields %d results, want one: put sum(…) around it", query, len(series))
	}
	return series[0].Points[len(series[0].Points)-1].V, err
}
