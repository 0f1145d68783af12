// Command neap-kubelet is the kubelet of the Kubernetes that neap is built with,
// for `neap up --join-host`. Its flags and its configuration file are the
// kubelet's.
package main

import (
	"context"
	"os"
	"syscall"
	"time"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // the kubelet's metrics of its client
	_ "k8s.io/component-base/metrics/prometheus/version"  // and of its version
	"k8s.io/kubernetes/cmd/kubelet/app"

	"github.com/neap-dev/neap/local/process"
)

func main() {
	if os.Getenv(process.StopWithStdin) != "" {
		process.WatchParent(func() {
			time.AfterFunc(10*time.Second, func() { os.Exit(1) }) // whatever hangs
			_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		})
	}
	os.Exit(cli.Run(app.NewKubeletCommand(context.Background())))
}
