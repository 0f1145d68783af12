package runqueue

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// depth is how many levels below a group's directory its threads may be.
const depth = 2

// A sampler reads the threads' schedstat.
type sampler struct {
	proc   string
	groups map[string]*sampled
	buf    []byte
}

type sampled struct {
	seen    map[int]schedstat // by thread
	total   Histogram
	reading int // counts readings, to drop threads that are gone
}

// A schedstat is a thread's file of that name: time it ran is not kept.
type schedstat struct {
	waited  uint64 // nanoseconds
	runs    uint64
	reading int
}

func sample(opts Options) (reader, error) {
	s := &sampler{proc: opts.Proc, groups: map[string]*sampled{}, buf: make([]byte, 64<<10)}
	if _, err := s.thread(filepath.Join(opts.Proc, "self", "schedstat")); err != nil {
		return nil, fmt.Errorf("%w; the kernel needs CONFIG_SCHED_INFO", err)
	}
	return s, nil
}

func (s *sampler) watch(dir string, _ uint64) error {
	g := &sampled{seen: map[int]schedstat{}}
	s.groups[dir] = g
	err := s.look(g, dir)
	g.total = Histogram{} // what threads waited before is not counted
	return err
}

func (s *sampler) forget(dir string, _ uint64) { delete(s.groups, dir) }

func (s *sampler) read(dir string, _ uint64, h *Histogram) error {
	g := s.groups[dir]
	if err := s.look(g, dir); err != nil {
		return fmt.Errorf("read %s: %w", dir, err)
	}
	*h = g.total
	return nil
}

func (s *sampler) Close() error { return nil }

// look takes what every thread of the group waited since the last look as so many
// equal waits as it had.
func (s *sampler) look(g *sampled, dir string) error {
	g.reading++
	if err := s.walk(g, dir, depth); err != nil {
		return err
	}
	for tid, t := range g.seen {
		if t.reading != g.reading {
			delete(g.seen, tid)
		}
	}
	return nil
}

func (s *sampler) walk(g *sampled, dir string, levels int) error {
	tids, err := s.threads(dir)
	if err != nil {
		return err
	}
	for _, tid := range tids {
		now, err := s.thread(filepath.Join(s.proc, strconv.Itoa(tid), "schedstat"))
		if err != nil {
			continue // it ended
		}
		old := g.seen[tid]
		if old.runs > now.runs || old.waited > now.waited {
			old = schedstat{} // another thread has the number now
		}
		if runs := now.runs - old.runs; runs > 0 {
			g.total.add((now.waited-old.waited)/runs, runs)
		}
		now.reading = g.reading
		g.seen[tid] = now
	}
	if levels == 0 {
		return nil
	}
	below, err := os.ReadDir(dir)
	if err != nil {
		return gone(err)
	}
	for _, e := range below {
		if e.IsDir() {
			if err := s.walk(g, filepath.Join(dir, e.Name()), levels-1); err != nil && !errors.Is(err, ErrGone) {
				return err
			}
		}
	}
	return nil
}

// threads returns the threads in dir itself: its file tasks on v1, cgroup.threads on v2.
func (s *sampler) threads(dir string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(dir, "tasks"))
	if errors.Is(err, fs.ErrNotExist) {
		data, err = os.ReadFile(filepath.Join(dir, "cgroup.threads"))
	}
	if err != nil {
		return nil, gone(err)
	}
	var tids []int
	for line := range bytes.Lines(data) {
		if tid, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil {
			tids = append(tids, tid)
		}
	}
	return tids, nil
}

// thread reads a schedstat file: nanoseconds run, nanoseconds waited, runs.
func (s *sampler) thread(file string) (schedstat, error) {
	f, err := os.Open(file)
	if err != nil {
		return schedstat{}, err
	}
	defer f.Close()
	n, err := f.Read(s.buf)
	if err != nil {
		return schedstat{}, err
	}
	return parse(s.buf[:n])
}

func parse(data []byte) (schedstat, error) {
	f := bytes.Fields(data)
	if len(f) < 3 {
		return schedstat{}, fmt.Errorf("schedstat %q has %d fields instead of three", data, len(f))
	}
	waited, err := strconv.ParseUint(string(f[1]), 10, 64)
	if err != nil {
		return schedstat{}, fmt.Errorf("schedstat %q: waited: %w", data, err)
	}
	runs, err := strconv.ParseUint(string(f[2]), 10, 64)
	if err != nil {
		return schedstat{}, fmt.Errorf("schedstat %q: runs: %w", data, err)
	}
	return schedstat{waited: waited, runs: runs}, nil
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("%w (%w)", ErrGone, err)
	}
	return err
}
