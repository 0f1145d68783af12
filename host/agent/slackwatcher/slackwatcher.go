// Package slackwatcher says what the online workloads of a machine feel, held against
// what they may feel.
//
// For each workload the first of these that there is:
//
//	p99       the 99th percentile that a query of the policy yields, for the node
//	runqueue  how long 99 of 100 times a thread of its pods waited for a CPU ([runqueue])
//	pressure  the share of time in which some thread of its pods waited for a CPU, less
//	          what their own quota made them wait
//
// A workload of several pods feels what the worst of them does. A pod that is new
// tells something from the second look on.
//
// Not here: how much is too much, which the policy says, and what follows from it
// (core/colocate).
package slackwatcher

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/agent/warden"
	"github.com/neap-dev/neap/host/cgroup"
	"github.com/neap-dev/neap/host/psi"
	"github.com/neap-dev/neap/host/runqueue"
)

// fewest waits tell a quantile.
const fewest = 100

// Options say what a watcher works with.
type Options struct {
	Tree *cgroup.Tree // required
	// Queue measures the run queue; nil does without.
	Queue *runqueue.Meter
	// P99 asks for the value of a query in seconds; nil does without. It is asked
	// beside the looks, one query at a time.
	P99 func(ctx context.Context, query string) (seconds float64, known bool, err error)
	Log *slog.Logger // nil logs nothing
}

// A Watcher watches one machine. [Watcher.Look] is for one goroutine at a time.
type Watcher struct {
	opts   Options
	groups map[cgroup.Group]*feeling
	dir    func(cgroup.Group) string

	mu     sync.Mutex
	asking bool
	answer time.Duration
	at     time.Time // of the answer; zero if there is none
}

// A feeling is what one group felt until the last look.
type feeling struct {
	at        time.Time
	waits     runqueue.Histogram
	watched   bool
	meter     *cgroup.Meter
	stalled   time.Duration // pressure
	throttled time.Duration
	pressed   bool // stalled and throttled hold
}

// New returns a watcher.
func New(opts Options) *Watcher {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	w := &Watcher{opts: opts, groups: map[cgroup.Group]*feeling{}}
	w.dir = func(g cgroup.Group) string { return filepath.Dir(opts.Tree.File(g, cgroup.Weight)) }
	return w
}

// Close gives back what looking took.
func (w *Watcher) Close() {
	for g := range w.groups {
		w.forget(g)
	}
}

// Look returns the signals of the workloads, in their order, with the targets of
// spec; the one of the query comes first.
func (w *Watcher) Look(ctx context.Context, spec v1alpha1.ColocationSlack, online []warden.Feeler) []colocate.Signal {
	var out []colocate.Signal
	if s, ok := w.asked(ctx, spec.P99); ok {
		out = append(out, s)
	}
	now := time.Now()
	here := map[cgroup.Group]bool{}
	for _, f := range online {
		queue := colocate.Signal{Workload: f.Workload, Kind: "runqueue", Value: -1, Target: spec.RunQueueTargetMicroseconds}
		pressure := colocate.Signal{Workload: f.Workload, Kind: "pressure", Value: -1, Target: int64(spec.PressurePermille)}
		for _, g := range f.Groups {
			here[g] = true
			at := w.groups[g]
			if at == nil {
				at = new(feeling)
				w.groups[g] = at
			}
			queue.Value = max(queue.Value, w.waited(g, at))
			pressure.Value = max(pressure.Value, w.pressed(g, at, now))
			at.at = now
		}
		for _, s := range []colocate.Signal{queue, pressure} {
			if s.Value >= 0 && s.Target > 0 {
				out = append(out, s)
			}
		}
	}
	for g := range w.groups {
		if !here[g] {
			w.forget(g)
		}
	}
	return out
}

// waited returns the 99th percentile of what threads of a group waited for a CPU since
// the last look, in microseconds; −1 if it is not known.
func (w *Watcher) waited(g cgroup.Group, at *feeling) int64 {
	if w.opts.Queue == nil {
		return -1
	}
	if !at.watched {
		if err := w.opts.Queue.Watch(w.dir(g)); err != nil {
			return -1 // the kubelet has not made it yet, or there are too many
		}
		at.watched = true
		return -1
	}
	var now runqueue.Histogram
	if err := w.opts.Queue.Read(w.dir(g), &now); err != nil {
		w.opts.Queue.Forget(w.dir(g))
		at.watched, at.waits = false, runqueue.Histogram{}
		return -1
	}
	since := now.Since(&at.waits)
	at.waits = now
	return felt(&since).Microseconds()
}

// felt is the 99th percentile of waits. Of few it is the median: one that was long
// proves nothing, and half of them are somebody who is kept from running.
func felt(waits *runqueue.Histogram) time.Duration {
	if waits.Waits < fewest {
		return waits.Quantile(0.5)
	}
	return waits.Quantile(0.99)
}

// pressed returns the share of time since the last look in which some thread of a group
// waited for a CPU, less what its own quota made it wait, in thousandths; −1 if it is
// not known.
func (w *Watcher) pressed(g cgroup.Group, at *feeling, now time.Time) int64 {
	p, err := w.opts.Tree.Pressure(g, psi.CPU)
	if err != nil {
		return -1
	}
	if at.meter == nil {
		if at.meter, err = w.opts.Tree.Meter(g); err != nil {
			return -1
		}
	}
	use, err := at.meter.ReadCPU()
	if err != nil {
		at.meter.Close()
		at.meter, at.pressed = nil, false
		return -1
	}
	stalled, throttled, known := p.Some.Total-at.stalled, use.Throttled-at.throttled, at.pressed
	at.stalled, at.throttled, at.pressed = p.Some.Total, use.Throttled, true
	if gone := now.Sub(at.at); known && gone > 0 && stalled >= 0 && throttled >= 0 {
		return int64(1000 * max(stalled-throttled, 0) / gone)
	}
	return -1
}

func (w *Watcher) forget(g cgroup.Group) {
	at := w.groups[g]
	if at.watched {
		w.opts.Queue.Forget(w.dir(g))
	}
	if at.meter != nil {
		if err := at.meter.Close(); err != nil {
			w.opts.Log.Debug("a meter does not close", "group", g, "error", err)
		}
	}
	delete(w.groups, g)
}

// asked returns the answer to the policy's query, and has it asked anew.
func (w *Watcher) asked(ctx context.Context, of *v1alpha1.LatencyTarget) (colocate.Signal, bool) {
	if of == nil || w.opts.P99 == nil {
		return colocate.Signal{}, false
	}
	target, err := time.ParseDuration(of.Target)
	if err != nil || target <= 0 {
		return colocate.Signal{}, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.asking {
		w.asking = true
		go w.ask(context.WithoutCancel(ctx), string(of.Query))
	}
	if w.at.IsZero() || time.Since(w.at) > time.Minute {
		return colocate.Signal{}, false // nothing is better than what was a while ago
	}
	return colocate.Signal{Workload: "the policy's query", Kind: "p99", Value: w.answer.Microseconds(), Target: target.Microseconds(), Slow: true}, true
}

func (w *Watcher) ask(ctx context.Context, query string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	seconds, known, err := w.opts.P99(ctx, query)
	if err != nil {
		w.opts.Log.Warn("the policy's query for the 99th percentile", "error", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asking = false
	if err == nil && known && seconds >= 0 && seconds < 1e6 {
		w.answer, w.at = time.Duration(seconds*float64(time.Second)), time.Now()
	}
}
