package allinone

import (
	"context"
	"fmt"
	"strings"
	"sync"

	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kcmoptions "k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"

	"github.com/neap-dev/neap/local/clusterdir"
)

// controllers are what a simulated fleet has a use for. Left out: clouds,
// volumes that must be attached, certificate requests, eviction from devices.
var controllers = []string{
	names.ClusterRoleAggregationController,
	names.CronJobController,
	names.DaemonSetController,
	names.DeploymentController,
	names.DisruptionController,
	names.EndpointSliceController,
	names.GarbageCollectorController,
	names.HorizontalPodAutoscalerController,
	names.JobController,
	names.NamespaceController,
	names.NodeLifecycleController,
	names.PersistentVolumeBinderController,
	names.PersistentVolumeClaimProtectionController,
	names.PersistentVolumeProtectionController,
	names.PodGarbageCollectorController,
	names.ReplicaSetController,
	names.ResourceClaimController,
	names.ResourceQuotaController,
	names.RootCACertificatePublisherController,
	names.ServiceAccountController,
	names.StatefulSetController,
	names.TTLAfterFinishedController,
	names.TaintEvictionController,
	names.ValidatingAdmissionPolicyStatusController,
}

// controllerManagerFlags are kube-controller-manager's.
func controllerManagerFlags(dir clusterdir.Dir) []string {
	return []string{
		// Each controller has a service account of its own, with its own
		// rights and its own share of requests.
		"--kubeconfig=" + dir.Identity("controller-manager"),
		"--use-service-account-credentials=true",
		"--root-ca-file=" + dir.PKI("server-ca.crt"),
		"--secure-port=0", // serves nothing
		"--leader-elect=false",
		"--controllers=" + strings.Join(controllers, ","),

		// A day in minutes: thousands of pods come and go within seconds.
		"--kube-api-qps=2000",
		"--kube-api-burst=4000",
		"--concurrent-cron-job-syncs=10",
		"--concurrent-daemonset-syncs=4",
		"--concurrent-deployment-syncs=20",
		"--concurrent-gc-syncs=20",
		"--concurrent-job-syncs=20",
		"--concurrent-namespace-syncs=10",
		"--concurrent-replicaset-syncs=20",
		"--concurrent-statefulset-syncs=10",
		"--concurrent-ttl-after-finished-syncs=10",
		"--terminated-pod-gc-threshold=2000",

		// A laptop that was busy for a moment has no dead machines.
		"--node-monitor-grace-period=120s",
	}
}

// runControllerManager starts kube-controller-manager against the API server
// that is ready. It runs until ctx ends; an end before that goes to failed.
func runControllerManager(ctx context.Context, dir clusterdir.Dir, running *sync.WaitGroup, failed chan<- error) error {
	opts, err := kcmoptions.NewKubeControllerManagerOptions()
	if err != nil {
		return fmt.Errorf("set up kube-controller-manager: %w", err)
	}
	known, off, aliases := controllermanager.KnownControllers(), controllermanager.ControllersDisabledByDefault(), controllermanager.ControllerAliases()
	sets := opts.Flags(known, off, aliases)
	opts.ParsedFlags = &sets
	if err := parse("kube-controller-manager", sets, controllerManagerFlags(dir)); err != nil {
		return err
	}
	config, err := opts.Config(ctx, known, off, aliases)
	if err != nil {
		return fmt.Errorf("set up kube-controller-manager: %w", err)
	}
	running.Go(func() {
		if err := controllermanager.Run(ctx, config.Complete()); err != nil && ctx.Err() == nil {
			failed <- fmt.Errorf("run kube-controller-manager: %w", err)
		} else if ctx.Err() == nil {
			failed <- fmt.Errorf("run kube-controller-manager: it stopped by itself")
		}
	})
	return nil
}
