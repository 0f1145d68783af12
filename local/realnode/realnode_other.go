//go:build !linux

package realnode

import (
	"context"
	"errors"
)

// A Node is this machine as a node of a cluster; only Linux can be one.
type Node struct{ Name string }

var errLinux = errors.New("only a Linux machine can be made a node of the cluster; leave --join-host out")

// Start says that this is not Linux.
func Start(context.Context, Options) (*Node, error) { return nil, errLinux }

// Stop does nothing.
func (*Node) Stop(context.Context) error { return nil }

// Failed never gets anything.
func (*Node) Failed() <-chan error { return nil }

// Check says that this is not Linux.
func Check(string) error { return errLinux }

// Left says that nothing is left.
func Left() bool { return false }

// Import says that this is not Linux.
func (*Node) Import(context.Context, Image) error { return errLinux }

// Sweep does nothing.
func Sweep() error { return nil }
