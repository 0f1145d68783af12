package metrics

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/resource"
)

// Names of the metrics that [Usage] reads: what a kubelet (cAdvisor or
// /metrics/resource) and NVIDIA's exporter show.
const (
	CPUSeconds  = "container_cpu_usage_seconds_total"
	MemoryBytes = "container_memory_working_set_bytes"
	GPUPercent  = "DCGM_FI_DEV_GPU_UTIL"
)

// UsageOptions tune [Usage]. The zero value is right for scrapes every minute or
// more often.
type UsageOptions struct {
	// Step is the least distance of two readings; points in between are left
	// out, but for the last one before a counter starts anew. 0 keeps all.
	Step time.Duration
	// MaxGap is the longest distance of two readings that is not a gap; 0 means
	// five minutes.
	MaxGap time.Duration
	// Chunk is how much time one query fetches; 0 means 15 minutes.
	Chunk time.Duration
	// Select narrows the series, such as `namespace="school"`; "" takes all.
	Select string
}

// Usage returns what pods used from one instant to a later one, by
// "namespace/pod". It reads raw points, so resets of counters are found in each
// series before containers are added up, and a gap stays a gap: time for which a
// pod has no sample. A resource that nothing measures is Missing in the samples.
// A container or GPU that is scraped twice, from cAdvisor and the kubelet's
// resource endpoint or by two replicas of Prometheus, counts once.
//
// Points up to MaxGap before from and after to are read too, so that the first
// and the last reading reach beyond the window; samples are cut off at its ends.
// A [PartialError] comes with what could be read.
func Usage(ctx context.Context, source Source, from, to time.Time, opts UsageOptions) (map[string][]bill.Sample, error) {
	if !from.Before(to) {
		return nil, fmt.Errorf("read the use of pods: the window ends at %s, before it starts", to.UTC().Format(time.RFC3339))
	}
	if opts.MaxGap == 0 {
		opts.MaxGap = 5 * time.Minute
	}
	if opts.Chunk == 0 {
		opts.Chunk = 15 * time.Minute
	}
	more := ""
	if opts.Select != "" {
		more = "," + opts.Select
	}
	reads := []struct {
		kind  resource.Kind
		query string
		turn  func([]bill.CounterPoint) []bill.Reading
		of    func(map[string]string) string // the container or GPU that a series is of
	}{
		// The empty container and "POD" are cAdvisor's sums over the pod and its
		// sandbox: counting them too would count twice.
		{resource.CPU, CPUSeconds + `{pod!="",container!="",container!="POD"` + more + `}`,
			func(p []bill.CounterPoint) []bill.Reading { return bill.FromCounter(p, 1000, opts.MaxGap) }, container},
		{resource.Memory, MemoryBytes + `{pod!="",container!="",container!="POD"` + more + `}`,
			func(p []bill.CounterPoint) []bill.Reading { return bill.FromGauge(p, 1, opts.MaxGap) }, container},
		{resource.GPU, GPUPercent + `{pod!=""` + more + `}`,
			func(p []bill.CounterPoint) []bill.Reading { return bill.FromGauge(p, 10, opts.MaxGap) }, gpu},
	}

	var partial *PartialError
	type part map[string][][]bill.Reading // the series of each container or GPU
	pods := map[string]*[resource.Kinds]part{}
	for _, r := range reads {
		all, err := rawPoints(ctx, source, r.query, from.Add(-opts.MaxGap), to.Add(opts.MaxGap), opts)
		if err != nil && !Partial(err) {
			return nil, fmt.Errorf("read the use of pods: %w", err)
		}
		partial = partial.with(err)
		for _, s := range all {
			pod := s.labels["namespace"] + "/" + s.labels["pod"]
			if s.labels["exported_pod"] != "" { // a scrape that kept the exporter's own labels
				pod = s.labels["exported_namespace"] + "/" + s.labels["exported_pod"]
			}
			p := pods[pod]
			if p == nil {
				p = new([resource.Kinds]part)
				pods[pod] = p
			}
			if readings := cut(r.turn(s.points), from, to); len(readings) > 0 {
				if p[r.kind] == nil {
					p[r.kind] = part{}
				}
				of := r.of(s.labels)
				p[r.kind][of] = append(p[r.kind][of], readings)
			}
		}
	}

	out := make(map[string][]bill.Sample, len(pods))
	for pod, lists := range pods {
		var readings [resource.Kinds][]bill.Reading
		for k := range lists {
			var parts [][]bill.Reading
			for _, series := range lists[k] {
				parts = append(parts, highest(series))
			}
			if len(parts) == 1 {
				readings[k] = parts[0]
			} else {
				readings[k] = bill.AddReadings(parts...)
			}
		}
		if samples := bill.MergeSamples(readings); len(samples) > 0 {
			out[pod] = samples
		}
	}
	return out, partial.orNil()
}

func container(labels map[string]string) string { return labels["container"] }

func gpu(labels map[string]string) string {
	if id := labels["UUID"]; id != "" {
		return id
	}
	return labels["node"] + "/" + labels["Hostname"] + "/" + labels["gpu"]
}

// highest makes one list of several of the same thing: at every moment the
// highest reading, where any covers it. A container that restarted has one after
// the other, one that is scraped twice has two alike.
func highest(lists [][]bill.Reading) []bill.Reading {
	if len(lists) == 1 {
		return lists[0]
	}
	var edges []time.Time
	for _, l := range lists {
		for _, r := range l {
			edges = append(edges, r.From, r.To)
		}
	}
	slices.SortFunc(edges, time.Time.Compare)
	edges = slices.CompactFunc(edges, time.Time.Equal)
	at := make([]int, len(lists))
	var out []bill.Reading
	for i := 0; i+1 < len(edges); i++ {
		most, covered := int64(0), false
		for n, l := range lists {
			for at[n] < len(l) && !l[at[n]].To.After(edges[i]) {
				at[n]++
			}
			if at[n] < len(l) && !l[at[n]].From.After(edges[i]) {
				most, covered = max(most, l[at[n]].Use), true
			}
		}
		if covered {
			out = append(out, bill.Reading{From: edges[i], To: edges[i+1], Use: most})
		}
	}
	return out
}

// A raw is one series' points.
type raw struct {
	labels map[string]string
	points []bill.CounterPoint
}

// rawPoints reads [from, to] chunk by chunk, so that no single answer is large.
func rawPoints(ctx context.Context, source Source, selector string, from, to time.Time, opts UsageOptions) ([]*raw, error) {
	var partial *PartialError
	series := map[string]*raw{}
	for start := from; start.Before(to); start = start.Add(opts.Chunk) {
		end := start.Add(opts.Chunk)
		if end.After(to) {
			end = to
		}
		// A range selector leaves out its left end, so chunks do not overlap.
		query := fmt.Sprintf("%s[%dms]", selector, end.Sub(start).Milliseconds())
		got, err := source.Instant(ctx, query, end)
		if err != nil && !Partial(err) {
			return nil, err
		}
		partial = partial.with(err)
		for _, s := range got {
			key := labelKey(s.Labels)
			r := series[key]
			if r == nil {
				r = &raw{labels: s.Labels}
				series[key] = r
			}
			for _, p := range s.Points {
				r.add(bill.CounterPoint{T: p.T, V: p.V}, opts.Step)
			}
		}
	}
	out := make([]*raw, 0, len(series))
	keys := make([]string, 0, len(series))
	for k := range series {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, strings.Compare)
	for _, k := range keys {
		out = append(out, series[k])
	}
	return out, partial.orNil()
}

// with adds the warnings of err, a [PartialError] or nil, to p, which may be nil.
func (p *PartialError) with(err error) *PartialError {
	var q *PartialError
	if !errors.As(err, &q) {
		return p
	}
	if p == nil {
		return &PartialError{Source: q.Source, Query: q.Query, Warnings: slices.Clone(q.Warnings)}
	}
	for _, w := range q.Warnings {
		if len(p.Warnings) < 10 && !slices.Contains(p.Warnings, w) {
			p.Warnings = append(p.Warnings, w)
		}
	}
	return p
}

func (p *PartialError) orNil() error {
	if p == nil {
		return nil
	}
	return p
}

// add keeps p unless the two points before it are so near that the middle one
// says nothing: it replaces the last point while the distance from the one
// before stays within step and the counter does not fall.
func (r *raw) add(p bill.CounterPoint, step time.Duration) {
	n := len(r.points)
	if n >= 2 && p.T.Sub(r.points[n-2].T) <= step && p.V >= r.points[n-1].V && r.points[n-1].V >= r.points[n-2].V {
		r.points[n-1] = p
		return
	}
	r.points = append(r.points, p)
}

// cut cuts readings off at the ends of a window.
func cut(readings []bill.Reading, from, to time.Time) []bill.Reading {
	out := readings[:0]
	for _, r := range readings {
		if r.From.Before(from) {
			r.From = from
		}
		if r.To.After(to) {
			r.To = to
		}
		if r.From.Before(r.To) {
			out = append(out, r)
		}
	}
	return out
}
