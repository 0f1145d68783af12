package biller

import (
	"context"
	"sync"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/metrics"
)

// settle is how far back from now new samples may still change what was read.
const settle = 5 * time.Minute

// running keeps what was read of the running hour's use, so that each look at it
// reads only what is new.
type running struct {
	mu      sync.Mutex
	hour    time.Time
	settled time.Time // samples before it will not change
	used    map[string][]bill.Sample
}

// Provisional returns the facts of the hour that is not closed yet, as if it
// ended now. Just after a full hour they may be empty. It may be called from any
// goroutine.
func (b *Biller) Provisional(ctx context.Context) (bill.Facts, error) {
	now := b.now()
	from := now.Truncate(time.Hour)
	ready := b.isReady()
	if ready && b.origin.After(from) {
		from = b.origin
	}
	if !ready || !from.Before(now) {
		book, _ := b.Book()
		return bill.Facts{From: from, To: now, Currency: book.Currency()}, nil
	}
	facts, _, err := b.account(ctx, b.Hour(from, now), b.runningUsage)
	return facts, err
}

func (b *Biller) runningUsage(ctx context.Context, from, to time.Time) (map[string][]bill.Sample, error) {
	r := &b.run
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.hour.Equal(from) {
		r.hour, r.settled, r.used = from, from, nil
	}
	out := make(map[string][]bill.Sample, len(r.used))
	if !r.settled.Before(to) {
		return r.used, nil
	}
	fresh, err := metrics.Usage(ctx, b.o.Metrics, r.settled, to, metrics.UsageOptions{Step: time.Minute})
	if err != nil && !metrics.Partial(err) {
		return nil, err
	}
	for pod, s := range r.used {
		out[pod] = s
	}
	for pod, s := range fresh {
		out[pod] = append(out[pod][:len(out[pod]):len(out[pod])], s...)
	}
	if settled := to.Add(-settle); err == nil && settled.After(r.settled) {
		kept := make(map[string][]bill.Sample, len(out))
		for pod, all := range out {
			kept[pod] = before(all, settled)
		}
		r.settled, r.used = settled, kept
	}
	return out, err
}

// before returns the samples before an instant, the last one cut off at it.
func before(samples []bill.Sample, t time.Time) []bill.Sample {
	n := len(samples)
	for n > 0 && !samples[n-1].From.Before(t) {
		n--
	}
	out := append([]bill.Sample(nil), samples[:n]...)
	if n > 0 && out[n-1].To.After(t) {
		out[n-1].To = t
	}
	return out
}

// Between returns the facts of [from, to), cut at full hours, as if they were
// closed now; nothing is recorded. It is for a day that ends within an hour, or
// before the last hour's grace is over. What is closed already should be taken
// from the store: the biller may have forgotten it.
func (b *Biller) Between(ctx context.Context, from, to time.Time) ([]bill.Facts, error) {
	if b.origin.After(from) {
		from = b.origin
	}
	var out []bill.Facts
	for from.Before(to) {
		end := from.Truncate(time.Hour).Add(time.Hour)
		if to.Before(end) {
			end = to
		}
		facts, _, err := b.account(ctx, b.Hour(from, end), b.usage)
		if err != nil {
			return nil, err
		}
		out = append(out, facts)
		from = end
	}
	return out, nil
}
