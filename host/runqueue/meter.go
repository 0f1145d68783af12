package runqueue

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
)

// A Source says how waits are measured.
type Source string

// The sources of [Options] and [Meter.Source].
const (
	Auto    Source = ""          // Traced where the machine can, else Sampled
	Traced  Source = "ebpf"      // every wait
	Sampled Source = "schedstat" // the mean per thread between two readings
)

var (
	// ErrUnwatched is what reading a group gives that is not watched.
	ErrUnwatched = errors.New("the group is not watched")
	// ErrGone is what reading or watching a group gives whose directory is gone.
	ErrGone = errors.New("the group is gone")
	// ErrFull is what watching one group too many gives.
	ErrFull = errors.New("no more groups can be watched")
)

// Options say how to measure. The zero Options work.
type Options struct {
	Source Source
	Proc   string // where the machine's /proc is; /proc if empty
	Groups int    // how many groups may be watched at once; 1024 if zero
}

// A Meter measures the groups it watches. Its methods may be called from several
// goroutines. Close it.
type Meter struct {
	source Source
	why    string

	mu      sync.Mutex
	reader  reader
	watched map[string]uint64 // directory → its inode, by which the kernel knows it
}

// A reader knows groups by directory and inode.
type reader interface {
	watch(dir string, id uint64) error
	forget(dir string, id uint64)
	read(dir string, id uint64, h *Histogram) error
	io.Closer
}

// Open starts measuring. With [Auto] it fails only where not even /proc tells.
func Open(opts Options) (*Meter, error) {
	opts.Proc = cmp.Or(opts.Proc, "/proc")
	opts.Groups = cmp.Or(opts.Groups, 1024)
	m := &Meter{watched: map[string]uint64{}}
	if opts.Source != Sampled {
		r, err := trace(opts.Groups)
		if err == nil {
			m.reader, m.source = r, Traced
			return m, nil
		}
		if opts.Source == Traced {
			return nil, fmt.Errorf("run-queue delay by eBPF: %w", err)
		}
		m.why = err.Error()
	}
	r, err := sample(opts)
	if err != nil {
		return nil, fmt.Errorf("run-queue delay by /proc: %w", err)
	}
	m.reader, m.source = r, Sampled
	return m, nil
}

// Source returns how m measures, and why not by eBPF if it does not.
func (m *Meter) Source() (source Source, why string) { return m.source, m.why }

// Watch begins to measure the group at dir, from now on. Watching it again does
// nothing, unless another group has taken the directory's place.
func (m *Meter) Watch(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, err := inode(dir)
	if err != nil {
		return err
	}
	if old, ok := m.watched[dir]; ok {
		if old == id {
			return nil
		}
		m.reader.forget(dir, old)
		delete(m.watched, dir)
	}
	if err := m.reader.watch(dir, id); err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	m.watched[dir] = id
	return nil
}

// Forget ends measuring the group at dir; unknown ones are no error.
func (m *Meter) Forget(dir string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if id, ok := m.watched[dir]; ok {
		m.reader.forget(dir, id)
		delete(m.watched, dir)
	}
}

// Read puts into h what the group at dir waited since it is watched.
func (m *Meter) Read(dir string, h *Histogram) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, ok := m.watched[dir]
	if !ok {
		return fmt.Errorf("read %s: %w", dir, ErrUnwatched)
	}
	return m.reader.read(dir, id, h)
}

// Close ends measuring and takes the program out of the kernel.
func (m *Meter) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.watched)
	return m.reader.Close()
}

// inode returns the number of dir, which is the identity of its group in the kernel.
func inode(dir string) (uint64, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return 0, fmt.Errorf("watch %s: %w", dir, ErrGone)
		}
		return 0, fmt.Errorf("watch %s: %w", dir, err)
	}
	return st.Ino, nil
}
