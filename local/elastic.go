package local

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/local/fleet"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/sim/replay"
	"github.com/neap-dev/neap/sim/scenario"
)

// keepMetrics is how long metrics are kept where policies learn from them: longer
// than any policy looks back.
const keepMetrics = 65 * 24 * time.Hour

// remember writes what was asked of the modules with policies in the days before
// the scenario's start into the metrics, as the fleet would have, and what was used of
// machines that lend to batch: forecasts and capacities learn from it. It returns how many days there are.
func remember(ctx context.Context, m *metrics.Embedded, s *scenario.Scenario) (days int, err error) {
	past := replay.Before(s)
	type counter struct {
		handle *metrics.Handle
		values []float64
		total  float64
	}
	var counters []*counter
	longest := 0
	for _, k := range slices.SortedFunc(maps.Keys(past), workload.Key.Compare) {
		c := &counter{values: past[k].Values, handle: metrics.NewHandle(map[string]string{
			"__name__": "http_requests_total", "namespace": k.Namespace, "module": k.Name, "code": "200",
		})}
		counters = append(counters, c)
		longest = max(longest, len(c.values))
	}
	used := pastUse(s)
	if used != nil {
		longest = max(longest, pastDays*24*60)
	}
	samples := make([]metrics.Sample, 0, len(counters))
	end := s.Start.Truncate(time.Minute)
	for back := longest - 1; back >= 0; back-- {
		samples = samples[:0]
		for _, c := range counters {
			if i := len(c.values) - 1 - back; i >= 0 && !math.IsNaN(c.values[i]) {
				c.total += c.values[i] * 60
				samples = append(samples, metrics.Sample{Handle: c.handle, V: c.total})
			}
		}
		at := end.Add(-time.Duration(back) * time.Minute)
		if used != nil && at.Truncate(15*time.Minute).Equal(at) && end.Sub(at) <= pastDays*24*time.Hour {
			samples = append(samples, used(at)...)
		}
		if len(samples) == 0 {
			continue
		}
		if err := m.Append(ctx, at, samples); err != nil {
			return 0, fmt.Errorf("write down the load before the day: %w", err)
		}
	}
	return longest / (24 * 60), nil
}

// told asks the metrics about a moment of the day when they know it: the physics
// come to a full minute at the same time as those who decide on it.
type told struct {
	metrics.Source
	fleet *fleet.Fleet
}

// tellPatience is how long, on the wall, a question waits for the physics.
const tellPatience = 5 * time.Second

// Instant implements [metrics.Source].
func (s told) Instant(ctx context.Context, query string, at time.Time) ([]metrics.Series, error) {
	wait, cancel := context.WithTimeout(ctx, tellPatience)
	defer cancel()
	s.fleet.Told(wait, at)
	return s.Source.Instant(ctx, query, at)
}

// A pace holds the day back until the policies have decided each minute of it.
type pace struct {
	mu      sync.Mutex
	give    *time.Timer // gives up waiting
	minutes int         // that were decided since somebody asked
	asked   bool
}

// end stops waiting.
func (p *pace) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.give != nil {
		p.give.Stop()
	}
}

// missed says how many minutes of the last hour the policies did not decide, if
// any; asking begins another hour.
func (u *up) missed() string {
	p := &u.pace
	p.mu.Lock()
	defer p.mu.Unlock()
	n, first := p.minutes, !p.asked
	p.minutes, p.asked = 0, true
	if first || !u.o.Scenario.Elastic() || n >= 59 {
		return ""
	}
	return fmt.Sprintf("; the policies decided %d of 60 minutes", n)
}

// noDecision is how long, on the wall, the day waits for the policies: an API
// server that does not answer must not stop it for good.
const noDecision = 2 * time.Minute

// decided is told that the policies have decided at a moment of the day.
func (u *up) decided(at time.Time) {
	if u.o.Scenario.Elastic() || u.live.passing() {
		if err := u.scales.record(at, u.control.Scaler.WriteMetrics); err != nil {
			u.out.problem(fmt.Errorf("keep what the policies decided at %s for the page: %w", u.stamp(at), err))
		}
	}
	if !u.o.Scenario.Elastic() || u.o.Prometheus != "" {
		return
	}
	// The next decision is due at the next full minute; where that passes right
	// now, before the scaler has looked at the clock, a minute later. The day comes
	// to that and no further before it is made.
	next := u.day.Now().Truncate(time.Minute).Add(time.Minute)
	u.day.WaitAt(next.Add(time.Minute))
	p := &u.pace
	p.mu.Lock()
	defer p.mu.Unlock()
	p.minutes++
	if p.give != nil {
		p.give.Stop()
	}
	p.give = time.AfterFunc(noDecision, func() {
		if !u.stopping.Load() && u.day.Now().After(next.Add(30*time.Second)) {
			u.out.line("the policies have decided nothing since %s; the day goes on without waiting for them", u.stamp(at))
		}
		u.day.WaitAt(time.Time{})
	})
}
