package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/compression"

	"github.com/neap-dev/neap/internal/dirlock"
)

// EmbeddedOptions tune an [Embedded]. The zero value is right for a day that
// runs at real speed.
type EmbeddedOptions struct {
	// Retention is how long samples are kept, counted back from the newest one;
	// 0 means 15 days.
	Retention time.Duration
	// Lookback is how old a sample may be to count as the value now; 0 means 5
	// minutes. It should be a few times the distance of two samples.
	Lookback time.Duration
	// OutOfOrder is how far behind the newest sample a late one may lie; 0 means
	// one hour. Older ones are refused with [RefusedError].
	OutOfOrder time.Duration
	// Timeout bounds one query; 0 means 30 seconds.
	Timeout time.Duration
	// MaxSamples bounds what one query may hold in memory; 0 means 20 million.
	MaxSamples int
	// MinFree is how many bytes the disk must have free for samples to be taken;
	// 0 means 64 MiB, −1 no check. TSDB cannot go on after a failed write of its
	// chunks, so Embedded stops before the disk is full.
	MinFree int64
	// Log receives what TSDB has to say; nil discards it.
	Log *slog.Logger
}

// Embedded is Prometheus' TSDB and PromQL engine in a directory of our own. It
// locks the directory; use [Embedded.Close]. What [Embedded.Append] returned nil
// for survives the death of the process.
type Embedded struct {
	dir     string
	opts    EmbeddedOptions
	db      *tsdb.DB
	engine  *promql.Engine
	lock    *dirlock.Lock
	damaged []string

	mu      sync.Mutex // one appender at a time; guards the fields below
	targets map[string]*target
	newest  int64
	closed  bool
}

// A Sample is one value of one series, for [Embedded.Append].
type Sample struct {
	// Labels of the series; "__name__" is the metric's name.
	Labels map[string]string
	// Handle stands for Labels where it is not nil, for callers that append to
	// the same series many times.
	Handle *Handle
	V      float64
}

// A Handle is a series whose labels were worked out once. See [NewHandle].
type Handle struct {
	lset labels.Labels
	ref  storage.SeriesRef // guarded by Embedded.mu; belongs to owner
	in   *Embedded
}

// NewHandle prepares the series with these labels for many [Embedded.Append]s.
func NewHandle(ls map[string]string) *Handle { return &Handle{lset: labels.FromMap(ls)} }

// A RefusedError says that some samples were not taken, because their time lies
// too far behind what is recorded (a clock stepped back) or because another
// value is recorded for that time. All the others were taken.
type RefusedError struct {
	Count  int
	At     time.Time // of the first one refused
	Newest time.Time // recorded
	Window time.Duration
	Other  bool // another value is recorded for that time
}

// Error returns the sentence.
func (e *RefusedError) Error() string {
	const stamp = "2006-01-02 15:04:05Z"
	if e.Other {
		return fmt.Sprintf("record metrics: %d samples at %s were left out, for other values are recorded for that time; "+
			"see that no clock stepped back and that nothing is sampled twice", e.Count, e.At.UTC().Format(stamp))
	}
	return fmt.Sprintf("record metrics: %d samples at %s were left out, for samples up to %s are recorded and only the last %v may be added to; "+
		"see whether the clock stepped back: until it has caught up this is a gap",
		e.Count, e.At.UTC().Format(stamp), e.Newest.UTC().Format(stamp), e.Window)
}

// ErrLocked says that another process has the directory open.
var ErrLocked = dirlock.ErrHeld

// Open opens the metrics in dir, making it if need be. What a crash tore is cut
// off at the last whole record; blocks that cannot be read are set aside in
// dir/damaged and named by [Embedded.Damaged].
func Open(dir string, opts EmbeddedOptions) (*Embedded, error) {
	if opts.Retention == 0 {
		opts.Retention = 15 * 24 * time.Hour
	}
	if opts.Lookback == 0 {
		opts.Lookback = 5 * time.Minute
	}
	if opts.OutOfOrder == 0 {
		opts.OutOfOrder = time.Hour
	}
	if opts.Timeout == 0 {
		opts.Timeout = 30 * time.Second
	}
	if opts.MaxSamples == 0 {
		opts.MaxSamples = 20_000_000
	}
	if opts.MinFree == 0 {
		opts.MinFree = 64 << 20
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open metrics: %w; give a directory that can be written", err)
	}
	e := &Embedded{dir: dir, opts: opts, targets: map[string]*target{}, newest: math.MinInt64}
	if err := e.checkSpace(); err != nil {
		return nil, err
	}
	if err := e.open(); err != nil {
		return nil, err
	}
	if t := e.db.Head().MaxTime(); t > math.MinInt64 {
		e.newest = t
	}
	e.engine = promql.NewEngine(promql.EngineOpts{
		Logger:               opts.Log,
		MaxSamples:           opts.MaxSamples,
		Timeout:              opts.Timeout,
		LookbackDelta:        opts.Lookback,
		EnableAtModifier:     true,
		EnableNegativeOffset: true,
		NoStepSubqueryIntervalFn: func(int64) int64 {
			return time.Minute.Milliseconds()
		},
	})
	return e, nil
}

func (e *Embedded) open() (err error) {
	// The lock is ours and not TSDB's, and unreadable blocks are found before
	// TSDB opens them: its Open, when it fails, leaves its own lock and files
	// behind for as long as the process lives.
	if e.lock, err = dirlock.Acquire(e.dir); err != nil {
		if errors.Is(err, dirlock.ErrHeld) {
			return fmt.Errorf("open metrics in %s: %w; stop it or use another directory", e.dir, ErrLocked)
		}
		return fmt.Errorf("open metrics: %w; see whether the directory can be written", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.lock.Release())
		}
	}()
	if e.damaged, err = setAsideDamaged(e.dir); err != nil {
		return fmt.Errorf("open metrics in %s: set aside a block that cannot be read: %w; see whether the directory can be written", e.dir, oneLine(err))
	}
	o := tsdb.DefaultOptions()
	o.NoLockfile = true
	o.RetentionDuration = e.opts.Retention.Milliseconds()
	o.MaxBlockDuration = max(o.MinBlockDuration, e.opts.Retention.Milliseconds()/10)
	o.WALSegmentSize = 16 << 20
	o.WALCompression = compression.Snappy
	o.WALReplayConcurrency = 2
	o.StripeSize = 1 << 10
	o.OutOfOrderTimeWindow = e.opts.OutOfOrder.Milliseconds()
	if e.db, err = tsdb.Open(e.dir, e.opts.Log, nil, o, nil); err != nil {
		return fmt.Errorf("open metrics in %s: %w; move that directory away to start without the recorded metrics (the bill is kept apart from them)",
			e.dir, oneLine(err))
	}
	return nil
}

// setAsideDamaged moves blocks that cannot be opened to dir/damaged.
func setAsideDamaged(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var moved []string
	for _, entry := range entries {
		if _, err := ulid.ParseStrict(entry.Name()); err != nil || !entry.IsDir() {
			continue
		}
		d := filepath.Join(dir, entry.Name())
		b, err := tsdb.OpenBlock(nil, d, nil, nil)
		if err == nil {
			if err := b.Close(); err != nil {
				return moved, err
			}
			continue
		}
		to := filepath.Join(dir, "damaged", filepath.Base(d))
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return moved, err
		}
		if err := os.Rename(d, to); err != nil {
			return moved, err
		}
		moved = append(moved, to)
	}
	return moved, nil
}

// Damaged names the blocks that [Open] could not read and set aside. Their time
// is a gap.
func (e *Embedded) Damaged() []string { return e.damaged }

// Close flushes and unlocks. Later calls do nothing.
func (e *Embedded) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	err := e.db.Close()
	if err = errors.Join(err, e.engine.Close(), e.lock.Release()); err != nil {
		err = oneLine(err)
	}
	if err != nil {
		return fmt.Errorf("close metrics in %s: %w", e.dir, err)
	}
	return nil
}

// Newest is the time of the newest sample; ok is false if there is none.
func (e *Embedded) Newest() (t time.Time, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.UnixMilli(e.newest).UTC(), e.newest != math.MinInt64
}

// Append records samples at t, all or none on a failure of the disk. Samples
// that cannot be taken because of their time are left out, the rest is taken,
// and the error is a [RefusedError].
func (e *Embedded) Append(ctx context.Context, t time.Time, samples []Sample) error {
	return e.append(ctx, t, func(a storage.Appender, r *refused) error {
		for i := range samples {
			s := &samples[i]
			h := s.Handle
			if h == nil {
				h = &Handle{lset: labels.FromMap(s.Labels)}
			}
			if h.lset.Get(model.MetricNameLabel) == "" {
				return fmt.Errorf("record metrics: a series %s has no name; set its label __name__", h.lset)
			}
			if h.in != e {
				h.in, h.ref = e, 0
			}
			ref, err := a.Append(h.ref, h.lset, t.UnixMilli(), s.V)
			if err != nil {
				if !r.add(err) {
					return err
				}
				continue
			}
			h.ref = ref
		}
		return nil
	})
}

// A target is what one caller of AppendText exports, told by its extra labels.
type target struct {
	series map[string]*seen
	round  uint64
}

type seen struct {
	lset  labels.Labels
	ref   storage.SeriesRef
	round uint64
	stale bool
}

// AppendText records what r holds in Prometheus' text format at t; a line's own
// timestamp is not looked at, for all of Neap's time is the caller's. extra
// labels are added to every series and name the target: a series that the same
// target no longer shows ends at t, as with a scrape of Prometheus.
func (e *Embedded) AppendText(ctx context.Context, t time.Time, r io.Reader, extra map[string]string) error {
	text, err := io.ReadAll(io.LimitReader(r, maxText+1))
	if err != nil {
		return fmt.Errorf("record metrics: read the exposition: %w", err)
	}
	if len(text) > maxText {
		return fmt.Errorf("record metrics: the exposition is longer than %d MiB; split it over several targets", maxText>>20)
	}
	return e.append(ctx, t, func(a storage.Appender, rf *refused) error {
		key := labelKey(extra)
		tg := e.targets[key]
		if tg == nil {
			tg = &target{series: map[string]*seen{}}
			e.targets[key] = tg
		}
		tg.round++
		p := textparse.NewPromParser(text, labels.NewSymbolTable(), false)
		line := 0
		for {
			kind, err := p.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("record metrics: the exposition is not in Prometheus' text format: %w; nothing of it was recorded", oneLine(err))
			}
			line++
			if kind != textparse.EntrySeries {
				continue
			}
			met, _, v := p.Series()
			s := tg.series[string(met)]
			if s == nil {
				s = &seen{}
				p.Labels(&s.lset)
				if len(extra) > 0 {
					b := labels.NewBuilder(s.lset)
					for n, val := range extra {
						b.Set(n, val)
					}
					s.lset = b.Labels()
				}
				if s.lset.Get(model.MetricNameLabel) == "" {
					return fmt.Errorf("record metrics: series %d of the exposition has no name; nothing of it was recorded", line)
				}
				tg.series[string(met)] = s
			}
			s.round, s.stale = tg.round, false
			ref, err := a.Append(s.ref, s.lset, t.UnixMilli(), v)
			if err != nil {
				if !rf.add(err) {
					return err
				}
				continue
			}
			s.ref = ref
		}
		for met, s := range tg.series {
			switch {
			case s.round == tg.round:
			case !s.stale && s.ref != 0:
				s.stale = true
				if _, err := a.Append(s.ref, s.lset, t.UnixMilli(), staleNaN); err != nil && !rf.add(err) {
					return err
				}
			case tg.round-s.round > 10:
				delete(tg.series, met)
			}
		}
		return nil
	})
}

// maxText bounds one exposition: 256 MiB are about two million series.
const maxText = 256 << 20

var staleNaN = math.Float64frombits(value.StaleNaN)

// End marks series as ended at t, so that queries stop seeing them at once and
// not only after the lookback.
func (e *Embedded) End(ctx context.Context, t time.Time, handles []*Handle) error {
	samples := make([]Sample, len(handles))
	for i, h := range handles {
		samples[i] = Sample{Handle: h, V: staleNaN}
	}
	return e.Append(ctx, t, samples)
}

type refused struct{ tooOld, other int }

// add reports whether err only says that one sample came at a wrong time.
func (r *refused) add(err error) bool {
	switch {
	case errors.Is(err, storage.ErrOutOfBounds), errors.Is(err, storage.ErrTooOldSample),
		errors.Is(err, storage.ErrOutOfOrderSample):
		r.tooOld++
	case errors.Is(err, storage.ErrDuplicateSampleForTimestamp):
		r.other++
	default:
		return false
	}
	return true
}

func (e *Embedded) append(ctx context.Context, t time.Time, fill func(storage.Appender, *refused) error) (err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return fmt.Errorf("record metrics in %s: it is closed", e.dir)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("record metrics in %s: %w", e.dir, err)
	}
	if err := e.checkSpace(); err != nil {
		return err
	}
	a := e.db.Appender(ctx)
	var r refused
	if err := fill(a, &r); err != nil {
		if rErr := a.Rollback(); rErr != nil {
			err = errors.Join(err, rErr)
		}
		return e.writeError(err)
	}
	if err := a.Commit(); err != nil {
		return e.writeError(err)
	}
	if r.tooOld > 0 {
		return &RefusedError{Count: r.tooOld, At: t, Newest: time.UnixMilli(e.newest), Window: e.opts.OutOfOrder}
	}
	e.newest = max(e.newest, t.UnixMilli())
	if r.other > 0 {
		return &RefusedError{Count: r.other, At: t, Newest: time.UnixMilli(e.newest), Other: true}
	}
	return nil
}

func (e *Embedded) writeError(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("record metrics in %s: %w; free some space: what is recorded is kept, and these samples are a gap", e.dir, syscall.ENOSPC)
	}
	if strings.HasPrefix(err.Error(), "record metrics") {
		return err
	}
	return fmt.Errorf("record metrics in %s: %w", e.dir, oneLine(err))
}

func (e *Embedded) checkSpace() error {
	if e.opts.MinFree < 0 {
		return nil
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(e.dir, &st); err != nil {
		return fmt.Errorf("look at the disk of %s: %w", e.dir, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < e.opts.MinFree {
		return fmt.Errorf("record metrics in %s: %w (%d MiB free, %d MiB kept in reserve); free some space: what is recorded is kept, and the time until then is a gap",
			e.dir, syscall.ENOSPC, free>>20, e.opts.MinFree>>20)
	}
	return nil
}

// Instant implements [Source].
func (e *Embedded) Instant(ctx context.Context, query string, at time.Time) ([]Series, error) {
	q, err := e.engine.NewInstantQuery(ctx, e.db, nil, query, at)
	return e.run(ctx, query, q, err)
}

// Range implements [Source].
func (e *Embedded) Range(ctx context.Context, query string, from, to time.Time, step time.Duration) ([]Series, error) {
	if err := checkRange(e.dir, query, from, to, step); err != nil {
		return nil, err
	}
	q, err := e.engine.NewRangeQuery(ctx, e.db, nil, query, from, to, step)
	return e.run(ctx, query, q, err)
}

func (e *Embedded) run(ctx context.Context, query string, q promql.Query, err error) ([]Series, error) {
	if err != nil {
		return nil, &QueryError{Source: e.dir, Query: query, Reason: oneLine(err).Error(), Advice: "correct the query", Err: err}
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, e.queryError(query, res.Err)
	}
	var out []Series
	switch v := res.Value.(type) {
	case promql.Matrix:
		for _, s := range v {
			out = append(out, Series{Labels: s.Metric.Map(), Points: points(s.Floats)})
		}
	case promql.Vector:
		for _, s := range v {
			if s.H == nil {
				out = append(out, Series{Labels: s.Metric.Map(), Points: []Point{{time.UnixMilli(s.T).UTC(), s.F}}})
			}
		}
	case promql.Scalar:
		out = []Series{{Labels: map[string]string{}, Points: []Point{{time.UnixMilli(v.T).UTC(), v.V}}}}
	default:
		return nil, &QueryError{Source: e.dir, Query: query, Reason: fmt.Sprintf("it gives a %s", res.Value.Type()),
			Advice: "ask for numbers"}
	}
	out = sortSeries(out)
	if warnings, _ := res.Warnings.AsStrings(query, 5, 0); len(warnings) > 0 {
		return out, &PartialError{Source: e.dir, Query: query, Warnings: warnings}
	}
	return out, nil
}

func (e *Embedded) queryError(query string, err error) error {
	q := &QueryError{Source: e.dir, Query: query, Reason: oneLine(err).Error(), Advice: "correct the query", Err: err}
	var timeout promql.ErrQueryTimeout
	var canceled promql.ErrQueryCanceled
	var many promql.ErrTooManySamples
	var disk promql.ErrStorage
	switch {
	case errors.As(err, &timeout), errors.Is(err, context.DeadlineExceeded):
		q.Reason, q.Advice = "it took longer than allowed", "ask for a shorter window or a longer step"
		q.Err = errors.Join(context.DeadlineExceeded, err)
	case errors.As(err, &canceled), errors.Is(err, context.Canceled):
		q.Reason, q.Advice = "it was cancelled", "ask again"
		q.Err = errors.Join(context.Canceled, err)
	case errors.As(err, &many):
		q.Reason = fmt.Sprintf("it needs more than %d samples at once", e.opts.MaxSamples)
		q.Advice = "ask for a shorter window or fewer series"
	case errors.As(err, &disk):
		q.Advice = "see whether the directory can be read"
	}
	return q
}

func points(fs []promql.FPoint) []Point {
	ps := make([]Point, len(fs))
	for i, f := range fs {
		ps[i] = Point{time.UnixMilli(f.T).UTC(), f.F}
	}
	return ps
}

// oneLine makes a library's error fit into a sentence.
func oneLine(err error) error {
	s := err.Error()
	if !strings.ContainsAny(s, "\n\r") {
		return err
	}
	return errors.New(string(bytes.Join(bytes.Fields([]byte(s)), []byte(" "))))
}
