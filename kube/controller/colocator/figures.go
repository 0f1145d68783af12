package colocator

import (
	"io"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/metrics"
)

// figures are the metrics of the last decisions, a [prometheus.Collector].
type figures struct {
	mu       sync.Mutex
	nodes    []nodeFigure
	policies []policyFigure
}

type nodeFigure struct {
	node, policy string
	offered      colocate.Room
	terms        colocate.Terms
	measured     bool
	online       colocate.Room
	allocated    int64
}

type policyFigure struct {
	policy, currency string
	earned           float64 // an hour
	priced           bool
	lost             float64 // core-hours
	evicted          float64
	violations       float64 // minutes
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("neap_batch_"+name, help, labels, nil)
}

// What is exported.
var (
	capacityDesc   = describe("capacity_milli", "Thousandths of a core that batch pods may have on a node now; in modes Observe and Preview, could have.", "node", "policy")
	memoryDesc     = describe("capacity_memory_bytes", "Memory that batch pods may have on a node now; in modes Observe and Preview, could have.", "node", "policy")
	termDesc       = describe("term_milli", "The terms of a node's capacity, in thousandths of a core: machine, allowed, online, unmeasured, risen.", "node", "term")
	allocatedDesc  = describe("allocated_milli", "Thousandths of a core that the batch pods of a node ask for.", "node")
	onlineDesc     = describe("online_milli", "Thousandths of a core that online pods and the system use of a node; the past that capacity is learnt from.", "node")
	onlineMemDesc  = describe("online_memory_bytes", "Memory that online pods and the system use of a node; the past that capacity is learnt from.", "node")
	earnedDesc     = describe("earned_per_hour", "Price of an hour of what batch pods use now; in modes Observe and Preview, could use.", "policy", "currency")
	lostDesc       = describe("lost_core_hours_total", "Work of batch pods that was lost because they were evicted.", "policy")
	evictedDesc    = describe("evictions_total", "Batch pods that were evicted, by whomever.", "policy")
	violationsDesc = describe("violation_minutes_total", "Minutes in which a service beside batch pods missed its quality.", "policy")
)

// Describe implements [prometheus.Collector].
func (f *figures) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{capacityDesc, memoryDesc, termDesc, allocatedDesc, onlineDesc, onlineMemDesc, earnedDesc, lostDesc, evictedDesc, violationsDesc} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (f *figures) Collect(to chan<- prometheus.Metric) {
	f.mu.Lock()
	defer f.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, n := range f.nodes {
		gauge(capacityDesc, float64(n.offered.CPUMilli), n.node, n.policy)
		gauge(memoryDesc, float64(n.offered.MemoryMiB*resource.MiB), n.node, n.policy)
		gauge(allocatedDesc, float64(n.allocated), n.node)
		for term, room := range map[string]colocate.Room{
			"machine": n.terms.Machine, "allowed": n.terms.Allowed, "online": n.terms.Online, "unmeasured": n.terms.Unmeasured, "risen": n.terms.Risen,
		} {
			gauge(termDesc, float64(room.CPUMilli), n.node, term)
		}
		if n.measured {
			gauge(onlineDesc, float64(n.online.CPUMilli), n.node)
			gauge(onlineMemDesc, float64(n.online.MemoryMiB*resource.MiB), n.node)
		}
	}
	for _, p := range f.policies {
		if p.priced {
			gauge(earnedDesc, p.earned, p.policy, p.currency)
		}
		to <- prometheus.MustNewConstMetric(lostDesc, prometheus.CounterValue, p.lost, p.policy)
		to <- prometheus.MustNewConstMetric(evictedDesc, prometheus.CounterValue, p.evicted, p.policy)
		to <- prometheus.MustNewConstMetric(violationsDesc, prometheus.CounterValue, p.violations, p.policy)
	}
}

// set takes over what one minute came to.
func (f *figures) set(w *world, c *Colocator) {
	var nodes []nodeFigure
	for _, m := range w.machines {
		if m.policy == nil {
			continue
		}
		nodes = append(nodes, nodeFigure{
			node: m.node.Name, policy: m.policy.Name, offered: m.offer.Now, terms: m.offer.Terms,
			measured: m.observed, online: m.use, allocated: m.asked.CPUMilli,
		})
	}
	var policies []policyFigure
	for _, p := range w.policies {
		g := policyFigure{policy: p.Name}
		if c.o.Prices != nil {
			g.priced, g.currency, g.earned = true, c.o.Prices().Currency(), c.sumOf(w, p).worth.Float()
		}
		total := c.policies[p.UID].account.Total
		g.lost, g.evicted, g.violations = float64(total.LostMillis)/3.6e6, float64(total.Evicted), total.Violations
		policies = append(policies, g)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes, f.policies = nodes, policies
}

// Collector returns the metrics of the last decisions, for a registry.
func (c *Colocator) Collector() prometheus.Collector { return &c.figures }

// WriteMetrics writes the metrics of the last decisions in Prometheus' text format.
func (c *Colocator) WriteMetrics(w io.Writer) error {
	return metrics.WriteText(w, &c.figures)
}
