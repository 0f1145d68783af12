package colocator

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/metrics"
)

// What is asked of the metrics. A container that is scraped twice counts once; the
// empty container and "POD" are cAdvisor's sums and sandboxes. $window is filled in.
const (
	containers = `{pod!="",container!="",container!="POD"}`
	podCPU     = `sum by (namespace,pod) (max by (namespace,pod,container) (rate(` + metrics.CPUSeconds + containers + `[$window])))`
	podMemory  = `sum by (namespace,pod) (max by (namespace,pod,container) (` + metrics.MemoryBytes + containers + `))`
	nodeCPU    = `max by (node) (rate(` + metrics.CPUSeconds + `{id="/"}[$window]) or rate(node_cpu_usage_seconds_total[$window]))`
	nodeMemory = `max by (node) (` + metrics.MemoryBytes + `{id="/"} or node_memory_working_set_bytes)`

	// The past, as this controller told it before, else as the containers on a node
	// come to: before there was batch, or where nobody kept our metrics.
	pastCPU       = `max by (node) (max_over_time(neap_batch_online_milli[15m]))`
	pastMemory    = `max by (node) (max_over_time(neap_batch_online_memory_bytes[15m]))`
	pastAllCPU    = `max_over_time(sum by (node) (max by (node,namespace,pod,container) (rate(` + metrics.CPUSeconds + containers + `[5m])))[15m:5m])`
	pastAllMemory = `sum by (node) (max by (node,namespace,pod,container) (max_over_time(` + metrics.MemoryBytes + containers + `[15m])))`
)

// windows are the stretches over which counters are asked for, the shortest first:
// those that are scraped once a minute say nothing about a single one.
var windows = []string{"2m", "5m"}

// measure asks what every pod uses, and puts it down for the machines.
func (c *Colocator) measure(ctx context.Context, w *world) {
	for _, m := range w.machines {
		m.observation = colocate.Observation{Now: w.now, Machine: room(convert.Vector(m.node.Status.Allocatable)), Past: m.state.past}
	}
	if len(w.machines) == 0 {
		return
	}
	if c.o.Metrics == nil {
		w.measured = errors.New("there are no metrics to ask: give the controller --prometheus")
		return
	}
	if w.measured = c.remember(ctx, w); w.measured != nil {
		return
	}
	cpu, err := c.ask(ctx, podCPU, w.now, pod)
	if err != nil {
		w.measured = fmt.Errorf("what pods use cannot be read: %w", err)
		return
	}
	if len(cpu) == 0 {
		w.measured = errors.New("no container is measured: does Prometheus scrape the kubelets' /metrics/cadvisor?")
		return
	}
	memory, err := c.ask(ctx, podMemory, w.now, pod)
	if err != nil {
		w.measured = fmt.Errorf("what pods use cannot be read: %w", err)
		return
	}
	// Without these, the system uses what is kept for it.
	totalCPU, _ := c.ask(ctx, nodeCPU, w.now, node)
	totalMemory, _ := c.ask(ctx, nodeMemory, w.now, node)
	for _, m := range w.machines {
		m.observe(w.now, cpu, memory, totalCPU, totalMemory)
	}
}

// observe puts down what one machine's pods use.
func (m *seen) observe(now time.Time, cpu, memory, totalCPU, totalMemory map[string]float64) {
	x := &m.observation
	x.Past = m.state.past
	measured := 0
	for _, p := range m.online {
		request := room(convert.Request(p))
		x.Requests = x.Requests.Add(request)
		name := p.Namespace + "/" + p.Name
		used, ok := cpu[name]
		if !ok {
			x.Unmeasured = x.Unmeasured.Add(request)
			continue
		}
		measured++
		m.use = m.use.Add(colocate.Room{CPUMilli: milli(used), MemoryMiB: mib(memory[name])})
	}
	for _, p := range m.batch {
		name := p.Namespace + "/" + p.Name
		m.batchUse = m.batchUse.Add(colocate.Room{CPUMilli: milli(cpu[name]), MemoryMiB: mib(memory[name])})
	}
	all, known := totalCPU[m.node.Name]
	if known {
		// What the system uses beyond what is kept for it, it takes from the pods.
		kept := room(convert.Vector(m.node.Status.Capacity)).Sub(x.Machine)
		system := colocate.Room{CPUMilli: milli(all), MemoryMiB: mib(totalMemory[m.node.Name])}.Sub(m.use).Sub(m.batchUse)
		m.use = m.use.Add(system.Sub(kept).Max(colocate.Room{}))
	}
	if measured == 0 && len(m.online) > 0 && !known {
		return // its sensor is lost, and what was known of it grows old
	}
	m.observed = true
	x.Past.Observe(now, float64(m.use.CPUMilli), float64(m.use.MemoryMiB))
}

func milli(cores float64) int64 { return whole(cores * 1000) }
func mib(bytes float64) int64   { return whole(bytes / float64(resource.MiB)) }

// whole rounds up what makes sense; all else is nothing.
func whole(v float64) int64 {
	if !(v > 0 && v < 1e15) {
		return 0
	}
	return int64(math.Ceil(v))
}

func pod(l map[string]string) string  { return l["namespace"] + "/" + l["pod"] }
func node(l map[string]string) string { return l["node"] }

// ask returns the last value of every series of a query, by name.
func (c *Colocator) ask(ctx context.Context, query string, at time.Time, name func(map[string]string) string) (map[string]float64, error) {
	out := map[string]float64{}
	for _, window := range windows {
		found, err := c.o.Metrics.Instant(ctx, strings.ReplaceAll(query, "$window", window), at)
		if err != nil && !metrics.Partial(err) {
			return nil, err
		}
		for _, s := range found {
			if n := len(s.Points); n > 0 && !math.IsNaN(s.Points[n-1].V) {
				if _, ok := out[name(s.Labels)]; !ok { // the shortest window that knows
					out[name(s.Labels)] = s.Points[n-1].V
				}
			}
		}
		if !strings.Contains(query, "$window") {
			break
		}
	}
	return out, nil
}

// A history is what the metrics know of the days before this process.
type history struct {
	read bool
	err  error
	next time.Time                    // when to try again, by the wall
	past map[string]*colocate.History // by node, until the node has it
}

// remember gives every machine its past: once, what the metrics have of the days
// before; from then on, what is measured. Until the days before were read, nothing
// is known.
func (c *Colocator) remember(ctx context.Context, w *world) error {
	h := &c.history
	if !h.read && !time.Now().Before(h.next) {
		days := time.Duration(0)
		for _, d := range w.declared {
			days = max(days, d.History)
		}
		h.past, h.err = c.readPast(ctx, w.now, min(days, mostPast))
		h.read, h.next = h.err == nil, time.Now().Add(historyAgain)
	}
	if !h.read {
		return fmt.Errorf("the use of the days before cannot be read: %w", h.err)
	}
	for _, m := range w.machines {
		if m.state.past == nil {
			u := colocate.History{}
			if past := h.past[m.node.Name]; past != nil {
				u = *past
			}
			m.state.past = colocate.Learn(u)
		}
	}
	h.past = nil // nodes that come later have none
	return nil
}

const (
	// mostPast is how much of the past is worth reading.
	mostPast = 15 * 24 * time.Hour
	// historyAgain is how soon the past is read again after it could not be, by the
	// wall.
	historyAgain = 30 * time.Second
)

// readPast reads what the nodes used, a day at a time: Prometheus gives no more than
// 11,000 points at once.
func (c *Colocator) readPast(ctx context.Context, now time.Time, length time.Duration) (map[string]*colocate.History, error) {
	end := now.Truncate(colocate.Step)
	start := end.Add(-length)
	steps := int(length / colocate.Step)
	out := map[string]*colocate.History{}
	// A later query fills in what the ones before it did not know.
	for _, q := range []struct {
		query string
		of    func(*colocate.History) []float64
		scale float64
	}{
		{pastCPU, func(h *colocate.History) []float64 { return h.CPUMilli }, 1},
		{pastAllCPU, func(h *colocate.History) []float64 { return h.CPUMilli }, 1000},
		{pastMemory, func(h *colocate.History) []float64 { return h.MemoryMiB }, 1 / float64(resource.MiB)},
		{pastAllMemory, func(h *colocate.History) []float64 { return h.MemoryMiB }, 1 / float64(resource.MiB)},
	} {
		for from := start.Add(colocate.Step); !from.After(end); from = from.Add(24 * time.Hour) {
			to := from.Add(24*time.Hour - colocate.Step)
			if to.After(end) {
				to = end
			}
			found, err := c.o.Metrics.Range(ctx, q.query, from, to, colocate.Step)
			if err != nil && !metrics.Partial(err) {
				return nil, err
			}
			for _, s := range found {
				h := out[node(s.Labels)]
				if h == nil {
					h = &colocate.History{Start: start, Step: colocate.Step, CPUMilli: unknown(steps), MemoryMiB: unknown(steps)}
					out[node(s.Labels)] = h
				}
				values := q.of(h)
				for _, p := range s.Points { // of the step before it
					if i := int(p.T.Sub(start)/colocate.Step) - 1; i >= 0 && i < steps && math.IsNaN(values[i]) {
						values[i] = p.V * q.scale
					}
				}
			}
		}
	}
	return out, nil
}

func unknown(n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = math.NaN()
	}
	return out
}
