package clusterdir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// ErrInUse is the error of a directory that another process has.
var ErrInUse = errors.New("data directory is in use")

// A Lock is the right to run a cluster on a directory. The kernel takes it
// back when the process ends, however it ends.
type Lock struct{ file *os.File }

type lockNote struct {
	PID      int  `json:"pid"`
	Stopping bool `json:"stopping,omitempty"`
}

// Acquire takes the directory's lock. While the process that has it says that
// it is stopping, Acquire waits for at most patience; a process that runs is
// answered with [ErrInUse] after a second, which covers one that is about to
// notice that its parent is gone.
func (d Dir) Acquire(patience time.Duration) (*Lock, error) {
	path := d.in("lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, explainDisk(fmt.Errorf("open lock: %w", err), string(d))
	}
	began := time.Now()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			l := &Lock{file: file}
			return l, l.write(lockNote{PID: os.Getpid()})
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		holder := readNote(file)
		limit := min(patience, time.Second)
		if holder.Stopping {
			limit = patience
		}
		if time.Since(began) >= limit {
			file.Close()
			return nil, fmt.Errorf("%w: process %d runs a cluster in %s: stop it, or choose another data directory", ErrInUse, holder.PID, d)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Stopping tells whoever waits for the directory that it will soon be free.
func (l *Lock) Stopping() error { return l.write(lockNote{PID: os.Getpid(), Stopping: true}) }

// Release gives the directory back.
func (l *Lock) Release() error { return l.file.Close() }

func (l *Lock) write(n lockNote) error {
	b, err := json.Marshal(n)
	if err == nil {
		err = l.file.Truncate(0)
	}
	if err == nil {
		_, err = l.file.WriteAt(append(b, '\n'), 0)
	}
	if err != nil {
		return fmt.Errorf("write lock: %w", err)
	}
	return nil
}

func readNote(f *os.File) lockNote {
	var n lockNote
	if b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<12)); err == nil {
		_ = json.Unmarshal(b, &n) // half-written: process 0, asked again soon
	}
	return n
}
