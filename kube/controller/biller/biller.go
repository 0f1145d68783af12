package biller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/metrics"
)

// Times says where the times of events come from.
type Times string

// The sources of times.
const (
	// API takes the times that Kubernetes writes down, exact to the second: when
	// a pod was bound, when its last container finished. What happened while
	// nobody watched is right, too.
	API Times = "API"
	// Observed takes the clock's time when the event arrives. It is for clusters
	// whose day does not pass at the wall's pace.
	Observed Times = "Observed"
)

// A Store keeps what the biller must not lose. store.Store is one.
type Store interface {
	// AppendEvents records events durably before it returns.
	AppendEvents(ctx context.Context, events ...bill.Event) error
	// Events returns every event kept, in the order of appending.
	Events(ctx context.Context) ([]bill.Event, error)
	// ReplaceEvents puts events in place of all that were kept, at once.
	ReplaceEvents(ctx context.Context, events []bill.Event) error
	// WriteHour records the facts of a closed hour, in place of earlier ones of
	// the same hour.
	WriteHour(ctx context.Context, f bill.Facts) error
	// Hours lists the starts of the closed hours in [from, to), oldest first; a
	// zero time leaves that side open.
	Hours(ctx context.Context, from, to time.Time) ([]time.Time, error)
	// Facts returns the closed hours that start in [from, to), oldest first.
	Facts(ctx context.Context, from, to time.Time) ([]bill.Facts, error)
	// State returns what SetState kept under key, "" if nothing.
	State(ctx context.Context, key string) (string, error)
	// SetState keeps a value under key.
	SetState(ctx context.Context, key, value string) error
	// PutFeatures keeps the features that each module serves, in place of all
	// that were kept.
	PutFeatures(ctx context.Context, features map[workload.Key][]workload.Feature) error
	// PutTypes keeps dated machine types, in place of all that were kept.
	PutTypes(ctx context.Context, types []machine.Entry) error
	// Types returns what PutTypes kept.
	Types(ctx context.Context) ([]machine.Entry, error)
}

// Options of a Biller.
type Options struct {
	// Store keeps events and closed hours. Required.
	Store Store
	// Metrics tell use, load and quality. Without them all use is estimated and
	// no load is known.
	Metrics metrics.Source
	// Clock is the cluster's clock. Required.
	Clock clock.Clock
	// Times says where the times of events come from; "" means API.
	Times Times
	// Currency of the bill; "" means the currency of the first machine type by
	// name, and once it is found it stays.
	Currency string
	// Grace is how long after its end an hour is closed, so that the last samples
	// and watch events are in; 0 means two minutes of the cluster's clock.
	Grace time.Duration
	// Log takes what happens; nil means slog.Default.
	Log *slog.Logger
}

const (
	// retryFor bounds how long an hour that was closed with something missing is
	// tried again.
	retryFor = 24 * time.Hour
	// retryEvery is the pause between tries, by the cluster's clock.
	retryEvery = 10 * time.Minute
	// aliveEvery is how often it is written down that everything is recorded.
	aliveEvery = time.Minute
	// silence is how long the biller may be away before use in that time counts
	// as estimated.
	silence = 5 * time.Minute
	// keep is how long what was observed is remembered after its hour was closed,
	// so that a file that turns out to be torn can be made again.
	keep = 6 * time.Hour
	// skew is how far ahead of ours the API server's clock may be.
	skew = 5 * time.Minute
	// mostPending bounds events that wait for a store that does not take them.
	mostPending = 1_000_000
)

// Keys of the store's state.
const (
	stateOrigin   = "biller/origin"   // RFC 3339: since when this store is billed
	stateAlive    = "biller/alive"    // RFC 3339: everything up to then is recorded
	stateRetry    = "biller/retry"    // JSON: hours to close again
	stateOutages  = "biller/outages"  // JSON: when nobody watched
	stateCurrency = "biller/currency" // ISO 4217
)

// A Biller turns what it is told about a cluster into closed hours. Tell it with
// the methods of [Observer], from any goroutine; [Biller.Run] does the rest.
type Biller struct {
	Observer

	o      Options
	log    *slog.Logger
	steady *steadyClock

	origin  time.Time // start of the first hour, maybe within it
	next    time.Time // start of the first hour that is not closed; only Run
	retries []retry   // only Run
	alive   time.Time // only Run
	beaten  time.Time // when alive was written, by the wall; only Run
	stored  int       // events in the store; only Run

	j       sync.Mutex // guards what follows
	journal bill.Journal
	outages []outage
	ready   bool

	run running

	l         sync.Mutex // guards what follows
	last      *Closed
	listeners []func(Closed)
	problem   string
}

// A retry is an hour that was closed with something missing.
type retry struct {
	Hour  time.Time `json:"hour"`
	Why   string    `json:"why"`
	Since time.Time `json:"since"`
	Next  time.Time `json:"next"`
}

type outage struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Closed is one closed hour with the sums that statuses show.
type Closed struct {
	Facts   bill.Facts
	Modules map[workload.Key]bill.Line
	// Missing says in one sentence what the hour was closed without; "" if nothing.
	Missing string
}

// New returns a Biller that knows nothing yet; see [Biller.Restore].
func New(o Options) (*Biller, error) {
	switch {
	case o.Store == nil:
		return nil, errors.New("biller: Store is required")
	case o.Clock == nil:
		return nil, errors.New("biller: Clock is required")
	case o.Times == "":
		o.Times = API
	case o.Times != API && o.Times != Observed:
		return nil, fmt.Errorf("biller: Times is %q, want %s or %s", o.Times, API, Observed)
	}
	if o.Grace < 0 {
		return nil, fmt.Errorf("biller: Grace is %v, want 0 or more", o.Grace)
	}
	if o.Grace == 0 {
		o.Grace = 2 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	b := &Biller{o: o, log: o.Log.With("component", "biller")}
	b.steady = &steadyClock{clock: o.Clock, log: b.log}
	b.Observer.init(o.Times, b.steady.now)
	return b, nil
}

// A steadyClock never steps back: while the real one is behind, time stands
// still, and that is logged once.
type steadyClock struct {
	clock clock.PassiveClock
	log   *slog.Logger

	mu     sync.Mutex
	last   time.Time
	behind bool
}

func (s *steadyClock) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now().UTC().Round(0)
	if now.Before(s.last) {
		if !s.behind && s.last.Sub(now) > time.Second {
			s.behind = true
			s.log.Warn("the clock is behind what is recorded; no hour is closed and no time passes on the bill until it has caught up: check the machine's clock", "now", now, "recorded", s.last)
		}
		return s.last
	}
	s.last, s.behind = now, false
	return now
}

func (s *steadyClock) notBefore(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.After(s.last) {
		s.last = t
	}
}

// Restore reads the store: what was recorded, which hours are closed, the dated
// prices. Call it once, before anything is observed.
func (b *Biller) Restore(ctx context.Context) error {
	b.j.Lock()
	defer b.j.Unlock()
	events, err := b.o.Store.Events(ctx)
	if err != nil {
		return fmt.Errorf("restore the biller: %w", err)
	}
	for _, e := range events {
		b.journal.Apply(e)
	}
	b.stored = len(events)
	for key, to := range map[string]*time.Time{stateOrigin: &b.origin, stateAlive: &b.alive} {
		if err := b.stateTime(ctx, key, to); err != nil {
			return err
		}
	}
	b.steady.notBefore(b.alive)
	now := b.now()
	if b.origin.IsZero() {
		b.origin = now
		if err := b.o.Store.SetState(ctx, stateOrigin, now.Format(time.RFC3339Nano)); err != nil {
			return fmt.Errorf("restore the biller: %w", err)
		}
	}
	if err := b.stateJSON(ctx, stateRetry, &b.retries); err != nil {
		return err
	}
	if err := b.stateJSON(ctx, stateOutages, &b.outages); err != nil {
		return err
	}
	if b.alive.IsZero() {
		b.alive = b.origin
	}
	if gap := now.Sub(b.alive); gap > silence {
		b.log.Warn("nobody watched the cluster for a while; use in that time counts as estimated", "from", b.alive, "to", now)
		b.outages = append(b.outages, outage{b.alive, now})
		if err := b.setJSON(ctx, stateOutages, b.outages); err != nil {
			return err
		}
	}
	if err := b.restoreBook(ctx); err != nil {
		return err
	}
	b.next = b.origin.Truncate(time.Hour)
	hours, err := b.o.Store.Hours(ctx, time.Time{}, time.Time{})
	if err != nil {
		return fmt.Errorf("restore the biller: %w", err)
	}
	if n := len(hours); n > 0 {
		if after := hours[n-1].Truncate(time.Hour).Add(time.Hour); after.After(b.next) {
			b.next = after
		}
		facts, err := b.o.Store.Facts(ctx, hours[n-1], hours[n-1].Add(time.Nanosecond))
		if err != nil {
			return fmt.Errorf("restore the biller: %w", err)
		}
		if len(facts) > 0 {
			b.setLast(b.summarise(facts[len(facts)-1], ""))
		}
	}
	b.Observer.restore(b.journal.Events(), b.next)
	return nil
}

// Synced says that everything that exists has been told: what the store
// remembers and nobody told of is gone since the store was last written.
func (b *Biller) Synced() {
	b.Observer.synced(b.alive)
	b.j.Lock()
	b.ready = true
	b.j.Unlock()
	b.poke()
}

// Run records events and closes hours until ctx ends or the store takes nothing
// for too long. Call it after [Biller.Restore].
func (b *Biller) Run(ctx context.Context) error {
	var storeDown bool
	for {
		now := b.now()
		err := b.drain(ctx)
		if err == nil && b.isReady() {
			err = b.beat(ctx, now)
		}
		if err == nil && b.isReady() {
			err = b.closeDue(ctx, now)
		}
		wait := b.untilDue(now)
		switch {
		case ctx.Err() != nil:
			return b.stop()
		case err != nil:
			if !storeDown {
				b.log.Error("the store takes nothing; what happens is kept in memory and tried again", "err", err)
			}
			storeDown = true
			b.setProblem(err.Error())
			if n := b.waiting(); n > mostPending {
				return fmt.Errorf("%d events wait for the store, more than %d: %w", n, mostPending, err)
			}
			wait = min(wait, 5*time.Second)
		case storeDown:
			storeDown = false
			b.setProblem("")
			b.log.Info("the store works again; nothing was lost")
		}
		timer := b.o.Clock.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return b.stop()
		case <-b.woken:
			timer.Stop()
		case <-timer.C():
		}
		if storeDown { // a burst of events must not become a burst of tries
			select {
			case <-ctx.Done():
				return b.stop()
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
}

// stop writes down what is known, for a short while only: the next start reads
// the rest from the API server.
func (b *Biller) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	now := b.now()
	if err := b.drain(ctx); err != nil {
		return fmt.Errorf("stop the biller: %w", err)
	}
	if !b.isReady() {
		return nil
	}
	if err := b.o.Store.SetState(ctx, stateAlive, now.Format(time.RFC3339Nano)); err != nil {
		return fmt.Errorf("stop the biller: %w", err)
	}
	return nil
}

func (b *Biller) isReady() bool {
	b.j.Lock()
	defer b.j.Unlock()
	return b.ready
}

// drain records what was observed, then acts on it.
func (b *Biller) drain(ctx context.Context) error {
	events := b.take()
	if len(events) > 0 {
		if err := b.o.Store.AppendEvents(ctx, events...); err != nil {
			b.giveBack(events)
			return err
		}
		b.stored += len(events)
		b.j.Lock()
		for _, e := range events {
			b.journal.Apply(e)
		}
		b.j.Unlock()
	}
	return b.saveDeclared(ctx)
}

// beat writes down from time to time that everything so far is recorded.
func (b *Biller) beat(ctx context.Context, now time.Time) error {
	if now.Sub(b.alive) < aliveEvery || time.Since(b.beaten) < time.Second {
		return nil // a day at 600 times the wall's pace must not wear out the disk
	}
	b.beaten = time.Now()
	if err := b.o.Store.SetState(ctx, stateAlive, now.Format(time.RFC3339Nano)); err != nil {
		return err
	}
	b.alive = now
	return nil
}

// untilDue is how long nothing but events needs doing.
func (b *Biller) untilDue(now time.Time) time.Duration {
	due := now.Add(aliveEvery)
	if t := b.next.Add(time.Hour + b.o.Grace); t.Before(due) {
		due = t
	}
	return max(due.Sub(now), time.Millisecond)
}

// Hour returns what is recorded of [from, to), without use and load. It may be
// called from any goroutine.
func (b *Biller) Hour(from, to time.Time) bill.Hour {
	b.j.Lock()
	defer b.j.Unlock()
	return b.journal.Hour(from, to)
}

// Last returns the last closed hour, and whether there is one.
func (b *Biller) Last() (Closed, bool) {
	b.l.Lock()
	defer b.l.Unlock()
	if b.last == nil {
		return Closed{}, false
	}
	return *b.last, true
}

// OnClose calls f after every hour that is closed, from Run's goroutine. Call it
// before Run.
func (b *Biller) OnClose(f func(Closed)) { b.listeners = append(b.listeners, f) }

// Problem says in one sentence what keeps the biller from its work now; "" if nothing.
func (b *Biller) Problem() string {
	b.l.Lock()
	defer b.l.Unlock()
	return b.problem
}

func (b *Biller) setProblem(s string) {
	b.l.Lock()
	b.problem = s
	b.l.Unlock()
}

func (b *Biller) setLast(c Closed) {
	b.l.Lock()
	if b.last == nil || !c.Facts.From.Before(b.last.Facts.From) {
		b.last = &c
	}
	b.l.Unlock()
}

// DeclaredModules returns the modules that are declared now, by workload.
func (b *Biller) DeclaredModules() map[workload.Key]convert.Module { return b.declaredModules() }
