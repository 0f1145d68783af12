// Command neap-cluster runs etcd, kube-apiserver and kube-controller-manager
// in one process, for a Kubernetes cluster on one machine.
//
//	neap-cluster --dir DIR [--port N] [--v N]
//
// It prints one JSON object a line on standard output: each component that is
// up, then {"ready":true,"url":…}, or {"error":…,"cause":…}. Logs go to
// standard error. It stops on SIGTERM and SIGINT, and, with --stop-with-stdin,
// when its standard input ends, which is how it notices that the program that
// started it is gone.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/neap-dev/neap/local/allinone"
	"github.com/neap-dev/neap/local/clusterdir"
	"github.com/neap-dev/neap/local/process"
)

func main() { os.Exit(run()) }

func run() int {
	var o allinone.Options
	flag.StringVar(&o.Dir, "dir", "", "data directory (required)")
	flag.IntVar(&o.Port, "port", 0, "port of the API server on 127.0.0.1; 0 keeps the last one or chooses a free one")
	flag.IntVar(&o.Verbose, "v", 0, "verbosity of the log")
	stdin := flag.Bool("stop-with-stdin", false, "stop when standard input ends")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if *stdin {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		process.WatchParent(cancel)
	}
	// Whatever hangs, the process ends soon after it was asked to.
	context.AfterFunc(ctx, func() {
		time.AfterFunc(15*time.Second, func() { os.Exit(1) })
	})

	out := json.NewEncoder(os.Stdout)
	o.Report = func(s clusterdir.Status) { _ = out.Encode(s) } // nobody reads: run on
	if err := allinone.Run(ctx, o); err != nil {
		s := clusterdir.Status{Error: err.Error(), Cause: clusterdir.CauseOther}
		var known *allinone.Error
		if errors.As(err, &known) {
			s.Cause = known.Cause
		}
		o.Report(s)
		return 1
	}
	return 0
}
