// Package scheduler is where Neap's plugins meet kube-scheduler: one package a
// plugin below this one, and here the list of them. cmd/neap-scheduler is
// kube-scheduler with this list; a plugin does nothing until a scheduler
// configuration enables it.
//
// One default is not kube-scheduler's: SchedulerAsyncPreemption is off. Whoever
// gives way is asked to in the cycle of the pod that needs the place, so that the
// pod misses nobody's leaving.
package scheduler

import (
	"github.com/spf13/cobra"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/pkg/features"

	"github.com/neap-dev/neap/kube/scheduler/colocatefit"
	"github.com/neap-dev/neap/kube/scheduler/elasticfit"
	"github.com/neap-dev/neap/kube/scheduler/gpufit"
	"github.com/neap-dev/neap/kube/scheduler/poolorder"
)

// Options register Neap's plugins with kube-scheduler.
func Options() []app.Option {
	return []app.Option{
		app.WithPlugin(colocatefit.Name, colocatefit.New),
		app.WithPlugin(elasticfit.Name, elasticfit.New),
		app.WithPlugin(gpufit.Name, gpufit.Plugin()),
		app.WithPlugin(gpufit.ClaimsName, gpufit.NewClaims),
		app.WithPlugin(poolorder.Name, poolorder.New),
	}
}

// NewCommand is kube-scheduler's command with Neap's plugins in it. Its flags
// and its configuration file are kube-scheduler's own.
func NewCommand() *cobra.Command {
	preemptInCycle()
	cmd := app.NewSchedulerCommand(Options()...)
	cmd.Use = "neap-scheduler"
	return cmd
}

// preemptInCycle turns asynchronous preemption off, unless a flag turns it on.
// While one runs, its pod may not be queued; so where the victims have left
// already, because other pods were to have their places, it is not woken again
// but found after five minutes (kubernetes/kubernetes#141694, open in 1.36).
// Forty pods that replaced forty balloons met it once in four times.
func preemptInCycle() {
	if gates := utilfeature.DefaultMutableFeatureGate; gates.Enabled(features.SchedulerAsyncPreemption) {
		utilruntime.Must(gates.OverrideDefault(features.SchedulerAsyncPreemption, false))
	}
}
