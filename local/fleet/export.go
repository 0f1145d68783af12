package fleet

import (
	"bufio"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/sim/scenario"
	"github.com/neap-dev/neap/sim/world"
)

// The metrics' names, types and meaning, in the order of the exposition: what a
// kubelet, a GPU exporter and an instrumented service export.
var families = []struct{ name, typ, help string }{
	{"container_cpu_usage_seconds_total", "counter", "Core-seconds a container used (simulated)."},
	{"container_memory_working_set_bytes", "gauge", "Memory a container holds (simulated)."},
	{"container_cpu_cfs_throttled_seconds_total", "counter", "Core-seconds a container wanted and did not get (simulated)."},
	{"DCGM_FI_DEV_GPU_UTIL", "gauge", "Percent of a pod's GPUs in use (simulated)."},
	{"node_cpu_usage_seconds_total", "counter", "Core-seconds a machine used (simulated)."},
	{"node_memory_working_set_bytes", "gauge", "Memory a machine holds (simulated)."},
	{"http_requests_total", "counter", "Requests of a module (simulated)."},
	{"http_request_duration_seconds_bucket", "", ""},
	{"http_request_duration_seconds_sum", "", ""},
	{"http_request_duration_seconds_count", "", ""},
	{"neap_colocation_capacity_milli", "gauge", "Thousandths of a core that a machine has (simulated)."},
	{"neap_colocation_system_milli", "gauge", "Thousandths of a core that its system uses (simulated)."},
	{"neap_colocation_online_milli", "gauge", "Thousandths of a core that its online pods use (simulated)."},
	{"neap_colocation_batch_milli", "gauge", "Thousandths of a core that its batch pods use (simulated)."},
	{"neap_colocation_budget_milli", "gauge", "Thousandths of a core that its batch pods could use (simulated)."},
	{"neap_colocation_batch_core_seconds_total", "counter", "Core-seconds that its batch pods used (simulated)."},
	{"neap_colocation_step", "gauge", "1 for the step of the ladder that is taken (simulated)."},
	{"neap_module_ready_replicas", "gauge", "Ready pods of a module in a pool (simulated)."},
}

// A series is one exported series and its last value.
type series struct {
	text   string // labels in the exposition, with braces
	handle *metrics.Handle
	v      float64
}

func newSeries(name string, labels ...string) *series {
	m := map[string]string{"__name__": name}
	var b strings.Builder
	b.WriteByte('{')
	for i := 0; i < len(labels); i += 2 {
		m[labels[i]] = labels[i+1]
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%s=%q", labels[i], labels[i+1])
	}
	b.WriteByte('}')
	return &series{text: b.String(), handle: metrics.NewHandle(m)}
}

// export holds all series by what they are about.
type export struct {
	at       time.Time // of the last samples
	pods     map[string]*podSeries
	machines map[string]*machineSeries
	modules  map[moduleName]*moduleSeries
	edges    []edge
}

// An edge is what a pod's series show when it comes or goes. Without them the
// time between these moments and the full steps would be a gap.
type edge struct {
	at      time.Time
	samples []metrics.Sample
	ended   []*metrics.Handle // right after at
}

type podSeries struct {
	cpu, memory, throttled, gpu *series // gpu is nil without GPUs
	throttledSum                float64
	gone                        bool
}

type machineSeries struct {
	cpu, memory *series
	lent        *lentSeries // nil: it lends nothing to batch pods
	seen        time.Time
}

// all returns the machine's series.
func (s *machineSeries) all() []*metrics.Handle {
	out := []*metrics.Handle{s.cpu.handle, s.memory.handle}
	if s.lent != nil {
		s.lent.each(func(_ string, s *series) { out = append(out, s.handle) })
	}
	return out
}

type moduleSeries struct {
	ok, failed, sum, count *series
	buckets                [len(world.Bounds) + 1]*series
	ready                  map[string]*series // by pool
}

func (e *export) init(modules []scenario.Module) {
	e.pods, e.machines, e.modules = map[string]*podSeries{}, map[string]*machineSeries{}, map[moduleName]*moduleSeries{}
	for i := range modules {
		m := &modules[i]
		s := &moduleSeries{ready: map[string]*series{}}
		ns, name := m.Namespace, m.Name
		if m.Load != nil {
			s.ok = newSeries("http_requests_total", "namespace", ns, "module", name, "code", "200")
			s.failed = newSeries("http_requests_total", "namespace", ns, "module", name, "code", "500")
			s.sum = newSeries("http_request_duration_seconds_sum", "namespace", ns, "module", name)
			s.count = newSeries("http_request_duration_seconds_count", "namespace", ns, "module", name)
			for b := range s.buckets {
				le := "+Inf"
				if b < len(world.Bounds) {
					le = strconv.FormatFloat(world.Bounds[b], 'g', -1, 64)
				}
				s.buckets[b] = newSeries("http_request_duration_seconds_bucket", "namespace", ns, "module", name, "le", le)
			}
		}
		for _, p := range m.Places() {
			s.ready[p] = newSeries("neap_module_ready_replicas", "namespace", ns, "module", name, "pool", p)
		}
		e.modules[moduleName{ns, name}] = s
	}
}

// take sets the series to what a step brought.
func (e *export) take(f *world.Frame) {
	for i := range f.Pods {
		p := &f.Pods[i]
		s := e.pods[p.Pod.ID]
		if s == nil {
			ls := []string{"namespace", p.Pod.Namespace, "pod", p.Pod.Name, "container", Container, "node", p.Pod.Machine}
			s = &podSeries{
				cpu:       newSeries("container_cpu_usage_seconds_total", ls...),
				memory:    newSeries("container_memory_working_set_bytes", ls...),
				throttled: newSeries("container_cpu_cfs_throttled_seconds_total", ls...),
			}
			if p.Pod.Requests[resource.GPU] > 0 {
				s.gpu = newSeries("DCGM_FI_DEV_GPU_UTIL", "namespace", p.Pod.Namespace, "pod", p.Pod.Name, "gpu", "0", "node", p.Pod.Machine)
			}
			e.pods[p.Pod.ID] = s
			if !p.Gone || p.From.Before(p.To) {
				first := edge{at: p.From, samples: []metrics.Sample{
					{Handle: s.cpu.handle}, {Handle: s.throttled.handle}, {Handle: s.memory.handle, V: float64(p.Use[resource.Memory])},
				}}
				if s.gpu != nil {
					first.samples = append(first.samples, metrics.Sample{Handle: s.gpu.handle, V: p.GPUUtilPercent})
				}
				e.edges = append(e.edges, first)
			}
		}
		s.cpu.v, s.memory.v = p.CPUSecondsTotal, float64(p.Use[resource.Memory])
		s.throttledSum += p.ThrottledSeconds
		s.throttled.v = s.throttledSum
		if s.gpu != nil {
			s.gpu.v = p.GPUUtilPercent
		}
		if p.Gone && !s.gone {
			s.gone = true
			last := edge{at: p.To}
			for _, g := range s.all() {
				if p.To.After(e.at) { // else its last value is recorded
					last.samples = append(last.samples, metrics.Sample{Handle: g.handle, V: g.v})
				}
				last.ended = append(last.ended, g.handle)
			}
			e.edges = append(e.edges, last)
			delete(e.pods, p.Pod.ID)
		}
	}
	for i := range f.Machines {
		m := &f.Machines[i]
		s := e.machines[m.Machine.Name]
		if s == nil {
			s = &machineSeries{
				cpu:    newSeries("node_cpu_usage_seconds_total", "node", m.Machine.Name),
				memory: newSeries("node_memory_working_set_bytes", "node", m.Machine.Name),
			}
			e.machines[m.Machine.Name] = s
		}
		s.cpu.v, s.memory.v, s.seen = m.CPUSecondsTotal, float64(m.Use[resource.Memory]), f.To
		if m.Lent {
			if s.lent == nil {
				s.lent = newLentSeries(m.Machine.Name)
			}
			s.lent.take(m, f.To.Sub(f.From).Seconds())
		}
	}
	for name, s := range e.machines {
		if !s.seen.Equal(f.To) {
			e.edges = append(e.edges, edge{at: f.From, ended: s.all()})
			delete(e.machines, name)
		}
	}
	for i := range f.Modules {
		m := &f.Modules[i]
		s := e.modules[moduleName{m.Module.Namespace, m.Module.Name}]
		if s == nil {
			continue
		}
		if s.ok != nil {
			s.ok.v, s.failed.v = float64(m.RequestsTotal-m.FailedTotal), float64(m.FailedTotal)
			s.sum.v, s.count.v = m.SumSecondsTotal, float64(m.RequestsTotal)
			for b := range m.BucketTotals {
				s.buckets[b].v = float64(m.BucketTotals[b])
			}
			s.buckets[len(m.BucketTotals)].v = float64(m.RequestsTotal)
		}
		for _, r := range s.ready {
			r.v = 0
		}
		for _, c := range m.Ready {
			if r := s.ready[c.Pool]; r != nil {
				r.v = float64(c.Pods)
			}
		}
	}
}

// all returns the pod's series.
func (s *podSeries) all() []*series {
	if s.gpu == nil {
		return []*series{s.cpu, s.memory, s.throttled}
	}
	return []*series{s.cpu, s.memory, s.throttled, s.gpu}
}

// batch returns what is to be recorded since the last call, oldest first, up to
// a full step.
func (e *export) batch(at time.Time) []edge {
	edges := e.edges
	e.at, e.edges = at, nil
	slices.SortStableFunc(edges, func(a, b edge) int { return a.at.Compare(b.at) })
	// Those of one moment are written at once.
	joined := edges[:0]
	for _, x := range edges {
		if n := len(joined); n > 0 && joined[n-1].at.Equal(x.at) {
			joined[n-1].samples = append(joined[n-1].samples, x.samples...)
			joined[n-1].ended = append(joined[n-1].ended, x.ended...)
			continue
		}
		joined = append(joined, x)
	}
	full := edge{at: at}
	e.each(func(_ string, s *series) {
		full.samples = append(full.samples, metrics.Sample{Handle: s.handle, V: s.v})
	})
	return append(joined, full)
}

func (e *export) each(do func(name string, s *series)) {
	for _, s := range e.pods {
		do("container_cpu_usage_seconds_total", s.cpu)
		do("container_memory_working_set_bytes", s.memory)
		do("container_cpu_cfs_throttled_seconds_total", s.throttled)
		if s.gpu != nil {
			do("DCGM_FI_DEV_GPU_UTIL", s.gpu)
		}
	}
	for _, s := range e.machines {
		do("node_cpu_usage_seconds_total", s.cpu)
		do("node_memory_working_set_bytes", s.memory)
		if s.lent != nil {
			s.lent.each(do)
		}
	}
	for _, s := range e.modules {
		if s.ok != nil {
			do("http_requests_total", s.ok)
			do("http_requests_total", s.failed)
			for _, b := range s.buckets {
				do("http_request_duration_seconds_bucket", b)
			}
			do("http_request_duration_seconds_sum", s.sum)
			do("http_request_duration_seconds_count", s.count)
		}
		for _, r := range s.ready {
			do("neap_module_ready_replicas", r)
		}
	}
}

// ServeHTTP exports the fleet's metrics in Prometheus' text format, at wall
// time: for a Prometheus that lives in it.
func (f *Fleet) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	lines := map[string][]string{}
	f.mu.Lock()
	f.export.each(func(name string, s *series) {
		lines[name] = append(lines[name], name+s.text+" "+strconv.FormatFloat(s.v, 'g', -1, 64)+"\n")
	})
	f.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	out := bufio.NewWriterSize(w, 64<<10)
	for _, fam := range families {
		if fam.typ != "" {
			fmt.Fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", fam.name, fam.help, fam.name, fam.typ)
		} else if strings.HasSuffix(fam.name, "_bucket") {
			base := strings.TrimSuffix(fam.name, "_bucket")
			fmt.Fprintf(out, "# HELP %s Response times of a module's requests (simulated).\n# TYPE %s histogram\n", base, base)
		}
		slices.Sort(lines[fam.name])
		for _, l := range lines[fam.name] {
			_, _ = out.WriteString(l) // a reader that is gone is no error of ours
		}
	}
	_ = out.Flush()
}
