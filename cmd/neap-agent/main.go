// Command neap-agent tells the cluster what GPUs a machine has, and hands pods
// their pieces of them. See `neap-agent --help`.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/neap-dev/neap/host/agent"
	"github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/host/device/nvml"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	cmd := agent.NewCommand(func(library, smi string) device.Finder {
		return device.FirstOf(&nvml.NVML{Path: library}, device.SMI{Path: smi})
	})
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "neap-agent: "+err.Error())
		os.Exit(1)
	}
}
