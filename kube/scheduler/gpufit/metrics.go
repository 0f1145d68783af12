package gpufit

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// What the scheduler's /metrics say of the plugin, beside
// scheduler_plugin_execution_duration_seconds{plugin="GPUFit"}.
var (
	decisionSeconds = metrics.NewHistogram(&metrics.HistogramOpts{
		Name: "neap_gpu_decision_seconds", StabilityLevel: metrics.ALPHA,
		Help:    "Time to choose the machines for a pod with GPUs, what changed since the last one included.",
		Buckets: metrics.ExponentialBuckets(0.000025, 2, 16),
	})
	rescoreSeconds = metrics.NewHistogram(&metrics.HistogramOpts{
		Name: "neap_gpu_rescore_seconds", StabilityLevel: metrics.ALPHA,
		Help:    "Time to price the GPUs for the demands that there are, beside the scheduling.",
		Buckets: metrics.ExponentialBuckets(0.01, 2, 14),
	})
	conflicts = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "neap_gpu_conflicts_total", StabilityLevel: metrics.ALPHA,
		Help: "GPUs that were given away twice, pods without the GPUs they ask for, and bindings that were given up because another scheduler was faster.",
	}, []string{"kind"})
	registerOnce sync.Once
)

func registerMetrics() {
	registerOnce.Do(func() { legacyregistry.MustRegister(decisionSeconds, rescoreSeconds, conflicts) })
}
