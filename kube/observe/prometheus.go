package observe

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/kube/moduleload"
	"github.com/neap-dev/neap/metrics"
)

// modulesAtOnce bounds how many modules' queries run at the same time.
const modulesAtOnce = 4

// asked is what came of asking the metrics, over the hours so far.
type asked struct {
	hours, silent int   // silent: hours in which no pod was known
	partial       error // the last answer that may not be whole
}

// measure asks the metrics for what the pods of an hour used and the modules
// did. A source that cannot be asked is an error, for the caller named it; a gap
// in what it knows is estimated and noted.
func (s *Snapshot) measure(ctx context.Context, h *bill.Hour) error {
	used, err := metrics.Usage(ctx, s.opts.Metrics, h.From, h.To, metrics.UsageOptions{Step: time.Minute})
	if err != nil && !metrics.Partial(err) {
		return err
	}
	if err != nil {
		s.asked.partial = err
	}
	byUID := make(map[string][]bill.Sample, len(h.Pods))
	for i := range h.Pods {
		p := &h.Pods[i]
		if samples := used[p.Namespace+"/"+p.Name]; len(samples) > 0 {
			byUID[p.UID] = samples
		}
	}
	bill.AttachUsage(h, byUID)
	s.asked.hours++
	if len(byUID) == 0 && len(h.Pods) > 0 {
		s.asked.silent++
	}
	return s.loads(ctx, h)
}

// noteMetrics says what the metrics did not know.
func (s *Snapshot) noteMetrics() {
	a := s.asked
	if a.partial != nil {
		s.note("Part of the use may be estimated: %s.", oneLine(a.partial))
	}
	switch {
	case a.silent > 0 && a.silent == a.hours:
		s.note("All use is estimated as what was requested, for the metrics know none of these pods; see whether that Prometheus scrapes this cluster's kubelets (%s).", metrics.CPUSeconds)
	case a.silent > 0:
		s.note("In %s of %d the metrics know none of the pods; use there is estimated as what was requested.", count(a.silent, "hour", "hours"), a.hours)
	}
}

// loads asks for the load and quality of every module that declares how.
func (s *Snapshot) loads(ctx context.Context, h *bill.Hour) error {
	source, modules := s.opts.Metrics, s.modules
	found := make([]*bill.Load, len(modules))
	failed := make([]error, len(modules))
	gate := make(chan struct{}, modulesAtOnce)
	var wait sync.WaitGroup
	for i, m := range modules {
		if m.LoadQuery == "" && !m.Guarded() {
			continue
		}
		gate <- struct{}{}
		wait.Go(func() {
			defer func() { <-gate }()
			l, err := moduleload.Ask(ctx, source, m, h.From, h.To)
			found[i], failed[i] = &l, err
		})
	}
	wait.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	for i, l := range found {
		if l != nil {
			h.Loads = append(h.Loads, *l)
		}
		if err := failed[i]; err != nil {
			n := fmt.Sprintf("Some load or quality is unknown: module %s/%s: %s.", modules[i].Key.Namespace, modules[i].Name, oneLine(err))
			if len(s.Notes) < 20 && (len(s.Notes) == 0 || s.Notes[len(s.Notes)-1] != n) {
				s.Notes = append(s.Notes, n)
			}
		}
	}
	return nil
}
