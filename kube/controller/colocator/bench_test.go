package colocator

import (
	"fmt"
	"testing"
)

// BenchmarkMinute is one minute of two machines with a fortnight of the past.
func BenchmarkMinute(b *testing.B) {
	y := newYard(b, valley, onlinePod("web", "a", "4"), batchPod("one", "a", 2000, "1h"))
	y.plant.past = aDay
	y.use("shop/web", 2)
	y.minute(0)
	for b.Loop() {
		y.clock.Step(60e9)
		if err := y.co.Minute(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	if len(y.evicts) > 0 {
		b.Log(fmt.Sprint("evicted ", y.evicts))
	}
}
