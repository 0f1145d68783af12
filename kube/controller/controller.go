package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/scale"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/controller/biller"
	"github.com/neap-dev/neap/kube/controller/colocator"
	"github.com/neap-dev/neap/kube/controller/gpustatus"
	"github.com/neap-dev/neap/kube/controller/headroom"
	"github.com/neap-dev/neap/kube/controller/leaver"
	"github.com/neap-dev/neap/kube/controller/modulestatus"
	"github.com/neap-dev/neap/kube/controller/poolstatus"
	"github.com/neap-dev/neap/kube/controller/releaser"
	"github.com/neap-dev/neap/kube/controller/repacker"
	"github.com/neap-dev/neap/kube/controller/scaler"
	"github.com/neap-dev/neap/kube/controller/timetablestatus"
	"github.com/neap-dev/neap/kube/controller/typestatus"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/metrics"
)

// Options of a Controller.
type Options struct {
	// RESTConfig says how to reach the API server. Required.
	RESTConfig *rest.Config
	// Store keeps events and closed hours. Required.
	Store biller.Store
	// Clock is the cluster's clock; nil means the wall's.
	Clock clock.Clock
	// Times says where the times of events come from; "" means biller.API. A
	// cluster whose day does not pass at the wall's pace needs biller.Observed.
	Times biller.Times
	// Metrics tell use, load and quality; nil means that all use is estimated.
	Metrics metrics.Source
	// Ledger keeps the decisions of the scaler; nil keeps none.
	Ledger scaler.Ledger
	// Decided is called after each minute's decisions on replicas; nil is not
	// called. WriteMetrics of Controller.Scaler then has them.
	Decided func(at time.Time)
	// Surveyed is called after each survey of the GPUs; nil is not called.
	// WriteMetrics of Controller.GPUs then has it.
	Surveyed func(at time.Time)
	// EvacuateGPUs is the mode of the RepackPlans that are made for sick GPUs; ""
	// makes none.
	EvacuateGPUs v1alpha1.RepackMode
	// Colocated is called after each minute's decisions on batch; nil is not called.
	// WriteMetrics of Controller.Colocator then has them.
	Colocated func(at time.Time)
	// BatchLasts and BatchApart are Lasts and Apart of colocator.Options.
	BatchLasts, BatchApart time.Duration
	// AgentNamespace is where the agents of nodes keep their Leases; "" means
	// neap-system.
	AgentNamespace string
	// Currency and Grace are those of biller.Options.
	Currency string
	Grace    time.Duration

	// LeaderElection makes sure that of several controllers one works.
	LeaderElection bool
	// Namespace holds the lease of the election; "" means the pod's own.
	Namespace string
	// MetricsAddress and HealthAddress are where the controller's own metrics and
	// its /healthz and /readyz are served, such as "127.0.0.1:8080"; "" serves none.
	MetricsAddress, HealthAddress string

	// Log takes what happens; nil means slog.Default.
	Log *slog.Logger
}

// A Controller watches a cluster, bills it, scales it and writes statuses.
type Controller struct {
	// Biller has the bill: Provisional, Last, Hour. Before Run it knows nothing.
	Biller *biller.Biller
	// Scaler decides how many replicas workloads have; nil before Run.
	Scaler *scaler.Scaler
	// GPUs knows what runs on the GPUs and how good that is; nil before Run.
	GPUs *gpustatus.Status
	// Colocator decides what batch may have of machines; nil before Run.
	Colocator *colocator.Colocator

	o      Options
	log    *slog.Logger
	synced chan struct{} // closed once everything that exists is known
}

// New returns a Controller. Nothing happens before [Controller.Run].
func New(o Options) (*Controller, error) {
	if o.RESTConfig == nil {
		return nil, errors.New("controller: RESTConfig is required")
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	b, err := biller.New(biller.Options{
		Store: o.Store, Metrics: o.Metrics, Clock: o.Clock, Times: o.Times,
		Currency: o.Currency, Grace: o.Grace, Log: o.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("controller: %w", err)
	}
	return &Controller{Biller: b, o: o, log: o.Log.With("component", "controller"), synced: make(chan struct{})}, nil
}

// Run is [New] and [Controller.Run] for those who need nothing in between.
func Run(ctx context.Context, o Options) error {
	c, err := New(o)
	if err != nil {
		return err
	}
	return c.Run(ctx)
}

// Synced is closed once everything that exists in the cluster is known.
func (c *Controller) Synced() <-chan struct{} { return c.synced }

var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme, metav1.AddMetaToScheme} {
		if err := add(s); err != nil {
			panic(err) // two kinds of one name: the program is wrong
		}
	}
	return s
}()

var setLogger sync.Once

// Run works until ctx ends, which is no error, or something makes work
// impossible. It may be called once.
func (c *Controller) Run(ctx context.Context) error {
	setLogger.Do(func() { ctrllog.SetLogger(c.quiet()) })
	cfg := rest.CopyConfig(c.o.RESTConfig)
	if cfg.QPS == 0 {
		cfg.QPS, cfg.Burst = 400, 800 // a closed hour is written into every status at once, a minute reads every target
	}
	cfg.UserAgent = cmp.Or(cfg.UserAgent, "neap-controller")
	allowed, err := check(ctx, cfg, func(err error, lost string) {
		c.log.Warn("not everything may be read", "lost", lost, "err", err)
	})
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	mgr, err := c.manager(cfg)
	if err != nil {
		return err
	}
	hour, nodes, err := c.statuses(mgr)
	if err != nil {
		return err
	}
	if err := c.scaling(cfg, mgr); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	if err := c.releasing(cfg, mgr); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	if err := c.surveying(mgr); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	if err := c.colocating(mgr); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	room := headroom.New(headroom.Options{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Log: c.o.Log})
	if err := room.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	order := leaver.New(leaver.Options{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Clock: c.o.Clock, Events: mgr.GetEventRecorder("neap-controller"),
	})
	if err := order.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	if err := c.repacking(mgr); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	err = mgr.Add(leaderRunnable(func(ctx context.Context) error {
		if err := c.Biller.Restore(ctx); err != nil {
			return err
		}
		c.Biller.OnClose(func(biller.Closed) { hour.beat(0) })
		failed := make(chan error, 1)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			if err := c.watch(ctx, mgr.GetCache(), allowed, nodes); err != nil && ctx.Err() == nil {
				failed <- err
				cancel()
			}
		}()
		err := c.Biller.Run(ctx)
		select {
		case watchErr := <-failed:
			return watchErr
		default:
			return err
		}
	}))
	if err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	if err := mgr.Start(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("controller: %w", err)
	}
	return nil
}

// scaling sets up the scaler.
func (c *Controller) scaling(cfg *rest.Config, mgr ctrl.Manager) error {
	kinds, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return err
	}
	scales, err := scale.NewForConfig(rest.CopyConfig(cfg), mgr.GetRESTMapper(), dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(kinds))
	if err != nil {
		return err
	}
	c.Scaler, err = scaler.New(scaler.Options{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Scales: scales, Mapper: mgr.GetRESTMapper(),
		Clock: c.o.Clock, Observed: c.o.Times == biller.Observed, Metrics: c.o.Metrics, Ledger: c.o.Ledger, Decided: c.o.Decided, Log: c.o.Log,
		Prices: func() *machine.PriceBook {
			book, _ := c.Biller.Book() // what has no price is told in the pools' own statuses
			return book
		},
	})
	if err != nil {
		return err
	}
	return mgr.Add(leaderRunnable(func(ctx context.Context) error {
		// Of several in one process (tests) the first is shown.
		if figures := c.Scaler.Collector(); ctrlmetrics.Registry.Register(figures) == nil {
			defer ctrlmetrics.Registry.Unregister(figures)
		}
		select { // pods must be known before anything is decided on them
		case <-c.synced:
		case <-ctx.Done():
			return nil
		}
		return c.Scaler.Run(ctx)
	}))
}

// repacking sets up the repacker.
func (c *Controller) repacking(mgr ctrl.Manager) error {
	return repacker.New(repacker.Options{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Clock: c.o.Clock, Ledger: c.o.Ledger, Evacuate: c.o.EvacuateGPUs, Log: c.o.Log,
		Price: func(node *corev1.Node, pools *convert.Pools) money.Amount {
			book, _ := c.Biller.Book() // what has no price is told in the pools' own statuses
			m := convert.Machine(node, pools)
			p, err := book.At(m.Type, m.Capacity, c.now())
			if err != nil {
				return 0
			}
			return money.Amount(p.Effective)
		},
	}).SetupWithManager(mgr)
}

// surveying sets up the survey of the GPUs.
func (c *Controller) surveying(mgr ctrl.Manager) (err error) {
	c.GPUs, err = gpustatus.New(gpustatus.Options{
		Client: mgr.GetClient(), Now: c.o.Clock.Now, Done: c.o.Surveyed, Log: c.o.Log,
		Prices: func() *machine.PriceBook {
			book, _ := c.Biller.Book() // what has no price is told in the pools' own statuses
			return book
		},
	})
	if err != nil {
		return err
	}
	return mgr.Add(leaderRunnable(func(ctx context.Context) error {
		if ctrlmetrics.Registry.Register(c.GPUs) == nil { // of several in one process (tests) the first is shown
			defer ctrlmetrics.Registry.Unregister(c.GPUs)
		}
		select {
		case <-c.synced:
		case <-ctx.Done():
			return nil
		}
		return c.GPUs.Run(ctx)
	}))
}

// colocating sets up the colocator.
func (c *Controller) colocating(mgr ctrl.Manager) (err error) {
	c.Colocator, err = colocator.New(colocator.Options{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Clock: c.o.Clock, Observed: c.o.Times == biller.Observed,
		Metrics: c.o.Metrics, Ledger: c.o.Ledger, Memory: c.o.Store, AgentNamespace: c.o.AgentNamespace,
		Lasts: c.o.BatchLasts, Apart: c.o.BatchApart, Decided: c.o.Colocated, Log: c.o.Log,
		Prices: func() *machine.PriceBook {
			book, _ := c.Biller.Book() // what has no price is told in the pools' own statuses
			return book
		},
	})
	if err != nil {
		return err
	}
	return mgr.Add(leaderRunnable(func(ctx context.Context) error {
		if figures := c.Colocator.Collector(); ctrlmetrics.Registry.Register(figures) == nil { // of several in one process (tests) the first is shown
			defer ctrlmetrics.Registry.Unregister(figures)
		}
		select { // pods must be known before anything is decided on them
		case <-c.synced:
		case <-ctx.Done():
			return nil
		}
		return c.Colocator.Run(ctx)
	}))
}

// releasing sets up the releaser of the job class.
func (c *Controller) releasing(cfg *rest.Config, mgr ctrl.Manager) error {
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	return mgr.Add(leaderRunnable(releaser.New(releaser.Options{
		Client: kube, Clock: c.o.Clock, Observed: c.o.Times == biller.Observed, Log: c.o.Log,
		Pools: func(ctx context.Context) ([]v1alpha1.ResourcePool, error) {
			var l v1alpha1.ResourcePoolList
			err := mgr.GetClient().List(ctx, &l)
			return l.Items, err
		},
	}).Start))
}

// leaderRunnable is work that only the leader does.
type leaderRunnable func(context.Context) error

func (f leaderRunnable) Start(ctx context.Context) error { return f(ctx) }

var _ manager.Runnable = leaderRunnable(nil)

// quiet is the log without the framework's notes on its own coming and going.
func (c *Controller) quiet() logr.Logger {
	return logr.FromSlogHandler(warnings{c.o.Log.Handler()})
}

// warnings lets through what is a warning or worse.
type warnings struct{ slog.Handler }

func (w warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && w.Handler.Enabled(ctx, l)
}
func (w warnings) WithAttrs(a []slog.Attr) slog.Handler { return warnings{w.Handler.WithAttrs(a)} }
func (w warnings) WithGroup(g string) slog.Handler      { return warnings{w.Handler.WithGroup(g)} }

func owners(kind string) *metav1.PartialObjectMetadata {
	m := &metav1.PartialObjectMetadata{}
	group := "apps"
	if kind == "Job" {
		group = "batch"
	}
	m.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: "v1", Kind: kind})
	return m
}

func (c *Controller) manager(cfg *rest.Config) (ctrl.Manager, error) {
	trimOwner := func(obj any) (any, error) {
		if m, ok := obj.(*metav1.PartialObjectMetadata); ok {
			m.ManagedFields, m.Labels, m.Annotations = nil, nil, nil
		}
		return obj, nil
	}
	byObject := map[client.Object]cache.ByObject{
		&corev1.Node{}: {UnsafeDisableDeepCopy: ptr.To(true), Transform: func(obj any) (any, error) {
			if n, ok := obj.(*corev1.Node); ok {
				convert.TrimNode(n)
			}
			return obj, nil
		}},
		&corev1.Pod{}: {UnsafeDisableDeepCopy: ptr.To(true), Transform: func(obj any) (any, error) {
			if p, ok := obj.(*corev1.Pod); ok {
				convert.TrimPod(p)
			}
			return obj, nil
		}},
		owners("ReplicaSet"): {Transform: trimOwner},
		owners("Job"):        {Transform: trimOwner},
	}
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         cache.Options{ByObject: byObject, DefaultTransform: cache.TransformStripManagedFields(), DefaultWatchErrorHandler: c.watchError()},
		Logger:                        c.quiet(),
		LeaderElection:                c.o.LeaderElection,
		LeaderElectionID:              "neap-controller.neap.dev",
		LeaderElectionNamespace:       c.o.Namespace,
		LeaderElectionReleaseOnCancel: true,
		Metrics:                       metricsserver.Options{BindAddress: cmp.Or(c.o.MetricsAddress, "0")},
		HealthProbeBindAddress:        cmp.Or(c.o.HealthAddress, "0"),
		GracefulShutdownTimeout:       ptr.To(20 * time.Second),
		// Two controllers in one process (tests, neap up) may have the same name.
		Controller: ctrlconfig.Controller{SkipNameValidation: ptr.To(true)},
	})
	if err != nil {
		return nil, fmt.Errorf("controller: %w", err)
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return nil, fmt.Errorf("controller: %w", err)
	}
	return mgr, nil
}

// watchError says once, not at every try, that a watch is broken and why.
func (c *Controller) watchError() toolscache.WatchErrorHandlerWithContext {
	var mu sync.Mutex
	last := map[string]time.Time{}
	return func(ctx context.Context, r *toolscache.Reflector, err error) {
		if ctx.Err() != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		what := r.TypeDescription()
		if t, ok := last[what]; ok && time.Since(t) < time.Minute {
			return
		}
		last[what] = time.Now()
		c.log.Warn("a watch broke and is tried again; what happens meanwhile is seen when it works", "watched", what, "err", err)
	}
}

// statuses sets up the reconcilers and returns what makes them look again: after
// an hour was closed, and after nodes came or went.
func (c *Controller) statuses(mgr ctrl.Manager) (hour, nodes *pulse, err error) {
	b := c.Biller
	cl := mgr.GetClient()
	modulePulse := &pulse{names: func(ctx context.Context) ([]client.ObjectKey, error) {
		var l v1alpha1.ModuleList
		err := cl.List(ctx, &l)
		return keysOf(l.Items), err
	}}
	poolPulse := &pulse{names: func(ctx context.Context) ([]client.ObjectKey, error) {
		var l v1alpha1.ResourcePoolList
		err := cl.List(ctx, &l)
		return keysOf(l.Items), err
	}}
	typePulse := &pulse{names: func(ctx context.Context) ([]client.ObjectKey, error) {
		var l v1alpha1.MachineTypeList
		err := cl.List(ctx, &l)
		return keysOf(l.Items), err
	}}
	log := func(err error) { c.log.Warn("statuses are not looked at again yet", "err", err) }
	for _, p := range []*pulse{modulePulse, poolPulse, typePulse} {
		p.log = log
	}
	err = errors.Join(
		modulestatus.New(modulestatus.Options{
			Client: cl, Live: mgr.GetAPIReader(), Again: modulePulse.source(),
			Observe: func(m *v1alpha1.Module) modulestatus.Observation { return observeModule(b, c.now(), m) },
		}).SetupWithManager(mgr),
		poolstatus.New(poolstatus.Options{
			Client: cl, Again: poolPulse.source(),
			Observe: func(p *v1alpha1.ResourcePool) poolstatus.Observation { return observePool(b, c.now(), p) },
		}).SetupWithManager(mgr),
		typestatus.New(typestatus.Options{
			Client: cl, Again: typePulse.source(),
			Observe: func(t *v1alpha1.MachineType) typestatus.Observation { return observeType(b, c.now(), t) },
		}).SetupWithManager(mgr),
		timetablestatus.New(timetablestatus.Options{Client: cl, Now: c.now}).SetupWithManager(mgr),
	)
	if err != nil {
		return nil, nil, fmt.Errorf("controller: %w", err)
	}
	hour = &pulse{also: []*pulse{modulePulse, poolPulse}}
	nodes = &pulse{also: []*pulse{poolPulse, typePulse}}
	return hour, nodes, nil
}

func (c *Controller) now() time.Time { return c.o.Clock.Now().UTC().Truncate(time.Second) }

func keysOf[T any, P interface {
	*T
	client.Object
}](items []T) []client.ObjectKey {
	out := make([]client.ObjectKey, len(items))
	for i := range items {
		out[i] = client.ObjectKeyFromObject(P(&items[i]))
	}
	return out
}

// A pulse makes a controller look at all its objects again.
type pulse struct {
	names func(context.Context) ([]client.ObjectKey, error)
	also  []*pulse
	log   func(error)

	mu    sync.Mutex
	ctx   context.Context
	queue workqueue.TypedRateLimitingInterface[reconcile.Request]
}

func (p *pulse) source() source.Source {
	return source.Func(func(ctx context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ctx, p.queue = ctx, q
		return nil
	})
}

// beat asks for another look after a while; several within it are one.
func (p *pulse) beat(after time.Duration) {
	for _, o := range p.also {
		o.beat(after)
	}
	p.mu.Lock()
	ctx, q := p.ctx, p.queue
	p.mu.Unlock()
	if q == nil || ctx.Err() != nil {
		return
	}
	names, err := p.names(ctx)
	if err != nil {
		p.log(err)
		return
	}
	for _, n := range names {
		q.AddAfter(reconcile.Request{NamespacedName: n}, after)
	}
}

// watch tells the biller of everything that is there and all that changes. Pods
// come last, so that their nodes, owners and pools are known by then.
func (c *Controller) watch(ctx context.Context, informers cache.Cache, allowed access, nodes *pulse) error {
	b := c.Biller
	add := func(obj client.Object, h toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
		inf, err := informers.GetInformer(ctx, obj)
		if err != nil {
			return nil, fmt.Errorf("watch %T: %w", obj, err)
		}
		return inf.AddEventHandler(h)
	}
	type watched struct {
		obj client.Object
		h   toolscache.ResourceEventHandler
	}
	first := []watched{
		{&v1alpha1.ResourcePool{}, handler(b.Pool, func(p *v1alpha1.ResourcePool) { b.PoolGone(p.Name) })},
		{&v1alpha1.MachineType{}, handler(b.MachineType, func(*v1alpha1.MachineType) {})}, // machines may outlive it
		{&v1alpha1.Module{}, handler(b.Module, func(m *v1alpha1.Module) { b.ModuleGone(m.Namespace, m.Name) })},
	}
	owner := handler(
		func(m *metav1.PartialObjectMetadata) { b.Owner(m); c.Colocator.Owner(m) },
		func(m *metav1.PartialObjectMetadata) { b.OwnerGone(m.UID); c.Colocator.OwnerGone(m.UID) })
	if allowed.replicaSets {
		first = append(first, watched{owners("ReplicaSet"), owner})
	}
	if allowed.jobs {
		first = append(first, watched{owners("Job"), owner})
	}
	steps := [][]watched{
		first,
		{{&corev1.Node{}, toolscache.ResourceEventHandlerFuncs{
			AddFunc: func(obj any) { b.Node(obj.(*corev1.Node)); nodes.beat(time.Second) },
			UpdateFunc: func(_, obj any) {
				b.Node(obj.(*corev1.Node))
			},
			DeleteFunc: func(obj any) {
				if n, ok := last[*corev1.Node](obj); ok {
					b.NodeGone(n.Name)
					nodes.beat(time.Second)
				}
			},
		}}},
		{{&corev1.Pod{}, handler(
			func(p *corev1.Pod) { b.Pod(p); c.Scaler.Pod(p); c.Colocator.Pod(p) },
			func(p *corev1.Pod) { b.PodGone(p); c.Scaler.PodGone(p); c.Colocator.PodGone(p) },
		)}},
		{{&v1alpha1.ElasticPolicy{}, toolscache.ResourceEventHandlerFuncs{
			AddFunc: func(obj any) { c.Scaler.Policy(obj.(*v1alpha1.ElasticPolicy)) },
			UpdateFunc: func(before, obj any) {
				was, is := before.(*v1alpha1.ElasticPolicy), obj.(*v1alpha1.ElasticPolicy)
				if was.Generation != is.Generation || was.Annotations[v1alpha1.AnnotationPause] != is.Annotations[v1alpha1.AnnotationPause] {
					c.Scaler.Policy(is)
				}
			},
		}}, {&v1alpha1.ColocationPolicy{}, toolscache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { c.Colocator.Wake() },
			UpdateFunc: func(before, obj any) {
				if before.(*v1alpha1.ColocationPolicy).Generation != obj.(*v1alpha1.ColocationPolicy).Generation {
					c.Colocator.Wake()
				}
			},
			DeleteFunc: func(any) { c.Colocator.Wake() },
		}}},
	}
	for _, step := range steps {
		var regs []toolscache.InformerSynced
		for _, w := range step {
			r, err := add(w.obj, w.h)
			if err != nil {
				return err
			}
			regs = append(regs, r.HasSynced)
		}
		if !toolscache.WaitForCacheSync(ctx.Done(), regs...) {
			return ctx.Err()
		}
	}
	b.Synced()
	close(c.synced)
	return nil
}

func handler[T any](seen, gone func(T)) toolscache.ResourceEventHandler {
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { seen(obj.(T)) },
		UpdateFunc: func(_, obj any) { seen(obj.(T)) },
		DeleteFunc: func(obj any) {
			if o, ok := last[T](obj); ok {
				gone(o)
			}
		},
	}
}

// last is the last that was known of a deleted object.
func last[T any](obj any) (T, bool) {
	if t, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
		obj = t.Obj
	}
	o, ok := obj.(T)
	return o, ok
}

func observeModule(b *biller.Biller, now time.Time, m *v1alpha1.Module) modulestatus.Observation {
	seen := modulestatus.Observation{Now: now}
	seen.Rival, seen.Invalid = b.ModuleState(m.Namespace, m.Name)
	key := convert.TargetKey(m)
	var kinds []string
	seen.Pods, kinds = b.PodsOf(key)
	seen.Unpriced = unpriced(b, now, kinds)
	closed, ok := b.Last()
	if !ok {
		return seen
	}
	h := &modulestatus.Hour{From: closed.Facts.From, Currency: closed.Facts.Currency}
	if l, ok := closed.Modules[key]; ok {
		h.Cost, h.Used = l.CostNano, l.UsedNano
	}
	for i := range closed.Facts.Loads {
		if l := closed.Facts.Loads[i]; l.Module == key {
			h.Load = &l
		}
	}
	for i := range closed.Facts.Pods {
		if p := &closed.Facts.Pods[i]; p.Module == key && p.EstimatedMillis > 0 {
			h.Estimated = true
		}
	}
	seen.Hour = h
	return seen
}

// unpriced returns the types without a usable price.
func unpriced(b *biller.Biller, now time.Time, types []string) []string {
	book, _ := b.Book()
	var out []string
	for _, t := range types {
		if _, err := book.At(t, resource.Vector{}, now); err != nil {
			out = append(out, cmp.Or(t, "(none)"))
		}
	}
	return out
}

func observePool(b *biller.Biller, now time.Time, p *v1alpha1.ResourcePool) poolstatus.Observation {
	held := b.PoolNow(p.Name)
	seen := poolstatus.Observation{Now: now, Machines: held.Machines, Capacity: held.Capacity, Unpriced: unpriced(b, now, held.Types)}
	if _, err := convert.NewPools([]*v1alpha1.ResourcePool{p}); err != nil {
		seen.Invalid = err
	}
	if pool, ok := b.Pools().Get(p.Name); ok {
		seen.LimitMachines, seen.LimitTotal, seen.Limited = pool.Limit()
	}
	seen.StartMedian, seen.StartP95, seen.Started = b.StartTime(p.Name)
	closed, ok := b.Last()
	if !ok {
		return seen
	}
	h := &poolstatus.Hour{From: closed.Facts.From, Currency: closed.Facts.Currency}
	for i := range closed.Facts.Machines {
		m := &closed.Facts.Machines[i]
		if m.Pool != p.Name {
			continue
		}
		h.Cost += m.Bill.Sum()
		for _, box := range bill.Boxes {
			h.Idle += m.Idle[box].Sum()
		}
	}
	in := map[workload.Key]bool{}
	for i := range closed.Facts.Pods {
		if f := &closed.Facts.Pods[i]; f.Pool == p.Name {
			in[f.Module] = true
		}
	}
	for _, l := range closed.Facts.Loads {
		switch {
		case !in[l.Module] || !l.Known:
		case l.Met:
			h.Met++
		default:
			h.Broken = append(h.Broken, l.Module.Namespace+"/"+l.Module.Name)
		}
	}
	seen.Hour = h
	return seen
}

func observeType(b *biller.Biller, now time.Time, t *v1alpha1.MachineType) typestatus.Observation {
	book, errs := b.Book()
	seen := typestatus.Observation{
		Now: now, Machines: b.MachinesOf(t.Name), Invalid: errs[t.Name],
		ByUnit: t.Spec.Price.Units != nil, Currency: book.Currency(),
	}
	if seen.Invalid == nil && !seen.ByUnit {
		price, err := book.At(t.Name, resource.Vector{}, now)
		if errors.Is(err, machine.ErrUnknownType) {
			return seen // not told of yet; the next look will know
		}
		seen.Invalid, seen.Price = err, price.Effective
	}
	return seen
}
