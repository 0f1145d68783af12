package warden

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/agent/suppressor"
	"github.com/neap-dev/neap/host/cgroup"
	"github.com/neap-dev/neap/host/netqos"
)

// counts are what the metrics tell.
type counts struct {
	state     suppressor.State
	rung      colocate.Rung
	steps     [colocate.Rungs]int64 // how often each was reached
	frozen    int
	signals   []colocate.Signal
	foreign   map[cgroup.Knob]int64
	evictions map[string]int64
	// attributions are how often each was found.
	attributions [colocate.Findings]int64
	network      netqos.Use
	shaped       bool
}

// count keeps what the metrics tell; w.mu is held.
func (w *Warden) count() {
	c := &w.counts
	if w.rung > c.rung {
		c.steps[w.rung]++
	}
	c.rung, c.signals, c.state = w.rung, w.signals, suppressor.State{}
	if w.fast != nil {
		c.state = w.fast.State()
	}
	c.network, c.shaped = w.net.use, w.net.shaper != nil
	c.frozen = 0
	if w.freezer != nil {
		c.frozen = w.freezer.Count()
	}
	if w.ledger != nil {
		c.foreign = w.ledger.ForeignWrites()
	}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("neap_colocation_"+name, help, labels, nil)
}

var (
	descCapacity  = desc("capacity_milli", "What the controller lends batch pods of the CPU now, in thousandths of a core.")
	descBudget    = desc("budget_milli", "What batch pods may use of the CPU now, in thousandths of a core.")
	descOnline    = desc("online_milli", "What online pods used at the last tick, in thousandths of a core.")
	descBatch     = desc("batch_milli", "What batch pods used at the last tick, in thousandths of a core.")
	descSystem    = desc("system_milli", "What was used outside of pods at the last tick, in thousandths of a core.")
	descStep      = desc("step", "1 for the strongest means by which batch is held back, 0 for the others.", "step")
	descSteps     = desc("steps_total", "How often a means was the strongest, coming from a weaker one.", "step")
	descSlack     = desc("slack", "What an online workload feels below its target, as a share of it.", "namespace", "workload", "signal")
	descWait      = desc("runqueue_seconds", "How long threads of an online workload wait for a CPU.", "namespace", "workload", "quantile")
	descFrozen    = desc("frozen_pods", "How many batch pods are frozen.")
	descForeign   = desc("foreign_writes_total", "Writes of somebody else's to files that the agent owns, which were undone.", "file")
	descEvictions = desc("evictions_total", "Batch pods that the agent evicted.", "reason")
	descBlamed    = desc("attributions_total", "What was found of batch pods that stood still for a moment at times.", "verdict")
	descLost      = desc("lost_core_seconds_total", "Work of batch pods that the agent's evictions lost.")
	descBatchCPU  = desc("batch_core_seconds_total", "CPU that batch pods used.")
	descNetOnline = desc("network_online_bits", "What online pods and the machine itself carry, in bits a second.", "direction")
	descNetBatch  = desc("network_batch_bits", "What batch pods carry, in bits a second.", "direction")
	descNetBudget = desc("network_budget_bits", "What batch pods may carry, in bits a second.", "direction")
	descReversals = desc("reversals_total", "How often batch's ceiling changed its direction.")
)

// Describe implements [prometheus.Collector].
func (w *Warden) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descCapacity, descBudget, descOnline, descBatch, descSystem, descStep, descSteps, descSlack, descWait, descFrozen,
		descForeign, descEvictions, descBlamed, descLost, descBatchCPU, descReversals, descNetOnline, descNetBatch, descNetBudget} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (w *Warden) Collect(ch chan<- prometheus.Metric) {
	w.mu.Lock()
	c, lent := w.counts, w.world.LentMilli
	evictions := map[string]int64{"memory": c.evictions["memory"], "slack": c.evictions["slack"]}
	w.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	total := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge(descCapacity, float64(lent))
	gauge(descBudget, float64(c.state.Ceiling.Milli))
	gauge(descOnline, float64(c.state.Use.OnlineMilli))
	gauge(descBatch, float64(c.state.BatchMilli))
	gauge(descSystem, float64(c.state.Use.SystemMilli))
	for r := range colocate.Rungs {
		rung := colocate.Rung(r)
		is := 0.0
		if rung == c.rung {
			is = 1
		}
		gauge(descStep, is, rung.String())
		total(descSteps, float64(c.steps[r]), rung.String())
	}
	seen := map[[3]string]bool{}
	for _, s := range c.signals {
		namespace, name, _ := strings.Cut(s.Workload, "/")
		if key := [3]string{namespace, name, s.Kind}; !seen[key] {
			seen[key] = true
			gauge(descSlack, float64(s.Slack())/1000, key[:]...)
			if s.Kind == "runqueue" {
				gauge(descWait, float64(s.Value)/1e6, namespace, name, "0.99")
			}
		}
	}
	gauge(descFrozen, float64(c.frozen))
	for _, k := range cgroup.Knobs {
		if n := c.foreign[k]; n > 0 {
			total(descForeign, float64(n), string(k))
		}
	}
	for reason, n := range evictions {
		total(descEvictions, float64(n), reason)
	}
	for f := colocate.FindingCulprit; f < colocate.Findings; f++ {
		total(descBlamed, float64(c.attributions[f]), f.String())
	}
	total(descLost, w.opts.Evictor.Lost())
	total(descBatchCPU, c.state.BatchCPU.Seconds())
	total(descReversals, float64(c.state.Reversals))
	if !c.shaped {
		return
	}
	for direction, way := range map[string]netqos.Way{"out": c.network.Out, "in": c.network.In} {
		for d, bits := range map[*prometheus.Desc]int64{descNetOnline: way.Online, descNetBatch: way.Batch, descNetBudget: way.Budget} {
			if bits >= 0 { // else it cannot be told
				gauge(d, float64(bits), direction)
			}
		}
	}
}
