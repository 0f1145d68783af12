package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/agent/deadman"
	"github.com/neap-dev/neap/host/agent/evictor"
	"github.com/neap-dev/neap/host/agent/herald"
	"github.com/neap-dev/neap/host/agent/slackwatcher"
	"github.com/neap-dev/neap/host/agent/warden"
	"github.com/neap-dev/neap/host/cgroup"
	"github.com/neap-dev/neap/host/netqos"
	"github.com/neap-dev/neap/host/runqueue"
)

// DefaultStateDir is where an agent keeps what cgroups held before it wrote them, and
// when it evicted pods. It outlives the agent and not the machine's boot, as cgroups do.
const DefaultStateDir = "/run/neap"

// ColocationOptions say what colocation works with on a machine.
type ColocationOptions struct {
	Node      string               // required: the machine's name in the cluster
	Namespace string               // required: where the agent's Lease is
	Client    client.Client        // required: not cached, with [Scheme]
	Kube      kubernetes.Interface // required: watches pods
	Tree      *cgroup.Tree         // required: the machine's cgroups
	Parent    cgroup.Group         // the kubelet's --cgroup-root; "/" if empty
	StateDir  string               // DefaultStateDir if empty
	Proc      string               // the machine's /proc; /proc if empty
	Every     time.Duration        // between ticks of the fast loop; suppressor.Every if zero
	// Deadman starts a deadman where none listens; nil leaves that to somebody else.
	Deadman func() error
	// Probe is what the machine can do, which the node is told; nil tells nothing.
	Probe *colocate.Probe
	// P99 asks for the value of a policy's query in seconds; nil does without.
	P99 func(ctx context.Context, query string) (seconds float64, known bool, err error)
	// Event tells a pod something; nil tells nobody.
	Event func(pod *corev1.Pod, reason, message string)
	Log   *slog.Logger // nil logs nothing
}

// A Colocation keeps the batch pods of one machine within what its online pods leave.
type Colocation struct {
	warden *warden.Warden
	herald *herald.Herald
	queue  *runqueue.Meter // nil without
	slack  *slackwatcher.Watcher
}

// NewColocation returns what keeps one machine; nothing is owned before it runs.
func NewColocation(opts ColocationOptions) *Colocation {
	opts.StateDir = cmp.Or(opts.StateDir, DefaultStateDir)
	if opts.Event == nil {
		opts.Event = func(*corev1.Pod, string, string) {}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c := new(Colocation)
	var err error
	if c.queue, err = runqueue.Open(runqueue.Options{Proc: opts.Proc}); err != nil {
		opts.Log.Warn("how long threads wait for a CPU is not known: pressure has to do", "error", err)
	} else if source, why := c.queue.Source(); source != runqueue.Traced {
		opts.Log.Info("how long threads wait for a CPU is sampled", "why", why)
	}
	c.slack = slackwatcher.New(slackwatcher.Options{Tree: opts.Tree, Queue: c.queue, P99: opts.P99, Log: opts.Log})
	c.warden = warden.New(warden.Options{
		Tree: opts.Tree, Dir: opts.StateDir, Parent: opts.Parent, Proc: opts.Proc, Every: opts.Every, Event: opts.Event, Log: opts.Log,
		Evictor: &evictor.Evictor{Client: opts.Client, Event: opts.Event, File: filepath.Join(opts.StateDir, "evictions.json")}, Deadman: opts.Deadman,
		Signals: c.slack.Look,
	})
	c.herald = herald.New(herald.Options{
		Node: opts.Node, Namespace: opts.Namespace, Client: opts.Client, Kube: opts.Kube, Warden: c.warden, Probe: opts.Probe, Log: opts.Log,
	})
	return c
}

// Run works until ctx ends, and then leaves every file as it was found.
func (c *Colocation) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	heralded := make(chan error, 1)
	go func() {
		heralded <- c.herald.Run(ctx)
		cancel()
	}()
	err := c.warden.Run(ctx)
	cancel()
	c.slack.Close()
	if c.queue != nil {
		err = errors.Join(err, c.queue.Close())
	}
	return errors.Join(err, <-heralded)
}

// Collector returns its metrics.
func (c *Colocation) Collector() prometheus.Collector { return c.warden }

// Fault says what keeps it from working, nil if nothing does: for whoever asks
// whether the agent is alive.
func (c *Colocation) Fault() error { return c.warden.Fault() }

// Restore leaves the machine's cgroups and its network as an agent found them that
// did not end in order.
func Restore(tree *cgroup.Tree, parent cgroup.Group, stateDir string) error {
	layout, err := tree.FindLayout(parent)
	switch {
	case errors.Is(err, cgroup.ErrGone): // no kubelet, no files
	case err != nil:
		return err
	default:
		if err := cgroup.Restore(tree, layout.Pods(), stateDir); err != nil {
			return err
		}
	}
	return netqos.Restore("")
}

// startDeadman starts this program as a deadman that outlives it.
func startDeadman(args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start the deadman: %w", err)
	}
	cmd := exec.Command(self, append([]string{"deadman"}, args...)...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the deadman: %w", err)
	}
	go cmd.Wait() //nolint:errcheck // it says itself what is wrong
	return nil
}

// watchOver is the deadman's work; idle is how long it waits for an agent, forever if
// zero.
func watchOver(ctx context.Context, tree *cgroup.Tree, stateDir string, idle time.Duration, log *slog.Logger) error {
	return deadman.Watch(ctx, deadman.Options{Tree: tree, Dir: stateDir, Idle: idle, Log: log})
}
