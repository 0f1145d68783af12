// Package metricstest is the one test suite that every metrics.Source passes.
package metricstest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/neap-dev/neap/metrics"
)

// Start is the time of the first sample that [Fill] records.
var Start = time.Date(2026, 3, 4, 17, 0, 0, 0, time.UTC)

// Step is the distance of the samples that [Fill] records.
const Step = 15 * time.Second

// Fill records what [Run] asks for: ten minutes of a counter that grows by 2 a
// second and starts anew after five minutes, of the same for a second pod that
// is silent from minute 3 to minute 9, and of a gauge.
func Fill(t *testing.T, e *metrics.Embedded) {
	t.Helper()
	name := "container_cpu_usage_seconds_total"
	a := metrics.NewHandle(map[string]string{"__name__": name, "namespace": "school", "pod": "a", "container": "app"})
	b := metrics.NewHandle(map[string]string{"__name__": name, "namespace": "school", "pod": "b", "container": "app"})
	g := metrics.NewHandle(map[string]string{"__name__": "container_memory_working_set_bytes", "namespace": "school", "pod": "a", "container": "app"})
	for d := time.Duration(0); d <= 10*time.Minute; d += Step {
		v := 2 * d.Seconds()
		if d >= 5*time.Minute {
			v = 2 * (d - 5*time.Minute).Seconds()
		}
		samples := []metrics.Sample{{Handle: a, V: v}, {Handle: g, V: 1 << 30}}
		if d < 3*time.Minute || d >= 9*time.Minute {
			samples = append(samples, metrics.Sample{Handle: b, V: 2 * d.Seconds()})
		}
		if err := e.Append(t.Context(), Start.Add(d), samples); err != nil {
			t.Fatal(err)
		}
	}
}

// Run checks that source, which holds what [Fill] recorded with a lookback of
// one minute, keeps what metrics.Source promises.
func Run(t *testing.T, source metrics.Source) {
	ctx := t.Context()
	at := func(d time.Duration) time.Time { return Start.Add(d) }
	near := cmpopts.EquateApprox(1e-9, 1e-9)

	t.Run("an instant query gives one point a series, sorted by labels", func(t *testing.T) {
		got, err := source.Instant(ctx, `container_cpu_usage_seconds_total`, at(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		want := []metrics.Series{
			{Labels: map[string]string{"__name__": "container_cpu_usage_seconds_total", "container": "app", "namespace": "school", "pod": "a"},
				Points: []metrics.Point{{T: at(time.Minute), V: 120}}},
			{Labels: map[string]string{"__name__": "container_cpu_usage_seconds_total", "container": "app", "namespace": "school", "pod": "b"},
				Points: []metrics.Point{{T: at(time.Minute), V: 120}}},
		}
		if d := cmp.Diff(want, got, near); d != "" {
			t.Error(d)
		}
	})
	t.Run("a counter that starts anew is not a fall", func(t *testing.T) {
		got, err := source.Instant(ctx, `sum(rate(container_cpu_usage_seconds_total{pod="a"}[2m]))`, at(6*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || got[0].Points[0].V < 1.5 || got[0].Points[0].V > 2.1 {
			t.Errorf("got %v, want about 2", got)
		}
	})
	t.Run("a range query includes both ends", func(t *testing.T) {
		got, err := source.Range(ctx, `container_memory_working_set_bytes`, at(0), at(2*time.Minute), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		want := []metrics.Point{{T: at(0), V: 1 << 30}, {T: at(time.Minute), V: 1 << 30}, {T: at(2 * time.Minute), V: 1 << 30}}
		if len(got) != 1 || !cmp.Equal(want, got[0].Points, near) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
	t.Run("a gap is an absence of points", func(t *testing.T) {
		got, err := source.Range(ctx, `container_cpu_usage_seconds_total{pod="b"}`, at(0), at(10*time.Minute), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 {
			t.Fatalf("got %d series, want 1", len(got))
		}
		gaps := metrics.Gaps(got[0].Points, at(0), at(10*time.Minute), 2*time.Minute)
		want := []metrics.Gap{{From: at(3 * time.Minute), To: at(9 * time.Minute)}}
		if d := cmp.Diff(want, gaps); d != "" {
			t.Error(d)
		}
	})
	t.Run("a range selector gives the raw points", func(t *testing.T) {
		got, err := source.Instant(ctx, `container_cpu_usage_seconds_total{pod="b"}[10m]`, at(10*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		// Prometheus leaves out the left end; three minutes less one point, and
		// one minute with both ends, at four points a minute.
		if len(got) != 1 || len(got[0].Points) != 11+5 {
			t.Fatalf("got %v, want 16 points", got)
		}
		if p := got[0].Points[0]; !p.T.Equal(at(Step)) || p.V != 30 {
			t.Errorf("first point is %v, want the one of second 15", p)
		}
	})
	t.Run("a scalar is a series without labels", func(t *testing.T) {
		got, err := source.Instant(ctx, `1 + 1`, at(0))
		if err != nil {
			t.Fatal(err)
		}
		want := []metrics.Series{{Labels: map[string]string{}, Points: []metrics.Point{{T: at(0), V: 2}}}}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
	t.Run("nothing is not an error", func(t *testing.T) {
		got, err := source.Instant(ctx, `no_such_metric`, at(0))
		if err != nil || len(got) != 0 {
			t.Errorf("got %v, %v", got, err)
		}
	})

	faults := map[string]struct {
		ask  func() error
		want []string
	}{
		"a query that cannot be parsed is named with what to do": {
			func() error { _, err := source.Instant(ctx, `sum(`, at(0)); return err },
			[]string{`query "sum(" at `, "correct the query"}},
		"a window that ends before it starts is refused": {
			func() error { _, err := source.Range(ctx, `up`, at(time.Hour), at(0), time.Minute); return err },
			[]string{"ends before it starts"}},
		"a step of zero is refused": {
			func() error { _, err := source.Range(ctx, `up`, at(0), at(time.Hour), 0); return err },
			[]string{"step", "positive"}},
		"too many steps are refused": {
			func() error { _, err := source.Range(ctx, `up`, at(0), at(24*time.Hour), time.Second); return err },
			[]string{"86400 steps", "longer step"}},
		"text is not a number": {
			func() error { _, err := source.Instant(ctx, `"text"`, at(0)); return err },
			[]string{"ask for numbers"}},
	}
	for name, tc := range faults {
		t.Run(name, func(t *testing.T) {
			err := tc.ask()
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
			if strings.ContainsAny(err.Error(), "\n") {
				t.Errorf("error is not one line: %q", err)
			}
		})
	}
	t.Run("a warning comes with the series as a partial answer", func(t *testing.T) {
		got, err := source.Instant(ctx, `quantile(2, container_memory_working_set_bytes)`, at(0))
		if !metrics.Partial(err) {
			t.Fatalf("error is %v, want a PartialError", err)
		}
		if len(got) != 1 {
			t.Errorf("got %d series, want 1", len(got))
		}
	})
	t.Run("a cancelled query says so", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		_, err := source.Instant(ctx, `up`, at(0))
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "cancelled") {
			t.Errorf("error is %v", err)
		}
	})
}
