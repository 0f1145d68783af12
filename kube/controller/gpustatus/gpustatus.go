// Package gpustatus tells, again and again, what runs on a cluster's GPUs, what of
// them is idle to no purpose, and how far the whole is from the best that any
// placement could do: as metrics, and as a survey for whoever shows it.
//
// [Read] makes one survey from what an API server has; a [Status] keeps one fresh
// and exports it. The books are kube/gpubook's, the bounds core/gpu's.
//
// Not here: changing anything (kube/controller/repacker, kube/scheduler/gpufit).
package gpustatus

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/kube/gpubook"
	"github.com/neap-dev/neap/metrics"
)

// boundSteps is how long the bounds are sought: near the best of them for hundreds
// of kinds of demands, and seconds at most.
const boundSteps = 3000

// A View is what stands on the GPUs of a cluster at a moment.
type View struct {
	At       time.Time
	Survey   gpu.Survey
	Currency string
	Plans    []v1alpha1.RepackPlan // the newest first
	Problems []string              // what of the nodes or pods is wrong, a sentence each
}

// Read surveys what a reader has. book knows the prices; nil is that of the
// cluster's own MachineTypes.
func Read(ctx context.Context, from client.Reader, book *machine.PriceBook, now time.Time) (*View, error) {
	var nodes corev1.NodeList
	var pods corev1.PodList
	var pools v1alpha1.ResourcePoolList
	var plans v1alpha1.RepackPlanList
	for _, list := range []client.ObjectList{&nodes, &pods, &pools, &plans} {
		if err := from.List(ctx, list); err != nil {
			return nil, err
		}
	}
	v := &View{At: now, Plans: plans.Items}
	if book == nil {
		var types v1alpha1.MachineTypeList
		if err := from.List(ctx, &types); err != nil {
			return nil, err
		}
		book = machine.NewPriceBook(currencyOf(types.Items))
		for i := range types.Items {
			t, err := convert.Type(&types.Items[i])
			if err == nil {
				err = book.Set(time.Time{}, t)
			}
			if err != nil {
				v.Problems = append(v.Problems, err.Error())
			}
		}
	}
	v.Currency = book.Currency()
	slices.SortStableFunc(v.Plans, func(a, b v1alpha1.RepackPlan) int {
		return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
	})
	declared := make([]*v1alpha1.ResourcePool, len(pools.Items))
	for i := range pools.Items {
		declared[i] = &pools.Items[i]
	}
	known, err := convert.NewPools(declared)
	if err != nil {
		v.Problems = append(v.Problems, err.Error())
	}
	books := gpubook.New(nil)
	for i := range nodes.Items {
		if err := books.SetNode(&nodes.Items[i]); err != nil {
			v.Problems = append(v.Problems, err.Error())
		}
	}
	for i := range pods.Items {
		books.SetPod(&pods.Items[i])
	}
	for _, c := range books.Conflicts() {
		v.Problems = append(v.Problems, c.Message)
	}
	v.Survey = books.Survey(func(node *corev1.Node) (string, money.Amount) {
		m := convert.Machine(node, known)
		p, err := book.At(m.Type, m.Capacity, now)
		if err != nil {
			return m.Pool, 0
		}
		return m.Pool, money.Amount(p.Effective)
	}, boundSteps)
	return v, nil
}

// currencyOf is the currency of the first type that says one, else USD.
func currencyOf(types []v1alpha1.MachineType) string {
	for i := range types {
		if c := types[i].Spec.Price.Currency; c != "" {
			return c
		}
	}
	return "USD"
}

// Options of a Status. Client is required.
type Options struct {
	Client client.Reader
	Now    func() time.Time          // of the cluster's clock; nil means time.Now
	Prices func() *machine.PriceBook // nil: those of the cluster's MachineTypes
	Every  time.Duration             // between two surveys, on the wall; 0 means 15 s
	Done   func(at time.Time)        // is called after each survey; nil is not called
	Log    *slog.Logger              // nil means slog.Default
}

// A Status keeps a [View] fresh. It is safe for concurrent use.
type Status struct {
	o Options

	mu   sync.Mutex
	view *View
}

// New returns a Status without a view.
func New(o Options) (*Status, error) {
	if o.Client == nil {
		return nil, errors.New("gpustatus: Options.Client is missing")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Every <= 0 {
		o.Every = 15 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Status{o: o}, nil
}

// Run surveys until ctx ends. It takes no more than a fifth of the time for it.
func (s *Status) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		began := time.Now()
		var book *machine.PriceBook
		if s.o.Prices != nil {
			book = s.o.Prices()
		}
		v, err := Read(ctx, s.o.Client, book, s.o.Now())
		switch {
		case err == nil:
			s.mu.Lock()
			s.view = v
			s.mu.Unlock()
			if s.o.Done != nil {
				s.o.Done(v.At)
			}
		case ctx.Err() == nil:
			s.o.Log.Warn("the GPUs were not surveyed", "component", "gpustatus", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(max(s.o.Every, 4*time.Since(began))):
		}
	}
	return nil
}

// View returns the last survey, nil before the first. The caller must not change it.
func (s *Status) View() *View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("neap_gpu_"+name, help, labels, nil)
}

var device = []string{"node", "uuid", "model"}

// What a survey exports.
var (
	capacityDesc   = describe("capacity_milli", "Thousandths of compute that a GPU has for pods; 0 while it is sick.", device...)
	allocatedDesc  = describe("allocated_milli", "Thousandths of a GPU that pods hold.", device...)
	memoryDesc     = describe("memory_capacity_bytes", "Memory that a GPU has.", device...)
	memoryHeldDesc = describe("memory_allocated_bytes", "Memory of a GPU that pods hold.", device...)
	healthyDesc    = describe("healthy", "1 if a GPU can take pods.", device...)
	podDesc        = describe("pod_milli", "Thousandths of a GPU that a pod holds.", "namespace", "pod", "node", "uuid")
	idleDesc       = describe("idle_milli", "Thousandths of the healthy GPUs of a model that nobody holds.", "model")
	fragmentDesc   = describe("fragment_milli", "Thousandths of it that the usual pods of this cluster cannot use.", "model")
	boundDesc      = describe("bound_milli", "Thousandths that no placement of the pods that run or wait could exceed.")
	gapDesc        = describe("gap_gpus", "GPUs that the best placement could put to work beyond those that work, at most.")
	costDesc       = describe("gap_cost_per_hour", "Price of an hour of the machines that the best placement could do without, at most; absent while a machine has no price.", "currency")
	machinesDesc   = describe("machines", "Machines with GPUs that run a pod with GPUs, or none.", "state")
	pendingDesc    = describe("pending_milli", "Thousandths that pods without a machine ask for.")
	problemsDesc   = describe("problems", "Nodes and pods whose GPUs do not add up; neap gpu names them.")
)

// Describe implements [prometheus.Collector].
func (s *Status) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{capacityDesc, allocatedDesc, memoryDesc, memoryHeldDesc, healthyDesc, podDesc, idleDesc, fragmentDesc, boundDesc, gapDesc, costDesc, machinesDesc, pendingDesc, problemsDesc} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (s *Status) Collect(to chan<- prometheus.Metric) {
	v := s.View()
	if v == nil || len(v.Survey.Hosts) == 0 {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for i := range v.Survey.Hosts {
		h := &v.Survey.Hosts[i]
		for k := range h.Devices {
			d := &h.Devices[k]
			labels := []string{h.Name, d.UUID, d.Model}
			has, healthy := float64(gpu.Whole), 1.0
			if !d.Healthy {
				has, healthy = 0, 0
			}
			gauge(capacityDesc, has, labels...)
			gauge(allocatedDesc, float64(gpu.Whole-d.IdleMilli), labels...)
			gauge(memoryDesc, float64(d.MemoryMiB<<20), labels...)
			gauge(memoryHeldDesc, float64((d.MemoryMiB-d.IdleMiB)<<20), labels...)
			gauge(healthyDesc, healthy, labels...)
			for _, p := range d.Pods {
				gauge(podDesc, float64(h.Pods[p].Milli), h.Pods[p].Namespace, h.Pods[p].Name, h.Name, d.UUID)
			}
		}
	}
	for _, m := range v.Survey.Models {
		gauge(idleDesc, float64(m.IdleMilli), m.Model)
		gauge(fragmentDesc, float64(m.FragmentMilli), m.Model)
	}
	gauge(boundDesc, float64(v.Survey.BoundMilli))
	gauge(gapDesc, float64(v.Survey.GapMilli)/gpu.Whole)
	if v.Survey.Unpriced == 0 {
		gauge(costDesc, float64(v.Survey.GapNano)/float64(money.Unit), v.Currency)
	}
	gauge(machinesDesc, float64(v.Survey.Used), "used")
	gauge(machinesDesc, float64(v.Survey.Empty), "empty")
	gauge(pendingDesc, float64(v.Survey.WaitingMilli))
	gauge(problemsDesc, float64(len(v.Problems)))
}

// WriteMetrics writes the metrics in the text format of Prometheus.
func (s *Status) WriteMetrics(w io.Writer) error {
	return metrics.WriteText(w, s)
}
