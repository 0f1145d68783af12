package biller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/moduleload"
	"github.com/neap-dev/neap/metrics"
)

// closeDue closes every hour that has ended, then tries one of those again that
// were closed with something missing. Errors are the store's.
func (b *Biller) closeDue(ctx context.Context, now time.Time) error {
	for !b.next.Add(time.Hour + b.o.Grace).After(now) {
		start := b.next
		c, err := b.closeHour(ctx, start, false)
		if err != nil {
			return err
		}
		b.next = start.Add(time.Hour)
		if c.Missing != "" {
			b.retries = append(b.retries, retry{Hour: start, Why: c.Missing, Since: now, Next: now.Add(retryEvery)})
			if err := b.setJSON(ctx, stateRetry, b.retries); err != nil {
				return err
			}
		}
		if err := b.forget(ctx); err != nil {
			return err
		}
		if c.Modules == nil { // nothing was closed
			continue
		}
		for _, f := range b.listeners {
			f(c)
		}
	}
	return b.retryDue(ctx, now)
}

func (b *Biller) retryDue(ctx context.Context, now time.Time) error {
	changed, tried := false, false
	var kept []retry
	for _, r := range b.retries {
		switch {
		case now.Sub(r.Since) > retryFor:
			b.log.Warn("an hour stays closed with something missing", "hour", r.Hour, "missing", r.Why)
			changed = true
			continue
		case r.Next.After(now):
		case tried: // what is missing is likely missing for all: one try a pass
			r.Next, changed = now.Add(retryEvery), true
		default:
			c, err := b.closeHour(ctx, r.Hour, true)
			changed = true
			switch {
			case errors.Is(err, errStillMissing):
				tried = true
				r.Next = now.Add(retryEvery)
			case err != nil:
				return err
			default:
				b.log.Info("an hour was closed again with what had been missing", "hour", r.Hour, "missing", r.Why)
				if last, ok := b.Last(); ok && last.Facts.From.Equal(c.Facts.From) {
					for _, f := range b.listeners {
						f(c)
					}
				}
				continue
			}
		}
		kept = append(kept, r)
	}
	if !changed {
		return nil
	}
	b.retries = kept
	return b.setJSON(ctx, stateRetry, kept)
}

var errStillMissing = errors.New("still missing")

// closeHour closes the hour that starts at start. With all set it changes
// nothing unless nothing is missing.
func (b *Biller) closeHour(ctx context.Context, start time.Time, all bool) (Closed, error) {
	began := time.Now()
	from, to := start, start.Add(time.Hour)
	if b.origin.After(from) {
		from = b.origin
	}
	if !from.Before(to) {
		return Closed{Facts: bill.Facts{From: start, To: to}}, nil
	}
	facts, missing, err := b.account(ctx, b.Hour(from, to), b.usage)
	if err != nil {
		// Nothing that the cluster says may keep the days after it from being
		// billed: the hour is left open and tried again.
		b.log.Error("an hour could not be closed", "hour", start, "err", err)
		b.setProblem(fmt.Sprintf("the hour from %s could not be closed: %v", start.Format(time.RFC3339), err))
		if all {
			return Closed{}, errStillMissing
		}
		return Closed{Facts: bill.Facts{From: from, To: to}, Missing: err.Error()}, nil
	}
	if all && missing != "" {
		return Closed{}, errStillMissing
	}
	if err := b.o.Store.WriteHour(ctx, facts); err != nil {
		return Closed{}, err
	}
	c := b.summarise(facts, missing)
	b.setLast(c)
	b.setProblem("")
	b.log.Info("closed an hour", "from", facts.From, "machines", len(facts.Machines), "pods", len(facts.Pods), "missing", missing, "took", time.Since(began))
	return c, nil
}

func (b *Biller) summarise(facts bill.Facts, missing string) Closed {
	c := Closed{Facts: facts, Missing: missing, Modules: map[workload.Key]bill.Line{}}
	report, err := bill.Summarise([]bill.Facts{facts}, bill.ByModule, nil)
	if err != nil {
		b.log.Error("the hour's facts do not add up", "hour", facts.From, "err", err)
		return c
	}
	for _, l := range report.Lines {
		if key, ok := workload.ParseKey(l.Key); ok {
			c.Modules[key] = l
		}
	}
	return c
}

// forget drops what no hour that may still be closed, or closed again, needs.
func (b *Biller) forget(ctx context.Context) error {
	open := b.next
	for _, r := range b.retries {
		if r.Hour.Before(open) {
			open = r.Hour
		}
	}
	b.Observer.mu.Lock()
	b.Observer.since = open
	b.Observer.mu.Unlock()
	b.j.Lock()
	b.journal.Forget(open.Add(-keep))
	machines, pods := b.journal.Len()
	var events []bill.Event
	if b.stored > 4*(machines+pods)+10_000 {
		events = b.journal.Events()
	}
	known := len(b.outages)
	b.outages = slices.DeleteFunc(slices.Clone(b.outages), func(o outage) bool { return !o.To.After(open.Add(-keep)) })
	outages := b.outages
	b.j.Unlock()
	if len(outages) != known {
		if err := b.setJSON(ctx, stateOutages, outages); err != nil {
			return err
		}
	}
	if events == nil {
		return nil
	}
	if err := b.o.Store.ReplaceEvents(ctx, events); err != nil {
		return err
	}
	b.stored = len(events)
	return nil
}

// Rebuild accounts again for an hour whose facts were lost, from what is still
// remembered of it; see store.Options. It may be called from any goroutine.
func (b *Biller) Rebuild(ctx context.Context, from, to time.Time) (bill.Facts, error) {
	b.Observer.mu.Lock()
	oldest := b.Observer.since.Add(-keep)
	b.Observer.mu.Unlock()
	if from.Before(oldest) || !b.isReady() {
		return bill.Facts{}, fmt.Errorf("the hour from %s cannot be closed again: what was observed is remembered since %s only",
			from.UTC().Format(time.RFC3339), oldest.UTC().Format(time.RFC3339))
	}
	if b.origin.After(from) {
		from = b.origin
	}
	facts, _, err := b.account(ctx, b.Hour(from, to), b.usage)
	return facts, err
}

// account turns what was recorded of a stretch of time into its facts. missing
// says in one sentence what could not be had; it is "" if the facts are final.
func (b *Biller) account(ctx context.Context, h bill.Hour, usage usageFunc) (facts bill.Facts, missing string, err error) {
	var notes, lacks []string
	b.Pools().SetSpare(&h)

	// 1. Machines without a price are left out: no cost is better than a wrong one.
	book, priceErrs := b.Book()
	unpriced := map[string][]string{}
	present := map[string]bool{}
	h.Machines = slices.DeleteFunc(h.Machines, func(m bill.Machine) bool {
		if _, err := book.At(m.Type, m.Capacity, m.From); err != nil {
			unpriced[m.Type] = append(unpriced[m.Type], m.Name)
			return true
		}
		present[m.Name] = true
		return false
	})
	for _, typ := range sortedKeys(unpriced) {
		names := slices.Compact(unpriced[typ])
		s := fmt.Sprintf("%s left out, for no MachineType %q is declared: declare it with its price", count(names, "machine"), typ)
		if typ == "" {
			s = fmt.Sprintf("%s left out, for the label node.kubernetes.io/instance-type does not say which type: set it", count(names, "machine"))
		}
		if err := priceErrs[typ]; err != nil {
			s = fmt.Sprintf("%s left out: %v", count(names, "machine"), err)
		}
		notes, lacks = append(notes, s), append(lacks, s)
	}
	homeless := 0
	h.Pods = slices.DeleteFunc(h.Pods, func(p bill.Pod) bool {
		if !present[p.Machine] {
			homeless++
			return true
		}
		return false
	})
	if homeless > 0 {
		notes = append(notes, fmt.Sprintf("%d pods left out, for the machines they ran on are not on the bill", homeless))
	}

	// 2. Use, load and quality come from the metrics.
	if b.o.Metrics == nil {
		notes = append(notes, "no metrics are connected: all use is estimated as what was requested")
	} else {
		used, err := usage(ctx, h.From, h.To)
		switch {
		case err != nil && !metrics.Partial(err):
			s := fmt.Sprintf("all use is estimated as what was requested, for the metrics could not be read: %v", err)
			notes, lacks = append(notes, s), append(lacks, s)
		case err != nil:
			s := fmt.Sprintf("part of the use may be estimated: %v", err)
			notes, lacks = append(notes, s), append(lacks, s)
		case len(used) == 0 && len(h.Pods) > 0:
			s := "all use is estimated as what was requested, for the metrics know of no pod"
			notes, lacks = append(notes, s), append(lacks, s)
		}
		byUID := make(map[string][]bill.Sample, len(h.Pods))
		for i := range h.Pods {
			p := &h.Pods[i]
			if s := used[p.Namespace+"/"+p.Name]; len(s) > 0 {
				byUID[p.UID] = s
			}
		}
		bill.AttachUsage(&h, byUID)
		var loadErr error
		h.Loads, loadErr = b.loads(ctx, h.From, h.To)
		if loadErr != nil {
			s := fmt.Sprintf("some load or quality is unknown: %v", loadErr)
			notes, lacks = append(notes, s), append(lacks, s)
		}
	}
	b.markOutages(&h)

	// 3. The rest is arithmetic.
	facts, err = bill.Close(h, book, bill.Options{})
	if err != nil {
		return bill.Facts{}, "", err
	}
	facts.Notes = append(facts.Notes, notes...)
	return facts, strings.Join(lacks, "; "), nil
}

func count(names []string, what string) string {
	switch n := len(names); {
	case n == 1:
		return fmt.Sprintf("1 %s (%s) is", what, names[0])
	case n <= 3:
		return fmt.Sprintf("%d %ss (%s) are", n, what, strings.Join(names, ", "))
	default:
		return fmt.Sprintf("%d %ss (%s, …) are", n, what, strings.Join(names[:3], ", "))
	}
}

// markOutages says of use in times when nobody watched that it is estimated: who
// ran then is not known for sure.
func (b *Biller) markOutages(h *bill.Hour) {
	b.j.Lock()
	outages := b.outages // replaced as a whole, never changed
	b.j.Unlock()
	for _, o := range outages {
		if !o.From.Before(h.To) || !h.From.Before(o.To) {
			continue
		}
		for i := range h.Pods {
			for n := range h.Pods[i].Usage {
				if s := &h.Pods[i].Usage[n]; s.From.Before(o.To) && o.From.Before(s.To) {
					s.Estimated = true
				}
			}
		}
	}
}

// A usageFunc returns what pods used, by namespace/name.
type usageFunc func(ctx context.Context, from, to time.Time) (map[string][]bill.Sample, error)

func (b *Biller) usage(ctx context.Context, from, to time.Time) (map[string][]bill.Sample, error) {
	return metrics.Usage(ctx, b.o.Metrics, from, to, metrics.UsageOptions{Step: time.Minute})
}

// loads asks for the load and quality of every declared module that says how.
// The error tells of the first question that could not be answered; what could
// be is in the result.
func (b *Biller) loads(ctx context.Context, from, to time.Time) ([]bill.Load, error) {
	declared := b.declaredModules()
	keys := make([]workload.Key, 0, len(declared))
	for key, m := range declared {
		if m.LoadQuery != "" || m.Guarded() {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, workload.Key.Compare)
	var first error
	out := make([]bill.Load, 0, len(keys))
	for _, key := range keys {
		l, err := moduleload.Ask(ctx, b.o.Metrics, declared[key], from, to)
		if err != nil && first == nil {
			first = fmt.Errorf("module %s/%s: %w", key.Namespace, declared[key].Name, err)
		}
		out = append(out, l)
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
	}
	return out, first
}
