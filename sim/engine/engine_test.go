package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

var start = time.Date(2026, 9, 16, 0, 0, 0, 0, time.UTC)

func TestEventsRunInOrderOfTimeThenOfAsking(t *testing.T) {
	e := New(start, 1)
	var got []string
	say := func(s string) func() {
		return func() { got = append(got, fmt.Sprintf("%s@%v", s, e.Now().Sub(start))) }
	}
	e.After(2*time.Second, say("c"))
	e.After(time.Second, say("a"))
	e.After(time.Second, func() {
		say("b")()
		e.After(-time.Hour, say("b2")) // the past is now
	})
	e.After(time.Minute, say("too late"))
	if err := e.Run(t.Context(), start.Add(10*time.Second)); err != nil {
		t.Fatal(err)
	}
	want := []string{"a@1s", "b@1s", "b2@1s", "c@2s"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if d := e.Now().Sub(start); d != 10*time.Second {
		t.Errorf("the clock shows %v", d)
	}
}

func TestAStoppedRunSaysSo(t *testing.T) {
	e := New(start, 1)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	var again func()
	again = func() {
		if n++; n == 1000 {
			cancel()
		}
		e.After(time.Second, again)
	}
	again()
	if err := e.Run(ctx, start.Add(1000*time.Hour)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if n > 2000 {
		t.Errorf("it went on for %d events", n)
	}
}

func TestDiceFallAlikeForOneNameAndSeed(t *testing.T) {
	a, b := New(start, 1).Dice("x").Uint64(), New(start, 1).Dice("x").Uint64()
	if a != b {
		t.Error("equal dice fell differently")
	}
	if c, d := New(start, 2).Dice("x").Uint64(), New(start, 1).Dice("y").Uint64(); a == c || a == d {
		t.Error("another seed or name fell alike")
	}
}
