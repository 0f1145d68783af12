package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/host/agent/deadman"
	"github.com/neap-dev/neap/host/agent/limiter"
	"github.com/neap-dev/neap/host/agent/slackwatcher"
	"github.com/neap-dev/neap/host/cdi"
	"github.com/neap-dev/neap/host/cgroup"
	"github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/host/probe"
)

// Flags are what neap-agent can be told on its command line.
type Flags struct {
	Node, Kubeconfig    string
	Kubelet, Root, Proc string
	CDI                 string
	MPS                 string
	NVML, SMI           string
	Interval            time.Duration
	Plugin, Claims      bool
	Enforcement         string
	Overrun             string
	MetricsAddress      string
	LogFormat           string

	GPU, Colocation        bool
	Cgroups, CgroupsParent string
	StateDir, Namespace    string
	Deadman                bool
	Prometheus             string
}

// NewCommand returns neap-agent's command. finder returns how GPUs are looked at,
// by the paths of the driver's library and of nvidia-smi, empty for the usual ones.
func NewCommand(finder func(nvml, smi string) device.Finder) *cobra.Command {
	var f Flags
	cmd := &cobra.Command{
		Use:   "neap-agent",
		Short: "Share a machine's GPUs among pods, and keep its batch pods out of the way of the others",
		Long: `neap-agent runs on machines with GPUs (--gpu) and on those where batch pods use what
online pods leave (--colocation).

With --gpu it looks at the GPUs (by the driver's library, or else nvidia-smi), writes
on the Node what there is and how it is, hands pods the pieces of GPUs that Neap's
scheduler gave them, and watches how much of the GPUs' memory pods really use. It
needs the kubelet's folder and the folder where the container runtime looks for CDI
devices, and writes nothing else on the machine.

With --colocation it holds batch pods to what online pods leave, as a ColocationPolicy
says. It writes the cgroups of the kubelet's pods, and leaves every file as it found
it when it ends.`,
		Example: `  # in a pod of a DaemonSet, which the chart makes: agent.enabled=true
  neap-agent --node "$NODE_NAME" --root /host

  # batch pods beside online ones, on a machine without GPUs
  neap-agent --node "$NODE_NAME" --gpu=false --colocation

  # leave the cgroups as they were before an agent that did not end in order
  neap-agent restore

  # what there is, what can be enforced and what is missing; changes nothing
  neap-agent probe`,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.Validate(); err != nil {
				return err
			}
			return f.run(cmd.Context(), f.log(cmd), finder(f.NVML, f.SMI))
		},
	}
	all := cmd.PersistentFlags()
	all.StringVar(&f.Root, "root", "/", "where the machine's / is seen, for device nodes and NVIDIA's CDI specifications")
	all.StringVar(&f.MPS, "mps-dir", limiter.DefaultMPS, "folder of the machine with the pipes of the MPS control daemon, or with a folder for each GPU's by its UUID")
	all.StringVar(&f.NVML, "nvml", "", "path of libnvidia-ml.so.1; default: as the loader finds it")
	all.StringVar(&f.SMI, "nvidia-smi", "", "path of nvidia-smi; default: as in $PATH")
	all.StringVar(&f.Cgroups, "cgroups", "", "where the machine's cgroups are mounted; default: sys/fs/cgroup below --root")
	all.StringVar(&f.CgroupsParent, "cgroups-parent", "/", "the kubelet's --cgroup-root")
	all.StringVar(&f.StateDir, "state-dir", DefaultStateDir, "folder that keeps what cgroups held before; outlives the agent, not the machine's boot")
	fs := cmd.Flags()
	fs.BoolVar(&f.GPU, "gpu", true, "share the machine's GPUs")
	fs.BoolVar(&f.Colocation, "colocation", false, "hold batch pods to what online pods leave")
	fs.StringVar(&f.Namespace, "namespace", cmp.Or(os.Getenv("POD_NAMESPACE"), "neap-system"), "namespace of the agent's Lease; default: $POD_NAMESPACE, else neap-system")
	fs.StringVar(&f.Prometheus, "prometheus", "", "address of the Prometheus that policies' slack.p99 is asked of; without one, run queue and pressure have to do")
	fs.BoolVar(&f.Deadman, "deadman", true, "start neap-agent deadman where none runs; switch it off where another container does")
	fs.StringVar(&f.Node, "node", os.Getenv("NODE_NAME"), "name of the Node; default: $NODE_NAME")
	fs.StringVar(&f.Kubeconfig, "kubeconfig", "", "how to reach the cluster; default: the pod's own service account")
	fs.StringVar(&f.Kubelet, "kubelet-dir", "/var/lib/kubelet", "the kubelet's folder, under the path that the kubelet has for it")
	fs.StringVar(&f.CDI, "cdi-dir", "/var/run/cdi", "folder where the container runtime looks for CDI devices")
	fs.StringVar(&f.Proc, "proc", "/proc", "the machine's /proc, which tells whose a process is")
	fs.DurationVar(&f.Interval, "interval", 15*time.Second, "time between looks at the GPUs")
	fs.BoolVar(&f.Plugin, "device-plugin", true, "hand out "+v1alpha1.ResourceGPUMilli+" by the kubelet's device plugin protocol")
	fs.BoolVar(&f.Claims, "claims", false, "hand out GPUs to ResourceClaims; needs Kubernetes 1.36")
	fs.StringVar(&f.Enforcement, "enforcement", string(v1alpha1.GPUWatchOnly), "what keeps pods without a GPUClass, and claims, within their pieces: NativeLimits, MPS, MIG or WatchOnly")
	fs.StringVar(&f.Overrun, "on-memory-overrun", string(v1alpha1.GPUReport), "what is done with pods without a GPUClass that use more memory than they have: Report or Evict")
	fs.StringVar(&f.MetricsAddress, "metrics-address", "127.0.0.1:8082", "where /metrics and /healthz are served; empty serves none")
	all.StringVar(&f.LogFormat, "log-format", "text", "text or json")

	cmd.AddCommand(f.deadmanCommand(), f.restoreCommand(), &cobra.Command{
		Use:   "probe",
		Short: "Say what GPUs there are, what can be enforced on them and what is missing",
		Long: `probe looks at the GPUs once and says what there is, what can keep pods within
their pieces, and what is missing for it. It needs no cluster and changes nothing. It
fails where no GPU can be handed out.`,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
			defer cancel()
			report, ok := Probe(ctx, finder(f.NVML, f.SMI), limiter.Limiter{MPS: f.MPS, CDI: cdi.Folder{Root: f.Root}})
			fmt.Fprint(cmd.OutOrStdout(), report)
			if !ok {
				return errors.New("this machine has no GPU that pods can share, or one is sick: see above")
			}
			return nil
		},
	})
	return cmd
}

// Validate names the flag that makes no sense.
func (f Flags) Validate() error {
	switch {
	case f.Node == "":
		return errors.New("--node is required: the name of this machine's Node")
	case f.Interval < time.Second || f.Interval > 10*time.Minute:
		return fmt.Errorf("--interval is %v; give 1s to 10m", f.Interval)
	case !f.GPU && !f.Colocation:
		return errors.New("--gpu and --colocation are both off: there is nothing to do; switch one on")
	case f.GPU && !f.Plugin && !f.Claims:
		return errors.New("--device-plugin and --claims are both off: pods would get no GPU; switch one on")
	case f.LogFormat != "text" && f.LogFormat != "json":
		return fmt.Errorf("--log-format is %q; give text or json", f.LogFormat)
	case f.Overrun != string(v1alpha1.GPUReport) && f.Overrun != string(v1alpha1.GPUEvict):
		return fmt.Errorf("--on-memory-overrun is %q; give Report or Evict", f.Overrun)
	}
	switch v1alpha1.GPUEnforcement(f.Enforcement) {
	case v1alpha1.GPUNativeLimits, v1alpha1.GPUMPS, v1alpha1.GPUMIG, v1alpha1.GPUWatchOnly:
	default:
		return fmt.Errorf("--enforcement is %q; give NativeLimits, MPS, MIG or WatchOnly", f.Enforcement)
	}
	if _, _, err := net.SplitHostPort(f.MetricsAddress); f.MetricsAddress != "" && err != nil {
		return fmt.Errorf("--metrics-address is %q; give an address such as 127.0.0.1:8082", f.MetricsAddress)
	}
	return nil
}

func (f Flags) run(ctx context.Context, log *slog.Logger, finder device.Finder) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", f.Kubeconfig)
	if err != nil {
		return fmt.Errorf("how to reach the cluster: %w; give a kubeconfig with --kubeconfig", err)
	}
	cfg.UserAgent = "neap-agent"
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	direct, err := client.New(cfg, client.Options{Scheme: Scheme()})
	if err != nil {
		return fmt.Errorf("reach the cluster at %s: %w", cfg.Host, err)
	}
	events := record.NewBroadcaster(record.WithContext(ctx))
	defer events.Shutdown()
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: kube.CoreV1().Events("")})
	recorder := events.NewRecorder(Scheme(), corev1.EventSource{Component: "neap-agent", Host: f.Node})
	event := func(pod *corev1.Pod, reason, message string) {
		recorder.Event(pod, corev1.EventTypeWarning, reason, message)
	}
	registry := prometheus.NewRegistry()
	var runs []func(context.Context) error
	healthy := func() error { return nil }
	if f.GPU {
		a, err := New(Options{
			Node: f.Node, Client: direct, Kube: kube, Finder: finder, Kubelet: f.Kubelet,
			CDI: cdi.Folder{Dir: f.CDI, Root: f.Root}, MPS: f.MPS, Proc: f.Proc, Interval: f.Interval, Plugin: f.Plugin, Claims: f.Claims,
			Enforcement: v1alpha1.GPUEnforcement(f.Enforcement), Overrun: v1alpha1.GPUOverrun(f.Overrun), Log: log, Event: event,
		})
		if err != nil {
			return err
		}
		registry.MustRegister(a.Collector())
		runs = append(runs, a.Run)
		log.Info("watching the GPUs", "node", f.Node, "devicePlugin", f.Plugin, "claims", f.Claims)
	}
	if f.Colocation {
		tree, err := f.tree()
		if err != nil {
			return err
		}
		able := probe.Look(probe.Options{Root: f.Root, Cgroup: f.Cgroups, Parent: f.CgroupsParent, Now: time.Now()})
		opts := ColocationOptions{
			Probe: &able,
			Node:  f.Node, Namespace: f.Namespace, Client: direct, Kube: kube, Tree: tree, Parent: cgroup.Group(f.CgroupsParent),
			StateDir: f.StateDir, Proc: f.Proc, Event: event, Log: log,
		}
		if f.Prometheus != "" {
			if opts.P99, err = slackwatcher.Prometheus(f.Prometheus, f.Node); err != nil {
				return fmt.Errorf("--prometheus: %w", err)
			}
		}
		if f.Deadman {
			opts.Deadman = func() error {
				return startDeadman("--idle=1m", "--root="+f.Root, "--cgroups="+f.Cgroups, "--state-dir="+f.StateDir, "--log-format="+f.LogFormat)
			}
		}
		c := NewColocation(opts)
		prometheus.WrapRegistererWith(prometheus.Labels{"node": f.Node}, registry).MustRegister(c.Collector())
		runs, healthy = append(runs, c.Run), c.Fault
		log.Info("holding batch to what online leaves", "node", f.Node, "cgroups", tree.Version())
	}
	if f.MetricsAddress != "" {
		l, err := net.Listen("tcp", f.MetricsAddress)
		if err != nil {
			return fmt.Errorf("serve metrics at %s: %w; give another address with --metrics-address", f.MetricsAddress, err)
		}
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
		mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
			if err := healthy(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, "ok")
		})
		srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
		go srv.Serve(l) //nolint:errcheck // it ends with Close
		defer srv.Close()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(runs))
	for _, run := range runs {
		go func() {
			defer cancel() // what one cannot do, the other does not make up for
			ended <- run(ctx)
		}()
	}
	var errs []error
	for range runs {
		errs = append(errs, <-ended)
	}
	return errors.Join(errs...)
}

// tree opens the machine's cgroups.
func (f *Flags) tree() (*cgroup.Tree, error) {
	return cgroup.Open(cmp.Or(f.Cgroups, filepath.Join(cmp.Or(f.Root, "/"), "sys/fs/cgroup")))
}

func (f *Flags) log(cmd *cobra.Command) *slog.Logger {
	if f.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil))
	}
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
}

func (f *Flags) deadmanCommand() *cobra.Command {
	var idle time.Duration
	cmd := &cobra.Command{
		Use:   "deadman",
		Short: "Wait beside an agent, and bound batch when it is gone",
		Long: `deadman waits at a socket in --state-dir for the agent of this machine. When the
agent is gone, or has said nothing for ` + deadman.Silence.String() + `, every file is put back as it was found and
batch pods are bounded to a small part of the machine, until another agent comes. The
agent starts one itself; in a pod it is a container of its own.`,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tree, err := f.tree()
			if err != nil {
				return err
			}
			return watchOver(cmd.Context(), tree, f.StateDir, idle, f.log(cmd).With("process", "deadman"))
		},
	}
	cmd.Flags().DurationVar(&idle, "idle", 0, "end when no agent has been there for so long; 0 never does")
	return cmd
}

func (f *Flags) restoreCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restore",
		Short: "Leave the cgroups as an agent found them that did not end in order",
		Args:  cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tree, err := f.tree()
			if err != nil {
				return err
			}
			err = Restore(tree, cgroup.Group(f.CgroupsParent), f.StateDir)
			if errors.Is(err, cgroup.ErrOwned) {
				return fmt.Errorf("%w; an agent that ends in order restores them itself", err)
			}
			return err
		},
	}
}
