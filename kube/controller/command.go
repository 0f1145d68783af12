package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/kube/controller/colocator"
	"github.com/neap-dev/neap/kube/observe"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/store"
)

// Flags are what neap-controller can be told on its command line.
type Flags struct {
	Kubeconfig, Context string
	StoreDir            string
	Prometheus          string
	PrometheusToken     string
	PrometheusCA        string
	Currency            string
	Grace               time.Duration
	EvacuateGPUs        string
	Listen              string
	MetricsAddress      string
	HealthAddress       string
	LeaderElect         bool
	Namespace           string
	AgentNamespace      string
	LogFormat           string
}

// NewCommand returns neap-controller's command. page makes the dashboard of a
// store and its metrics, which may be nil; a nil page serves none.
func NewCommand(page func(*store.Store, metrics.Source) http.Handler) *cobra.Command {
	var f Flags
	cmd := &cobra.Command{
		Use:   "neap-controller",
		Short: "Watch a cluster, bill it hour by hour, and scale what ElasticPolicies name",
		Long: `neap-controller watches a cluster and closes its bill hour by hour into a store.
Every minute it decides how many replicas the workloads of ElasticPolicies have.
It writes nothing in the cluster but the status of Neap's own objects and, where
an ElasticPolicy is in mode Auto, the /scale of its target, its pods' deletion
cost and readiness gate, and the room that it is to have; and where a RepackPlan
is in mode Execute, replacements for the pods that it moves; and where a
ColocationPolicy is in mode Auto, what its nodes lend to batch pods, of which it
evicts those that would be in the way.

It needs a directory that outlives it (--store). With --prometheus it knows what
pods used; without, all use is estimated as what was requested.`,
		Example: `  # in a pod, with the cluster's Prometheus
  neap-controller --store /var/lib/neap --prometheus http://prometheus.monitoring:9090

  # from outside, for a try; then look at http://127.0.0.1:8088
  neap-controller --kubeconfig ~/.kube/config --store ./neap-store --leader-elect=false`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.Validate(); err != nil {
				return err
			}
			var h slog.Handler = slog.NewTextHandler(cmd.ErrOrStderr(), nil)
			if f.LogFormat == "json" {
				h = slog.NewJSONHandler(cmd.ErrOrStderr(), nil)
			}
			return f.run(cmd.Context(), slog.New(h), page)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.Kubeconfig, "kubeconfig", "", "how to reach the cluster; default: the pod's own service account, then $KUBECONFIG and ~/.kube/config")
	fs.StringVar(&f.Context, "context", "", "context of the kubeconfig; default: the current one")
	fs.StringVar(&f.StoreDir, "store", "", "directory for events and closed hours (required)")
	fs.StringVar(&f.Prometheus, "prometheus", "", "URL of the Prometheus that knows what pods use")
	fs.StringVar(&f.PrometheusToken, "prometheus-token-file", "", "file with a bearer token for it")
	fs.StringVar(&f.PrometheusCA, "prometheus-ca-file", "", "file with the certificates to trust for it, in PEM")
	fs.StringVar(&f.Currency, "currency", "", "currency of the bill, such as USD; default: that of the machine types")
	fs.DurationVar(&f.Grace, "grace", 2*time.Minute, "how long after its end an hour is closed")
	fs.StringVar(&f.EvacuateGPUs, "evacuate-gpus", "DryRun", "mode of the RepackPlans that are made for pods on sick GPUs: DryRun or Execute; Off makes none")
	fs.StringVar(&f.Listen, "listen", "127.0.0.1:8088", "where the dashboard is served; empty serves none")
	fs.StringVar(&f.MetricsAddress, "metrics-address", "127.0.0.1:8080", "where the controller's own metrics are served; empty serves none")
	fs.StringVar(&f.HealthAddress, "health-address", "127.0.0.1:8081", "where /healthz and /readyz are served; empty serves none")
	fs.BoolVar(&f.LeaderElect, "leader-elect", true, "let one of several controllers work")
	fs.StringVar(&f.Namespace, "leader-elect-namespace", "", "namespace of the lease; default: the pod's own")
	fs.StringVar(&f.AgentNamespace, "agent-namespace", colocator.DefaultAgentNamespace, "namespace of the Leases of neap-agent, without which a node lends nothing to batch")
	fs.StringVar(&f.LogFormat, "log-format", "text", "text or json")
	return cmd
}

// Validate names the flag that makes no sense.
func (f Flags) Validate() error {
	switch {
	case f.StoreDir == "":
		return errors.New("--store is required: name a directory that outlives the process, such as /var/lib/neap")
	case f.Grace < 0 || f.Grace > 30*time.Minute:
		return fmt.Errorf("--grace is %v; give 0 to 30m", f.Grace)
	case f.EvacuateGPUs != "Off" && f.EvacuateGPUs != string(v1alpha1.RepackDryRun) && f.EvacuateGPUs != string(v1alpha1.RepackExecute):
		return fmt.Errorf("--evacuate-gpus is %q; give DryRun, Execute or Off", f.EvacuateGPUs)
	case f.LogFormat != "text" && f.LogFormat != "json":
		return fmt.Errorf("--log-format is %q; give text or json", f.LogFormat)
	}
	for name, addr := range map[string]string{"listen": f.Listen, "metrics-address": f.MetricsAddress, "health-address": f.HealthAddress} {
		if _, _, err := net.SplitHostPort(addr); addr != "" && err != nil {
			return fmt.Errorf("--%s is %q; give an address such as 127.0.0.1:8080", name, addr)
		}
	}
	return nil
}

func (f Flags) run(ctx context.Context, log *slog.Logger, page func(*store.Store, metrics.Source) http.Handler) (err error) {
	cfg, name, err := observe.Config(observe.Target{Kubeconfig: f.Kubeconfig, Context: f.Context}, time.Now())
	if err != nil {
		return err
	}
	var source metrics.Source
	if f.Prometheus != "" {
		source, err = metrics.NewRemote(f.Prometheus, metrics.RemoteOptions{BearerTokenFile: f.PrometheusToken, CAFile: f.PrometheusCA})
		if err != nil {
			return err
		}
	}
	var c *Controller
	s, err := store.Open(f.StoreDir, store.Options{Log: log, Rebuild: func(ctx context.Context, from, to time.Time) (bill.Facts, error) {
		if c == nil {
			return bill.Facts{}, errors.New("the controller has not started yet")
		}
		return c.Biller.Rebuild(ctx, from, to)
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	evacuate := v1alpha1.RepackMode(f.EvacuateGPUs)
	if evacuate == "Off" {
		evacuate = ""
	}
	if c, err = New(Options{
		RESTConfig: cfg, Store: s, Ledger: s, Metrics: source, Currency: f.Currency, Grace: f.Grace, EvacuateGPUs: evacuate,
		LeaderElection: f.LeaderElect, Namespace: f.Namespace, AgentNamespace: f.AgentNamespace,
		MetricsAddress: f.MetricsAddress, HealthAddress: f.HealthAddress, Log: log,
	}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	if page == nil || f.Listen == "" {
		close(served)
	} else {
		l, err := net.Listen("tcp", f.Listen)
		if err != nil {
			return fmt.Errorf("serve the dashboard at %s: %w; give another address with --listen", f.Listen, err)
		}
		srv := &http.Server{Handler: page(s, source), ReadHeaderTimeout: 10 * time.Second}
		go func() {
			defer close(served)
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				served <- fmt.Errorf("serve the dashboard at %s: %w", f.Listen, err)
				cancel()
			}
		}()
		defer srv.Close()
		log.Info("the dashboard is served", "url", "http://"+l.Addr().String())
	}
	log.Info("watching", "cluster", name, "store", f.StoreDir, "prometheus", source != nil)
	if err := c.Run(ctx); err != nil {
		return err
	}
	select {
	case err := <-served:
		return err
	default:
		return nil
	}
}
