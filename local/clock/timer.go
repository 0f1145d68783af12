package clock

import (
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// Since returns how much of the day has passed since t.
func (c *Clock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// Sleep waits until d of the day has passed.
func (c *Clock) Sleep(d time.Duration) { <-c.After(d) }

// After returns a channel that gets the time once d of the day has passed.
func (c *Clock) After(d time.Duration) <-chan time.Time { return c.NewTimer(d).C() }

// Tick returns the channel of a ticker that is never stopped.
func (c *Clock) Tick(d time.Duration) <-chan time.Time { return c.NewTicker(d).C() }

// NewTimer returns a timer that fires once, after d of the day.
func (c *Clock) NewTimer(d time.Duration) clock.Timer { return c.NewTimerAt(c.Now().Add(d)) }

// NewTimerAt returns a timer that fires once, when the day has come to at.
func (c *Clock) NewTimerAt(at time.Time) clock.Timer {
	t := &timer{clock: c, c: make(chan time.Time, 1)}
	t.start(at)
	return t
}

// NewTicker returns a ticker that fires every d of the day. Like time.Ticker's,
// its channel holds one tick and drops those that nobody takes; at a high speed
// many may be dropped. It panics if d is not positive.
func (c *Clock) NewTicker(d time.Duration) clock.Ticker {
	if d <= 0 {
		panic("clock: ticker needs a positive interval")
	}
	t := &ticker{c: make(chan time.Time, 1), stop: make(chan struct{})}
	go t.run(c, d)
	return t
}

// until waits for a moment of the day. It returns false if stop or the clock
// was closed first.
func (c *Clock) until(at time.Time, stop <-chan struct{}) bool {
	for {
		c.mu.Lock()
		left, held, speed, changed := at.Sub(c.now()), c.held, c.speed, c.changed
		for _, limit := range []time.Time{c.end, c.wait} { // the day has ended, or waits
			held = held || !limit.IsZero() && at.After(limit) && !c.now().Before(limit)
		}
		c.mu.Unlock()
		if left <= 0 {
			return true
		}
		var fire <-chan time.Time
		var t *time.Timer
		if !held {
			// Round up, and look again: the day may stand at its mark.
			t = time.NewTimer(time.Duration(float64(left)/speed) + time.Microsecond)
			fire = t.C
		}
		select {
		case <-fire:
		case <-changed:
		case <-stop:
			stopTimer(t)
			return false
		case <-c.stop:
			stopTimer(t)
			return false
		}
		stopTimer(t)
	}
}

func stopTimer(t *time.Timer) {
	if t != nil {
		t.Stop()
	}
}

type timer struct {
	clock *Clock
	c     chan time.Time

	mu   sync.Mutex
	stop chan struct{} // of the running wait; nil if none runs
}

func (t *timer) C() <-chan time.Time { return t.c }

func (t *timer) start(at time.Time) {
	stop := make(chan struct{})
	t.mu.Lock()
	t.stop = stop
	t.mu.Unlock()
	go func() {
		if !t.clock.until(at, stop) {
			return
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.stop != stop {
			return // stopped or reset while it fired
		}
		t.stop = nil
		select {
		case t.c <- t.clock.Now():
		default:
		}
	}()
}

// Stop implements clock.Timer. After it, nothing is in the channel.
func (t *timer) Stop() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	ran := t.stop != nil
	if ran {
		close(t.stop)
		t.stop = nil
	}
	select {
	case <-t.c:
	default:
	}
	return ran
}

// Reset implements clock.Timer.
func (t *timer) Reset(d time.Duration) bool {
	ran := t.Stop()
	t.start(t.clock.Now().Add(d))
	return ran
}

type ticker struct {
	c    chan time.Time
	once sync.Once
	stop chan struct{}
}

func (t *ticker) C() <-chan time.Time { return t.c }

func (t *ticker) Stop() { t.once.Do(func() { close(t.stop) }) }

func (t *ticker) run(c *Clock, d time.Duration) {
	next := c.Now().Add(d)
	for c.until(next, t.stop) {
		now := c.Now()
		select {
		case t.c <- now:
		default:
		}
		// Ticks that are past already are dropped, not made up for.
		next = next.Add(d)
		if late := now.Sub(next); late > 0 {
			next = next.Add(late.Truncate(d))
			if !next.After(now) {
				next = next.Add(d)
			}
		}
	}
}
