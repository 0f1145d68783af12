//go:build !linux

package runqueue

import (
	"errors"
	"sync/atomic"
)

type nudger struct{ count atomic.Uint64 }

func nudge() (*nudger, error) { return nil, errors.New("only Linux can be") }

func (*nudger) close() error { return nil }
