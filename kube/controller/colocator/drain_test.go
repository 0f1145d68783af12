package colocator

import (
	"testing"

	"github.com/neap-dev/neap/core/colocate"
)

func TestWhatRunningPodsBear(t *testing.T) {
	const machine = 16000
	for name, tc := range map[string]struct {
		binds              colocate.Bound
		peak, lent         int64 // of CPU
		peakMiB, lentMiB   int64
		wantMilli, wantMiB int64
	}{
		"outside of windows, half of what they ask for":   {colocate.BoundOnline, machine, 3000, 64, 32, 6000, 32},
		"never more than the machine":                     {colocate.BoundOnline, machine, 10000, 64, 32, machine, 32},
		"what a window leaves":                            {colocate.BoundWindow, 4000, 4000, 64, 32, 4000, 32},
		"a window that leaves nothing":                    {colocate.BoundWindow, 0, 0, 0, 0, 0, 0},
		"a window in which room has not risen yet":        {colocate.BoundRise, 4000, 3000, 64, 32, 4000, 32},
		"nothing is known: what the windows leave":        {colocate.BoundUnknown, 4000, 0, 64, 0, 4000, 64},
		"nobody holds batch back: what the windows leave": {boundAgent, machine, 0, 64, 0, machine, 64},
	} {
		t.Run(name, func(t *testing.T) {
			curve := func(milli, mib int64) colocate.Curve {
				return colocate.Curve{Step: colocate.Step, CPUMilli: []int64{milli}, MemoryMiB: []int64{mib}}
			}
			o := colocate.Offer{Binds: tc.binds, Peak: curve(tc.peak, tc.peakMiB), Curve: curve(tc.lent, tc.lentMiB)}
			got := bearable(o)
			if got.CPUMilli[0] != tc.wantMilli || got.MemoryMiB[0] != tc.wantMiB {
				t.Errorf("they bear %d milli and %d MiB, want %d and %d", got.CPUMilli[0], got.MemoryMiB[0], tc.wantMilli, tc.wantMiB)
			}
			if o.Peak.CPUMilli[0] != tc.peak || o.Curve.CPUMilli[0] != tc.lent {
				t.Error("the offer was changed")
			}
		})
	}
}
