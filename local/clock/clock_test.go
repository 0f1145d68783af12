package clock

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

var start = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

func open(t *testing.T, path string, o Options) *Clock {
	t.Helper()
	if o.Start.IsZero() {
		o.Start = start
	}
	c, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheDayPassesSpeedTimesAsFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, filepath.Join(t.TempDir(), "clock.json"), Options{Speed: 60})
		defer c.Close()
		time.Sleep(10 * time.Second)
		if got := c.Now().Sub(start); got != 10*time.Minute {
			t.Errorf("after 10 s at 60 times the day is at %v, want 10m", got)
		}
		if got := c.Since(start); got != 10*time.Minute {
			t.Errorf("Since is %v, want 10m", got)
		}
		if got := c.Wall(time.Hour); got != time.Minute {
			t.Errorf("an hour takes %v on the wall, want 1m", got)
		}
	})
}

func TestAHeldDayStandsStillAndItsTimersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, filepath.Join(t.TempDir(), "clock.json"), Options{Speed: 60, Held: true})
		defer c.Close()
		timer := c.NewTimer(time.Minute)
		time.Sleep(time.Hour)
		if got := c.Now(); !got.Equal(start) {
			t.Errorf("a held day is at %v, want %v", got, start)
		}
		select {
		case at := <-timer.C():
			t.Fatalf("a timer fired at %v while the day was held", at)
		default:
		}
		c.Resume()
		at := <-timer.C()
		if want := start.Add(time.Minute); at.Before(want) || at.After(want.Add(time.Second)) {
			t.Errorf("the timer fired at %v, want %v", at, want)
		}
		c.SetSpeed(600)
		before := c.Now()
		time.Sleep(time.Second)
		if got := c.Now().Sub(before); got != 10*time.Minute {
			t.Errorf("a second at 600 times is %v, want 10m", got)
		}
	})
}

func TestADayThatEndsStandsStillThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, filepath.Join(t.TempDir(), "clock.json"), Options{Speed: 600})
		defer c.Close()
		end := start.Add(90 * time.Minute)
		c.EndAt(end)
		late := c.NewTimer(91 * time.Minute)
		c.Sleep(90 * time.Minute)
		if got := c.Now(); !got.Equal(end) {
			t.Errorf("at its end the day is at %v, want %v", got, end)
		}
		time.Sleep(time.Minute)
		if got := c.Now(); !got.Equal(end) {
			t.Errorf("a minute after its end the day is at %v, want %v", got, end)
		}
		select {
		case <-late.C():
			t.Error("a timer beyond the end fired")
		default:
		}
		c.EndAt(time.Time{})
		if at := <-late.C(); at.Before(start.Add(91 * time.Minute)) {
			t.Errorf("the timer fired at %v", at)
		}
	})
}

func TestADayThatWaitsGoesOnWhenItIsToldALaterMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, filepath.Join(t.TempDir(), "clock.json"), Options{Speed: 600})
		defer c.Close()
		c.EndAt(start.Add(time.Hour))
		c.WaitAt(start.Add(2 * time.Minute))
		late := c.NewTimer(3 * time.Minute)
		time.Sleep(time.Minute)
		if got := c.Now().Sub(start); got != 2*time.Minute {
			t.Errorf("the day waits at %v, want 2m", got)
		}
		c.WaitAt(start.Add(4 * time.Minute))
		if at := <-late.C(); at.Sub(start).Round(time.Second) != 3*time.Minute {
			t.Errorf("the timer fired at %v, want 3m", at.Sub(start))
		}
		c.WaitAt(time.Time{})
		time.Sleep(time.Minute)
		if got := c.Now().Sub(start); got != time.Hour {
			t.Errorf("nobody waits any more, and the day is at %v, want its end at 1h", got)
		}
	})
}

func TestTimersAndTickersKeepTheTimeOfTheDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, filepath.Join(t.TempDir(), "clock.json"), Options{Speed: 3600})
		defer c.Close()
		wall := time.Now()
		c.Sleep(time.Hour)
		if got := time.Since(wall); got < time.Second || got > time.Second+time.Millisecond {
			t.Errorf("an hour's sleep took %v, want 1s", got)
		}

		timer := c.NewTimer(time.Hour)
		if !timer.Stop() {
			t.Error("Stop says a running timer did not run")
		}
		if timer.Stop() {
			t.Error("Stop says a stopped timer ran")
		}
		timer.Reset(2 * time.Hour)
		before := c.Now()
		if at := <-timer.C(); at.Sub(before) < 2*time.Hour {
			t.Errorf("a reset timer fired after %v, want 2h", at.Sub(before))
		}

		ticker := c.NewTicker(10 * time.Minute)
		first := <-ticker.C()
		for i := 1; i <= 5; i++ {
			want := first.Add(time.Duration(i) * 10 * time.Minute)
			if at := <-ticker.C(); at.Sub(want).Abs() > time.Second {
				t.Errorf("tick %d came at %v, want %v", i, at, want)
			}
		}
		time.Sleep(5 * time.Second) // five hours in which nobody looks
		synctest.Wait()
		<-ticker.C() // the one that was kept
		next := <-ticker.C()
		if late := c.Now().Sub(next); late > 10*time.Minute {
			t.Errorf("a tick came %v late: missed ticks are made up for", late)
		}
		ticker.Stop()
	})
}

func TestAClosedDayGoesOnWhereItStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "clock.json")
		c := open(t, path, Options{Speed: 60, Scenario: "a"})
		time.Sleep(7*time.Second + 300*time.Millisecond)
		want := c.Now()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("the second Close: %v", err)
		}
		time.Sleep(time.Hour) // nothing runs: the day stands still
		d := open(t, path, Options{Start: start.Add(99 * time.Hour), Speed: 10, Scenario: "a"})
		defer d.Close()
		if got := d.Now(); !got.Equal(want) {
			t.Errorf("the day goes on at %v, want %v", got, want)
		}
		if !d.Resumed() || !d.Start().Equal(start) {
			t.Errorf("resumed %v with start %v, want true and %v", d.Resumed(), d.Start(), start)
		}
	})
}

func TestAKilledDayNeverGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path, copied := filepath.Join(dir, "clock.json"), filepath.Join(dir, "killed.json")
		c := open(t, path, Options{Speed: 600})
		defer c.Close()
		for i := range 40 {
			time.Sleep(137 * time.Millisecond)
			synctest.Wait()
			said := c.Now()
			b, err := os.ReadFile(path) // what a kill leaves
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(copied, b, 0o600); err != nil {
				t.Fatal(err)
			}
			d := open(t, copied, Options{Speed: 600})
			got := d.Now()
			d.Close()
			if got.Before(said) {
				t.Fatalf("kill %d: the day said %v and went on at %v", i, said, got)
			}
			if ahead := got.Sub(said); ahead > 600*reserve {
				t.Errorf("kill %d: the day jumped %v ahead", i, ahead)
			}
		}
	})
}

func TestADayThatCantBeWrittenDownStandsStillAtItsMark(t *testing.T) {
	if os.Getuid() == 0 {
		// Root writes into read-only folders, so the folder is taken away instead.
		t.Log("running as root")
	}
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "state")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		c := open(t, filepath.Join(dir, "clock.json"), Options{Speed: 60})
		defer c.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if c.Err() == nil {
			t.Error("no error although nothing can be written")
		}
		stood := c.Now()
		if max := start.Add(60 * reserve); stood.After(max) {
			t.Errorf("the day went on to %v past its mark %v", stood, max)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if c.Err() != nil {
			t.Errorf("still an error: %v", c.Err())
		}
		if got := c.Now().Sub(stood); got <= 0 || got > 2*time.Minute {
			t.Errorf("the day went on by %v in 2 s, want more than nothing and at most 2m", got)
		}
	})
}

func TestOpenRefusesWhatItCantTrust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "clock.json")
		if _, err := Open(path, Options{Speed: 1}); err == nil {
			t.Error("a new day without a start is accepted")
		}
		if _, err := Open(path, Options{Start: start, Speed: -1}); err == nil {
			t.Error("a negative speed is accepted")
		}
		if err := open(t, path, Options{Scenario: "a"}).Close(); err != nil {
			t.Fatal(err)
		}
		var other *OtherScenarioError
		if _, err := Open(path, Options{Start: start, Scenario: "b"}); !errors.As(err, &other) || other.Have != "a" {
			t.Errorf("opening the day of another scenario: %v", err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("the file's mode is %v, want 0600", info.Mode().Perm())
		}
		for _, bad := range []string{"", "{", `{"start":"2026-03-02T00:00:00Z","day":"2026-03-02T00:00:00Z","mark":"2026-03-01T00:00:00Z"}`} {
			if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(path, Options{Start: start}); err == nil {
				t.Errorf("a file %q is accepted", bad)
			}
		}
	})
}
