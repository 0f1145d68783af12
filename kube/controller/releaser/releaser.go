// Package releaser lets pods of the job class start: it takes the scheduling gate
// neap.dev/burst away that admission put on them, each in its turn, so that the
// burst at second zero neither overruns a provider nor disturbs anybody.
//
// core/burst decides; this package only keeps the list of pods that wait, asks,
// and patches. The list is made anew from the pods themselves at every start, so
// nothing is lost with the process; its token buckets then begin empty.
//
// Kubernetes keeps what is its own: a CronJob's schedule, suspend and concurrency
// policy decide whether there is a Job at all. A CronJob's startingDeadlineSeconds
// cuts the spread short.
//
// Enter at [New]. Not here: which pods get the gate (deploy/chart/neap/admission).
package releaser

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/burst"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/kube/convert"
)

const (
	// maxSpread is the longest spread; admission refuses longer ones in Jobs.
	maxSpread = 6 * time.Hour
	// restless is the least time between two looks, on the wall: what comes
	// meanwhile is decided together.
	restless = 10 * time.Millisecond
	// lookAtLeast is the longest time between two looks while pods wait, on the wall.
	lookAtLeast = 5 * time.Second
	// settle is how long after its binding a pod may not have reached its provider.
	settle = time.Second
	// patches is how many gates are taken away at once.
	patches = 32
	// asks is how many CronJobs are asked for their deadline in one look.
	asks = 100
	// remember is how long a CronJob's deadline is taken for known, on the wall.
	remember = 10 * time.Minute
)

var (
	waitingGauge = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "neap_burst_waiting_pods", Help: "Pods of the job class that wait to be started, by what they wait for: Spread, Pace, Limit or Size.",
	}, []string{"reason"})
	releasedCount = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "neap_burst_released_pods_total", Help: "Pods of the job class that were let start.",
	})
	waitedSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "neap_burst_wait_seconds", Help: "How long pods of the job class waited beyond their own moment in the spread.",
		Buckets: []float64{.1, .3, 1, 3, 10, 30, 60, 120, 300, 600, 1800},
	})
)

func init() { metrics.Registry.MustRegister(waitingGauge, releasedCount, waitedSeconds) }

// Options of a [Releaser]. Client and Pools are required.
type Options struct {
	Client kubernetes.Interface
	// Pools returns the ResourcePools that there are now.
	Pools func(context.Context) ([]v1alpha1.ResourcePool, error)
	// Clock is the cluster's clock; nil means the wall's.
	Clock clock.Clock
	// Observed says that Kubernetes' times are not those of Clock: a pod is born
	// when it is first seen.
	Observed bool
	// Log takes what went wrong; nil means slog.Default.
	Log *slog.Logger
}

// A Releaser lets pods of the job class start. Use [New].
type Releaser struct {
	o     Options
	dirty chan struct{} // has room for one

	mu      sync.Mutex
	waiting map[types.UID]*waiting
	running map[types.UID]*running // let go, and not over

	// Of the loop alone.
	buckets   map[string]burst.Bucket
	deadlines map[types.NamespacedName]deadline
}

type waiting struct {
	key     types.NamespacedName
	start   burst.Start
	cronJob types.NamespacedName // empty if it has none
	due     time.Time            // when its CronJob says it is
	asked   bool                 // its deadline is known
}

type running struct {
	start burst.Start
	bound time.Time // when it was first seen on a node; zero before
}

type deadline struct {
	seconds *int64
	until   time.Time
}

// New returns a Releaser. Nothing happens before [Releaser.Start].
func New(o Options) *Releaser {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Releaser{
		o: o, dirty: make(chan struct{}, 1), waiting: map[types.UID]*waiting{}, running: map[types.UID]*running{},
		buckets: map[string]burst.Bucket{}, deadlines: map[types.NamespacedName]deadline{},
	}
}

// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=batch,resources=cronjobs,verbs=get
// +kubebuilder:rbac:groups=neap.dev,resources=resourcepools,verbs=get;list;watch

// Start works until ctx ends. It may be called once, by the leader only.
func (r *Releaser) Start(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(r.o.Client, 0,
		informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = v1alpha1.LabelClass + "=" + v1alpha1.ClassJob }))
	pods := factory.Core().V1().Pods().Informer()
	_, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { r.see(o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { r.see(o.(*corev1.Pod)) },
		DeleteFunc: func(o any) {
			if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			if p, ok := o.(*corev1.Pod); ok {
				r.forget(p.UID)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("releaser: watch pods: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), pods.HasSynced) {
		return nil
	}
	for {
		again := r.look(ctx)
		var turn <-chan time.Time
		stop := func() bool { return false }
		if !again.IsZero() {
			t := r.o.Clock.NewTimer(max(0, again.Sub(r.o.Clock.Now())))
			turn, stop = t.C(), t.Stop
		}
		var check <-chan time.Time
		if r.waits() > 0 {
			check = time.After(lookAtLeast)
		}
		select {
		case <-ctx.Done():
		case <-turn:
		case <-check:
		case <-r.dirty:
		}
		stop()
		if ctx.Err() != nil {
			return nil
		}
		time.Sleep(restless)
	}
}

// trim drops what is not read here, for the cache.
func trim(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	t := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
			CreationTimestamp: p.CreationTimestamp, DeletionTimestamp: p.DeletionTimestamp, OwnerReferences: p.OwnerReferences,
			Annotations: map[string]string{},
		},
		Spec:   corev1.PodSpec{NodeName: p.Spec.NodeName, SchedulingGates: p.Spec.SchedulingGates},
		Status: corev1.PodStatus{Phase: p.Status.Phase},
	}
	for _, k := range []string{v1alpha1.AnnotationSpread, v1alpha1.AnnotationServerlessPools} {
		if v, ok := p.Annotations[k]; ok {
			t.Annotations[k] = v
		}
	}
	for i := range p.Spec.Containers {
		t.Spec.Containers = append(t.Spec.Containers, corev1.Container{Resources: corev1.ResourceRequirements{Requests: p.Spec.Containers[i].Resources.Requests}})
	}
	return t, nil
}

func gated(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.SchedulingGates, func(g corev1.PodSchedulingGate) bool { return g.Name == v1alpha1.GateBurst })
}

// see takes note of a pod as it is now.
func (r *Releaser) see(p *corev1.Pod) {
	if convert.Over(p) || p.DeletionTimestamp != nil && p.Spec.NodeName == "" {
		r.forget(p.UID)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if w, ok := r.running[p.UID]; ok {
		if w.bound.IsZero() && p.Spec.NodeName != "" {
			w.bound = r.o.Clock.Now()
		}
		return // or an event from before its gate was taken away
	}
	w, known := r.waiting[p.UID]
	switch {
	case gated(p) && !known:
		r.waiting[p.UID] = r.read(p)
		r.wake()
	case !gated(p):
		if !known {
			w = r.read(p)
		}
		delete(r.waiting, p.UID)
		started := &running{start: w.start}
		if p.Spec.NodeName != "" {
			started.bound = r.o.Clock.Now()
		}
		r.running[p.UID] = started
	}
}

func (r *Releaser) forget(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, uid)
	if _, ok := r.running[uid]; ok {
		delete(r.running, uid)
		r.wake() // there may be room now
	}
}

func (r *Releaser) wake() {
	select {
	case r.dirty <- struct{}{}:
	default:
	}
}

func (r *Releaser) waits() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting)
}

// read translates a pod.
func (r *Releaser) read(p *corev1.Pod) *waiting {
	w := &waiting{
		key: types.NamespacedName{Namespace: p.Namespace, Name: p.Name},
		start: burst.Start{
			ID: string(p.UID), Group: string(p.UID), Born: p.CreationTimestamp.Time, Spread: r.spread(p),
		},
	}
	if r.o.Observed {
		w.start.Born = r.o.Clock.Now()
	}
	if pools := p.Annotations[v1alpha1.AnnotationServerlessPools]; pools != "" {
		w.start.Pools = strings.Split(pools, ",")
		slices.Sort(w.start.Pools)
		w.start.Pools = slices.Compact(w.start.Pools)
	}
	for i := range p.Spec.Containers {
		w.start.CPU += convert.Vector(p.Spec.Containers[i].Resources.Requests)[resource.CPU]
	}
	if o := metav1.GetControllerOfNoCopy(p); o != nil {
		w.start.Group = string(o.UID)
		// The CronJob controller calls a Job after its CronJob and its minute.
		if i := strings.LastIndexByte(o.Name, '-'); o.Kind == "Job" && i > 0 {
			if minute, err := strconv.ParseInt(o.Name[i+1:], 10, 64); err == nil {
				w.cronJob = types.NamespacedName{Namespace: p.Namespace, Name: o.Name[:i]}
				w.due = time.Unix(minute*60, 0)
			}
		}
	}
	return w
}

// spread returns the pod's spread. One that cannot be read is none, and said.
func (r *Releaser) spread(p *corev1.Pod) time.Duration {
	s, ok := p.Annotations[v1alpha1.AnnotationSpread]
	if !ok {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxSpread {
		r.o.Log.Warn("a pod's spread is ignored: the annotation must be a duration up to 6h, such as 5m",
			"namespace", p.Namespace, "pod", p.Name, "annotation", v1alpha1.AnnotationSpread, "value", s)
		return 0
	}
	return d
}

// look decides once and lets go. It returns when to look again.
func (r *Releaser) look(ctx context.Context) time.Time {
	// 1. What there is.
	all, err := r.o.Pools(ctx)
	if err != nil {
		if ctx.Err() == nil {
			r.o.Log.Warn("jobs wait: the pools cannot be read", "err", err)
		}
		return time.Time{}
	}
	r.ask(ctx)
	in := burst.Input{Now: r.o.Clock.Now()}
	r.mu.Lock()
	keys := make(map[string]types.NamespacedName, len(r.waiting))
	due := make(map[string]time.Time, len(r.waiting))
	for _, w := range r.waiting {
		in.Waiting = append(in.Waiting, w.start)
		keys[w.start.ID], due[w.start.ID] = w.key, w.start.Due()
	}
	used, coming := map[string]int64{}, map[string]int{}
	for _, w := range r.running {
		for _, p := range w.start.Pools {
			used[p] += w.start.CPU
			if w.bound.IsZero() || in.Now.Sub(w.bound) < settle {
				coming[p]++
			}
		}
	}
	r.mu.Unlock()
	for i := range all {
		if p := &all[i]; p.Spec.Kind == v1alpha1.PoolServerless {
			in.Pools = append(in.Pools, limits(p, used[p.Name], coming[p.Name], r.buckets[p.Name]))
		}
	}
	slices.SortFunc(in.Pools, func(a, b burst.Pool) int { return cmp.Compare(a.Name, b.Name) })

	// 2. Decide.
	d := burst.Decide(in)
	clear(r.buckets)
	for i, b := range d.Buckets {
		r.buckets[in.Pools[i].Name] = b
	}
	for _, reason := range []burst.Reason{burst.Early, burst.NoToken, burst.NoRoom, burst.Never} {
		waitingGauge.WithLabelValues(string(reason)).Set(float64(d.Waits[reason]))
	}

	// 3. Let go. What fails has lost its token and stays on the list.
	var wg sync.WaitGroup
	queue := make(chan string)
	failed := make(chan error, len(d.Starts))
	for range min(patches, len(d.Starts)) {
		wg.Go(func() {
			for id := range queue {
				if err := r.release(ctx, types.UID(id), keys[id]); err != nil {
					failed <- err
					continue
				}
				releasedCount.Inc()
				waitedSeconds.Observe(max(0, in.Now.Sub(due[id]).Seconds()))
			}
		})
	}
	for _, id := range d.Starts {
		queue <- id
	}
	close(queue)
	wg.Wait()
	close(failed)
	var errs []error
	for err := range failed {
		errs = append(errs, err)
	}
	if len(errs) > 0 && ctx.Err() == nil {
		r.o.Log.Warn("jobs could not be let go and are tried again", "pods", len(errs), "first", errs[0])
	}
	return d.Again
}

// limits translates a pool.
func limits(p *v1alpha1.ResourcePool, used int64, coming int, b burst.Bucket) burst.Pool {
	out := burst.Pool{Name: p.Name, InUse: used, Coming: coming, Bucket: b}
	if s := p.Spec.Serverless; s != nil && s.Creation != nil {
		out.PerSecond, out.Burst = float64(s.Creation.PerSecond), int(s.Creation.Burst)
	}
	if l := p.Spec.Limit; l != nil && l.CPU != nil {
		out.Limit = l.CPU.MilliValue()
	}
	return out
}

// release takes a pod's gate away; the UID keeps a later pod of the same name out.
func (r *Releaser) release(ctx context.Context, uid types.UID, key types.NamespacedName) error {
	ungate := fmt.Appendf(nil, `{"metadata":{"uid":%q},"spec":{"schedulingGates":[{"$patch":"delete","name":%q}]}}`, uid, v1alpha1.GateBurst)
	_, err := r.o.Client.CoreV1().Pods(key.Namespace).Patch(ctx, key.Name, types.StrategicMergePatchType, ungate, metav1.PatchOptions{FieldManager: "neap-releaser"})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("let pod %s go: %w", key, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if w, ok := r.waiting[uid]; ok {
		delete(r.waiting, uid)
		if err == nil {
			r.running[uid] = &running{start: w.start}
		}
	}
	return nil
}

// ask finds the deadlines of pods with a spread: they alone could be late by it.
func (r *Releaser) ask(ctx context.Context) {
	r.mu.Lock()
	var todo []*waiting
	for _, w := range r.waiting {
		if !w.asked && w.start.Spread > 0 && w.cronJob.Name != "" {
			todo = append(todo, w)
		}
	}
	r.mu.Unlock()
	if len(todo) > asks {
		todo = todo[:asks]
		r.wake()
	}
	now := time.Now()
	for _, w := range todo {
		known, ok := r.deadlines[w.cronJob]
		if !ok || now.After(known.until) {
			c, err := r.o.Client.BatchV1().CronJobs(w.cronJob.Namespace).Get(ctx, w.cronJob.Name, metav1.GetOptions{})
			switch {
			case ctx.Err() != nil:
				return
			case err == nil:
				known.seconds = c.Spec.StartingDeadlineSeconds
			case apierrors.IsNotFound(err):
				known.seconds = nil
			default:
				r.o.Log.Warn("a job's deadline is not known, and the spread not cut short", "cronjob", w.cronJob, "err", err)
			}
			known.until = now.Add(remember)
			r.deadlines[w.cronJob] = known
		}
		r.mu.Lock()
		w.asked = true
		if known.seconds != nil {
			from := w.start.Born
			if late := from.Sub(w.due); !r.o.Observed && late > 0 && late < maxSpread {
				from = w.due
			}
			w.start.Deadline = from.Add(time.Duration(*known.seconds) * time.Second)
		}
		r.mu.Unlock()
	}
	for k, d := range r.deadlines {
		if now.After(d.until) {
			delete(r.deadlines, k)
		}
	}
}
