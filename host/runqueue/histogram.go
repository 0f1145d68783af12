package runqueue

import (
	"math/bits"
	"time"
)

const (
	perOctave = 4                                // buckets between a wait and its double: 19 % apart
	firstLog  = 10                               // waits below 2^10 ns are of the first bucket
	lastLog   = 34                               // waits of 2^34 ns (17 s) and more are of the last
	buckets   = (lastLog-firstLog)*perOctave + 2 // of a Histogram
)

// A Histogram counts waits. Buckets are a quarter of an octave wide, from a
// microsecond to 17 seconds. The zero Histogram has seen nothing.
type Histogram struct {
	Count  [buckets]uint64 // by bucket
	Waits  uint64          // how often a thread of the group began to run
	Waited time.Duration   // in all
}

// bucketOf returns the bucket of a wait. The program in the kernel counts alike.
func bucketOf(ns uint64) int {
	if ns < 1<<firstLog {
		return 0
	}
	log := bits.Len64(ns) - 1
	if log >= lastLog {
		return buckets - 1
	}
	return 1 + (log-firstLog)*perOctave + int(ns>>(log-2)&(perOctave-1))
}

// upper returns the end of a bucket, nanoseconds.
func upper(bucket int) uint64 {
	if bucket == 0 {
		return 1 << firstLog
	}
	octave, quarter := (bucket-1)/perOctave, (bucket-1)%perOctave
	return uint64(perOctave+quarter+1) << (firstLog + octave - 2)
}

// add counts n waits of ns nanoseconds each.
func (h *Histogram) add(ns, n uint64) {
	h.Count[bucketOf(ns)] += n
	h.Waits += n
	h.Waited += time.Duration(ns * n)
}

// Add counts what other has seen as well.
func (h *Histogram) Add(other *Histogram) {
	for i, n := range other.Count {
		h.Count[i] += n
	}
	h.Waits += other.Waits
	h.Waited += other.Waited
}

// Since returns what h has seen and before had not; before is an earlier reading of
// the same group. What grew the other way, as after a new start, counts from zero.
func (h *Histogram) Since(before *Histogram) Histogram {
	if h.Waits < before.Waits || h.Waited < before.Waited {
		return *h
	}
	d := Histogram{Waits: h.Waits - before.Waits, Waited: h.Waited - before.Waited}
	for i, n := range h.Count {
		d.Count[i] = n - min(n, before.Count[i])
	}
	return d
}

// Quantile returns a wait that the share q of all waits did not exceed: the end of
// its bucket, so at most a quarter too high. 0 if h has seen nothing.
func (h *Histogram) Quantile(q float64) time.Duration {
	var all uint64
	for _, n := range h.Count {
		all += n
	}
	if all == 0 {
		return 0
	}
	rank, seen := uint64(min(max(q, 0), 1)*float64(all)), uint64(0)
	rank = min(max(rank, 1), all)
	for i, n := range h.Count {
		if seen += n; seen >= rank {
			return time.Duration(upper(i))
		}
	}
	return time.Duration(upper(buckets - 1))
}

// Mean returns the mean wait, 0 if h has seen nothing.
func (h *Histogram) Mean() time.Duration {
	if h.Waits == 0 {
		return 0
	}
	return h.Waited / time.Duration(h.Waits)
}
