package interference

import "math"

// A QuotaRule is Koordinator's cfsQuota suppression (v1.8), re-made from its
// source to stand beside ours: each second
//
//	budget = capacity · threshold − online − system
//	quota  = max(2 ms, budget · 100 ms), not written when it differs by less than
//	         1 % of the machine, rising by at most 10 % of the machine
//
// It falls at once. CPU is in cores.
type QuotaRule struct {
	Cores     float64 // of the machine
	Threshold float64 // part of it that may be used; Koordinator's default is 0.65
}

// quotaFloor is 2000 µs of each period of 100 ms, in cores.
const quotaFloor = 0.02

// Next returns the quota after one second in which online pods and the system
// used so many cores. now is the quota in force, negative if there is none.
func (q QuotaRule) Next(now, online, system float64) float64 {
	want := max(quotaFloor, q.Cores*q.Threshold-online-system)
	if now < 0 {
		return want
	}
	if math.Abs(want-now) < 0.01*q.Cores {
		return now
	}
	return min(want, now+0.1*q.Cores)
}
