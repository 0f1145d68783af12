// Package dirlock keeps a directory for one process: a second one is told, and
// the lock goes with the process that holds it, however that ends.
package dirlock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// ErrHeld says that another process holds the lock.
var ErrHeld = errors.New("another process has it open")

// A Lock is held until [Lock.Release] or the end of the process.
type Lock struct{ f *os.File }

// Acquire locks dir, which must exist, by its file "lock". It does not wait.
func Acquire(dir string) (*Lock, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if cErr := f.Close(); cErr != nil {
			return nil, cErr
		}
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrHeld
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return &Lock{f}, nil
}

// Release gives the lock back. The file stays: removing it would race with the
// next holder.
func (l *Lock) Release() error { return l.f.Close() }
