// Package agent runs the doers of a machine: it looks at its GPUs, and has every
// look announced on the Node, offered to the kubelet, and compared with what pods
// really use.
//
// [New] wires a machine's agent, [Agent.Run] runs it. A simulated machine's is made
// alike, from a device.Fake and folders of its own.
//
// Not here: what is done, which the packages below and host/agent/gpudriver know.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/host/agent/announcer"
	"github.com/neap-dev/neap/host/agent/gpudriver"
	"github.com/neap-dev/neap/host/agent/gpuplugin"
	"github.com/neap-dev/neap/host/agent/limiter"
	"github.com/neap-dev/neap/host/agent/memorywatcher"
	"github.com/neap-dev/neap/host/cdi"
	"github.com/neap-dev/neap/host/device"
)

// Options say what an agent works with.
type Options struct {
	Node    string               // required: the machine's name in the cluster
	Client  client.Client        // required: not cached, with [Scheme]
	Kube    kubernetes.Interface // required with Claims
	Finder  device.Finder        // required: looks at the GPUs
	Kubelet string               // the kubelet's folder; /var/lib/kubelet if empty
	CDI     cdi.Folder           // where the runtime looks for devices; /var/run/cdi if its Dir is empty
	MPS     string               // where the daemon of MPS keeps its pipes; empty means limiter.DefaultMPS
	Proc    string               // the machine's /proc; /proc if empty
	// Interval is the time between looks; 15 s if zero.
	Interval time.Duration
	// Plugin and Claims say by which of the kubelet's protocols GPUs are handed out.
	Plugin, Claims bool
	// Enforcement and Overrun hold of pods without a GPUClass; WatchOnly and Report
	// if empty.
	Enforcement v1alpha1.GPUEnforcement
	Overrun     v1alpha1.GPUOverrun
	// Event tells a pod something; nil tells nobody.
	Event func(pod *corev1.Pod, reason, message string)
	Log   *slog.Logger // nil logs nothing
}

// Scheme returns what the agent's client must know.
func Scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err) // two kinds of one name, in code
		}
	}
	return s
}

// An Agent is what runs on one machine.
type Agent struct {
	opts      Options
	plugin    *gpuplugin.Plugin // nil without
	announcer announcer.Announcer
	watcher   *memorywatcher.Watcher
	settled   bool // a look has succeeded

	mu    sync.Mutex
	limit limiter.Limiter // as of the last look
}

// New returns an agent that remembers what its machine's CDI folder and Node say.
func New(opts Options) (*Agent, error) {
	opts.CDI.Dir = cmp.Or(opts.CDI.Dir, "/var/run/cdi")
	opts.Interval = cmp.Or(opts.Interval, 15*time.Second)
	opts.Enforcement = cmp.Or(opts.Enforcement, v1alpha1.GPUWatchOnly)
	opts.Overrun = cmp.Or(opts.Overrun, v1alpha1.GPUReport)
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Event == nil {
		opts.Event = func(*corev1.Pod, string, string) {}
	}
	a := &Agent{opts: opts, announcer: announcer.Announcer{Node: opts.Node, Client: opts.Client, Now: time.Now}}
	a.limit = limiter.Limiter{MPS: opts.MPS, CDI: opts.CDI}
	a.watcher = memorywatcher.New(memorywatcher.Options{
		Node: opts.Node, Client: opts.Client, Finder: opts.Finder, Proc: opts.Proc, Log: opts.Log, Event: opts.Event,
		Overrun: func(ctx context.Context, pod *corev1.Pod) (v1alpha1.GPUOverrun, error) {
			class, err := a.class(ctx, pod)
			if err != nil || class == nil {
				return opts.Overrun, err
			}
			return cmp.Or(class.Spec.OnMemoryOverrun, v1alpha1.GPUReport), nil
		},
	})
	if opts.Plugin {
		var err error
		if a.plugin, err = gpuplugin.New(gpuplugin.Options{
			Node: opts.Node, Client: opts.Client, Kubelet: opts.Kubelet, CDI: opts.CDI, Limit: a.limits, Log: opts.Log,
			Event: func(_ context.Context, pod *corev1.Pod, reason, message string) { opts.Event(pod, reason, message) },
		}); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Collector returns the agent's metrics.
func (a *Agent) Collector() prometheus.Collector { return a.watcher }

// Run works until ctx ends. An error means that the machine's folders or the
// kubelet's sockets cannot be used, or that the Node cannot be read at the start.
func (a *Agent) Run(ctx context.Context) error {
	known, err := a.announcer.Remembered(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var driver *gpudriver.Driver
	if a.opts.Claims {
		if driver, err = gpudriver.Start(ctx, gpudriver.Options{
			Node: a.opts.Node, Client: a.opts.Kube, Kubelet: a.opts.Kubelet, CDI: a.opts.CDI, Limit: a.claimLimits,
		}); err != nil {
			return err
		}
		defer driver.Stop()
	}
	served := make(chan error, 1)
	if a.plugin == nil {
		close(served)
	} else {
		go func() {
			defer cancel()
			served <- a.plugin.Run(ctx)
			close(served)
		}()
	}
	roll := device.NewRoll(known)
	for ctx.Err() == nil {
		a.look(ctx, roll, driver)
		select {
		case <-ctx.Done():
		case <-time.After(a.opts.Interval):
		}
	}
	return <-served
}

// look looks once, and has everybody act on what is seen. What fails is logged, and
// tried again at the next look.
func (a *Agent) look(ctx context.Context, roll *device.Roll, driver *gpudriver.Driver) {
	warn := func(what string, err error) {
		if err != nil && ctx.Err() == nil {
			a.opts.Log.Warn(what, "error", err)
		}
	}
	within, cancel := context.WithTimeout(ctx, 10*time.Second)
	found, fault := a.opts.Finder.Find(within)
	cancel()
	warn("the GPUs are not seen", fault)
	held := map[string]int64{}
	if a.plugin != nil {
		for _, share := range a.plugin.Held() {
			held[share.UUID] += share.MemoryMiB
		}
	}
	if fault == nil && !a.settled {
		// What the Node remembers and is not there at the start was taken out, unless
		// somebody holds a piece of it. What vanishes later is said to be lost.
		a.settled = true
		roll.Forget(found, func(uuid string) bool { _, yes := held[uuid]; return yes || a.opts.Claims })
	}
	devices := roll.Look(found, fault)
	if !a.settled && roll.Waiting() {
		return // the driver may be on its way: what the Node says may still be so
	}
	if fault == nil {
		a.mu.Lock()
		a.limit.Driver, a.limit.CUDA = found.Driver, found.CUDA
		a.mu.Unlock()
	}

	// The kubelet first, which is near; an API server that hangs holds up one look.
	if a.plugin != nil {
		a.plugin.Update(devices)
	}
	within, cancel = context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if driver != nil {
		warn("the GPUs are not offered to claims", errors.Join(driver.Publish(ctx, devices), driver.Fault()))
	}
	warn("the Node is not written", a.announcer.Announce(within, announcer.Report{
		Devices: devices, Held: held, Fault: fault, Enforced: a.limiter().InForce(devices), Default: a.opts.Enforcement,
	}))
	if a.plugin != nil {
		warn("what containers have is not brought in order", a.plugin.Sweep(within))
	}
	warn("memory of GPUs is not watched", a.watcher.Look(within, devices))
}

// class returns the class that a pod belongs to, nil if none.
func (a *Agent) class(ctx context.Context, pod *corev1.Pod) (*v1alpha1.GPUClass, error) {
	name := pod.Annotations[v1alpha1.AnnotationGPUClass]
	if name == "" {
		ns := new(corev1.Namespace)
		if err := a.opts.Client.Get(ctx, client.ObjectKey{Name: pod.Namespace}, ns); err != nil {
			return nil, fmt.Errorf("which GPUClass namespace %s has: %w", pod.Namespace, err)
		}
		if name = ns.Labels[v1alpha1.AnnotationGPUClass]; name == "" {
			return nil, nil
		}
	}
	class := new(v1alpha1.GPUClass)
	if err := a.opts.Client.Get(ctx, client.ObjectKey{Name: name}, class); err != nil {
		return nil, fmt.Errorf("read the GPUClass %s: %w", name, err)
	}
	return class, nil
}

// limits says how a pod's container is held to its pieces.
func (a *Agent) limits(ctx context.Context, pod *corev1.Pod, pieces []limiter.Piece) (map[string]string, []cdi.Mount, error) {
	class, err := a.class(ctx, pod)
	if err != nil {
		return nil, nil, err
	}
	how := a.opts.Enforcement
	if class != nil {
		how = cmp.Or(class.Spec.Enforcement, v1alpha1.GPUWatchOnly)
	}
	return a.limiter().Limit(how, pieces)
}

// claimLimits says how the containers of a claim are held to its pieces. A claim
// has no class.
func (a *Agent) claimLimits(pieces []gpudriver.Piece) (map[string]string, []cdi.Mount, error) {
	var out []limiter.Piece
	for _, p := range pieces {
		if p.Milli == 0 { // administrative access
			return nil, nil, nil
		}
		out = append(out, limiter.Piece{Device: p.Device, Milli: p.Milli, MemoryMiB: p.MemoryMiB})
	}
	return a.limiter().Limit(a.opts.Enforcement, out)
}

func (a *Agent) limiter() limiter.Limiter {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.limit
}

// Probe looks once and says in lines for people what there is, what can be enforced,
// and what is missing to share these GPUs. Nothing is changed. ok is whether GPUs
// can be handed out.
func Probe(ctx context.Context, f device.Finder, l limiter.Limiter) (report string, ok bool) {
	var b strings.Builder
	found, err := f.Find(ctx)
	if err != nil {
		fmt.Fprintf(&b, "GPUs: none to be seen: %v\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return b.String(), false
	}
	cuda := "an unknown CUDA"
	if found.CUDA > 0 {
		cuda = fmt.Sprintf("CUDA %d.%d", found.CUDA/1000, found.CUDA%1000/10)
	}
	fmt.Fprintf(&b, "GPUs: %d, seen by %s, driver %s, %s\n", len(found.Devices), found.Source, cmp.Or(found.Driver, "unknown"), cuda)
	ok = len(found.Devices) > 0
	for _, d := range found.Devices {
		health := "healthy"
		if !d.Healthy {
			health, ok = "sick: "+d.Reason, false
		}
		fmt.Fprintf(&b, "  %d  %s  %s  %d MiB  /dev/nvidia%d  %s\n", d.Index, d.UUID, d.Model, d.Memory, d.Minor, health)
	}
	l.Driver, l.CUDA = found.Driver, found.CUDA
	force := l.InForce(found.Devices)
	for _, how := range []v1alpha1.GPUEnforcement{v1alpha1.GPUNativeLimits, v1alpha1.GPUMPS, v1alpha1.GPUMIG, v1alpha1.GPUWatchOnly} {
		if why := force[how]; why != "" {
			fmt.Fprintf(&b, "enforcement %s: not in force: %s\n", how, why)
		} else {
			fmt.Fprintf(&b, "enforcement %s: there\n", how)
		}
	}
	holding, err := f.Processes(ctx)
	if err != nil {
		fmt.Fprintf(&b, "processes: not known: %v\n", err)
		return b.String(), false
	}
	fmt.Fprintf(&b, "processes: %d hold memory\n", len(holding))
	return b.String(), ok
}
