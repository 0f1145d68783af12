package biller

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/neap-dev/neap/kube/controller/biller/billertest"
)

// BenchmarkHour tells a biller of 25,000 pods on 1,000 machines and closes an
// hour of them, everything but the metrics included.
func BenchmarkHour(b *testing.B) {
	const machines, perMachine = 1000, 25
	clock := clocktesting.NewFakeClock(start)
	x, err := New(Options{Store: &billertest.Memory{}, Clock: clock, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	if err := x.Restore(b.Context()); err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	x.MachineType(machineType("m", "0.40"))
	for i := range machines {
		name := fmt.Sprint("n", i)
		x.Node(node(name, "m", start))
		for j := range perMachine {
			p := pod(fmt.Sprintf("p%d-%d", i, j), name, start)
			p.OwnerReferences[0].UID = types.UID(fmt.Sprint("rs", i%500))
			x.Pod(p)
		}
	}
	x.Synced()
	if err := x.drain(b.Context()); err != nil {
		b.Fatal(err)
	}
	told := time.Since(began)
	for hour := 1; b.Loop(); hour++ {
		clock.SetTime(start.Add(time.Duration(hour)*time.Hour + 2*time.Minute))
		if err := x.closeDue(b.Context(), x.now()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(told.Milliseconds()), "ms/told")
}
