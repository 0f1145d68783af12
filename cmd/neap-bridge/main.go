// Command neap-bridge serves what ElasticPolicies foresee as external metrics, for
// those who keep their HorizontalPodAutoscaler. See `neap-bridge --help`.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/neap-dev/neap/kube/bridge"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := bridge.NewCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "neap-bridge: "+err.Error())
		os.Exit(1)
	}
}
