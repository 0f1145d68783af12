package local

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/local/controlplane"
)

// A GPUMeasurement is one round of pods with GPUs that a scheduler found waiting.
type GPUMeasurement struct {
	What     string `json:"what"`
	Profile  string `json:"profile"`
	Machines int    `json:"machines"`
	Pods     int    `json:"pods"` // that asked for GPUs, all at once
	// Bound is how many got a place; the others fitted nowhere.
	Bound         int     `json:"bound"`
	PodsPerSecond float64 `json:"podsPerSecond"` // from the first binding to the last
	// What it took the plugin to choose, as the scheduler's own metrics have it: at
	// most, to the next step of a histogram. 0 for a scheduler without it.
	DecisionMicrosP50 float64 `json:"decisionMicrosP50"`
	DecisionMicrosP99 float64 `json:"decisionMicrosP99"`
}

// openbMachines are the shapes and numbers of the openb fleet: 1,213 machines with
// 6,212 GPUs (`../shared/data/openb`). Memory of GPUs, which it does not tell, is
// that of the models, or a guess for those that are not sold.
var openbMachines = []struct {
	count, gpus, cores, memoryGiB int
	model                         string
	deviceMiB                     int
}{
	{549, 8, 96, 384, "G2", 32768}, {387, 2, 104, 512, "T4", 15360}, {17, 4, 96, 512, "T4", 15360}, {39, 8, 128, 768, "G3", 81920},
	{107, 2, 16, 120, "P100", 16384}, {22, 2, 64, 256, "P100", 16384}, {3, 1, 8, 60, "P100", 16384}, {2, 2, 8, 60, "P100", 16384},
	{21, 8, 96, 768, "V100M32", 32768}, {9, 4, 48, 384, "V100M32", 32768}, {28, 4, 32, 256, "V100M16", 16384}, {19, 1, 8, 64, "V100M16", 16384},
	{7, 8, 64, 512, "V100M16", 16384}, {1, 8, 82, 512, "V100M16", 16384}, {2, 1, 16, 64, "A10", 23028},
}

// openbDemands are the sizes of openb's default pods with GPUs, in thousandths in
// total, and how often they come; sizes that come less than forty times are left out.
var openbDemands = []struct{ milli, count, cpu int }{
	{1000, 3911, 6000}, {810, 1078, 4000}, {470, 750, 4000}, {320, 328, 4000}, {650, 253, 4000}, {230, 140, 2000}, {460, 128, 4000},
	{590, 75, 4000}, {160, 74, 2000}, {550, 72, 4000}, {220, 62, 2000}, {370, 47, 2000}, {8000, 44, 64000},
}

const (
	gpuNamespace = "gpus"
	gpuPatience  = 5 * time.Minute
)

// MeasureGPU lets Neap's scheduler and Kubernetes' own find several thousand pods
// with GPUs waiting on machines as openb's, twice each and in turns, and tells how
// fast they are bound. Both run in the same process, against the same control plane;
// the machines are objects without a kubelet. The stock profile counts thousandths
// by machine, for it does not know of single GPUs.
func MeasureGPU(ctx context.Context, o MeasureOptions) ([]GPUMeasurement, error) {
	machines, pods := o.Machines, o.Pods
	if machines == 0 {
		machines, pods = 1213, 3000
	}
	dir, err := os.MkdirTemp("", "neap-bench-gpu-")
	if err != nil {
		return nil, fmt.Errorf("measure GPUs: %w", err)
	}
	defer os.RemoveAll(dir)
	log := o.Log
	if log == nil {
		log = func(string, ...any) {}
	}
	c, err := controlplane.Start(ctx, controlplane.Options{Dir: dir, BinDir: o.BinDir, Log: log})
	if err != nil {
		return nil, err
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = c.Stop(stop) // its folder goes with it
	}()
	cfg, err := c.RESTConfig()
	if err != nil {
		return nil, err
	}
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("measure GPUs: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := &gpuRun{cluster: c, client: client, at: map[types.UID]time.Time{}, failed: map[types.UID]bool{}, alive: map[types.UID]bool{}}
	if err := m.begin(ctx, machines); err != nil {
		return nil, fmt.Errorf("measure GPUs: %w", err)
	}
	var rows []GPUMeasurement
	for round := range 2 {
		for _, profile := range []string{controlplane.StockScheduler, corev1.DefaultSchedulerName} {
			row, err := m.round(ctx, profile, pods)
			if err != nil {
				return rows, fmt.Errorf("measure GPUs: %s: %w", profile, err)
			}
			row.What, row.Machines = fmt.Sprintf("gpu pods, round %d", round+1), machines
			log("%s, %s: %d of %d pods bound, %.0f a second", row.What, row.Profile, row.Bound, row.Pods, row.PodsPerSecond)
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// A gpuRun is the measurement while it is taken.
type gpuRun struct {
	cluster *controlplane.Cluster
	client  kubernetes.Interface
	ended   <-chan struct{} // of the scheduler

	mu     sync.Mutex
	at     map[types.UID]time.Time // when pods were seen bound
	failed map[types.UID]bool      // that the scheduler has said it has no place for
	alive  map[types.UID]bool
}

// begin makes the machines and watches the pods.
func (m *gpuRun) begin(ctx context.Context, machines int) error {
	if _, err := m.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: gpuNamespace}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	all := 0
	for _, s := range openbMachines {
		all += s.count
	}
	var nodes []*corev1.Node
	for k, s := range openbMachines {
		n := max(1, (s.count*machines+all/2)/all)
		for i := range n {
			nodes = append(nodes, gpuNode(fmt.Sprintf("gpu-%02d-%03d", k, i), s.gpus, s.cores, s.memoryGiB, s.model, s.deviceMiB))
		}
	}
	if err := inParallel(len(nodes), func(i int) error {
		_, err := m.client.CoreV1().Nodes().Create(ctx, nodes[i], metav1.CreateOptions{})
		return err
	}); err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactoryWithOptions(m.client, 0, informers.WithNamespace(gpuNamespace))
	seen := func(o any) { m.seen(o.(*corev1.Pod)) }
	handler, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: seen, UpdateFunc: func(_, o any) { seen(o) },
		DeleteFunc: func(o any) {
			if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			if p, ok := o.(*corev1.Pod); ok {
				m.mu.Lock()
				defer m.mu.Unlock()
				delete(m.alive, p.UID)
			}
		},
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
		return ctx.Err()
	}
	return nil
}

func gpuNode(name string, gpus, cores, memoryGiB int, model string, deviceMiB int) *corev1.Node {
	devices := make([]v1alpha1.GPUDevice, gpus)
	for i := range devices {
		devices[i] = v1alpha1.GPUDevice{Index: int32(i), UUID: fmt.Sprintf("GPU-%s-%d", name, i), Model: model, MemoryMiB: int64(deviceMiB), Healthy: true}
	}
	has := corev1.ResourceList{
		corev1.ResourceCPU: *apiresource.NewQuantity(int64(cores), apiresource.DecimalSI), corev1.ResourceMemory: *apiresource.NewQuantity(int64(memoryGiB)<<30, apiresource.BinarySI),
		corev1.ResourcePods:       apiresource.MustParse("250"),
		v1alpha1.ResourceGPUMilli: *apiresource.NewQuantity(int64(gpus)*1000, apiresource.DecimalSI), v1alpha1.ResourceGPUMemory: *apiresource.NewQuantity(int64(gpus*deviceMiB), apiresource.DecimalSI),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}, Annotations: map[string]string{v1alpha1.AnnotationGPUDevices: convert.WriteGPUDevices(devices)}},
		Status: corev1.NodeStatus{Capacity: has, Allocatable: has,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Bench", LastHeartbeatTime: metav1.Now()}}},
	}
}

func (m *gpuRun) seen(p *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.alive[p.UID] = true
	if p.Spec.NodeName != "" {
		if _, ok := m.at[p.UID]; !ok {
			m.at[p.UID] = time.Now()
		}
		return
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			m.failed[p.UID] = true
		}
	}
}

// round lets a profile find pods waiting.
func (m *gpuRun) round(ctx context.Context, profile string, n int) (GPUMeasurement, error) {
	row := GPUMeasurement{Profile: profile, Pods: n}
	// 1. Pods come while no scheduler runs.
	if m.ended != nil {
		if err := syscall.Kill(m.cluster.SchedulerPID(), syscall.SIGKILL); err != nil {
			return row, err
		}
		<-m.ended
	}
	m.mu.Lock()
	m.at, m.failed = map[types.UID]time.Time{}, map[types.UID]bool{}
	m.mu.Unlock()
	if err := inParallel(n, func(i int) error {
		_, err := m.client.CoreV1().Pods(gpuNamespace).Create(ctx, benchPod(profile, i), metav1.CreateOptions{})
		return err
	}); err != nil {
		return row, err
	}

	// 2. It starts, and works until all are bound or have been refused.
	var err error
	if m.ended, err = m.cluster.StartScheduler(ctx); err != nil {
		return row, err
	}
	deadline := time.Now().Add(gpuPatience)
	for {
		m.mu.Lock()
		done := len(m.at)
		for uid := range m.failed {
			if _, bound := m.at[uid]; !bound {
				done++
			}
		}
		m.mu.Unlock()
		if done == n {
			break
		}
		if time.Now().After(deadline) {
			return row, fmt.Errorf("after %v %d of %d pods have an answer", gpuPatience, done, n)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return row, err
		}
	}
	m.mu.Lock()
	row.Bound = len(m.at)
	first, last := time.Now(), time.Time{}
	for _, t := range m.at {
		if t.Before(first) {
			first = t
		}
		if t.After(last) {
			last = t
		}
	}
	m.mu.Unlock()
	row.PodsPerSecond = float64(row.Bound) / last.Sub(first).Seconds()
	text, err := m.cluster.SchedulerMetrics(ctx)
	if err != nil {
		return row, err
	}
	row.DecisionMicrosP50 = 1e6 * bucketOf(text, "neap_gpu_decision_seconds", 0.5)
	row.DecisionMicrosP99 = 1e6 * bucketOf(text, "neap_gpu_decision_seconds", 0.99)

	// 3. They go.
	zero := metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}
	if err := inParallel(n, func(i int) error {
		return m.client.CoreV1().Pods(gpuNamespace).Delete(ctx, benchPod(profile, i).Name, zero)
	}); err != nil {
		return row, err
	}
	for {
		m.mu.Lock()
		left := len(m.alive)
		m.mu.Unlock()
		if left == 0 {
			return row, nil
		}
		if time.Now().After(deadline) {
			return row, errors.New("pods that were deleted are still there")
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return row, err
		}
	}
}

// benchPod is pod i of a round: the sizes come in turns, as often as in the trace.
func benchPod(profile string, i int) *corev1.Pod {
	all := 0
	for _, d := range openbDemands {
		all += d.count
	}
	at := i * 2654435761 % all // spreads the sizes over the round, the same way every time
	d := openbDemands[0]
	for _, d = range openbDemands {
		if at -= d.count; at < 0 {
			break
		}
	}
	ask := corev1.ResourceList{
		corev1.ResourceCPU: *apiresource.NewMilliQuantity(int64(d.cpu), apiresource.DecimalSI), corev1.ResourceMemory: apiresource.MustParse("4Gi"),
		v1alpha1.ResourceGPUMilli: *apiresource.NewQuantity(int64(d.milli), apiresource.DecimalSI),
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%05d", i)},
		Spec: corev1.PodSpec{
			// Nobody plays the kubelets: after a while the machines count as lost.
			Tolerations:   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			SchedulerName: profile, AutomountServiceAccountToken: ptr.To(false), TerminationGracePeriodSeconds: ptr.To[int64](0),
			Containers: []corev1.Container{{Name: "main", Image: "none", Resources: corev1.ResourceRequirements{Requests: ask, Limits: ask}}},
		},
	}
}

// inParallel does n things, some at a time.
func inParallel(n int, do func(i int) error) error {
	const workers = 16
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for k := range workers {
		wg.Go(func() {
			for i := k; i < n && errs[k] == nil; i += workers {
				errs[k] = do(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// bucketOf reads a quantile of a histogram from metrics in Prometheus' text: the upper
// end of the bucket it is in; 0 if there is nothing.
func bucketOf(text, name string, q float64) float64 {
	type bucket struct{ le, count float64 }
	var all []bucket
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name+`_bucket{le="`)
		if !ok {
			continue
		}
		le, count, _ := strings.Cut(rest, `"} `)
		b := bucket{le: math.Inf(1)}
		if v, err := strconv.ParseFloat(le, 64); err == nil {
			b.le = v
		}
		b.count, _ = strconv.ParseFloat(strings.TrimSpace(count), 64)
		all = append(all, b)
	}
	for _, b := range all {
		if total := all[len(all)-1].count; total > 0 && b.count >= q*total && !math.IsInf(b.le, 1) {
			return b.le
		}
	}
	return 0
}
