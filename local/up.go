package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/deploy"
	"github.com/neap-dev/neap/kube/controller"
	"github.com/neap-dev/neap/kube/controller/biller"
	"github.com/neap-dev/neap/local/clock"
	"github.com/neap-dev/neap/local/controlplane"
	"github.com/neap-dev/neap/local/fleet"
	"github.com/neap-dev/neap/local/player"
	"github.com/neap-dev/neap/local/realnode"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/server"
	"github.com/neap-dev/neap/sim/scenario"
	"github.com/neap-dev/neap/store"
)

// The fastest a day may pass, and where the page is unless told otherwise.
const (
	MaxSpeed    = 600
	DefaultPort = 8088
)

// Options say what to run. Scenario and Dir are required.
type Options struct {
	Scenario *scenario.Scenario
	// Dir is the state directory; it is made if it is missing.
	Dir string
	// Fresh removes the day that an earlier run left in Dir.
	Fresh bool
	// Speed is simulated seconds per second, 1 to MaxSpeed; 0 means 60.
	Speed float64
	// Until is how much of the day, from its first moment, is played; 0 plays on
	// until ctx is done.
	Until time.Duration
	// Listen is the page's address, on the loopback interface; "" means
	// 127.0.0.1:8088, or another port if that one is taken.
	Listen string
	// Prometheus is the URL of a Prometheus that scrapes the fleet, used instead
	// of the embedded one. It needs speed 1: its time is the wall's.
	Prometheus string
	// BinDir is where neap-cluster and neap-scheduler are; "" looks for them.
	BinDir string
	// JoinHost makes this machine a real node of the cluster besides; see
	// local/realnode. Nothing of the scenario comes to it.
	JoinHost bool
	// Out is told what happens, one line each; nil tells nobody. Bar draws a
	// progress bar of the day on it as well.
	Out io.Writer
	Bar bool
	// Ready is called once the page and the API server answer; nil is not called.
	Ready func(Addresses)

	// For measuring: called with the processes below when the day begins to pass
	// and when it has come to its end.
	begun func(pids []int, c counts)
	ended func(pids []int)
	// during runs while the day passes.
	during func(context.Context, *up) error
}

// Addresses are where a running cluster is found.
type Addresses struct {
	Dashboard  string // URL
	Kubeconfig string // path
	Store      string // path of the closed hours
}

// Validate says what is wrong, naming the field.
func (o Options) Validate() error {
	switch {
	case o.Scenario == nil:
		return errors.New("up: Scenario is required")
	case o.Dir == "":
		return errors.New("up: Dir is required")
	case o.Speed != 0 && !(o.Speed >= 1 && o.Speed <= MaxSpeed):
		return fmt.Errorf("up: Speed is %v, but a day passes at 1 to %d times real speed", o.Speed, MaxSpeed)
	case o.Until < 0:
		return fmt.Errorf("up: Until is %v, but a day does not go back", o.Until)
	case o.Prometheus != "" && o.Speed > 1:
		return fmt.Errorf("up: Prometheus keeps the wall's time, so with it the day passes at speed 1, not %v", o.Speed)
	}
	return loopback(o.Listen)
}

func loopback(address string) error {
	if address == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("up: Listen %q is no address such as 127.0.0.1:8088", address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("up: Listen %q is not on the loopback interface; the page has no password, so it answers this machine only", address)
	}
	return nil
}

// An up is a cluster that comes up, runs and goes down.
type up struct {
	o    Options
	out  *output
	stop []func() // in the order of starting

	dir     *dir
	day     *clock.Clock
	store   *store.Store
	metrics *metrics.Embedded // nil with a Prometheus
	source  metrics.Source
	live    *live

	cluster *controlplane.Cluster
	client  kubernetes.Interface
	crds    client.Client
	fleet   *fleet.Fleet
	player  *player.Player
	control *controller.Controller
	pace    pace
	scales  *recorder                     // of the policies' replicas
	lends   *recorder                     // of what batch may have
	surveys *recorder                     // of the GPUs
	past    chan error                    // closed when the load before the day is written down
	biller  atomic.Pointer[biller.Biller] // for the store, which is open before it

	stopping atomic.Bool
	startup  float64    // seconds until the day began to pass
	failed   chan error // what must not end has ended
}

// Up runs a cluster until ctx is done or the day has come to Until, and returns
// the report of the day so far. Everything it started has ended when it returns.
func Up(ctx context.Context, o Options) (*Report, error) {
	if o.Speed == 0 {
		o.Speed = 60
		if o.Prometheus != "" {
			o.Speed = 1
		}
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	u := &up{o: o, out: newOutput(o.Out), failed: make(chan error, 16)}
	began := time.Now()
	report, err := u.run(ctx, began)
	u.down()
	if report != nil {
		report.WallSeconds = time.Since(began).Seconds()
	}
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = context.Canceled
	}
	return report, err
}

// onStop remembers what ends a part; parts end in the opposite order of starting.
func (u *up) onStop(f func()) { u.stop = append(u.stop, f) }

func (u *up) down() {
	for i := len(u.stop) - 1; i >= 0; i-- {
		u.stop[i]()
	}
	u.out.close()
}

func (u *up) run(ctx context.Context, began time.Time) (*Report, error) {
	// 1. What must be right before anything starts.
	if u.o.JoinHost {
		if err := u.binaries(); err != nil {
			return nil, err
		}
		if err := realnode.Check(u.o.BinDir); err != nil {
			return nil, err
		}
	} else if realnode.Left() && os.Geteuid() == 0 {
		if err := realnode.Sweep(); err != nil && !errors.Is(err, realnode.ErrInUse) {
			return nil, err
		}
	}
	listener, err := listen(u.o.Listen)
	if err != nil {
		return nil, err
	}
	u.onStop(func() { listener.Close() })
	if u.o.Prometheus != "" {
		u.o.Scenario = today(u.o.Scenario, time.Now())
	}
	if u.dir, err = openDir(u.o.Dir, u.o.Fresh); err != nil {
		return nil, err
	}
	u.onStop(u.dir.close)
	if err := u.dir.belongs(identity(u.o.Scenario)); err != nil {
		return nil, err
	}
	if u.day, err = clock.Open(u.dir.file(clockFile), clock.Options{
		Start: u.o.Scenario.Start.UTC(), Speed: u.o.Speed, Scenario: identity(u.o.Scenario), Held: true, FollowWall: u.o.Prometheus != "",
	}); err != nil {
		return nil, err
	}
	u.onStop(func() { u.out.problem(u.day.Close()) })
	u.out.line("%s (simulated) at %g times real speed, from %s", u.o.Scenario.Name, u.o.Speed, u.stamp(u.day.Now()))

	// 2. Records and control plane do not need each other.
	if err := both(func() error { return u.openRecords(ctx) }, func() error { return u.startCluster(ctx) }); err != nil {
		return nil, err
	}

	// 3. The page is there before the fleet, and shows it coming up.
	u.fleet = fleet.New(fleet.Options{Scenario: u.o.Scenario, Clock: u.day, Metrics: u.metrics, Problem: u.out.problem, Warm: !u.day.Resumed()})
	u.live = &live{scenario: u.o.Scenario, day: u.day, state: "starting"}
	if u.o.Until > 0 {
		u.live.until = u.day.Start().Add(u.o.Until)
	}
	dashboard := u.serve(listener)

	// 4. Definitions and scheduler do not need each other either.
	if err := both(func() error { return u.define(ctx) }, func() error { return u.startScheduler(ctx) }); err != nil {
		return nil, err
	}
	if u.o.JoinHost {
		if err := u.joinHost(ctx); err != nil {
			return nil, err
		}
	}
	at := Addresses{Dashboard: dashboard, Kubeconfig: u.cluster.Kubeconfig, Store: StoreDir(u.dir.path)}
	u.out.line("")
	u.out.line("  dashboard   %s", at.Dashboard)
	u.out.line("  kubeconfig  %s", at.Kubeconfig)
	u.out.line("")
	u.out.line("ready after %.1f s; filling the fleet", time.Since(began).Seconds())
	if u.o.Ready != nil {
		u.o.Ready(at)
	}

	// 5. The fleet, Neap's controllers, and what the scenario wants there.
	parts, ended, err := u.fill(ctx)
	if err != nil {
		return nil, err
	}
	defer ended()

	// 6. The day passes.
	u.live.set(func(l *live) { l.state = "running" })
	u.startup = time.Since(began).Seconds()
	if u.o.begun != nil {
		u.o.begun(u.cluster.PIDs(), u.live.count())
	}
	u.day.Resume()
	if u.o.during != nil {
		u.start(parts.ctx, parts, part{"the measurement", func(ctx context.Context) error { return u.o.during(ctx, u) }})
	}
	err = u.pass(parts)
	if u.o.ended != nil {
		u.o.ended(u.cluster.PIDs())
	}
	report, reportErr := u.report()
	if reportErr != nil {
		err = errors.Join(err, reportErr)
	}
	return report, err
}

// identity names what a state directory belongs to.
func identity(s *scenario.Scenario) string {
	if s.RealSeries {
		return s.Name + " with real series"
	}
	return s.Name
}

// both runs two functions at once.
func both(a, b func() error) error {
	var wg sync.WaitGroup
	var errA, errB error
	wg.Go(func() { errA = a() })
	wg.Go(func() { errB = b() })
	wg.Wait()
	return errors.Join(errA, errB)
}

func listen(address string) (net.Listener, error) {
	if address != "" {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("open the page's address %s: %w; choose another with --listen", address, err)
		}
		return l, nil
	}
	if l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", DefaultPort)); err == nil {
		return l, nil
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open an address for the page: %w", err)
	}
	return l, nil
}

// openRecords opens the store and the metrics.
func (u *up) openRecords(ctx context.Context) error {
	began := time.Now()
	s, err := store.Open(StoreDir(u.dir.path), store.Options{Rebuild: u.rebuild})
	if err != nil {
		return err
	}
	u.onStopSafe(func() { u.out.problem(s.Close()) })
	u.store = s
	if u.o.Prometheus != "" {
		remote, err := metrics.NewRemote(u.o.Prometheus, metrics.RemoteOptions{})
		if err != nil {
			return err
		}
		if _, err := remote.Instant(ctx, "vector(1)", time.Now()); err != nil {
			return err
		}
		u.source = remote
	} else {
		m, err := metrics.Open(u.dir.file(metricsDir), u.keep())
		if err != nil {
			return err
		}
		u.onStopSafe(func() { u.out.problem(m.Close()) })
		u.metrics, u.source = m, m
		for _, d := range m.Damaged() {
			u.out.line("metrics: a damaged block was set aside as %s; its time shows as a gap", d)
		}
	}
	u.out.step("store and metrics", began, "")
	u.scales, u.lends, u.surveys = newRecorder("scaler", u.metrics), newRecorder("colocator", u.metrics), newRecorder("gpustatus", u.metrics)
	if _, old := u.newest(); u.metrics != nil && (u.o.Scenario.Elastic() || len(u.o.Scenario.Colocations) > 0) && !old {
		u.past = make(chan error, 1)
		go func() {
			began := time.Now()
			days, err := remember(ctx, u.metrics, u.o.Scenario)
			if err == nil {
				u.out.step("history", began, fmt.Sprintf("the load of %d days before, simulated, for the forecasts", days))
			}
			u.past <- err
		}()
	}
	return nil
}

func (u *up) newest() (time.Time, bool) {
	if u.metrics == nil {
		return time.Time{}, false
	}
	return u.metrics.Newest()
}

func (u *up) keep() metrics.EmbeddedOptions {
	if !u.o.Scenario.Elastic() && len(u.o.Scenario.Colocations) == 0 {
		return metrics.EmbeddedOptions{}
	}
	return metrics.EmbeddedOptions{Retention: keepMetrics}
}

// rebuild closes an hour again whose file turned out to be torn.
func (u *up) rebuild(ctx context.Context, from, to time.Time) (bill.Facts, error) {
	b := u.biller.Load()
	if b == nil {
		return bill.Facts{}, errors.New("the controllers have not started yet")
	}
	return b.Rebuild(ctx, from, to)
}

var stopMu sync.Mutex

// onStopSafe is onStop for parts that start at once with others.
func (u *up) onStopSafe(f func()) {
	stopMu.Lock()
	defer stopMu.Unlock()
	u.onStop(f)
}

// stopPatience is how long the control plane may take to end.
const stopPatience = 20 * time.Second

func (u *up) startCluster(ctx context.Context) error {
	began := time.Now()
	c, err := controlplane.Start(ctx, controlplane.Options{Dir: u.dir.file(clusterDir), BinDir: u.o.BinDir, Log: func(f string, a ...any) { u.out.line("  "+f, a...) }})
	if err != nil {
		return err
	}
	u.cluster = c
	u.onStopSafe(func() {
		u.stopping.Store(true)
		u.out.line("stopping")
		stop, cancel := context.WithTimeout(context.Background(), stopPatience)
		defer cancel()
		u.out.problem(c.Stop(stop))
	})
	go func() {
		<-c.Done()
		if err := c.Err(); err != nil {
			u.failed <- err
		}
	}()
	cfg, err := u.config()
	if err != nil {
		return err
	}
	if u.client, err = kubernetes.NewForConfig(cfg); err != nil {
		return fmt.Errorf("connect to the API server: %w", err)
	}
	u.out.step("control plane", began, "")
	return nil
}

// config speaks as the administrator, fast: all clients are this process.
func (u *up) config() (*rest.Config, error) {
	cfg, err := u.cluster.RESTConfig()
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = -1, -1
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	cfg.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	return cfg, nil
}

// define installs Neap's definitions and waits until they are served.
func (u *up) define(ctx context.Context) error {
	began := time.Now()
	cfg, err := u.cluster.RESTConfig()
	if err != nil {
		return err
	}
	cfg.QPS, cfg.Burst = -1, -1
	ext, err := apiextensions.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("connect to the API server: %w", err)
	}
	defs, err := deploy.CRDs()
	if err != nil {
		return err
	}
	api := ext.ApiextensionsV1().CustomResourceDefinitions()
	for _, d := range defs {
		_, err := api.Create(ctx, d, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			old, getErr := api.Get(ctx, d.Name, metav1.GetOptions{})
			if err = getErr; err == nil {
				d.ResourceVersion = old.ResourceVersion
				_, err = api.Update(ctx, d, metav1.UpdateOptions{})
			}
		}
		if err != nil {
			return fmt.Errorf("install the definition %s: %w", d.Name, err)
		}
	}
	for _, d := range defs {
		for {
			got, err := api.Get(ctx, d.Name, metav1.GetOptions{})
			if err != nil {
				return fmt.Errorf("install the definition %s: %w", d.Name, err)
			}
			established := false
			for _, c := range got.Status.Conditions {
				established = established || (c.Type == "Established" && c.Status == "True")
			}
			if established {
				break
			}
			if err := pause(ctx, 20*time.Millisecond); err != nil {
				return err
			}
		}
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return err
	}
	if u.crds, err = client.New(cfg, client.Options{Scheme: scheme}); err != nil {
		return fmt.Errorf("connect to the API server: %w", err)
	}
	if err := u.admit(ctx); err != nil {
		return err
	}
	u.out.step("definitions", began, "")
	return nil
}

// admit installs Neap's admission policies.
func (u *up) admit(ctx context.Context) error {
	policies, err := deploy.Admission()
	if err != nil {
		return err
	}
	for _, p := range policies {
		err := u.crds.Create(ctx, p)
		if apierrors.IsAlreadyExists(err) {
			old := p.DeepCopy()
			if err = u.crds.Get(ctx, client.ObjectKeyFromObject(p), old); err == nil {
				p.SetResourceVersion(old.GetResourceVersion())
				err = u.crds.Update(ctx, p)
			}
		}
		if err != nil {
			return fmt.Errorf("install the %s %s: %w", p.GetKind(), p.GetName(), err)
		}
	}
	return nil
}

// warmAdmission lets the API server try a pod of the job class. Its first one makes
// it read its own schema, which takes a second that a burst should not wait for.
func (u *up) warmAdmission(ctx context.Context) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "neap-try", Labels: map[string]string{v1alpha1.LabelClass: v1alpha1.ClassJob}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: fleet.Container, Image: "simulated.neap.dev/try"}}},
	}
	for range 50 { // until policies and pools have come to it
		got, err := u.client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil && got.Annotations[v1alpha1.AnnotationServerlessPools] != "" || pause(ctx, 200*time.Millisecond) != nil {
			return
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// schedulerStarts is how often a scheduler that ends by itself is started again.
const schedulerStarts = 5

func (u *up) startScheduler(ctx context.Context) error {
	began := time.Now()
	done, err := u.cluster.StartScheduler(ctx)
	if err != nil {
		return err
	}
	u.out.step("scheduler", began, "")
	go func() {
		for range schedulerStarts {
			select {
			case <-ctx.Done():
				return
			case <-u.cluster.Done():
				return
			case <-done:
			}
			if pause(ctx, time.Second) != nil || u.stopping.Load() {
				return
			}
			u.out.line("the scheduler ended by itself; starting it again (its log is in %s)", filepath.Join(u.dir.path, clusterDir))
			if done, err = u.cluster.StartScheduler(ctx); err != nil {
				break
			}
		}
		if ctx.Err() == nil && err != nil {
			u.failed <- err
		}
	}()
	return nil
}

// binaries finds the folder of the programs that are started.
func (u *up) binaries() (err error) {
	if u.o.BinDir == "" {
		u.o.BinDir, err = controlplane.FindBin()
	}
	return err
}

// joinHost makes this machine a node, and says what of it is real.
func (u *up) joinHost(ctx context.Context) error {
	began := time.Now()
	n, err := realnode.Start(ctx, realnode.Options{Cluster: u.cluster, BinDir: u.o.BinDir, Log: func(f string, a ...any) { u.out.line("  "+f, a...) }})
	if err != nil {
		return err
	}
	u.onStop(func() { u.out.problem(n.Stop(context.Background())) })
	go func() {
		select {
		case <-ctx.Done():
		case err := <-n.Failed():
			u.failed <- err
		}
	}()
	image := realnode.Image{Name: "localhost/neap-agent:local", Program: filepath.Join(u.o.BinDir, "neap-agent")}
	if err := n.Import(ctx, image); err != nil {
		return errors.Join(err, n.Stop(context.Background()))
	}
	u.out.step("this machine", began, fmt.Sprintf("the node %s is real: kubelet, containerd, its pods and their cgroups; its time is the wall's", n.Name))
	u.out.line("    pods come to it that select and tolerate %s=true; it pulls no images (it has %s), and has no names and no services but the API server's", realnode.LabelReal, image.Name)
	return nil
}

// serve opens the page, and the fleet's metrics beside it.
func (u *up) serve(l net.Listener) string {
	page := server.New(server.Options{
		Store: u.store, Metrics: u.source, Live: u.live, Title: u.o.Scenario.Name, Simulated: true, Zone: u.o.Scenario.Location,
	})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", u.fleet)
	mux.Handle("/", page)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go func() {
		if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			u.failed <- fmt.Errorf("serve the page: %w", err)
		}
	}()
	u.onStop(func() {
		page.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close() // a reader that holds on is cut off
		}
	})
	return "http://" + l.Addr().String()
}

// trim drops what nobody here reads, for the caches.
func trim(o any) (any, error) {
	switch o := o.(type) {
	case *corev1.Pod:
		o.ManagedFields = nil
		o.Spec.Tolerations, o.Spec.Affinity, o.Spec.Volumes = nil, nil, nil
		for i := range o.Spec.Containers {
			c := &o.Spec.Containers[i]
			*c = corev1.Container{Name: c.Name, Resources: c.Resources}
		}
	case *corev1.Node:
		o.ManagedFields, o.Status.Images = nil, nil
	}
	return o, nil
}

// A part runs until its context is done.
type part struct {
	name string
	run  func(context.Context) error
}

// running are parts that run.
type running struct {
	ctx    context.Context // of the caller
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func (u *up) start(ctx context.Context, r *running, p part) {
	r.wg.Go(func() {
		if err := p.run(ctx); err != nil && ctx.Err() == nil {
			u.failed <- fmt.Errorf("%s: %w", p.name, err)
		}
	})
}

// fill starts fleet, controllers and player, and waits until what the scenario
// wants at this moment runs.
func (u *up) fill(ctx context.Context) (*running, func(), error) {
	began := time.Now()
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &running{ctx: ctx, cancel: cancel}
	stop := context.AfterFunc(ctx, cancel)
	end := sync.OnceFunc(func() {
		stop()
		cancel()
		r.wg.Wait()
	})
	fail := func(err error) (*running, func(), error) {
		end()
		return nil, nil, err
	}

	logs, err := os.OpenFile(filepath.Join(u.dir.path, "neap.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fail(fmt.Errorf("open the log: %w", err))
	}
	u.onStop(func() { logs.Close() })
	logger := slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelWarn}))
	klog.SetSlogLogger(logger) // what the Kubernetes libraries say is not for the terminal

	nodes, err := u.agents()
	if err != nil {
		return fail(err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(u.client, 0, informers.WithTransform(trim))
	u.player, err = player.New(player.Options{
		Scenario: u.o.Scenario, Clock: u.day, Client: u.client, CRDs: u.crds, Nodes: nodes, Informers: factory,
		Ledger: u.store, Memory: u.store, Fleet: u.fleet, Problem: u.out.problem,
	})
	if err != nil {
		return fail(err)
	}
	kubelets, err := fleet.StartLifecycle(inner, fleet.LifecycleOptions{
		Client: u.client, REST: u.client.CoreV1().RESTClient(), Day: u.day, Durations: u.fleet.Durations(), Log: logs,
	})
	if err != nil {
		return fail(err)
	}
	u.onStop(kubelets.Close)
	if err := u.fleet.Watch(factory, kubelets); err != nil {
		return fail(err)
	}
	factory.Start(inner.Done())
	u.onStop(factory.Shutdown)
	for what, ok := range factory.WaitForCacheSync(inner.Done()) {
		if !ok {
			return fail(fmt.Errorf("read the cluster's %v: %w", what, context.Cause(inner)))
		}
	}
	u.live.set(func(l *live) { l.fleet, l.factory = u.fleet, factory })
	u.start(inner, r, part{"the simulated agents", u.keepAgents})
	u.start(inner, r, part{"the simulated kubelets", func(ctx context.Context) error { return kubelets.Watch(ctx, factory) }})

	if u.past != nil {
		if err := <-u.past; err != nil {
			return fail(err)
		}
	}
	cfg, err := u.cluster.RESTConfig()
	if err != nil {
		return fail(err)
	}
	cfg.QPS, cfg.Burst = -1, -1
	if u.control, err = controller.New(controller.Options{
		RESTConfig: cfg, Store: u.store, Metrics: u.figures(), Clock: u.day, Times: biller.Observed, Currency: u.o.Scenario.Currency, Grace: u.grace(), Log: logger,
		Ledger: u.store, Decided: u.decided, Surveyed: u.surveyed, EvacuateGPUs: v1alpha1.RepackDryRun,
		Colocated: u.colocated, BatchLasts: u.batchLasts(), BatchApart: batchApart,
	}); err != nil {
		return fail(err)
	}
	u.onStop(u.pace.end)
	u.biller.Store(u.control.Biller)
	u.start(inner, r, part{"Neap's controllers", u.control.Run})
	u.live.set(func(l *live) { l.provisional = u.control.Biller.Provisional })

	if err := u.player.Setup(inner); err != nil {
		return fail(err)
	}
	if slices.ContainsFunc(u.o.Scenario.Pools, func(p scenario.Pool) bool { return p.Kind == scenario.Serverless }) {
		r.wg.Go(func() { u.warmAdmission(inner) })
	}
	if err := u.settle(inner, r); err != nil {
		return fail(err)
	}
	c := u.live.count()
	u.out.step("fleet", began, fmt.Sprintf("%d machines, %d modules, %d pods ready", c.machines, len(u.o.Scenario.Modules), c.ready))
	u.start(inner, r, part{"the fleet", u.fleet.Run})
	u.start(inner, r, part{"the player", u.player.Run})
	return r, end, nil
}

// figures are the metrics that the controllers ask.
func (u *up) figures() metrics.Source {
	if u.metrics == nil {
		return u.source
	}
	return told{u.source, u.fleet}
}

// grace is how long after its end an hour is closed: what the biller waits for
// takes wall time, which is more of the day the faster it passes.
func (u *up) grace() time.Duration {
	return max(2*time.Minute, time.Duration(3*u.o.Speed)*time.Second)
}

// settle waits until the pods that should be there are ready. It goes on when
// nothing changes any more: some pods may have no room.
func (u *up) settle(ctx context.Context, r *running) error {
	const stuck = 30 * time.Second
	last, since, told := counts{}, time.Now(), time.Now()
	for {
		c := u.live.count()
		want := max(u.player.Expected(), c.ready+c.pending) // a day that goes on has more than it began with
		if c.ready >= want {                                // so that none is pending
			return nil
		}
		if c != last {
			last, since = c, time.Now()
		}
		if time.Since(since) > stuck {
			u.out.line("%d of %d pods are ready and %d have no machine; going on without waiting for them", c.ready, want, c.pending)
			return nil
		}
		if time.Since(told) > 2*time.Second {
			told = time.Now()
			u.out.line("  %d of %d pods ready", c.ready, want)
		}
		select {
		case err := <-u.failed:
			return err
		default:
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// pass lets the day pass until it has come to its end, the caller has had
// enough, or a part fails.
func (u *up) pass(r *running) error {
	end := u.live.until
	full := !end.IsZero() && end.Equal(end.Truncate(time.Hour))
	if !end.IsZero() {
		// A full hour is closed a while after its end; the day must come to that.
		if full {
			u.day.EndAt(end.Add(u.grace() + time.Minute))
		} else {
			u.day.EndAt(end)
		}
	}
	u.out.day(u.o.Bar, u.day.Start(), end)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	hour := u.day.Now().Truncate(time.Hour)
	for {
		select {
		case <-r.ctx.Done():
			return context.Canceled
		case err := <-u.failed:
			u.live.set(func(l *live) { l.state, l.message = "failed", err.Error() })
			return err
		case <-tick.C:
		}
		if err := u.day.Err(); err != nil {
			u.out.problem(fmt.Errorf("%w; the day stands still until it can be written", err))
		}
		now := u.day.Now()
		u.out.progress(now, u.o.Speed)
		if h := now.Truncate(time.Hour); h.After(hour) {
			hour = h
			c := u.live.count()
			u.out.hour("%s  %d machines, %d pods ready, %d waiting%s", u.stamp(h), c.machines, c.ready, c.pending, u.behind()+u.missed())
		}
		if end.IsZero() || now.Before(end) {
			continue
		}
		if full && !u.closed(r.ctx, end) && now.Before(end.Add(u.grace()+time.Minute)) {
			continue
		}
		u.live.set(func(l *live) { l.state = "ended" })
		ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
		defer cancel()
		u.fleet.CatchUp(ctx, end)
		return nil
	}
}

// behind says if the physics can't keep up with the day.
func (u *up) behind() string {
	if b := u.fleet.Behind(); b > 10*time.Minute {
		return fmt.Sprintf("; the physics are %v behind, so use is sampled less often", b.Round(time.Minute))
	}
	return ""
}

// closed reports whether the hour that ends at end is closed.
func (u *up) closed(ctx context.Context, end time.Time) bool {
	hours, err := u.store.Hours(ctx, end.Add(-time.Hour), end)
	return err == nil && len(hours) > 0
}

// stamp shows a moment of the day in the scenario's zone.
func (u *up) stamp(t time.Time) string {
	return t.In(u.o.Scenario.Location).Format("2006-01-02 15:04")
}

// today moves a scenario to now: for a Prometheus, which knows no other time.
// Days are moved whole, so that schedules by time of day and load stay together.
func today(s *scenario.Scenario, now time.Time) *scenario.Scenario {
	moved := *s
	y, m, d := s.Start.In(s.Location).Date()
	ny, nm, nd := now.In(s.Location).Date()
	days := int(time.Date(ny, nm, nd, 12, 0, 0, 0, time.UTC).Sub(time.Date(y, m, d, 12, 0, 0, 0, time.UTC)).Hours() / 24)
	shift := time.Duration(days) * 24 * time.Hour
	moved.Start = now.Truncate(time.Second)
	moved.Modules = append([]scenario.Module(nil), s.Modules...)
	for i := range moved.Modules {
		if l := moved.Modules[i].Load; l != nil {
			later := *l
			later.Shift += shift
			moved.Modules[i].Load = &later
		}
		if e := moved.Modules[i].Elastic; e != nil {
			moved.Modules[i].Elastic = e.Later(shift)
		}
	}
	moved.Timetables = append([]scenario.Timetable(nil), s.Timetables...)
	for i := range moved.Timetables {
		t := &moved.Timetables[i]
		t.Sessions = append([]scenario.Session(nil), t.Sessions...)
		for j := range t.Sessions {
			t.Sessions[j].Start = t.Sessions[j].Start.Add(shift)
		}
	}
	moved.Events = append([]scenario.Event(nil), s.Events...)
	for i := range moved.Events {
		e := &moved.Events[i]
		e.At = e.At.Add(shift)
		if e.Load != nil {
			l := *e.Load
			l.Until = l.Until.Add(shift)
			e.Load = &l
		}
	}
	return &moved
}

// oneLine keeps a message on one line.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
