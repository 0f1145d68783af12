// Command neap says where every unit of a Kubernetes bill goes, and why it
// changed. See `neap --help`.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/neap-dev/neap/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the handler goes, so that a second one ends the
	// program at once, should an orderly stop hang.
	context.AfterFunc(ctx, stop)
	os.Exit(cli.Main(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
