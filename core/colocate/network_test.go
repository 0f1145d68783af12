package colocate

import (
	"testing"
	"time"
)

func TestALinkIsLentAsHeraclesDoes(t *testing.T) {
	b := NewLinkBudget(LinkRule{Bits: 100e6, ReservePercent: 5})
	now := time.Duration(0)
	next := func(online int64) int64 { now += time.Second; return b.Next(now, online) }
	if got := next(20e6); got != 75e6 {
		t.Errorf("beside 20 Mbit/s batch has %d, want 75 Mbit/s", got)
	}
	if got := next(60e6); got != 34e6 {
		t.Errorf("beside 60 Mbit/s batch has %d, want 34 Mbit/s: a tenth of online is more than the reserve", got)
	}
	for range 4 {
		if got := next(20e6); got != 34e6 {
			t.Errorf("while online was high within five seconds batch has %d, want 34 Mbit/s", got)
		}
	}
	for _, want := range []int64{44e6, 54e6, 64e6, 74e6, 75e6, 75e6} {
		if got := next(20e6); got != want {
			t.Errorf("rising batch has %d, want %d", got, want)
		}
	}
	if got := next(-1); got != 1e6 {
		t.Errorf("with online unknown batch has %d, want the floor", got)
	}
	if got := next(500e6); got != 1e6 {
		t.Errorf("beside more than the link carries batch has %d, want the floor", got)
	}
}

func FuzzLinkBudget(f *testing.F) {
	f.Add(int64(100e6), int64(5), int64(3), int64(20e6), int64(-5))
	f.Fuzz(func(t *testing.T, bits, reserve, ms, x, y int64) {
		bits = min(bits, 1<<50)
		b := NewLinkBudget(LinkRule{Bits: bits, ReservePercent: reserve})
		at := time.Duration(0)
		for i := range 20 {
			online := []int64{x, y, x / 2, 0}[i%4]
			at += time.Duration(min(max(ms, 1), 1e6)) * time.Millisecond
			got := b.Next(at, online)
			floor := max(bits, 0) / 100
			if got < floor || got > max(bits, 0) {
				t.Fatalf("a link of %d lends %d", bits, got)
			}
			if online >= 0 && got > floor && got > bits-online {
				t.Fatalf("a link of %d with %d online lends %d", bits, online, got)
			}
			if again := b.Next(at, 0); again != got {
				t.Fatalf("the same moment gives %d, then %d", got, again)
			}
		}
	})
}
