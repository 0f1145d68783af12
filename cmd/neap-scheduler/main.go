// Command neap-scheduler is kube-scheduler with Neap's plugins in it. Its flags
// and its configuration file are kube-scheduler's.
package main

import (
	"os"
	"syscall"
	"time"

	"k8s.io/component-base/cli"

	"github.com/neap-dev/neap/kube/scheduler"
	"github.com/neap-dev/neap/local/process"
)

func main() {
	if os.Getenv(process.StopWithStdin) != "" {
		process.WatchParent(func() {
			time.AfterFunc(10*time.Second, func() { os.Exit(1) }) // whatever hangs
			_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		})
	}
	os.Exit(cli.Run(scheduler.NewCommand()))
}
