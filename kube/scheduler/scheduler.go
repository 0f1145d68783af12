// Package scheduler is where Neap's plugins meet kube-scheduler: one package a
// plugin below this one, and here the list of them. cmd/neap-scheduler is
// kube-scheduler with this list; a plugin does nothing until a scheduler
// configuration enables it.
package scheduler

import (
	"github.com/spf13/cobra"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"

	"github.com/neap-dev/neap/kube/scheduler/elasticfit"
	"github.com/neap-dev/neap/kube/scheduler/poolorder"
)

// Options register Neap's plugins with kube-scheduler.
func Options() []app.Option {
	return []app.Option{
		app.WithPlugin(elasticfit.Name, elasticfit.New),
		app.WithPlugin(poolorder.Name, poolorder.New),
	}
}

// NewCommand is kube-scheduler's command with Neap's plugins in it. Its flags
// and its configuration file are kube-scheduler's own.
func NewCommand() *cobra.Command {
	cmd := app.NewSchedulerCommand(Options()...)
	cmd.Use = "neap-scheduler"
	return cmd
}
