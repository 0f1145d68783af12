//go:build !linux

package interference

import (
	"errors"
	"net/netip"
	"os/exec"
	"time"
)

// Elsewhere than on Linux there are no groups to measure with; New says so, and
// this only makes the program build.

var errLinux = errors.New("measuring colocation needs Linux")

type monotonic struct{ at time.Time }

func newMonotonic() monotonic { return monotonic{time.Now()} }

func (m monotonic) now() int64 { return int64(time.Since(m.at)) }

func sleepUntil(int64) {}

func realTime() error { return errLinux }

// SetSlice needs Linux 6.12.
func SetSlice(int, time.Duration) error { return errLinux }

var errAgain = errors.New("again")

type rawConn struct{}

func dialRaw(netip.AddrPort) (rawConn, error) { return rawConn{}, errLinux }

func (rawConn) read([]byte) (int, error)  { return 0, errLinux }
func (rawConn) write([]byte) (int, error) { return 0, errLinux }

func own(*exec.Cmd) {}
