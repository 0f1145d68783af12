package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/local/fleet"
	"github.com/neap-dev/neap/sim/physics"
	"github.com/neap-dev/neap/sim/scenario"
)

// A Burst is what came of CronJobs that were due at one second zero, on a simulated
// serverless pool with warm sandboxes. Percentiles are in seconds.
type Burst struct {
	What     string `json:"what"`
	CronJobs int    `json:"cronJobs"`
	Due      int    `json:"due"`     // at the same second zero
	Started  int    `json:"started"` // of these, pods that came to run
	Twice    int    `json:"twice"`   // CronJobs with more than one pod

	// From a pod's creation by the Job controller to running, both as one watch of
	// pods saw them.
	StartP50 float64 `json:"startP50"`
	StartP99 float64 `json:"startP99"`
	StartMax float64 `json:"startMax"`
	// The same from metadata.creationTimestamp, whose parts of a second are cut off:
	// up to a second too long.
	StampedP99 float64 `json:"stampedP99"`
	// From the second at which all were due to running.
	DueP50 float64 `json:"dueP50"`
	DueP99 float64 `json:"dueP99"`
	DueMax float64 `json:"dueMax"`

	PerSecond  float64 `json:"perSecond"`  // pods that came to run, from the first to the last
	WatchLag   float64 `json:"watchLag"`   // seconds; the most that an event came after the second in its creation timestamp
	Serverless int     `json:"serverless"` // cron pods on virtual nodes
	OnMachines int     `json:"onMachines"` // cron pods anywhere else
	Refused    int     `json:"refused"`    // pods that the simulated provider did not create

	// The slowest online module's p99 in the physics and the fewest ready online
	// pods, in the minute before and until all had started.
	OnlineP99Before   float64 `json:"onlineP99Before"`
	OnlineP99During   float64 `json:"onlineP99During"`
	OnlineReadyBefore int     `json:"onlineReadyBefore"`
	OnlineReadyDuring int     `json:"onlineReadyDuring"`

	// Seconds of CPU from the due second until the last pod ran.
	CPUControlPlane float64 `json:"cpuControlPlane"`
	CPUScheduler    float64 `json:"cpuScheduler"`
	CPUNeap         float64 `json:"cpuNeap"`    // kubelets, physics, bill and this measurement
	BusyBefore      float64 `json:"busyBefore"` // load average of the machine when it began, its own work included
}

const (
	cronPool       = "serverless"
	cronNamespaces = 50
	cronImages     = 20
	cronWorkers    = 32
	// cronPatience is how long all may take to start: a busy machine is no failure.
	cronPatience = 15 * time.Minute
)

// CronOptions say what burst to measure. The zero value is fit for a bench.
type CronOptions struct {
	CronJobs, Due int // 0 means 10,000, of which 3,000 are due
	// Cold has no warm sandboxes: every start is a creation, and the pool declares
	// the provider's pace, so that the controller lets the burst go in turn.
	Cold bool
}

// cronFleet is a scenario of machines with online services on them, and a
// serverless pool.
func cronFleet(o CronOptions) *scenario.Scenario {
	s := large(20, 200)
	s.Name = "cron-burst"
	for i := range s.Modules {
		s.Modules[i].Targets = scenario.Targets{SuccessMicros: 999_000, P99: 300 * time.Millisecond}
	}
	s.MachineTypes = append(s.MachineTypes, machine.Type{
		Name: "serverless", Currency: "USD", UnitList: [resource.Kinds]money.PerHour{resource.CPU: 48_000_000, resource.Memory: 5_000_000},
	})
	s.Pools = append(s.Pools, scenario.Pool{
		Name: cronPool, Kind: scenario.Serverless, MachineType: "serverless", Order: 2, Taint: true, Zones: []string{"zone-a"},
		Provider: &scenario.Provider{
			PerSecond: 20, Burst: min(100, max(1, o.Due/3)), MaxPod: resource.Vector{resource.CPU: 64_000, resource.Memory: 512 * resource.GiB},
			Cold: physics.Quantiles{{Share: 0.5, Value: 8 * time.Second}, {Share: 0.95, Value: 20 * time.Second}},
		},
	})
	if !o.Cold {
		s.Pool(cronPool).Provider.Warm = &scenario.Warm{
			Sandboxes: (o.Due + cronImages - 1) / cronImages, Keep: time.Hour,
			Start: physics.Quantiles{{Share: 0.5, Value: 300 * time.Millisecond}, {Share: 0.99, Value: 900 * time.Millisecond}},
		}
	}
	return s
}

// MeasureCron lets CronJobs come due at one second zero, on the wall's clock and by
// Kubernetes' own CronJob controller, and watches their pods start.
func MeasureCron(ctx context.Context, mo MeasureOptions, o CronOptions) (Burst, error) {
	if o.CronJobs == 0 {
		o.CronJobs, o.Due = 10_000, 3_000
	}
	b := Burst{What: "cron", CronJobs: o.CronJobs, Due: o.Due}
	if o.Cold {
		b.What = "cron-cold"
	}
	log := mo.Log
	if log == nil {
		log = func(string, ...any) {}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := false
	var m Measurement
	_, err := mo.run(ctx, &m, Options{Scenario: cronFleet(o), Speed: 1, during: func(ctx context.Context, u *up) error {
		if err := b.measure(ctx, u, o, log); err != nil {
			return err
		}
		done = true
		cancel()
		return nil
	}})
	if done && errors.Is(err, context.Canceled) {
		err = nil
	}
	return b, err
}

func (b *Burst) measure(ctx context.Context, u *up, o CronOptions, log func(string, ...any)) error {
	// 1. A warm start creates nothing, so the pool's owner declares no pace. The
	// provider still refuses what is created faster than that.
	if !o.Cold {
		var p v1alpha1.ResourcePool
		if err := u.crds.Get(ctx, types.NamespacedName{Name: cronPool}, &p); err != nil {
			return fmt.Errorf("measure cron: %w", err)
		}
		p.Spec.Serverless.Creation = nil
		if err := u.crds.Update(ctx, &p); err != nil {
			return fmt.Errorf("measure cron: %w", err)
		}
	}

	// 2. The CronJobs: those that are not due first, which tells how long the
	// others will take.
	names, err := cronSpaces(ctx, u.client)
	if err != nil {
		return err
	}
	began := time.Now()
	other := o.CronJobs - o.Due
	err = parallel(ctx, other, func(ctx context.Context, i int) error {
		at := began.Add(3*time.Hour + time.Duration(i)*time.Hour*18/time.Duration(other)).UTC()
		return makeCronJob(ctx, u.client, names[i%len(names)], fmt.Sprintf("other-%05d", i), i, at)
	})
	if err != nil {
		return err
	}
	each := time.Since(began) / time.Duration(max(other, 1))
	due := time.Now().Add(each*time.Duration(o.Due)*3/2 + 20*time.Second).Truncate(time.Minute).Add(time.Minute).UTC()
	log("made %d CronJobs in %.0f s; the other %d are due at %s", other, time.Since(began).Seconds(), o.Due, due.Format(time.TimeOnly))
	err = parallel(ctx, o.Due, func(ctx context.Context, i int) error {
		return makeCronJob(ctx, u.client, names[i%len(names)], fmt.Sprintf("due-%05d", i), i, due)
	})
	if err != nil {
		return err
	}
	if left := time.Until(due); left < 5*time.Second {
		return fmt.Errorf("measure cron: the CronJobs were made %v before they are due, which is too late to measure", left.Round(time.Second))
	}

	// 3. The watch, and how things are before.
	w := &burstWatch{pods: map[types.UID]*burstPod{}, want: o.Due, due: due, all: make(chan struct{})}
	if err := w.start(ctx, u.client); err != nil {
		return err
	}
	if err := pause(ctx, time.Until(due)-2*time.Second); err != nil {
		return err
	}
	b.OnlineP99Before, b.OnlineReadyBefore = online(u.fleet.View())
	b.BusyBefore = busy()
	if err := pause(ctx, time.Until(due)); err != nil {
		return err
	}
	before := cpuOf(u)

	// 4. The burst. The physics are looked at while it lasts and, as their steps
	// are longer than a short burst, once after.
	b.OnlineReadyDuring = b.OnlineReadyBefore
	look := func() {
		p99, ready := online(u.fleet.View())
		b.OnlineP99During, b.OnlineReadyDuring = max(b.OnlineP99During, p99), min(b.OnlineReadyDuring, ready)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	end := time.After(cronPatience)
	for going := true; going; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.all:
			going = false
		case <-end:
			going = false
		case <-tick.C:
			look()
			log("  %d of %d started", w.count(), o.Due)
		}
	}
	after := cpuOf(u)
	b.CPUNeap, b.CPUControlPlane, b.CPUScheduler = after[0]-before[0], after[1]-before[1], after[2]-before[2]
	if err := pause(ctx, 20*time.Second); err != nil { // a step of the physics, and second pods
		return err
	}
	look()
	for _, n := range u.fleet.Refused() {
		b.Refused += n
	}
	w.report(b)
	return nil
}

// cpuOf returns the seconds of CPU that this process, the control plane and the
// scheduler have used.
func cpuOf(u *up) (out [3]float64) {
	for i, pid := range append([]int{os.Getpid()}, u.cluster.PIDs()...)[:len(out)] {
		out[i], _ = usedBy(pid)
	}
	return out
}

// busy returns the load average of the last minute; 0 where there is none.
func busy() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	var v float64
	_, _ = fmt.Sscan(string(b), &v)
	return v
}

// online returns the slowest module's p99 in seconds, and how many pods are ready.
func online(v fleet.View) (p99 float64, ready int) {
	for _, m := range v.Modules {
		p99 = max(p99, m.P99.Seconds())
		for _, c := range m.Ready {
			ready += c.Pods
		}
	}
	return p99, ready
}

// parallel does n things, many at once.
func parallel(ctx context.Context, n int, do func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(cronWorkers, n) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(ctx, i); err != nil {
					cancel(fmt.Errorf("measure cron: %w", err))
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

func cronSpaces(ctx context.Context, client kubernetes.Interface) ([]string, error) {
	var names []string
	for i := range cronNamespaces {
		n := fmt.Sprintf("cron-%02d", i)
		_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("measure cron: %w", err)
		}
		names = append(names, n)
	}
	for _, n := range names { // pods need it
		for {
			_, err := client.CoreV1().ServiceAccounts(n).Get(ctx, "default", metav1.GetOptions{})
			if err == nil {
				break
			}
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return nil, err
			}
		}
	}
	return names, nil
}

// makeCronJob makes the i-th CronJob. Nothing but the label brings its pods to the
// serverless pool.
func makeCronJob(ctx context.Context, client kubernetes.Interface, namespace, name string, i int, at time.Time) error {
	no, one, grace, retries := false, int32(1), int64(5), int32(3)
	c := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{fleet.SimulatedLabel: "true"}},
		Spec: batchv1.CronJobSpec{
			Schedule: fmt.Sprintf("%d %d * * *", at.Minute(), at.Hour()), TimeZone: new(string),
			ConcurrencyPolicy: batchv1.ForbidConcurrent, SuccessfulJobsHistoryLimit: &one, FailedJobsHistoryLimit: &one,
			JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{
				BackoffLimit: &retries,
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{
						Labels:      map[string]string{v1alpha1.LabelClass: v1alpha1.ClassJob, "app.kubernetes.io/name": name},
						Annotations: map[string]string{fleet.RunAnnotation: "90s"},
					},
					Spec: corev1.PodSpec{
						RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: &no, EnableServiceLinks: &no, TerminationGracePeriodSeconds: &grace,
						Containers: []corev1.Container{{
							Name: fleet.Container, Image: fmt.Sprintf("simulated.neap.dev/cron/task-%02d", i%cronImages),
							Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
								corev1.ResourceCPU: apiresource.MustParse("250m"), corev1.ResourceMemory: apiresource.MustParse("256Mi"),
							}},
						}},
					},
				},
			}},
		},
	}
	*c.Spec.TimeZone = "Etc/UTC"
	_, err := client.BatchV1().CronJobs(namespace).Create(ctx, c, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// A burstWatch sees pods of the job class come and start.
type burstWatch struct {
	want int
	due  time.Time
	all  chan struct{} // closed when as many as wanted have started

	mu      sync.Mutex
	pods    map[types.UID]*burstPod
	started int
	lag     time.Duration
}

type burstPod struct {
	owner         string
	created       time.Time // by its timestamp
	seen, running time.Time
	node          string
}

// start lets an informer tell of the pods: it goes on where a plain watch would end.
func (w *burstWatch) start(ctx context.Context, client kubernetes.Interface) error {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = v1alpha1.LabelClass + "=" + v1alpha1.ClassJob }))
	pods := factory.Core().V1().Pods().Informer()
	_, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { w.see(o.(*corev1.Pod), time.Now()) },
		UpdateFunc: func(_, o any) { w.see(o.(*corev1.Pod), time.Now()) },
	})
	if err != nil {
		return fmt.Errorf("measure cron: %w", err)
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), pods.HasSynced) {
		return ctx.Err()
	}
	return nil
}

func (w *burstWatch) see(p *corev1.Pod, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.pods[p.UID]
	if b == nil {
		b = &burstPod{created: p.CreationTimestamp.Time, seen: now, owner: p.Namespace + "/" + p.Labels["app.kubernetes.io/name"]}
		w.pods[p.UID] = b
		if p.Status.Phase != corev1.PodPending { // its beginning was not seen: count too much
			b.seen = b.created
		}
		w.lag = max(w.lag, now.Sub(b.created)-time.Second)
	}
	b.node = cmp.Or(p.Spec.NodeName, b.node)
	if b.running.IsZero() && (p.Status.Phase == corev1.PodRunning || p.Status.Phase == corev1.PodSucceeded) {
		b.running = now
		if w.started++; w.started == w.want {
			close(w.all)
		}
	}
}

func (w *burstWatch) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.started
}

func (w *burstWatch) report(b *Burst) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var start, stamped, due []float64
	var first, last time.Time
	of := map[string]int{}
	for _, p := range w.pods {
		of[p.owner]++
		switch {
		case strings.HasPrefix(p.node, "virtual-"):
			b.Serverless++
		case p.node != "":
			b.OnMachines++
		}
		if p.running.IsZero() {
			continue
		}
		b.Started++
		start = append(start, p.running.Sub(p.seen).Seconds())
		stamped = append(stamped, p.running.Sub(p.created).Seconds())
		due = append(due, p.running.Sub(w.due).Seconds())
		if first.IsZero() || p.running.Before(first) {
			first = p.running
		}
		if p.running.After(last) {
			last = p.running
		}
	}
	for _, n := range of {
		if n > 1 {
			b.Twice++
		}
	}
	b.WatchLag = max(0, w.lag.Seconds())
	b.StartP50, b.StartP99, b.StartMax = quantile(start, 0.5), quantile(start, 0.99), quantile(start, 1)
	b.StampedP99 = quantile(stamped, 0.99)
	b.DueP50, b.DueP99, b.DueMax = quantile(due, 0.5), quantile(due, 0.99), quantile(due, 1)
	if s := last.Sub(first).Seconds(); s > 0 {
		b.PerSecond = float64(b.Started) / s
	}
}

// quantile returns the value that a share of the values do not exceed.
func quantile(v []float64, share float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[min(len(v)-1, int(share*float64(len(v))))]
}
