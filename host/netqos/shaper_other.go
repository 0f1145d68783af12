//go:build !linux

package netqos

import "time"

// A Shaper shapes one machine's network; only Linux has what it needs.
type Shaper struct{}

// Open is [ErrAbsent] here.
func Open(Options) (*Shaper, error) { return nil, ErrAbsent }

// SetBatch is [ErrAbsent] here.
func (*Shaper) SetBatch([]string) ([]Blind, error) { return nil, ErrAbsent }

// Step is [ErrAbsent] here.
func (*Shaper) Step(time.Duration) (Use, error) { return Use{}, ErrAbsent }

// Interface returns nothing here.
func (*Shaper) Interface() (name string, bits int64) { return "", 0 }

// Close does nothing here.
func (*Shaper) Close() error { return nil }

// Restore does nothing here.
func Restore(string) error { return nil }

// Bound does nothing here.
func Bound(string) error { return nil }
