package scaler

import (
	"io"
	"math"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/metrics"
)

// figures are the metrics of the last decisions, a [prometheus.Collector].
type figures struct {
	mu  sync.Mutex
	per map[types.UID]figure
}

// A figure is what the metrics say of one policy.
type figure struct {
	namespace, policy string
	layers            map[string]float64
	winner            string
	pools             map[string][2]float64 // planned, running
	violations        float64
	demand, needed    float64
	kind, target      string
	mode              string
	starts            map[string]float64
	forecast          map[string]float64
}

func (f *figures) init() { f.per = map[types.UID]figure{} }

func describe(name, help string, more ...string) *prometheus.Desc {
	return prometheus.NewDesc("neap_elastic_"+name, help, append([]string{"namespace", "policy"}, more...), nil)
}

var (
	replicasDesc   = describe("replicas", "Replicas that each layer of an ElasticPolicy wants at least, and those desired, current and ready.", "layer")
	winnerDesc     = describe("winner", "1 for the layer that decided.", "layer")
	poolsDesc      = describe("pool_replicas", "Replicas that are planned in a pool, and that run there.", "pool", "state")
	violationsDesc = describe("scale_in_violations_total", "Replicas that left before those that should have left first.")
	demandDesc     = describe("demand", "The load of the workload now, in the policy's own units a second.")
	neededDesc     = describe("needed", "Replicas that the load of now would fill.")
	infoDesc       = describe("policy_info", "1 for each ElasticPolicy, with its target and mode.", "kind", "target", "mode")
	startDesc      = describe("start_p95_seconds", "The learnt time from a replica's creation to its readiness.", "pool")
	forecastDesc   = describe("forecast", "Quantiles of the load that is foretold for when replicas asked for now are ready.", "quantile")
)

// Describe implements [prometheus.Collector].
func (f *figures) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{replicasDesc, winnerDesc, poolsDesc, violationsDesc, demandDesc, neededDesc, infoDesc, startDesc, forecastDesc} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (f *figures) Collect(to chan<- prometheus.Metric) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.per {
		gauge := func(d *prometheus.Desc, v float64, more ...string) {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{g.namespace, g.policy}, more...)...)
		}
		for layer, n := range g.layers {
			gauge(replicasDesc, n, layer)
		}
		if g.winner != "" {
			gauge(winnerDesc, 1, g.winner)
		}
		for pool, n := range g.pools {
			gauge(poolsDesc, n[0], pool, "planned")
			gauge(poolsDesc, n[1], pool, "running")
		}
		for pool, p95 := range g.starts {
			gauge(startDesc, p95, pool)
		}
		for q, v := range g.forecast {
			gauge(forecastDesc, v, q)
		}
		if !math.IsNaN(g.demand) {
			gauge(demandDesc, g.demand)
		}
		if !math.IsNaN(g.needed) {
			gauge(neededDesc, g.needed)
		}
		gauge(infoDesc, 1, g.kind, g.target, g.mode)
		to <- prometheus.MustNewConstMetric(violationsDesc, prometheus.CounterValue, g.violations, g.namespace, g.policy)
	}
}

// set takes over what one decision says. A target that is not there has no figures.
func (f *figures) set(p *v1alpha1.ElasticPolicy, seen *observation, said verdict) {
	g := figure{
		namespace: p.Namespace, policy: p.Name, layers: map[string]float64{}, winner: string(said.Winner),
		pools: map[string][2]float64{}, starts: map[string]float64{}, violations: float64(p.Status.Violations), demand: seen.Load, needed: math.NaN(),
		kind: p.Spec.TargetRef.Kind, target: p.Spec.TargetRef.Name, mode: string(p.Spec.Mode),
	}
	if c := max(seen.Declared.Policy.Carries, seen.Declared.Policy.Unit); c > 0 {
		g.needed = seen.Load / c
	}
	if seen.TargetErr == nil {
		g.layers["current"], g.layers["ready"] = float64(seen.Current), float64(seen.Ready)
		if said.Decides {
			g.layers["desired"] = float64(said.Desired)
		}
	}
	for _, c := range said.ByLayer {
		layer := string(c.Layer)
		if c.Layer == elastic.LayerPanic { // a rule of the reactive layer
			layer = string(elastic.LayerReactive)
		}
		if c.Floor != elastic.None && c.Layer != elastic.LayerBounds && c.Layer != elastic.LayerHold {
			g.layers[layer] = math.Max(g.layers[layer], float64(c.Floor))
		}
	}
	for i, t := range said.Pools {
		g.pools[t.Name] = [2]float64{float64(t.Planned), float64(seen.Pools[i].Pods)}
	}
	for _, pool := range seen.Pools {
		g.starts[pool.Name] = pool.Start.Seconds()
	}
	if seen.Learnt != nil {
		g.forecast = seen.Learnt.quantiles
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.per[p.UID] = g
}

func (f *figures) drop(uid types.UID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.per, uid)
}

// Collector returns the metrics of the last decisions, for a registry.
func (s *Scaler) Collector() prometheus.Collector { return &s.figures }

// WriteMetrics writes the metrics of the last decisions in Prometheus' text format.
func (s *Scaler) WriteMetrics(w io.Writer) error {
	return metrics.WriteText(w, &s.figures)
}
