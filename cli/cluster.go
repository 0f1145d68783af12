package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/kube/observe"
)

// clusterFlags say which cluster a command reads or changes.
type clusterFlags struct {
	kubeconfig string
	context    string
	timeout    time.Duration
}

// register adds the flags to a command and all below it.
func (c *clusterFlags) register(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "the cluster of this kubeconfig (default $KUBECONFIG, then ~/.kube/config, then that of neap up)")
	f.StringVar(&c.context, "context", "", "the cluster of this context of the kubeconfig")
	f.DurationVar(&c.timeout, "timeout", 30*time.Second, "give up on a request to the API server after this long")
}

// open returns a client for Neap's own kinds, nodes and pods, and the cluster's name. Without a
// configured cluster it is the one of neap up.
func (c *clusterFlags) open() (client.Client, string, error) {
	now := time.Now()
	cfg, name, err := observe.Config(observe.Target{Kubeconfig: c.kubeconfig, Context: c.context}, now)
	if errors.Is(err, observe.ErrNoCluster) && c.kubeconfig == "" && c.context == "" {
		dir, dirErr := stateDir()
		if dirErr != nil {
			return nil, "", dirErr
		}
		local := filepath.Join(dir, "cluster", "kubeconfig")
		if _, statErr := os.Stat(local); statErr != nil {
			return nil, "", fmt.Errorf("%w, and neap up has left none at %s; give --kubeconfig or run neap up", err, local)
		}
		cfg, name, err = observe.Config(observe.Target{Kubeconfig: local}, now)
	}
	if err != nil {
		return nil, "", err
	}
	cfg.Timeout = c.timeout
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, "", err
		}
	}
	k, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, "", explain(err, name, "get", "elasticpolicies")
	}
	return k, name, nil
}

// explain says what a failed request to the API server means.
func explain(err error, cluster, verb, resource string) error {
	switch {
	case err == nil:
		return nil
	case meta.IsNoMatchError(err), apierrors.IsNotFound(err) && strings.Contains(err.Error(), "could not find the requested resource"):
		return fmt.Errorf("the cluster %s does not know %s.neap.dev; install Neap's chart (deploy/chart/neap) or name another cluster with --kubeconfig", cluster, resource)
	case apierrors.IsNotFound(err), apierrors.IsInvalid(err), apierrors.IsConflict(err):
		return err
	}
	return observe.Explain(err, cluster, verb, "neap.dev", resource)
}

// change gets an object, lets edit change it, and writes what was changed; a
// change by somebody else in between is read and edited anew. It reports
// whether anything was different. say explains what the API server refuses.
func change[T client.Object](ctx context.Context, k client.Client, obj T, edit func(T) error, say func(error) error) (changed bool, err error) {
	key := client.ObjectKeyFromObject(obj)
	for range 5 {
		if err := k.Get(ctx, key, obj); err != nil {
			return false, say(err)
		}
		before := obj.DeepCopyObject().(T)
		if err := edit(obj); err != nil {
			return false, err
		}
		patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
		data, err := patch.Data(obj)
		if err != nil {
			return false, err
		}
		if plain, err := client.MergeFrom(before).Data(obj); err == nil && string(plain) == "{}" {
			return false, nil
		}
		err = k.Patch(ctx, obj, client.RawPatch(patch.Type(), data))
		if err == nil {
			return true, nil
		}
		if !apierrors.IsConflict(err) {
			return false, say(err)
		}
	}
	return false, fmt.Errorf("change %s: others change it all the time; try again", key)
}

// theseArgs refuses a command line without exactly the arguments of these names.
func theseArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef("%s needs %s; see %[1]s --help", cmd.CommandPath(), strings.Join(names[len(args):], " and "))
		case len(args) > len(names):
			return usagef("%s takes %s and was given %q as well; see %[1]s --help", cmd.CommandPath(), strings.Join(names, " and "), args[len(names)])
		}
		return nil
	}
}
