package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	adapter "sigs.k8s.io/custom-metrics-apiserver/pkg/cmd"

	"github.com/neap-dev/neap/api/v1alpha1"
)

// Options of [Run].
type Options struct {
	// Kubeconfig says how to reach the API server; "" means the pod's own service
	// account.
	Kubeconfig string
	// Listener is where to serve, or Port, on all addresses, if it is nil.
	Listener net.Listener
	Port     int
	// CertFile and KeyFile are the server's certificate; with neither it makes one
	// itself, in CertDir.
	CertFile, KeyFile, CertDir string
	// Clock is the cluster's clock; nil means the wall's.
	Clock clock.PassiveClock
}

// Validate names the option that makes no sense.
func (o Options) Validate() error {
	if o.Listener == nil && (o.Port < 1 || o.Port > 65535) {
		return fmt.Errorf("--port is %d; give 1 to 65535", o.Port)
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		return errors.New("--tls-cert-file and --tls-key-file go together: give both or neither")
	}
	return nil
}

// Run serves until ctx ends, which is no error. The API server calls it, and
// tells who asks: callers are authenticated and authorised by it.
func Run(ctx context.Context, o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	a := &adapter.AdapterBase{Name: "neap-bridge", FlagSet: pflag.NewFlagSet("neap-bridge", pflag.ContinueOnError)}
	a.InstallFlags()
	a.RemoteKubeConfigFile = o.Kubeconfig
	a.Authentication.RemoteKubeConfigFile = o.Kubeconfig
	a.Authorization.RemoteKubeConfigFile = o.Kubeconfig
	a.SecureServing.Listener, a.SecureServing.BindPort = o.Listener, o.Port
	if o.Listener != nil {
		a.SecureServing.BindPort = o.Listener.Addr().(*net.TCPAddr).Port
	}
	a.SecureServing.ServerCert.CertKey.CertFile, a.SecureServing.ServerCert.CertKey.KeyFile = o.CertFile, o.KeyFile
	a.SecureServing.ServerCert.CertDirectory = o.CertDir // "" keeps it in memory
	cfg, err := a.ClientConfig()
	if err != nil {
		return fmt.Errorf("reach the API server: %w", err)
	}

	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return err
	}
	policies, err := cache.New(cfg, cache.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("reach the API server: %w", err)
	}
	if _, err := policies.GetInformer(ctx, &v1alpha1.ElasticPolicy{}, cache.BlockUntilSynced(false)); err != nil {
		return fmt.Errorf("watch ElasticPolicies: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan error, 1)
	go func() {
		defer cancel()
		watched <- policies.Start(ctx)
	}()
	if !policies.WaitForCacheSync(ctx) {
		return <-watched
	}
	a.WithExternalMetrics(New(policies, cmp.Or[clock.PassiveClock](o.Clock, clock.RealClock{})))
	err = a.Run(ctx)
	cancel()
	return errors.Join(err, <-watched)
}

// NewCommand returns neap-bridge's command.
func NewCommand() *cobra.Command {
	o := Options{Port: 6443}
	cmd := &cobra.Command{
		Use:   "neap-bridge",
		Short: "Serve what ElasticPolicies foresee as external metrics for HorizontalPodAutoscalers",
		Long: `neap-bridge serves neap_elastic_forecast, neap_elastic_floor and
neap_elastic_desired as external metrics (external.metrics.k8s.io) from the
statuses of ElasticPolicies, for those who keep their HorizontalPodAutoscaler.
A cluster has one server of external metrics; the chart registers this one with
bridge.enabled=true.`,
		Example: `  # in a pod
  neap-bridge

  # from outside, for a try
  neap-bridge --kubeconfig ~/.kube/config --port 6443`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctrllog.SetLogger(klog.Background())
			return Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "how to reach the cluster; default: the pod's own service account")
	f.IntVar(&o.Port, "port", o.Port, "where to serve, on all addresses")
	f.StringVar(&o.CertFile, "tls-cert-file", "", "the server's certificate, in PEM; default: it makes one itself")
	f.StringVar(&o.KeyFile, "tls-key-file", "", "its key, in PEM")
	f.StringVar(&o.CertDir, "cert-dir", "", "where a certificate of its own making is kept; default: in memory")
	return cmd
}
