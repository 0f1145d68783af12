package allinone

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/rest"
	cliflag "k8s.io/component-base/cli/flag"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	apiserveroptions "k8s.io/kubernetes/cmd/kube-apiserver/app/options"

	"github.com/neap-dev/neap/local/clusterdir"
)

// apiServerFlags are kube-apiserver's, as one would write them on its command
// line.
func apiServerFlags(dir clusterdir.Dir) []string {
	return []string{
		// Who may do what.
		"--anonymous-auth=false",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--client-ca-file=" + dir.PKI("client-ca.crt"),
		"--tls-cert-file=" + dir.PKI("apiserver.crt"),
		"--tls-private-key-file=" + dir.PKI("apiserver.key"),
		"--tls-min-version=VersionTLS13",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + dir.PKI("service-account.key"),
		"--service-account-signing-key-file=" + dir.PKI("service-account.key"),
		"--profiling=false",

		// Where it is. The endpoint of the service "kubernetes" is left alone:
		// a loopback address may not be one, and simulated pods call nobody.
		"--etcd-servers=" + clientSocket,
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		"--endpoint-reconciler-type=none",
		"--service-cluster-ip-range=10.96.0.0/16",
		"--allow-privileged=true",

		// Speed. All clients are our own: no fair queueing among them, but a
		// limit that keeps a burst from taking the memory.
		"--enable-priority-and-fairness=false",
		"--max-requests-inflight=800",
		"--max-mutating-requests-inflight=400",
		"--event-ttl=15m",
		"--etcd-compaction-interval=2m",
		"--shutdown-delay-duration=0s",
		"--shutdown-send-retry-after=false",
	}
}

// runAPIServer starts kube-apiserver on a listener that is open already. It
// runs until ctx ends; an end before that goes to failed.
func runAPIServer(ctx context.Context, dir clusterdir.Dir, listener net.Listener, running *sync.WaitGroup, failed chan<- error) error {
	opts := apiserveroptions.NewServerRunOptions()
	if err := parse("kube-apiserver", opts.Flags(), apiServerFlags(dir)); err != nil {
		return err
	}
	opts.SecureServing.Listener = listener
	if err := opts.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return fmt.Errorf("set up kube-apiserver: %w", err)
	}
	rest.SetDefaultWarningHandler(rest.NoWarnings{}) // those about requests of its own
	completed, err := opts.Complete(ctx)
	if err != nil {
		return fmt.Errorf("set up kube-apiserver: %w", err)
	}
	if errs := completed.Validate(); len(errs) != 0 {
		return fmt.Errorf("set up kube-apiserver: %w", utilerrors.NewAggregate(errs))
	}
	running.Go(func() {
		if err := apiserver.Run(ctx, completed); err != nil {
			failed <- fmt.Errorf("run kube-apiserver: %w", err)
		} else if ctx.Err() == nil {
			failed <- fmt.Errorf("run kube-apiserver: it stopped by itself")
		}
	})
	return nil
}

// parse sets a component's flags, so that what it runs with can be read in
// its own documentation.
func parse(name string, sets cliflag.NamedFlagSets, args []string) error {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	for _, set := range sets.FlagSets {
		fs.AddFlagSet(set)
	}
	if err := fs.Parse(args); err != nil {
		return fmt.Errorf("set up %s: %w", name, err)
	}
	return nil
}
