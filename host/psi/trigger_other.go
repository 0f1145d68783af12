//go:build !linux

package psi

import "context"

// A Trigger is armed in the kernel until it is closed.
type Trigger struct{}

// Arm arms a trigger on a pressure file; only Linux has them.
func Arm(string, Threshold) (*Trigger, error) { return nil, ErrDisabled }

// Wait waits until the threshold is crossed.
func (t *Trigger) Wait(context.Context) error { return ErrDisabled }

// Close disarms the trigger.
func (t *Trigger) Close() error { return nil }
