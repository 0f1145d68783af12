package colocation

import (
	"math"
	"math/rand/v2"
	"time"
)

// A Job is one of the endless queue.
type Job struct {
	Milli    int64
	Work     float64       // minutes it runs if it gets all its cores
	Expected time.Duration // what is believed of that
}

// A Mix is what jobs are like: run times are log-normal.
type Mix struct {
	MedianMinutes float64 // 30: with Sigma 1 the mean is 49, nine of ten below 108
	Sigma         float64
	// Belief is how wrong declared or learnt run times are: the standard deviation
	// of their logarithm around the true one.
	Belief float64
}

// DefaultMix is what is replayed where nothing else is said.
var DefaultMix = Mix{MedianMinutes: 30, Sigma: 1, Belief: 0.3}

// Asks is how many jobs ask every minute.
const Asks = 16

// waiting returns the jobs that ask in a minute: the same for everybody.
func (x Mix) waiting(seed uint64, minute int, into []Job) []Job {
	dice := rand.New(rand.NewPCG(seed, uint64(minute)))
	into = into[:0]
	for range Asks {
		work := x.MedianMinutes * math.Exp(x.Sigma*dice.NormFloat64())
		work = min(max(math.Round(work), 1), 12*60)
		believed := work * math.Exp(x.Belief*dice.NormFloat64())
		milli := int64(1000)
		switch u := dice.Float64(); {
		case u > 0.9:
			milli = 4000
		case u > 0.6:
			milli = 2000
		}
		into = append(into, Job{milli, work, time.Duration(believed * float64(time.Minute))})
	}
	return into
}

// A running job.
type running struct {
	Job
	id   int
	done float64 // minutes of its work
}
