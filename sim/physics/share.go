package physics

import "slices"

// Need returns the cores a pod wants: base plus its load's, on a machine that
// does ratingMillis/1000 units of work per core-second. Rates below zero count
// as zero and an unknown rating (≤ 0) as 1000.
func Need(baseCores, requestsPerSecond, cpuSecondsPerRequest float64, ratingMillis int64) float64 {
	if ratingMillis <= 0 {
		ratingMillis = 1000
	}
	work := baseCores + max(0, requestsPerSecond)*cpuSecondsPerRequest
	return max(0, work*1000/float64(ratingMillis))
}

// A Claim is what one pod wants of a machine's cores.
type Claim struct {
	Demand float64 // cores it would use if it were alone
	Weight float64 // its CPU request in cores; CFS shares follow requests
	Limit  float64 // most cores it may use; 0 means no limit
}

// minWeight is the weight of a pod without a request: 2 CPU shares of 1024, as
// the kubelet sets it.
const minWeight = 2.0 / 1024

func (c Claim) want() float64 {
	d := max(0, c.Demand)
	if c.Limit > 0 {
		d = min(d, c.Limit)
	}
	return d
}

func (c Claim) weight() float64 { return max(c.Weight, minWeight) }

// Share divides capacity (cores) over the claims as CFS does: nobody gets more
// than it wants or its limit, and when the machine is full the rest is divided
// in proportion to the weights, again and again, until nothing is left. The
// grants come back in grants, which must be as long as claims.
func Share(capacity float64, claims []Claim, grants []float64) {
	sum := 0.0
	for i, c := range claims {
		grants[i] = c.want()
		sum += grants[i]
	}
	if sum <= capacity {
		return
	}
	order := make([]int, len(claims))
	weights := 0.0
	for i := range order {
		order[i] = i
		weights += claims[i].weight()
	}
	// Those who want least per weight are satisfied first.
	slices.SortStableFunc(order, func(a, b int) int {
		x, y := grants[a]/claims[a].weight(), grants[b]/claims[b].weight()
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	left := max(0, capacity)
	for _, i := range order {
		w := claims[i].weight()
		grants[i] = min(grants[i], left*w/weights)
		left = max(0, left-grants[i])
		weights -= w
	}
}

// Available returns the cores a claim could get if it wanted without end: what
// it has and what is free, at least its fair share (its weight's part of the
// whole machine), within its limit.
func (c Claim) Available(grant, free, fair float64) float64 {
	a := max(grant+max(0, free), fair)
	if c.Limit > 0 {
		a = min(a, c.Limit)
	}
	return a
}
