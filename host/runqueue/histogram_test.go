package runqueue

import (
	"testing"
	"time"
)

func TestBucketsHoldWhatTheySay(t *testing.T) {
	for b := range buckets - 1 {
		if got := bucketOf(upper(b) - 1); got != b {
			t.Errorf("the last nanosecond of bucket %d is in bucket %d", b, got)
		}
		if got := bucketOf(upper(b)); got != b+1 {
			t.Errorf("the end of bucket %d is in bucket %d, not in the next", b, got)
		}
	}
	if got := bucketOf(1 << 63); got != buckets-1 {
		t.Errorf("centuries are in bucket %d, not in the last, %d", got, buckets-1)
	}
}

func TestQuantileIsAtMostAQuarterTooHigh(t *testing.T) {
	var h Histogram
	for i := range uint64(1000) {
		h.add((i+1)*10_000, 1) // 10 µs to 10 ms, evenly
	}
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 1} {
		want, got := time.Duration(q*1e7), h.Quantile(q)
		if got < want || got > want*5/4+time.Microsecond {
			t.Errorf("quantile %v is %v, want %v or up to a quarter more", q, got, want)
		}
	}
	if got, want := h.Mean(), 5005*time.Microsecond; got != want {
		t.Errorf("mean %v, want %v", got, want)
	}
	if got := (&Histogram{}).Quantile(0.99); got != 0 {
		t.Errorf("nothing seen gives %v, want 0", got)
	}
}

func TestSinceCountsOnlyWhatIsNew(t *testing.T) {
	var before, now Histogram
	before.add(5000, 7)
	now = before
	now.add(9_000_000, 2)
	d := now.Since(&before)
	if d.Waits != 2 || d.Waited != 18*time.Millisecond || d.Quantile(0.01) < 9*time.Millisecond {
		t.Errorf("two waits of 9 ms are read as %d, %v in all", d.Waits, d.Waited)
	}
	if again := before.Since(&now); again != before {
		t.Error("after a new start, what is there is new")
	}
}
