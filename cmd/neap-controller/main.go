// Command neap-controller watches a cluster, bills it hour by hour, and says so
// in the status of Neap's objects. See `neap-controller --help`.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/neap-dev/neap/kube/controller"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/server"
	"github.com/neap-dev/neap/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	cmd := controller.NewCommand(func(s *store.Store, m metrics.Source) http.Handler {
		return server.New(server.Options{Store: s, Metrics: m})
	})
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "neap-controller: "+err.Error())
		os.Exit(1)
	}
}
