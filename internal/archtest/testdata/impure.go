// Package impure is what core may not be.
package impure

import (
	"math/rand/v2"
	"time"
)

func draw() (time.Time, int) {
	now := time.Now()
	return now, rand.IntN(6)
}

func fair(dice *rand.Rand, at time.Time) (time.Time, int) { return at.Add(time.Hour), dice.IntN(6) }
