// Package clock makes a simulated day pass: a clock that runs faster than the
// wall by a factor, can stand still, and survives a kill.
//
//	day = anchor + (monotonic time since the anchor) · speed
//
// [Clock] implements k8s.io/utils/clock.WithTicker, so every controller of the
// local cluster takes it for time itself. It follows the machine's monotonic
// clock: setting the wall clock moves the day neither forward nor back.
//
// What the clock said is never unsaid. Before the day passes a moment, a mark
// at or after that moment is on disk; a process that was killed goes on from the
// mark, at most [reserve] of wall time later than it stopped. A process that was
// closed goes on exactly where it stopped.
//
// Not here: what happens in the day (local/player), real time zones.
package clock

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/neap-dev/neap/internal/wholefile"
)

const (
	// saveEvery is how often, in wall time, the day is written down.
	saveEvery = time.Second
	// reserve is how far ahead of the day, in wall time, the mark on disk is.
	// It is longer than saveEvery, so that a slow disk does not hold the day.
	reserve = 2500 * time.Millisecond
)

var _ clock.WithTicker = (*Clock)(nil)

// Options say when a day begins and how fast it passes.
type Options struct {
	// Start is the first moment of a new day. It is required, and ignored where
	// the file already holds a day.
	Start time.Time
	// Speed is simulated seconds per second; 0 means 1.
	Speed float64
	// Scenario names what the day belongs to; opening the file for another one is
	// an error. Empty accepts any.
	Scenario string
	// FollowWall goes on from the wall's time where that is later: for a day that
	// is the real one.
	FollowWall bool
	// Held starts the clock standing still, until [Clock.Resume].
	Held bool
}

// A Clock is a day that passes Speed times as fast as the wall. It is safe for
// concurrent use. Close it.
type Clock struct {
	path     string
	scenario string
	start    time.Time
	resumed  bool

	mu      sync.Mutex
	base    time.Time // moment of the day at the anchor
	anchor  time.Time // carries the monotonic reading
	speed   float64
	held    bool
	mark    time.Time     // on disk: the day may go up to here
	end     time.Time     // the day goes no further; zero: it goes on
	wait    time.Time     // the day goes no further yet; zero: it goes on
	changed chan struct{} // closed whenever the pace changes
	saveErr error

	stop chan struct{}
	done chan struct{}
}

// state is the file.
type state struct {
	Scenario string    `json:"scenario,omitempty"`
	Start    time.Time `json:"start"` // first moment of the first day
	Day      time.Time `json:"day"`   // when saved
	Mark     time.Time `json:"mark"`  // the day has not passed this
	Speed    float64   `json:"speed"`
	Clean    bool      `json:"clean"` // Day is exact
}

// An OtherScenarioError says that the file holds the day of another scenario.
type OtherScenarioError struct{ Path, Have, Want string }

func (e *OtherScenarioError) Error() string {
	return fmt.Sprintf("%s holds a day of scenario %q, not %q", e.Path, e.Have, e.Want)
}

// Open reads the day in the file, or begins one, and lets it pass. The folder
// must exist.
func Open(path string, o Options) (*Clock, error) {
	if o.Speed == 0 {
		o.Speed = 1
	}
	if o.Speed < 0 {
		return nil, fmt.Errorf("open clock %s: speed %v is negative", path, o.Speed)
	}
	c := &Clock{
		path: path, scenario: o.Scenario, start: o.Start, speed: o.Speed, held: o.Held,
		anchor: time.Now(), base: o.Start,
		changed: make(chan struct{}), stop: make(chan struct{}), done: make(chan struct{}),
	}
	old, err := read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if o.Start.IsZero() {
			return nil, fmt.Errorf("open clock %s: a new day needs a start", path)
		}
	case err != nil:
		return nil, err
	case o.Scenario != "" && old.Scenario != "" && old.Scenario != o.Scenario:
		return nil, &OtherScenarioError{Path: path, Have: old.Scenario, Want: o.Scenario}
	default:
		c.resumed, c.start, c.base = true, old.Start, old.Mark
		if old.Clean {
			c.base = old.Day
		}
	}
	if now := time.Now().UTC().Round(0); o.FollowWall && now.After(c.base) {
		c.base = now
	}
	if err := c.save(false); err != nil {
		return nil, err
	}
	go c.run()
	return c, nil
}

// Read returns what the file at path says: the first moment of its first day,
// how far the day is, and the scenario it belongs to.
func Read(path string) (start, day time.Time, scenario string, err error) {
	s, err := read(path)
	if err != nil {
		return time.Time{}, time.Time{}, "", err
	}
	if s.Clean {
		return s.Start, s.Day, s.Scenario, nil
	}
	return s.Start, s.Mark, s.Scenario, nil
}

func read(path string) (state, error) {
	var s state
	b, err := os.ReadFile(path)
	if err != nil {
		return s, fmt.Errorf("read clock: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("read clock %s: %w; remove the file to begin the day again", path, err)
	}
	if s.Start.IsZero() || s.Mark.Before(s.Start) || s.Day.After(s.Mark) {
		return s, fmt.Errorf("read clock %s: start %v, day %v and mark %v are out of order; remove the file to begin the day again", path, s.Start, s.Day, s.Mark)
	}
	return s, nil
}

// Start returns the first moment of the first day.
func (c *Clock) Start() time.Time { return c.start }

// Resumed reports whether the file already held a day when the clock was opened.
func (c *Clock) Resumed() bool { return c.resumed }

// Speed returns simulated seconds per second.
func (c *Clock) Speed() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.speed
}

// Err returns why the day could not be written down the last time it was tried,
// or nil. While it can't be, the day stands still at the last mark.
func (c *Clock) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.saveErr
}

// Wall returns how long d of the day lasts on the wall.
func (c *Clock) Wall(d time.Duration) time.Duration {
	return time.Duration(float64(d) / c.Speed())
}

// Now returns the moment of the day, in UTC, without a monotonic reading. It
// never goes back.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *Clock) now() time.Time {
	if c.held {
		return c.base
	}
	t := c.base.Add(time.Duration(float64(time.Since(c.anchor)) * c.speed))
	if !c.mark.IsZero() && t.After(c.mark) {
		t = c.mark
	}
	for _, limit := range []time.Time{c.end, c.wait} {
		if !limit.IsZero() && t.After(limit) {
			t = later(limit, c.base) // it was past it already
		}
	}
	return t
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// EndAt makes the day stand still once it has come to t; the zero time lets it
// go on.
func (c *Clock) EndAt(t time.Time) { c.limit(&c.end, t) }

// WaitAt makes the day wait at t, for somebody who has to keep up with it, until
// it is told a later moment; the zero time lets it go on.
func (c *Clock) WaitAt(t time.Time) { c.limit(&c.wait, t) }

func (c *Clock) limit(which *time.Time, t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.anchor = c.now(), time.Now()
	*which = t
	close(c.changed)
	c.changed = make(chan struct{})
}

// Hold makes the day stand still; Resume lets it pass again.
func (c *Clock) Hold() { c.pace(true, 0) }

// Resume lets a held day pass.
func (c *Clock) Resume() { c.pace(false, 0) }

// SetSpeed changes how fast the day passes from now on. It panics if speed is
// not positive.
func (c *Clock) SetSpeed(speed float64) {
	if !(speed > 0) {
		panic("clock: speed must be positive")
	}
	c.mu.Lock()
	held := c.held
	c.mu.Unlock()
	c.pace(held, speed)
	_ = c.save(false) // a mark as far ahead as the new speed needs
}

func (c *Clock) pace(held bool, speed float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.anchor = c.now(), time.Now()
	c.held = held
	if speed > 0 {
		c.speed = speed
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// Close writes the day down and makes it stand still. Timers that have not fired
// will not.
func (c *Clock) Close() error {
	c.mu.Lock()
	select {
	case <-c.stop:
		c.mu.Unlock()
		return nil
	default:
	}
	c.base, c.held = c.now(), true
	close(c.stop)
	c.mu.Unlock()
	<-c.done
	return c.save(true)
}

// run writes the day down until the clock is closed.
func (c *Clock) run() {
	defer close(c.done)
	t := time.NewTicker(saveEvery)
	defer t.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-t.C:
			_ = c.save(false) // kept in saveErr; the day stands still at the mark
		}
	}
}

// save writes the day and a mark ahead of it to the file, in one step.
func (c *Clock) save(clean bool) error {
	c.mu.Lock()
	day := c.now()
	s := state{Scenario: c.scenario, Start: c.start, Day: day, Mark: day.Add(time.Duration(float64(reserve) * c.speed)), Speed: c.speed, Clean: clean}
	if clean {
		s.Mark = day
	}
	c.mu.Unlock()

	err := write(c.path, s)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.saveErr = err
	if err != nil {
		return err
	}
	if !c.held && c.base.Add(time.Duration(float64(time.Since(c.anchor))*c.speed)).After(c.mark) {
		// The day stood at the old mark: it goes on from there, it does not jump.
		c.base, c.anchor = c.now(), time.Now()
	}
	c.mark = s.Mark
	return nil
}

func write(path string, s state) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("save clock %s: %w", path, err)
	}
	if err := wholefile.Write(path, append(b, '\n')); err != nil {
		return fmt.Errorf("save clock: %w", err)
	}
	return nil
}
