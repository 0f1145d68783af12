//go:build !linux

package netbench

import (
	"context"
	"fmt"
	"net"
)

const farAddress = "10.255.77.2"

func measure(context.Context, Options, string, uint64) (Row, error) {
	return Row{}, fmt.Errorf("%w: it is not Linux", ErrUnable)
}

func setPriority(*net.TCPConn, int) error { return ErrUnable }

func sweep() {}
